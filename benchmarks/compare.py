"""``compare``: what got slower or faster between two files of `run` or `networks`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

from benchmarks import display, results
from benchmarks.arguments import FAILED, UNJUDGED, Refused, add_number, percentage
from benchmarks.cases import KEY
from benchmarks.display import Table, frame
from benchmarks.results import Results
from benchmarks.speeds import shape_text
from benchmarks.units import format_seconds

DESCRIPTION = """\
Compares the rows that two files of `run` or `networks` have in common. A row is
slower where its median time has grown by more than the threshold and its spread,
p20 to p80, lies above the old one; faster where the reverse is so. Where the
spreads overlap there is no verdict.

The times of other providers show whether the machine was the same: F.mish and
copy do not change with this library.

exit status: 0 if nothing got slower, 1 if something did, 2 if the files cannot
be compared, 3 if nothing got slower, but a provider of OLD.csv, or one asked for,
has no row in both
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.csv")
    parser.add_argument("new", type=Path, metavar="NEW.csv")
    what = "changes up to this percentage count as none"
    add_number(parser, "--threshold", kind=percentage, default="10", help=what)
    what = "compare these alone, as mish_cuda (default: all)"
    parser.add_argument("--providers", nargs="+", metavar="NAME", help=what)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(args: argparse.Namespace) -> int:
    old, new = (results.read([path], "speed")[0] for path in (args.old, args.new))
    rows = pair(old.rows, new.rows)
    wanted = args.providers or list(old.rows.provider.unique())
    known = list(rows.provider.unique())
    if unknown := [name for name in wanted if name not in known]:
        raise Refused(f"expected providers among {', '.join(known)}, got {', '.join(unknown)}")
    if args.providers:
        rows = rows[rows.provider.isin(wanted)]
    both = judge(rows[rows._merge == "both"], args.threshold)
    if both.empty:
        of = f" of {', '.join(args.providers)}" if args.providers else ""
        raise Refused(f"{args.old} and {args.new} have no row{of} in common")
    tables = [
        _environments(old, new),
        *(_changes(both, change) for change in ("slower", "faster")),
        _by_provider(both),
        *(_only(rows, which) for which in ("old", "new")),
    ]
    tables = [table for table in tables if not table.frame.empty]
    if args.markdown:
        print(display.markdown(tables), end="\n\n")
    else:
        display.show(tables, Console(highlight=False))
    count = both.change.value_counts().reindex(["slower", "faster", "unclear"], fill_value=0)
    print(
        f"{len(both)} rows in both files: {count.slower} slower and {count.faster} faster by more "
        f"than {100 * args.threshold:g} %; {count.unclear} changed by more, but within their "
        "spread."
    )
    unjudged = [name for name in wanted if name not in set(both.provider)]
    if unjudged:
        print(f"Not judged: {', '.join(unjudged)}. No row of theirs is in both files.")
    return FAILED if count.slower else UNJUDGED if unjudged else 0


def pair(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The rows of both files side by side; `_merge` says in which they are."""
    times = ["median_s", "p20_s", "p80_s"]
    first, second = (rows.drop_duplicates(KEY, keep="last")[[*KEY, *times]] for rows in (old, new))
    return first.merge(
        second, on=KEY, how="outer", sort=False, suffixes=("", "_new"), indicator=True
    )


def judge(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """With the columns `ratio`, new over old, and `change`: slower, faster, unclear or same.

    Slower or faster: by more than `threshold`, a share of the shorter time, with spreads apart.
    """
    ratio = rows.median_s_new / rows.median_s
    change = pd.Series("unclear", rows.index)
    change[rows.p20_s_new > rows.p80_s] = "slower"
    change[rows.p80_s_new < rows.p20_s] = "faster"
    change[ratio.where(ratio > 1, 1 / ratio) <= 1 + threshold] = "same"
    return rows.assign(ratio=ratio, change=change)


def _environments(old: Results, new: Results) -> Table:
    facts = pd.DataFrame({"old": old.facts, "new": new.facts}).drop(["date", "command"])
    different = facts[facts.old != facts.new].rename_axis("").reset_index()
    return Table("what differs", different, names=3)


def _changes(rows: pd.DataFrame, change: str) -> Table:
    rows = rows[rows.change == change].sort_values("ratio", ascending=change == "faster")
    columns = {
        "": _cases(rows) + " " + _inputs(rows),
        "old": rows.median_s.map(format_seconds),
        "new": rows.median_s_new.map(format_seconds),
        "new / old": rows.ratio.map("{:.2f}".format),
    }
    return Table(change, pd.DataFrame(columns))


def _by_provider(rows: pd.DataFrame) -> Table:
    medians = rows.groupby("provider", sort=False).ratio.agg(["size", "median"])
    counts = pd.crosstab(rows.provider, rows.change).reindex(
        medians.index, columns=["slower", "faster"], fill_value=0
    )
    counts.insert(0, "rows", medians["size"])
    counts["new / old"] = medians["median"].map("{:.2f}".format)
    found = counts.astype(str).rename_axis("").rename_axis(None, axis=1).reset_index()
    return Table("medians of all rows, by provider", found)


def _only(rows: pd.DataFrame, which: str) -> Table:
    """Inputs, for each suite, network, provider and direction."""
    rows = rows[rows._merge == {"old": "left_only", "new": "right_only"}[which]]
    found = _inputs(rows).groupby(_cases(rows), sort=False).agg(", ".join)
    return Table(f"only in the {which} file", frame(("", "inputs"), found.items()), names=2)


def _cases(rows: pd.DataFrame) -> pd.Series:
    """What was timed, in words."""
    words = rows.suite + ": " + rows.network + " " + rows.provider + " " + rows.direction
    return words.str.replace("  ", " ")


def _inputs(rows: pd.DataFrame) -> pd.Series:
    """The input that it was timed with."""
    layouts = (" as " + rows.layout).where(rows.layout != "x", "")
    threads = (" on " + rows.threads.astype(str) + " threads").where(rows.threads != 1, "")
    return rows.dtype.astype(str) + " " + rows["shape"].map(shape_text) + layouts + threads
