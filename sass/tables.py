"""Markdown tables, readable in a terminal too, and a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sass.budgets import INSTRUCTIONS
from sass.gpus import Gpu
from sass.kernels import Kernel

NOTES = """\
Pairs: ours / PyTorch's formula in the same kernel. Instructions are for each
element: all that a thread of a full block executes, divided by its elements.
Where there are branches, a range: from the shortest way to all ways together,
as in a warp whose threads take every branch. Checks are the branches before the
first load, not counted among the others.

Verdicts: what bounds the kernel, and the share that the busiest unit (issue
slots, MUFU, FP64) is in use when memory runs at its published speed. Of ranges,
ours is judged by the upper end and PyTorch's formula by the lower."""

_CSV_COLUMNS: dict[str, Callable[[Kernel], object]] = {
    "arch": lambda k: f"sm_{k.arch}",
    "direction": lambda k: k.direction,
    "dtype": lambda k: k.dtype,
    "formula": lambda k: k.formula,
    "elements_per_thread": lambda k: k.elements,
    "instructions_least": lambda k: k.per_element(k.body.least.instructions),
    "instructions_most": lambda k: k.per_element(k.body.most.instructions),
    "mufu_least": lambda k: k.per_element(k.body.least.mufu),
    "mufu_most": lambda k: k.per_element(k.body.most.mufu),
    "fp64_least": lambda k: k.per_element(k.body.least.fp64),
    "fp64_most": lambda k: k.per_element(k.body.most.fp64),
    "access_bits": lambda k: " ".join(map(str, k.access_bits)),
    "registers": lambda k: k.resources.registers,
    "spill_bytes": lambda k: k.resources.spill_bytes,
    "local_accesses": lambda k: k.body.local,
    "checks": lambda k: k.body.checks,
    "branches": lambda k: k.body.branches,
}


def write_csv(path: Path, kernels: Iterable[Kernel]) -> None:
    """One row for each kernel. Instructions, MUFU and FP64 are for each element, no others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_CSV_COLUMNS)
        writer.writerows([column(k) for column in _CSV_COLUMNS.values()] for k in kernels)


def instructions(kernels: Iterable[Kernel]) -> str:
    """Instructions for each element, by architecture."""
    kernels = list(kernels)
    archs = list(dict.fromkeys(k.arch for k in kernels))
    rows = [
        (
            *operation,
            *(_pair([k for k in group if k.arch == arch], _instructions) for arch in archs),
            str(INSTRUCTIONS.get(operation, "")),
        )
        for operation, group in _by_operation(kernels).items()
    ]
    return _markdown(("direction", "dtype", *(f"sm_{arch}" for arch in archs), "budget"), rows)


def other_counts(kernels: Iterable[Kernel]) -> str:
    """All else that is counted, over all architectures."""
    columns: dict[str, Callable[[Kernel], Iterable[float]]] = {
        "elements per thread": lambda k: [k.elements],
        "MUFU per element": lambda k: [k.per_element(c.mufu) for c in (k.body.least, k.body.most)],
        "access bits": lambda k: k.access_bits,
        "registers": lambda k: [k.resources.registers],
        "spilled bytes": lambda k: [k.resources.spill_bytes],
        "checks": lambda k: [k.body.checks],
        "branches per element": lambda k: [k.per_element(k.body.branches)],
    }
    rows = [
        (*operation, *(_pair(group, get) for get in columns.values()))
        for operation, group in _by_operation(kernels).items()
    ]
    return _markdown(("direction", "dtype", *columns), rows)


def verdicts(kernels: Iterable[Kernel], gpus: Sequence[Gpu]) -> str:
    """What bounds each kernel on each GPU."""
    rows = []
    for operation, group in _by_operation(kernels).items():
        cells = []
        for gpu in gpus:
            ours, plain = (_only(group, gpu.arch, formula) for formula in ("ours", "plain"))
            cells.append(
                f"{gpu.judge(ours, ours.body.most)} / {gpu.judge(plain, plain.body.least)}"
            )
        rows.append((*operation, *cells))
    return _markdown(("direction", "dtype", *(gpu.name for gpu in gpus)), rows)


def _by_operation(kernels: Iterable[Kernel]) -> dict[tuple[str, str], list[Kernel]]:
    groups: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.direction, kernel.dtype), []).append(kernel)
    return groups


def _only(kernels: Iterable[Kernel], arch: str, formula: str) -> Kernel:
    (found,) = (k for k in kernels if (k.arch, k.formula) == (arch, formula))
    return found


def _instructions(kernel: Kernel) -> list[float]:
    return [kernel.per_element(c.instructions) for c in (kernel.body.least, kernel.body.most)]


def _pair(kernels: Sequence[Kernel], get: Callable[[Kernel], Iterable[float]]) -> str:
    """The range of a figure in ours and in PyTorch's formula."""
    ranges = []
    for formula in ("ours", "plain"):
        values = [value for k in kernels if k.formula == formula for value in get(k)]
        ends = [f"{end:.1f}".removesuffix(".0") for end in (min(values), max(values))]
        ranges.append("-".join(dict.fromkeys(ends)))
    return " / ".join(ranges)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
