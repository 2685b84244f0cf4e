"""Tables of text, made once as data frames: for the terminal and in Markdown. Verdicts in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box, progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.arguments import FAILED


@dataclass(frozen=True)
class Table:
    """A frame of text; the first `names` columns name the rows, `note` says how to read it."""

    title: str
    frame: pd.DataFrame
    note: str = ""
    names: int = 1


@dataclass(frozen=True)
class Verdict:
    """`subject` was `measured`, where something else may have been `required`."""

    subject: str
    required: str
    measured: str
    ok: bool
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.subject}{note}: required {self.required}, measured {self.measured}"


def frame(header: Iterable[str], rows: Iterable[Iterable[str]]) -> pd.DataFrame:
    return pd.DataFrame([tuple(row) for row in rows], columns=list(header), dtype=str)


def verdict_table(title: str, verdicts: Iterable[Verdict], note: str = "") -> Table:
    rows = ((v.subject, v.note, v.required, v.measured, yes_no(v.ok)) for v in verdicts)
    return Table(title, frame(("", "worst of", "required", "measured", "ok"), rows), note, names=2)


def conclude(verdicts: Iterable[Verdict], what: str, files: str, console: Console) -> int:
    """Print which of the bounds or budgets are not kept; return the exit status."""
    broken = [verdict for verdict in verdicts if not verdict.ok]
    for verdict in broken:
        console.print(f"Not kept: {verdict}", style="bold red", markup=False)
    console.print(f"{len(broken)} {what} are not kept." if broken else f"All {what} are kept.")
    console.print(f"Data: {files}", markup=False)
    return FAILED if broken else 0


def yes_no(ok: bool) -> str:
    return "yes" if ok else "NO"


_COLOURS = {"yes": "[green]yes[/]", "NO": "[bold red]NO[/]"}


def show(tables: Sequence[Table], console: Console) -> None:
    for table in tables:
        rich = RichTable(
            title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, padding=0
        )
        for column, name in enumerate(table.frame):
            figures = column >= table.names
            header = re.sub(r" |(?<=-)", "\n", escape(name)) if figures else escape(name)
            rich.add_column(header, justify="right" if figures else "left", no_wrap=figures)
        for row in table.frame.itertuples(index=False):
            rich.add_row(*(_COLOURS.get(text, escape(text)) for text in row))
        # Figures are never cut: where they need more, lines are longer than the terminal.
        unlimited = console.options.update(max_width=10_000)  # else rich says what it would cut
        needed = console.measure(rich, options=unlimited).minimum
        rich.width = needed if needed > console.width else None
        console.print(rich, crop=False, overflow="ignore", no_wrap=True)
        if table.note:
            console.print(" ".join(table.note.split()), style="dim", markup=False)


def progress_bar(console: Console, auto_refresh: bool = True) -> progress.Progress:
    """A bar behind the task in words, with what is done and the time; it goes when all is done."""
    return progress.Progress(console=console, auto_refresh=auto_refresh, transient=True)


def markdown(tables: Sequence[Table]) -> str:
    """The same tables in Markdown."""
    parts = []
    for table in tables:
        rule = ["---" if i < table.names else "---:" for i in range(table.frame.shape[1])]
        header, *rows = (
            [plain(text) for text in row] for row in (table.frame, *table.frame.to_numpy())
        )
        lines = "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
        parts += [f"### {plain(table.title)}", lines, plain(table.note)]
    return "\n\n".join(filter(None, parts))


def plain(text: str) -> str:
    """Text on one line that has no meaning in Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>&|])", r"\\\1", " ".join(text.split()))
