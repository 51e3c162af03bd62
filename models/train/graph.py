"""An ONNX graph under construction. Values are known by name; each node names its own single output.

The same few operators as plumb's exporter (`src/inference/export`): ONNX Runtime's own attention and bias + GELU.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 10
OPSET = 21
CONTRIB = "com.microsoft"

Array = NDArray[np.generic]


class Graph:
    """Nodes and constants."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Adds a node and gives the name of its output."""
        output = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def contrib(self, op: str, *inputs: str, **attributes: object) -> str:
        """Adds a node of ONNX Runtime's own operators."""
        return self.node(op, *inputs, domain=CONTRIB, **attributes)

    def constant(self, name: str, value: Array) -> str:
        """Adds a constant; a name that is known already stands for the same one."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def floats(self, name: str, value: Sequence[float] | float | Array) -> str:
        """A constant of 32-bit floats."""
        return self.constant(name, np.asarray(value, dtype=np.float32))

    def integers(self, name: str, *values: int) -> str:
        """A constant row of 64-bit integers."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def model(self, inputs: Sequence[str], output: str, name: str) -> bytes:
        """The file: inputs `[batch, tokens]` of 64-bit integers, one output `[batch, 1]` that is called `name`."""
        self._nodes.append(helper.make_node("Identity", [output], [name]))
        ports = [helper.make_tensor_value_info(port, TensorProto.INT64, ["batch", "tokens"]) for port in inputs]
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1])
        graph = helper.make_graph(self._nodes, "plumb", ports, [out], list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="plumb")
        return model.SerializeToString(deterministic=True)
