"""The statement that each provider runs for each direction."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mish_cuda
from benchmarks import cases
from benchmarks.cases import BLOCKS, DTYPES, LAYOUTS, NORMS, SURROUNDINGS, Case
from benchmarks.timing import Statement, threads

Function = Callable[..., Any]
NORM_GROUPS = 8  # as in Diffusion Policy and Grad-TTS


@dataclass(frozen=True)
class Inputs:
    """The tensors of one kind of input, shared by all providers of a group."""

    x: Tensor
    leaf: Tensor  # x again, requiring grad
    g: Tensor  # the gradient that comes in from above
    out: Tensor


def make_inputs(case: Case, device: str, seed: int = 0) -> Inputs:
    """Seeded random tensors: activations of standard deviation 3, gradients of 1.

    Never zeros: some kernels are faster on them, and subnormal results slower.
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[case.dtype]
    base = torch.randn(case.shape, generator=generator, device=device).mul_(3).to(dtype)
    x = LAYOUTS[case.layout](base)
    # empty_like keeps the strides of dense inputs, as autograd does for the gradients it passes.
    g = torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator, device=device))
    return Inputs(x, x.detach().requires_grad_(), g, torch.empty_like(x))


@dataclass(frozen=True)
class Compiled:
    """torch.compile of the lambda `text`, in which `function` is called f, for all sizes.

    It is compiled when it is asked for: the compiler takes seconds to import.
    """

    text: str
    function: Function
    trains: bool = False


@dataclass(frozen=True)
class Block:
    """A norm with Mish behind it; `block` is one of BLOCKS."""

    norm: str
    block: str
    trains: bool


@functools.cache  # a graph of calls is not to hold the making of layers
def _layers(
    block: Block, channels: int, dims: int, dtype: torch.dtype, device: torch.device
) -> tuple[Function, list[Tensor]]:
    """The function, and its parameters: float32, or of the dtype of a wider input."""
    grouped = block.norm == "GroupNorm"
    suffix = "" if grouped else f"{max(dims - 2, 1)}d"
    sizes = (NORM_GROUPS, channels) if grouped else (channels,)
    mish = _MISH.get(block.block)  # else one op
    kind = (
        getattr(nn, block.norm + suffix)
        if mish
        else getattr(mish_cuda, f"{block.norm}Mish{suffix}")
    )
    norm = kind(*sizes, device=device, dtype=torch.promote_types(dtype, torch.float32))
    norm.train(block.trains).requires_grad_(block.trains)
    return (lambda x: mish(norm(x))) if mish else norm, list(norm.parameters())


def statement(case: Case, inputs: Inputs) -> Statement:
    """The call that `case` times, on `inputs`; compiled first where it is to be."""
    text, function = _RECIPES[case.provider][case.direction]
    x = inputs.x
    names = {"grad": torch.autograd.grad, "add": torch.add, "f": function, **vars(inputs)}
    if isinstance(function, Compiled):
        with threads(case.threads):
            names["f"] = _compile(function, x.dtype, x.device, case.threads)
    elif isinstance(function, Block):
        names["f"], parameters = _layers(function, x.shape[1], x.dim(), x.dtype, x.device)
        names["leaves"] = [inputs.leaf, *parameters]
    elif function is _our_gradient and mish_cuda.backend(x) != "eager":
        names["f"] = torch.ops.mish_cuda.mish_backward  # without a Python function around it
    elif case.provider == "naive" and case.direction == "backward" and not x.is_cuda:
        # On CUDA autograd would run on the stream of its forward, not the one a graph captures.
        text, names["y"] = "grad(y, leaf, g, retain_graph=True)", naive(inputs.leaf)
    return Statement(text, names, case.threads)


def call(case: Case, inputs: Inputs) -> Any:
    return statement(case, inputs).function()()


def naive(x: Tensor) -> Tensor:
    """Mish in three torch calls, each of which keeps a tensor for backward."""
    return x * torch.tanh(F.softplus(x))


def _gradient(g: Tensor, x: Tensor) -> Tensor:
    """g times the derivative of `naive`, by the chain rule."""
    t = torch.tanh(F.softplus(x))
    return g * (t + x * (1 - t * t) * torch.sigmoid(x))


