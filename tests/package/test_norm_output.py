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
from lookalikes import MishFunction
from networks import IMAGES, results, scaled, torch_save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mish_cuda
from conftest import Log, needs_extension
from mish_cuda._norm_output import NormOutput

pytestmark = [needs_extension, pytest.mark.usefixtures("fuse_small_inputs")]
X = torch.randn(IMAGES, generator=torch.Generator().manual_seed(3))


def converted(norm: nn.Module) -> tuple[Any, Any]:
    """Norm and Mish, converted and as they were."""
    model = nn.Sequential(norm, nn.Mish())
    before = copy.deepcopy(model)
    mish_cuda.convert(model, fuse_norms=True)
    return model, before


class Doubled(torch.autograd.Function):
    """Works in place. It takes tensors in C++, without __torch_function__."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


def second_derivative(y: Tensor) -> Tensor:
    first = torch.autograd.grad((y**3).sum(), y, create_graph=True)[0]
    return torch.autograd.grad(first.sum(), y)[0]


def within(mode: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def program(*args: Any) -> Any:
        with mode():
            return function(*args)

    return program


PROGRAMS: dict[str, Callable[[Tensor], Any]] = {
    # Mish in all its forms
    "F.mish": F.mish,
    "layer": nn.Mish(),
    "mish": mish_cuda.mish,
    "in place": lambda y: F.mish(y, inplace=True),
    "in place, for its input": lambda y: (mish_cuda.mish_(y), y * 1)[1],
    "out": lambda y: mish_cuda.mish(y.detach(), out=torch.empty(y.shape)),
    "twice": lambda y: (torch.no_grad()(F.mish(y).add_)(1), F.mish(y))[1],
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
    "view": lambda y: (y.view(-1).mul_(2), F.mish(y))[1],
    "detached": lambda y: (y.detach().mul_(2), F.mish(y))[1],
    "no_grad": lambda y: (torch.no_grad()(y.add_)(1), F.mish(y))[1],
    "out=": lambda y: (torch.no_grad()(torch.add)(y, 1, out=y), F.mish(y))[1],
    "dirty": lambda y: F.mish(Doubled.apply(y)),
    "autograd function": lambda y: MishFunction.apply(y),
    "jvp": lambda y: torch.func.jvp(F.mish, (y,), (torch.ones(y.shape),))[1],
    "func.grad": lambda y: torch.func.grad(lambda t: F.mish(t).sum())(y),
    "vmap": lambda y: torch.func.vmap(lambda t: F.mish(t) * 2)(y),
    # checkpoints that begin behind the norm, and other users of hooks for saved tensors
    "reentrant": lambda y: checkpoint(F.mish, y, use_reentrant=True),
    "behind": lambda y: checkpoint(lambda t: F.mish(t) * t.exp(), y, use_reentrant=False),
    "behind, in place": lambda y: checkpoint(
        lambda t: (F.mish(t).mul_(2) + t) * t, y, use_reentrant=False
    ),
    "save_on_cpu": within(torch.autograd.graph.save_on_cpu, lambda y: F.mish(y) * y),
    # modes and compilers
    "under no_grad": within(torch.no_grad, F.mish),
    "under inference_mode": within(torch.inference_mode, F.mish),
    "read in inference_mode": lambda y: (torch.inference_mode()(torch.exp)(y), F.mish(y))[1],
    "dispatch mode": within(Log, lambda y: F.mish(y) + y),
    "override_torch": within(mish_cuda.override_torch, F.mish),
    "device": within(lambda: torch.device("cpu"), F.mish),
    "compile": lambda y: torch.compile(lambda t: F.mish(t) * 2, backend="aot_eager")(y),
}


# Those that ask for gradients.
GRADIENTS: dict[str, Callable[[Tensor], Any]] = {
    "hook": lambda y: y.register_hook(lambda g: g * 3) and F.mish(y),
    "gradient for it": lambda y: torch.autograd.grad(y.exp().sum(), y)[0],
    "retain_grad": lambda y: (y.retain_grad(), F.mish(y).sum().backward(), y.grad)[2],
    "second derivative": second_derivative,
    "backward": lambda y: y.backward(torch.ones(y.shape)),
}


def first(*results: Any) -> Any:
    return results[0]


def hooked(tensor: Tensor) -> Tensor:
    tensor.register_hook(lambda g: g * 3)
    return tensor


# What is done to the layers or their input: gradients and running statistics stay.
STEPS: dict[str, Callable[[Any, Any, Tensor], Any]] = {
    "checkpoint": lambda norm, act, x: checkpoint(lambda t: act(norm(t)), x, use_reentrant=False),
    "checkpoint of the norm": lambda norm, act, x: act(checkpoint(norm, x, use_reentrant=False)),
    "hook of the input": lambda norm, act, x: norm(hooked(x)) * 2,
    "hook of the weight": lambda norm, act, x: first(norm(x) * 2, hooked(norm.weight)),
    "layouts": lambda norm, act, x: (
        act(norm(x.to(memory_format=torch.channels_last))) + act(norm(x))
    ),
    "hook of all modules": within(
        lambda: nn.modules.module.register_module_forward_hook(scaled),
        lambda norm, act, x: act(norm(x)),
    ),
    "saved in another dtype": within(
        lambda: torch.autograd.graph.saved_tensors_hooks(Tensor.double, Tensor.float),
        lambda norm, act, x: act(norm(x)),
    ),
    "bias": lambda norm, act, x: first(norm(x).exp(), torch.no_grad()(norm.bias.add_)(1)),
    "frozen later": lambda norm, act, x: first(norm(x).exp(), norm.requires_grad_(False)),
    "backward hook": lambda norm, act, x: (
        norm.register_backward_hook(lambda m, i, o: (i[0], i[1] * 2, i[2])) and act(norm(x))
    ),
    "prehook": lambda norm, act, x: (
        norm.register_full_backward_pre_hook(lambda m, o: (o[0] * 2,)) and act(norm(x))
    ),
    "compiled activation": lambda norm, act, x: act.compile() or act(norm(x)) + act(norm(x)),
    "input overwritten": lambda norm, act, x: act(
        first(norm(z := x.detach() + 0), z.add_(1))
    ).detach(),
    "running statistics": lambda norm, act, x: first(norm.eval()(x), norm.train()(x)).detach(),
    # nothing tells there that the input was overwritten
    "inference mode": within(
        torch.inference_mode, lambda norm, act, x: first(norm(z := x.clone()), z.add_(1))
    ),
}


@pytest.mark.parametrize(
    ("name", "grad"), [*product(PROGRAMS, (True, False)), *product(GRADIENTS | STEPS, (True,))]
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.BatchNorm2d(8).eval(), nn.GroupNorm(2, 8)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_is_the_result_of_a_norm(norm: nn.Module, name: str, grad: bool) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    layers, expected = converted(copy.deepcopy(norm))
    with torch.set_grad_enabled(grad):
        assert type(copy.deepcopy(layers[0])(X)) is NormOutput
    of_output: Any = (PROGRAMS | GRADIENTS).get(name)
    program = STEPS.get(name, lambda norm, act, x: of_output(norm(x)))
    x = X.clone().requires_grad_(grad)
    torch.testing.assert_close(
        results(lambda t: program(*layers, t), x, layers),
        results(lambda t: program(*expected, t), x, expected),
        rtol=1e-4,
        atol=1e-4,
        check_stride=False,
    )


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_kept_once_it_is_computed(grad: bool) -> None:
    model, _ = converted(nn.BatchNorm2d(8))
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
    (norm, _), _ = converted(nn.BatchNorm2d(8))
    x = X.clone()
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="overwritten"):
        first(norm(x), x.add_(1)) + 1


CHANGED, PASSED_BY = "not to be changed", "passes by"
# Whether there are gradients, what is told, and a program that gets the result of a norm.
ERRORS: list[tuple[bool, str, Callable[[Tensor], Any]]] = [
    (False, CHANGED, lambda y: y.unsqueeze_(0)),
    (False, CHANGED, lambda y: y.transpose_(1, 2)),
    (False, CHANGED, lambda y: setattr(y, "data", torch.ones(IMAGES))),
    # Mish in place, so that both share memory, but not the graph
    (False, CHANGED, lambda y: (F.mish(y, True), y.mul_(2))),
    (True, CHANGED, lambda y: (F.mish(y, True).mul_(2), y.sum().backward())),
    (True, PASSED_BY, lambda y: torch.autograd.grad((F.mish(y) * y).sum(), [y])),
    (True, PASSED_BY, lambda y: (F.mish(y), y.register_hook(print))),
    (True, PASSED_BY, lambda y: (F.mish(y), y.retain_grad())),
    (True, PASSED_BY, lambda y: (F.mish(y).sum().backward(inputs=[y]), y.grad)),
    # C++ that reads memory that is not there
    (False, "data pointer", torch.utils.dlpack.to_dlpack),
]


@pytest.mark.parametrize(("grad", "message", "program"), ERRORS)
def test_errors(grad: bool, message: str, program: Callable[[Tensor], Any]) -> None:
    (norm, _), _ = converted(nn.BatchNorm2d(8))
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
        program(norm(X))
