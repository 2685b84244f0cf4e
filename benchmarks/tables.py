"""Tables from measured rows, for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmarks.cells import (
    COMPILED,
    GRIDS,
    KERNEL_DIRECTIONS,
    PROVIDERS,
    SURROUNDINGS,
    Direction,
    compiled_provider,
)
from benchmarks.claims import Verdict
from benchmarks.results import Result
from benchmarks.units import format_seconds, format_shape, format_size, markdown, three_digits

_MEDIANS = "Medians of interleaved rounds; CPU threads: {threads}. M: 2^20 elements."
_RATIOS = """\
{base}: time of a call{ours}. Times of the others as multiples of it.
GB/s: its rate, for 2 (forward), 3 (backward) or 5 (both) tensors read or
written."""
TIMES = """\
ours: mish_cuda. Speed up: time of F.mish / time of ours. GB/s: of ours, for 2
(forward), 3 (backward) or 5 (both) tensors read or written. Of copy: share of
its GB/s."""
EXPLANATIONS = """\
naive: x * tanh(softplus(x)), eager. mem. eff., memory-efficient: the same, but
it saves x alone and computes the rest again in backward. comp.: compiled, under
torch.compile.
copy: out.copy_(x); in place of a backward torch.add(g, x, out=out), two reads
and one write; in forward+backward both of these. Its result is allocated
beforehand, the others allocate theirs in the call."""
_MEMORY = """\
Peak memory: within forward and backward of one call, results included. What
is saved between them tells in a whole network: see the command models."""

_README_SHAPES = ((65_536,), (2**20,))
_README_DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
_SHORT = {
    "mish_cuda": "ours",
    "memory-efficient": "mem.\neff.",
    "compiled F.mish": "comp.\nF.mish",
    "compiled mish_cuda": "comp.\nours",
    "F.silu": "silu",
    "F.gelu": "gelu",
}

ByInput = dict[tuple[str, tuple[int, ...]], dict[str, Result]]  # dtype and shape, provider


def kernel_tables(results: Iterable[Result]) -> list[Table]:
    """One table for each direction, sections by dtype, and one of memory."""
    results = list(results)
    names = _providers(results)
    tables = []
    for direction in KERNEL_DIRECTIONS:
        by_input = _by_input(results, direction)
        if not by_input:
            continue
        base, *others = names
        table = plain_table(direction, "", _short(base), "GB/s", *map(_short, others))
        section = ""
        for (dtype, shape), measured in by_input.items():
            if dtype != section:
                section = dtype
                table.add_section()
                table.add_row(dtype, style="bold")
            table.add_row(format_shape(shape), *_over_base(measured, names))
        tables.append(table)
    memory = _memory_table(results, names)
    return [*tables, memory] if memory else tables


def _over_base(measured: Mapping[str, Result], names: Sequence[str]) -> Iterator[str]:
    """Time and rate of the first, and the times of the others as multiples of it."""
    base = measured.get(names[0])
    yield format_seconds(base.timing.median) if base else ""
    yield three_digits(base.gigabytes_per_second) if base else ""
    for name in names[1:]:
        other = measured.get(name)
        if base is None or other is None:
            yield ""
            continue
        ratio = other.timing.median / base.timing.median
        text = three_digits(ratio)
        yield f"[bold {'green' if ratio >= 1 else 'red'}]{text}[/]" if name == "F.mish" else text


def _memory_table(results: Sequence[Result], names: Sequence[str]) -> Table | None:
    """Peak memory at the largest shape of each dtype; None if it was not measured."""
    largest: ByInput = {}
    by_input = _by_input(results, "forward+backward")
    for dtype in dict.fromkeys(dtype for dtype, _ in by_input):
        shape = max((s for d, s in by_input if d == dtype), key=math.prod)
        largest[dtype, shape] = by_input[dtype, shape]
    lines = [
        (dtype, format_shape(shape), *(_in_inputs(measured.get(name)) for name in names))
        for (dtype, shape), measured in largest.items()
    ]
    if not any(text for line in lines for text in line[2:]):
        return None
    title = "peak memory of forward+backward, in sizes of the input"
    table = plain_table(title, "", "", *map(_short, names))
    for line in lines:
        table.add_row(*line)
    return table


def _in_inputs(result: Result | None) -> str:
    if result is None or result.peak_bytes is None:
        return ""
    return f"{result.peak_bytes / result.cell.input_bytes:.1f}"


def kernel_markdown(results: Iterable[Result]) -> str:
    """The lines of a README: of the default grid one small and one large size, of others all."""
    results = list(results)
    of_readme = [
        r
        for r in results
        if r.cell.shape in _README_SHAPES and r.cell.direction in _README_DIRECTIONS
    ]
    results = of_readme or results
    names = _providers(results)
    header = ("direction", "dtype", "size", *map(_short, names), "speed up", "GB/s", "of copy")
    lines = [
        (direction, dtype, format_shape(shape), *times(measured, names), *figures(measured))
        for direction in KERNEL_DIRECTIONS
        for (dtype, shape), measured in _by_input(results, direction).items()
    ]
    return markdown(header, lines, left=2)


def times(measured: Mapping[str, Result], names: Iterable[str]) -> list[str]:
    """Median times of providers; empty where one was not measured, as in what follows."""
    return [format_seconds(measured[n].timing.median) if n in measured else "" for n in names]


def figures(measured: Mapping[str, Result]) -> tuple[str, str, str]:
    """Time of F.mish over ours, rate of ours, and its share of the copy's."""
    ours, copy = measured.get("mish_cuda"), measured.get("copy")
    return (
        speed_up(measured, "F.mish", "mish_cuda"),
        three_digits(ours.gigabytes_per_second) if ours else "",
        f"{copy.timing.median / ours.timing.median:.0%}" if ours and copy else "",
    )


