"""Stage `export`: a trained candidate as safetensors and as ONNX graphs, fp32 and int8, checked against PyTorch.

Inputs `input_ids`, `attention_mask`, `token_type_ids`, each `[batch, tokens]`; output `logits`, `[batch, 1]`.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from . import checkpoint
from .bert import published_tensors
from .command import Folders, command
from .encode import EMBEDDER
from .graph import Graph
from .pairs import PairTokenizer, padded
from .quantize import lowered_bias, multiply, quantize_gelu, quantize_signed, quantize_weight
from .reranker import CLS, SEP, CrossEncoder
from .settings import Settings, Student

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PARITY = 1e-3
"""Largest difference between the fp32 graph's logits and PyTorch's that is let pass."""

Floats = NDArray[np.float32]


class Precision(Enum):
    """Numbers in which the matrices are kept and multiplied."""

    FP32 = "fp32"
    INT8 = "int8"


@dataclass(frozen=True)
class Exporter:
    """Writes the graph. Activations flow as `[batch · tokens, width]`."""

    graph: Graph
    tensors: dict[str, Floats]
    layers: int
    precision: Precision
    heads: int = 12
    hidden: int = 384
    epsilon: float = 1e-12

    def write(self) -> bytes:
        """The ONNX file."""
        mask = self.graph.node("Cast", "attention_mask", to=6)
        first = rows = self._embeddings()
        for layer in range(self.layers):
            rows = self._layer(f"encoder.layer.{layer}", rows, mask)
        first, last = self._by_token(first), self._by_token(rows)
        logits = self._interaction(first, last) if "head.mix.weight" in self.tensors else self._classified(last)
        return self.graph.model(INPUTS, logits, "logits")

    def _embeddings(self) -> str:
        graph, name = self.graph, "embeddings.word_embeddings.weight"
        if self.precision is Precision.INT8:
            levels, scales = quantize_weight(self.tensors[name])
            values = graph.node("Gather", graph.constant(f"{name}.int8", levels), "input_ids", axis=0)
            scale = graph.node("Gather", graph.floats(f"{name}.scales", scales[:, None]), "input_ids", axis=0)
            words = graph.node("Mul", graph.node("Cast", values, to=1), scale)
        else:
            words = graph.node("Gather", self._floats(name), "input_ids", axis=0)
        kinds = graph.node("Gather", self._floats("embeddings.token_type_embeddings.weight"), "token_type_ids", axis=0)
        tokens = graph.node("Shape", "input_ids", start=1, end=2)
        zero = graph.integers("zero", 0)
        places = self._floats("embeddings.position_embeddings.weight")
        places = graph.node("Slice", places, zero, tokens, zero)
        normal = self._norm(graph.node("Sum", words, kinds, places), "embeddings.LayerNorm")
        return graph.node("Reshape", normal, graph.integers("flat", -1, self.hidden))

    def _layer(self, prefix: str, rows: str, mask: str) -> str:
        graph = self.graph
        context = self._attention(f"{prefix}.attention.self", rows, mask)
        rows = self._residual(
            self._product(f"{prefix}.attention.output.dense", context), rows, prefix + ".attention.output"
        )
        wide = self._product(f"{prefix}.intermediate.dense", rows)
        wide = graph.contrib("BiasGelu", wide, self._floats(f"{prefix}.intermediate.dense.bias"))
        name = f"{prefix}.output.dense"
        if self.precision is Precision.INT8:
            weight = self.tensors[f"{name}.weight"]
            product = multiply(graph, quantize_gelu(graph, wide), weight, name)
            bias = graph.floats(f"{name}.lowered", lowered_bias(self.tensors[f"{name}.bias"], weight))
            return self._norm(graph.node("Sum", product, rows, bias), f"{prefix}.output.LayerNorm")
        return self._residual(self._product(name, wide), rows, f"{prefix}.output")

    def _attention(self, prefix: str, rows: str, mask: str) -> str:
        graph = self.graph
        parts = ("query", "key", "value")
        quantized = quantize_signed(graph, rows) if self.precision is Precision.INT8 else None
        projected = []
        for part in parts:
            name = f"{prefix}.{part}"
            if quantized is not None:
                product = multiply(graph, quantized, self.tensors[f"{name}.weight"], name)
            else:
                product = self._product(name, rows)
            projected.append(self._by_token(product))
        bias = graph.floats(f"{prefix}.bias", np.concatenate([self.tensors[f"{prefix}.{part}.bias"] for part in parts]))
        context = graph.contrib("MultiHeadAttention", *projected, bias, mask, num_heads=self.heads)
        return graph.node("Reshape", context, graph.integers("flat", -1, self.hidden))

    def _product(self, name: str, rows: str) -> str:
        weight = self.tensors[f"{name}.weight"]
        if self.precision is Precision.INT8 and not name.startswith("head."):
            return multiply(self.graph, quantize_signed(self.graph, rows), weight, name)
        return self.graph.node("MatMul", rows, self.graph.floats(f"{name}.turned", weight.T))

    def _residual(self, product: str, rows: str, name: str) -> str:
        bias = self._floats(f"{name}.dense.bias")
        return self._norm(self.graph.node("Sum", product, rows, bias), f"{name}.LayerNorm")

    def _norm(self, value: str, name: str) -> str:
        weight, bias = self._floats(f"{name}.weight"), self._floats(f"{name}.bias")
        return self.graph.node("LayerNormalization", value, weight, bias, axis=-1, epsilon=self.epsilon)

    def _by_token(self, rows: str) -> str:
        width = self.graph.integers("hidden", self.hidden)
        shape = self.graph.node("Concat", self.graph.node("Shape", "input_ids"), width, axis=0)
        return self.graph.node("Reshape", rows, shape)

    def _floats(self, name: str) -> str:
        return self.graph.floats(name, self.tensors[name])

    def _classified(self, last: str) -> str:
        """`classifier(tanh(pooler(cls)))`, `[batch, 1]`."""
        graph = self.graph
        cls = graph.node("Gather", last, _number(graph, 0), axis=1)
        pooled = graph.node("Add", self._product("head.pooler", cls), self._floats("head.pooler.bias"))
        logits = self._product("head.classifier", graph.node("Tanh", pooled))
        if "head.classifier.bias" in self.tensors:
            logits = graph.node("Add", logits, self._floats("head.classifier.bias"))
        return logits

    def _interaction(self, first: str, last: str) -> str:
        """`InteractionHead.forward`, operator by operator."""
        graph = self.graph
        query, passage = self._words(0), self._words(1)
        gate = graph.node("Add", self._product("head.gate", last), self._floats("head.gate.bias"))
        gate = graph.node("Clip", gate, graph.floats("gate_low", -6.0), graph.floats("gate_high", 6.0))
        weights = graph.node("Mul", graph.node("Exp", gate), query)
        total = graph.node("ReduceSum", weights, graph.integers("axis_1", 1), keepdims=1)
        weights = graph.node("Div", weights, graph.node("Max", total, graph.floats("least", 1e-6)))
        means = [
            self._unit(graph.node("ReduceSum", graph.node("Mul", last, part), graph.integers("axis_1", 1), keepdims=0))
            for part in (query, passage)
        ]
        cosine = graph.node("ReduceSum", graph.node("Mul", *means), graph.integers("last_axis", -1), keepdims=1)
        parts = [cosine, self._max_sim(first, weights, passage), self._max_sim(last, weights, passage)]
        mixed = self._product("head.mix", graph.node("Concat", *parts, axis=1))
        mixed = graph.node("Add", mixed, self._floats("head.mix.bias"))
        return graph.node("Add", mixed, self._classified(last))

    def _words(self, kind: int) -> str:
        """`[batch, tokens, 1]`: 1 where a token is a word of the query (kind 0) or of the passage (kind 1)."""
        graph = self.graph
        wanted = graph.node("Equal", "token_type_ids", _number(graph, kind))
        wanted = graph.node("And", wanted, graph.node("Cast", "attention_mask", to=9))
        for special in (CLS, SEP):
            same = graph.node(
                "Equal", "input_ids", graph.constant(f"id_{special}", np.asarray(special, dtype=np.int64))
            )
            wanted = graph.node("And", wanted, graph.node("Not", same))
        return graph.node("Unsqueeze", graph.node("Cast", wanted, to=1), graph.integers("last_axis", -1))

    def _unit(self, rows: str) -> str:
        graph = self.graph
        length = graph.node("ReduceL2", rows, graph.integers("last_axis", -1), keepdims=1)
        return graph.node("Div", rows, graph.node("Max", length, graph.floats("least_length", 1e-12)))

    def _max_sim(self, states: str, weights: str, passage: str) -> str:
        """`[batch, 1]`; `weights` and `passage` are `[batch, tokens, 1]`."""
        graph = self.graph
        unit = self._unit(states)
        similarity = graph.node("MatMul", unit, graph.node("Transpose", unit, perm=[0, 2, 1]))
        absent = graph.node("Sub", graph.floats("one", 1.0), passage)
        absent = graph.node("Mul", graph.node("Transpose", absent, perm=[0, 2, 1]), graph.floats("far", 4.0))
        similarity = graph.node("Sub", similarity, absent)
        most = graph.node("ReduceMax", similarity, graph.integers("last_axis", -1), keepdims=1)
        weighed = graph.node("Mul", most, weights)
        return graph.node("ReduceSum", weighed, graph.integers("axis_1", 1), keepdims=0)


def _number(graph: Graph, value: int) -> str:
    return graph.constant(f"number_{value}", np.asarray(value, dtype=np.int64))


def tensors_of(model: CrossEncoder) -> dict[str, torch.Tensor]:
    """The encoder under published names, the head under `head.`."""
    head = {f"head.{name}": tensor.detach().float().contiguous() for name, tensor in model.head.state_dict().items()}
    return published_tensors(model.encoder) | head


def config_of(student: Student) -> dict[str, object]:
    """The `config.json` of published BERTs."""
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "vocab_size": 30522}
    sizes = {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    return {"model_type": "bert", "num_hidden_layers": len(student.layers), "num_labels": 1, **shape, **sizes}


def logits_of(graph: Path, batch: Sequence[torch.Tensor]) -> Floats:
    """The graph's logits of one batch, `[batch]`."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, batch, strict=True)}
    return session.run(["logits"], feed)[0][:, 0]


