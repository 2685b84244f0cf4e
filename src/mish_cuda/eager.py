"""Mish in torch calls: for any device, and where there is no compiled extension.

The formulas, their limits and their derivation are those of ``csrc/mish_math.h``; 16-bit tensors
are computed in float32 and rounded once. Like the kernels, differentiating saves only the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.jit import is_tracing  # type: ignore[attr-defined]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check(input: Tensor) -> None:
    """Raises unless ``input`` is a strided or jagged tensor of one of ``DTYPES``.

    Raises:
        TypeError: not a tensor.
        NotImplementedError: another dtype or layout.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"mish: expected a torch.Tensor, got {type(input).__name__}.")
    if input.dtype not in DTYPES:
        raise NotImplementedError(
            f"mish: expected a float32, float64, float16 or bfloat16 tensor, got {input.dtype}. "
            "Convert it first, for example with input.float()."
        )
    if input.layout not in (torch.strided, torch.jagged):  # jagged: its ops are those of its values
        raise NotImplementedError(
            f"mish: expected a strided tensor, got layout {input.layout}. "
            "Convert it first, for example with input.to_dense()."
        )


def check_dtype_and_device(name: str, other: Tensor, input: Tensor) -> None:
    """Raises unless ``other`` is a tensor (TypeError) of the dtype and device of ``input``
    (RuntimeError)."""
    if not isinstance(other, Tensor):
        raise TypeError(f"mish: expected {name} to be a torch.Tensor, got {type(other).__name__}.")
    if other.dtype != input.dtype:
        raise RuntimeError(
            f"mish: expected {name} to have the dtype of the input, {input.dtype}, "
            f"got {other.dtype}."
        )
    if other.device != input.device:
        raise RuntimeError(
            f"mish: expected {name} to be on the device of the input, {input.device}, "
            f"got {other.device}."
        )


def check_like(name: str, other: Tensor, input: Tensor) -> None:
    """Raises unless ``other`` is like ``input`` in all but its values and strides."""
    check_dtype_and_device(name, other, input)
    if other.layout != input.layout:
        raise RuntimeError(
            f"mish: expected {name} to have the layout of the input, {input.layout}, "
            f"got {other.layout}."
        )
    if other.shape != input.shape:
        raise RuntimeError(
            f"mish: expected {name} to have the shape of the input, {list(input.shape)}, "
            f"got {list(other.shape)}."
        )


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in the type it is computed in."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _narrow(result: Tensor, dtype: torch.dtype) -> Tensor:
    """The result in its own type. Without a change none is asked for: with torch 2.11, an autograd
    function that ends in such a conversion gets zero gradients under torch.compile."""
    return result if result.dtype == dtype else result.to(dtype)


# e^x is 0 at the first bound, so that f(-inf) = -0; tanh(softplus(x)) rounds to 1 at the second.
def _bounds(x: Tensor) -> tuple[float, float]:
    return (-746.0, 22.0) if x.dtype == torch.float64 else (-104.0, 20.0)


