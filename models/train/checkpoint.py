"""What training leaves: weights, the optimizer's state and where it was, so that it goes on as if never stopped."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn, optim

from .bert import Shape, load_layers
from .reranker import CrossEncoder
from .settings import Student


@dataclass(frozen=True)
class Place:
    """How far training has come."""

    step: int
    """Steps done."""
    pairs: int
    """Pairs seen."""
    cpu_seconds: float


def new_student(student: Student, embedder: Path, runs: Path) -> CrossEncoder:
    """A student that starts from the embedder's weights, or from those of a trained candidate."""
    model = CrossEncoder(Shape(layers=len(student.layers)), student.head, student.dropout)
    if not student.start:
        load_layers(model.encoder, embedder / "model.safetensors", student.layers)
        return model
    taken = torch.load(runs / student.start / "checkpoint.pt", weights_only=True, map_location="cpu")["model"]
    wanted = dict(model.state_dict())
    for name in wanted:
        parts = name.split(".")
        if parts[:2] == ["encoder", "layers"]:
            parts[2] = str(student.layers[int(parts[2])])
        wanted[name] = taken[".".join(parts)]
    model.load_state_dict(wanted)
    return model


def save(path: Path, model: nn.Module, optimizer: optim.Optimizer, place: Place) -> None:
    """Writes beside and renames: a crash leaves the older checkpoint whole."""
    beside = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "place": vars(place)}
    torch.save(state, beside)
    beside.replace(path)


def resume(path: Path, model: nn.Module, optimizer: optim.Optimizer) -> Place:
    """Takes up a checkpoint; without one, the beginning."""
    if not path.exists():
        return Place(0, 0, 0.0)
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Place(**state["place"])


def load_model(path: Path, student: Student) -> CrossEncoder:
    """A trained candidate, for use."""
    return load_with_place(path, student)[0]


def load_with_place(path: Path, student: Student) -> tuple[CrossEncoder, Place]:
    """A trained candidate and how far it had come, of the same moment while training goes on."""
    model = CrossEncoder(Shape(layers=len(student.layers)), student.head)
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    return model.eval(), Place(**state["place"])