def check_parity(model: CrossEncoder, tokenizer: PairTokenizer, graph: Path) -> float:
    """Largest difference between a graph's logits and PyTorch's over a few pairs of different lengths."""
    asked = ("what is hybrid search", "0-dimensional biomaterials lack inductive properties")
    told = ("Hybrid search joins lexical and dense retrieval.", "A shop.", "Biomaterials " * 90)
    pairs = padded([tokenizer.pair(query, passage, 256) for query in asked for passage in told])
    with torch.inference_mode():
        ours = model(pairs).numpy()
    return float(np.abs(ours - logits_of(graph, (pairs.token_ids, pairs.mask, pairs.kinds))).max())


def main() -> None:
    """Writes `model.safetensors`, `config.json`, `tokenizer.json`, `fp32.onnx` and `int8.onnx`."""
    parser = command(__doc__)
    parser.add_argument("--candidate", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings.read(given.candidate)
    run = Folders.of(given).run(settings.name)
    folder = run / "export"
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint.load_model(run / "checkpoint.pt", settings.student)
    tensors = tensors_of(model)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(settings.student), indent=2) + "\n", encoding="utf-8")
    shutil.copy(given.models / EMBEDDER / "tokenizer.json", folder / "tokenizer.json")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    tokenizer = PairTokenizer(folder / "tokenizer.json")
    for precision in Precision:
        path = folder / f"{precision.value}.onnx"
        path.write_bytes(Exporter(Graph(), arrays, len(settings.student.layers), precision).write())
        apart = check_parity(model, tokenizer, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}, logits within {apart:.2g} of PyTorch")
        if precision is Precision.FP32 and apart > PARITY:
            raise SystemExit("the fp32 graph does not compute what PyTorch does")


if __name__ == "__main__":
    main()
