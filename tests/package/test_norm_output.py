"""What a norm before Mish returns is, to any code, the result of a norm of torch."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from itertools import product
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fused import X, converted, fuse_small_inputs  # noqa: F401  a fixture
from lookalikes import MishFunction, torch_save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mish_cuda
from conftest import Log, needs_extension
from mish_cuda._norm_output import NormOutput

pytestmark = needs_extension


class Doubled(torch.autograd.Function):
    """Works in place. It takes tensors in C++, without __torch_function__."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


def after(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Mish after a change in place."""

    def program(y: Tensor) -> Tensor:
        change(y)
        return F.mish(y)

    return program


def second_derivative(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    first = torch.autograd.grad(function(y).sum(), y, create_graph=True)[0]
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
    "layer": nn.Mish(),
    "mish": mish_cuda.mish,
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
    "numpy": lambda y: y.detach().numpy(),
    "array": lambda y: y.tolist() if y.requires_grad else np.asarray(y),
    "pickle": lambda y: pickle.loads(pickle.dumps(y)),
    "deepcopy": lambda y: copy.deepcopy(y.detach()),
    "save": torch_save,
    "memory": lambda y: (y.data_ptr() != 0, y.untyped_storage().nbytes()),
    "shared memory": lambda y: y.share_memory_() + 0,
    "other process": lambda y: len(ForkingPickler.dumps(y.detach())) > 0,
    "dlpack": lambda y: torch.from_dlpack(y.detach()),
    "shape": lambda y: torch.tensor([*y.shape, *y.stride(), y.dim(), y.numel(), y.is_contiguous()]),
    "channels last": lambda y: y.contiguous(memory_format=torch.channels_last).stride(),
    "dtype": lambda y: F.mish(y.double()),
    # what changes it, so that the known Mish is no longer that of it
    "mul_": lambda y: F.mish(y.mul_(2)),
    "view": after(lambda y: y.view(-1).mul_(2)),
    "detached": after(lambda y: y.detach().mul_(2)),
    "no_grad": after(torch.no_grad()(lambda y: y.add_(1))),
    "out=": after(torch.no_grad()(lambda y: torch.add(y, 1, out=y))),
    "dirty": lambda y: F.mish(Doubled.apply(y)),
    "autograd function": lambda y: MishFunction.apply(y),
    "jvp": lambda y: torch.func.jvp(F.mish, (y,), (torch.ones(y.shape),))[1],
    "func.grad": lambda y: torch.func.grad(lambda t: F.mish(t).sum())(y),
    "vmap": lambda y: torch.func.vmap(lambda t: F.mish(t) * 2)(y),
    # checkpoints and other users of hooks for saved tensors
    "reentrant": behind(F.mish, use_reentrant=True),
    "checkpoint": behind(lambda t: F.mish(t) * t.exp(), use_reentrant=False),
    "checkpoint, in place": behind(lambda t: (F.mish(t).mul_(2) + t) * t, use_reentrant=False),
    "save_on_cpu": in_mode(torch.autograd.graph.save_on_cpu, lambda y: F.mish(y) * y),
    # modes and compilers
    "under no_grad": in_mode(torch.no_grad, F.mish),
    "under inference_mode": in_mode(torch.inference_mode, F.mish),
    "read in inference_mode": after(in_mode(torch.inference_mode, lambda y: y + 1)),
    "dispatch mode": in_mode(Log, lambda y: F.mish(y) + y),
    "override_torch": in_mode(mish_cuda.override_torch, F.mish),
    "device": in_mode(lambda: torch.device("cpu"), F.mish),
    "compile": lambda y: torch.compile(lambda t: F.mish(t) * 2, backend="aot_eager")(y),
}


# Those that ask for gradients.
GRADIENTS: dict[str, Callable[[Tensor], Any]] = {
    "hook": lambda y: y.register_hook(lambda g: g * 3) and F.mish(y),
    "gradient for it": lambda y: torch.autograd.grad(y.exp().sum(), y)[0],
    "retain_grad": lambda y: (y.retain_grad(), F.mish(y).sum().backward(), y.grad)[2],
    "second derivative": lambda y: second_derivative(lambda t: t**3, y),
    "backward": lambda y: y.backward(torch.ones(y.shape)),
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


@pytest.mark.parametrize(
    ("name", "grad"), [*product(PROGRAMS, (True, False)), *product(GRADIENTS, (True,))]
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.BatchNorm2d(8).eval(), nn.GroupNorm(2, 8)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_is_the_result_of_a_norm(norm: nn.Module, name: str, grad: bool) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    (layer, _), (expected, _) = converted(nn.Sequential(norm, nn.Mish()))
    program = {**PROGRAMS, **GRADIENTS}[name]
    x = X.clone().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        assert type(layer(x)) is NormOutput
    expected.load_state_dict(layer.state_dict())
    torch.testing.assert_close(
        results(layer, program, x),
        results(expected, program, x),
        rtol=1e-4,
        atol=1e-4,
        check_stride=False,
    )


def layers(inplace: bool = False) -> tuple[Any, Any]:
    """Norm and Mish, converted and as they were."""
    return converted(nn.Sequential(nn.BatchNorm2d(8), nn.Mish(inplace)))


# --- What is done to the layers or their inputs: gradients and running statistics stay ---


def first(*results: Any) -> Any:
    return results[0]


def leaf() -> Tensor:
    return X.clone().requires_grad_()


def hooked(tensor: Tensor) -> Tensor:
    tensor.register_hook(lambda g: g * 3)
    return tensor


STEPS: dict[str, Callable[[Any, Any], Tensor]] = {
    "checkpoint": lambda norm, act: checkpoint(lambda x: act(norm(x)), X, use_reentrant=False),
    "checkpoint of the norm": lambda norm, act: act(checkpoint(norm, X, use_reentrant=False)),
    "hook of the input": lambda norm, act: norm(hooked(leaf())) * 2,
    "hook of the weight": lambda norm, act: first(norm(X) * 2, hooked(norm.weight)),
    "layouts": lambda norm, act: act(norm(X.to(memory_format=torch.channels_last))) + act(norm(X)),
    "bias": lambda norm, act: first(norm(X).exp(), torch.no_grad()(norm.bias.add_)(1)),
    "frozen later": lambda norm, act: first(norm(leaf()).exp(), norm.requires_grad_(False)),
    "backward hook": lambda norm, act: (
        norm.register_backward_hook(lambda m, i, o: (i[0], i[1] * 2, i[2])) and act(norm(X))
    ),
    "prehook": lambda norm, act: (
        norm.register_full_backward_pre_hook(lambda m, o: (o[0] * 2,)) and act(norm(X))
    ),
    "compiled activation": lambda norm, act: act.compile() or act(norm(X)) + act(norm(X)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", STEPS)
def test_step(name: str) -> None:
    both = layers()
    values = [STEPS[name](*model) for model in both]
    for y in values:
        y.sum().backward()
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(model.parameters() for model in both), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*(dict(model.state_dict()) for model in both))


def test_hooks_that_save_as_another_dtype() -> None:
    both = layers()
    for model in both:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t.float()):
            model(X).sin().sum().backward()
    for a, b in zip(*(model.parameters() for model in both), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-2)


def test_running_statistics_may_change() -> None:
    values = [first(norm.eval()(X), norm.train()(X + 1)) * 1 for norm, _ in layers()]
    torch.testing.assert_close(*values)


def test_inference_mode() -> None:
    """Nothing tells there that the input of a norm was overwritten."""
    model, before = layers()
    with torch.inference_mode():
        x = X.clone()
        y, expected = model.eval()[0](x), before.eval()[0](x)
        x.add_(1)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_kept_once_it_is_computed(grad: bool) -> None:
    model, _ = layers()
    x = X.clone().requires_grad_(grad) * 1
    with torch.set_grad_enabled(grad):
        y = model[0](x)
        z = y.exp().sum()
    if grad:
        z.backward()
    gone = weakref.ref(x)
    del x
    assert gone() is None


# --- What would be wrong in silence is an error ---


@pytest.mark.parametrize("grad", [True, False])
def test_what_it_needs_was_overwritten(grad: bool) -> None:
    model, before = layers()
    x = X.clone()
    with torch.set_grad_enabled(grad):
        y, untouched = model.eval()[0](x), model[0](x)
        expected = before.eval()(x)
        x.add_(1)
        with pytest.raises(RuntimeError, match="overwritten"):
            y + 1
        torch.testing.assert_close(F.mish(untouched), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda y: y.unsqueeze_(0), "not to be changed"),
        (lambda y: y.transpose_(1, 2), "not to be changed"),
        (lambda y: setattr(y, "data", torch.ones(4, 8, 5, 5)), "not to be changed"),
        (lambda y: (F.mish(y, True), y.mul_(2)), "not to be changed"),
        (torch.utils.dlpack.to_dlpack, "data pointer"),  # C++ that reads memory that is not there
    ],
)
@torch.no_grad()
def test_changes_that_nobody_would_see(change: Callable[[Tensor], Any], told: str) -> None:
    model, _ = layers()
    with pytest.raises(RuntimeError, match=told):
        change(model[0](X))


def test_writes_to_what_mish_returned() -> None:
    """In place, so that both share memory, but not the graph."""
    model, _ = layers(inplace=True)
    y = model[0](X)
    z = model[1](y)
    z *= 2
    with pytest.raises(RuntimeError, match="not to be changed"):
        y.sum().backward()


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
    model, _ = layers()
    y = model[0](X)
    z = model[1](y)
    with pytest.raises(RuntimeError, match="passes by"):
        ask(y, z)
