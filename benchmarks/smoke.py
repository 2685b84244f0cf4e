"""``smoke``: every kernel on a GPU once, in seconds, beside the CPU's bits and the bounds."""

from __future__ import annotations

import argparse
import functools
import platform
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

import mish_cuda
from benchmarks.arguments import FAILED, Refused, add_device
from mish_cuda import selfcheck
from mish_cuda._bounds import DTYPES
from mish_cuda._extension import C

DESCRIPTION = """\
Runs every kernel on a few sizes and layouts. fp32 and fp64 must give the bits of the
CPU's kernels, all dtypes must keep the bounds of mish_cuda/bounds.csv, and the norms
must be those of the CPU. Exit status 1: one does not; all others are still tried.
"""

# Within a pack, around the small and the large tile of 16-bit and wider types, and several blocks.
SIZES = (1, 7, 255, 256, 257, 2047, 2048, 2049, 4097, 65_537)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x[:-1],
    "odd offset": lambda x: x[1:],
    "every second": lambda x: x[::2],
    "expanded": lambda x: x[:, None].expand(-1, 3),
    "rows cut": lambda x: x[: len(x) // 16 * 16].view(-1, 16)[:, :-1],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    backend = mish_cuda.backend(torch.empty(0, device=args.device))
    if backend == "eager":
        raise Refused(f"expected kernels for {args.device}, but torch calls are what runs there")
    if platform.machine() == "x86_64" and C is not None and C.cpu_isa() == "baseline":
        raise Refused("expected a CPU with AVX2: kernels for others round products before they add")
    wrong = 0
    for name, dtype in DTYPES.items():
        checks = (bounds, layouts, norms)
        problems = [problem for check in checks for problem in check(args.device, dtype)]
        wrong += len(problems)
        for problem in problems[:10]:  # a broken kernel is wrong in every size and layout
            print(f"{name}: {problem}", flush=True)
        print(f"{name}: {len(problems)} wrong" if problems else f"{name}: ok", flush=True)
    return FAILED if wrong else 0


def bounds(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Where results are outside the bounds, for one size and many numbers."""
    for variant, worst in selfcheck.check(device, dtype).items():
        if not worst.share <= 1:
            yield f"{variant}: {worst}"


def layouts(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Where results in any size and layout have other bits than the CPU's or, in 16 bits, are
    outside the bounds."""
    numbers = selfcheck.inputs(dtype)
    ops: Any = torch.ops.mish_cuda
    for size in SIZES:
        generator = torch.Generator().manual_seed(size)
        chosen = numbers[torch.randint(len(numbers), (size + 1,), generator=generator)]
        powers = torch.tensor([-4, -1, 0.5, 2], dtype=dtype)  # multiply without rounding
        operands = (*powers[torch.randint(4, (2, size + 1), generator=generator)], chosen)
        for layout, view in LAYOUTS.items():
            here = [view(tensor) for tensor in operands]
            # Views of copies: a copy of a view would be dense.
            there = [view(tensor.to(device, copy=True)) for tensor in operands]
            calls = (ops.mish_double_backward, ops.mish_backward, ops.mish)
            for first, call in enumerate(calls):
                if not as_expected(call(*there[first:]), here[first:], call(*here[first:])):
                    yield f"{call.__name__}: {size} elements, {layout}"
            x, expected = there[-1], ops.mish(there[-1])
            # The elements of an expanded tensor overlap.
            if layout != "expanded" and not same_bits(mish_cuda.mish_(x), expected).all():
                yield f"mish_: {size} elements, {layout}"


def as_expected(result: Tensor, operands: list[Tensor], expected: Tensor) -> bool:
    """Whether a result has the bits of the CPU's or, in 16 bits, is within the bounds."""
    if result.itemsize > 2 or not result.numel():
        return bool(same_bits(result, expected).all())
    *factors, x = (operand.double().flatten() for operand in operands)
    factor = functools.reduce(torch.mul, factors, torch.ones_like(x))
    by = mish_cuda.backend(result)
    return selfcheck.judge(result.flatten(), x, len(factors), factor, by).share <= 1


def norms(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Where a norm with Mish, or its gradient, is far from the CPU's."""
    ops: Any = torch.ops.mish_cuda
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "batch_norm_mish": lambda x: ops.batch_norm_mish(x, None, None, training=True),
        "group_norm_mish": lambda x: ops.group_norm_mish(x, 4),
    }
    generator = torch.Generator().manual_seed(0)
    for shape, (name, call) in product(((4, 8, 5, 7), (2, 16, 33, 65)), calls.items()):
        x, g = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
        results = []
        wide = x.to(torch.promote_types(dtype, torch.float32))  # whose errors are negligible
        for operand in (wide, x.to(device)):
            leaf = operand.detach().requires_grad_()
            y = call(leaf)
            (slope,) = torch.autograd.grad(y, leaf, g.to(y))
            results.append((y.detach().cpu().double(), slope.cpu().double()))
        tolerance = 16 * torch.finfo(dtype).eps
        for what, expected, got in zip(("value", "gradient"), *results, strict=True):
            if not torch.allclose(got, expected, rtol=tolerance, atol=2 * tolerance):
                yield f"{name}: {what} is not the CPU's, {shape}"


def same_bits(result: Tensor, expected: Tensor) -> Tensor:
    """Where two tensors of a dtype agree to the last bit; all NaN are alike."""
    got, known = (t.detach().cpu().contiguous() for t in (result, expected))
    integer = getattr(torch, f"int{8 * got.itemsize}")
    return torch.eq(got.view(integer), known.view(integer)) | (got.isnan() & known.isnan())