def _terms(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x between the bounds, e = e^x, and 1 / D with D = (e + 1)^2 + 1."""
    inside = x.clamp(*_bounds(x))
    e = inside.exp()
    return inside, e, (e * (e + 2) + 2).reciprocal()


def value(input: Tensor) -> Tensor:
    """f(x), shape and dtype of ``input``; differentiable any number of times."""
    x = _wide(input)
    inside, e, r = _terms(x)
    return _narrow(torch.where(x > _bounds(x)[1], x, inside * (e * (e + 2) * r)), input.dtype)


def _slope(x: Tensor) -> Tensor:
    inside, e, r = _terms(x)
    return e * (e + 2) * r + inside * (4 * (e * r) * ((e + 1) * r))


def _curvature(x: Tensor) -> Tensor:
    inside, e, r = _terms(x)
    cubic = ((-2 * e - 3) * e + 2) * e + 2
    result = 4 * (e * r) * (2 * ((e + 1) * r) + inside * (cubic * r * r))
    return torch.where(x > _bounds(x)[1], 0, result)


def backward(grad_output: Tensor, input: Tensor) -> Tensor:
    """g f'(x), rounded once."""
    return _narrow(_slope(_wide(input)) * _wide(grad_output), input.dtype)


def double_backward(grad_grad_input: Tensor, grad_output: Tensor, input: Tensor) -> Tensor:
    """h g f''(x), rounded once; differentiable any number of times."""
    product = _wide(grad_grad_input) * _wide(grad_output)
    return _narrow(_curvature(_wide(input)) * product, input.dtype)


# Torch's own derivative of value() would save eight tensors instead of one: hence the functions
# below. Each comes twice, since torch.compile refuses one that has a jvp. Under torch.func neither
# serves: a jvp of a jvp would be zero, so there the maths is differentiated as it stands.
_under_torch_func = torch._C._are_functorch_transforms_active


class _CompiledBackward(torch.autograd.Function):
    """g f'(x); its own derivative is in torch maths, so that any order follows."""

    @staticmethod
    def forward(grad_output: Tensor, input: Tensor) -> Tensor:
        return backward(grad_output, input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        grad_output, input = ctx.saved_tensors
        needs_grad_output, needs_input = ctx.needs_input_grad
        return (
            backward(h, input) if needs_grad_output else None,
            double_backward(h, grad_output, input) if needs_input else None,
        )


class _Backward(_CompiledBackward):
    @staticmethod
    def jvp(ctx: Any, d_grad_output: Tensor | None, d_input: Tensor | None) -> Any:  # type: ignore[override]
        grad_output, input = ctx.saved_tensors
        terms = []
        if d_grad_output is not None:
            terms.append(backward(d_grad_output, input))
        if d_input is not None:
            terms.append(double_backward(d_input, grad_output, input))
        return sum(terms[1:], start=terms[0])


class _CompiledForward(torch.autograd.Function):
    """f(x), saving x."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return value(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        return backward(grad_output, *ctx.saved_tensors)


class _Forward(_CompiledForward):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        return _Backward.apply(grad_output, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, d_input: Tensor) -> Any:  # type: ignore[override]
        return _Backward.apply(d_input, *ctx.saved_tensors)


def mish(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``mish_cuda.mish(input, out=out)`` in torch calls."""
    check(input)
    if out is not None:
        return mish_out(input, out)
    if is_compiling():
        return _CompiledForward.apply(input)  # type: ignore[no-any-return]
    # What torch.jit.trace makes of an autograd function cannot be saved.
    if _under_torch_func() or is_tracing():
        return value(input)
    return _Forward.apply(input)  # type: ignore[no-any-return]


def mish_(input: Tensor) -> Tensor:
    """``mish_cuda.mish_(input)`` in torch calls."""
    check(input)
    # What derivatives need of the input has to outlive it. Whether there will be any cannot be
    # asked of the input: under torch.func another level may be the one that differentiates.
    # And torch.jit.trace compares the graphs that it gets with and without gradients.
    saved = input.clone() if torch.is_grad_enabled() or is_tracing() else input
    return input.copy_(mish(saved))


def mish_out(input: Tensor, out: Tensor) -> Tensor:
    """``mish_cuda.mish(input, out=out)`` in torch calls."""
    check(input)
    check_dtype_and_device("out", out, input)
    return torch.mul(mish(input), 1, out=out)


def mish_backward(grad_output: Tensor, input: Tensor) -> Tensor:
    """``torch.ops.mish_cuda.mish_backward(grad_output, input)`` in torch calls."""
    check(input)
    check_like("grad_output", grad_output, input)
    if is_compiling():
        return _CompiledBackward.apply(grad_output, input)  # type: ignore[no-any-return]
    if _under_torch_func():
        return backward(grad_output, input)
    return _Backward.apply(grad_output, input)  # type: ignore[no-any-return]
