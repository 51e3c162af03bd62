"""The collections: where each lies under the corpora folder and which of its questions are for what.

`unseen` collections are never trained on, neither their questions nor their passages: they count most.
"""

from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from .collection import Passage, Qrels, read_passages, read_qrels
from .halves import Half, is_dev, is_tuning

PAGES_OF_256 = 31
"""Of 256 pages of documentation so many are used: about 12,000 passages of 100,000."""
NOT_FREE = ("feedbackqa", "WHO-")
"""Collection and prefix of the passages whose licence forbids commercial use: nothing is learned from them."""
ARTICLES_OF_256 = 64
"""Of 256 articles of squad-mid without labels so many are used, beside all that have labels."""


@dataclass(frozen=True)
class Corpus:
    """One collection."""

    name: str
    folder: str
    test_split: str | None = "test"
    """Split with labels; `None`: passages without questions."""
    train_split: str | None = None
    """Split for tuning; `None`: a half of `test_split` by the hash of the question id."""
    unseen: bool = False
    wholly_tuning: bool = False
    """True if no question of it is ever reported."""
    dev_only: bool = False
    """True if the tuning half is kept from training as a whole."""

    def passages(self, corpora: Path) -> list[Passage]:
        """The passages that are searched here: all, but of the two large collections a part by hash of the page."""
        if self.name == "documentation":
            used = (p for p in read_passages(corpora / self.folder) if _hash(_page(p)) < PAGES_OF_256)
            return [Passage(p.id, "", p.text, heading=p.title) for p in used]
        passages = read_passages(corpora / self.folder / "corpus.jsonl")
        if self.name != "squad-mid":
            return passages
        labelled = {
            _article(passage)
            for grades in read_qrels(corpora / self.folder / "qrels/test.tsv").values()
            for passage in grades
        }
        return [p for p in passages if _article(p.id) in labelled or _hash(_article(p.id)) < ARTICLES_OF_256]

    def qrels(self, corpora: Path, half: Half) -> Qrels:
        """The labels of one part of the questions."""
        if self.test_split is None:
            return {}
        folder = corpora / self.folder / "qrels"
        reported = read_qrels(folder / f"{self.test_split}.tsv")
        if self.unseen:
            return reported if half is Half.TEST else {}
        if self.train_split is not None:
            tuning = read_qrels(folder / f"{self.train_split}.tsv")
        elif self.wholly_tuning:
            tuning, reported = reported, {}
        else:
            tuning = {q: grades for q, grades in reported.items() if is_tuning(q)}
            reported = {q: grades for q, grades in reported.items() if not is_tuning(q)}
        if half is Half.TEST:
            return reported
        keep_dev = half is Half.DEV
        return {q: grades for q, grades in tuning.items() if (self.dev_only or is_dev(q)) == keep_dev}


def is_free(name: str, passage_id: str) -> bool:
    """True if a passage of that collection may be learned from, by its licence."""
    return not (name == NOT_FREE[0] and passage_id.startswith(NOT_FREE[1]))


def _page(passage: Passage) -> str:
    return f"{passage.id.partition('/')[0]}/{passage.title.partition(' - ')[0]}"


def _article(passage_id: str) -> str:
    return passage_id.partition("#")[0]


def _hash(name: str) -> int:
    return blake3(name.encode()).digest()[0]


CORPORA = (
    Corpus("feedbackqa", "retrieval/feedbackqa"),
    Corpus("nq-open-gold", "rag/nq-open-gold", wholly_tuning=True),
    Corpus("scifact", "retrieval/scifact", train_split="train"),
    Corpus("squad-mid", "retrieval/squad-mid", dev_only=True),
    Corpus("hotpotqa-mini", "rag/hotpotqa-mini", unseen=True),
    Corpus("musique-mini", "rag/musique-mini", unseen=True),
    Corpus("documentation", "load/passages-100k.jsonl.gz", test_split=None),
)


def corpus(name: str) -> Corpus:
    """The collection of that name."""
    return next(corpus for corpus in CORPORA if corpus.name == name)
