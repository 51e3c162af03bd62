"""Losses by hand."""

import math

import torch

from train.losses import list_loss, margin_loss

ABSENT = float("-inf")


def test_a_list_is_held_to_label_and_teacher_as_mixed() -> None:
    # Teacher: softmax(0, 0) = 1/2, 1/2. Half of it, half the label: aim 3/4, 1/4. Logits 0, 0: log 2 each.
    loss = list_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0.5]), temperature=1.0)

    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_an_absent_candidate_weighs_nothing() -> None:
    logits = torch.tensor([[1.0, 0.0, ABSENT]])
    teacher = torch.tensor([[2.0, 0.0, ABSENT]])
    share = torch.tensor([0.3])

    whole = list_loss(logits[:, :2], teacher[:, :2], share, temperature=0.5)

    assert torch.isclose(list_loss(logits, teacher, share, temperature=0.5), whole)


def test_margins_are_compared_not_scores() -> None:
    logits, teacher = torch.tensor([[5.0, 3.0]]), torch.tensor([[1.0, 0.0]])

    # Margins 2 and 1.
    assert margin_loss(logits, teacher).item() == 1.0
    assert margin_loss(logits + 7.0, teacher).item() == 1.0
