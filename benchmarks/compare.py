"""``compare``: what got slower or faster between two files of `run` or `networks`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

from benchmarks import display, results
from benchmarks.arguments import FAILED, UNJUDGED, Refused, add_number, number
from benchmarks.cases import KEY, case_of
from benchmarks.display import Table
from benchmarks.results import Results
from benchmarks.speeds import texts
from benchmarks.units import format_seconds

DESCRIPTION = """\
Compares the rows that two files of `run` or `networks` have in common. A row is
slower where its median time has grown by more than the threshold and its spread,
p20 to p80, lies above the old one; faster where the reverse is so. Where the
spreads overlap there is no verdict. Whether the machine was the same, F.mish and copy
show: they do not change with this library.
"""

# By what pandas says of a merged row.
ONE_SIDED = {"left_only": "only in the old file", "right_only": "only in the new file"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.csv")
    parser.add_argument("new", type=Path, metavar="NEW.csv")
    what = "changes up to this percentage count as none"
    add_number(parser, "--threshold", kind=number, default=10, help=what)
    what = "compare these alone, as mish_cuda (default: all)"
    parser.add_argument("--providers", nargs="+", metavar="NAME", help=what)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(args: argparse.Namespace) -> int:
    old, new = (results.read([path], "speed")[0] for path in (args.old, args.new))
    rows = judge(old.rows, new.rows, args.threshold / 100)
    wanted = args.providers or list(old.rows.provider.unique())
    rows = rows[rows.provider.isin(wanted)] if args.providers else rows
    both = rows[~rows.change.isin(ONE_SIDED.values())]
    if both.empty:
        raise Refused(f"{args.old} and {args.new} have none of these rows in common")
    tables = [
        _environments(old, new),
        *(_changes(rows, change) for change in ("slower", "faster")),
        _by_provider(both),
        *(_changes(rows, change) for change in ONE_SIDED.values()),
    ]
    tables = [table for table in tables if not table.frame.empty]
    if args.markdown:
        print(display.markdown(tables), end="\n\n")
    else:
        display.show(tables, Console(highlight=False))
    count = both.change.value_counts().reindex(["slower", "faster", "unclear"], fill_value=0)
    print(
        f"{len(both)} rows in both files: {count.slower} slower and {count.faster} faster by more "
        f"than {args.threshold:g} %; {count.unclear} changed by more, but within their spread."
    )
    unjudged = [name for name in wanted if name not in set(both.provider)]
    if unjudged:
        print(f"Not judged: {', '.join(unjudged)}. No row of theirs is in both files.")
    return FAILED if count.slower else UNJUDGED if unjudged else 0


def judge(old: pd.DataFrame, new: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of both files side by side, with the columns `ratio`, new over old, and `change`:
    slower, faster, unclear, same, or one of ONE_SIDED.

    Slower or faster: by more than `threshold`, a share of the shorter time, with spreads apart.
    """
    times = ["median_s", "p20_s", "p80_s"]
    first, second = (rows.drop_duplicates(KEY, keep="last")[[*KEY, *times]] for rows in (old, new))
    rows = first.merge(second, on=KEY, how="outer", suffixes=("", "_new"), indicator=True)
    ratio = rows.median_s_new / rows.median_s
    change = rows._merge.astype(str).replace({**ONE_SIDED, "both": "unclear"})
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
        "": pd.Series([f"{row.suite}: {case_of(row)}" for row in rows.itertuples()], rows.index),
        "old": texts(rows.median_s, format_seconds),
        "new": texts(rows.median_s_new, format_seconds),
        "new / old": texts(rows.ratio, "{:.2f}".format),
    }
    return Table(change, pd.DataFrame(columns))


def _by_provider(rows: pd.DataFrame) -> Table:
    counted = rows.assign(slower=rows.change == "slower", faster=rows.change == "faster")
    columns = {"change": "size", "slower": "sum", "faster": "sum", "ratio": "median"}
    found = counted.groupby("provider", sort=False).agg(columns)
    found["ratio"] = texts(found.ratio, "{:.2f}".format)
    header = ["", "rows", "slower", "faster", "new / old"]
    found = found.astype(str).reset_index().set_axis(header, axis=1)
    return Table("medians of all rows, by provider", found)
