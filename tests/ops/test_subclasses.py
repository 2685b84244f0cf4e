"""Overrides by __torch_function__: modes, subclasses of Tensor, objects that are no tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import mish_cuda
import reference
from conftest import Implementation

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": lambda x: mish_cuda.mish(x),
    "mish inplace": lambda x: mish_cuda.mish(x, inplace=True),
    "mish out": lambda x: mish_cuda.mish(x, out=x),
    "out alone": lambda x: mish_cuda.mish(x.as_subclass(Tensor), out=torch.empty_like(x)),
    "mish_": lambda x: mish_cuda.mish_(x),
    "Mish": lambda x: mish_cuda.Mish()(x),
    "MishCudaFunction": lambda x: mish_cuda.MishCudaFunction.apply(x),
    "mish_forward": lambda x: mish_cuda.mish_forward(x),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class ByTorch(TorchFunctionMode):
    """Puts torch's own Mish in place of this library's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (mish_cuda.mish, mish_cuda.mish_):
            return F.mish(args[0])
        return func(*args, **(kwargs or {}))


@EVERY_CALL
def test_function_mode(public: str, call: Callable[[Tensor], Tensor], device: str) -> None:
    """Sees every call, and may replace it."""
    x = torch.full((3,), -torch.inf, device=device)  # where the two differ
    with ByTorch():
        assert call(x.clone()).isnan().all()
    assert call(x).eq(0).all()


class Meters(Tensor):
    """A subclass that keeps an attribute through every function."""

    unit = ""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, Meters) and func in (mish_cuda.mish, mish_cuda.mish_):
            result.unit = "m"
        return result


@EVERY_CALL
def test_subclass(public: str, call: Callable[[Tensor], Tensor], device: str) -> None:
    x = torch.randn(5, device=device)
    expected = mish_cuda.mish(x)
    result = call(x.clone().as_subclass(Meters))
    assert isinstance(result, Meters)
    assert result.unit == "m"
    assert reference.same_bits(result.as_subclass(Tensor), expected)
    with torch._C.DisableTorchFunctionSubclass():
        assert type(mish_cuda.mish(x.as_subclass(Meters))) is Tensor


def test_gradient_of_a_subclass(public: str, device: str) -> None:
    x = torch.randn(5, device=device).as_subclass(Meters).requires_grad_()
    mish_cuda.Mish()(x).sum().backward()
    plain = x.detach().as_subclass(Tensor)
    torch.testing.assert_close(x.grad.as_subclass(Tensor), reference.mish(plain, 1).float())


class Instead:
    """No tensor, but it says what to call in place of a function of torch's or this library's."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func, args, kwargs or {}


def test_objects_that_are_no_tensors(public: str) -> None:
    """The call arrives as it was made, and nothing is computed."""
    x, out = Instead(), torch.empty(3)
    mish: Any = mish_cuda.mish
    mish_: Any = mish_cuda.mish_
    assert mish(x) == (mish, (x,), {"inplace": False, "out": None})
    assert mish(x, inplace=True) == (mish, (x,), {"inplace": True, "out": None})
    assert mish(x, out=out)[2]["out"] is out
    assert mish_(x) == (mish_, (x,), {})
    assert mish_cuda.Mish()(x) == mish(x)  # type: ignore[arg-type]


def test_parameters_and_buffers(public: str, device: str) -> None:
    """Subclasses of Tensor in name only."""
    for kind in (nn.Parameter, nn.Buffer):
        x = torch.randn(3, device=device)
        result = mish_cuda.mish(kind(x))
        assert type(result) is Tensor
        assert torch.equal(result, mish_cuda.mish(x))


def test_no_warnings(impl: Implementation, device: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        impl.mish(torch.randn(4, device=device, requires_grad=True)).sum().backward()
