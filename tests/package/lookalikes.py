"""Mish as other libraries write it, and what only looks like it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_ours(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether it gives -0 where F.mish gives NaN."""
    return not function(torch.tensor([-torch.inf])).isnan().any()


# --- Mish as other libraries write it: their class names, arguments and ways to compute it ---


def textbook(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def timm_mish(x: Tensor, inplace: bool = False) -> Tensor:
    """As in timm: it takes ``inplace``, and forgets it."""
    return x.mul(F.softplus(x).tanh())


class MishFunction(torch.autograd.Function):
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


def layer(
    name: str, forward: Any = None, base: type = nn.Module, **members: Any
) -> type[nn.Module]:
    """A class of this module, so that it can be pickled, with that method."""
    members |= {"__module__": __name__} | ({"forward": forward} if forward else {})
    return globals().setdefault(name, type(name, (base,), members))  # type: ignore[no-any-return]


class Functional(nn.Module):
    """A model that holds a function."""

    def __init__(self, function: Any = F.mish) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class MadeOfLayersMish(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Softplus(), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x)  # type: ignore[no-any-return]


Activation = layer("Activation", base=nn.Mish)  # under a name that does not tell
FunctionalMish = layer("FunctionalMish", base=Functional)
MiSh = layer("MiSh", staticmethod(textbook))  # as in YOLO code
InplaceMish = layer("InplaceMish", lambda self, x: F.mish(x, inplace=True))
ForgetfulMish = layer("ForgetfulMish", lambda self, x: textbook(x), inplace=True)
RECOGNISED = [
    *(nn.Mish, MiSh, MadeOfLayersMish, FunctionalMish, Activation, InplaceMish, ForgetfulMish),
    layer("MishJit", lambda self, x: torch.jit.script(textbook)(x)),
    layer("MemoryEfficientMish", lambda self, x: MishFunction.apply(x)),
    layer("ExponentialMish", lambda self, x: x * (1 - 2 / ((1 + x.exp()) ** 2 + 1))),
]


def mish(x: Tensor) -> Tensor:
    """As many models have one."""
    return x * torch.tanh(F.softplus(x))


def mish_(x: Tensor, inplace: bool = True) -> Tensor:
    return F.mish(x, inplace=inplace)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "F.mish": F.mish,
    "own": mish,
    "timm": timm_mish,
    "in place": mish_,
    "partial": functools.partial(F.mish, inplace=True),
    "lambda of the formula": lambda x: x * torch.tanh(F.softplus(x)),
    "lambda of F.mish": lambda x: F.mish(x),
    "op": torch.ops.aten.mish,
    "overload": torch.ops.aten.mish.default,
    "binding": torch._C._nn.mish,
    "binding in place": torch._C._nn.mish_,
    "autograd function": MishFunction.apply,
    "callable": layer("CallableMish", base=object, __call__=staticmethod(textbook))(),
    "method of a layer": nn.Mish().forward,
}

# Right without gradients and an error with them; and whether the input is overwritten.
INFERENCE_ONLY: dict[Any, bool] = {
    layer("MultipliedMish", lambda self, x: x.mul_(F.softplus(x).tanh())): True,
    layer("OverwritesItsOwnMish", lambda self, x: torch.tanh_(F.softplus(x)).mul_(x)): False,
    (lambda x: torch.mul(x, F.softplus(x).tanh(), out=x)): True,
}

HardMish = layer("HardMish", lambda self, x: x * (x + 2).clamp(0, 2) / 2)
FlippedMish = layer("FlippedMish", lambda self, x: textbook(x).flip(0))


def scaled_mish(x: Tensor, scale: float = 1) -> Tensor:
    return scale * textbook(x)


# Layers and functions with what is told of each: why it is left alone, and what to do. None: there
# is nothing to tell.
LOOK_ALIKES: dict[Any, str | None] = {
    HardMish: "has the slope.*name lookalikes.HardMish in from_",
    FlippedMish: "has the value.*by hand",
    layer("DropoutMish", lambda self, x: F.dropout(textbook(x), training=self.training)): (
        "has the value.*in from_"
    ),
    layer("TrainedMish", lambda self, x: textbook(x) * (1 if self.training else 2)): "the value",
    layer("CalledMish", base=nn.Mish, __call__=lambda self, x: 2 * nn.Module.__call__(self, x)): (
        "has a __call__ of its own.*name lookalikes.CalledMish in from_"
    ),
    layer("TrainableMish", base=nn.PReLU): "has parameters or buffers.*by hand",
    layer("StraightThroughMish", lambda self, x: x + (textbook(x) - x).detach()): (
        "has the slope 1 at -2.5, where Mish has -0.1.*in from_"
    ),
    layer("SumMish", lambda self, x: textbook(x).sum()): r"\(81,\) it makes \(\).*by hand",
    layer("Float32Mish", lambda self, x: textbook(x.float())): "it makes torch.float32.*in from_",
    layer("DetachedMish", lambda self, x: textbook(x.detach())): "no gradient.*in from_",
    layer("ListMish", lambda self, x: [textbook(x)]): "from torch.float64 it makes list.*by hand",
    layer("NanMish", lambda self, x: torch.where(x > 19, torch.nan, textbook(x))): "nan at 19.5",
    layer("ScaledMish", lambda self, x, scale=1: scale * textbook(x)): "takes scale, .*in from_",
    layer("GpuMish", lambda self, x: torch._assert(x.is_cuda, "runs on\nGPUs") or textbook(x)): (
        r"fails when tried out \(AssertionError: runs on\).*by hand"
    ),
    (lambda x: 2 * F.mish(x)): "has the value 40 at 20.*put mish_cuda.mish there",
    scaled_mish: "takes scale, which mish_cuda.mish does not.*by hand",
    torch.compile(F.mish, backend="eager"): "compile mish_cuda.mish instead",
    **dict.fromkeys([F.relu, functools.partial(nn.Mish), torch.tanh, abs]),
}
