"""Training itself, on a student of one layer."""

import torch

from train.bert import Shape
from train.lists import Step
from train.pairs import PairTokens
from train.reranker import CLS, SEP, CrossEncoder
from train.settings import Fitting, Settings, Student, Teaching
from train.trainer import Machine, Trainer


def pair(query: int, passage: int) -> PairTokens:
    """A pair of one-word texts."""
    return PairTokens([CLS, query, SEP, passage, passage, SEP], 3)


def trainer(teacher: CrossEncoder | None = None) -> Trainer:
    """A trainer of a new student."""
    torch.manual_seed(6)
    fitting = Fitting(warmup_steps=1, learning_rate=1e-3, bf16=False)
    settings = Settings("one", Student(layers=(0,)), Teaching(), fitting)
    return Trainer(CrossEncoder(Shape(layers=1), "interaction"), settings, Machine(), teacher)


def step() -> Step:
    """Two lists, the second shorter; the words of question and answer differ."""
    pairs = [pair(2000, 3000), pair(2000, 4000), pair(2000, 2000), pair(2001, 3001), pair(2001, 2001)]
    teacher = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, float("-inf")]])
    return Step(pairs, [3, 2], teacher, torch.ones(2))


def test_training_learns_what_it_is_shown_and_leaves_the_tables_alone() -> None:
    ours = trainer()
    table = ours.model.encoder.words.weight.clone()

    losses = []
    for number in range(8):
        ours.set_learning_rate(number, 100)
        losses.append(ours.take(step())[0])

    assert losses[-1] < losses[0]
    assert torch.equal(ours.model.encoder.words.weight, table)


def test_a_trained_candidate_teaches_in_place_of_the_ensemble() -> None:
    teacher = trainer().model.eval()

    assert trainer(teacher).take(step())[0] > 0
