"""The student: a cross-encoder that begins as late interaction inside attention.

Query and passage go through the encoder together (Nogueira and Cho, 2019), so every token sees the other text. The
head then compares the query's token states with the passage's (MaxSim: Khattab and Zaharia, SIGIR 2020), before the
first layer and after the last (as CEDR does at every layer: MacAvaney et al., SIGIR 2019), and adds what the first
token says. The embedder's weights already make MaxSim a good ranking, so training starts from a ranker, not from
noise: that is what makes few pairs enough.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .bert import Bert, Shape

CLS, SEP = 101, 102
"""Special tokens of the uncased vocabulary: they are compared with nothing."""


@dataclass(frozen=True)
class Pairs:
    """A batch of query-passage pairs, each `[batch, tokens]`: `[CLS] query [SEP] passage [SEP]`, padded with 0."""

    token_ids: Tensor
    mask: Tensor
    kinds: Tensor
    """0 up to the first `[SEP]`, 1 behind it."""

    def to(self, device: str) -> "Pairs":
        """The same batch on another device."""
        return Pairs(self.token_ids.to(device), self.mask.to(device), self.kinds.to(device))


class InteractionHead(nn.Module):
    """One logit: `a · cosine + b · MaxSim(first) + c · MaxSim(last) + d + mlp(cls)`."""

    START = (4.0, 4.0, 12.0)
    """Weights of the three similarities at the start: a list's softmax is then about as sharp as the teacher's."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 1)
        self.gate = nn.Linear(hidden, 1)
        self.pooler = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor([self.START]))
            self.mix.bias.zero_()
            self.gate.weight.zero_()
            self.gate.bias.zero_()
            self.classifier.weight.zero_()

    def forward(self, first: Tensor, last: Tensor, pairs: Pairs) -> Tensor:
        """Token states `[batch, tokens, hidden]` before and after the layers to logits `[batch]`."""
        words = (pairs.mask > 0) & (pairs.token_ids != CLS) & (pairs.token_ids != SEP)
        query = (words & (pairs.kinds == 0)).float()
        passage = (words & (pairs.kinds == 1)).float()
        # Every query token weighs e^gate; the padding and the passage weigh nothing.
        weights = torch.exp(torch.clamp(self.gate(last).squeeze(-1), -6.0, 6.0)) * query
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6)
        parts = [_cosine(last, query, passage), _max_sim(first, weights, passage), _max_sim(last, weights, passage)]
        mixed = self.mix(torch.stack(parts, dim=-1)).squeeze(-1)
        return mixed + self.classifier(torch.tanh(self.pooler(last[:, 0]))).squeeze(-1)


class ClassifierHead(nn.Module):
    """One logit from the first token's state, as published cross-encoders have it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, 1)

    def forward(self, _first: Tensor, last: Tensor, _pairs: Pairs) -> Tensor:
        """Token states to logits `[batch]`."""
        return self.classifier(torch.tanh(self.pooler(last[:, 0]))).squeeze(-1)


HEADS = {"interaction": InteractionHead, "classifier": ClassifierHead}


class CrossEncoder(nn.Module):
    """Encoder and head."""

    def __init__(self, shape: Shape, head: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = Bert(shape, dropout)
        self.head = HEADS[head](shape.hidden)

    def forward(self, pairs: Pairs) -> Tensor:
        """Logits `[batch]`."""
        first, last = self.encoder(pairs.token_ids, pairs.mask, pairs.kinds)
        return self.head(first.float(), last.float(), pairs)


def _cosine(states: Tensor, query: Tensor, passage: Tensor) -> Tensor:
    means = [(states * part[..., None]).sum(dim=1) for part in (query, passage)]
    return (functional.normalize(means[0], dim=-1) * functional.normalize(means[1], dim=-1)).sum(dim=-1)


def _max_sim(states: Tensor, weights: Tensor, passage: Tensor) -> Tensor:
    unit = functional.normalize(states, dim=-1)
    similarity = unit @ unit.transpose(1, 2) - 4.0 * (1.0 - passage)[:, None, :]
    return (similarity.amax(dim=2) * weights).sum(dim=1)
