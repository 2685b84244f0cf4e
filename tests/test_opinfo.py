"""What PyTorch's own test suite holds about F.mish and nn.Mish, held against this library.

Its entries for them (an OpInfo and a ModuleInfo) bring inputs and say what has to be supported.
They are private to torch and need `expecttest`; where either is missing, the tests are skipped.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap

import mish_cuda
import reference
from conftest import ORDERS, Path


class Suite:
    """The part of torch's test suite that is used here."""

    def __init__(self) -> None:
        from torch.testing._internal import common_methods_invocations as functions
        from torch.testing._internal import common_modules as modules
        from torch.testing._internal import composite_compliance
        from torch.testing._internal.opinfo import core

        (self.op,) = (op for op in functions.op_db if op.name == "nn.functional.mish")
        (self.module,) = (info for info in modules.module_db if info.module_cls is nn.Mish)
        self.compliance: Any = composite_compliance
        self.large = core.generate_elementwise_unary_large_value_tensors
        self.small = core.generate_elementwise_unary_small_value_tensors
        self.extremal = core.generate_elementwise_unary_extremal_value_tensors


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Imported by the first test that needs it: it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        # Else it forbids the whole process to set the flags of torch.backends.
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        try:
            return Suite()
        except ImportError as error:
            pytest.skip(f"torch's test suite cannot be imported: {error}")


@pytest.fixture
def info(suite: Suite, path: Path) -> Any:
    """The entry of F.mish, as one of `path`."""
    ours = copy.copy(suite.op)
    ours.op, ours.inplace_variant = path.mish, path.mish_
    return ours


def inputs(samples: Iterator[Any]) -> Iterator[Tensor]:
    """The tensors of samples; other arguments there are none.

    Of those with a million elements the first hundred rows: strided as the whole, and still enough
    for several threads.
    """
    for sample in samples:
        assert (sample.args, sample.kwargs) == ((), {})
        x = sample.input
        yield x[:100] if x.numel() > 500_000 else x


def torchs(x: Tensor, order: int) -> Tensor:
    """F.mish of x or one of its derivatives, in float64."""
    x = x.detach().double().requires_grad_()
    y = F.mish(x)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.detach()


def expected(x: Tensor, order: int) -> Tensor:
    """What F.mish has at finite x and NaN, and the limits at ±inf."""
    result, x = torchs(x, order), x.detach().double()
    ends = {v: torch.full_like(x, reference.limit(v, order)) for v in (torch.inf, -torch.inf)}
    for end, limit in ends.items():
        result = torch.where(x == end, limit, result)
    # F.mish's second derivative is NaN where e^x is infinite.
    return torch.where(x > 700, 0.0, result) if order == 2 else result


def assert_near(result: Tensor, expected: Tensor) -> None:
    """To 4.5 ULP, which the eager path takes in float32, or 1 of those at 1 if smaller."""
    eps = torch.finfo(result.dtype).eps
    if result.dtype == torch.float64:  # in which F.mish itself is off by up to 2e-15
        eps *= 16
    torch.testing.assert_close(result.double(), expected, rtol=4.5 * eps, atol=eps, equal_nan=True)


def test_dtypes_are_those_of_torchs(info: Any, device: str) -> None:
    assert set(info.supported_dtypes(device)) == set(reference.DTYPES)
    for dtype in reference.DTYPES:
        assert info.op(torch.ones(2, dtype=dtype, device=device)).dtype == dtype


# --- Values and derivatives on torch's inputs ---


@ORDERS
def test_reference_inputs(
    info: Any, path: Path, device: str, dtype: torch.dtype, order: int
) -> None:
    """Of every shape; slices, expanded and overlapping views."""
    count = 0
    for x in inputs(info.reference_inputs(device, dtype)):
        result = path.derivative(x, order)
        assert (result.shape, result.dtype) == (x.shape, dtype)
        assert_near(result, expected(x, order))
        count += 1
    assert count > 20


