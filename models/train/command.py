"""What every stage's command line has in common: three folders, none of them in the repository."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Where things lie."""

    corpora: Path
    """The collections: `retrieval/`, `rag/`, `load/`."""
    models: Path
    """What `plumb models fetch` made."""
    out: Path
    """Everything that training writes."""

    @staticmethod
    def of(given: argparse.Namespace) -> "Folders":
        """The folders of a parsed command line."""
        return Folders(given.corpora, given.models, given.out)

    @property
    def encoded(self) -> Path:
        """Vectors, a folder for each list of texts."""
        return self.out / "encoded"

    def run(self, candidate: str) -> Path:
        """What training of one candidate leaves."""
        return self.out / "runs" / candidate


def command(about: str | None) -> argparse.ArgumentParser:
    """A parser with the three folders, each also taken from the environment."""
    parser = argparse.ArgumentParser(description=about)
    for name, variable, meaning in (
        ("corpora", "PLUMB_CORPORA", "folder of the collections"),
        ("models", "PLUMB_MODELS", "where `plumb models fetch` put its files"),
        ("out", "PLUMB_TRAINING", "folder that training writes to"),
    ):
        default = os.environ.get(variable)
        help_ = f"{meaning} (default: ${variable})"
        parser.add_argument(f"--{name}", type=Path, default=default, required=default is None, help=help_)
    return parser
