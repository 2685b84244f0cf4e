"""``mish`` and its relatives: which implementation runs is decided here.

With the compiled extension every call goes through torch's dispatcher, which picks the CPU or the
CUDA kernel, or ``eager`` for any other device. Without it, ``eager`` serves all. A compiler that
traces ``mish`` is handed what it makes the most of: ``compile_with``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
    has_torch_function_variadic,
)

from . import eager
from ._extension import REASON, C

if C is None:
    _mish, _mish_, _mish_out = eager.mish, eager.mish_, eager.mish_out
    _ops = torch.ops.aten  # torch's own Mish, where only the name of an op will do
else:
    from . import _registration, _sharding  # noqa: F401

    _mish, _mish_, _mish_out = C.mish, C.mish_, C.mish_out
    _ops = torch.ops.mish_cuda

_compiles_with = "decomposition"


def compile_with(implementation: str) -> None:
    """Choose what ``torch.compile`` and ``torch.export`` make of ``mish``, from now on.

    Nothing else is affected: outside of them the kernels run. Functions compiled before are
    compiled again at their next call; exported programs stay as they are.

    Args:
        implementation: ``"decomposition"``, the default: the formula with its own backward, which
            the compiler fuses with what stands before and behind it; programs exported hold
            ``aten.mish``, and so one ``Mish`` node in ONNX. Or ``"kernel"``: the library's op,
            which the compiler calls as it is; a program exported with it needs this library
            where it runs.

    Raises:
        ValueError: another name.
        RuntimeError: ``"kernel"`` without the compiled extension.
    """
    global _compiles_with
    if implementation not in ("decomposition", "kernel"):
        raise ValueError(
            f"compile_with: expected 'decomposition' or 'kernel', got {implementation!r}."
        )
    if implementation == "kernel" and C is None:
        raise RuntimeError(
            f"compile_with: expected the compiled extension for 'kernel', but {REASON}. "
            "Build it (see README.md), or stay with 'decomposition'."
        )
    _compiles_with = implementation


def _traced() -> Any:
    """Where a compiler finds ``mish``, ``mish_`` and ``mish_backward``."""
    if _compiles_with == "kernel":
        return _ops
    # Not is_exporting(), which torch.compile takes for true in some versions, 2.9 among them.
    return torch.ops.aten if torch.compiler._is_exporting_flag else eager


def mish(input: Tensor, inplace: bool = False, out: Tensor | None = None) -> Tensor:
    """Mish, ``x * tanh(softplus(x))``, elementwise.

    Differs from ``torch.nn.functional.mish`` in its limits: mish(-inf) = -0, with slope 0;
    mish(+inf) = +inf, with slope 1.

    Args:
        input: float32, float64, float16 or bfloat16; any shape and strides.
        inplace: overwrite ``input`` with the result.
        out: where to write the result; dtype and device of ``input``. As with any torch function,
            another shape is resized with a warning, and nothing can be differentiated.

    Returns:
        Shape and dtype of ``input``; differentiable any number of times.

    Raises:
        TypeError: not a tensor.
        NotImplementedError: integer, bool, complex, quantized or sparse input.
        RuntimeError: ``out`` of another dtype or device; writing to overlapping memory, or in
            place to a leaf that requires grad; both ``inplace`` and ``out``.
    """
    if is_scripting():
        if out is not None:
            return _ops.mish(input, out=out)  # type: ignore[no-any-return]
        return _ops.mish_(input) if inplace else _ops.mish(input)  # type: ignore[no-any-return]
    if has_torch_function_unary(input):
        return handle_torch_function(mish, (input,), input, inplace=inplace, out=out)  # type: ignore[no-any-return]
    if out is not None:
        return _write(input, inplace, out)
    if inplace:
        return mish_(input)
    if is_compiling():
        return _traced().mish(input)  # type: ignore[no-any-return]
    return _mish(input)


def mish_(input: Tensor) -> Tensor:
    """``mish`` in place: overwrites ``input`` and returns it."""
    if is_scripting():
        return _ops.mish_(input)  # type: ignore[no-any-return]
    if has_torch_function_unary(input):
        return handle_torch_function(mish_, (input,), input)  # type: ignore[no-any-return]
    if is_compiling():
        return _traced().mish_(input)  # type: ignore[no-any-return]
    return _mish_(input)


def _write(input: Tensor, inplace: bool, out: Tensor) -> Tensor:
    if inplace:
        raise RuntimeError("mish: expected inplace=True or out=..., got both. Leave one out.")
    if has_torch_function_variadic(input, out):
        return handle_torch_function(mish, (input, out), input, out=out)  # type: ignore[no-any-return]
    if is_compiling():
        return _traced().mish(input, out=out)  # type: ignore[no-any-return]
    return _mish_out(input, out)


def backend(tensor: Tensor) -> str:
    """What computes ``mish(tensor)``: ``"cuda"`` or ``"cpu"`` for a kernel, else ``"eager"``."""
    key = tensor.device.type.upper()
    kernels = ("CPU", "CUDA")
    if C is None or key not in kernels:
        return "eager"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("mish_cuda::mish", key)
    return tensor.device.type if has_kernel else "eager"


def mish_forward(input: Tensor, out: Tensor | None = None) -> Tensor:
    """``mish(input, out=out)`` under the name that the old mish-cuda package gave it."""
    return mish(input, out=out)


def mish_backward(input: Tensor, grad_out: Tensor) -> Tensor:
    """``grad_out * mish'(input)``, with the arguments in the old mish-cuda package's order.

    Raises:
        NotImplementedError: a dtype or layout that ``mish`` does not take.
        RuntimeError: ``grad_out`` of another shape, dtype or device than ``input``.
    """
    if is_compiling():
        return _traced().mish_backward(grad_out, input)  # type: ignore[no-any-return]
    if C is None:
        return eager.mish_backward(grad_out, input)
    return C.mish_backward(input, grad_out)  # type: ignore[no-any-return]


class MishCudaFunction:
    """The old mish-cuda package's autograd function, of which code used ``apply``."""

    @staticmethod
    def apply(input: Tensor) -> Tensor:
        """``mish(input)``."""
        return mish(input)
