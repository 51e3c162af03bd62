"""One step of training, on whatever device."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn, optim

from .lists import Step
from .losses import list_loss, margin_loss
from .pairs import by_length, in_order
from .reranker import CrossEncoder
from .settings import Settings

LONGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Machine:
    """Where it runs."""

    device: str = "cpu"
    pairs_a_pass: int = 8
    """Pairs that go through the model together: more are no faster on a CPU, and much faster on a GPU."""


@dataclass(frozen=True)
class Trainer:
    """A student with all that trains it."""

    model: CrossEncoder
    settings: Settings
    machine: Machine
    teacher: CrossEncoder | None = None
    """A trained candidate whose logits take the place of the ensemble's scores."""

    @cached_property
    def optimizer(self) -> optim.AdamW:
        """AdamW over what is trained: never the embedding tables, which would cost more than the layers and overfit."""
        encoder, fitting = self.model.encoder, self.settings.fitting
        for table in (encoder.words, encoder.positions, encoder.norm):
            table.requires_grad_(False)
        for layer in encoder.layers[: self.settings.student.frozen_layers]:
            layer.requires_grad_(False)
        body = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        groups = [
            {"params": body, "lr": fitting.learning_rate, "top": fitting.learning_rate},
            {"params": list(self.model.head.parameters()), "lr": 0.0, "top": fitting.head_learning_rate},
        ]
        return optim.AdamW(groups, weight_decay=fitting.weight_decay)

    def set_learning_rate(self, step: int, steps: int) -> float:
        """Linear up over the warm-up, then linear down to a tenth at the last step. Gives the share of the top rate."""
        warmup = self.settings.fitting.warmup_steps
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        share = min(1.0, (step + 1) / max(1, warmup)) if step < warmup else 0.1 + 0.9 * left
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * share
        return share

    def take(self, step: Step) -> tuple[float, float]:
        """One step: its loss, and the share of lists whose positive came first."""
        fitting, teaching = self.settings.fitting, self.settings.teaching
        logits = self._logits(self.model, step)
        teacher = step.teacher
        if self.teacher is not None:
            with torch.inference_mode():
                teacher = self._logits(self.teacher, step)
            teacher = teacher.clone()
        loss = list_loss(logits, teacher, step.label_share, teaching.temperature)
        if fitting.margin_share > 0:
            loss = (1 - fitting.margin_share) * loss + fitting.margin_share * margin_loss(logits, teacher)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LONGEST_GRADIENT)
        self.optimizer.step()
        return loss.item(), (logits.argmax(dim=1) == 0).float().mean().item()

    def _logits(self, model: CrossEncoder, step: Step) -> Tensor:
        """`[lists, candidates]`; -inf where a list is shorter."""
        places, parts = [], []
        device = self.machine.device
        for at, batch in by_length(step.pairs, self.machine.pairs_a_pass):
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.settings.fitting.bf16):
                parts.append(model(batch.to(device)).float().cpu())
            places += at
        flat = in_order(places, parts)
        logits = torch.full(step.teacher.shape, float("-inf"))
        rows = torch.repeat_interleave(torch.arange(len(step.counts)), torch.tensor(step.counts))
        columns = torch.cat([torch.arange(count) for count in step.counts])
        return logits.index_put((rows, columns), flat)
