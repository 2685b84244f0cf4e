"""Pictures of times and memory: of the rows that `run` and `networks` wrote."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pandas as pd

from benchmarks import plots
from benchmarks.cases import DTYPES, GRIDS, KERNEL_DIRECTIONS
from benchmarks.plots import MUTED, OURS, SKY, WIDTH, Picture, colour, slug
from benchmarks.speeds import neighbour_times, shape_text
from benchmarks.units import format_size

SIZES = (65_536, 2**20, 2**24)  # of the speed-up bars
DIRECTION_COLOURS = {"forward": OURS, "backward": SKY, "forward+backward": "#004a75"}


def pictures(rows: pd.DataFrame) -> list[Picture]:
    """The pictures for which there are rows."""
    grid = rows[rows.suite.isin(GRIDS)]
    return [
        *speed_ups(grid),
        *networks(rows[rows.suite == "networks"]),
        *memory(grid),
        *neighbours(rows, "compiled", "Mish under torch.compile"),
        *neighbours(rows, "norms", "Norm and Mish as one op"),
        *rates(grid),
    ]


def speed_ups(rows: pd.DataFrame) -> Iterator[Picture]:
    """Speed-up over F.mish by dtype and direction: a panel for each of `SIZES` that was measured,
    else for the largest size."""
    if not {"F.mish", "mish_cuda"} <= {*rows.provider}:
        return
    index = ["threads", "dtype", "direction"]
    times = rows.pivot_table("median_s", index, ["provider", "numel"], aggfunc="first")
    times = (times["F.mish"] / times["mish_cuda"]).dropna(how="all")
    for threads, ratios in times.groupby("threads"):
        ratios = ratios.droplevel("threads").dropna(axis=1, how="all")
        chosen = [size for size in SIZES if size in ratios] or [ratios.columns.max()]
        order = itertools.product(DTYPES, KERNEL_DIRECTIONS)
        ratios = ratios[chosen].reindex([*order]).dropna(how="all")
        colours = ratios.index.get_level_values("direction").map(DIRECTION_COLOURS)
        ratios = ratios.rename(columns=lambda size: f"{format_size(size)} elements")
        title = f"mish_cuda against F.mish: how many times as fast{_on(threads)}"
        yield plots.bars(f"overview{_on(threads)}", title, ratios, colours, ratios=True)


def neighbours(rows: pd.DataFrame, suite: str, what: str) -> Iterator[Picture]:
    """Speed-up of one Mish among its neighbours over others, a panel for each of these."""
    for direction, threads, times in neighbour_times(rows, suite):
        ours, *others = times
        ratios = times[others].div(times[ours], axis=0).dropna(how="all")
        if not ratios.empty:
            ratios = ratios.rename(index=shape_text, level="shape").add_prefix("over ")
            name = f"{suite} {direction}{_on(threads)}"
            title = f"{what}, {direction}{_on(threads)}: how many times as fast"
            yield plots.bars(name, title, ratios, OURS, ratios=True)


def memory(rows: pd.DataFrame) -> Iterator[Picture]:
    """Peak memory of forward+backward at the largest size measured, a picture for each dtype."""
    # Not of the copy, which works in memory that is there already.
    rows = rows[(rows.provider != "copy") & rows.peak_bytes.notna()]
    for dtype, alike in rows.groupby("dtype", sort=False):
        alike = alike[alike.numel == alike.numel.max()]
        values = (alike.set_index("provider").peak_bytes / 2**20).to_frame("MiB")
        title = f"Peak memory, forward+backward, {dtype}, {format_size(alike.numel.iloc[0])}"
        yield plots.bars(f"memory {dtype}", title, values, values.index.map(colour))


def networks(rows: pd.DataFrame) -> Iterator[Picture]:
    """Time of training steps and inference, and peak memory: a picture for each kind of network."""
    figures = {"time, ms": 1e3 * rows.median_s, "peak memory, MiB": rows.peak_bytes / 2**20}
    alike = rows.assign(**figures).groupby(["network", "dtype", "shape", "threads"], sort=False)
    for (network, dtype, shape, threads), group in alike:
        values = group.pivot_table(
            list(figures), "provider", "direction", aggfunc="first", sort=False
        )
        colours = values.index.map(colour)
        values.columns = [f"{direction}: {name}" for name, direction in values]
        title = f"{network}, {dtype}, batch {shape}{_on(threads)}"
        yield plots.bars(title, title, values, colours)


def rates(rows: pd.DataFrame) -> Iterator[Picture]:
    """GB/s over the number of elements, medians between p20 and p80: a picture for each direction
    and dtype."""
    kinds = ["threads", "direction", "dtype"]
    for (threads, direction, dtype), alike in rows.groupby(kinds, sort=False):
        title = f"{direction}, {dtype}{_on(threads)}"
        fig = plots.figure(WIDTH + 1, 3.4, title)
        axes = fig.subplots()
        for name, line in alike.groupby("provider", sort=False):
            line = line.sort_values("numel")
            dash = "o--" if name == "copy" or name.startswith("compiled") else "o-"
            wide = 2.2 if name == "mish_cuda" else 1.4
            slow, rate, fast = (line.bytes / line[t] / 1e9 for t in ("p80_s", "median_s", "p20_s"))
            axes.plot(line.numel, rate, dash, color=colour(name), ms=3, lw=wide, label=name)
            axes.fill_between(line.numel, slow, fast, color=colour(name), alpha=0.15, lw=0)
        axes.set(yscale="log", xlabel="elements", ylabel="GB/s")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda size, _: f"2^{math.log2(size):g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelcolor=MUTED)
        yield Picture(slug(title), title, fig)


def _on(threads: int) -> str:
    return f", {threads} threads" if threads > 1 else ""
