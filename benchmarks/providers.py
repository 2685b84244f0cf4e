"""The statement that each provider runs for each direction."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mish_cuda
from benchmarks.cases import DTYPES, SURROUNDINGS, Case, laid_out
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
    base = torch.randn(case.shape, generator=generator, device=device).mul_(3)
    x = laid_out(case.layout, base.to(DTYPES[case.dtype]))
    # empty_like keeps the strides of dense inputs, as autograd does for the gradients it passes.
    g = torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator, device=device))
    return Inputs(x, x.detach().requires_grad_(), g, torch.empty_like(x))


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


_aten = torch.ops.aten
# Of each provider forward, and the backward op that takes the incoming gradient and x.
_FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "mish_cuda": (mish_cuda.mish, _our_gradient),
    "F.mish": (F.mish, _aten.mish_backward),
    "naive": (naive, _gradient),
    "memory-efficient": (_MemoryEfficient.apply, _gradient),
    "F.silu": (F.silu, _aten.silu_backward),
    "F.gelu": (F.gelu, _aten.gelu_backward),
    "relu": (torch.relu, _aten.threshold_backward),
}
# The text of a statement by its direction, and that of a provider with another.
_TEXTS = {
    "forward": "f(x)",
    "forward out=": "f(x, out=out)",
    "backward": "f(g, x)",
    "forward+backward": "grad(f(leaf), leaves, g)",
}
_OTHER_TEXTS = {
    ("relu", "backward"): "f(g, x, 0)",
    ("copy", "forward"): "out.copy_(x)",
    ("copy", "forward out="): "out.copy_(x)",
    # In place of a backward the plainest pass with its traffic: two reads, one write.
    ("copy", "backward"): "add(g, x, out=out)",
    ("copy", "forward+backward"): "(out.copy_(x), add(g, x, out=out))",
}


def statement(case: Case, inputs: Inputs) -> Statement:
    """The call that `case` times, on `inputs`; compiled first where it is to be."""
    provider, backward = case.provider, case.direction == "backward"
    x = inputs.x
    text = _OTHER_TEXTS.get((provider, case.direction), _TEXTS[case.direction])
    names = {"grad": torch.autograd.grad, "add": torch.add, "leaves": inputs.leaf, **vars(inputs)}
    if provider.startswith("compiled "):
        names["f"] = _compiled(replace(case, shape=()), x.device)
    elif " and Mish by " in provider:
        names["f"], parameters = _layers(case, x.device)
        names["leaves"] = [inputs.leaf, *parameters]
    elif provider == "mish_cuda" and backward and mish_cuda.backend(x) != "eager":
        names["f"] = torch.ops.mish_cuda.mish_backward  # without a Python function around it
    elif provider == "triton":
        from benchmarks import triton_mish  # needs Triton

        names["f"] = triton_mish.backward if backward else triton_mish.forward
    elif provider != "copy":
        names["f"] = _FUNCTIONS[provider][backward]
    return Statement(text, names, case.threads)


def call(case: Case, inputs: Inputs) -> Any:
    return statement(case, inputs).function()()


@functools.cache  # a graph of calls is not to hold the making of layers
def _layers(case: Case, device: torch.device) -> tuple[Function, list[Tensor]]:
    """A norm with Mish behind it, and its parameters: float32, or of the dtype of a wider input."""
    norm, _, block = case.provider.partition(" and Mish by ")
    grouped = norm == "GroupNorm"
    suffix = "" if grouped else f"{max(len(case.shape) - 2, 1)}d"
    sizes = (NORM_GROUPS, case.shape[1]) if grouped else (case.shape[1],)
    one_op = block == "one op"
    kind = getattr(mish_cuda, f"{norm}Mish{suffix}") if one_op else getattr(nn, norm + suffix)
    dtype = torch.promote_types(DTYPES[case.dtype], torch.float32)
    layer = kind(*sizes, device=device, dtype=dtype)
    layer.train(case.trains).requires_grad_(case.trains)
    if one_op:
        return layer, list(layer.parameters())
    mish, _ = _FUNCTIONS[block]
    return (lambda x: mish(layer(x))), list(layer.parameters())


@functools.cache
def _compiled(case: Case, device: torch.device) -> Function:
    """A function compiled for all sizes, so `case` has none.

    Each is a lambda of its own: torch compiles the same piece of code anew eight times and no more.
    """
    # The compiler's caches know our op by its name only: what an earlier formula was compiled to
    # would be timed.
    torch.compiler.config.cache_key_tag = str(time.time_ns())
    name, _, surrounding = case.provider.removeprefix("compiled ").partition(" in ")
    backward = case.direction == "backward"
    expression = SURROUNDINGS[surrounding or "f(x)"]
    text = "lambda g, x: f(g, x)" if backward else f"lambda x: {expression}"
    inner = eval(text, {"f": _FUNCTIONS[name][backward], "relu": torch.relu})
    # fullgraph: else, where it gives up, it goes on in eager calls with a mere warning.
    result: Function = torch.compile(inner, dynamic=True, fullgraph=True)
    # Inductor tunes its code for the first size that it sees. As many tensors as operands: of one,
    # given twice, it would make a kernel with one operand.
    size = 2**20 if device.type == "cpu" else 2**26
    kind: dict[str, Any] = {"dtype": DTYPES[case.dtype], "requires_grad": case.trains}
    with threads(case.threads):
        result(*(torch.ones(size, device=device, **kind) for _ in range(1 + backward)))
    return result
