"""The public functions, which choose between the compiled ops and ``eager``.

With the compiled extension every call goes through torch's dispatcher, which picks the CPU or the
CUDA kernel, or ``eager`` for any other device. Without it, ``eager`` computes everything.
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
from ._extension import C

if C is None:
    _mish, _mish_, _mish_out = eager.mish, eager.mish_, eager.mish_out
    _ops = torch.ops.aten  # torch's own Mish, for TorchScript, which needs a registered op
else:
    from . import _onnx, _registration, _sharding  # noqa: F401

    # The same ops as _ops, without its work on every call.
    _mish, _mish_, _mish_out = C.mish, C.mish_, C.mish_out
    _ops = torch.ops.mish_cuda


def _traced() -> Any:
    """The ops for ``torch.compile`` and ``torch.export``, which cannot trace ``_C``.

    An exported program holds torch's own Mish, so that it runs without this library.
    """
    # Not is_exporting(): some versions of torch.compile, such as 2.9, trace it as true.
    if torch.compiler._is_exporting_flag:
        return torch.ops.aten
    return eager if C is None else _ops


def mish(input: Tensor, inplace: bool = False, out: Tensor | None = None) -> Tensor:
    """Mish, ``x * tanh(softplus(x))``, elementwise (D. Misra, arXiv 1908.08681).

    Differs from ``torch.nn.functional.mish`` in its limits: mish(-inf) = -0, with slope 0;
    mish(+inf) = +inf, with slope 1.

    Args:
        input: float32, float64, float16 or bfloat16; any shape and strides.
        inplace: overwrite ``input`` with the result.
        out: the tensor to write the result to; dtype and device of ``input``. As in any torch
            function, ``out`` of another shape is resized with a warning, and gradients are refused.

    Returns:
        Shape and dtype of ``input``; differentiable any number of times.

    Raises:
        TypeError: ``input`` or ``out`` is not a tensor.
        NotImplementedError: ``input`` is integer, bool, complex, quantized or sparse.
        RuntimeError: ``out`` has another dtype or device than ``input``; the result would overwrite
            overlapping memory, or, in place, a leaf that requires grad; both ``inplace`` and
            ``out`` are given.
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
    """``mish(input, inplace=True)``: overwrites ``input`` and returns it.

    Args:
        input: float32, float64, float16 or bfloat16; any shape and strides.

    Returns:
        ``input``; differentiable any number of times, for which a copy of the old ``input`` is
        saved if gradients are needed.

    Raises:
        TypeError: ``input`` is not a tensor.
        NotImplementedError: ``input`` is integer, bool, complex, quantized or sparse.
        RuntimeError: elements of ``input`` overlap in memory; it is a leaf that requires grad.
    """
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
    """The implementation that computes ``mish(tensor)``.

    Args:
        tensor: of any shape and dtype; only its device matters.

    Returns:
        ``"cuda"`` or ``"cpu"`` for a kernel, ``"eager"`` for the same formula in torch calls.

    Raises:
        TypeError: ``tensor`` is not a tensor.
    """
    eager.check_tensor("tensor", tensor)
    key = tensor.device.type.upper()
    kernels = ("CPU", "CUDA")
    if C is None or key not in kernels:
        return "eager"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("mish_cuda::mish", key)
    return tensor.device.type if has_kernel else "eager"


def mish_forward(input: Tensor, out: Tensor | None = None) -> Tensor:
    """``mish(input, out=out)``, under the old mish-cuda package's name."""
    return mish(input, out=out)


def mish_backward(input: Tensor, grad_out: Tensor) -> Tensor:
    """``grad_out * mish'(input)``, in the old mish-cuda package's order of arguments.

    The op ``torch.ops.mish_cuda.mish_backward`` takes ``grad_out`` first.

    Args:
        input: float32, float64, float16 or bfloat16; any shape and strides.
        grad_out: shape and device of ``input``, real, dense or sparse. It may have another dtype,
            since torch's autograd makes such gradients.

    Returns:
        Shape of ``input``, dtype ``torch.result_type(grad_out, input)``; sparse if ``grad_out`` is;
        differentiable any number of times.

    Raises:
        TypeError: an argument is not a tensor.
        NotImplementedError: ``input`` is integer, bool, complex, quantized or sparse.
        RuntimeError: ``grad_out`` has another shape or device than ``input``, or is complex.
    """
    if is_compiling() and (C is not None or torch.compiler._is_exporting_flag):
        return _traced().mish_backward(grad_out, input)  # type: ignore[no-any-return]
    if C is None:
        return eager.input_gradient(grad_out, input)
    return C.mish_backward(input, grad_out)  # type: ignore[no-any-return]


class MishCudaFunction:
    """Stands in for the old mish-cuda package's autograd function; it has only ``apply``."""

    @staticmethod
    def apply(input: Tensor) -> Tensor:
        """``mish(input)``: the same shapes, dtypes and errors."""
        return mish(input)
