"""Questions to learn from: where each kind comes from and what its positives are."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bm25 import Bm25, best
from .collection import Passage, Qrels, Question, read_questions
from .corpora import corpus
from .fingerprint import normalized
from .halves import Half

LOCATE_AMONG = 3
"""A passage counts as a question's source if it holds an answer and BM25 ranks it among so many of all."""
WORDS_OF_HEADINGS = range(2, 13)
MOST_OF_A_HEADING = 2
"""A heading that more passages bear says nothing about any of them."""
MOST_OF_AN_IDENTIFIER = 4
SHORTEST_PASSAGE = 200
"""Characters: shorter passages are rarely an answer."""

# CamelCase, snake_case, mixedCase.
_IDENTIFIER = re.compile(
    r"\b(?:[A-Z][a-z0-9]*(?:[A-Z][a-z0-9]+)+|[a-z]+[a-z0-9]*(?:_[a-z0-9]+)+|[a-z]+(?:[A-Z][a-z]+)+)\b"
)
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class TrainingQuestion:
    """A query with the passages that answer it."""

    id: str
    kind: str
    """Which maker below made it: shares of labels and filters differ by kind."""
    corpus: str
    text: str
    positives: tuple[str, ...]
    """Passage ids."""
    answers: tuple[str, ...] = ()
    """Strings of which an answering passage holds one; empty where unknown."""
    untitled: bool = False
    """True if models must not read titles, because the query is one."""


def holds_answer(passage: str, answers: Sequence[str]) -> bool:
    """True if the passage holds one of the answers as whole words."""
    padded = f" {normalized(passage)} "
    return any(f" {normalized(answer)} " in padded for answer in answers if normalized(answer))


def labelled(name: str, corpora: Path) -> Iterator[TrainingQuestion]:
    """Questions of the training part of a labelled collection."""
    source = corpus(name)
    questions = read_questions(corpora / source.folder / "queries.jsonl")
    for id_, grades in source.qrels(corpora, Half.TRAIN).items():
        positives = tuple(passage for passage, grade in grades.items() if grade > 0)
        question = questions[id_]
        yield TrainingQuestion(f"{name}/{id_}", "labelled", name, question.text, positives, question.answers)


class Locator:
    """Finds the passage that a question with answer strings was asked about."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._index = Bm25([passage.written for passage in passages])

    def locate(self, question: Question) -> Passage | None:
        """The best passage that holds an answer, if it is among the best of all."""
        among = best(self._index.scores(question.text), LOCATE_AMONG)
        found = (self._passages[place] for place in among)
        return next((passage for passage in found if holds_answer(passage.text, question.answers)), None)

    def precision(self, questions: dict[str, Question], qrels: Qrels) -> tuple[int, int, int]:
        """How often it is right where the truth is known: right, located, asked."""
        located = {id_: self.locate(questions[id_]) for id_ in qrels}
        right = sum(found is not None and qrels[id_].get(found.id, 0) > 0 for id_, found in located.items())
        return right, sum(found is not None for found in located.values()), len(located)


def located(corpora: Path, passages: Sequence[Passage]) -> Iterator[TrainingQuestion]:
    """Questions of squad-mid without labels, their passages located by their answers."""
    source = corpus("squad-mid")
    questions = read_questions(corpora / source.folder / "queries.jsonl")
    locator = Locator(passages)
    right, found, asked = locator.precision(questions, source.qrels(corpora, Half.DEV))
    print(f"locating by answers, on the labelled tuning half: {right} right of {found} located of {asked}", flush=True)
    gold = source.qrels(corpora, Half.DEV).keys() | source.qrels(corpora, Half.TEST).keys()
    for id_, question in questions.items():
        if id_ not in gold and (passage := locator.locate(question)) is not None:
            yield TrainingQuestion(
                f"squad-mid/{id_}", "located", "squad-mid", question.text, (passage.id,), question.answers
            )


def titles(passages: Sequence[Passage], name: str) -> Iterator[TrainingQuestion]:
    """A passage's title asks for its text."""
    for passage in passages:
        if len(passage.text) >= SHORTEST_PASSAGE and len(passage.title.split()) in range(5, 30):
            title = passage.title.rstrip(".")
            yield TrainingQuestion(f"{name}/title/{passage.id}", "title", name, title, (passage.id,), untitled=True)


def headings(passages: Sequence[Passage]) -> Iterator[TrainingQuestion]:
    """A section's heading asks for the section; every other one is asked with the page's title before it."""
    bearing: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        page, _, heading = passage.heading.rpartition(" - ")
        if page and len(passage.text) >= SHORTEST_PASSAGE and len(heading.split()) in WORDS_OF_HEADINGS:
            bearing[normalized(heading)].append(passage)
    for number, held in enumerate(bearing.values()):
        if len(held) <= MOST_OF_A_HEADING:
            page, _, heading = held[0].heading.rpartition(" - ")
            text = heading if number % 2 else f"{page.split('|')[0].strip()} {heading}"
            ids = tuple(passage.id for passage in held)
            yield TrainingQuestion(f"documentation/heading/{held[0].id}", "heading", "documentation", text, ids)


def identifiers(passages: Sequence[Passage]) -> Iterator[TrainingQuestion]:
    """A rare identifier asks for the passages that hold it: as it is written, or as the words it is made of."""
    holders: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        for identifier in set(_IDENTIFIER.findall(passage.text)):
            holders[identifier].append(passage)
    taken: Counter[str] = Counter()
    for number, (identifier, bearing) in enumerate(sorted(holders.items())):
        held = [passage for passage in bearing if len(passage.text) >= SHORTEST_PASSAGE]
        if not held or len(held) > MOST_OF_AN_IDENTIFIER or taken[held[0].id] or len(identifier) > 40:
            continue
        taken[held[0].id] += 1
        parts = " ".join(_PARTS.findall(identifier)).lower()
        text = identifier if number % 2 else parts
        ids = tuple(passage.id for passage in held)
        yield TrainingQuestion(f"documentation/identifier/{identifier}", "identifier", "documentation", text, ids)
