"""Int8 matrix products whose rows do not depend on each other: the recipe of `src/inference/export/quantize.rs`.

Weights: symmetric, one scale a column. Activations: one scale a row, taken when it runs (as in LLM.int8(), Dettmers
et al. 2022, section 3.1), so a pair's score does not depend on the pairs beside it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from .graph import Graph

WEIGHT_LEVELS = 127.0
ZERO_POINT = 128
"""What an activation of 0 becomes where activations have both signs."""
GELU_SHIFT = 0.17
"""GELU's least value is -0.16997: raised by this its output needs no sign and gets all 256 levels."""


@dataclass(frozen=True)
class QuantizedRows:
    """Activations in eight bits, ready for several products."""

    values: str
    scales: str
    """`[rows, 1]`"""
    zero_point: int


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row of `[outputs, inputs]` with its own scale; a row of zeros has scale 0."""
    scales = np.abs(weight).max(axis=1) / WEIGHT_LEVELS
    levels = np.round(weight / np.where(scales > 0, scales, 1.0)[:, None])
    return levels.astype(np.int8), scales.astype(np.float32)


def quantize_signed(graph: Graph, rows: str) -> QuantizedRows:
    """Quantizes activations of both signs, `[rows, width]`."""
    scales = _row_scales(graph, graph.node("Abs", rows), 1.0 / 127.0)
    zero = np.full((1,), ZERO_POINT, dtype=np.uint8)
    from_zero = graph.node("ConstantOfShape", graph.node("Shape", scales), value=_tensor(zero))
    values = graph.node("QuantizeLinear", rows, scales, from_zero, axis=0)
    return QuantizedRows(values, _as_column(graph, scales), ZERO_POINT)


def quantize_gelu(graph: Graph, rows: str) -> QuantizedRows:
    """Quantizes the output of GELU; the product must be lowered again: see `lowered_bias`."""
    raised = graph.node("Add", rows, graph.floats("gelu_shift", GELU_SHIFT))
    scales = _row_scales(graph, raised, 1.0 / 255.0)
    return QuantizedRows(graph.node("QuantizeLinear", raised, scales, axis=0), _as_column(graph, scales), 0)


def lowered_bias(bias: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bias to use after a product with `quantize_gelu`'s output."""
    levels, scales = quantize_weight(weight)
    return bias - GELU_SHIFT * levels.astype(np.int32).sum(axis=1).astype(np.float32) * scales


def multiply(graph: Graph, rows: QuantizedRows, weight: NDArray[np.float32], name: str) -> str:
    """`rows · weightᵀ` in floats, without bias; `weight` is `[outputs, inputs]`."""
    levels, scales = quantize_weight(weight)
    values = graph.constant(f"{name}.int8", levels.T)
    column_scales = graph.floats(f"{name}.scales", scales)
    one = graph.floats("one", 1.0)
    zero = graph.constant(f"zero_point_{rows.zero_point}", np.asarray(rows.zero_point, dtype=np.uint8))
    product = graph.contrib("MatMulIntegerToFloat", rows.values, values, one, column_scales, zero)
    return graph.node("Mul", product, rows.scales)


def _row_scales(graph: Graph, magnitude: str, level: float) -> str:
    largest = graph.node("ReduceMax", magnitude, graph.integers("last_axis", -1), keepdims=0)
    return graph.node("Mul", largest, graph.floats(f"level_{level}", level))


def _as_column(graph: Graph, scales: str) -> str:
    return graph.node("Unsqueeze", scales, graph.integers("axis_1", 1))


def _tensor(value: NDArray[np.uint8]) -> TensorProto:
    return numpy_helper.from_array(value)
