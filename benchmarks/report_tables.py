"""The tables of a report: text in rows and columns, for HTML and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.cells import COMPILED, DTYPES, KERNEL_DIRECTIONS, Cell
from benchmarks.claims import judge
from benchmarks.results import Result
from benchmarks.sources import Source
from benchmarks.units import format_bytes, format_seconds, format_shape, three_digits

ByProvider = Mapping[str, Result]


@dataclass(frozen=True)
class Table:
    """The first `names` columns say what the others are figures of. Of tables that are read alike,
    the last has the note."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int


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
    from benchmarks import model_tables  # it needs rich

    header = [name.replace("\n", " ") for name in model_tables.HEADER]
    lines = model_tables.model_lines(results)
    tables = [Table(title, "", header, rows, names=1) for title, rows in lines.items()]
    return _with_note(tables, " ".join(model_tables.NOTES.split()))


def _kernels(results: Sequence[Result]) -> list[Table]:
    """A table for each direction and number of threads."""
    results = [r for r in results if r.suite in ("kernels", "gpu")]
    providers = list(dict.fromkeys(r.cell.provider for r in results))
    tables = []
    for threads in sorted({r.cell.threads for r in results}):
        for direction in KERNEL_DIRECTIONS:
            alike = [
                r for r in results if (r.cell.threads, r.cell.direction) == (threads, direction)
            ]
            rows = [
                (*key, *_times(measured, providers), *_figures(measured))
                for key, measured in _by_input(alike, lambda cell: cell.provider).items()
            ]
            header = ("dtype", "size", *providers, "speed-up", "GB/s", "of copy")
            tables.append(Table(f"{direction}, CPU threads: {threads}", "", header, rows, names=2))
    return _with_note(
        [table for table in tables if table.rows],
        "Medians of the time of a call. Speed-up: time of F.mish / time of mish_cuda. GB/s: of "
        "mish_cuda, and its share of the copy's. M: 2^20 elements. naive: x * tanh(softplus(x)) in "
        "eager calls; memory-efficient: the same, saving x alone. copy: out.copy_(x), in place of "
        "a backward torch.add(g, x, out=out).",
    )


def _memory(results: Sequence[Result]) -> Table:
    results = [r for r in results if r.suite == "kernels" and r.peak_bytes is not None]
    providers = list(dict.fromkeys(r.cell.provider for r in results))
    rows = [
        (*key, *(_peak(measured.get(name)) for name in providers))
        for key, measured in _by_input(results, lambda cell: cell.provider).items()
    ]
    note = "Above what was allocated before, results included; the copy's are there before."
    header = ("dtype", "size", *providers)
    return Table("Peak memory of forward+backward", note, header, rows, names=2)


def _compiled(results: Sequence[Result]) -> Table:
    """The function in which Mish stands has a column of its own."""
    results = [r for r in results if r.suite == "compiled"]
    functions = dict.fromkeys(r.cell.provider.partition(" in ")[2] for r in results)
    columns = [f"compiled {name}" for name in COMPILED]
    rows = []
    for function in functions:
        alike = [r for r in results if r.cell.provider.partition(" in ")[2] == function]
        by_input = _by_input(alike, lambda cell: cell.provider.partition(" in ")[0])
        rows += [
            (*key, function, *_times(measured, columns), _ratio(measured, *columns[:2]))
            for key, measured in by_input.items()
        ]
    return Table(
        "torch.compile, forward+backward",
        "decomposition and kernel: mish_cuda, by either way of compile_with. "
        "Speed-up: of the decomposition over F.mish, both compiled.",
        ("dtype", "size", "function", *COMPILED, "speed-up"),
        rows,
        names=3,
    )


def _claims(results: Sequence[Result]) -> Table:
    rows = []
    for verdict in judge(results):
        ratio, value = verdict.worst
        count = len(verdict.measured)
        worst = f"{count}: {ratio.name}" if count > 1 else ""
        ok = "yes" if verdict.ok else "NO"
        rows.append((verdict.claim.title, verdict.claim.required, worst, f"{value:.2f}", ok))
    return Table(
        "Claims",
        "Ratios of median times, one thread where nothing else is said.",
        ("claim", "required", "the worst of", "measured", "ok"),
        rows,
        names=3,
    )


def _errors(source: Source) -> Table:
    from accuracy import tables
    from accuracy.verdicts import judge

    note = " ".join(tables.NOTES.split())
    title = "Errors, and what is required on a CPU"
    return Table(
        title, note, tables.ERROR_HEADER, tables.error_lines(judge(source.errors)), names=3
    )


def _with_note(tables: list[Table], note: str) -> list[Table]:
    return [*tables[:-1], *(replace(table, note=note) for table in tables[-1:])]


def _by_input(
    results: Iterable[Result], name: Callable[[Cell], str]
) -> dict[tuple[str, str], dict[str, Result]]:
    """By dtype and shape as text, and by what `name` gives, in the order of dtypes and sizes."""
    dtypes = list(DTYPES)
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for r in sorted(results, key=lambda r: (dtypes.index(r.cell.dtype), r.cell.numel)):
        key = (r.cell.dtype, format_shape(r.cell.shape))
        found.setdefault(key, {})[name(r.cell)] = r
    return found


def _times(measured: ByProvider, providers: Iterable[str]) -> list[str]:
    return [
        format_seconds(measured[name].timing.median) if name in measured else ""
        for name in providers
    ]


def _figures(measured: ByProvider) -> tuple[str, str, str]:
    """Speed-up, rate, and its share of the copy's."""
    ours, copy = measured.get("mish_cuda"), measured.get("copy")
    return (
        _ratio(measured, "F.mish", "mish_cuda"),
        three_digits(ours.gigabytes_per_second) if ours else "",
        f"{copy.timing.median / ours.timing.median:.0%}" if ours and copy else "",
    )


def _ratio(measured: ByProvider, over: str, under: str) -> str:
    if over not in measured or under not in measured:
        return ""
    return f"{measured[over].timing.median / measured[under].timing.median:.2f}x"


def _peak(result: Result | None) -> str:
    if result is None or result.peak_bytes is None:
        return ""
    return format_bytes(result.peak_bytes)
