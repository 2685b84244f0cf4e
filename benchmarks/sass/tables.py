"""Counts of instructions against the budgets: verdicts and tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.display import Table, Verdict, frame
from benchmarks.sass.kernels import NORMS

# Instructions for each element, loads and stores included. Double backward has no budget: training
# runs it only for a gradient of a gradient.
INSTRUCTIONS = {
    ("forward", "fp32"): 34,
    ("forward", "bf16"): 13,
    ("forward", "fp16"): 13,
    ("backward", "fp32"): 44,
    ("backward", "bf16"): 20,
    ("backward", "fp16"): 20,
    ("norm forward", "fp32"): 43,
    ("norm forward", "bf16"): 20,
    ("norm forward", "fp16"): 20,
    ("norm sums", "fp32"): 50,
    ("norm sums", "bf16"): 27,
    ("norm sums", "fp16"): 27,
    ("norm backward", "fp32"): 59,
    ("norm backward", "bf16"): 31,
    ("norm backward", "fp16"): 31,
}
# Special functions for each element: 16 bits take an exponential and a reciprocal, fp32 computes
# the exponential itself.
MUFU = {"fp32": 1, "bf16": 2, "fp16": 2}
# The share of the instructions of PyTorch's formula that ours may need. In fp64 both have branches;
# a warp of mixed values takes them all.
FP64_SHARE_OF_PLAIN = 0.5

NOTE = """\
Pairs: ours / PyTorch's formula in the same kernel. Instructions are for each element: all that a
thread of a full block executes, divided by its elements. Where there are branches, a range: from
the shortest path to all paths together, as in a warp whose threads take every branch. Checks are
the branches before the first load, not counted among the others. Of the kernels of norms with
Mish: the shortest path of a thread that has all its elements, each loop once."""

# The other counts, by the columns that hold them.
_OTHERS = {
    "elements per thread": ["elements"],
    "MUFU per element": ["mufu_least", "mufu_most"],
    "access bits": ["access_bits"],
    "registers": ["registers"],
    "spilled bytes": ["spill_bytes"],
    "checks": ["checks"],
    "branches per thread": ["branches"],
}


def tables(rows: pd.DataFrame) -> list[Table]:
    """Instructions by architecture, and all other counts over all of them."""
    archs = list(rows.arch.unique())
    lines, others = [], []
    for operation, group in rows.groupby(["direction", "dtype"], sort=False):
        counts = ["instructions_least", "instructions_most"]
        by_arch = (_pair(group[group.arch == arch], counts) for arch in archs)
        lines.append((*operation, *by_arch, str(INSTRUCTIONS.get(operation, ""))))
        others.append((*operation, *(_pair(group, columns) for columns in _OTHERS.values())))
    names = ("direction", "dtype")
    return [
        Table("instructions", frame((*names, *archs, "budget"), lines), NOTE, 2),
        Table("other counts, over all architectures", frame((*names, *_OTHERS), others), NOTE, 2),
    ]


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """A verdict on each budget of each of our kernels."""
    key = ["arch", "direction", "dtype"]
    ours, plain = (rows[rows.formula == formula] for formula in ("ours", "plain"))
    pairs = ours.merge(plain[[*key, "instructions_most"]], on=key, suffixes=("", "_plain"))
    norms = ours[ours.direction.isin(NORMS.values())]
    return [
        Verdict(f"{kernel.arch} {kernel.dtype} {kernel.direction}: {what}", required, measured, ok)
        for kernels, judged in ((pairs, _judge), (norms, _judge_norm))
        for kernel in kernels.itertuples()
        for what, required, measured, ok in judged(kernel)
    ]


def _judge_norm(k: pd.Series) -> Iterator[tuple[str, str, str, bool]]:
    stored = 0 if k.direction == NORMS["reduce"] else k.elements
    yield "elements stored", str(stored), str(k.stored_elements), k.stored_elements == stored
    yield from _judge_memory(k)
    # Places are found by a division or two.
    mufu = MUFU[k.dtype] + 0.1
    yield "MUFU", f"<= {mufu}", f"{k.mufu_most:.2f}", k.mufu_most <= mufu
    budget, count = INSTRUCTIONS[k.direction, k.dtype], k.instructions_most
    yield "instructions", f"<= {budget}", f"{count:.2f}", count <= budget


def _judge_memory(k: pd.Series) -> Iterator[tuple[str, str, str, bool]]:
    spilled = k.spill_bytes + k.local_accesses
    yield "bytes spilled, accesses to local memory", "0", str(spilled), spilled == 0
    yield "loads behind maths", "0", str(k.late_loads), k.late_loads == 0


def _judge(k: pd.Series) -> Iterator[tuple[str, str, str, bool]]:
    yield "bits of global accesses", "128", k.access_bits, k.access_bits == "128"
    stored = k.stored_elements
    yield "elements stored", str(k.elements), str(stored), stored == k.elements
    yield from _judge_memory(k)
    # To know a full block takes one.
    yield "branches before the first load", "<= 1", str(k.checks), k.checks <= 1
    if k.dtype == "fp64":
        share = k.instructions_most / k.instructions_most_plain
        bound = FP64_SHARE_OF_PLAIN
        yield "share of PyTorch's instructions", f"<= {bound:.0%}", f"{share:.0%}", share <= bound
        return
    yield "branches after the first load", "0", str(k.branches), k.branches == 0
    mufu = MUFU[k.dtype]
    yield "MUFU", f"<= {mufu}", f"{k.mufu_most:.2f}", k.mufu_most <= mufu
    if budget := INSTRUCTIONS.get((k.direction, k.dtype)):
        count = k.instructions_most
        yield "instructions", f"<= {budget}", f"{count:.2f}", count <= budget


def _pair(rows: pd.DataFrame, columns: list[str]) -> str:
    """The range of a figure in ours and in PyTorch's formula."""
    ranges = []
    for formula in ("ours", "plain"):
        texts = rows.loc[rows.formula == formula, columns].astype(str).to_numpy().ravel()
        values = [float(part) for text in texts for part in text.split()]
        if not values:  # of norms there is ours only
            continue
        ends = [f"{end:.1f}".removesuffix(".0") for end in (min(values), max(values))]
        ranges.append("-".join(dict.fromkeys(ends)))
    return " / ".join(ranges)
