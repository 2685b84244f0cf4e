"""Mish in torch calls: for any device, for compilers, and without the compiled extension.

The formulas and limits are those of ``csrc/mish_math.h``, where they are derived: a change there
needs the same change here. 16-bit tensors are computed in float32 and rounded once. Like the
kernels, these functions save only the input for their derivatives. Those with the argument
``differentiable`` compute the formula itself; torch may differentiate it, any number of times, only
where that argument is true.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.jit import is_tracing  # type: ignore[attr-defined]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensor(name: str, value: object) -> None:
    """Raises TypeError unless ``value``, called ``name`` in the message, is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"mish: expected {name} to be a torch.Tensor, got {type(value).__name__}. "
            "Convert a number, list or array first, with torch.as_tensor."
        )


def check(input: Tensor) -> None:
    """Raises unless ``input`` is a strided or jagged tensor of one of ``DTYPES``.

    Raises:
        TypeError: not a tensor.
        NotImplementedError: another dtype or layout.
    """
    check_tensor("input", input)
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


def _check_device(name: str, other: Tensor, input: Tensor) -> None:
    check_tensor(name, other)
    if other.device != input.device:
        raise RuntimeError(
            f"mish: expected {name} to be on the device of the input, {input.device}, "
            f"got {other.device}."
        )


def check_out(out: Tensor, input: Tensor) -> None:
    """Raises unless ``out`` is a tensor (TypeError) of the dtype and device of ``input``
    (RuntimeError)."""
    _check_device("out", out, input)
    if out.dtype != input.dtype:
        raise RuntimeError(
            f"mish: expected out to have the dtype of the input, {input.dtype}, got {out.dtype}."
        )


def check_like(name: str, other: Tensor, input: Tensor) -> None:
    """Raises unless ``other`` is a tensor (TypeError), real and of the device and shape of
    ``input`` (RuntimeError)."""
    _check_device(name, other, input)
    if other.is_complex():
        raise RuntimeError(
            f"mish: expected {name} to be real as the input, {input.dtype}, got {other.dtype}."
        )
    if other.shape != input.shape:
        raise RuntimeError(
            f"mish: expected {name} to have the shape of the input, {list(input.shape)}, "
            f"got {list(other.shape)}."
        )


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in the type it is computed in."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _promoted(*tensors: Tensor) -> tuple[list[Tensor], torch.dtype]:
    """The tensors in the type they are computed in, and the type that torch promotes them to.

    The result has the latter. It differs from the input's if a gradient or tangent has another
    type: forward mode makes float64 tangents of 0-dim float32 tensors.
    """
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    return [_wide(tensor.to(dtype)) for tensor in tensors], dtype


def _narrow(result: Tensor, dtype: torch.dtype) -> Tensor:
    """The result in `dtype`. A conversion to the same dtype is left out: with torch 2.11, an
    autograd function that ends in one gets zero gradients under torch.compile."""
    return result if result.dtype == dtype else result.to(dtype)


def _bounds(x: Tensor) -> tuple[float, float]:
    """Where e^x rounds to 0, so that f(-inf) = -0, and where tanh(softplus(x)) rounds to 1."""
    return (-746.0, 22.0) if x.dtype == torch.float64 else (-104.0, 20.0)


