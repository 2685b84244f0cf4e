"""The implementations to judge, all called alike: operands as bits in, result as bits out.

One operand x gives f(x), two (g, x) give g f'(x), three (h, g, x) give h g f''(x).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda  # noqa: F401  registers the ops
from accuracy.formats import Bits, Format

# Built by CMakeLists.txt; see the target `accuracy` of the Makefile.
LIBRARY = File(__file__).parents[1] / "build" / "maths" / "accuracy_kernels.so"

NATIVE = "F.mish"

Run = Callable[[Format, list[Bits]], Bits]


@dataclass(frozen=True)
class Path:
    """One implementation; it can be sent to another process."""

    name: str
    run: Run

    def derivative(self, number_format: Format, order: int, x: Bits) -> Bits:
        """f, f' or f'': the op with gradients of 1."""
        one = number_format.encode(np.ones(1))[0]
        return self.run(number_format, [*[np.full_like(x, one)] * order, x])


def kernels() -> list[Path]:
    """The kernels of each instruction set of this processor, the widest last."""
    names = [_library().isa_name(isa) for isa in range(3)]
    return [
        Path(name.decode(), functools.partial(_kernel, isa))
        for isa, name in enumerate(names)
        if name
    ]


def odd_places(path: Path) -> list[Path]:
    """The same implementation, given elements apart, or a few at a time."""
    return [
        Path(f"{path.name}, strided", functools.partial(_strided, path)),
        Path(f"{path.name}, tails", functools.partial(_tails, path)),
    ]


def installed() -> Path:
    """The ops of torch that mish_cuda registers."""
    return Path("mish_cuda", functools.partial(_through_torch, _mish_cuda))


def torch_native() -> Path:
    """F.mish, aten.mish_backward and what autograd makes of both."""
    return Path(NATIVE, functools.partial(_through_torch, _f_mish))


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.isa_name.restype = ctypes.c_char_p
    sizes = [ctypes.c_int64] * 2
    library.run.argtypes = [*[ctypes.c_int] * 3, *[ctypes.c_void_p] * 2, *sizes]
    return library


# In the order of mish::DType.
_DTYPES = ("fp32", "fp64", "fp16", "bf16")


def _kernel(isa: int, number_format: Format, operands: list[Bits]) -> Bits:
    """The result has the stride of x."""
    x = operands[-1]
    step = x.strides[0] // x.itemsize
    out: Bits = np.empty(x.size * step, x.dtype)[::step]
    arrays = [out, *operands]
    data = (ctypes.c_void_p * 4)(*(array.ctypes.data for array in arrays))
    strides = (ctypes.c_int64 * 8)(*(array.strides[0] for array in arrays))
    dtype = _DTYPES.index(number_format.name)
    _library().run(len(operands) - 1, dtype, isa, data, strides, x.size, 1)
    return out


def _strided(path: Path, number_format: Format, operands: list[Bits]) -> Bits:
    return path.run(number_format, [np.repeat(operand, 3)[::3] for operand in operands])


def _tails(path: Path, number_format: Format, operands: list[Bits]) -> Bits:
    """One to seven at a time, fewer than a vector of any of these formats holds."""
    ends = np.cumsum(np.resize(np.arange(1, 8), operands[0].size))
    ends = ends[ends < operands[0].size]
    pieces = zip(*(np.split(operand, ends) for operand in operands), strict=True)
    return np.concatenate([path.run(number_format, list(piece)) for piece in pieces])


def _through_torch(
    function: Callable[..., Tensor], number_format: Format, operands: list[Bits]
) -> Bits:
    tensors = [number_format.to_tensor(operand) for operand in operands]
    return number_format.from_tensor(function(*tensors).detach())


def _mish_cuda(*operands: Tensor) -> Tensor:
    ops: Any = torch.ops.mish_cuda
    op = (ops.mish, ops.mish_backward, ops.mish_double_backward)[len(operands) - 1]
    result: Tensor = op(*operands)
    return result


def _f_mish(*operands: Tensor) -> Tensor:
    *gradients, x = operands
    if not gradients:
        return F.mish(x)
    if len(gradients) == 1:
        result: Tensor = torch.ops.aten.mish_backward(*gradients, x)
        return result
    h, g = gradients
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(F.mish(x), x, g, create_graph=True)
        (second,) = torch.autograd.grad(first, x, h)
    return second
