"""Tables of whole networks, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from benchmarks.cells import Cell, Direction
from benchmarks.models import NONE
from benchmarks.results import Result
from benchmarks.tables import plain_table
from benchmarks.units import format_bytes, format_seconds, format_shape, markdown

NOTES = """\
Times: medians of interleaved rounds. Step: forward, loss, backward, SGD step.
Speed-up: time with F.mish / time of the line. Share: of the step, that the
activations take, by comparison with the network without any (none); a negative
one means that the spread (p20 to p80) is larger than the share. Peak memory: of
a step, gradients included, above weights, optimizer state and input.
naive: x * tanh(softplus(x)), eager."""

HEADER = (
    "activation",
    "step",
    "p20 to p80",
    "speed\nup",
    "share",
    "peak\nmemory",
    "inference",
    "speed\nup",
)


def model_lines(results: Iterable[Result]) -> dict[str, list[tuple[str, ...]]]:
    """Text of the columns of HEADER, activation by activation, for each network and input.

    A text is empty where it, or what it is compared with, was not measured.
    """
    measured = {r.cell: r for r in results if r.suite == "models"}
    lines: dict[str, dict[str, tuple[str, ...]]] = {}
    for cell in measured:
        title = (
            f"{cell.network}, input {format_shape(cell.shape)}, {cell.dtype}, "
            f"CPU threads: {cell.threads}"
        )
        lines.setdefault(title, {})[cell.provider] = _line(measured, cell)
    return {title: list(by_activation.values()) for title, by_activation in lines.items()}


def model_tables(results: Iterable[Result]) -> list[Table]:
    """One table for each network and input."""
    tables = []
    for title, lines in model_lines(results).items():
        table = plain_table(title, *HEADER)
        for line in lines:
            table.add_row(*map(escape, line), style="bold" if line[0] == "mish_cuda" else None)
        tables.append(table)
    return tables


def model_markdown(results: Iterable[Result]) -> str:
    """The same for a README."""
    rows = [(title, *line) for title, lines in model_lines(results).items() for line in lines]
    return markdown(("network", *HEADER), rows, left=2)


def _line(measured: Mapping[Cell, Result], cell: Cell) -> tuple[str, ...]:
    def find(direction: Direction, activation: str = cell.provider) -> Result | None:
        return measured.get(replace(cell, direction=direction, provider=activation))

    def speed_up(direction: Direction) -> str:
        theirs, this = find(direction, "F.mish"), find(direction)
        return f"{theirs.timing.median / this.timing.median:.2f}x" if theirs and this else ""

    step, without, inference = find("training step"), find("training step", NONE), find("inference")
    return (
        cell.provider,
        format_seconds(step.timing.median) if step else "",
        f"{format_seconds(step.timing.p20)} to {format_seconds(step.timing.p80)}" if step else "",
        speed_up("training step"),
        f"{1 - without.timing.median / step.timing.median:.0%}" if step and without else "",
        format_bytes(step.peak_bytes) if step and step.peak_bytes is not None else "",
        format_seconds(inference.timing.median) if inference else "",
        speed_up("inference"),
    )
