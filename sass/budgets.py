"""What our kernels may cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sass.gpus import Gpu
from sass.kernels import ITEM_BYTES, Kernel

# Instructions for each element, loads and stores included. Double backward has no budget: training
# runs it only for a gradient of a gradient.
INSTRUCTIONS = {
    ("forward", "fp32"): 24,
    ("forward", "bf16"): 13,
    ("forward", "fp16"): 13,
    ("backward", "fp32"): 32,
    ("backward", "bf16"): 20,
    ("backward", "fp16"): 20,
}
MUFU = 2
# Of the instructions of PyTorch's formula. In fp64 both have branches; a warp of mixed values takes
# them all.
FP64_SHARE_OF_PLAIN = 0.5


def exceeded(kernels: Iterable[Kernel], gpus: Sequence[Gpu]) -> list[str]:
    """One line for each budget that a kernel of ours exceeds."""
    by_place = {(k.arch, k.direction, k.dtype, k.formula): k for k in kernels}
    return [
        f"sm_{kernel.arch} {kernel.dtype} {kernel.direction}: {complaint}"
        for kernel in by_place.values()
        if kernel.formula == "ours"
        for complaint in _complaints(
            kernel, by_place[kernel.arch, kernel.direction, kernel.dtype, "plain"], gpus
        )
    ]


def _complaints(kernel: Kernel, plain: Kernel, gpus: Sequence[Gpu]) -> Iterator[str]:
    body, spilled = kernel.body, kernel.resources.spill_bytes
    if kernel.access_bits != (128,):
        yield f"global accesses of {', '.join(map(str, kernel.access_bits))} bits, not 128"
    stored = sum(body.store_bits) // (8 * ITEM_BYTES[kernel.dtype])
    if stored != kernel.elements:
        yield f"{stored} elements stored of {kernel.elements}"
    if spilled or body.local:
        yield f"{spilled} bytes spilled, {body.local} accesses to local memory"
    if body.checks > 1:
        yield f"{body.checks} branches before the first load; to know a full block takes 1"
    if kernel.dtype == "fp64":
        share = kernel.per_element(body.most.instructions)
        share /= plain.per_element(plain.body.most.instructions)
        if share > FP64_SHARE_OF_PLAIN:
            yield f"{share:.0%} of the instructions of PyTorch's formula"
        return
    if body.branches:
        yield f"{body.branches} branches after the first load"
    mufu = kernel.per_element(body.most.mufu)
    if mufu > MUFU:
        yield f"{mufu:.2f} MUFU, more than {MUFU}"
    instructions = kernel.per_element(body.most.instructions)
    budget = INSTRUCTIONS.get((kernel.direction, kernel.dtype))
    if budget is not None and instructions > budget:
        yield f"{instructions:.2f} instructions, more than {budget}"
    for gpu in gpus:
        if gpu.arch == kernel.arch:
            verdict = gpu.judge(kernel, body.most)
            if not verdict.memory_bound:
                yield f"not memory-bound on {gpu.name}: {verdict}"
