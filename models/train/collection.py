"""Labelled collections in the BEIR layout (Thakur et al., NeurIPS 2021), and plain passage files.

The texts are read from where the caller says and never written into the repository.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Qrels = dict[str, dict[str, int]]
"""Question id -> passage id -> grade; above 0 is relevant."""


@dataclass(frozen=True)
class Passage:
    """A passage of a collection."""

    id: str
    title: str
    text: str
    heading: str = ""
    """A title that models do not read, because questions are made of it."""

    @property
    def written(self) -> str:
        """What every model reads: the title on a line of its own, as plumb's search gives it to rerankers."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class Question:
    """A query of a collection; `answers` is empty where none are given."""

    id: str
    text: str
    answers: tuple[str, ...] = ()


def json_lines(path: Path) -> Iterator[dict]:
    """The objects of a JSON-lines file, plain or gzipped."""
    read = gzip.open if path.suffix == ".gz" else open
    with read(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def read_passages(path: Path) -> list[Passage]:
    """All passages, in the order of the file."""
    return [Passage(row["_id"], row.get("title") or "", row["text"]) for row in json_lines(path)]


def read_questions(path: Path) -> dict[str, Question]:
    """All questions by id, also those without labels."""
    rows = json_lines(path)
    questions = (
        Question(row["_id"], row["text"], tuple((row.get("metadata") or {}).get("answers") or ())) for row in rows
    )
    return {question.id: question for question in questions}


def read_qrels(path: Path) -> Qrels:
    """The labels of one split. The layout prescribes a header line."""
    qrels: Qrels = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if line:
            question, passage, grade = line.split("\t")[:3]
            qrels.setdefault(question, {})[passage] = int(grade)
    return qrels
