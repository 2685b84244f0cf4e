"""``report``: one HTML page of what files of results hold."""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path

import jinja2  # which torch needs as well

from benchmarks import plots, results, views
from benchmarks.arguments import add_files, add_path
from benchmarks.display import Table
from benchmarks.environment import NAMES
from benchmarks.plots import Picture

DESCRIPTION = """\
Makes one HTML page with the tables and pictures of the files, which needs no other
file and no network.
"""
TITLE = "Benchmarks of mish_cuda"
TEMPLATE = Path(__file__).with_name("report.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    what = "page to write (default: the name of the first file)"
    add_path(parser, "--output", None, what, "FILE.html")


def run(args: argparse.Namespace) -> int:
    sections = []
    for source in results.read(args.csv):
        title = f"{source.facts['device']}: {source.name}"
        # What a reader needs to judge or to repeat a run.
        facts = {name: source.facts[name] or "not recorded" for name in NAMES}
        tables = [(table.title, _html(table), table.note) for table in views.tables(source)]
        pictures = map(_image, views.pictures(source))
        sections.append((title, {"file": source.path.name, **facts}, pictures, tables))
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    page: Path = args.output or args.csv[0].with_suffix(".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(template.render(title=TITLE, sections=sections), encoding="utf-8")
    print(page)
    return 0


def _html(table: Table) -> str:
    """A data frame as pandas writes it; its name columns become one, which stays in view."""
    names = list(table.frame.columns[: table.names])
    body = table.frame.drop(columns=names).rename_axis(columns=", ".join(names).strip(", "))
    body.index = table.frame[names].agg(", ".join, axis=1).str.removesuffix(", ")
    return str(body.to_html(border=0))


def _image(picture: Picture) -> tuple[str, str, float]:
    """Its title, its data, and its width in CSS pixels."""
    file = io.BytesIO()
    plots.save(picture, file)
    data = base64.b64encode(file.getvalue()).decode()
    return picture.title, data, 96 * picture.figure.get_figwidth()
