"""The implementations to judge, all called alike: x gives f(x), (g, x) gives g f'(x), and
(h, g, x) gives h g f''(x). All can be sent to another process."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda  # noqa: F401  registers the ops
from benchmarks.accuracy.errors import NATIVE

# Built by CMakeLists.txt; see the target `accuracy` of the Makefile.
LIBRARY = Path(__file__).parents[2] / "build" / "maths" / "accuracy_kernels.so"

Run = Callable[..., Tensor]
Implementations = dict[str, Run]  # by their names


def kernels() -> Implementations:
    """The kernels of each instruction set of this processor, the widest last."""
    names = [_library().isa_name(isa) for isa in range(3)]
    return {
        name.decode(): functools.partial(_kernel, isa) for isa, name in enumerate(names) if name
    }


def rearranged(name: str, run: Run) -> Implementations:
    """The same implementation, given elements apart, or a few at a time."""
    return {
        f"{name}, strided": functools.partial(_strided, run),
        f"{name}, tails": functools.partial(_tails, run),
    }


def installed(device: str) -> Implementations:
    """The ops of torch that mish_cuda registers; on CUDA these are the kernels to be judged."""
    name = "cuda" if device.startswith("cuda") else "mish_cuda"
    return {name: functools.partial(_through_torch, _mish_cuda, device)}


def torch_native(device: str) -> Implementations:
    """F.mish, aten.mish_backward and what autograd makes of both."""
    return {NATIVE: functools.partial(_through_torch, _f_mish, device)}


def products(run: Run) -> Run:
    """The derivative by an implementation, multiplied by the gradients."""
    return functools.partial(_products, run)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.isa_name.restype = ctypes.c_char_p
    sizes = [ctypes.c_int64] * 2
    library.run.argtypes = [*[ctypes.c_int] * 3, *[ctypes.c_void_p] * 2, *sizes]
    return library


# In the order of mish::DType.
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _kernel(isa: int, *operands: Tensor) -> Tensor:
    """The result has the stride of x."""
    x = operands[-1]
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    tensors = [out, *operands]
    data = (ctypes.c_void_p * 4)(*(t.data_ptr() for t in tensors))
    strides = (ctypes.c_int64 * 8)(*(t.stride(0) * t.itemsize for t in tensors))
    _library().run(len(operands) - 1, _DTYPES.index(x.dtype), isa, data, strides, x.numel(), 1)
    return out


def _strided(run: Run, *operands: Tensor) -> Tensor:
    return run(*(operand.repeat_interleave(3)[::3] for operand in operands))


def _tails(run: Run, *operands: Tensor) -> Tensor:
    """One to seven at a time, fewer than a vector of any of these formats holds."""
    ends = itertools.accumulate(itertools.cycle(range(1, 8)))
    cuts = list(itertools.takewhile(lambda end: end < len(operands[0]), ends))
    pieces = zip(*(operand.tensor_split(cuts) for operand in operands), strict=True)
    return torch.cat([run(*piece) for piece in pieces])


def _products(run: Run, *operands: Tensor) -> Tensor:
    *gradients, x = operands
    product = run(*[torch.ones_like(x)] * len(gradients), x)
    for gradient in reversed(gradients):
        product = gradient * product
    return product


def _through_torch(function: Run, device: str, *operands: Tensor) -> Tensor:
    return function(*(operand.to(device) for operand in operands)).detach().cpu()


def _mish_cuda(*operands: Tensor) -> Tensor:
    ops: Any = torch.ops.mish_cuda
    op = (ops.mish, ops.mish_backward, ops.mish_double_backward)[len(operands) - 1]
    result: Tensor = op(*operands)
    return result


def _f_mish(*operands: Tensor) -> Tensor:
    *gradients, x = operands
    if len(gradients) < 2:
        aten = torch.ops.aten
        result: Tensor = aten.mish_backward(*operands) if gradients else F.mish(x)
        return result
    h, g = gradients
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(F.mish(x), x, g, create_graph=True)
        (second,) = torch.autograd.grad(first, x, h)
    return second
