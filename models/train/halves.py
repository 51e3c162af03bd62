"""Which questions may be learned from. The same rule as `Half::of` in `src/eval/collection.rs`.

Test halves are for reporting alone: nothing here may read them except `train.evaluate --half test`.
"""

from enum import Enum

from blake3 import blake3

from .collection import Qrels

DEV_OF_256 = 64
"""Of 256 tuning questions so many are kept from training, to choose checkpoints on."""


class Half(Enum):
    """Part of a collection's questions."""

    TRAIN = "train"
    """Tuning half, learned from."""
    DEV = "dev"
    """Tuning half, kept from training: checkpoints and candidates are chosen on it."""
    TEST = "test"
    """Reported; nothing is chosen on it."""


def is_tuning(question_id: str) -> bool:
    """By the first byte of BLAKE3 over the id: even is tuning."""
    return blake3(question_id.encode()).digest()[0] % 2 == 0


def is_dev(question_id: str) -> bool:
    """By the second byte, so that it does not depend on the half."""
    return blake3(question_id.encode()).digest()[1] < DEV_OF_256


def select(qrels: Qrels, keep: set[str]) -> Qrels:
    """The labels of the questions in `keep`."""
    return {question: grades for question, grades in qrels.items() if question in keep}
