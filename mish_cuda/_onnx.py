"""Registers the compiled op with the older ONNX exporter, ``torch.onnx.export(dynamo=False)``.

The newer exporter sees torch's own Mish: see ``_registration``.
"""

from __future__ import annotations

from typing import Any

import torch.onnx
from torch._C._onnx import TensorProtoDataType


def _symbolic(graph: Any, input: Any, *out: Any) -> Any:
    """The ONNX nodes: Mish from opset 18 on, else Softplus, Tanh and Mul as for F.mish.

    Runtimes have no float64 Mish. ONNX has neither Mish nor Softplus in bfloat16, so that is
    computed in float32.
    """
    kind = input.type().scalarType()
    if kind == "BFloat16":
        result = _symbolic(graph, graph.op("Cast", input, to_i=TensorProtoDataType.FLOAT))
        return graph.op("Cast", result, to_i=TensorProtoDataType.BFLOAT16)
    if graph.opset >= 18 and kind != "Double":
        return graph.op("Mish", input)
    return graph.op("Mul", input, graph.op("Tanh", graph.op("Softplus", input)))


if hasattr(torch.onnx, "register_custom_op_symbolic"):  # else this torch has no older exporter
    for _name in ("mish", "mish_"):
        torch.onnx.register_custom_op_symbolic(f"mish_cuda::{_name}", _symbolic, 9)
