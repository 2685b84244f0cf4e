"""``batch_norm_mish`` and ``group_norm_mish`` under all that transforms, traces or wraps them: the
same as torch's norm with Mish behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_norm import NORMS, OURS, TORCHS, Function, results
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp
from torch.fx.experimental.proxy_tensor import make_fx

import mish_cuda
from conftest import needs_extension

EVERY_NORM = pytest.mark.parametrize("norm", ["batch", "two groups", "frozen"])


def inputs(*shape: int, device: str = "cpu") -> list[Tensor]:
    tensors = torch.randn(shape), 1 + torch.randn(shape[1]) / 4, torch.randn(shape[1])
    return [t.to(device, torch.float64).requires_grad_() for t in tensors]


@EVERY_NORM
def test_gradients_of_every_order(norm: str, device: str) -> None:
    """Against finite differences, since torch's own third derivatives of batch_norm are wrong."""
    ours, tensors = partial(NORMS[norm], OURS), inputs(3, 4, 17, device=device)
    for wanted in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        assert gradcheck(ours, leaves, check_forward_ad=True)
    x, w, b = inputs(3, 2, 17, device=device)
    assert gradgradcheck(ours, (x, w, b))

    def slope(x: Tensor) -> Any:
        return torch.autograd.grad(ours(x, w, b).sin().sum(), x, create_graph=True)[0]

    assert gradgradcheck(slope, x)


# --- What is done with a norm: f of x, w and b, of which x and parts of it are inputs ---


def with_another_gradient(f: Function, x: Tensor, w: Tensor, b: Tensor, g: Tensor) -> Any:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x, w, b), x, g.to(x))


def backward_by_the_compiler(f: Function, *tensors: Tensor) -> list[Tensor | None]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        f(*leaves).sin().sum().backward()
    return [leaf.grad for leaf in leaves]


def compiled(f: Function, dynamic: bool) -> Function:
    return torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")


USES: dict[str, Callable[[Function, Tensor, Tensor, Tensor], Any]] = {
    # Without weight or bias, differentiable or not.
    "x": lambda f, x, w, b: results(f, x, None, None),
    "x, w": lambda f, x, w, b: results(f, x, w, None),
    "x, b": lambda f, x, w, b: results(f, x, None, b),
    "x twice": lambda f, x, w, b: results(f, x, None, None, create_graph=True),
    "x, w twice": lambda f, x, w, b: results(f, x, w, None, create_graph=True),
    "x, b twice": lambda f, x, w, b: results(f, x, None, b, create_graph=True),
    # Layouts.
    "channels_last": lambda f, x, w, b: f(x.contiguous(memory_format=torch.channels_last), w, b),
    "transposed": lambda f, x, w, b: f(x.transpose(2, 3), w, b),
    "steps": lambda f, x, w, b: f(x[:, :, ::2], w, b),
    "expanded": lambda f, x, w, b: f(x[:, :1].expand(5, 4, 6, 10), w, b),
    "offset in rows": lambda f, x, w, b: f(x.flatten(2)[:, :, 1:], w, b),
    "offset by one": lambda f, x, w, b: f(x.flatten()[1:1181].view(5, 4, 59), w, b),
    "gradient transposed": lambda f, x, w, b: with_another_gradient(
        f, x, w, b, torch.linspace(-1, 1, 1200).view(5, 4, 10, 6).transpose(2, 3)
    ),
    "gradient expanded": lambda f, x, w, b: with_another_gradient(
        f, x, w, b, torch.ones(()).expand(x.shape)
    ),
    # Transforms.
    "vmap": lambda f, x, w, b: torch.vmap(f)(x, x[:, 0, :, 0], x[:, 1, :, 0]),
    "vmap over another dimension": lambda f, x, w, b: torch.vmap(f, in_dims=(2, None, 0))(
        x, w, b.expand(6, 4) + x[0, 0, :, :1]
    ),
    "vmap of grad": lambda f, x, w, b: torch.vmap(grad(lambda *a: f(*a).sin().sum()))(
        x, x[:, 0, :, 0], x[:, 1, :, 0]
    ),
    "jvp": lambda f, x, w, b: jvp(f, (x, w, b), (x.cumsum(2), b, w)),
    "jvp of x": lambda f, x, w, b: jvp(lambda x: f(x, w, b), (x,), (x.cumsum(2),)),
    "jacrev": lambda f, x, w, b: jacrev(f, argnums=1)(x, w, b),
    "jacfwd": lambda f, x, w, b: jacfwd(f, argnums=2)(x, w, b),
    "hessian": lambda f, x, w, b: hessian(lambda w: f(x, w, b).sin().sum())(w),
    # Compilers.
    "compiled": lambda f, *tensors: results(compiled(f, dynamic=False), *tensors),
    "compiled for any size": lambda f, *tensors: results(compiled(f, dynamic=True), *tensors),
    "backward by the compiler": backward_by_the_compiler,
    "inference mode": lambda f, *tensors: torch.inference_mode()(f)(*tensors),
}


@EVERY_NORM
@pytest.mark.parametrize("use", USES)
def test_uses(norm: str, use: str, device: str) -> None:
    torch._dynamo.reset()
    not_in_2_9 = norm == "two groups" and use in (
        "compiled for any size",
        "backward by the compiler",
    )
    if not_in_2_9 and torch.__version__.startswith("2.9."):
        pytest.skip("torch 2.9 fails for its own group_norm here")
    tensors = [t.detach() for t in inputs(5, 4, 6, 10, device=device)]
    ours, torchs = (USES[use](partial(NORMS[norm], of), *tensors) for of in (OURS, TORCHS))
    torch.testing.assert_close(ours, torchs, check_stride=device == "cpu")


@needs_extension
def test_ops_are_traced_as_what_they_are_made_of() -> None:
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


@pytest.mark.parametrize("training", [True, False])
def test_export_and_traces(training: bool) -> None:
    x = torch.randn(2, 3, 12, 12)
    norms = mish_cuda.BatchNormMish2d(4), mish_cuda.GroupNormMish(2, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *norms).train(training)
    expected = model(x)
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
        for norm in ("two groups", "batch"):
            with torch.autocast("cpu", torch.bfloat16):
                y = NORMS[norm](OURS, view, w, b)
            assert y.dtype == dtype
            grads = torch.autograd.grad(y.float().sum(), (x, w, b))
            assert [g.dtype for g in grads] == [dtype, torch.float32, torch.float32]


def test_written_to_afterwards() -> None:
    """What backward needs is noticed when it was overwritten."""
    x, w, b = inputs(3, 4, 20)
    a = x * 1
    y = NORMS["batch"](OURS, a, w, b)
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


def test_statistics_made_in_inference_mode() -> None:
    with torch.inference_mode():
        mean, var = torch.zeros(4), torch.ones(4)
        mish_cuda.batch_norm_mish(torch.randn(3, 4, 20), mean, var, training=True)
        assert mean.abs().sum() > 0
