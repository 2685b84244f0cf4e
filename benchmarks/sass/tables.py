"""Counts of instructions against the budgets: verdicts and tables."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import pandas as pd

from benchmarks.display import Table, Verdict, frame

# Instructions for each element, loads and stores included. Double backward has no budget: training
# runs it only for a gradient of a gradient.
INSTRUCTIONS = {
    "forward": {"fp32": 34, "bf16": 13, "fp16": 13},
    "backward": {"fp32": 44, "bf16": 20, "fp16": 20},
    "norm forward": {"fp32": 43, "bf16": 20, "fp16": 20},
    "norm sums": {"fp32": 50, "bf16": 27, "fp16": 27},
    "norm backward": {"fp32": 59, "bf16": 31, "fp16": 31},
}
# Special functions for each element: 16 bits take an exponential and a reciprocal, fp32 computes
# the exponential itself.
MUFU = {"fp32": 1, "bf16": 2, "fp16": 2}
# The share of the instructions of PyTorch's formula that ours may need in fp64. Both have branches;
# a warp of mixed values takes them all.
FP64_SHARE_OF_PLAIN = 0.5

_RELATIONS = {"=": operator.eq, "<=": operator.le}

NOTE = """\
Pairs: ours / PyTorch's formula in the same kernel. Instructions and MUFU are for each element: all
that a thread of a full block executes, divided by its elements. Where there are branches, a range:
from the shortest path to all paths together, as in a warp whose threads take every branch. Checks
are the branches before the first load, not counted among the others. Of the kernels of norms with
Mish: the shortest path of a thread that has all its elements, each loop once."""

_OTHERS = ("elements", "mufu_most", "access_bits", "registers", "spill_bytes", "checks", "branches")


def tables(rows: pd.DataFrame) -> list[Table]:
    archs = list(rows.arch.unique())
    lines, others = [], []
    for operation, group in rows.groupby(["direction", "dtype"], sort=False):
        counts = ["instructions_least", "instructions_most"]
        by_arch = (_pair(group[group.arch == arch], counts) for arch in archs)
        lines.append((*operation, *by_arch, str(budget(*operation) or "")))
        others.append((*operation, *(_pair(group, [column]) for column in _OTHERS)))
    names = ("direction", "dtype")
    header = (
        *names,
        *(column.replace("_", " ").replace("mufu most", "MUFU") for column in _OTHERS),
    )
    return [
        Table("instructions", frame((*names, *archs, "budget"), lines), NOTE, 2),
        Table("other counts, over all architectures", frame(header, others), NOTE, 2),
    ]


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """One verdict for each kernel of ours and each count that has a budget."""
    key = ["arch", "direction", "dtype"]
    ours, plain = (rows[rows.formula == formula] for formula in ("ours", "plain"))
    # Norms are compiled from our formula alone.
    both = ours.merge(plain[[*key, "instructions_most"]], "left", key, suffixes=("", "_plain"))
    return [
        Verdict(
            f"{kernel.arch} {kernel.dtype} {kernel.direction}: {column.replace('_', ' ')}",
            f"{relation} {required}",
            str(measured := getattr(kernel, column)),
            bool(_RELATIONS[relation](measured, required)),
        )
        for kernel in both.itertuples()
        for column, relation, required in _budgets(kernel)
    ]


def budget(direction: str, dtype: str) -> int | None:
    return INSTRUCTIONS.get(direction, {}).get(dtype)


def _budgets(kernel: pd.Series) -> Iterator[tuple[str, str, float | str]]:
    """Columns, and the bounds of their counts."""
    is_norm = kernel.direction.startswith("norm")
    yield "stored_elements", "=", 0 if kernel.direction == "norm sums" else kernel.elements
    for column in ("spill_bytes", "local_accesses", "late_loads"):
        yield column, "=", 0
    if not is_norm:
        yield "access_bits", "=", "128"
        yield "checks", "<=", 1  # to know a full block takes one
    if kernel.dtype == "fp64":
        yield "instructions_most", "<=", FP64_SHARE_OF_PLAIN * kernel.instructions_most_plain
        return
    if not is_norm:
        yield "branches", "=", 0
    # Norms find places by a division or two.
    yield "mufu_most", "<=", MUFU[kernel.dtype] + 0.1 * is_norm
    if bound := budget(kernel.direction, kernel.dtype):
        yield "instructions_most", "<=", bound


def _pair(rows: pd.DataFrame, columns: list[str]) -> str:
    """The range of a figure in ours and in PyTorch's formula."""
    ranges = []
    for formula in ("ours", "plain"):
        texts = rows.loc[rows.formula == formula, columns].astype(str).to_numpy().ravel()
        if values := [float(part) for text in texts for part in text.split()]:  # else a norm
            ends = [f"{end:.1f}".removesuffix(".0") for end in (min(values), max(values))]
            ranges.append("-".join(dict.fromkeys(ends)))
    return " / ".join(ranges)
