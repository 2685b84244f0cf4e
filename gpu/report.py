"""From what was measured to a page: claims, a Markdown summary and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from benchmarks.cells import DTYPES, Direction
from benchmarks.results import Result

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LARGE = 2**24  # elements from which memory alone decides


@dataclass(frozen=True)
class Claim:
    """A ratio of median times, `over` / `under`, that should be at least `bound`."""

    over: str
    under: str
    direction: Direction
    dtype: str
    bound: float


DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
CLAIMS = (
    *(
        Claim(peer, "mish_cuda", direction, dtype, bound)
        for direction in DIRECTIONS
        for dtype in ("fp32", "fp16", "bf16")
        for peer, bound in (("relu", 1.0), ("copy", 0.97))
    ),
    *(
        Claim("F.mish", "mish_cuda", direction, dtype, bound)
        for dtype, bounds in (
            ("fp32", (1.0, 1.0)),
            ("fp16", (1.8, 1.9)),
            ("bf16", (1.8, 1.9)),
            ("fp64", (2.0, 2.0)),
        )
        for direction, bound in zip(DIRECTIONS, bounds, strict=True)
    ),
)


def medians(results: Iterable[Result]) -> dict[tuple[str, str, str, int], float]:
    """Seconds by provider, direction, dtype and number of elements."""
    return {
        (r.cell.provider, r.cell.direction, r.cell.dtype, r.cell.numel): r.timing.median
        for r in results
    }


def judge(results: Sequence[Result]) -> list[tuple[Claim, float | None]]:
    """Each claim with its worst ratio over the large sizes, None if nothing was measured."""
    times = medians(results)
    sizes = sorted({size for *_, size in times if size >= LARGE})
    verdicts: list[tuple[Claim, float | None]] = []
    for claim in CLAIMS:
        over, under = (
            [times.get((provider, claim.direction, claim.dtype, size)) for size in sizes]
            for provider in (claim.over, claim.under)
        )
        ratios = [a / b for a, b in zip(over, under, strict=True) if a and b]
        verdicts.append((claim, min(ratios, default=None)))
    return verdicts


def claims_markdown(results: Sequence[Result]) -> str:
    """The claims as a table."""
    lines = [
        f"| time of / time of, {LARGE:,} elements and more | required | worst | ok |",
        "| --- | ---: | ---: | --- |",
    ]
    for claim, ratio in judge(results):
        name = f"{claim.direction} {claim.dtype}: {claim.over} / {claim.under}"
        worst = "not measured" if ratio is None else f"{ratio:.3f}"
        ok = "" if ratio is None else "yes" if ratio >= claim.bound else "NO"
        lines.append(f"| {name} | {claim.bound:g} | {worst} | {ok} |")
    return "\n".join(lines)


def accuracy_markdown(rows: Sequence[dict[str, object]]) -> str:
    """The errors as a table."""
    if not rows:
        return "Not measured."
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "| " + " --- |" * len(columns)]
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Sequence[Result], folder: Path) -> list[str]:
    """GB/s over size, a picture for each direction and dtype; the names of the files."""
    names = []
    for direction in DIRECTIONS:
        for dtype in DTYPES:
            chosen = [r for r in results if r.cell.direction == direction and r.cell.dtype == dtype]
            if not chosen:
                continue
            figure, axes = plt.subplots(figsize=(7, 4.5))
            for provider in dict.fromkeys(r.cell.provider for r in chosen):
                line = sorted(
                    (r.cell.numel, r.gigabytes_per_second)
                    for r in chosen
                    if r.cell.provider == provider
                )
                style = {"copy": "k--"}.get(provider, "o-" if provider == "mish_cuda" else ".-")
                axes.plot(*zip(*line, strict=True), style, label=provider)
            axes.set(xscale="log", xlabel="elements", ylabel="GB/s", title=f"{direction}, {dtype}")
            axes.set_xscale("log", base=2)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
            name = f"{direction}-{dtype}.png"
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            plt.close(figure)
            names.append(name)
    return names
