"""Pictures of measured rows, all in one style. matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.cells import (
    DTYPES,
    GRIDS,
    KERNEL_DIRECTIONS,
    SURROUNDINGS,
    TENSORS_MOVED,
    Direction,
    compiled_provider,
)
from benchmarks.results import Result
from benchmarks.units import format_bytes, format_seconds, format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
OURS, THEIRS, SKY = "#0072b2", "#d55e00", "#56b4e9"
# Hues that the colour-blind tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/), of which
# the yellow is darkened to be seen on white. A provider that is not here is grey.
COLOURS = {
    "mish_cuda": OURS,
    "F.mish": THEIRS,
    "naive": "#cc79a7",
    "memory-efficient": "#e69f00",
    "compiled mish_cuda": OURS,
    "compiled F.mish": THEIRS,
    "triton": SKY,
    "F.silu": "#009e73",
    "SiLU": "#009e73",
    "F.gelu": "#9a7d0a",
    "GELU": "#9a7d0a",
    "copy": INK,
}
DIRECTION_COLOURS: dict[Direction, str] = {
    "forward": OURS,
    "backward": SKY,
    "forward+backward": "#004a75",
}
# Colours that change where a picture is part of a page, by name: in the light and in the dark.
ON_PAGES = {
    "ink": (INK, "#e6edf3"),
    "muted": (MUTED, "#9198a1"),
    "grid": (GRID, "#30363d"),
    "paper": (PAPER, "#0d1117"),
    "ours": (OURS, "#3d9be0"),
    "theirs": (THEIRS, "#f08a4b"),
    "both": (DIRECTION_COLOURS["forward+backward"], "#9cc3e0"),
    "gelu": (COLOURS["GELU"], "#d4b73c"),
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
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mish_cuda",  # the same picture gives the same file
}

SIZES = (65_536, 2**20, 2**24)  # of the speed-up bars
WIDTH = 4.6  # inches: text of 10 points is legible where a telephone shows a picture so wide
_PANEL = 3.0  # inches, of each panel of the overview
_CHARACTER = 5.5 / 72  # inches, about
_ROW = 0.24  # inches from one bar to the next
_GAP = 0.065  # of an axis, between two labels of lines

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Picture:
    """A figure, the stem of its file's name, its title, and what it shows in words."""

    name: str
    title: str
    text: str
    figure: Figure


@dataclass(frozen=True)
class Bar:
    """A bar with `text` at its end; those of one group stand below its name."""

    group: str
    label: str
    value: float
    text: str
    colour: str


@contextmanager
def style() -> Iterator[None]:
    """Figures made and saved inside look alike."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def draw(results: Sequence[Result], sizes: Sequence[int]) -> tuple[list[Picture], list[str]]:
    """The pictures for which `results` have rows, and what is left out and why.

    `sizes` are those of the speed-up bars: as many of them as were measured, else the largest.
    """
    found = {size for _, size in _speed_up_bars(results, KERNEL_DIRECTIONS)}
    kinds = (
        ("speed-up", "mish_cuda and F.mish on the same input", speed_ups(results, sizes)),
        ("whole networks", "suite models", networks(results)),
        ("peak memory", "forward+backward with its peak memory", memory(results)),
        ("speed-up under torch.compile", "suite compiled", compiled(results)),
        ("GB/s over size", "suite kernels or gpu", rates(results)),
    )
    missing = [f"{kind}: no rows of {needs}" for kind, needs, pictures in kinds if not pictures]
    if found and (absent := [format_size(size) for size in sizes if size not in found]):
        missing.append(f"speed-up at {', '.join(absent)} elements: not measured")
    if strided := sum(r.cell.layout != "x" for r in results):
        missing.append(f"{strided} rows of tensors that are not contiguous: no picture shows those")
    return [picture for _, _, pictures in kinds for picture in pictures], missing


def put_title(figure: Figure, title: str) -> None:
    """Above all panels, on as many lines as it takes."""
    wrapped = textwrap.fill(title, int(11 * figure.get_figwidth()))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=11)


@style()
def sign(picture: Picture, text: str) -> None:
    """Say in small print below a picture where its data are from."""
    figure = picture.figure
    lines = textwrap.wrap(text, int(18 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.12 * len(lines) + 0.1)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7, color=MUTED)


@style()
def save(picture: Picture, path: Path) -> None:
    """Write a picture as what the end of `path` says, png or svg.

    Raises:
        OSError: it cannot be written.
    """
    # Neither the time nor the version of matplotlib: the same picture gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    picture.figure.savefig(path, dpi=160, metadata=metadata)


@style()
def inline(picture: Picture, prefix: str) -> str:
    """An SVG element for an HTML page that defines ON_PAGES as variables of CSS.

    `prefix` tells its ids from those of other pictures on the page.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    picture.figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg[svg.index("<svg") :])
    for name, (light, _) in ON_PAGES.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg


