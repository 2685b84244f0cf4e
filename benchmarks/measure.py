"""Measuring a group of cells: times in turn, and the peak memory of what trains."""

from __future__ import annotations

from benchmarks import memory
from benchmarks.cells import Group
from benchmarks.providers import make_inputs, statement
from benchmarks.results import Result
from benchmarks.timing import Statement, interleave


def measure(group: Group, device: str, seconds: float) -> list[Result]:
    """Time every cell once per round, for about `seconds` and at least `group.min_rounds`."""
    inputs = {
        key: make_inputs(cell, device)
        for key, cell in {(c.dtype, c.shape, c.layout): c for c in group.cells}.items()
    }
    statements = [statement(c, inputs[c.dtype, c.shape, c.layout]) for c in group.cells]
    timings = interleave(statements, seconds, group.min_rounds)
    return [
        Result(
            group.suite,
            cell,
            timing,
            peak(call, device) if cell.direction == "forward+backward" else None,
        )
        for cell, call, timing in zip(group.cells, statements, timings, strict=True)
    ]


def peak(call: Statement, device: str) -> int:
    """Peak memory of a statement that has run before, in bytes."""
    code, names = compile(call.text, "<statement>", "exec"), dict(call.names)
    return memory.peak(lambda: exec(code, names), device)
