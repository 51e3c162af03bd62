"""One TOML file a candidate: everything that was varied between attempts."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Student:
    """What is trained."""

    layers: tuple[int, ...]
    """Layers of the embedder that it starts from, in order."""
    head: str = "interaction"
    dropout: float = 0.0
    frozen_layers: int = 0
    """So many of the lowest layers are not trained. The embedding tables never are."""
    start: str = ""
    """Name of a trained candidate whose layers and head to start from instead of the embedder's."""


@dataclass(frozen=True)
class Teaching:
    """What the lists aim at."""

    cosine: float = 1.0
    max_sim: float = 1.0
    sparse: float = 1.0
    bm25: float = 0.0
    candidate: str = ""
    """Name of a trained candidate that teaches instead of the ensemble, which then only filters."""
    mined: str = "mined"
    """Folder of the candidates: by all three searches, or `mined-lexically`."""
    temperature: float = 1.0
    """Of the softmax over a list's teacher scores, in standard deviations."""
    label_share: dict[str, float] = field(default_factory=dict)
    """By kind of question: how much of the target is the label; the rest is the teacher."""
    false_negative_margin: float = 0.0
    """A negative is dropped if its teacher score exceeds the positive's by this many standard deviations."""


@dataclass(frozen=True)
class Fitting:
    """How it is trained."""

    seed: int = 6
    epochs: float = 1.0
    list_length: int = 8
    questions_a_step: int = 8
    max_tokens: int = 160
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    margin_share: float = 0.0
    """Share of margin-MSE in the loss; the rest is listwise cross-entropy."""
    steps_a_checkpoint: int = 100
    bf16: bool = True


@dataclass(frozen=True)
class Settings:
    """A candidate."""

    name: str
    student: Student
    teaching: Teaching
    fitting: Fitting

    @staticmethod
    def read(path: Path) -> "Settings":
        """Reads a candidate's file; unknown keys are errors."""
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        student = given.pop("student")
        settings = Settings(
            path.stem,
            Student(**{**student, "layers": tuple(student["layers"])}),
            Teaching(**given.pop("teaching", {})),
            Fitting(**given.pop("fitting", {})),
        )
        if given:
            raise ValueError(f"{path} has unknown tables: {', '.join(given)}")
        return settings
