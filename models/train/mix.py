"""Stage `mix`: how a candidate is best mixed with the rescorer and the first stage, on dev questions.

As plumb does it: `share · z(candidate) + (1 - share) · z(SPLADE + cosine)`, mapped onto 0 to 1 over the head and
blended with the fused scores, which are mapped alike. The first stage is plumb's convex fusion.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, best
from .collection import Passage, read_questions
from .command import command
from .corpora import CORPORA, Corpus
from .encode import Encoded, encode_texts
from .evaluate import BLEND, DEPTH, HYBRID_FIRST, SHARE
from .halves import Half
from .metrics import ndcg
from .mine import teacher_scores
from .scorers import Scorer, choose, chosen, graph_file
from .stopping import read_head, standard

LEXICAL_WEIGHT = 0.7
SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
BLENDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
SHOWN = (5, 10, HYBRID_FIRST)
MOST = (8, 10, 12, HYBRID_FIRST)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """The head of one question with every score of it."""

    ids: list[str]
    itself: str
    grades: dict[str, int]
    fused: Floats
    rescored: Floats
    ours: Floats


def unit(values: Floats) -> Floats:
    """Onto 0 to 1; all 1 without spread."""
    width = float(values.max() - values.min())
    return (values - values.min()) / width if width > 0 else np.ones_like(values)


def convex(lexical: Floats, dense: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The first places by plumb's fusion (Bruch, Gai and Ingber, TOIS 2023), with scores."""
    total = np.zeros(len(lexical), dtype=np.float32)
    for scores, weight, floor in ((lexical, LEXICAL_WEIGHT, 0.0), (dense, 1 - LEXICAL_WEIGHT, None)):
        places = best(scores, DEPTH)
        least = float(scores[places].min()) if floor is None else floor
        total[places] += weight * (scores[places] - least) / max(float(scores[places].max()) - least, 1e-9)
    places = best(total, HYBRID_FIRST)
    return places, total[places]


def scored(corpus: Corpus, given: argparse.Namespace, score: Scorer) -> list[Scored]:
    """Every dev question's head; empty if there is none."""
    qrels = corpus.qrels(given.corpora, Half.DEV)
    qrels = dict(sorted(qrels.items(), key=lambda item: item[0][::-1])[: given.most])
    folder = given.out / "encoded" / corpus.name
    if not qrels or not (folder / "terms.npz").exists():
        return []
    questions = read_questions(given.corpora / corpus.folder / "queries.jsonl")
    asking = given.out / "encoded" / f"{Half.DEV.value}-{given.most}-{corpus.name}"
    encode_texts([questions[id_].text for id_ in qrels], given.models, asking)
    held: list[Passage] = corpus.passages(given.corpora)
    asked, passages = Encoded.load(asking), Encoded.load(folder)
    index = Bm25([passage.written for passage in held])
    found = []
    for number, (id_, grades) in enumerate(qrels.items()):
        text = questions[id_].text
        places, fused = convex(index.scores(text), passages.dense @ asked.dense[number])
        cosine, _, sparse = (standard(column) for column in teacher_scores(number, asked, passages, places).T)
        ours = score(text, [held[place].written for place in places])
        ids = [held[place].id for place in places]
        found.append(Scored(ids, id_, grades, fused, cosine + sparse, ours))
    return found


def mean_ndcg(heads: Sequence[Scored], share: float, blend: float) -> float:
    """Mean nDCG@10 of one mixture."""
    whole = [read_head(head.ours, head.rescored, share, HYBRID_FIRST, HYBRID_FIRST).mixed for head in heads]
    return float(np.mean([blended(head, mixed, blend) for head, mixed in zip(heads, whole, strict=True)]))


def blended(head: Scored, mixed: Floats, blend: float) -> float:
    """nDCG@10 of one head by mixed scores, blended with those of the first stage."""
    final = blend * unit(mixed) + (1 - blend) * unit(head.fused)
    order = np.argsort(-final, kind="stable")
    return ndcg([id_ for place in order if (id_ := head.ids[place]) != head.itself], head.grades)


def stopped(heads: Sequence[Scored], shown: int, most: int) -> tuple[float, float]:
    """Mean nDCG@10 at the shipped share and blend where reading stops early, and how many of a head were read."""
    reads = [read_head(head.ours, head.rescored, SHARE, shown, most) for head in heads]
    values = [blended(head, read.mixed, BLEND) for head, read in zip(heads, reads, strict=True)]
    return float(np.mean(values)), float(np.mean([read.read for read in reads]))


def main() -> None:
    """Prints nDCG@10 by share and blend, for each collection and on average."""
    parser = command(__doc__)
    choose(parser)
    parser.add_argument("--most", type=int, default=10**6, help="questions of each collection")
    given = parser.parse_args()
    graph_file(parser, given)
    score = chosen(given)
    if score is None:
        parser.error("--candidate or --graph is needed")
    tables, ends = [], []
    for corpus in CORPORA:
        heads = scored(corpus, given, score)
        if heads:
            tables.append([[mean_ndcg(heads, share, blend) for blend in BLENDS] for share in SHARES])
            tell(f"{corpus.name}, {len(heads)} questions", np.asarray(tables[-1]))
            ends.append([[stopped(heads, shown, most) for most in MOST] for shown in SHOWN])
    tell(f"mean of {len(tables)}", np.mean(tables, axis=0))
    print(f"\nshare {SHARE}, blend {BLEND}; nDCG@10 and passages read, where so many at most are: {MOST}")
    for shown, row in zip(SHOWN, np.mean(ends, axis=0), strict=True):
        cells = "  ".join(f"{value:.4f} ({read:.1f})" for value, read in row)
        print(f"the first {shown:2} count: {cells}", flush=True)


def tell(name: str, values: NDArray[np.float64]) -> None:
    """One table: a row a share, a column a blend."""
    print(f"\n{name}; blend: " + "  ".join(f"{blend:6.1f}" for blend in BLENDS))
    for share, row in zip(SHARES, values, strict=True):
        print(f"share {share:.1f}: " + "  ".join(f"{value:.4f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
