"""The implementations to judge, all called alike: x gives f(x), (g, x) gives g f'(x), and
(h, g, x) gives h g f''(x). Partial functions of these can be sent to another process."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda  # noqa: F401  registers the ops
from mish_cuda._bounds import DTYPES

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


def registered(device: str, *operands: Tensor) -> Tensor:
    """The ops that mish_cuda registers; on CUDA these are the kernels to be judged."""
    ops: Any = torch.ops.mish_cuda
    op = (ops.mish, ops.mish_backward, ops.mish_double_backward)[len(operands) - 1]
    result: Tensor = op(*(operand.to(device) for operand in operands)).cpu()
    return result


def native(device: str, *operands: Tensor) -> Tensor:
    """F.mish, aten.mish_backward and what autograd makes of both."""
    *gradients, x = (operand.to(device) for operand in operands)
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        result = F.mish(x)
        while gradients:
            # Without a graph, which the last derivative needs not, autograd calls mish_backward.
            graph = len(gradients) > 1
            (result,) = torch.autograd.grad(result, x, gradients.pop(), create_graph=graph)
    return result.detach().cpu()


def products(run: Run, *operands: Tensor) -> Tensor:
    """The derivative by `run`, multiplied by the gradients."""
    *gradients, x = operands
    derivative = run(*[torch.ones_like(x)] * len(gradients), x)
    return functools.reduce(torch.mul, reversed(gradients), derivative)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.isa_name.restype = ctypes.c_char_p
    sizes = [ctypes.c_int64] * 2
    library.run.argtypes = [*[ctypes.c_int] * 3, *[ctypes.c_void_p] * 2, *sizes]
    return library


def _kernel(isa: int, *operands: Tensor) -> Tensor:
    """The result has the stride of x."""
    x = operands[-1]
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    tensors = [out, *operands]
    data = (ctypes.c_void_p * 4)(*(t.data_ptr() for t in tensors))
    strides = (ctypes.c_int64 * 8)(*(t.stride(0) * t.itemsize for t in tensors))
    dtype = list(DTYPES.values()).index(x.dtype)  # in the order of mish::DType
    _library().run(len(operands) - 1, dtype, isa, data, strides, x.numel(), 1)
    return out
