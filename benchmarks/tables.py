"""Tables from measured rows, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from benchmarks.cells import (
    COMPILED,
    KERNEL_DIRECTIONS,
    KERNEL_PROVIDERS,
    SURROUNDINGS,
    Direction,
    Group,
    compiled_provider,
)
from benchmarks.claims import Verdict
from benchmarks.results import Result
from benchmarks.units import format_seconds, format_size, three_digits

_NOTES = """\
Times: medians of interleaved rounds; CPU threads: {threads}. M: 2^20 elements.
ours: mish_cuda. Speed-up: time of F.mish / time of ours.
GB/s: of ours, for 2 (forward), 3 (backward) or 5 (both) tensors read or
written. Of copy: share of the copy's GB/s.
naive: x * tanh(softplus(x)), eager.
copy: out.copy_(x); in place of a backward torch.add(g, x, out=out), two reads
and one write; in forward+backward both of these. Its result is allocated
beforehand, the others allocate theirs in the call."""

_README_SIZES = (65_536, 2**20)
_README_DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
# Broken and spaced so that times of seven characters leave the whole within 80 columns.
_HEADER = (
    "dtype",
    "size",
    *("ours" if name == "mish_cuda" else name for name in KERNEL_PROVIDERS),
    "speed\nup",
    "GB/s",
    "of\ncopy",
)
_SPEED_UP_COLUMN = _HEADER.index("speed\nup")


def group_title(group: Group) -> str:
    """What a group measures, for the progress bar."""
    cell = group.cells[0]
    return f"{group.suite}: {cell.direction}, {cell.dtype}, {format_size(cell.numel)}"


def kernel_tables(results: Iterable[Result]) -> list[Table]:
    """One table for each direction, sections by dtype."""
    results = list(results)
    tables = []
    for direction in KERNEL_DIRECTIONS:
        lines = _kernel_lines(results, direction)
        if not lines:
            continue
        table = Table(title=direction, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        for column, name in enumerate(_HEADER):
            table.add_column(name, justify="left" if column == 0 else "right", no_wrap=True)
        dtype = lines[0][0]
        for line in lines:
            if line[0] != dtype:
                dtype = line[0]
                table.add_section()
            table.add_row(*_coloured(line))
        tables.append(table)
    return tables


def kernel_markdown(results: Iterable[Result]) -> str:
    """The lines of a README: one small and one large size, each dtype, both kernels."""
    results = [r for r in results if r.cell.numel in _README_SIZES]
    rows = [
        ("direction", *(name.replace("\n", " ") for name in _HEADER)),
        ("---", "---", *("---:" for _ in _HEADER[1:])),
        *(
            (direction, *line)
            for direction in _README_DIRECTIONS
            for line in _kernel_lines(results, direction)
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_COMPILED_HEADER = ("dtype", "size", "function", *COMPILED, "F.mish / decomposition")


def compiled_table(results: Iterable[Result]) -> Table | None:
    """torch.compile of F.mish and of ours, forward and backward; None if not measured."""
    lines = _compiled_lines(results)
    if not lines:
        return None
    table = Table(
        title="torch.compile, forward+backward",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for column, name in enumerate(_COMPILED_HEADER):
        table.add_column(name.replace(" / ", "\n/ "), justify="right" if column > 2 else "left")
    for line in lines:
        table.add_row(*line)
    return table


def compiled_markdown(results: Iterable[Result]) -> str:
    """The same for a README."""
    rows = [_COMPILED_HEADER, tuple("---" for _ in _COMPILED_HEADER), *_compiled_lines(results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _compiled_lines(results: Iterable[Result]) -> list[tuple[str, ...]]:
    times = {
        (r.cell.dtype, r.cell.numel, r.cell.provider): r.timing.median
        for r in results
        if r.suite == "compiled"
    }
    inputs = list(dict.fromkeys(key[:2] for key in times))
    lines = []
    for dtype, numel in inputs:
        for surrounding in SURROUNDINGS:
            taken = [
                times.get((dtype, numel, compiled_provider(name, surrounding))) for name in COMPILED
            ]
            if None in taken:  # interrupted
                continue
            theirs, ours, kernel = (seconds for seconds in taken if seconds is not None)
            columns = (format_seconds(seconds) for seconds in (theirs, ours, kernel))
            size = format_size(numel)
            lines.append((dtype, size, f"`{surrounding}`", *columns, f"{theirs / ours:.2f}x"))
    return lines


def kernel_notes(results: Iterable[Result]) -> str:
    """How to read the kernels table."""
    threads = sorted({r.cell.threads for r in results if r.suite == "kernels"})
    return _NOTES.format(threads=", ".join(map(str, threads)))


def claims_table(verdicts: Iterable[Verdict]) -> Table:
    """Each claim with its worst measured ratio."""
    table = Table(
        title="claims: ratios of median times, one thread where nothing else is said",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("claim", no_wrap=True)
    table.add_column("required", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("the worst of")
    table.add_column("ok", no_wrap=True)
    for verdict in verdicts:
        ratio, value = verdict.worst
        count = len(verdict.measured)
        table.add_row(
            verdict.claim.title,
            verdict.claim.required,
            f"{value:.2f}",
            f"{count}: {ratio.name}" if count > 1 else "",
            "[green]yes[/]" if verdict.ok else "[bold red]NO[/]",
        )
    return table


def _kernel_lines(results: Iterable[Result], direction: Direction) -> list[tuple[str, ...]]:
    """Text of the table's cells, ordered by dtype and then by size as they were measured."""
    by_input: dict[tuple[str, int], dict[str, Result]] = {}
    for r in results:
        if r.suite == "kernels" and r.cell.direction == direction:
            by_input.setdefault((r.cell.dtype, r.cell.numel), {})[r.cell.provider] = r
    dtypes = list(dict.fromkeys(dtype for dtype, _ in by_input))
    return [
        (dtype, format_size(numel), *_figures(by_input[dtype, numel]))
        for dtype, numel in sorted(by_input, key=lambda key: dtypes.index(key[0]))
    ]


def _figures(by_provider: dict[str, Result]) -> tuple[str, ...]:
    """Every group holds all providers, so none is missing here."""
    ours, theirs, copy = (by_provider[name] for name in ("mish_cuda", "F.mish", "copy"))
    share = ours.gigabytes_per_second / copy.gigabytes_per_second
    return (
        *(format_seconds(by_provider[name].timing.median) for name in KERNEL_PROVIDERS),
        f"{theirs.timing.median / ours.timing.median:.2f}x",
        three_digits(ours.gigabytes_per_second),
        f"{share:.0%}",
    )


def _coloured(line: tuple[str, ...]) -> list[str]:
    cells = list(line)
    speed_up = cells[_SPEED_UP_COLUMN]
    colour = "green" if float(speed_up.rstrip("x")) >= 1 else "red"
    cells[_SPEED_UP_COLUMN] = f"[bold {colour}]{speed_up}[/]"
    return cells
