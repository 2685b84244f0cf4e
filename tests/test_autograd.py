"""Derivatives: of every order, in both modes, through views and writes in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import layouts
import reference
from conftest import Path


def normal(*sizes: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return layouts.normal(sizes, dtype, device, seed)


def leaf(*sizes: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return normal(*sizes, device=device, dtype=dtype, seed=seed).requires_grad_()


def slope(x: Tensor) -> Tensor:
    return reference.mish(x, 1).to(x.device, x.dtype)


def out_of_place(path: Path, x: Tensor) -> Tensor:
    return path.mish(x)


def in_place(path: Path, x: Tensor) -> Tensor:
    """mish_ of a copy: x is still there to differentiate by."""
    return path.mish_(x.clone())


def in_place_of_views(path: Path, x: Tensor) -> Tensor:
    """mish_ of both halves of a copy, each of which changes the graph of the whole."""
    y = x.clone()
    path.mish_(y[..., ::2])
    path.mish_(y[..., 1::2])
    return y


Function = Callable[[Path, Tensor], Tensor]
EVERY_FUNCTION = pytest.mark.parametrize("function", [out_of_place, in_place, in_place_of_views])


# --- The numbers ---


@EVERY_FUNCTION
def test_gradcheck(path: Path, device: str, function: Function) -> None:
    x = leaf(3, 7, device=device)
    assert gradcheck(
        lambda x: function(path, x),
        x,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@EVERY_FUNCTION
def test_gradgradcheck(path: Path, device: str, function: Function) -> None:
    x = leaf(2, 5, device=device)
    assert gradgradcheck(
        lambda x: function(path, x), x, check_fwd_over_rev=True, check_rev_over_rev=True
    )


def test_backward_op_gradcheck(path: Path, device: str) -> None:
    operands = [leaf(2, 4, device=device, seed=seed) for seed in range(2)]
    assert gradcheck(path.mish_backward, operands, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(path.mish_backward, operands, check_fwd_over_rev=True)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_double_backward_op_gradcheck(path: Path, device: str, needed: tuple[int, ...]) -> None:
    operands = [normal(2, 3, device=device, seed=i).requires_grad_(i in needed) for i in range(3)]
    assert gradcheck(path.mish_double_backward, operands, check_forward_ad=True)
    assert gradgradcheck(path.mish_double_backward, operands)


@pytest.mark.parametrize("needed", ["g", "x"])
def test_backward_op_differentiates_by_one_argument(path: Path, device: str, needed: str) -> None:
    g, x = (normal(4, device=device).requires_grad_(name == needed) for name in "gx")
    h = normal(4, device=device, seed=1)
    (result,) = grad(path.mish_backward(g, x), g if needed == "g" else x, h)
    order = 1 if needed == "g" else 2
    factor = h if needed == "g" else h * g
    torch.testing.assert_close(result, factor * reference.mish(x, order).to(device))


@EVERY_FUNCTION
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_any_order(path: Path, device: str, function: Function, order: int) -> None:
    points = [-20.0, -3.0, reference.MINIMUM, -0.1, 0.0, 0.7, 5.0, 19.0]
    x = torch.tensor(points, dtype=torch.float64, device=device, requires_grad=True)
    y = function(path, x)
    for _ in range(order):
        (y,) = grad(y.sum(), x, create_graph=True)
    with mpmath.workdps(60):
        exact = [
            float(mpmath.diff(lambda t: reference.chain_rule(t, 0, mpmath), point, order))
            for point in points
        ]
    torch.testing.assert_close(y.tolist(), exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_limits(path: Path, device: str, dtype: torch.dtype, order: int) -> None:
    """As the ops' own: finite at infinity, where torch's formulas give NaN."""
    lower, upper = [-torch.inf, -1e4, -2e3, -760.0], [22.5, 45.0, 89.0, 1e4, torch.inf]
    x = torch.tensor([*lower, *upper], dtype=dtype, device=device, requires_grad=True)
    y = path.mish(x)
    for _ in range(order):
        (y,) = grad(y, x, torch.ones_like(y), create_graph=True)
    expected = torch.tensor([0.0] * 4 + [1.0 if order == 1 else 0.0] * 5, dtype=dtype)
    assert y.tolist() == expected.tolist()


@pytest.mark.parametrize("order", [1, 2])
def test_nan_stays_nan(path: Path, device: str, dtype: torch.dtype, order: int) -> None:
    x = torch.tensor([torch.nan, 1.0], dtype=dtype, device=device, requires_grad=True)
    y = path.mish(x)
    for _ in range(order):
        (y,) = grad(y, x, torch.ones_like(y), create_graph=True)
    assert y.isnan().tolist() == [True, False]


@EVERY_FUNCTION
def test_every_dtype(path: Path, device: str, dtype: torch.dtype, function: Function) -> None:
    x = leaf(50, dtype=dtype, device=device)
    y = function(path, x)
    g = normal(50, dtype=dtype, device=device, seed=1)
    (result,) = grad(y, x, g)
    assert y.dtype == result.dtype == dtype
    expected = g.double() * slope(x.detach().double())
    torch.testing.assert_close(result, expected.to(dtype))


@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, *layouts.OVERLAPPING])
def test_every_layout(path: Path, device: str, layout: str) -> None:
    x = layouts.make(layout, torch.float64, device, fill=layouts.normal).requires_grad_()
    y = path.mish(x)
    g = torch.randn_like(y)
    (result,) = grad(y, x, g, retain_graph=True)
    torch.testing.assert_close(result, g * slope(x))
    (of_sum,) = grad(y.sum(), x)
    torch.testing.assert_close(of_sum, slope(x))


# --- Forward mode ---


@EVERY_FUNCTION
def test_tangent(path: Path, device: str, dtype: torch.dtype, function: Function) -> None:
    x, tangent = (normal(40, device=device, dtype=dtype, seed=seed) for seed in range(2))
    with fwAD.dual_level():
        result = fwAD.unpack_dual(function(path, fwAD.make_dual(x, tangent)))
        assert result.primal.dtype == result.tangent.dtype == dtype
        torch.testing.assert_close(result.primal, path.mish(x))
        expected = tangent.double() * slope(x.double())
        torch.testing.assert_close(result.tangent, expected.to(dtype))


def test_no_tangent_without_one(path: Path, device: str) -> None:
    with fwAD.dual_level():
        assert fwAD.unpack_dual(path.mish(normal(3, device=device))).tangent is None


def test_in_place_moves_the_tangent_of_the_base(path: Path, device: str) -> None:
    x, tangent = normal(6, device=device), normal(6, device=device, seed=1)
    with fwAD.dual_level():
        dual = fwAD.make_dual(x.clone(), tangent.clone())
        path.mish_(dual[::2])
        result = fwAD.unpack_dual(dual)
        assert result.tangent is not None
        torch.testing.assert_close(result.tangent[::2], (tangent * slope(x))[::2])
        torch.testing.assert_close(result.tangent[1::2], tangent[1::2])


@EVERY_FUNCTION
def test_reverse_over_forward(path: Path, device: str, function: Function) -> None:
    x, tangent = leaf(5, device=device), leaf(5, device=device, seed=1)
    with fwAD.dual_level():
        result = fwAD.unpack_dual(function(path, fwAD.make_dual(x, tangent))).tangent
    assert result is not None
    by_x, by_tangent = grad(result.sum(), [x, tangent])
    torch.testing.assert_close(by_x, tangent * reference.mish(x, 2).to(device))
    torch.testing.assert_close(by_tangent, slope(x))


@EVERY_FUNCTION
def test_forward_over_reverse(path: Path, device: str, function: Function) -> None:
    x, tangent = leaf(5, device=device), normal(5, device=device, seed=1)
    with fwAD.dual_level():
        dual = fwAD.make_dual(x, tangent)
        (gradient,) = grad(function(path, dual).sum(), dual, create_graph=True)
        result = fwAD.unpack_dual(gradient).tangent
    torch.testing.assert_close(result, tangent * reference.mish(x, 2).to(device))


# --- What is kept for the backward pass ---


def saved_by(function: Callable[[], Any]) -> list[Tensor]:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
        assert result.requires_grad
    return saved


def test_forward_saves_only_its_input(path: Path, device: str, dtype: torch.dtype) -> None:
    x = leaf(10, device=device, dtype=dtype)
    (saved,) = saved_by(lambda: path.mish(x))
    assert saved.data_ptr() == x.data_ptr()


def test_backward_saves_only_its_inputs(path: Path, device: str) -> None:
    g, x = (leaf(10, device=device, seed=seed) for seed in range(2))
    saved = saved_by(lambda: path.mish_backward(g, x))
    assert [t.data_ptr() for t in saved] == [g.data_ptr(), x.data_ptr()]


def test_in_place_saves_one_copy_of_its_input(path: Path, device: str) -> None:
    x = leaf(10, device=device)
    y = x * 1
    saved = saved_by(lambda: path.mish_(y))
    assert len(saved) == 1
    torch.testing.assert_close(saved[0], x)


def test_result_is_not_needed_for_the_gradient(path: Path, device: str) -> None:
    x = leaf(10, device=device)
    y = path.mish(x)
    y.mul_(2)
    torch.testing.assert_close(grad(y.sum(), x)[0], 2 * slope(x))


def test_a_changed_input_is_noticed(path: Path, device: str) -> None:
    x = leaf(10, device=device)
    y = x * 1
    z = path.mish(y)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_in_place_is_noticed_by_whom_it_concerns(path: Path, device: str) -> None:
    x = leaf(10, device=device)
    y = x.exp()  # saves its result
    path.mish_(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_writes_count_up_the_version(path: Path, device: str) -> None:
    x, out = normal(10, device=device), normal(10, device=device)
    for write in (lambda t: path.mish_(t), lambda t: path.mish_out(x, t)):
        view, before = out[2:], out._version
        write(out)
        assert out._version == view._version == before + 1
    before = x._version
    path.mish(x)
    path.mish_backward(x, x)
    assert x._version == before


def test_graph_is_freed_unless_retained(path: Path, device: str) -> None:
    x = leaf(10, device=device)
    y = path.mish(x).sum()
    for _ in range(2):
        y.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 2 * slope(x))
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_gradient_of_a_gradient_penalty(path: Path, device: str) -> None:
    """As a training step takes it, against torch's own maths."""
    results = []
    for function in (path.mish, F.mish):
        x = leaf(4, 6, device=device)
        weight = leaf(6, 3, device=device, seed=1)
        (gradient,) = grad(function(x @ weight).sum(), x, create_graph=True)
        gradient.square().sum().backward()
        results.append((x.grad, weight.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(path: Path, device: str, reentrant: bool) -> None:
    x = leaf(10, device=device)
    y = checkpoint(lambda x: path.mish_(path.mish(x) * 3), x, use_reentrant=reentrant)
    assert isinstance(y, Tensor)
    y.sum().backward()
    expected = slope(x) * 3 * slope(3 * reference.mish(x).to(device))
    torch.testing.assert_close(x.grad, expected)


def test_no_gradient_from_above(path: Path, device: str) -> None:
    """A later function may have none to give."""

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.set_materialize_grads(False)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> None:
            return None

    x, g = (leaf(3, device=device, seed=seed) for seed in range(2))
    for y in (path.mish(x), path.mish_backward(g, x)):
        for gradient in grad(Stop.apply(y).sum(), [g, x], allow_unused=True):
            assert gradient is None or not gradient.any()


# --- Where nothing is recorded, and where writing is refused ---


def test_no_grad_records_nothing(path: Path, device: str) -> None:
    x = leaf(3, device=device)
    with torch.no_grad():
        assert not path.mish(x).requires_grad
        path.mish_(x)  # allowed for a leaf, as in an optimiser
        path.mish_out(x, torch.empty_like(x))
    assert x.requires_grad
    assert x.is_leaf


def test_inference_mode(path: Path, device: str) -> None:
    x = normal(3, device=device)
    with torch.inference_mode():
        y = path.mish(x)
        assert y.is_inference()
        path.mish_(y)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        path.mish_(y)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        path.mish_backward(leaf(3, device=device), y)


def test_input_without_gradient_makes_no_graph(path: Path, device: str) -> None:
    y = path.mish(normal(3, device=device))
    assert not y.requires_grad
    assert y.grad_fn is None


def leaf_view(x: Tensor) -> Tensor:
    return x[1:]


def one_of_many_views(x: Tensor) -> Tensor:
    return (x * 1).unbind()[0]


def view_made_without_grad(x: Tensor) -> Tensor:
    y = x * 1
    with torch.no_grad():
        return y[1:]


@pytest.mark.parametrize(
    "view", [lambda x: x, leaf_view, one_of_many_views, view_made_without_grad]
)
def test_in_place_is_refused_where_torch_refuses_it(
    path: Path, device: str, view: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(RuntimeError) as torchs:
        F.mish(view(leaf(3, 4, device=device)), inplace=True)
    with pytest.raises(RuntimeError) as ours:
        path.mish_(view(leaf(3, 4, device=device)))
    assert str(ours.value)[:60] == str(torchs.value)[:60]
