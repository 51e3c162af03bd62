"""Stage `teach`: what each list should look like: the ensemble's scores, mixed with the labels, false negatives out.

The ensemble is the sum of cosine, MaxSim and SPLADE, each in units of its own spread within lists: only differences
within a list count, as in margin-MSE (Hofstätter et al., 2020), and none of the three drowns the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .build import read_built
from .command import command
from .corpora import corpus
from .mine import SEARCHED, Candidates, read_mined
from .questions import TrainingQuestion, holds_answer
from .settings import Settings, Teaching

FEWEST_NEGATIVES = 3


@dataclass(frozen=True)
class TaughtList:
    """One question with its candidates."""

    question: TrainingQuestion
    places: NDArray[np.int32]
    """`[candidates]`, places in the collection's passages: one positive, then negatives, hardest first."""
    teacher: NDArray[np.float32]
    """`[candidates]`: the ensemble's scores, in standard deviations."""


def spreads(mined: Sequence[Candidates]) -> NDArray[np.float32]:
    """`[4]`: mean over the lists of each teacher's standard deviation within a list."""
    return np.maximum(np.mean([candidates.scores.std(axis=0) for candidates in mined], axis=0), 1e-6)


def ensemble(scores: NDArray[np.float32], spread: NDArray[np.float32], teaching: Teaching) -> NDArray[np.float32]:
    """`[candidates, 4]` to `[candidates]`, in standard deviations of the weighted mean."""
    weights = np.asarray([teaching.cosine, teaching.max_sim, teaching.sparse, teaching.bm25], dtype=np.float32)
    return (scores / spread) @ (weights / weights.sum())


def taught(
    question: TrainingQuestion, candidates: Candidates, texts: Sequence[str], scores: NDArray[np.float32], margin: float
) -> list[TaughtList]:
    """A list for each positive; none if too few negatives are left. `scores` are the ensemble's."""
    lists = []
    for positive in range(candidates.positives):
        negatives = [
            place
            for place in range(candidates.positives, len(scores))
            if not holds_answer(texts[candidates.places[place]], question.answers)
            and scores[place] < scores[positive] + margin
        ]
        if len(negatives) >= FEWEST_NEGATIVES:
            order = np.asarray([positive, *sorted(negatives, key=lambda place: -scores[place])])
            lists.append(TaughtList(question, candidates.places[order], scores[order]))
    return lists


def teach(corpora: Path, out: Path, settings: Settings) -> list[TaughtList]:
    """The lists of all collections that are mined."""
    built = read_built(out)
    lists: list[TaughtList] = []
    for name in SEARCHED:
        path = out / settings.teaching.mined / f"{name}.npz"
        if not path.exists():
            print(f"{name}: not mined, left out", flush=True)
            continue
        mined = read_mined(path)
        asked = [question for question in built if question.corpus == name]
        texts = [passage.text for passage in corpus(name).passages(corpora)]
        spread = spreads(mined)
        for question, candidates in zip(asked, mined, strict=True):
            scores = ensemble(candidates.scores, spread, settings.teaching)
            lists += taught(question, candidates, texts, scores, settings.teaching.false_negative_margin)
    return lists


def main() -> None:
    """Prints what the teacher and the filters do to each kind of question."""
    parser = command(__doc__)
    parser.add_argument("--candidate", type=Path, required=True)
    given = parser.parse_args()
    lists = teach(given.corpora, given.out, Settings.read(given.candidate))
    by_kind: dict[tuple[str, str], list[TaughtList]] = {}
    for item in lists:
        by_kind.setdefault((item.question.corpus, item.question.kind), []).append(item)
    for (name, kind), found in by_kind.items():
        first = np.mean([item.teacher[0] >= item.teacher[1:].max() for item in found])
        negatives = np.mean([len(item.places) - 1 for item in found])
        print(f"{name} {kind}: {len(found)} lists, {negatives:.1f} negatives; teacher: positive first in {first:.0%}")


if __name__ == "__main__":
    main()
