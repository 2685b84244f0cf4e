"""``compare``: what got slower or faster between two CSV files."""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks import sources
from benchmarks.cells import Cell
from benchmarks.environment import Environment
from benchmarks.results import Result
from benchmarks.sources import Unreadable, complain
from benchmarks.units import format_seconds, markdown

DESCRIPTION = """\
Compares the rows that two files of `run` or `models` have in common. A row is
slower where its median time has grown by more than the threshold and its spread,
p20 to p80, lies above the old one; faster where the reverse is so. Where the
spreads overlap there is no verdict.

The times of other providers show whether the machine was the same: F.mish and
copy do not change with this library.

exit status: 0 if nothing got slower, 1 if something did, 2 if the files cannot
be compared, 3 if nothing got slower, but a provider of OLD.csv, or one asked for,
has no row in both
"""

Verdict = Literal["slower", "faster", "unclear", "same"]
_DECIDED: tuple[Verdict, ...] = ("slower", "faster")
Key = tuple[str, Cell]  # suite, cell
SLOWER, MISSING = 1, 3  # exit statuses

# Facts that may differ between runs that are meant to be compared, but say nothing.
_IRRELEVANT = ("date", "command")


class Incomparable(Exception):
    """Why two files cannot be compared."""


@dataclass(frozen=True)
class Change:
    """A row of both files."""

    old: Result
    new: Result

    @property
    def ratio(self) -> float:
        """New median time over old."""
        return self.new.timing.median / self.old.timing.median

    def verdict(self, threshold: float) -> Verdict:
        """By more than `threshold`, a share of the shorter time, with spreads apart."""
        old, new = self.old.timing, self.new.timing
        if max(self.ratio, 1 / self.ratio) <= 1 + threshold:
            return "same"
        if new.p20 > old.p80:
            return "slower"
        return "faster" if new.p80 < old.p20 else "unclear"


