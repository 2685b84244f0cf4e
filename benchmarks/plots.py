"""How pictures of results look, and the bars that most of them are made of."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.units import three_digits

INK, MUTED, GRID = "#1f2328", "#59636e", "#d8dee4"
OURS, THEIRS, SKY = "#0072b2", "#d55e00", "#56b4e9"
# Hues that the colour-blind tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/), of which
# the yellow is darkened to be seen on white. A provider that is not here is grey.
COLOURS = {
    **dict.fromkeys(("mish_cuda", "compiled mish_cuda"), OURS),
    **dict.fromkeys(("F.mish", "compiled F.mish"), THEIRS),
    "naive": "#cc79a7",
    "memory-efficient": "#e69f00",
    "triton": SKY,
    **dict.fromkeys(("F.silu", "SiLU"), "#009e73"),
    **dict.fromkeys(("F.gelu", "GELU"), "#9a7d0a"),
    "copy": INK,
}
matplotlib.rcParams.update(
    {
        "text.parse_math": False,  # a name from a file may have a dollar in it
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "grid.color": GRID,
        "legend.frameon": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",  # text stays text
    }
)
WIDTH = 4.6  # inches: text of 10 points is legible where a telephone shows a picture so wide
ROW = 0.24  # inches from one bar to the next
PANEL = 3.0  # inches, of each panel beside others


@dataclass(frozen=True)
class Picture:
    """A figure, the stem of its file's name, and its title."""

    name: str
    title: str
    figure: Figure


def figure(width: float, height: float, title: str) -> Figure:
    """Sizes are in inches, without the small print. Not by pyplot, which would want a screen."""
    made = Figure(figsize=(width, height + 0.3), layout="constrained")
    made.suptitle(textwrap.fill(title, int(11 * width)), x=0.01, ha="left", fontsize=11)
    return made


def save(picture: Picture, file: Path | BinaryIO, origin: str = "") -> None:
    """Write a picture as what the end of its name says, else as png; `origin`, in small print below
    it, says where its data are from."""
    figure = picture.figure
    text = textwrap.fill(origin, int(18 * figure.get_figwidth()))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color=MUTED)
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)


def bars(
    name: str, title: str, values: pd.DataFrame, colours: str | Sequence[str], ratios: bool = False
) -> Picture:
    """A panel for each column, with a bar for each row; columns without any value are left out.

    Panels of ratios are side by side and have one scale, with a dashed line at 1. Those of other
    values are one below the other, each on a scale of its own.
    """
    values = values.dropna(axis=1, how="all")
    count = values.shape[1]
    high, wide = (1, count) if ratios else (count, 1)
    height = high * (ROW * len(values) + 0.3) + (0.9 if ratios else 0.5)
    fig = figure(max(WIDTH, PANEL * wide), height, title)
    grid = fig.subplots(high, wide, sharex=ratios, sharey=True, squeeze=False)
    places, unit = range(len(values)), "x" if ratios else ""
    labels = [name if isinstance(name, str) else " ".join(name) for name in values.index]
    for axes, (heading, column) in zip(grid.flat, values.items(), strict=True):
        drawn = axes.barh(places, column.fillna(0), color=colours, tick_label=labels)
        texts = ["not measured" if math.isnan(v) else three_digits(v) + unit for v in column]
        axes.bar_label(drawn, texts, padding=4)
        most = values.max(axis=None) if ratios else column.max()
        # With room for the texts, from top to bottom.
        axes.set(title=heading, xlim=(0, 1.7 * most), ylim=(len(values) - 0.4, -0.6), xticks=[])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        if ratios:
            axes.axvline(1, color=INK, linewidth=1, linestyle="dashed", zorder=0.5)
            axes.set_xlabel("dashed: equally fast", fontsize=9, loc="left")
    return Picture(slug(name), title, fig)


def colour(provider: str) -> str:
    return COLOURS.get(provider, MUTED)


def slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")