def speed_up(measured: Mapping[str, Result], over: str, under: str) -> str:
    """Time of one provider over that of another."""
    if over not in measured or under not in measured:
        return ""
    return f"{measured[over].timing.median / measured[under].timing.median:.2f}x"


def _providers(results: Iterable[Result]) -> list[str]:
    """Those in the kernels table, ours first, and last those that this suite has not."""
    found = dict.fromkeys(r.cell.provider for r in results if r.suite in GRIDS)
    known = [name for name in PROVIDERS if name in found]
    return known + [name for name in found if name not in known]


def _by_input(results: Iterable[Result], direction: Direction) -> ByInput:
    """The kernels of one direction, ordered by dtype and then by shape as they were measured."""
    found: ByInput = {}
    for r in results:
        if r.suite in GRIDS and r.cell.direction == direction:
            found.setdefault((r.cell.dtype, r.cell.shape), {})[r.cell.provider] = r
    dtypes = list(dict.fromkeys(dtype for dtype, _ in found))
    return dict(sorted(found.items(), key=lambda item: dtypes.index(item[0][0])))


def _short(name: str) -> str:
    return _SHORT.get(name, name)


def plain_table(title: str, *header: str, left: int = 1) -> Table:
    """An empty table of which the columns from `left` on are figures, which are not wrapped."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column, name in enumerate(header):
        figures = column >= left
        table.add_column(escape(name), justify="right" if figures else "left", no_wrap=figures)
    return table


_COMPILED_HEADER = ("dtype", "size", "function", *COMPILED, "F.mish / decomposition")


def compiled_table(results: Iterable[Result]) -> Table | None:
    """torch.compile of F.mish and of ours, forward and backward; None if not measured."""
    lines = _compiled_lines(results)
    if not lines:
        return None
    header = (name.replace(" / ", "\n/ ") for name in _COMPILED_HEADER)
    table = plain_table("torch.compile, forward+backward", *header, left=3)
    for line in lines:
        table.add_row(*line)
    return table


def compiled_markdown(results: Iterable[Result]) -> str:
    """The same for a README."""
    return markdown(_COMPILED_HEADER, _compiled_lines(results), left=3)


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
            if not any(taken):
                continue
            columns = (format_seconds(seconds) if seconds else "" for seconds in taken)
            theirs, ours, _ = taken
            ratio = f"{theirs / ours:.2f}x" if theirs and ours else ""
            lines.append((dtype, format_size(numel), f"`{surrounding}`", *columns, ratio))
    return lines


def kernel_notes(results: Iterable[Result]) -> str:
    """How to read the kernels table."""
    results = list(results)
    base = _short(_providers(results)[0])
    ratios = _RATIOS.format(base=base, ours=" of mish_cuda" if base == "ours" else "")
    return "\n".join([_medians(results), ratios, EXPLANATIONS, _MEMORY])


def markdown_notes(results: Iterable[Result]) -> str:
    """How to read the kernels in Markdown."""
    return "\n".join([_medians(results), TIMES, EXPLANATIONS])


def _medians(results: Iterable[Result]) -> str:
    threads = sorted({r.cell.threads for r in results if r.suite in GRIDS})
    return _MEDIANS.format(threads=", ".join(map(str, threads)))


def claims_table(verdicts: Iterable[Verdict]) -> Table:
    """Each claim with its worst measured ratio."""
    table = Table(
        title="claims: ratios of median times, one thread where nothing else is said",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("claim", max_width=26)
    table.add_column("required", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("the worst of")
    table.add_column("ok", no_wrap=True)
    for *texts, ok in map(_claim_line, verdicts):
        table.add_row(*texts, Text(ok, style="green" if ok == "yes" else "bold red"))
    return table


_CLAIMS_HEADER = ("claim", "required", "measured", "the worst of", "ok")


def claims_markdown(verdicts: Iterable[Verdict]) -> str:
    """The same in Markdown."""
    return markdown(_CLAIMS_HEADER, map(_claim_line, verdicts), left=5)


def _claim_line(verdict: Verdict) -> tuple[str, ...]:
    ratio, value = verdict.worst
    count = len(verdict.measured)
    return (
        verdict.claim.title,
        verdict.claim.required,
        f"{value:.2f}",
        f"{count}: {ratio.name}" if count > 1 else "",
        "yes" if verdict.ok else "NO",
    )