@style()
def overview(results: Iterable[Result], sizes: Sequence[int]) -> list[Picture]:
    """Speed-up of forward and backward, one panel for each size; on the fewest threads.

    What was measured at any size has its row in all panels, so that they are read across.
    """
    directions: tuple[Direction, ...] = ("forward", "backward")
    found = _speed_up_bars(results, directions)
    if not found:
        return []
    fewest = min(threads for threads, _ in found)
    of_size = {size: bars for (threads, size), bars in found.items() if threads == fewest}
    chosen = _measured(sizes, of_size)
    measured = {(bar.group, bar.label) for size in chosen for bar in of_size[size]}
    rows = [row for row in itertools.product(DTYPES, directions) if row in measured]
    drawn = {size: _in_rows(of_size[size], rows) for size in chosen}
    width = max(WIDTH, _PANEL * len(chosen))
    figure = _figure(width, 0.9 + _height(drawn[chosen[0]]))
    panels = figure.subplots(1, len(chosen), sharex=True, sharey=True, squeeze=False)[0]
    for (size, bars), axes in zip(drawn.items(), panels, strict=True):
        _draw_bars(axes, bars, width / len(chosen), one="F.mish")
        axes.set_title(f"{format_size(size)} elements")
    every = [bar for bars in drawn.values() for bar in bars]
    panels[0].set_xlim(0, _end(every, width / len(chosen), one="F.mish"))
    title = f"mish_cuda against F.mish: how many times as fast{_on(fewest)}"
    put_title(figure, title)
    words = "; ".join(f"{format_size(size)} elements: {_words(of_size[size])}" for size in chosen)
    return [Picture("overview", title, words, figure)]


@style()
def speed_ups(results: Iterable[Result], sizes: Sequence[int]) -> list[Picture]:
    """Speed-up over F.mish by dtype and direction, a picture for each size."""
    bars = _speed_up_bars(results, KERNEL_DIRECTIONS)
    pictures = []
    for threads in sorted({threads for threads, _ in bars}):
        of_size = {size: group for (n, size), group in bars.items() if n == threads}
        for size in _measured(sizes, of_size):
            title = f"Speed-up over F.mish, {format_size(size)} elements{_on(threads)}"
            name = f"speed-up {size}{_on(threads)}"
            pictures.append(_bars_picture(name, title, of_size[size], one="F.mish"))
    return pictures


@style()
def compiled(results: Iterable[Result]) -> list[Picture]:
    """Speed-up over compiled F.mish of both ways to compile ours, for each dtype and size."""
    times = _group(
        (r for r in results if r.suite == "compiled"), lambda r: (r.cell.dtype, r.cell.numel)
    )
    pictures = []
    for (dtype, size), rows in times.items():
        seconds = {r.cell.provider: r.timing.median for r in rows}
        bars = [
            Bar(surrounding, name, ratio, f"{ratio:.2f}x", colour)
            for surrounding in SURROUNDINGS
            for name, colour in (("decomposition", OURS), ("kernel", SKY))
            if (theirs := seconds.get(compiled_provider("F.mish", surrounding)))
            and (ours := seconds.get(compiled_provider(name, surrounding)))
            for ratio in [theirs / ours]
        ]
        if bars:
            title = f"Speed-up under torch.compile, {dtype}, {format_size(size)}"
            name = f"compiled {dtype} {size}"
            pictures.append(_bars_picture(name, title, bars, one="compiled F.mish"))
    return pictures


