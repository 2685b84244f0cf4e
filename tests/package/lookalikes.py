"""Mish as other libraries write it, what only looks like it, and models of them."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINUS_INFINITY = torch.tensor([-torch.inf])  # where F.mish gives NaN, and ours -0


def is_ours(function: Callable[[Tensor], Tensor]) -> bool:
    return not function(MINUS_INFINITY.clone()).isnan().any()


# --- Mish as other libraries write it: their class names, arguments and ways to compute it ---


def textbook(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def timm_mish(x: Tensor, inplace: bool = False) -> Tensor:
    """As in timm: it takes ``inplace``, and forgets it."""
    return x.mul(F.softplus(x).tanh())


@functools.cache
def scripted_textbook() -> Any:
    return torch.jit.script(textbook)


class Derived(torch.autograd.Function):
    """The formula with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return textbook(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        t = F.softplus(x).tanh()
        return grad * (t + x * torch.sigmoid(x) * (1 - t**2))


def layer(name: str, forward: Any, **attributes: Any) -> type[nn.Module]:
    """A class of this module, so that it can be pickled, with that method."""
    members = {"__module__": __name__, "forward": forward, **attributes}
    return globals().setdefault(name, type(name, (nn.Module,), members))  # type: ignore[no-any-return]


class Mish(nn.Module):
    """As in timm: it takes ``inplace``, and forgets it."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return textbook(x)


class MadeOfLayersMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tanh, self.softplus = nn.Tanh(), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.tanh(self.softplus(x))  # type: ignore[no-any-return]


class FunctionalMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = F.mish

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Activation(nn.Mish):
    """Derived from torch's, under a name that does not tell."""


MiSh = layer("MiSh", staticmethod(textbook))  # as in YOLO code
InplaceMish = layer("InplaceMish", lambda self, x: F.mish(x, inplace=True))
ForgetfulMish = layer("ForgetfulMish", lambda self, x: textbook(x), inplace=True)
RECOGNISED = [
    *(nn.Mish, Mish, MiSh, MadeOfLayersMish, FunctionalMish, Activation),
    *(InplaceMish, ForgetfulMish),
    layer("MishJit", lambda self, x: scripted_textbook()(x)),
    layer("MemoryEfficientMish", lambda self, x: Derived.apply(x)),
    layer("ExponentialMish", lambda self, x: x * (1 - 2 / ((1 + x.exp()) ** 2 + 1))),
]

# Right without gradients and an error with them; and whether the input is overwritten.
INFERENCE_ONLY = {
    layer("MultipliedMish", lambda self, x: x.mul_(F.softplus(x).tanh())): True,
    layer("WrittenMish", lambda self, x: torch.mul(x, F.softplus(x).tanh(), out=x)): True,
    layer("OverwritesItsOwnMish", lambda self, x: torch.tanh_(F.softplus(x)).mul_(x)): False,
}

HardMish = layer("HardMish", lambda self, x: x * (x + 2).clamp(0, 2) / 2)
FlippedMish = layer("FlippedMish", lambda self, x: textbook(x).flip(0))
DropoutMish = layer("DropoutMish", lambda self, x: F.dropout(textbook(x), training=self.training))


def on_gpus(self: nn.Module, x: Tensor) -> Tensor:
    if not x.is_cuda:
        raise RuntimeError("runs on\nGPUs")
    return textbook(x)


class TrainableMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return textbook(self.beta * x)


class CalledMish(nn.Mish):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)  # type: ignore[no-any-return]


# With what is told of each: why it is left alone, and what to do.
LOOK_ALIKES = {
    HardMish: "has the slope.*name lookalikes.HardMish in from_",
    FlippedMish: "has the value.*by hand",
    DropoutMish: "has the value.*in from_",
    CalledMish: "has a __call__ of its own.*name lookalikes.CalledMish in from_",
    TrainableMish: "has parameters or buffers.*by hand",
    layer("StraightThroughMish", lambda self, x: x + (textbook(x) - x).detach()): (
        "has the slope 1 at -2.5, where Mish has -0.1.*in from_"
    ),
    layer("SumMish", lambda self, x: textbook(x).sum()): (
        r"from the shape \(81,\) it makes \(\).*put mish_cuda.Mish\(\) there by hand"
    ),
    layer("Float32Mish", lambda self, x: textbook(x.float())): (
        "from torch.float64 it makes torch.float32.*in from_"
    ),
    layer("DetachedMish", lambda self, x: textbook(x.detach())): "no gradient.*in from_",
    layer("ListMish", lambda self, x: [textbook(x)]): "from torch.float64 it makes list.*by hand",
    layer("NanMish", lambda self, x: torch.where(x > 19, torch.nan, textbook(x))): (
        "has the value nan at 19.5.*in from_"
    ),
    layer("ScaledMish", lambda self, x, scale=1: scale * textbook(x)): "takes scale, .*in from_",
    layer("OnlyOnGpuMish", on_gpus): r"fails when tried out \(RuntimeError: runs on\).*by hand",
}


# --- Models ---


class Branches(nn.Module):
    """Activations as attributes, in every container, and shared."""

    def __init__(self, make: Callable[[], nn.Module] = nn.Mish) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 8), make())
        self.act = make()
        self.again = self.act
        self.listed = nn.ModuleList([nn.Linear(8, 8), make()])
        self.named = nn.ModuleDict({"a linear": nn.Identity(), "act": make()})
        self.nothing = None
        self.register_module("no_module", None)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.stem(x) - 1)
        for layer in self.listed:
            y = layer(y)
        y = self.named["act"](self.again(y + 0.5) * 2)
        return self.head(y)  # type: ignore[no-any-return]


NAMES = ["act", "again", "stem.1", "listed.1", "named.act"]


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)  # type: ignore[no-any-return]


class Functional(nn.Module):
    def __init__(self, function: Any = F.mish) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function
        self.other = F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.function(self.linear(x)))  # type: ignore[no-any-return]


class InCode(nn.Module):
    """A model that calls F.mish, and holds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


def results(model: nn.Module, shape: tuple[int, ...] = (5, 4)) -> list[Tensor]:
    """Output and gradients of a model, computed in float64."""
    model = copy.deepcopy(model).double()
    x = torch.linspace(-3, 3, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    x.requires_grad_()
    y = model(x * 1)
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [y, *torch.autograd.grad(y.square().sum(), inputs)]


def assert_same_function(results_before: list[Tensor], model: nn.Module) -> None:
    shape = tuple(results_before[1].shape)
    torch.testing.assert_close(results(model, shape), results_before, rtol=1e-12, atol=1e-12)


def kinds(model: nn.Module) -> Counter[type[nn.Module]]:
    return Counter(map(type, model.modules()))


def torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


COPIES = pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)