def _terms(x: Tensor, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x between the bounds, e = e^x, and 1 / D with D = (e + 1)^2 + 1."""
    low, high = _bounds(x)
    # Not clamp, whose derivative is 0 at NaN.
    inside = torch.where(x < low, low, torch.where(x > high, high, x))
    # The second e is the same, without a comparison before the call of exp: GCC makes such loops of
    # Inductor wait for the call before. But torch's derivative is 0 * e^x, NaN where e^x overflows.
    # (clamp, since Inductor stores an exp that two operations read in a buffer of its own.)
    e = inside.exp() if differentiable else x.exp().clamp(max=math.exp(high))
    return inside, e, (e * (e + 2) + 2).reciprocal()


def value(input: Tensor, *, differentiable: bool = False) -> Tensor:
    """f(x), shape and dtype of ``input``."""
    x = _wide(input)
    inside, e, r = _terms(x, differentiable)
    # Of the two forms of tanh(softplus(x)) = p r = 1 - 2 r, the first is exact to the last bits for
    # small e, and the derivatives that torch makes of the second lose nothing for large e.
    # (r + r, since torch 2.13 cannot compile jacfwd of jacfwd of a product with a Python number.)
    t = torch.where(x > 0, 1 - (r + r), e * (e + 2) * r)
    return _narrow(torch.where(x > _bounds(x)[1], x, inside * t), input.dtype)


def _slope(x: Tensor, differentiable: bool) -> Tensor:
    inside, e, r = _terms(x, differentiable)
    return e * (e + 2) * r + inside * (4 * (e * r) * ((e + 1) * r))


def _curvature(x: Tensor, differentiable: bool) -> Tensor:
    inside, e, r = _terms(x, differentiable)
    cubic = ((-2 * e - 3) * e + 2) * e + 2
    result = 4 * (e * r) * (2 * ((e + 1) * r) + inside * (cubic * r * r))
    return torch.where(x > _bounds(x)[1], 0, result)


def _sparse(function: Callable[..., Tensor], *gradients: Tensor, input: Tensor) -> Tensor:
    """``function``, which is linear in the gradients, of the elements of a sparse gradient."""
    product = functools.reduce(torch.mul, gradients).coalesce()
    values = product.values()
    ones = [torch.ones_like(values)] * (len(gradients) - 1)
    values = function(values, *ones, input.sparse_mask(product).values())
    return torch.sparse_coo_tensor(
        product.indices(), values, input.shape, check_invariants=False, is_coalesced=True
    )


def backward(grad_output: Tensor, input: Tensor, *, differentiable: bool = False) -> Tensor:
    """g f'(x), rounded once, in the type that torch promotes g and x to; sparse if g is."""
    if grad_output.is_sparse:
        return _sparse(backward, grad_output, input=input)
    (g, x), dtype = _promoted(grad_output, input)
    return _narrow(_slope(x, differentiable) * g, dtype)


def double_backward(
    grad_grad_input: Tensor, grad_output: Tensor, input: Tensor, *, differentiable: bool = False
) -> Tensor:
    """h g f''(x), rounded once, in the type that torch promotes the three to; sparse, and then not
    differentiable, if h or g is."""
    if grad_grad_input.is_sparse or grad_output.is_sparse:
        return _sparse(double_backward, grad_grad_input, grad_output, input=input)
    (h, g, x), dtype = _promoted(grad_grad_input, grad_output, input)
    return _narrow(_curvature(x, differentiable) * (h * g), dtype)


# Torch's own derivative of value() would save eight tensors instead of one: hence the functions
# below.
def _plain() -> bool:
    """Whether to compute value() itself: compilers choose what to save, torch.jit.trace could not
    save an autograd function, and under torch.func a jvp of its jvp would be zero."""
    return is_compiling() or is_tracing() or torch._C._are_functorch_transforms_active()


class _Backward(torch.autograd.Function):
    """g f'(x); its own derivatives are torch calls, so that any order follows."""

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
            backward(h, input, differentiable=True) if needs_grad_output else None,
            double_backward(h, grad_output, input, differentiable=True) if needs_input else None,
        )

    @staticmethod
    def jvp(ctx: Any, d_grad_output: Tensor | None, d_input: Tensor | None) -> Any:  # type: ignore[override]
        grad_output, input = ctx.saved_tensors
        terms = []
        if d_grad_output is not None:
            terms.append(backward(d_grad_output, input, differentiable=True))
        if d_input is not None:
            terms.append(double_backward(d_input, grad_output, input, differentiable=True))
        return sum(terms[1:], start=terms[0])


class _Forward(torch.autograd.Function):
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
        return _Backward.apply(grad_output, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, d_input: Tensor) -> Any:  # type: ignore[override]
        return _Backward.apply(d_input, *ctx.saved_tensors)


def _item(attribute: str, i: int) -> property:
    return property(lambda node: getattr(node, attribute)[i])


def _name_node(function: Any, name: str, *inputs: str) -> None:
    """Gives the nodes of ``function`` the name and attributes of the compiled ops' nodes."""
    node = function._backward_cls
    node.__name__ = name
    for i, input in enumerate(inputs):
        setattr(node, f"_saved_{input}", _item("saved_tensors", i))
        setattr(node, f"_raw_saved_{input}", _item("_raw_saved_tensors", i))


_name_node(_Forward, "MishCudaBackward", "self")
_name_node(_Backward, "MishCudaBackwardBackward", "grad_output", "self")


def mish(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``mish_cuda.mish(input, out=out)`` in torch calls."""
    check(input)
    if out is not None:
        return mish_out(input, out)
    if _plain():
        return value(input, differentiable=True)
    return _Forward.apply(input)  # type: ignore[no-any-return]


def mish_(input: Tensor) -> Tensor:
    """``mish_cuda.mish_(input)`` in torch calls."""
    check(input)
    # Derivatives need the old input. Whether there will be any does not follow from
    # input.requires_grad: under torch.func another level may differentiate. And torch.jit.trace
    # compares the graphs with and without gradients, which must be the same.
    saved = input.clone() if torch.is_grad_enabled() or is_tracing() else input
    return input.copy_(mish(saved))


def mish_out(input: Tensor, out: Tensor) -> Tensor:
    """``mish_cuda.mish(input, out=out)`` in torch calls."""
    check(input)
    check_out(out, input)
    return torch.mul(mish(input), 1, out=out)


def input_gradient(grad_output: Tensor, input: Tensor) -> Tensor:
    """The op ``torch.ops.mish_cuda.mish_backward(grad_output, input)`` in torch calls."""
    check(input)
    check_like("grad_output", grad_output, input)
    if _plain():
        return backward(grad_output, input, differentiable=True)
    return _Backward.apply(grad_output, input)  # type: ignore[no-any-return]
