"""Plots of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.results import Result


def draw(results: Sequence[Result], source: str, folder: Path) -> list[str]:
    """GB/s over size, a picture for each direction and dtype, with `source` in small print; the
    names of the files."""
    names = []
    for picture in plots.rates(results):
        names.append(f"{picture.name}.png")
        plots.sign(picture, source)
        plots.save(picture, folder / names[-1])
    return names