@ORDERS
@pytest.mark.parametrize("size", ["small", "large"])
def test_small_and_large_values(
    suite: Suite, path: Path, device: str, dtype: torch.dtype, order: int, size: str
) -> None:
    for x in inputs(getattr(suite, size)(suite.op, device=device, dtype=dtype)):
        assert_near(path.derivative(x, order), expected(x, order))


@ORDERS
def test_extremal_values(
    suite: Suite, path: Path, device: str, dtype: torch.dtype, order: int
) -> None:
    """F.mish is NaN at ±inf but for its value at +inf: README, "Differences from F.mish"."""
    seen = set()
    for x in inputs(suite.extremal(suite.op, device=device, dtype=dtype)):
        result, theirs = path.derivative(x, order), torchs(x, order)
        assert_near(result, expected(x, order))
        if order == 0:
            assert result[x == -torch.inf].signbit().all()  # -0
        # Should torch mend this one day, that table in the README is to be shortened.
        differs = x == -torch.inf if order == 0 else x.isinf()
        assert theirs[differs].isnan().all()
        seen |= {str(v) for v in x.flatten().tolist()}
    assert seen >= {"inf", "-inf", "nan"}


def test_variants_agree(info: Any, path: Path, device: str, dtype: torch.dtype) -> None:
    """The function, in place and with out, to the last bit."""
    for x in inputs(info.reference_inputs(device, dtype)):
        result = info.op(x)
        y = x.clone()
        assert info.inplace_variant(y) is y
        assert reference.same_bits(y, result)
        out = torch.empty_like(result)
        assert path.mish_out(x, out) is out
        assert reference.same_bits(out, result)


def test_noncontiguous_samples(info: Any, device: str, dtype: torch.dtype) -> None:
    """Value and gradient of a sample are those of its contiguous copy, to the last bit."""
    for sample in info.sample_inputs(device, dtype, requires_grad=True):
        results = []
        for x in (sample.input, sample.noncontiguous().input):
            y = info.op(x)
            (gradient,) = torch.autograd.grad(y, x, torch.full_like(y, 0.7))
            results.append((y, gradient))
        for contiguous, other in zip(*results, strict=True):
            assert reference.same_bits(contiguous, other)


def test_negated_views(info: Any, device: str) -> None:
    """Tensors whose minus sign is a bit of the tensor, not of its numbers."""
    assert info.test_neg_view
    for x in inputs(info.sample_inputs(device, torch.float64)):
        negated = torch._neg_view(x)
        assert negated.is_neg()
        assert reference.same_bits(info.op(negated), info.op(-x))
        y = torch._neg_view(-x)  # the numbers of x
        info.inplace_variant(y)
        assert reference.same_bits(y.resolve_neg(), info.op(x))


def test_lazy_copies_stay_lazy(info: Any, device: str) -> None:
    """A copy on write is not made by who only reads: forward, and backward."""
    assert info.supports_cow_input_no_materialize_forward
    assert info.supports_cow_input_no_materialize_backward
    for x in inputs(info.sample_inputs(device, torch.float32)):
        if not x.numel():
            continue
        lazy, g = torch._lazy_clone(x), torch._lazy_clone(torch.ones_like(x))
        lazy.requires_grad_()
        info.op(lazy).backward(g)
        assert torch._C._is_cow_tensor(lazy)
        assert torch._C._is_cow_tensor(g)
        copied = torch._lazy_clone(x)
        info.inplace_variant(copied)
        assert not torch._C._is_cow_tensor(copied)
        assert not reference.same_bits(copied, x)


# --- What the entry says is supported ---


@pytest.fixture(params=["op", "inplace"])
def variant(request: pytest.FixtureRequest, info: Any) -> Callable[[Tensor], Tensor]:
    if request.param == "op":
        return info.op  # type: ignore[no-any-return]
    return lambda x: info.inplace_variant(x.clone())


