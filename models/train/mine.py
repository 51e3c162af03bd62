"""Stage `mine`: for every question the passages that BM25, the embedder and SPLADE find, scored by all teachers.

Test gold passages and their near-duplicates are never candidates. What this stage leaves is checked once more, with
negatives, and a find ends it with 1.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, best
from .build import read_built
from .collection import Passage
from .command import Folders, command
from .contamination import Barred, check
from .corpora import corpus, is_free
from .encode import Encoded, encode_texts
from .questions import TrainingQuestion

OF_EACH = 16
"""So many candidates of each of the three searches; their union is kept."""
ALL, LEXICAL = "mined", "mined-lexically"
"""Folders of what was mined by all searches and by BM25 alone."""
SEARCHED = ("scifact", "feedbackqa", "nq-open-gold", "squad-mid", "documentation")


@dataclass(frozen=True)
class Candidates:
    """Scored candidates of one question."""

    places: NDArray[np.int32]
    """`[candidates]`: places in the collection's passages, positives first."""
    positives: int
    scores: NDArray[np.float32]
    """`[candidates, 4]`: cosine, MaxSim, SPLADE, BM25."""


def teacher_scores(
    question: int, questions: Encoded, passages: Encoded, places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """`[places, 3]`: cosine, MaxSim as a mean over the query's tokens, SPLADE's dot product."""
    cosine = passages.dense[places] @ questions.dense[question]
    sparse_scores = (passages.terms[places] @ questions.terms[question].T).toarray().ravel()
    states = questions.states(question)
    max_sim = [(passages.states(int(place)) @ states.T).max(axis=0, initial=-1.0).mean() for place in places]
    return np.stack([cosine, np.asarray(max_sim, dtype=np.float32), sparse_scores], axis=1)


def found_by_all(
    question: int, questions: Encoded, passages: Encoded, lexical: NDArray[np.float32], allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Union of the three searches' best, in the order of places; `lexical` is BM25's score of every passage."""
    dense = passages.dense @ questions.dense[question]
    learned = (passages.terms @ questions.terms[question].T).toarray().ravel()
    searches = (lexical * allowed, np.where(allowed, dense, 0.0), learned * allowed)
    return np.unique(np.concatenate([best(scores, OF_EACH) for scores in searches]))


def mine_lexically(
    asked: Sequence[TrainingQuestion], held: Sequence[Passage], allowed: NDArray[np.bool_]
) -> list[Candidates]:
    """Candidates by BM25 alone, all other scores 0: for a first attempt before anything is encoded."""
    index = Bm25([passage.written for passage in held])
    place_of = {passage.id: place for place, passage in enumerate(held)}
    mined = []
    for question in asked:
        positives = np.asarray([place_of[id_] for id_ in question.positives])
        lexical = index.scores(question.text)
        found = np.setdiff1d(best(lexical * allowed, 2 * OF_EACH), positives)
        places = np.concatenate([positives, found])
        scores = np.zeros((len(places), 4), dtype=np.float32)
        scores[:, 3] = lexical[places]
        mined.append(Candidates(places.astype(np.int32), len(positives), scores))
    return mined


def mine(
    asked: Sequence[TrainingQuestion], held: Sequence[Passage], allowed: NDArray[np.bool_], folders: Folders
) -> list[Candidates]:
    """The candidates of the questions of one collection, by all three searches."""
    name = asked[0].corpus
    folder = folders.encoded / f"questions-{name}"
    encode_texts([question.text for question in asked], folders.models, folder)
    questions, passages = Encoded.load(folder), Encoded.load(folders.encoded / name)
    index = Bm25([passage.written for passage in held])
    place_of = {passage.id: place for place, passage in enumerate(held)}
    mined = []
    for number, question in enumerate(asked):
        positives = np.asarray([place_of[id_] for id_ in question.positives])
        lexical = index.scores(question.text)
        found = found_by_all(number, questions, passages, lexical, allowed)
        places = np.concatenate([positives, np.setdiff1d(found, positives)])
        scores = teacher_scores(number, questions, passages, places)
        scores = np.concatenate([scores, lexical[places, None]], axis=1).astype(np.float32)
        mined.append(Candidates(places.astype(np.int32), len(positives), scores))
    return mined


def save(mined: Sequence[Candidates], path: Path) -> None:
    """Writes the candidates of one collection's questions, one after the other."""
    np.savez(
        path,
        places=np.concatenate([c.places for c in mined]),
        scores=np.concatenate([c.scores for c in mined]),
        positives=np.asarray([c.positives for c in mined]),
        counts=np.asarray([len(c.places) for c in mined]),
    )


def read_mined(path: Path) -> list[Candidates]:
    """What `save` wrote."""
    file = np.load(path)
    ends = np.cumsum(file["counts"])
    places, scores = np.split(file["places"], ends[:-1]), np.split(file["scores"], ends[:-1])
    return [Candidates(p, int(n), s) for p, n, s in zip(places, file["positives"], scores, strict=True)]


def _missing(mined: Path, asked: Sequence[TrainingQuestion], encoded: Path | None) -> str:
    """Why a collection is not mined; empty if it is to be."""
    if mined.exists():
        return "mined before"
    if not asked:
        return "no questions"
    return "" if encoded is None or (encoded / "terms.npz").exists() else "not encoded"


def main() -> None:
    """Mines every collection whose passages are encoded; says which are not."""
    parser = command(__doc__)
    parser.add_argument("--lexical", action="store_true", help="by BM25 alone, before anything is encoded")
    lexical = parser.parse_args().lexical
    given = Folders.of(parser.parse_args())
    mined_in = given.out / (LEXICAL if lexical else ALL)
    barred = Barred.read(given.corpora)
    built = read_built(given.out)
    mined_in.mkdir(parents=True, exist_ok=True)
    for name in SEARCHED:
        path = mined_in / f"{name}.npz"
        asked = [question for question in built if question.corpus == name]
        missing = _missing(path, asked, None if lexical else given.encoded / name)
        if missing:
            print(f"{name}: {missing}, left out", flush=True)
            continue
        held = corpus(name).passages(given.corpora)
        allowed = np.asarray([is_free(name, p.id) and not barred.bars_passage(p.text) for p in held])
        mined = mine_lexically(asked, held, allowed) if lexical else mine(asked, held, allowed, given)
        used = sorted({int(place) for candidates in mined for place in candidates.places})
        found = check([q.text for q in asked], [held[place].text for place in used], barred)
        print(f"{name}: {sum(len(c.places) for c in mined)} candidates; {found.report(barred)}", flush=True)
        if not found.is_clean:
            sys.exit(1)
        save(mined, path)


if __name__ == "__main__":
    main()
