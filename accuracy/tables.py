"""Tables of verdicts, for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from rich import box
from rich.table import Table

from accuracy.bounds import SAME_BITS, Bound, Region
from accuracy.checks import DEFINITION
from accuracy.errors import Errors
from accuracy.verdicts import Verdict
from benchmarks.units import markdown

NOTES = """\
tried: how many of the region's numbers. error: the largest, and the x where it
is; in units in the last place of the true value or absolute, as the bound is;
where it is a sum, the ULP beyond its absolute part. right: share correctly
rounded. reference: what the others are judged by, itself judged by mpmath, at
the worst x of every interval and at others; it has to be within a hundredth of
the bound."""

ERROR_HEADER = (
    *("function", "x", "required", "error", "at", "right"),
    *("F.mish: error", "F.mish: at", "F.mish: right", "reference"),
)
_HEADER = ("x", "path", "tried", "error", "at", "right", "required", "ok")
_SAME_HEADER = ("path", "the same bits as", "dtype", "of", "tried", "differ", "ok")


def error_tables(verdicts: Iterable[Verdict]) -> list[Table]:
    """One table for each function and format, sections by region."""
    tables: dict[str, Table] = {}
    for title, _, group in _regions(verdicts):
        table = tables.setdefault(title, _table(title, _HEADER, left=2))
        for line in _lines(group):
            table.add_row(*_coloured(line))
        table.add_section()
    return list(tables.values())


def error_lines(verdicts: Iterable[Verdict]) -> list[tuple[str, ...]]:
    """Text of the columns of ERROR_HEADER: one line for each finite region, with the worst of all
    instruction sets, F.mish, and the reference."""
    lines: list[tuple[str, ...]] = []
    for title, region, group in _regions(verdicts):
        if math.isnan(region.low):
            continue
        ours, native, known = Errors(), Errors(), Errors()
        for v in group:
            if v.reference == DEFINITION:
                known |= v.errors
            elif v.required:
                ours |= v.errors
            else:
                native |= v.errors
        bound = region.bound
        reference = _error(known, bound)[0]
        cells = (*_figures(ours, bound), *_figures(native, bound), reference)
        lines.append((title, _x(region), str(bound), *cells))
    return lines


def error_markdown(verdicts: Iterable[Verdict]) -> str:
    """The same as a table in Markdown."""
    return markdown(ERROR_HEADER, error_lines(verdicts), left=3)


def agreement_table(verdicts: Iterable[Verdict]) -> Table:
    """Pairs of paths that have to give the same bits."""
    table = _table("the same bits", _SAME_HEADER, left=4)
    pairs: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.region == SAME_BITS:
            key = (verdict.path, verdict.reference, verdict.dtype)
            pairs.setdefault(key, []).append(verdict)
    for key, group in pairs.items():
        tried = sum(v.errors.tried for v in group)
        differ = tried - sum(v.errors.correct for v in group)
        functions = ", ".join(v.function for v in group)
        ok = _ok(all(v.ok for v in group), True)
        table.add_row(*_coloured((*key, functions, f"{tried:,}", f"{differ:,}", ok)))
    return table


def _regions(verdicts: Iterable[Verdict]) -> Iterator[tuple[str, Region, list[Verdict]]]:
    """What was judged by true values: the title of the function, the region and its verdicts."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for v in verdicts:
        if v.region != SAME_BITS:
            # Not the bound of a region: the reference has another.
            kind = f"{v.region.low} {v.region.high} {v.region.bound.correct}"
            groups.setdefault((v.function, v.dtype, kind), []).append(v)
    for (function, dtype, _), group in groups.items():
        yield f"{function}, {dtype}", group[0].region, group


def _lines(group: Iterable[Verdict]) -> list[tuple[str, ...]]:
    """Paths with equal errors share a line."""
    lines: dict[tuple[str, bool, str], list[Verdict]] = {}
    for v in group:
        lines.setdefault((str(v.errors), v.required, v.reference), []).append(v)
    return [_line(alike) for alike in lines.values()]


def _line(alike: list[Verdict]) -> tuple[str, ...]:
    v = alike[0]
    by_definition = v.reference == DEFINITION
    error, at, right = _figures(v.errors, v.region.bound)
    return (
        _x(v.region),
        "reference" if by_definition else _names([v.path for v in alike]),
        _tried(v, by_definition),
        *(error, at, "" if by_definition else right),
        str(v.region.bound) if v.required else "",
        _ok(v.ok, v.required),
    )


def _figures(errors: Errors, bound: Bound) -> tuple[str, str, str]:
    """The error that the bound is about, where it is, and the share that is correctly rounded."""
    if not errors.tried:
        return "", "", ""
    error, at = _error(errors, bound)
    # Never 100 % where one is missing.
    return error, at, f"{math.floor(1e4 * errors.correct / errors.tried) / 1e4:.2%}"


def _error(errors: Errors, bound: Bound) -> tuple[str, str]:
    if bound.correct is not None or not errors.tried:
        return "", ""
    if bound.ulp is not None:
        return f"{errors.ulp:.3g} ULP", _number(errors.ulp_at)
    return f"{errors.absolute:.3g}", _number(errors.absolute_at)


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.6g}"


def _names(paths: list[str]) -> str:
    return "every ISA" if len(paths) > 2 else ", ".join(paths)


def _x(region: Region) -> str:
    low, high = region.low, region.high
    if math.isnan(low):
        return "inf, NaN"
    if math.isinf(low):
        return "finite" if math.isinf(high) else f"<= {high:g}"
    if math.isinf(high):
        return f"> {low:g}" if low else ">= 0"
    return f"{low:g} to {high:g}"


def _tried(verdict: Verdict, by_definition: bool) -> str:
    tried = verdict.errors.tried
    if tried == verdict.numbers and not by_definition:
        return "all"
    return f"{tried:,}" if tried < 10**5 else f"{tried / 1e6:,.1f} M"


def _ok(ok: bool, required: bool) -> str:
    return ("yes" if ok else "NO") if required else ""


def _table(title: str, header: tuple[str, ...], left: int) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column < left else "right")
    return table


def _coloured(line: tuple[str, ...]) -> list[str]:
    colours = {"yes": "[green]yes[/]", "NO": "[bold red]NO[/]"}
    return [*line[:-1], colours.get(line[-1], "")]
