"""The halves are those of plumb's evals."""

from train.halves import is_tuning


def test_the_halves_are_those_that_the_evals_recorded() -> None:
    # Recorded in `src/eval/collection.rs`: another split would train on what is reported.
    ids = ("1", "3", "WHO-q0", "56beb4343aeaaa14008c925b")

    assert [is_tuning(id_) for id_ in ids] == [True, True, True, False]
