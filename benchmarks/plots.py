"""How pictures of results look, and the bars that most of them are made of."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
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
STYLE: Any = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a name from a file may have a dollar in it
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,  # opaque, so that it can stand on a dark page
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
    "svg.hashsalt": "mish_cuda",  # the same picture gives the same file
}
matplotlib.rcParams.update(STYLE)
WIDTH = 4.6  # inches: text of 10 points is legible where a telephone shows a picture so wide
ROW = 0.24  # inches from one bar to the next
PANEL = 3.0  # inches, of each panel beside others


@dataclass(frozen=True)
class Picture:
    """A figure, the stem of its file's name, and its title."""

    name: str
    title: str
    figure: Figure


@dataclass(frozen=True)
class Bar:
    """A bar with `text` at its end."""

    label: str
    value: float
    text: str
    colour: str


def figure(width: float, height: float, title: str) -> Figure:
    """Sizes are in inches. Without pyplot, which would want a screen."""
    made = Figure(figsize=(width, height), layout="constrained")
    made.suptitle(textwrap.fill(title, int(11 * width)), x=0.01, ha="left", fontsize=11)
    return made


def save(picture: Picture, file: Path | BinaryIO, origin: str = "") -> None:
    """Write a picture as what the end of its name says, else as png; `origin`, in small print below
    it, says where its data are from."""
    figure, metadata = picture.figure, {"Software": None}
    if origin:
        lines = textwrap.wrap(origin, int(18 * figure.get_figwidth()))
        figure.set_figheight(figure.get_figheight() + 0.12 * len(lines) + 0.1)
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7, color=MUTED)
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Neither the time nor the version of matplotlib: the same picture gives the same file.
        metadata = {"Date": None} if file.suffix == ".svg" else metadata
    figure.savefig(file, dpi=160, metadata=metadata)


def bars(
    name: str, title: str, panels: Mapping[str, Sequence[Bar]], one: str = "", across: bool = False
) -> Picture:
    """A panel for each title, with a dashed line at 1, the value of `one`: one below the other, as
    high as their bars need; or `across`, with the same rows and scale."""
    panels = {heading: panel for heading, panel in panels.items() if panel}
    heights = [ROW * len(panel) + 0.3 for panel in panels.values()]
    if across:
        fig = figure(max(WIDTH, PANEL * len(panels)), max(heights) + 0.9, title)
        grid = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    else:
        fig = figure(WIDTH, sum(heights) + 0.5, title)
        grid = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    longest = max(bar.value for panel in panels.values() for bar in panel)
    for axes, (heading, panel) in zip(grid.flat, panels.items(), strict=True):
        places, values = range(len(panel)), [bar.value for bar in panel]
        drawn = axes.barh(places, values, color=[bar.colour for bar in panel])
        axes.bar_label(drawn, [bar.text for bar in panel], padding=4)
        labels = (bar.label for bar in panel)
        axes.set_yticks(places, [n if len(n) <= 26 else f"{n[:25]}…" for n in labels])
        axes.tick_params(axis="y", length=0)
        most = max(longest if across else max(values), bool(one))
        axes.set_xlim(0, 1.7 * most or 1)  # room for the texts
        axes.set_ylim(len(panel) - 0.4, -0.6)  # from top to bottom
        axes.grid(visible=False)
        axes.set_xticks([])  # each bar says its value
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_title(heading)
        if one:
            axes.axvline(1, color=INK, linewidth=1, linestyle="dashed", zorder=0.5)
            axes.set_xlabel(f"dashed, at 1x: {one}", fontsize=9, loc="left")
    return Picture(slug(name), title, fig)


def colour(provider: str) -> str:
    return COLOURS.get(provider, MUTED)


def slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")