@style()
def rates(results: Iterable[Result]) -> list[Picture]:
    """GB/s over the number of elements, a picture for each direction and dtype."""
    groups = _group(_sweep(results), lambda r: (r.cell.threads, r.cell.direction, r.cell.dtype))
    directions, dtypes = list(TENSORS_MOVED), list(DTYPES)
    pictures = []
    for threads, direction, dtype in sorted(
        groups, key=lambda key: (key[0], directions.index(key[1]), dtypes.index(key[2]))
    ):
        rows = groups[threads, direction, dtype]
        figure = _figure(WIDTH, 3.4)
        axes = figure.subplots()
        _draw_rates(axes, rows)
        title = f"{direction}, {dtype}{_on(threads)}"
        put_title(figure, title)
        best = max(rows, key=lambda r: r.gigabytes_per_second)
        words = (
            f"GB/s of {', '.join(dict.fromkeys(r.cell.provider for r in rows))} over the number of "
            f"elements; the most is {best.gigabytes_per_second:.3g}, of {best.cell.provider}"
        )
        pictures.append(Picture(_slug(title), title, words, figure))
    return pictures


@style()
def memory(results: Iterable[Result]) -> list[Picture]:
    """Peak memory of forward+backward at the largest size measured, a picture for each dtype."""
    # Not of the copy, which works in memory that is there already.
    rows = [r for r in _sweep(results) if r.cell.provider != "copy" and r.peak_bytes is not None]
    pictures = []
    for dtype, alike in _group(rows, lambda r: r.cell.dtype).items():
        largest = max(r.cell.numel for r in alike)
        size = DTYPES[dtype].itemsize * largest
        bars = [
            replace(bar, text=f"{bar.text}, {bar.value / size:.1f} inputs")
            for bar in _memory_bars(r for r in alike if r.cell.numel == largest)
        ]
        title = f"Peak memory, forward+backward, {dtype}, {format_size(largest)}"
        pictures.append(_bars_picture(f"memory {dtype}", title, bars))
    return pictures


@style()
def networks(results: Iterable[Result]) -> list[Picture]:
    """Time of a training step and of inference, and peak memory: a picture for each network."""
    groups = _group(
        (r for r in results if r.cell.network),
        lambda r: (r.cell.network, r.cell.dtype, r.cell.shape, r.cell.threads),
    )
    pictures = []
    for (network, dtype, shape, threads), rows in groups.items():
        steps = [r for r in rows if r.cell.direction == "training step"]
        panels = {
            "time of a training step": _time_bars(steps),
            "peak memory of a training step": _memory_bars(steps),
            "time of inference": _time_bars(r for r in rows if r.cell.direction == "inference"),
        }
        panels = {name: bars for name, bars in panels.items() if bars}
        if not panels:
            continue
        heights = [_height(bars) for bars in panels.values()]
        figure = _figure(WIDTH, sum(heights) + 0.3 * len(panels) + 0.4)
        drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, bars) in zip(drawn, panels.items(), strict=True):
            _draw_bars(axes, bars, WIDTH)
            axes.set_title(name)
        batch = "x".join(map(str, shape))
        title = f"{network}, {dtype}, batch {batch}{_on(threads)}"
        put_title(figure, title)
        words = "; ".join(f"{name}: {_words(bars)}" for name, bars in panels.items())
        pictures.append(Picture(_slug(title), title, words, figure))
    return pictures


def _sweep(results: Iterable[Result]) -> list[Result]:
    """Rows of single functions on contiguous tensors, timed beside all other providers."""
    return [
        r
        for r in results
        if r.suite in GRIDS and r.cell.layout == "x" and r.cell.direction in TENSORS_MOVED
    ]


