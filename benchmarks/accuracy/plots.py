"""The error in ULP over x, as a picture."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.accuracy.errors import NATIVE, WIDER
from benchmarks.plots import INK, WIDTH, Picture, colour, figure
from mish_cuda._bounds import bounds
from mish_cuda._textbook import FUNCTIONS


def pictures(rows: pd.DataFrame) -> list[Picture]:
    """f, f' and f'' in float32, of the best instruction set and F.mish."""
    finite = rows.low.abs().lt(math.inf) & rows.high.abs().lt(math.inf)
    rows = rows[(rows.dtype == "fp32") & rows.reference.isin(WIDER) & finite]
    ours = rows[rows.implementation != NATIVE].implementation
    if ours.empty:
        return []
    best = str(ours.iloc[-1])
    left, right = float(rows.low.min()), float(rows.high.max())
    title = f"Largest error of Mish in float32: F.mish and mish_cuda ({best})"
    fig = figure(WIDTH, 7.5, title)
    axes = fig.subplots(len(FUNCTIONS), 1, sharex=True)
    for function, axis in zip(FUNCTIONS, axes, strict=True):
        for name, label in ((NATIVE, NATIVE), (best, "mish_cuda")):
            steps = rows[(rows.function == function) & (rows.implementation == name)]
            axis.stairs(steps.ulp, [left, *steps.high], label=label, color=colour(label), lw=1.4)
        for bound in bounds("cuda" if best == "cuda" else "cpu", "fp32", function):
            if bound.ulp:
                ends = (max(bound.low, left), min(bound.high, right))
                axis.hlines(bound.ulp, *ends, label="required", color=INK, ls="--", lw=0.8)
        axis.set(xlim=(left, right), ylim=(0.3, 1e4), yscale="log", ylabel="ULP", title=function)
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel(
        "x\nAn ULP shrinks to nothing at the zeros of f' (-1.19)\n"
        "and f'' (-2.26 and 1.49). Where no dashed line is,\n"
        "the bound is absolute."
    )
    return [Picture("error", title, fig)]