def samples_to_differentiate(info: Any, device: str) -> Iterator[Tensor]:
    for sample in info.sample_inputs(device, torch.float64, requires_grad=True):
        yield sample.input
        yield sample.noncontiguous().input


def test_gradcheck(info: Any, variant: Callable[[Tensor], Tensor], device: str) -> None:
    assert info.supports_autograd
    assert info.supports_inplace_autograd
    assert info.supports_forward_ad
    for x in samples_to_differentiate(info, device):
        gradcheck(
            variant,
            x,
            check_forward_ad=True,
            check_batched_grad=info.check_batched_grad,
            check_batched_forward_grad=info.check_batched_forward_grad,
            fast_mode=True,
        )


def test_gradgradcheck(info: Any, variant: Callable[[Tensor], Tensor], device: str) -> None:
    """Reverse over reverse, and forward over reverse."""
    assert info.supports_gradgrad
    assert info.supports_fwgrad_bwgrad
    for x in samples_to_differentiate(info, device):
        gradgradcheck(
            variant,
            x,
            check_fwd_over_rev=True,
            check_rev_over_rev=True,
            check_batched_grad=info.check_batched_gradgrad,
            fast_mode=True,
        )


def test_jvp(info: Any, variant: Callable[[Tensor], Tensor], device: str) -> None:
    for x in inputs(info.sample_inputs(device, torch.float32)):
        tangent = torch.randn_like(x)
        value, result = jvp(variant, (x,), (tangent,))
        assert reference.same_bits(value, info.op(x))
        assert_near(result, tangent.double() * expected(x, 1))


def test_vmap(info: Any, variant: Callable[[Tensor], Tensor], device: str) -> None:
    """Over each dimension, and over a dimension that only the batch has."""
    for x in inputs(info.sample_inputs(device, torch.float32)):
        result = info.op(x)
        for dim in range(x.dim()):
            if x.shape[dim]:
                assert reference.same_bits(vmap(variant, dim, dim)(x), result)
        batch = x.unsqueeze(0).expand(3, *x.shape)
        assert reference.same_bits(vmap(variant)(batch), info.op(batch))


def test_composite_compliance(suite: Suite, info: Any, device: str) -> None:
    """Operands wrapped in a subclass, in every combination: forward, backward, forward AD."""
    equal = functools.partial(torch.testing.assert_close, rtol=0, atol=0)
    for x in inputs(info.sample_inputs(device, torch.float64, requires_grad=True)):
        arguments = (info.op, (x,), {})
        suite.compliance.check_with_mode(*arguments, equal)
        suite.compliance.check_all_permutations(*arguments, equal)
        suite.compliance.check_backward_formula(*arguments, assert_equal_fn=equal)
        suite.compliance.check_forward_ad_formula(*arguments, assert_equal_fn=equal)


# --- The module's entry ---


@pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
@pytest.mark.parametrize("training", [True, False])
def test_module(
    suite: Suite, public: str, layer: type[nn.Module], training: bool, device: str
) -> None:
    info = suite.module
    for dtype in info.dtypes:
        for sample in info.module_inputs_func(
            info, device=device, dtype=dtype, requires_grad=True, training=training
        ):
            constructor, forward = sample.constructor_input, sample.forward_input
            module = layer(*constructor.args, **constructor.kwargs).to(device, dtype)
            module.train(training)
            (x,) = forward.args
            y = module(x, **forward.kwargs)
            torch.testing.assert_close(y, sample.reference_fn(module, x))
            in_place = layer(inplace=True)(x.detach().clone())
            assert reference.same_bits(in_place, y)
            if dtype == torch.float64:
                assert info.supports_gradgrad
                gradcheck(module, x, check_forward_ad=True, fast_mode=True)
                gradgradcheck(module, x, check_fwd_over_rev=True, fast_mode=True)
