"""ONNX export of programs that hold the library's op.

Programs exported with ``compile_with("decomposition")``, the default, hold ``aten.mish`` and need
none of this: ``torch.onnx.export`` knows that op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What makes ``torch.onnx.export`` write the library's op as one ``Mish`` node::

        program = torch.onnx.export(
            model, (x,), dynamo=True, custom_translation_table=mish_cuda.onnx.translation_table()
        )

    ``Mish`` is an operator of opset 18 and later, for bfloat16 of 22 and later. In-place calls and
    ``out=`` need no entries: exporting turns them into ``mish`` before it translates.

    Raises:
        ImportError: without the package onnxscript, which ``torch.onnx.export`` needs too.
        RuntimeError: without the compiled extension there is no op to translate.
    """
    from ._extension import REASON, C

    if C is None:
        raise RuntimeError(
            "translation_table: expected the compiled extension, whose op it translates, but "
            f"{REASON}. Without it, exported programs hold aten.mish and need no table."
        )
    try:
        from onnxscript import opset18
    except ImportError as error:
        raise ImportError(
            "translation_table: expected the package onnxscript. "
            "Install it, with what else torch.onnx.export needs: pip install onnx onnxscript"
        ) from error

    def mish(self: Any) -> Any:
        return opset18.Mish(self)

    return {torch.ops.mish_cuda.mish.default: mish}
