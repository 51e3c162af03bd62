"""Stage `evaluate`: a candidate against doing nothing, the cosine and the SPLADE + cosine rescorer.

Chooses on `--half dev`; `--half test` is for the end. Here whole passages are ranked: plumb's own evals, which chunk,
fuse and gate, are what counts.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, best
from .collection import Passage, Qrels, Question, read_questions
from .command import command
from .corpora import CORPORA, Corpus
from .encode import Encoded, encode_texts
from .halves import Half
from .metrics import interval, ndcg
from .mine import teacher_scores
from .scorers import Scorer, choose, chosen, graph_file
from .stopping import standard

DEPTH = 100
RRF_K = 60
HYBRID_FIRST = 20
BLEND = 0.7
"""Weight of the reranker where its scores are mixed with the first stage's."""
SHARE = 0.3
"""Weight of the reranker where it is mixed with SPLADE + cosine."""
WITH_BM25_ALONE = ("scifact",)

Measured = dict[str, NDArray[np.float64]]
"""By what ranked: nDCG@10 of every question."""


@dataclass(frozen=True)
class Head:
    """The first passages of one question, best first."""

    question: Question
    grades: dict[str, int]
    places: NDArray[np.int64]
    fused: NDArray[np.float32]
    teacher: NDArray[np.float32]
    """`[places, 3]`: cosine, MaxSim, SPLADE."""


def fused(searches: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): places, best first, with scores."""
    scores: dict[int, float] = {}
    for search in searches:
        for rank, place in enumerate(search, start=1):
            scores[int(place)] = scores.get(int(place), 0.0) + 1.0 / (RRF_K + rank)
    order = sorted(scores, key=lambda place: (-scores[place], place))
    return np.asarray(order), np.asarray([scores[place] for place in order], dtype=np.float32)


def heads(
    qrels: Qrels, questions: dict[str, Question], held: Sequence[Passage], folders: tuple[Path, Path], first_stage: str
) -> list[Head]:
    """The head of every question in `qrels`: of the hybrid its first 20, of BM25 its first 100."""
    asked, passages = Encoded.load(folders[0]), Encoded.load(folders[1])
    index = Bm25([passage.written for passage in held])
    found = []
    for number, (id_, grades) in enumerate(qrels.items()):
        lexical = index.scores(questions[id_].text)
        places = best(lexical, DEPTH)
        scores = lexical[places]
        if first_stage == "hybrid":
            dense = best(passages.dense @ asked.dense[number], DEPTH)
            places, scores = fused([places, dense])
            places, scores = places[:HYBRID_FIRST], scores[:HYBRID_FIRST]
        teacher = teacher_scores(number, asked, passages, places)
        found.append(Head(questions[id_], grades, places, scores, teacher))
    return found


def baselines(head: Head) -> dict[str, NDArray[np.float32]]:
    """Scores of the head by what needs no training."""
    cosine, max_sim, sparse = (standard(column) for column in head.teacher.T)
    return {
        "off": head.fused,
        "cosine": cosine,
        "SPLADE + cosine": cosine + sparse,
        "cosine + MaxSim + SPLADE": cosine + max_sim + sparse,
    }


def ranking(head: Head, scores: NDArray[np.float32], held: Sequence[Passage], itself: str) -> list[str]:
    """Passage ids by score, ties as the first stage had them; a question is never its own answer."""
    order = np.argsort(-scores, kind="stable")
    return [id_ for place in head.places[order] if (id_ := held[place].id) != itself]


def measure(heads_: Sequence[Head], held: Sequence[Passage], score: Scorer | None) -> Measured:
    """nDCG@10 of every question, by what ranked."""
    found: dict[str, list[float]] = {}
    for head in heads_:
        scored = baselines(head)
        if score is not None:
            ours = score(head.question.text, [held[place].written for place in head.places])
            scored["reranked"] = ours
            scored["reranked, blended"] = BLEND * standard(ours) + (1 - BLEND) * standard(head.fused)
            both = SHARE * standard(ours) + (1 - SHARE) * standard(scored["SPLADE + cosine"])
            scored["with SPLADE + cosine"] = both
            scored["with SPLADE + cosine, blended"] = BLEND * standard(both) + (1 - BLEND) * standard(head.fused)
        for name, scores in scored.items():
            ids = ranking(head, scores, held, head.question.id)
            found.setdefault(name, []).append(ndcg(ids, head.grades))
    return {name: np.asarray(values) for name, values in found.items()}


def table(name: str, measured: Measured) -> list[str]:
    """A line for each ranker, with the paired difference to the first stage."""
    rows = []
    for ranker, values in measured.items():
        low, high = interval(values - measured["off"])
        gain = f"{(values - measured['off']).mean():+.4f} [{low:+.4f}, {high:+.4f}]"
        rows.append(f"| {name} | {len(values)} | {ranker} | {values.mean():.4f} | {gain} |")
    return rows


def evaluate(corpus: Corpus, given: argparse.Namespace, score: Scorer | None) -> dict[str, Measured]:
    """All first stages of one collection; empty if it has no question in this half or is not encoded."""
    half = Half(given.half)
    qrels = corpus.qrels(given.corpora, half)
    qrels = dict(sorted(qrels.items(), key=lambda item: item[0][::-1])[: given.most])
    encoded = given.out / "encoded"
    if not qrels or not (encoded / corpus.name / "terms.npz").exists():
        return {}
    questions = read_questions(given.corpora / corpus.folder / "queries.jsonl")
    asked = encoded / f"{half.value}-{given.most}-{corpus.name}"
    encode_texts([questions[id_].text for id_ in qrels], given.models, asked)
    held = corpus.passages(given.corpora)
    stages = ["hybrid"] + (["BM25"] if corpus.name in WITH_BM25_ALONE and given.bm25 else [])
    return {
        stage: measure(heads(qrels, questions, held, (asked, encoded / corpus.name), stage), held, score)
        for stage in stages
    }


def main() -> None:
    """Prints the table and appends the means to `evaluations.jsonl`."""
    parser = command(__doc__)
    choose(parser)
    parser.add_argument("--half", choices=["dev", "test"], default="dev")
    parser.add_argument("--most", type=int, default=10**6, help="questions of each collection")
    parser.add_argument("--only", nargs="*", help="collections; left out: all")
    parser.add_argument("--bm25", action="store_true", help="also rerank BM25's first 100 of scifact")
    given = parser.parse_args()
    graph_file(parser, given)
    score = chosen(given)
    print("| collection | questions | ranked by | nDCG@10 | to the first stage |\n|---|---|---|---|---|", flush=True)
    means: dict[str, list[float]] = {}
    for corpus in CORPORA:
        if given.only and corpus.name not in given.only:
            continue
        for stage, measured in evaluate(corpus, given, score).items():
            name = corpus.name if stage == "hybrid" else f"{corpus.name}, {stage} top {DEPTH}"
            print("\n".join(table(name, measured)), flush=True)
            for ranker, values in measured.items():
                if stage == "hybrid":
                    means.setdefault(ranker, []).append(float(values.mean()))
    for ranker, values in means.items():
        gain = np.mean(values) - np.mean(means["off"])
        print(f"| mean of {len(values)} | | {ranker} | {np.mean(values):.4f} | {gain:+.4f} |")
    candidate = given.candidate.stem if given.candidate else None
    row = {"candidate": candidate, "half": given.half, "most": given.most, "graph": given.graph, "means": means}
    with (given.out / "evaluations.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
