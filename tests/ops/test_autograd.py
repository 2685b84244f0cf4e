"""Derivatives: of every order, in both modes, through views and writes in place."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

import layouts
import reference
from conftest import Implementation
from mish_cuda._bounds import EAGER_ON_CUDA, rows_of
from mish_cuda._textbook import derivatives


def leaf(*sizes: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return layouts.normal(sizes, dtype, device, seed).requires_grad_()


def in_place_of_views(impl: Implementation, x: Tensor) -> Tensor:
    """mish_ of both halves of a copy, each of which changes the graph of the whole."""
    y = x.clone()
    impl.mish_(y[..., ::2])
    impl.mish_(y[..., 1::2])
    return y


Function = Callable[..., Tensor]
FUNCTIONS: dict[str, Function] = {
    "mish": lambda impl, x: impl.mish(x),
    "mish_": lambda impl, x: impl.mish_(x.clone()),
    "mish_ of views": in_place_of_views,
}
EVERY_FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


# --- The numbers ---


# Of which operands of mish_backward and mish_double_backward gradients are asked for.
NEEDED = [(1, 0), (0, 1), (1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        *((function, (1,)) for function in FUNCTIONS.values()),
        *((Implementation.apply, needed) for needed in NEEDED),
    ],
    ids=[*FUNCTIONS, *map(str, NEEDED)],
)
def test_gradients(
    impl: Implementation, device: str, function: Function, needed: tuple[int, ...]
) -> None:
    """First and second ones against finite differences, in both modes and batched."""
    operands = [
        layouts.normal((5, 2), torch.float64, device, seed).t().requires_grad_(bool(need))
        for seed, need in enumerate(needed)
    ]

    def checked(*operands: Tensor) -> Tensor:
        return function(impl, *operands)

    assert gradcheck(
        checked,
        operands,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert gradgradcheck(checked, operands, check_fwd_over_rev=True, check_rev_over_rev=True)


@EVERY_FUNCTION
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_any_order(impl: Implementation, device: str, function: Function, order: int) -> None:
    points = [-20.0, -3.0, reference.MINIMUM, -0.1, 0.0, 0.7, 5.0, 19.0]
    x = torch.tensor(points, dtype=torch.float64, device=device, requires_grad=True)
    y = function(impl, x)
    for _ in range(order):
        (y,) = grad(y.sum(), x, create_graph=True)
    with mpmath.workdps(60):
        exact = [
            float(mpmath.diff(lambda t: derivatives(t, mpmath)[0], point, order))
            for point in points
        ]
    torch.testing.assert_close(y.tolist(), exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_limits(impl: Implementation, device: str, dtype: torch.dtype, order: int) -> None:
    """Finite at ±inf like those of the ops, where torch's formulas give NaN."""
    low, high = [-torch.inf, -1e4, -2e3, -760.0], [22.5, 45.0, 89.0, 1e4, torch.inf]
    x = torch.tensor([*low, *high, torch.nan], dtype=dtype, device=device, requires_grad=True)
    y = impl.mish(x)
    for _ in range(order):
        (y,) = grad(y, x, torch.ones_like(y), create_graph=True)
    *limits, at_nan = y.tolist()
    # CUDA's division by the compiler is not correctly rounded.
    exact = rows_of(impl.backend(x), device) != EAGER_ON_CUDA
    tolerance = 0.0 if exact else torch.finfo(dtype).eps
    expected = [0.0] * 4 + [1.0 if order == 1 else 0.0] * 5
    assert limits == pytest.approx(expected, rel=tolerance, abs=0)
    assert at_nan != at_nan


@EVERY_FUNCTION
def test_both_modes(
    impl: Implementation, device: str, dtype: torch.dtype, function: Function
) -> None:
    """A gradient, a tangent, and each of the other, in the dtype of the input."""
    x, tangent = (leaf(40, device=device, dtype=dtype, seed=seed) for seed in range(2))
    with fwAD.dual_level():
        assert fwAD.unpack_dual(function(impl, x)).tangent is None
        dual = fwAD.make_dual(x, tangent)
        y = function(impl, dual)
        (slope,) = grad(y.sum(), dual, create_graph=True)
        forward = fwAD.unpack_dual(y).tangent
        forward_over_reverse = fwAD.unpack_dual(slope).tangent
        torch.testing.assert_close(fwAD.unpack_dual(y).primal, impl.mish(x))
    assert forward is not None
    reverse_over_forward, by_tangent = grad(forward.sum(), [x, tangent])
    f1, f2 = (reference.mish(x, order) for order in (1, 2))
    for result, expected in (
        *((slope, f1), (forward, tangent.double() * f1), (by_tangent, f1)),
        *((forward_over_reverse, tangent.double() * f2), (reverse_over_forward, tangent * f2)),
    ):
        torch.testing.assert_close(result, expected.to(dtype))


# --- Tensors saved for the backward pass ---


def test_saved_tensors(impl: Implementation, device: str, dtype: torch.dtype) -> None:
    """The inputs alone, without a copy unless they are overwritten."""
    x, g = (leaf(10, device=device, dtype=dtype, seed=seed) for seed in range(2))
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        impl.mish(x)
        impl.mish_backward(g, x)
        impl.mish_(x * 1)
    assert [t.data_ptr() for t in saved[:3]] == [t.data_ptr() for t in (x, g, x)]
    assert len(saved) == 4
    assert torch.equal(saved[3], x)


def test_writes_count_up_the_version(impl: Implementation, device: str) -> None:
    x, out = (leaf(10, device=device).detach() for _ in range(2))
    for write in (impl.mish_, lambda t: impl.mish(x, out=t)):
        view, before = out[2:], out._version
        write(out)
        assert out._version == view._version == before + 1
    before = x._version
    impl.mish(x)
    impl.mish_backward(x, x)
    assert x._version == before


# --- Without a graph, and refused writes ---


def test_nothing_is_recorded_without_need(impl: Implementation, device: str) -> None:
    x = leaf(3, device=device)
    assert impl.mish(x.detach()).grad_fn is None
    with torch.no_grad():
        assert not impl.mish(x).requires_grad
        impl.mish_(x)  # allowed for a leaf, as in an optimiser
        impl.mish(x, out=torch.empty_like(x))
    assert x.requires_grad
    assert x.is_leaf


def test_inference_mode(impl: Implementation, device: str) -> None:
    x = leaf(3, device=device)
    with torch.inference_mode():
        y = impl.mish(x.detach())
        assert y.is_inference()
        impl.mish_(y)
    with pytest.raises(RuntimeError, match=r"(?i)inference tensor"):
        impl.mish_(y)
    with pytest.raises(RuntimeError, match=r"(?i)inference tensor"):
        impl.mish_backward(x, y)


def view_made_without_grad(x: Tensor) -> Tensor:
    y = x * 1
    with torch.no_grad():
        return y[1:]


@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x[1:], lambda x: (x * 1).unbind()[0], view_made_without_grad],
    ids=["leaf", "view of a leaf", "one of many views", "view made without grad"],
)
def test_in_place_is_refused_where_torch_refuses_it(
    impl: Implementation, device: str, view: Callable[[Tensor], Tensor]
) -> None:
    told = []
    for write in (lambda x: F.mish(x, inplace=True), impl.mish_):
        with pytest.raises(RuntimeError) as error:
            write(view(leaf(3, 4, device=device)))
        told.append(str(error.value)[:60])
    assert told[0] == told[1]