def _group(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    """In the order of their first row."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _speed_up_bars(
    results: Iterable[Result], directions: Sequence[Direction]
) -> dict[tuple[int, int], list[Bar]]:
    """Bars by threads and size, in the order of dtypes and directions."""
    pairs = _group(
        (r for r in results if r.cell.layout == "x" and not r.cell.network),
        # Never across suites: only within one were both timed in turns.
        lambda r: (r.suite, replace(r.cell, provider="")),
    )
    ratios: dict[tuple[int, int], dict[tuple[str, Direction], float]] = {}
    for (_, cell), rows in pairs.items():
        seconds = {r.cell.provider: r.timing.median for r in rows}
        if "mish_cuda" in seconds and "F.mish" in seconds:
            of_size = ratios.setdefault((cell.threads, cell.numel), {})
            # Of two suites, the first in the file.
            of_size.setdefault(
                (cell.dtype, cell.direction), seconds["F.mish"] / seconds["mish_cuda"]
            )
    bars = {
        key: [
            Bar(dtype, direction, ratio, f"{ratio:.1f}x", DIRECTION_COLOURS[direction])
            for dtype in DTYPES
            for direction in directions
            if (ratio := of_size.get((dtype, direction)))
        ]
        for key, of_size in ratios.items()
    }
    return {key: group for key, group in bars.items() if group}


def _in_rows(bars: Iterable[Bar], rows: Iterable[tuple[str, str]]) -> list[Bar]:
    """A bar for each group and label of `rows`, those without one saying so."""
    found = {(bar.group, bar.label): bar for bar in bars}
    return [found.get(row) or Bar(*row, 0, "not measured", MUTED) for row in rows]


def _measured(sizes: Iterable[int], found: Iterable[int]) -> list[int]:
    """Those of `sizes` that were found; if none was, the largest found."""
    found = set(found)
    return sorted(found.intersection(sizes)) or [max(found)]


def _time_bars(results: Iterable[Result]) -> list[Bar]:
    return [_bar(r, r.timing.median, format_seconds(r.timing.median)) for r in results]


def _memory_bars(results: Iterable[Result]) -> list[Bar]:
    return [
        _bar(r, r.peak_bytes, format_bytes(r.peak_bytes))
        for r in results
        if r.peak_bytes is not None
    ]


def _bar(result: Result, value: float, text: str) -> Bar:
    provider = result.cell.provider
    return Bar("", provider, value, text, _colour(provider))


def _bars_picture(name: str, title: str, bars: Sequence[Bar], one: str = "") -> Picture:
    figure = _figure(WIDTH, 0.5 + _height(bars) + (_ROW if one else 0))
    axes = figure.subplots()
    _draw_bars(axes, bars, WIDTH, one)
    put_title(figure, title)
    return Picture(_slug(name), title, _words(bars), figure)


def _figure(width: float, height: float) -> Figure:
    """Sizes are in inches. Without pyplot, which would want a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _height(bars: Sequence[Bar]) -> float:
    """Inches for bars and for the names of their groups."""
    return _ROW * (len(bars) + len({bar.group for bar in bars if bar.group}))


def _end(bars: Sequence[Bar], width: float, one: str) -> float:
    """Where an axis has to end for the texts to fit, if names and axis have so many inches."""
    width = max(width - _CHARACTER * max(len(_shorten(bar.label)) for bar in bars) - 0.2, 1)
    texts = [(_place(bar, one), bar.text) for bar in bars]
    if one:
        texts.append((1, _at_one(one)))
    ends = [place / max(1 - _CHARACTER * (len(text) + 1) / width, 0.3) for place, text in texts]
    return max(ends) or 1


def _place(bar: Bar, one: str) -> float:
    """Where the text of a bar begins: not left of the line at 1, which would go through it."""
    return max(bar.value, 1) if one else bar.value


def _at_one(one: str) -> str:
    return f"1x: {one}"


def _draw_bars(axes: Axes, bars: Sequence[Bar], width: float, one: str = "") -> None:
    """From top to bottom, with a line at 1 for what `one` names; `width` is as for `_end`."""
    row = 0
    rows = []
    for group, members in itertools.groupby(bars, key=lambda bar: bar.group):
        if group:
            axes.text(
                *(0.005, row, group),
                transform=axes.get_yaxis_transform(),  # x from 0 to 1, whatever the values are
                va="center",
                weight="bold",
            )
            row += 1
        first = row
        for bar in members:
            axes.annotate(
                bar.text,
                (_place(bar, one), row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
            rows.append(row)
            row += 1
        if one:  # not through the names of the groups
            axes.vlines(1, first - 0.5, row - 0.5, color=INK, linewidth=1, linestyle="dashed")
    axes.barh(rows, [bar.value for bar in bars], height=0.8, color=[bar.colour for bar in bars])
    axes.set_yticks(rows, [_shorten(bar.label) for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, _end(bars, width, one))
    axes.set_ylim(row - 0.5 + bool(one), -0.6)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)  # each bar says its value
    axes.spines[["left", "bottom"]].set_visible(False)
    if one:
        axes.annotate(
            _at_one(one),
            (1, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=9,
        )


def _draw_rates(axes: Axes, rows: Sequence[Result]) -> None:
    """Medians, between p20 and p80, with the name of each line at its end."""
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", yscale="log", ylabel="GB/s")
    axes.set_xlabel("elements (K: 2^10, M: 2^20)")
    ends = {}
    for provider, line in _group(rows, lambda r: r.cell.provider).items():
        line = sorted(line, key=lambda r: r.cell.numel)
        sizes = [r.cell.numel for r in line]
        axes.plot(
            sizes,
            [r.gigabytes_per_second for r in line],
            f"o{_dash(provider)}",
            color=_colour(provider),
            markersize=3,
            linewidth=2.2 if provider == "mish_cuda" else 1.4,
            zorder=3 if provider == "mish_cuda" else 2,
        )
        fast = [r.cell.bytes / r.timing.p20 / 1e9 for r in line]
        slow = [r.cell.bytes / r.timing.p80 / 1e9 for r in line]
        axes.fill_between(sizes, slow, fast, color=_colour(provider), alpha=0.15, linewidth=0)
        ends[provider] = (line[-1].cell.numel, line[-1].gigabytes_per_second)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
    axes.xaxis.set_major_formatter(lambda size, _: _short_size(size))
    axes.xaxis.minorticks_off()
    slowest = min(r.gigabytes_per_second for r in rows)
    fastest = max(r.gigabytes_per_second for r in rows)
    # At least a factor of 4, so that there is a tick, at 1, 2 or 5 if not at 10.
    axes.set_ylim(slowest / 2, fastest * 2)
    axes.yaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if fastest < 100 * slowest else (1,), numticks=12)
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    heights = {
        provider: float(axes.transLimits.transform(axes.transScale.transform(end))[1])
        for provider, end in ends.items()
    }
    names = sorted(heights, key=lambda name: heights[name])
    for provider, height in zip(names, _spread(sorted(heights.values())), strict=True):
        axes.annotate(
            _shorten(provider),
            (1.02, height),
            xycoords="axes fraction",
            va="center",
            color=_colour(provider),
            weight="bold" if provider == "mish_cuda" else "normal",
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights from 0 to 1, moved so far apart that labels there do not overlap."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _GAP) if moved else height)
    ceiling = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - _GAP
    return moved


def _shorten(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _short_size(count: float) -> str:
    """A count with a binary prefix, for the ticks of an axis."""
    power = max(0, min(int(math.log2(count)) // 10, 3))
    return f"{count / 2 ** (10 * power):g} {['', 'K', 'M', 'G'][power]}".strip()


def _colour(provider: str) -> str:
    return COLOURS.get(provider, MUTED)


def _dash(provider: str) -> str:
    return "--" if provider == "copy" or provider.startswith("compiled") else "-"


def _on(threads: int) -> str:
    return f", {threads} threads" if threads > 1 else ""


def _words(bars: Iterable[Bar]) -> str:
    return ", ".join(" ".join(filter(None, (b.group, b.label, b.text))) for b in bars)


def _slug(text: str) -> str:
    """A file's name."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")
