"""``batch_norm_mish`` and ``group_norm_mish`` under all that transforms, traces or wraps them: the
same as torch's norm with Mish behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_norm import textbook
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import mish_cuda
from conftest import needs_extension

Function = Callable[..., Tensor]


def group(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return mish_cuda.group_norm_mish(x, 2, w, b)


def group_of_torch(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return F.mish(F.group_norm(x, 2, w, b))


def batch(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return mish_cuda.batch_norm_mish(x, None, None, w, b, True)


def batch_of_torch(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return F.mish(F.batch_norm(x, None, None, w, b, True))


def frozen(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    mean = torch.arange(x.shape[1], dtype=x.dtype)
    return mish_cuda.batch_norm_mish(x, mean, mean + 1, w, b)


def frozen_of_torch(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    mean = torch.arange(x.shape[1], dtype=x.dtype)
    return F.mish(F.batch_norm(x, mean, mean + 1, w, b))


NORMS = pytest.mark.parametrize(
    ("ours", "torchs"),
    [(batch, batch_of_torch), (group, group_of_torch), (frozen, frozen_of_torch)],
    ids=["batch", "group", "frozen"],
)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    tensors = torch.randn(shape), 1 + torch.randn(shape[1]) / 4, torch.randn(shape[1])
    return tuple(t.to(dtype).requires_grad_() for t in tensors)  # type: ignore[return-value]


@NORMS
def test_gradients_of_every_order(ours: Function, torchs: Function) -> None:
    tensors = inputs(3, 4, 17)
    assert gradcheck(ours, tensors, check_forward_ad=True)
    small = inputs(2, 2, 16)
    assert gradgradcheck(ours, small)
    for wanted in ((0,), (1,), (2,), (0, 2)):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        assert gradcheck(ours, leaves)


@pytest.mark.parametrize("groups", [0, 2])
def test_third_derivatives(groups: int) -> None:
    """Beside those of plain arithmetic: torch's own third ones of batch_norm are wrong."""
    tensors = inputs(3, 4, 17)
    g = torch.randn(3, 4, 17, dtype=torch.float64)

    def third(function: Function) -> Tensor:
        x = tensors[0].detach().requires_grad_()
        y = (function(x, *tensors[1:]) * g).sum()
        for _ in range(3):
            (dx,) = torch.autograd.grad(y, x, create_graph=True)
            y = (dx * g).sum()
        return y

    expected = third(lambda x, w, b: textbook(x, w, b, groups))
    torch.testing.assert_close(third(group if groups else batch), expected)


@NORMS
def test_without_weight_or_bias(ours: Function, torchs: Function) -> None:
    x, w, b = inputs(3, 4, 17)
    ones = torch.ones_like(w)  # torch cannot differentiate group_norm with a bias alone
    for weight, bias in ((None, None), (w, None), (None, b)):
        leaves = [t for t in (x, weight, bias) if t is not None]
        for create_graph in (False, True):
            values = ours(x, weight, bias), torchs(x, ones if weight is None else weight, bias)
            torch.testing.assert_close(*values)
            got, expected = (
                torch.autograd.grad(y.sin().sum(), leaves, create_graph=create_graph)
                for y in values
            )
            for a, e in zip(got, expected, strict=True):
                torch.testing.assert_close(a, e)


@NORMS
def test_layouts(ours: Function, torchs: Function) -> None:
    x, w, b = (t.detach() for t in inputs(4, 6, 8, 10))
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3),
        x[:, :, ::2],
        x[:, :1].expand(4, 6, 8, 10),
        x.flatten(2)[:, :, 1:],
        x.flatten()[1:1441].view(4, 6, 60),
    ):
        got, expected = ours(view, w, b), torchs(view, w, b)
        torch.testing.assert_close(got, expected)
        assert got.stride() == expected.stride()
    # Gradients that come in with other strides, or expanded.
    leaf = x.clone().requires_grad_()
    for g in (
        torch.randn(4, 6, 10, 8).double().transpose(2, 3),
        torch.ones(()).double().expand(x.shape),
    ):
        got, expected = (torch.autograd.grad(f(leaf, w, b), leaf, g) for f in (ours, torchs))
        torch.testing.assert_close(got, expected)


