"""What a norm before Mish returns is, to any code, the result of a norm of torch."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fused import fuse_small_inputs  # noqa: F401  a fixture
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import mish_cuda
from conftest import needs_extension
from mish_cuda._norm_output import NormOutput

pytestmark = needs_extension


class Identity(torch.autograd.Function):
    """Takes tensors in C++, without __torch_function__."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


class Doubled(torch.autograd.Function):
    """Works in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


class Watched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def saved(y: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    return torch.load(file)  # type: ignore[no-any-return]


def after(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Mish after a change in place."""

    def program(y: Tensor) -> Tensor:
        change(y)
        return F.mish(y)

    return program


def without_grad(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    return torch.no_grad()(change)


def with_hook(y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda g: g * 3)
    return F.mish(y)


def gradient(y: Tensor) -> Tensor:
    return torch.autograd.grad(y.exp().sum(), y)[0] if y.requires_grad else y + 0


def retained(y: Tensor) -> Tensor | None:
    if y.requires_grad:
        y.retain_grad()
        F.mish(y).sum().backward()
    return y.grad


def second_derivative(y: Tensor) -> Tensor:
    if not y.requires_grad:
        return y + 0
    first = torch.autograd.grad((y**3).sum(), y, create_graph=True)[0]
    return torch.autograd.grad(first.sum(), y)[0]


def twice(y: Tensor) -> Tensor:
    first, second = F.mish(y), F.mish(y)
    with torch.no_grad():
        first.add_(1)
    return second


def behind(function: Callable[[Tensor], Tensor], **options: Any) -> Callable[[Tensor], Any]:
    """A checkpoint that begins behind the norm."""
    return lambda y: checkpoint(function, y, **options)


def in_mode(mode: Callable[[], Any], function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def program(y: Tensor) -> Any:
        with mode():
            return function(y)

    return program


PROGRAMS: dict[str, Callable[[Tensor], Any]] = {
    # Mish in all its forms
    "F.mish": F.mish,
    "nn.Mish": nn.Mish(),
    "mish": mish_cuda.mish,
    "Mish": mish_cuda.Mish(),
    "mish_forward": mish_cuda.mish_forward,
    "MishCudaFunction": mish_cuda.MishCudaFunction.apply,
    "in place": lambda y: F.mish(y, inplace=True),
    "in place, for its input": lambda y: (mish_cuda.mish_(y), y * 1)[1],
    "out": lambda y: mish_cuda.mish(y.detach(), out=torch.empty(y.shape)),
    "twice": twice,
    "and then the norm": lambda y: F.mish(y) * y,
    "scripted": torch.jit.script(mish_cuda.Mish()),
    # other functions, and ops with other results
    "op": lambda y: y.exp(),
    "several results": lambda y: y.max(1),
    "list of tensors": lambda y: torch.cat([y, F.mish(y)]),
    "norm": lambda y: nn.GroupNorm(2, 8)(y),
    "copy": lambda y: y.clone(),
    "numpy": lambda y: y.detach().numpy(),
    "array": lambda y: y.tolist() if y.requires_grad else np.asarray(y),
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
    "deepcopy": lambda y: copy.deepcopy(y.detach()),
    "save": saved,
    "memory": lambda y: (y.data_ptr() != 0, y.untyped_storage().nbytes()),
    "shared memory": lambda y: y.share_memory_() + 0,
    "other process": lambda y: len(ForkingPickler.dumps(y.detach())) > 0,
    "dlpack": lambda y: torch.from_dlpack(y.detach()),
    "shape": lambda y: torch.tensor([*y.shape, *y.stride(), y.dim(), y.numel(), y.is_contiguous()]),
    "channels last": lambda y: y.contiguous(memory_format=torch.channels_last).stride(),
    "dtype": lambda y: F.mish(y.double()),
    # what changes it, so that the known Mish is no longer that of it
    "item": after(lambda y: y.detach().__setitem__(0, 1)),
    "mul_": lambda y: F.mish(y.mul_(2)),
    "view": after(lambda y: y.view(-1).mul_(2)),
    "detached": after(lambda y: y.detach().mul_(2)),
    "data": after(lambda y: y.data.mul_(2)),
    "no_grad": after(without_grad(lambda y: y.add_(1))),
    "out=": after(without_grad(lambda y: torch.add(y, 1, out=y))),
    "dirty": lambda y: F.mish(Doubled.apply(y)),
    "identity": lambda y: F.mish(Identity.apply(y)),
    "hook": with_hook,
    # derivatives
    "gradient for it": gradient,
    "retain_grad": retained,
    "second derivative": second_derivative,
    "jvp": lambda y: torch.func.jvp(F.mish, (y,), (torch.ones(y.shape),))[1],
    "func.grad": lambda y: torch.func.grad(lambda t: F.mish(t).sum())(y),
    "vmap": lambda y: torch.func.vmap(lambda t: F.mish(t) * 2)(y),
    "backward": lambda y: y.backward(torch.ones(y.shape)) if y.requires_grad else None,
    # checkpoints and other users of hooks for saved tensors
    "reentrant": behind(F.mish, use_reentrant=True),
    "checkpoint": behind(lambda t: F.mish(t) * t.exp(), use_reentrant=False),
    "checkpoint, in place": behind(lambda t: (F.mish(t).mul_(2) + t) * t, use_reentrant=False),
    "save_on_cpu": in_mode(torch.autograd.graph.save_on_cpu, lambda y: F.mish(y) * y),
    # modes and compilers
    "under no_grad": in_mode(torch.no_grad, F.mish),
    "under inference_mode": in_mode(torch.inference_mode, F.mish),
    "read in inference_mode": after(in_mode(torch.inference_mode, lambda y: y + 1)),
    "dispatch mode": in_mode(Watched, lambda y: F.mish(y) + y),
    "override_torch": in_mode(mish_cuda.override_torch, F.mish),
    "device": in_mode(lambda: torch.device("cpu"), F.mish),
    "compile": lambda y: torch.compile(lambda t: F.mish(t) * 2, backend="aot_eager")(y),
}


def results(layer: nn.Module, program: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the program gives, and the gradients that it leaves."""
    layer.zero_grad()
    x = x.clone().requires_grad_(x.requires_grad)
    with torch.set_grad_enabled(x.requires_grad):
        result = program(layer(x))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                (tensor * torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)).sum().backward()
    if isinstance(result, Tensor):
        result = (result.requires_grad, result.detach())
    return result, x.grad, [p.grad for p in layer.parameters()], layer.state_dict()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.GroupNorm(2, 8)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_is_the_result_of_a_norm(norm: nn.Module, name: str, training: bool, grad: bool) -> None:
    model = nn.Sequential(copy.deepcopy(norm), nn.Mish()).train(training)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    expected = copy.deepcopy(model[0])
    mish_cuda.convert(model, fuse_norms=True)
    x = torch.randn(4, 8, 5, 5, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        assert type(model[0](x)) is NormOutput
    expected.load_state_dict(model[0].state_dict())
    torch.testing.assert_close(
        results(model[0], PROGRAMS[name], x),
        results(expected, PROGRAMS[name], x),
        rtol=1e-4,
        atol=1e-4,
        check_stride=False,
    )


@pytest.mark.parametrize("grad", [True, False])
def test_what_it_needs_was_overwritten(grad: bool) -> None:
    layer = nn.Sequential(nn.BatchNorm2d(8), nn.Mish()).eval()
    mish_cuda.convert(layer, fuse_norms=True)
    x = torch.randn(4, 8, 5, 5)
    with torch.set_grad_enabled(grad):
        y, untouched = layer[0](x), layer[0](x)
        expected = F.mish(nn.BatchNorm2d(8).eval()(x))
        x.add_(1)
        with pytest.raises(RuntimeError, match="overwritten"):
            y + 1
        torch.testing.assert_close(F.mish(untouched), expected, rtol=1e-4, atol=1e-5)


def layers(norm: nn.Module | None = None, inplace: bool = False) -> tuple[nn.Sequential, ...]:
    """Norm and Mish, converted and as they were."""
    before = nn.Sequential(nn.BatchNorm2d(8) if norm is None else norm, nn.Mish(inplace))
    model = copy.deepcopy(before)
    mish_cuda.convert(model, fuse_norms=True)
    return model, before


def x() -> Tensor:
    return torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_activation_compiled_by_itself() -> None:
    model, before = layers()
    model[1].compile()
    for _ in range(2):
        got, expected = (results(m, lambda y: y, x().requires_grad_()) for m in (model, before))
        torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-5)


USES = ["checkpoint", "checkpoint of the norm", "hooks of inputs", "layouts", "bias"]
USES += ["frozen later", "backward hook", "prehook"]


def step(model: nn.Sequential, use: str) -> None:
    norm, act = model
    if use == "checkpoint":
        loss = checkpoint(model, x(), use_reentrant=False)
    elif use == "checkpoint of the norm":
        loss = act(checkpoint(norm, x(), use_reentrant=False))
    elif use == "hooks of inputs":
        for tensor in (norm.weight, h := x().requires_grad_()):
            tensor.register_hook(lambda g: g * 3)
        loss = norm(h) * 2
    elif use == "layouts":
        loss = model(x().contiguous(memory_format=torch.channels_last)) + model(x())
    elif use == "bias":
        loss = norm(x()).exp()
        with torch.no_grad():
            norm.bias.add_(1)
    elif use == "frozen later":
        loss = norm(x().requires_grad_()).exp()
        norm.requires_grad_(False)
    elif use == "backward hook":
        norm.register_backward_hook(lambda m, i, o: (i[0], i[1] * 2, i[2]))
        loss = model(x())
    elif use == "prehook":
        norm.register_full_backward_pre_hook(lambda m, o: (o[0] * 2,))
        loss = model(x())
    loss.sum().backward()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("use", USES)
def test_step(use: str) -> None:
    """Gradients and running statistics."""
    model, before = layers()
    for m in (model, before):
        step(m, use)
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), dict(before.state_dict()))


def test_running_statistics_may_change() -> None:
    model, before = layers()
    outputs = []
    for norm, _ in (model, before):
        outputs.append(norm.eval()(x()))
        norm.train()(x() + 1)
    torch.testing.assert_close(outputs[0] * 1, outputs[1])


def test_inference_mode() -> None:
    """Nothing tells there that the input of a norm was overwritten."""
    model, before = layers()
    with torch.inference_mode():
        h = x()
        y = model.eval()[0](h)
        expected = before.eval()[0](h)
        h.add_(1)
    torch.testing.assert_close(y, expected)


def test_nothing_is_kept_once_it_is_computed() -> None:
    for grad in (True, False):
        model, _ = layers()
        h = x().requires_grad_(grad) * 1
        with torch.set_grad_enabled(grad):
            y = model[0](h)
            z = y.exp().sum()
        if grad:
            z.backward()
        gone = weakref.ref(h)
        del h
        assert gone() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.unsqueeze_(0),
        lambda y: y.transpose_(1, 2),
        lambda y: setattr(y, "data", torch.ones(4, 8, 5, 5)),
        lambda y: (F.mish(y, True), y.mul_(2)),
    ],
)
@torch.no_grad()
def test_changes_that_nobody_would_see(change: Callable[[Tensor], Any]) -> None:
    model, _ = layers()
    with pytest.raises(RuntimeError, match="not to be changed"):
        change(model[0](x()))


def test_writes_to_what_mish_returned() -> None:
    """In place, so that both share memory, but not the graph."""
    model, _ = layers(inplace=True)
    y = model[0](x())
    z = model[1](y)
    z *= 2
    with pytest.raises(RuntimeError, match="not to be changed"):
        y.sum().backward()


def test_hooks_that_save_as_another_dtype() -> None:
    model, before = layers()
    for m in (model, before):
        hooks = lambda t: t.half(), lambda t: t.float()
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            m(x()).sin().sum().backward()
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-2)


def test_memory_that_is_not_there() -> None:
    model, _ = layers()
    with torch.no_grad(), pytest.raises(RuntimeError, match="data pointer"):
        torch.utils.dlpack.to_dlpack(model[0](x()))


@pytest.mark.parametrize(
    "ask",
    [
        lambda y, z: torch.autograd.grad((y * z).sum(), [y]),
        lambda y, z: y.register_hook(print),
        lambda y, z: y.retain_grad(),
        lambda y, z: (z.sum().backward(inputs=[y]), y.grad),
    ],
)
def test_gradients_that_pass_it_by(ask: Callable[[Tensor, Tensor], Any]) -> None:
    layer = nn.Sequential(nn.BatchNorm2d(8), nn.Mish())
    mish_cuda.convert(layer, fuse_norms=True)
    y = layer[0](torch.randn(4, 8, 5, 5))
    z = layer[1](y)
    with pytest.raises(RuntimeError, match="passes by"):
        ask(y, z)