class _MemoryEfficient(torch.autograd.Function):
    """Mish that saves its input alone and computes the rest anew in backward.

    As before torch had F.mish, in timm for one:
    https://github.com/huggingface/pytorch-image-models/blob/main/timm/layers/activations_me.py
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return naive(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _gradient(g, *ctx.saved_tensors)


def _our_gradient(g: Tensor, x: Tensor) -> Tensor:
    return mish_cuda.mish_backward(x, g)


def _triton(name: str, *operands: Tensor) -> Tensor:
    """Calls a function of triton_mish, which is imported when it is first called."""
    from benchmarks import triton_mish

    result: Tensor = getattr(triton_mish, name)(*operands)
    return result


@functools.cache
def _compile(
    compiled: Compiled, dtype: torch.dtype, device: torch.device, threads: int
) -> Function:
    """A lambda of its own for each dtype, use and number of threads: torch compiles the same piece
    of code anew eight times and no more."""
    # The compiler's caches know our op by its name only: what an earlier formula was compiled to
    # would be timed.
    torch.compiler.config.cache_key_tag = str(time.time_ns())
    inner = eval(compiled.text, {"f": compiled.function, "relu": torch.relu})
    # fullgraph: else, where it gives up, it goes on in eager calls with a mere warning.
    result: Function = torch.compile(inner, dynamic=True, fullgraph=True)
    # Inductor tunes its code for the first size that it sees. As many tensors as operands: of one,
    # given twice, it would make a kernel with one operand.
    kind: dict[str, Any] = {"dtype": dtype, "device": device, "requires_grad": compiled.trains}
    size = 2**20 if device.type == "cpu" else 2**26
    result(*(torch.ones(size, **kind) for _ in range(inner.__code__.co_argcount)))
    return result


# The text of a statement, and what is called f in it.
Recipe = tuple[str, Function | Compiled | Block | None]
_BOTH = "grad(f(leaf), leaf, g)"


def _eager(forward: Function, backward: Function, arguments: str = "g, x") -> dict[str, Recipe]:
    return {
        "forward": ("f(x)", forward),
        "backward": (f"f({arguments})", backward),
        "forward+backward": (_BOTH, forward),
    }


def _compiled(forward: Function, backward: Function) -> dict[str, Recipe]:
    return {
        "forward": ("f(x)", Compiled("lambda x: f(x)", forward)),
        "backward": ("f(g, x)", Compiled("lambda g, x: f(g, x)", backward)),
        "forward+backward": (_BOTH, Compiled("lambda x: f(x)", forward, trains=True)),
    }


_MISH: dict[str, Function] = {"F.mish": F.mish, "mish_cuda": mish_cuda.mish}
_aten = torch.ops.aten

_RECIPES: dict[str, dict[str, Recipe]] = {
    **{
        cases.compiled_provider(name, surrounding): {
            "forward+backward": (_BOTH, Compiled(f"lambda x: {expression}", function, trains=True))
        }
        for name, function in _MISH.items()
        for surrounding, expression in SURROUNDINGS.items()
    },
    **{
        cases.norm_provider(norm, block): {
            "forward": ("f(x)", Block(norm, block, trains=False)),
            "forward+backward": ("grad(f(leaf), leaves, g)", Block(norm, block, trains=True)),
        }
        for norm in NORMS
        for block in BLOCKS
    },
    "mish_cuda": {
        **_eager(mish_cuda.mish, _our_gradient),
        "forward out=": ("f(x, out=out)", mish_cuda.mish),
    },
    "F.mish": _eager(F.mish, _aten.mish_backward),
    "naive": _eager(naive, _gradient),
    "memory-efficient": _eager(_MemoryEfficient.apply, _gradient),
    "compiled F.mish": _compiled(F.mish, _aten.mish_backward),
    "compiled mish_cuda": _compiled(mish_cuda.mish, _our_gradient),
    "F.silu": _eager(F.silu, _aten.silu_backward),
    "F.gelu": _eager(F.gelu, _aten.gelu_backward),
    "relu": _eager(torch.relu, _aten.threshold_backward, "g, x, 0"),
    "triton": _eager(partial(_triton, "forward"), partial(_triton, "backward")),
    # In place of a backward the plainest pass with its traffic: two reads, one write.
    "copy": {
        "forward": ("out.copy_(x)", None),
        "forward out=": ("out.copy_(x)", None),
        "backward": ("add(g, x, out=out)", None),
        "forward+backward": ("(out.copy_(x), add(g, x, out=out))", None),
    },
}
