"""What counts as the same text."""

from train.fingerprint import Duplicates

GOLD = "The first Nobel Prize in Physics was awarded in 1901 to Wilhelm Conrad Röntgen, of Germany."


def test_case_space_and_punctuation_do_not_hide_a_text() -> None:
    assert Duplicates(["Who got the prize?"]).is_exact("who  got the PRIZE")


def test_a_cut_passage_still_counts_as_its_whole() -> None:
    assert Duplicates([GOLD + " It was the first of many prizes given in Sweden."]).is_near(GOLD[:60])


def test_another_text_on_the_same_matter_does_not_count() -> None:
    assert not Duplicates([GOLD]).is_near("Röntgen was the first to get the Nobel Prize in Physics, in the year 1901.")
