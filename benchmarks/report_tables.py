"""The tables of a report: text in rows and columns, for HTML and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cells import COMPILED, DTYPES, GRIDS, KERNEL_DIRECTIONS, Cell
from benchmarks.claims import judge
from benchmarks.results import Result
from benchmarks.sources import Source
from benchmarks.units import format_bytes, format_shape


@dataclass(frozen=True)
class Table:
    """The first column names the rows: on a narrow screen it stays while the others scroll. Of
    tables that are read alike, the last has the note."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def make(source: Source) -> list[Table]:
    """All tables of a file."""
    if source.errors:
        return [_errors(source)]
    tables = (
        *_networks(source.speeds),
        *_kernels(source.speeds),
        _memory(source.speeds),
        _compiled(source.speeds),
        _claims(source.speeds),
    )
    return [table for table in tables if table.rows]


def _networks(results: Sequence[Result]) -> list[Table]:
    if not any(r.suite == "models" for r in results):
        return []
    from benchmarks import model_tables  # it needs rich, as tables does

    header = [name.replace("\n", " ") for name in model_tables.HEADER]
    lines = model_tables.model_lines(results)
    tables = [Table(title, "", header, rows) for title, rows in lines.items()]
    return _with_note(tables, " ".join(model_tables.NOTES.split()))


def _kernels(results: Sequence[Result]) -> list[Table]:
    """A table for each direction and number of threads."""
    from benchmarks import tables

    results = [r for r in results if r.suite in GRIDS]
    providers = list(dict.fromkeys(r.cell.provider for r in results))
    found = []
    for threads in sorted({r.cell.threads for r in results}):
        for direction in KERNEL_DIRECTIONS:
            alike = [
                r for r in results if (r.cell.threads, r.cell.direction) == (threads, direction)
            ]
            rows = [
                (name, *tables.times(measured, providers), *tables.figures(measured))
                for name, measured in _by_input(alike, lambda cell: cell.provider).items()
            ]
            header = ("input", *providers, "speed up", "GB/s", "of copy")
            found.append(Table(f"{direction}, CPU threads: {threads}", "", header, rows))
    note = f"Medians. M: 2^20 elements. {tables.TIMES} {tables.EXPLANATIONS}"
    return _with_note([table for table in found if table.rows], " ".join(note.split()))


def _memory(results: Sequence[Result]) -> Table:
    results = [r for r in results if r.suite == "kernels" and r.peak_bytes is not None]
    providers = list(dict.fromkeys(r.cell.provider for r in results))
    rows = [
        (input_, *(_peak(measured.get(name)) for name in providers))
        for input_, measured in _by_input(results, lambda cell: cell.provider).items()
    ]
    note = "Above what was allocated before, results included; the copy's are there before."
    return Table("Peak memory of forward+backward", note, ("input", *providers), rows)


def _compiled(results: Sequence[Result]) -> Table:
    """The function in which Mish stands is part of a row's name."""
    from benchmarks import tables

    results = [r for r in results if r.suite == "compiled"]
    functions = dict.fromkeys(r.cell.provider.partition(" in ")[2] for r in results)
    columns = [f"compiled {name}" for name in COMPILED]
    rows = []
    for function in functions:
        alike = [r for r in results if r.cell.provider.partition(" in ")[2] == function]
        by_input = _by_input(alike, lambda cell: cell.provider.partition(" in ")[0])
        rows += [
            (
                f"{input_}, {function}",
                *tables.times(measured, columns),
                tables.speed_up(measured, *columns[:2]),
            )
            for input_, measured in by_input.items()
        ]
    return Table(
        "torch.compile, forward+backward",
        "decomposition and kernel: mish_cuda, by either way of compile_with. "
        "Speed up: of the decomposition over F.mish, both compiled.",
        ("input, function", *COMPILED, "speed up"),
        rows,
    )


def _claims(results: Sequence[Result]) -> Table:
    rows = []
    for verdict in judge(results):
        ratio, value = verdict.worst
        count = len(verdict.measured)
        worst = f"{count}: {ratio.name}" if count > 1 else ""
        ok = "yes" if verdict.ok else "NO"
        rows.append((verdict.claim.title, verdict.claim.required, f"{value:.2f}", ok, worst))
    return Table(
        "Claims",
        "Ratios of median times, one thread where nothing else is said.",
        ("claim", "required", "measured", "ok", "the worst of"),
        rows,
    )


def _errors(source: Source) -> Table:
    from accuracy import tables
    from accuracy.verdicts import judge

    def join(line: Sequence[str]) -> tuple[str, ...]:
        return ", ".join(line[:3]), *line[3:]

    return Table(
        "Errors, and what is required on a CPU",
        " ".join(tables.NOTES.split()),
        join(tables.ERROR_HEADER),
        [join(line) for line in tables.error_lines(judge(source.errors))],
    )


def _with_note(tables: list[Table], note: str) -> list[Table]:
    return [*tables[:-1], *(replace(table, note=note) for table in tables[-1:])]


def _by_input(
    results: Iterable[Result], name: Callable[[Cell], str]
) -> dict[str, dict[str, Result]]:
    """By dtype and shape in words, and by what `name` gives, in the order of dtypes and sizes."""
    dtypes = list(DTYPES)
    found: dict[str, dict[str, Result]] = {}
    for r in sorted(results, key=lambda r: (dtypes.index(r.cell.dtype), r.cell.numel)):
        words = f"{r.cell.dtype} {format_shape(r.cell.shape)}"
        found.setdefault(words, {})[name(r.cell)] = r
    return found


def _peak(result: Result | None) -> str:
    if result is None or result.peak_bytes is None:
        return ""
    return format_bytes(result.peak_bytes)
