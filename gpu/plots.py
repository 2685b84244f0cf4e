"""Plots of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.cells import DTYPES
from benchmarks.results import Result
from gpu.providers import DIRECTIONS, NAMES

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(results: Sequence[Result], folder: Path) -> list[str]:
    """GB/s over size, a picture for each direction and dtype; the names of the files."""
    names = []
    for direction in DIRECTIONS:
        for dtype in DTYPES:
            chosen = [r for r in results if r.cell.direction == direction and r.cell.dtype == dtype]
            if not chosen:
                continue
            figure, axes = plt.subplots(figsize=(7, 4.5))
            for provider in NAMES:
                line = sorted(
                    (r.cell.numel, r.gigabytes_per_second)
                    for r in chosen
                    if r.cell.provider == provider
                )
                if line:
                    style = {"copy": "k--"}.get(provider, "o-" if provider == "mish_cuda" else ".-")
                    axes.plot(*zip(*line, strict=True), style, label=provider)
            axes.set(xlabel="elements", ylabel="GB/s", title=f"{direction}, {dtype}")
            axes.set_xscale("log", base=2)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
            name = f"{direction}-{dtype}.png"
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            plt.close(figure)
            names.append(name)
    return names
