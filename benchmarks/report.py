"""``report``: one HTML page of what files of results hold, and its tables in Markdown."""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path

import jinja2  # which torch needs as well

from benchmarks import display, plots, results, views
from benchmarks.arguments import Refused, add_files, add_path
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
    what = "page to write; the tables go to FILE.md (default: the name of the first file)"
    add_path(parser, "--output", None, what, "FILE.html")


def run(args: argparse.Namespace) -> int:
    page: Path = args.output or args.csv[0].with_suffix(".html")
    if page.suffix != ".html":
        raise Refused(f"expected a name that ends in .html as --output, got {page}")
    sections, texts = [], [f"# {TITLE}"]
    for source in results.read(args.csv):
        title = f"{source.facts['device']}: {source.name}"
        # What a reader needs to judge or to repeat a run.
        facts = {"file": source.path.name}
        facts |= {name: source.facts[name] or "not recorded" for name in NAMES}
        tables = views.tables(source)
        shown = [(table.title, _html(table), note) for table, note in display.with_notes(tables)]
        sections.append((title, facts, map(_image, views.pictures(source)), shown))
        lines = (f"- {name}: {display.plain(fact)}" for name, fact in facts.items())
        texts += [f"## {display.plain(title)}", "\n".join(lines), display.markdown(tables)]
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    html = template.render(title=TITLE, sections=sections)
    page.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((page, html), (page.with_suffix(".md"), "\n\n".join(texts) + "\n")):
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def _html(table: Table) -> str:
    """A data frame as pandas writes it; its name columns become one, which stays in view."""
    names = table.frame.columns[: table.names]
    name = table.frame[list(names)].agg(", ".join, axis=1).str.removesuffix(", ")
    body = table.frame.drop(columns=names).set_axis(name, axis=0)
    body.columns.name = ", ".join(names).strip(", ")
    return str(body.rename_axis(None).to_html(border=0, escape=True))


def _image(picture: Picture) -> tuple[str, str, float]:
    """Its title, its data, and its width in CSS pixels."""
    file = io.BytesIO()
    plots.save(picture, file)
    data = base64.b64encode(file.getvalue()).decode()
    return picture.title, data, 96 * picture.figure.get_figwidth()
