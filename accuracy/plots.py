"""The error in ULP over x, as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from accuracy.bounds import REGIONS
from accuracy.formats import FP32
from accuracy.paths import NATIVE
from accuracy.reference import FUNCTIONS
from accuracy.results import Row


def draw(rows: Iterable[Row], path: Path) -> None:
    """A PNG of f, f' and f'' in float32: the best instruction set and F.mish."""
    rows = [
        row
        for row in rows
        if (row.dtype, row.reference) == (FP32.name, FP32.judged_in)
        and math.isfinite(row.low)
        and math.isfinite(row.high)
    ]
    left, right = min(row.low for row in rows), max(row.high for row in rows)
    best = [row.path for row in rows if row.path != NATIVE][-1]
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots(len(FUNCTIONS), 1, sharex=True)
    for function, axis in zip(FUNCTIONS, axes, strict=True):
        for name, label, colour in (
            (NATIVE, NATIVE, "tab:orange"),
            (best, f"mish_cuda, {best}", "tab:blue"),
        ):
            steps = [row for row in rows if (row.function, row.path) == (function, name)]
            ends = [left, *(row.high for row in steps)]
            axis.stairs([row.errors.ulp for row in steps], ends, label=label, color=colour, lw=1.2)
        for region in REGIONS[FP32.name][function]:
            if region.bound.ulp is not None:
                ends = [max(region.low, left), min(region.high, right)]
                axis.hlines(region.bound.ulp, *ends, label="required", color="k", ls="--", lw=0.8)
        axis.set(xlim=(left, right), ylim=(0.3, 1e4), yscale="log")
        axis.set_ylabel(f"largest error of {function}, ULP")
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right")
    axes[0].set_title("Mish in float32")
    axes[-1].set_xlabel(
        "x  (f' is zero at -1.19, f'' at -2.26 and 1.49: an ULP shrinks to nothing there)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
