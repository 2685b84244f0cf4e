"""The error in ULP over x, as a picture in the style of the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from accuracy.bounds import REGIONS
from accuracy.formats import FP32
from accuracy.paths import NATIVE
from accuracy.reference import FUNCTIONS
from accuracy.results import Row
from benchmarks.environment import Environment
from benchmarks.plots import COLOURS, INK, WIDTH, Picture, put_title, save, sign, style


def draw(facts: Environment, rows: Iterable[Row], path: Path) -> None:
    """Write the picture as what the end of `path` says, png or svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for picture in pictures(rows):
        sign(picture, facts.summary())
        save(picture, path)


@style()
def pictures(rows: Iterable[Row]) -> list[Picture]:
    """f, f' and f'' in float32: the best instruction set and F.mish; nothing without such rows."""
    from matplotlib.figure import Figure

    rows = [
        row
        for row in rows
        if (row.dtype, row.reference) == (FP32.name, FP32.judged_in)
        and math.isfinite(row.low)
        and math.isfinite(row.high)
    ]
    ours = [row.path for row in rows if row.path != NATIVE][-1:]
    if not ours:
        return []
    left, right = min(row.low for row in rows), max(row.high for row in rows)
    figure = Figure(figsize=(WIDTH, 7.5), layout="constrained")
    axes = figure.subplots(len(FUNCTIONS), 1, sharex=True)
    for function, axis in zip(FUNCTIONS, axes, strict=True):
        for name, label in ((NATIVE, NATIVE), (ours[0], "mish_cuda")):
            steps = [row for row in rows if (row.function, row.path) == (function, name)]
            ends = [left, *(row.high for row in steps)]
            errors = [row.errors.ulp for row in steps]
            axis.stairs(errors, ends, label=label, color=COLOURS[label], lw=1.4)
        for region in REGIONS[FP32.name][function]:
            if region.bound.ulp is not None:
                ends = [max(region.low, left), min(region.high, right)]
                axis.hlines(
                    *(region.bound.ulp, *ends),
                    label="required on a CPU",
                    color=INK,
                    ls="--",
                    lw=0.8,
                )
        axis.set(xlim=(left, right), ylim=(0.3, 1e4), yscale="log", ylabel="ULP", title=function)
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0].legend(loc="upper right")
    title = "Largest error of Mish in float32"
    put_title(figure, title)
    axes[-1].set_xlabel(
        "x\nAn ULP shrinks to nothing at the zeros of f' (-1.19)\n"
        "and f'' (-2.26 and 1.49). Where no dashed line is,\n"
        "the bound is absolute."
    )
    words = f"Largest error of f, f' and f'' in ULP over x, of F.mish and mish_cuda ({ours[0]})"
    return [Picture("error", title, words, figure)]
