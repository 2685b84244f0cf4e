"""torch.func: every transform, alone and nested, batched over any dimension."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import layouts
import reference
from conftest import Path


@pytest.fixture(autouse=True)
def no_slow_vmap() -> Iterator[None]:
    """Without a rule of its own an op is called once for every element of the batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")
        yield


@pytest.fixture
def x(device: str) -> Tensor:
    return layouts.normal((6,), torch.float64, device)


@pytest.fixture
def batch(device: str) -> Tensor:
    return layouts.normal((4, 5, 3), torch.float64, device, seed=1)


def derivative(x: Tensor, order: int) -> Tensor:
    return reference.exact(x.cpu(), order)[0].to(x.device)


def in_place(path: Path, x: Tensor) -> Tensor:
    return path.mish_(x.clone())


FUNCTIONS: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "mish": lambda path, x: path.mish(x),
    "mish_": in_place,
}
EVERY_FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
Function = Callable[[Path, Tensor], Tensor]


@EVERY_FUNCTION
def test_grad(path: Path, x: Tensor, function: Function) -> None:
    result = grad(lambda x: function(path, x).sum())(x)
    torch.testing.assert_close(result, derivative(x, 1))


@EVERY_FUNCTION
def test_grad_of_grad(path: Path, x: Tensor, function: Function) -> None:
    second = grad(lambda x: grad(lambda x: function(path, x).sum())(x).sum())
    torch.testing.assert_close(second(x), derivative(x, 2))


def slope(transform: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of an elementwise function by one of torch.func's transforms."""
    if transform == "jvp":
        return lambda x: jvp(function, (x,), (torch.ones_like(x),))[1]
    outer = {"grad": grad, "jacrev": jacrev, "jacfwd": jacfwd}[transform]
    return outer(lambda x: function(x).sum())


@pytest.mark.parametrize(
    "transforms", list(itertools.product(["grad", "jvp", "jacrev", "jacfwd"], repeat=3))
)
def test_third_order_by_every_nesting(path: Path, x: Tensor, transforms: tuple[str, ...]) -> None:
    third = path.mish
    for transform in transforms:
        third = slope(transform, third)
    step = 1e-5
    numerical = (derivative(x + step, 2) - derivative(x - step, 2)) / (2 * step)
    torch.testing.assert_close(third(x), numerical, rtol=1e-6, atol=1e-8)


@EVERY_FUNCTION
def test_vjp(path: Path, x: Tensor, function: Function) -> None:
    value, pull = vjp(lambda x: function(path, x), x)
    g = torch.linspace(-1, 1, 6, dtype=x.dtype, device=x.device)
    torch.testing.assert_close(value, derivative(x, 0))
    torch.testing.assert_close(pull(g)[0], g * derivative(x, 1))


@EVERY_FUNCTION
def test_jvp(path: Path, x: Tensor, function: Function) -> None:
    tangent = torch.linspace(-1, 1, 6, dtype=x.dtype, device=x.device)
    value, result = jvp(lambda x: function(path, x), (x,), (tangent,))
    torch.testing.assert_close(value, derivative(x, 0))
    torch.testing.assert_close(result, tangent * derivative(x, 1))


def test_jvp_of_the_backward_op(path: Path, x: Tensor) -> None:
    g, dg, dx = (layouts.normal((6,), x.dtype, str(x.device), seed=seed) for seed in (1, 2, 3))
    _, result = jvp(path.mish_backward, (g, x), (dg, dx))
    expected = dg * derivative(x, 1) + dx * g * derivative(x, 2)
    torch.testing.assert_close(result, expected)


def test_linearize(path: Path, x: Tensor) -> None:
    value, push = linearize(path.mish, x)
    torch.testing.assert_close(value, derivative(x, 0))
    torch.testing.assert_close(push(torch.ones_like(x)), derivative(x, 1))


JACOBIANS = pytest.mark.parametrize("outer", [jacrev, jacfwd])


@EVERY_FUNCTION
@JACOBIANS
def test_jacobian(
    path: Path, x: Tensor, function: Function, outer: Callable[..., Callable[[Tensor], Tensor]]
) -> None:
    result = outer(lambda x: function(path, x))(x)
    torch.testing.assert_close(result, derivative(x, 1).diag())


@EVERY_FUNCTION
@JACOBIANS
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_jacobian_of_jacobian(
    path: Path,
    x: Tensor,
    function: Function,
    outer: Callable[..., Callable[[Tensor], Tensor]],
    inner: Callable[..., Callable[[Tensor], Tensor]],
) -> None:
    result = outer(inner(lambda x: function(path, x).sum()))(x)
    torch.testing.assert_close(result, derivative(x, 2).diag())


@EVERY_FUNCTION
def test_hessian(path: Path, x: Tensor, function: Function) -> None:
    result = hessian(lambda x: function(path, x).sum())(x)
    torch.testing.assert_close(result, derivative(x, 2).diag())


# --- vmap ---


@EVERY_FUNCTION
@pytest.mark.parametrize("in_dim", [0, 1, 2, -1])
@pytest.mark.parametrize("out_dim", [0, 1, -1])
def test_vmap(path: Path, batch: Tensor, function: Function, in_dim: int, out_dim: int) -> None:
    mapped = vmap(lambda x: function(path, x), in_dims=in_dim, out_dims=out_dim)
    expected = path.mish(batch).movedim(in_dim, out_dim)
    torch.testing.assert_close(mapped(batch), expected)


@EVERY_FUNCTION
def test_vmap_of_vmap(path: Path, batch: Tensor, function: Function) -> None:
    mapped = vmap(vmap(lambda x: function(path, x), in_dims=1, out_dims=1), in_dims=2, out_dims=2)
    torch.testing.assert_close(mapped(batch), path.mish(batch))


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 0), (0, 2)])
def test_vmap_of_the_backward_op(path: Path, device: str, in_dims: tuple[int | None, ...]) -> None:
    operands = [
        layouts.normal((4, 4, 4) if dim is not None else (4, 4), torch.float64, device, seed)
        for seed, dim in enumerate(in_dims)
    ]
    aligned = [
        t.expand(4, 4, 4) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(operands, in_dims, strict=True)
    ]
    result = vmap(path.mish_backward, in_dims=in_dims)(*operands)
    torch.testing.assert_close(result, path.mish_backward(*aligned))


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, 1), (None, None, 0), (2, 0, None)])
def test_vmap_of_the_double_backward_op(
    path: Path, device: str, in_dims: tuple[int | None, ...]
) -> None:
    operands = [
        layouts.normal((4, 4, 4) if dim is not None else (4, 4), torch.float64, device, seed)
        for seed, dim in enumerate(in_dims)
    ]
    aligned = [
        t.expand(4, 4, 4) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(operands, in_dims, strict=True)
    ]
    result = vmap(path.mish_double_backward, in_dims=in_dims)(*operands)
    torch.testing.assert_close(result, path.mish_double_backward(*aligned))


