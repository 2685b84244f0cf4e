"""``smoke``: every kernel on a GPU once, in seconds, beside the CPU's bits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

import mish_cuda
from benchmarks.accuracy import norms
from benchmarks.arguments import FAILED, Refused, add_device
from mish_cuda import selfcheck
from mish_cuda._bounds import DTYPES

DESCRIPTION = """\
Runs every kernel on a few sizes and layouts. All must give the same bits, in fp32 and
fp64 those of the CPU's kernels, and the norms must be those of the CPU. Exit status
1: one does not; all others are still tried.
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
    wrong = 0
    for name, dtype in DTYPES.items():
        checks = (layouts, norms_with_mish)
        problems = [problem for check in checks for problem in check(args.device, dtype)]
        wrong += len(problems)
        for problem in problems[:10]:  # a broken kernel is wrong in every size and layout
            print(f"{name}: {problem}", flush=True)
        print(f"{name}: {len(problems)} wrong" if problems else f"{name}: ok", flush=True)
    return FAILED if wrong else 0


def layouts(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Where an op has other bits in some size and layout than for all numbers at once, and where
    those are not the CPU's in 32 and 64 bits."""
    ops: Any = torch.ops.mish_cuda
    numbers = selfcheck.inputs(dtype)
    generator = torch.Generator().manual_seed(0)
    chosen = numbers[torch.randint(len(numbers), (max(SIZES) + 1,), generator=generator)]
    powers = torch.tensor([-4, -1, 0.5, 2], dtype=dtype)  # multiply without rounding
    operands = (*powers[torch.randint(4, (2, len(chosen)), generator=generator)], chosen)
    there = [operand.to(device) for operand in operands]
    for first, call in enumerate((ops.mish_double_backward, ops.mish_backward, ops.mish)):
        expected = call(*there[first:])
        if dtype.itemsize > 2 and not same_bits(expected, call(*operands[first:])).all():
            yield f"{call.__name__}: not the CPU's bits"
        for size, (layout, view) in product(SIZES, LAYOUTS.items()):
            # Copies, so that compute-sanitizer sees what is read beyond their end.
            parts = [view(tensor[: size + 1].clone()) for tensor in there[first:]]
            results = [call(*parts)]
            # The elements of an expanded tensor overlap.
            if call is ops.mish and layout != "expanded":
                results.append(mish_cuda.mish_(*parts))
            for result in results:
                if not same_bits(result, view(expected[: size + 1])).all():
                    yield f"{call.__name__}: {size} elements, {layout}"


def norms_with_mish(device: str, dtype: torch.dtype) -> Iterator[str]:
    """Where a norm with Mish, or its gradient, is far from the CPU's."""
    wide = torch.promote_types(dtype, torch.float32)  # its errors are negligible
    tolerance = 16 * torch.finfo(dtype).eps
    for shape, (name, functions) in product(((4, 8, 5, 7), (2, 16, 33, 65)), norms.NORMS.items()):
        tensors = norms.inputs(shape, 0, dtype, device)
        got = norms.results(functions[norms.OURS], tensors)
        expected = norms.results(functions[norms.OURS], [t.to("cpu", wide) for t in tensors])
        for what in ("value", "dx"):
            result = got[what].to("cpu", wide)
            if not torch.allclose(result, expected[what], rtol=tolerance, atol=2 * tolerance):
                yield f"{name}: {what} is not the CPU's, {shape}"


def same_bits(result: Tensor, expected: Tensor) -> Tensor:
    """Where two tensors of a dtype agree to the last bit; all NaN are alike."""
    got, known = (t.detach().cpu().contiguous() for t in (result, expected))
    integer = getattr(torch, f"int{8 * got.itemsize}")
    return torch.eq(got.view(integer), known.view(integer)) | (got.isnan() & known.isnan())
