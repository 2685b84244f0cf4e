"""``report``: one HTML page of what files of results hold, and its tables in Markdown."""

from __future__ import annotations

import argparse
import base64
import io
import string
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from benchmarks import display, plots, results, views
from benchmarks.arguments import Refused, add_files
from benchmarks.display import Table
from benchmarks.environment import NAMES
from benchmarks.plots import Picture

DESCRIPTION = """\
Makes one HTML page with the tables and pictures of the files, which needs no other
file and no network, and beside it a Markdown file with the tables.
"""
TITLE = "Benchmarks of mish_cuda"
TEMPLATE = Path(__file__).with_name("report.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="page to write; the tables go to FILE.md (default: the name of the first file)",
    )


def run(args: argparse.Namespace) -> int:
    page: Path = args.output or args.csv[0].with_suffix(".html")
    if page.suffix != ".html":
        raise Refused(f"expected a name that ends in .html as --output, got {page}")
    links, sections, texts = [], [], [f"# {TITLE}"]
    for number, source in enumerate(results.read(args.csv), 1):
        title = f"{source.facts['device']}: {source.name}"
        # What a reader needs to judge or to repeat a run.
        facts = {"file": source.path.name}
        facts |= {name: source.facts[name] or "not recorded" for name in NAMES}
        tables = views.tables(source)
        pictures, missing = views.pictures(source)
        links.append(f'<li><a href="#file-{number}">{escape(title)}</a></li>')
        sections += [
            f'<section id="file-{number}"><h2>{escape(title)}</h2><dl>',
            *(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items()),
            *('</dl><div class="pictures">', *map(_figure, pictures), "</div>"),
            f'<p class="note">Not drawn: {escape("; ".join(missing))}.</p>' if missing else "",
            *(*_html(tables), "</section>"),
        ]
        lines = (f"- {name}: {display.plain(fact)}" for name, fact in facts.items())
        texts += [f"## {display.plain(title)}", "\n".join(lines), display.markdown(tables)]
    html = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=TITLE, links="".join(links), sections="\n".join(sections)
    )
    for path, text in ((page, html), (page.with_suffix(".md"), "\n\n".join(texts) + "\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def _html(tables: Sequence[Table]) -> Iterator[str]:
    """A data frame as pandas writes it; its name columns become one, which stays in view."""
    for table, note in display.with_notes(tables):
        names = table.frame.columns[: table.names]
        name = table.frame[list(names)].agg(", ".join, axis=1).str.removesuffix(", ")
        body = table.frame.drop(columns=names).set_axis(name, axis=0)
        body.columns.name = ", ".join(names).strip(", ")
        html = body.rename_axis(None).to_html(border=0, escape=True)
        title = escape(table.title)
        yield f"<h3>{title}</h3>"
        yield f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">{html}</div>'
        if note:
            yield f'<p class="note">{escape(note)}</p>'


def _figure(picture: Picture) -> str:
    """As wide as the page allows, but so that its text stays legible; a narrow page scrolls it."""
    file = io.BytesIO()
    plots.save(picture, file)
    data = base64.b64encode(file.getvalue()).decode()
    pixels = 96 * picture.figure.get_figwidth()
    return (
        f'<figure><img alt="{escape(picture.title)}" src="data:image/png;base64,{data}" style='
        f'"width: 100%; min-width: {0.8 * pixels:.0f}px; max-width: {1.2 * pixels:.0f}px"></figure>'
    )
