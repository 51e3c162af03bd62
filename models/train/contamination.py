"""The check that nothing reported was learned from: no test question and no gold passage of one is trained on.

Unseen collections are held to more: none of their passages may be trained on, gold or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .collection import read_questions
from .corpora import CORPORA
from .fingerprint import Duplicates
from .halves import Half


@dataclass(frozen=True)
class Barred:
    """What may not be trained on."""

    questions: Duplicates
    passages: Duplicates
    question_count: int
    passage_count: int

    @staticmethod
    def read(corpora: Path) -> "Barred":
        """Test questions of every collection, their gold passages, and all passages of unseen collections."""
        questions: list[str] = []
        passages: list[str] = []
        for corpus in CORPORA:
            qrels = corpus.qrels(corpora, Half.TEST)
            if corpus.dev_only:
                # Another collection reports all of these: xquad has squad-mid's labelled questions, without halves.
                qrels = qrels | corpus.qrels(corpora, Half.DEV)
            if not qrels:
                continue
            texts = read_questions(corpora / corpus.folder / "queries.jsonl")
            questions += [texts[question].text for question in qrels]
            gold = {passage for grades in qrels.values() for passage, grade in grades.items() if grade > 0}
            passages += [p.text for p in corpus.passages(corpora) if corpus.unseen or p.id in gold]
        return Barred(Duplicates(questions), Duplicates(passages), len(questions), len(passages))

    def bars_question(self, text: str) -> bool:
        """True for a test question or a near-duplicate of one."""
        return self.questions.is_exact(text) or self.questions.is_near(text)

    def bars_passage(self, text: str) -> bool:
        """True for a barred passage or a near-duplicate of one."""
        return self.passages.is_exact(text) or self.passages.is_near(text)


@dataclass(frozen=True)
class Contamination:
    """What the check counted."""

    questions: int
    passages: int
    exact_questions: int
    near_questions: int
    exact_passages: int
    near_passages: int

    @property
    def is_clean(self) -> bool:
        """True if nothing barred is trained on."""
        return not (self.exact_questions or self.near_questions or self.exact_passages or self.near_passages)

    def report(self, barred: Barred) -> str:
        """The counts, for people."""
        return (
            f"contamination check: {self.questions} training questions against {barred.question_count} test "
            f"questions: {self.exact_questions} equal, {self.near_questions} near-duplicates; "
            f"{self.passages} training passages against {barred.passage_count} gold or unseen passages: "
            f"{self.exact_passages} equal, {self.near_passages} near-duplicates"
        )


def check(questions: Sequence[str], passages: Sequence[str], barred: Barred) -> Contamination:
    """Counts what is barred among the texts of a training set."""
    return Contamination(
        questions=len(questions),
        passages=len(passages),
        exact_questions=sum(barred.questions.is_exact(text) for text in questions),
        near_questions=sum(barred.questions.is_near(text) for text in questions),
        exact_passages=sum(barred.passages.is_exact(text) for text in passages),
        near_passages=sum(barred.passages.is_near(text) for text in passages),
    )