@NORMS
def test_functional_transforms(ours: Function, torchs: Function) -> None:
    x, w, b = (t.detach() for t in inputs(5, 3, 4, 20))
    w, b = torch.rand(5, 4).double(), torch.rand(5, 4).double()
    for transform in (
        lambda f: torch.vmap(f)(x, w, b),
        lambda f: torch.vmap(f, in_dims=(1, None, 0))(x.movedim(0, 1), w[0], b),
        lambda f: torch.vmap(torch.func.grad(lambda *a: f(*a).sin().sum()))(x, w, b),
        lambda f: torch.func.jvp(f, (x[0], w[0], b[0]), (x[1], w[1], b[1])),
        lambda f: torch.func.jacrev(f, argnums=1)(x[0], w[0], b[0]),
        lambda f: torch.func.jacfwd(f, argnums=2)(x[0], w[0], b[0]),
        lambda f: torch.func.hessian(lambda w: f(x[0], w, b[0]).sin().sum())(w[0]),
    ):
        torch.testing.assert_close(transform(ours), transform(torchs))


@NORMS
def test_forward_mode(ours: Function, torchs: Function) -> None:
    x, w, b = (t.detach() for t in inputs(3, 4, 20))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x).cumsum(2))
        got, expected = (forward_ad.unpack_dual(f(dual, w, b)) for f in (ours, torchs))
        torch.testing.assert_close(tuple(got), tuple(expected))


@pytest.mark.parametrize("dynamic", [False, True])
@NORMS
def test_compile(ours: Function, torchs: Function, dynamic: bool) -> None:
    tensors = inputs(3, 4, 20, dtype=torch.float32)
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    got = torch.autograd.grad(compiled(*tensors).sin().sum(), tensors)
    expected = torch.autograd.grad(torchs(*tensors).sin().sum(), tensors)
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


@needs_extension
@NORMS
def test_compiled_autograd(ours: Function, torchs: Function) -> None:
    from torch._dynamo import compiled_autograd

    tensors = inputs(3, 4, 20, dtype=torch.float32)
    expected = torch.autograd.grad(torchs(*tensors).sin().sum(), tensors)
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        ours(*tensors).sin().sum().backward()
    for leaf, e in zip(tensors, expected, strict=True):
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, e, rtol=1e-4, atol=1e-5)


@needs_extension
def test_ops_are_traced_as_what_they_are_made_of() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, w, b = (t.detach() for t in inputs(3, 4, 20))
    ops: Any = torch.ops.mish_cuda
    for call in (
        lambda x: ops.batch_norm_mish(x, None, None, w, b, True),
        lambda x: ops.group_norm_mish(x, 2, w, b),
    ):
        traced = make_fx(call)(x)
        assert "mish_cuda" not in traced.code
        torch.testing.assert_close(traced(x), call(x))
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), call(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(
            nn.Conv2d(3, 4, 3), mish_cuda.BatchNormMish2d(4), mish_cuda.GroupNormMish(2, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.norms(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_export_and_traces(training: bool) -> None:
    x = torch.randn(2, 3, 12, 12)
    model = Block().train(training)
    expected = model.eval()(x) if not training else model(x)
    model.train(training)
    program = torch.export.export(model, (x,))
    assert "mish_cuda" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(model, x, check_trace=False)(x), expected)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 5, 20).to(dtype).requires_grad_()
    w, b = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    for view in (x, x.transpose(2, 3)):
        for norm in (group, batch):
            with torch.autocast("cpu", torch.bfloat16):
                y = norm(view, w, b)
            assert y.dtype == dtype
            grads = torch.autograd.grad(y.float().sum(), (x, w, b))
            assert [g.dtype for g in grads] == [dtype, torch.float32, torch.float32]


def test_written_to_afterwards() -> None:
    """What backward needs is noticed when it was overwritten."""
    x, w, b = inputs(3, 4, 20)
    a = x * 1
    y = batch(a, w, b)
    a.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    # The running statistics are not among it: they change with the next batch.
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    y = mish_cuda.batch_norm_mish(x, mean, var, w, b)
    version = mean._version
    mish_cuda.batch_norm_mish(x, mean, var, w, b, True)
    y.sum().backward()
    if mish_cuda.backend(x) == "cpu":
        assert mean._version == version  # as with torch's norms


def test_inference_mode() -> None:
    with torch.inference_mode():
        x, mean, var = torch.randn(3, 4, 20), torch.zeros(4), torch.ones(4)
        y = mish_cuda.batch_norm_mish(x, mean, var, training=True)
        torch.testing.assert_close(y, batch_of_torch(x, None, None))
        assert mean.abs().sum() > 0
