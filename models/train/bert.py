"""BERT encoder (Devlin et al., NAACL 2019) in plain PyTorch, with the tensor names of published checkpoints.

Written out rather than imported: the graph must be the one that plumb's exporter writes, and nothing else is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The part of a `config.json` that shapes the encoder."""

    layers: int
    hidden: int = 384
    heads: int = 12
    wide: int = 1536
    vocabulary: int = 30522
    positions: int = 512
    kinds: int = 2
    norm_epsilon: float = 1e-12


class Layer(nn.Module):
    """Self-attention and feed-forward, each with residual and LayerNorm behind it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.attended = nn.Linear(shape.hidden, shape.hidden)
        self.attended_norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)
        self.widen = nn.Linear(shape.hidden, shape.wide)
        self.narrow = nn.Linear(shape.wide, shape.hidden)
        self.narrow_norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)

    def forward(self, states: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """`states [batch, tokens, hidden]`, `mask [batch, 1, 1, tokens]` (true: attend) to states of equal shape."""
        batch, tokens, hidden = states.shape
        parts = self.qkv(states).view(batch, tokens, 3, self.heads, hidden // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        context = self.attended(context.transpose(1, 2).reshape(batch, tokens, hidden))
        states = self.attended_norm(states + functional.dropout(context, dropout, self.training))
        fed = self.narrow(functional.gelu(self.widen(states)))
        return self.narrow_norm(states + functional.dropout(fed, dropout, self.training))


class Bert(nn.Module):
    """Embeddings and layers; gives the states before the first layer and after the last."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.words = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.kinds = nn.Embedding(shape.kinds, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, shape.norm_epsilon)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))

    def forward(self, token_ids: Tensor, mask: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """All inputs `[batch, tokens]`; both outputs `[batch, tokens, hidden]`."""
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        first = self.norm(self.words(token_ids) + self.kinds(kinds) + self.positions(places))
        states = first
        attend = mask.bool()[:, None, None, :]
        for layer in self.layers:
            states = layer(states, attend, self.dropout)
        return first, states


_LAYER_NAMES = {
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "narrow_norm": "output.LayerNorm",
}
_EMBEDDING_NAMES = {
    "words.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "kinds.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}


def load_layers(model: Bert, checkpoint: Path, layers: Sequence[int]) -> None:
    """Fills `model` from a published checkpoint; its layer `i` becomes the checkpoint's layer `layers[i]`."""
    tensors = load_file(checkpoint)
    found = {ours: tensors[theirs] for ours, theirs in _EMBEDDING_NAMES.items()}
    for ours, theirs in enumerate(layers):
        prefix = f"encoder.layer.{theirs}"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{prefix}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"layers.{ours}.qkv.{kind}"] = torch.cat(parts)
            for name, published in _LAYER_NAMES.items():
                found[f"layers.{ours}.{name}.{kind}"] = tensors[f"{prefix}.{published}.{kind}"]
    model.load_state_dict(found)


def published_tensors(model: Bert) -> dict[str, Tensor]:
    """The tensors under the names of published checkpoints: what `load_layers` reads and plumb's exporter expects."""
    state = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    tensors = {theirs: state[ours] for ours, theirs in _EMBEDDING_NAMES.items()}
    for layer in range(len(model.layers)):
        prefix = f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            parts = state[f"layers.{layer}.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"{prefix}.attention.self.{name}.{kind}"] = part.clone()
            for name, published in _LAYER_NAMES.items():
                tensors[f"{prefix}.{published}.{kind}"] = state[f"layers.{layer}.{name}.{kind}"]
    return tensors