def test_vmap_in_place_writes_to_the_batch(path: Path, batch: Tensor) -> None:
    expected = path.mish(batch)
    vmap(path.mish_, in_dims=1)(batch)
    torch.testing.assert_close(batch, expected)


def test_per_sample_gradients(path: Path, device: str) -> None:
    """A layer's weight is shared by the batch, its gradients are not."""
    weight = layouts.normal((3, 5), torch.float64, device)
    samples = layouts.normal((7, 5), torch.float64, device, seed=1)

    def loss(weight: Tensor, sample: Tensor) -> Tensor:
        return path.mish(weight @ sample).sum()

    result = vmap(grad(loss), in_dims=(None, 0))(weight, samples)
    expected = torch.stack([grad(loss)(weight, sample) for sample in samples])
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("transform", [hessian, jacrev, jacfwd])
def test_transforms_under_vmap(
    path: Path, device: str, transform: Callable[..., Callable[[Tensor], Tensor]]
) -> None:
    x = layouts.normal((4, 3), torch.float64, device)
    function = transform(lambda row: path.mish(row * row.sum()).sum())
    torch.testing.assert_close(vmap(function)(x), torch.stack([function(row) for row in x]))


def test_vmap_of_a_recorded_tensor(path: Path, batch: Tensor) -> None:
    """Autograd outside, vmap inside."""
    batch.requires_grad_()
    (result,) = torch.autograd.grad(vmap(path.mish, in_dims=2)(batch).sum(), batch)
    torch.testing.assert_close(result, derivative(batch.detach(), 1))


@pytest.mark.parametrize("width", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_transforms_keep_the_dtype(path: Path, device: str, width: torch.dtype) -> None:
    x = layouts.normal((6,), width, device)
    for result in (
        grad(lambda x: path.mish(x).sum())(x),
        jvp(path.mish, (x,), (torch.ones_like(x),))[1],
        vmap(path.mish)(x),
        hessian(lambda x: path.mish(x).sum())(x),
    ):
        assert result.dtype == width
