"""Pictures of times and memory: of the rows that `run` and `networks` wrote."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.ticker import LogLocator

from benchmarks import plots
from benchmarks.cases import BLOCKS, DTYPES, GRIDS, KERNEL_DIRECTIONS
from benchmarks.plots import MUTED, OURS, SKY, WIDTH, Bar, Picture, colour, slug
from benchmarks.speeds import neighbour_times, shape_text
from benchmarks.units import format_bytes, format_seconds, format_size

SIZES = (65_536, 2**20, 2**24)  # of the speed-up bars
DIRECTION_COLOURS = {"forward": OURS, "backward": SKY, "forward+backward": "#004a75"}


def pictures(rows: pd.DataFrame, sizes: Sequence[int] = SIZES) -> list[Picture]:
    """The pictures for which there are rows.

    `sizes` are those of the speed-up bars: as many of them as were measured, else the largest.
    """
    dense = rows[(rows.layout == "x") & rows.direction.isin(KERNEL_DIRECTIONS)]
    grid = dense[dense.suite.isin(GRIDS)]  # of single functions beside all others
    whole = rows[rows.suite == "networks"]
    more = (compiled(rows), norms(rows), rates(grid))
    return [*itertools.chain(speed_ups(dense, sizes), networks(whole), memory(grid), *more)]


def speed_ups(rows: pd.DataFrame, sizes: Sequence[int]) -> Iterator[Picture]:
    """Speed-up over F.mish by dtype and direction, one panel for each size.

    What was measured at any size has its row in all panels, so that they are read across.
    """
    # Never across suites: only within one were both timed in turns. Of two, the first in the file.
    key = ["threads", "numel", "dtype", "direction"]
    times = rows.pivot_table(
        "median_s", ["suite", *key], "provider", aggfunc="first", sort=False
    ).reindex(columns=["F.mish", "mish_cuda"])
    ratios = (times["F.mish"] / times["mish_cuda"]).dropna().rename("ratio")
    ratios = ratios.reset_index().drop_duplicates(key)
    for threads, alike in ratios.groupby("threads"):
        chosen = sorted(set(sizes) & set(alike.numel)) or [alike.numel.max()]
        alike = alike[alike.numel.isin(chosen)]
        wide = alike.pivot(index=["dtype", "direction"], columns="numel", values="ratio")
        lines = [p for p in itertools.product(DTYPES, KERNEL_DIRECTIONS) if p in wide.index]
        panels = {
            f"{format_size(size)} elements": [
                _speed_up(line, wide.at[line, size]) for line in lines
            ]
            for size in chosen
        }
        title = f"mish_cuda against F.mish: how many times as fast{_on(threads)}"
        yield plots.bars(f"overview{_on(threads)}", title, panels, one="F.mish", across=True)


def _speed_up(row: tuple[str, str], ratio: float) -> Bar:
    value, text = (0, "not measured") if math.isnan(ratio) else (ratio, f"{ratio:.1f}x")
    return Bar(" ".join(row), value, text, DIRECTION_COLOURS[row[1]])


def compiled(rows: pd.DataFrame) -> Iterator[Picture]:
    for _, _, times in neighbour_times(rows, "compiled"):
        ratios = (times["F.mish"] / times["mish_cuda"]).dropna()
        for (dtype, shape), group in ratios.groupby(["dtype", "shape"], sort=False):
            panel = [Bar(f, ratio, f"{ratio:.2f}x", OURS) for (_, _, f), ratio in group.items()]
            title = f"Speed-up under torch.compile, {dtype}, {shape_text(shape)}"
            yield plots.bars(f"compiled {dtype} {shape}", title, {"": panel}, one="compiled F.mish")


def norms(rows: pd.DataFrame) -> Iterator[Picture]:
    """Speed-up of norm and Mish as one op, a panel for each Mish behind torch's norm."""
    ours, *others = BLOCKS
    for direction, threads, times in neighbour_times(rows, "norms"):
        panels = {
            f"torch's norm, then {name}": [
                Bar(f"{norm} {shape_text(shape)}", ratio, f"{ratio:.1f}x", colour(name))
                for (_, shape, norm), ratio in (times[name] / times[ours]).dropna().items()
            ]
            for name in others
        }
        title = f"Norm and Mish as one op: how many times as fast, {direction}{_on(threads)}"
        if any(panels.values()):
            yield plots.bars(f"norms {direction}{_on(threads)}", title, panels, one="two layers")


def memory(rows: pd.DataFrame) -> Iterator[Picture]:
    """Peak memory of forward+backward at the largest size measured, a picture for each dtype."""
    # Not of the copy, which works in memory that is there already.
    rows = rows[(rows.provider != "copy") & rows.peak_bytes.notna()]
    for dtype, alike in rows.groupby("dtype", sort=False):
        alike = alike[alike.numel == alike.numel.max()]
        title = f"Peak memory, forward+backward, {dtype}, {format_size(alike.numel.iloc[0])}"
        yield plots.bars(f"memory {dtype}", title, {"": _bars(alike, "peak_bytes")})


def networks(rows: pd.DataFrame) -> Iterator[Picture]:
    """Time of a training step and of inference, and peak memory: a picture for each network."""
    alike = rows.groupby(["network", "dtype", "shape", "threads"], sort=False)
    for (network, dtype, shape, threads), group in alike:
        steps = group[group.direction == "training step"]
        panels = {
            "time of a training step": _bars(steps, "median_s"),
            "peak memory of a training step": _bars(steps, "peak_bytes"),
            "time of inference": _bars(group[group.direction == "inference"], "median_s"),
        }
        yield plots.bars(network, f"{network}, {dtype}, batch {shape}{_on(threads)}", panels)


def _bars(rows: pd.DataFrame, column: str) -> list[Bar]:
    text = format_bytes if column == "peak_bytes" else format_seconds
    known = rows[["provider", column]].dropna().itertuples(index=False, name=None)
    return [Bar(name, value, text(value), colour(name)) for name, value in known]


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
        axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="GB/s")
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.xaxis.set_major_formatter(lambda size, _: f"2^{math.log2(size):g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelcolor=MUTED)
        yield Picture(slug(title), title, fig)


def _on(threads: int) -> str:
    return f", {threads} threads" if threads > 1 else ""
