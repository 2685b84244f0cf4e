"""``report``: one HTML page of what CSV files of results hold, and its tables in Markdown."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plot, plots, report_tables, sources, units
from benchmarks.environment import Environment
from benchmarks.plots import Picture
from benchmarks.report_tables import Table
from benchmarks.sources import Source, Unreadable, complain

TITLE = "Benchmarks of mish_cuda"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Section:
    """What a page says of one file."""

    title: str
    file: str
    facts: dict[str, str]
    tables: list[Table]
    pictures: list[Picture]
    missing: list[str]


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "report",
        help="make a page of CSV files",
        description="Makes one HTML page with the tables and pictures of the files, which needs "
        "no other file and no network, and beside it a Markdown file with the tables.",
    )
    parser.add_argument("csv", type=Path, nargs="+", metavar="FILE.csv")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="page to write; the tables go to FILE.md (default: the name of the first file)",
    )
    parser.set_defaults(function=_report)


def html(sections: Sequence[Section]) -> str:
    """The page. All text is escaped; pictures are SVG elements in it."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=TITLE, sections=sections, colours=plots.ON_PAGES, inline=plots.inline
    )


def markdown(sections: Sequence[Section]) -> str:
    """The facts and the tables."""
    parts = [f"# {TITLE}"]
    for section in sections:
        parts.append(f"## {_escape(section.title)}")
        parts.append("\n".join(f"- {key}: {_escape(fact)}" for key, fact in section.facts.items()))
        for table in section.tables:
            parts += [f"### {_escape(table.title)}", _markdown(table)]
            parts += [_escape(table.note)] if table.note else []
    return "\n\n".join(parts) + "\n"


def _report(args: argparse.Namespace) -> int:
    page: Path = args.output or args.csv[0].with_suffix(".html")
    if page.suffix != ".html":
        return complain("report", f"expected a name that ends in .html as --output, got {page}")
    try:
        sections = [_section(source) for source in sources.read(args.csv)]
    except Unreadable as error:
        return complain("report", error)
    for path, text in ((page, html(sections)), (page.with_suffix(".md"), markdown(sections))):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            return complain("report", f"{path} cannot be written: {error.strerror}")
        print(path)
    return 0


def _section(source: Source) -> Section:
    pictures, missing = plot.draw(source)
    return Section(
        title=f"{source.facts.device}: {source.name}",
        file=source.path.name,
        facts=_facts(source.facts),
        tables=report_tables.make(source),
        pictures=pictures,
        missing=missing,
    )


def _facts(facts: Environment) -> dict[str, str]:
    """What a reader needs to judge or to repeat a run."""
    known = {
        "device": facts.device,
        "CPU": facts.cpu_model,
        "instruction set": facts.cpu_capability,
        "clock": facts.clock,
        "mish_cuda": f"{facts.mish_cuda} ({facts.backend})",
        "commit": facts.commit,
        "torch": facts.torch,
        **({"CUDA": facts.cuda, "driver": facts.driver} if facts.cuda else {}),
        "Python": facts.python,
        "date": facts.date,
        "command": facts.command,
    }
    return {key: fact or "not recorded" for key, fact in known.items()}


def _markdown(table: Table) -> str:
    header, *rows = ([_escape(text) for text in row] for row in (table.header, *table.rows))
    return units.markdown(header, rows)


def _escape(text: str) -> str:
    """On one line, without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>&|])", r"\\\1", " ".join(text.split()))