@dataclass(frozen=True)
class Comparison:
    """Two files: rows in both, rows in one only, and facts that differ, as (name, old, new).

    `missing` are providers, those asked for or else those of the old file, without a row in both.
    """

    changes: tuple[Change, ...]
    only_old: tuple[Result, ...]
    only_new: tuple[Result, ...]
    facts: tuple[tuple[str, str, str], ...]
    missing: tuple[str, ...]


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "compare",
        help="what got slower or faster between two CSV files",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="OLD.csv")
    parser.add_argument("new", type=Path, metavar="NEW.csv")
    parser.add_argument(
        "--threshold",
        type=_percent,
        default=0.1,
        metavar="PERCENT",
        help="changes up to this count as none (default: 10)",
    )
    parser.add_argument(
        "--providers",
        nargs="+",
        metavar="NAME",
        help="compare these alone, as mish_cuda (default: all)",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.set_defaults(function=_compare)


def compare(old: Path, new: Path, providers: Sequence[str] | None = None) -> Comparison:
    """What two files say of the same cells, of some providers or of all.

    Raises:
        Unreadable: a file cannot be read, is none of ours, or holds no rows.
        Incomparable: they have no row in common, or neither has one of the providers.
    """
    (old_facts, old_rows), (new_facts, new_rows) = (_rows(path) for path in (old, new))
    if providers is not None:
        known = dict.fromkeys(cell.provider for _, cell in (*old_rows, *new_rows))
        if unknown := [name for name in providers if name not in known]:
            raise Incomparable(
                f"expected providers of {old} or {new} ({', '.join(known)}), "
                f"got {', '.join(unknown)}"
            )
        old_rows, new_rows = (
            {key: row for key, row in rows.items() if row.cell.provider in providers}
            for rows in (old_rows, new_rows)
        )
    common = [key for key in old_rows if key in new_rows]
    if not common:
        of = f" of {', '.join(providers)}" if providers else ""
        raise Incomparable(f"{old} and {new} have no row{of} in common")
    wanted = providers if providers is not None else [cell.provider for _, cell in old_rows]
    judged = {cell.provider for _, cell in common}
    return Comparison(
        tuple(Change(old_rows[key], new_rows[key]) for key in common),
        tuple(row for key, row in old_rows.items() if key not in new_rows),
        tuple(row for key, row in new_rows.items() if key not in old_rows),
        tuple(
            (field.name, getattr(old_facts, field.name), getattr(new_facts, field.name))
            for field in fields(Environment)
            if field.name not in _IRRELEVANT
            and getattr(old_facts, field.name) != getattr(new_facts, field.name)
        ),
        tuple(name for name in dict.fromkeys(wanted) if name not in judged),
    )


def _rows(path: Path) -> tuple[Environment, dict[Key, Result]]:
    facts, rows = sources.speeds(path)
    return facts, {(r.suite, r.cell): r for r in rows}


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a percentage, as 10, got {text}")
    return value / 100


def _compare(args: argparse.Namespace) -> int:
    try:
        comparison = compare(args.old, args.new, args.providers)
    except (Unreadable, Incomparable) as error:
        return complain("compare", error)
    verdicts = {change: change.verdict(args.threshold) for change in comparison.changes}
    show = _print_markdown if args.markdown else _print
    show(sections(comparison, verdicts))
    print(_conclusion(verdicts, args.threshold))
    if comparison.missing:
        print(
            f"Not judged: {', '.join(comparison.missing)}. {args.old} and {args.new} have no row "
            "of theirs in common: measure them, or choose others with --providers."
        )
    if "slower" in verdicts.values():
        return SLOWER
    return MISSING if comparison.missing else 0


@dataclass(frozen=True)
class Section:
    """A table: its title, header and rows. Columns from `left` on are figures."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: int = 1


def sections(comparison: Comparison, verdicts: Mapping[Change, Verdict]) -> list[Section]:
    """What there is to say, the slower rows first."""
    found = [Section("what differs", ("", "old", "new"), comparison.facts, left=3)]
    for verdict, sign in zip(_DECIDED, (-1, 1), strict=True):
        changes = [change for change in verdicts if verdicts[change] == verdict]
        rows = [_line(change) for change in sorted(changes, key=lambda c: sign * c.ratio)]
        found.append(Section(verdict, ("", "old", "new", "new / old"), rows))
    found.append(
        Section(
            "medians of all rows, by provider",
            ("", "rows", "slower", "faster", "new / old"),
            _by_provider(verdicts),
        )
    )
    for which, only in (("old", comparison.only_old), ("new", comparison.only_new)):
        found.append(Section(f"only in the {which} file", ("", "inputs"), _inputs(only), left=2))
    return [section for section in found if section.rows]


def _line(change: Change) -> tuple[str, ...]:
    times = (format_seconds(result.timing.median) for result in (change.old, change.new))
    return (f"{change.old.suite}: {change.old.cell}", *times, f"{change.ratio:.2f}")


def _by_provider(verdicts: Mapping[Change, Verdict]) -> list[tuple[str, ...]]:
    by_name: dict[str, list[Change]] = {}
    for change in verdicts:
        by_name.setdefault(change.old.cell.provider, []).append(change)
    return [
        (
            name,
            str(len(changes)),
            *(str(sum(verdicts[c] == verdict for c in changes)) for verdict in _DECIDED),
            f"{statistics.median(c.ratio for c in changes):.2f}",
        )
        for name, changes in by_name.items()
    ]


def _inputs(rows: Iterable[Result]) -> list[tuple[str, ...]]:
    """Dtypes, shapes, layouts and threads, for each suite, network, provider and direction."""
    found: dict[str, list[str]] = {}
    for row in rows:
        words = (row.cell.network, row.cell.provider, row.cell.direction)
        what = " ".join(word for word in words if word)
        found.setdefault(f"{row.suite}: {what}", []).append(str(row.cell).removeprefix(what)[1:])
    return [(what, ", ".join(inputs)) for what, inputs in found.items()]


def _conclusion(verdicts: Mapping[Change, Verdict], threshold: float) -> str:
    count = Counter(verdicts.values())
    return (
        f"{len(verdicts)} rows in both files: {count['slower']} slower and {count['faster']} "
        f"faster by more than {100 * threshold:g} %; {count['unclear']} changed by more, but "
        "within their spread."
    )


def _print(found: Iterable[Section]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from benchmarks.tables import plain_table

    console = Console(highlight=False)
    for section in found:
        table = plain_table(section.title, *section.header, left=section.left)
        for row in section.rows:
            table.add_row(*map(escape, row))
        console.print(table)


def _print_markdown(found: Iterable[Section]) -> None:
    for section in found:
        print(f"### {section.title.capitalize()}\n")
        print(markdown(section.header, section.rows, section.left), end="\n\n")
