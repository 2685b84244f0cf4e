"""``mish`` and its relatives: which implementation runs is decided here, once, at import.

With the compiled extension every call goes through torch's dispatcher, which picks the CPU or the
CUDA kernel, or ``eager`` for any other device. Without it, ``eager`` serves all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
    has_torch_function_variadic,
)

from . import eager
from ._extension import C

_traceable: Any  # what a compiler can see through: the ops
if C is None:
    _mish, _mish_, _mish_out = eager.mish, eager.mish_, eager.mish_out
    _traceable = eager
else:
    from . import _registration  # noqa: F401

    _mish, _mish_, _mish_out = C.mish, C.mish_, C.mish_out
    _traceable = torch.ops.mish_cuda


def mish(input: Tensor, inplace: bool = False, *, out: Tensor | None = None) -> Tensor:
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
    if has_torch_function_unary(input):
        return handle_torch_function(mish, (input,), input, inplace=inplace, out=out)  # type: ignore[no-any-return]
    if out is not None:
        return _write(input, inplace, out)
    if inplace:
        return mish_(input)
    if is_compiling():
        return _traceable.mish(input)  # type: ignore[no-any-return]
    return _mish(input)


def mish_(input: Tensor) -> Tensor:
    """``mish`` in place: overwrites ``input`` and returns it."""
    if has_torch_function_unary(input):
        return handle_torch_function(mish_, (input,), input)  # type: ignore[no-any-return]
    if is_compiling():
        return _traceable.mish_(input)  # type: ignore[no-any-return]
    return _mish_(input)


def _write(input: Tensor, inplace: bool, out: Tensor) -> Tensor:
    if inplace:
        raise RuntimeError("mish: expected inplace=True or out=..., got both. Leave one out.")
    if has_torch_function_variadic(input, out):
        return handle_torch_function(mish, (input, out), input, out=out)  # type: ignore[no-any-return]
    if is_compiling():
        return _traceable.mish(input, out=out)  # type: ignore[no-any-return]
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
        return _traceable.mish_backward(grad_out, input)  # type: ignore[no-any-return]
    if C is None:
        return eager.mish_backward(grad_out, input)
    return C.mish_backward(input, grad_out)  # type: ignore[no-any-return]


class MishCudaFunction:
    """The old mish-cuda package's autograd function, of which code used ``apply``."""

    @staticmethod
    def apply(input: Tensor) -> Tensor:
        """``mish(input)``."""
        return mish(input)
