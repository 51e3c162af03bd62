"""What a list's logits are held to."""

import torch
from torch import Tensor
from torch.nn import functional


def list_loss(logits: Tensor, teacher: Tensor, label_share: Tensor, temperature: float) -> Tensor:
    """Cross-entropy to a mixture of label and teacher (ListNet: Cao et al., ICML 2007; Hinton et al., 2015).

    `logits` and `teacher` are `[lists, candidates]`, the positive in column 0; `label_share` is `[lists]`. Absent
    candidates are -inf in both. The mean over the lists.
    """
    aim = (1.0 - label_share)[:, None] * functional.softmax(teacher / temperature, dim=1)
    aim[:, 0] += label_share
    told = functional.log_softmax(logits, dim=1)
    return -(aim * torch.where(aim > 0, told, torch.zeros_like(told))).sum(dim=1).mean()


def margin_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Margin-MSE (Hofstätter et al., 2020): the distance of each negative to the positive, as the teacher has it.

    Shapes as above; absent candidates do not count.
    """
    present = torch.isfinite(teacher)
    present[:, 0] = False
    ours, theirs = logits[:, :1] - logits, teacher[:, :1] - teacher
    return ((ours - theirs)[present] ** 2).mean()
