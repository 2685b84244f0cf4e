"""Pictures and the report: what is in them, and how a browser shows it."""

from __future__ import annotations

import html
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rows import FACTS, RESULTS, everything, frame, pair, printed, row, tables_in, write

from benchmarks import speed_plots
from benchmarks.plots import Picture


def panels(picture: Picture) -> dict[str, str]:
    """Label, length and text of each bar, of each panel."""
    found = {}
    for axes in picture.figure.axes:
        labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())
        drawn = zip(labels, axes.patches, axes.texts, strict=True)
        lines = (f"{label}: {bar.get_width():g} {text.get_text()}" for label, bar, text in drawn)
        found[axes.get_title("left")] = "; ".join(lines)
    return found


def test_panels_of_speed_ups_have_their_rows_in_common() -> None:
    """Also where not all of them were measured at each size; only what was timed in turns."""
    small = [*pair(2.0), *pair(4.0, "backward", dtype="fp64"), *pair(7.0, suite="claims")]
    large = [*pair(5.0, "forward", 2**20), row("mish_cuda", 1.0, "backward", 2**20)]
    two = pair(8.0, "forward", 512, threads=2)
    one, other, *_ = speed_plots.pictures(frame([*large, *small, *two]))
    assert panels(one) == {
        "65,536 elements": "fp32 forward: 2 2.00x; fp64 backward: 4 4.00x",
        "1 M elements": "fp32 forward: 5 5.00x; fp64 backward: 0 not measured",
    }
    # Without any of the usual sizes the largest.
    assert panels(other) == {"512 elements": "fp32 forward: 8 8.00x"}


def test_bars_are_those_of_the_tables() -> None:
    """And the lines of rates: three tensors of 4 * 65,536 bytes in 20 us."""
    small = row("mish_cuda", 1.0, "forward+backward", 512, peak=99)  # not the largest
    pictures = {p.name: p for p in speed_plots.pictures(frame([*everything(), small]))}
    ours = pictures["backward-fp32"].figure.axes[0].lines[0]
    assert ours.get_xydata().tolist() == [[65_536, pytest.approx(39.3216)]]
    assert panels(pictures["memory-fp32"]) == {"MiB": "mish_cuda: 0.5 0.50; naive: 1.25 1.25"}
    inference = "mish_cuda: 20 20.0; F.mish: 30 30.0; none: 0 not measured; ReLU: 500 500"
    name = "se_resnet18-fp32-batch-8x3x32x32-2-threads"
    assert panels(pictures[name])["inference: time, ms"] == inference
    (compiled,) = panels(pictures["compiled-forward+backward"]).values()
    assert compiled.startswith("fp32 1 M f(x): 3 3.00x; fp32 1 M f(2x) + 1: 3 3.00x; fp32 1 M relu")
    assert panels(pictures["norms-forward+backward"]) == {
        "over mish_cuda": "fp32 2x8x4 BatchNorm: 3 3.00x",
        "over F.mish": "fp32 2x8x4 BatchNorm: 9 9.00x",
    }


def test_files_of_pictures(tmp_path: Path) -> None:
    """Of several files, even of one name, each has its own; signed with where data are from."""
    files = [write(tmp_path / f"{n}" / "cpu.csv", pair(n), device=f"GPU {n}") for n in (2, 3)]
    folder = tmp_path / "new" / "folder"
    printed("plot", *files, "--format", "svg", "--output", folder)
    names = {f"{n}-cpu-{name}.svg" for n in (2, 3) for name in ("overview", "forward-fp32")}
    assert {file.name for file in folder.iterdir()} == names
    text = (folder / "2-cpu-overview.svg").read_text()
    assert ">2.00x</text>" in text
    assert "GPU 2 · a cpu_capability" in text


def tables_of_page(path: Path) -> list[list[list[str]]]:
    """The cells of its tables: the page is XML, too."""
    tables = ElementTree.parse(path).iter("table")
    return [[["".join(c.itertext()) for c in row] for row in t.iter("tr")] for t in tables]


def test_page_has_the_tables_and_facts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", everything(), clock="")
    page = tmp_path / "new folder" / "all.html"
    printed("report", file, "--output", page)
    markdown = tables_in(printed("table", file, "--markdown"))
    # Three directions, memory, torch.compile, a norm, a network and claims.
    assert len(markdown) == 8
    for (_, expected), found in zip(markdown, tables_of_page(page), strict=True):
        names = len(expected[0]) - len(found[0]) + 1  # are one cell of the page
        joined = [[", ".join(line[:names]).strip(", "), *line[names:]] for line in expected]
        assert found == joined
    for name, fact in (FACTS | {"clock": "not recorded"}).items():
        assert f"<dt>{name}</dt><dd>{fact}</dd>" in html.unescape(page.read_text("utf-8"))


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAMES = ("xeon-avx512/cpu.csv", "epyc-avx512/networks.csv", "xeon-avx512/accuracy.csv")


@pytest.mark.slow
def test_in_a_browser(tmp_path: Path) -> None:
    """On a phone and a desk: the same tables, all pictures, and no need of anything else."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    facts = {"device": "A device of a long name " * 4, "command": "python " + "x" * 200}
    new, file = write(tmp_path / "new.csv", everything(), **facts), tmp_path / "page.html"
    printed("report", new, *(RESULTS / name for name in NAMES), "--output", file)
    rows = "tables => tables.map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
    sizes = "images => images.map(i => [i.complete && i.naturalWidth, i.width, i.height])"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for width in (400, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            events: dict[str, list[Any]] = {"console": [], "pageerror": [], "request": []}
            for name in events:
                page.on(name, partial(list.append, events[name]))
            page.goto(file.as_uri())
            found = page.eval_on_selector_all("table", rows)
            assert [[[c.strip() for c in row] for row in t] for t in found] == tables_of_page(file)
            # Nothing makes the page wider than the screen; what is wider itself scrolls.
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            pictures = page.eval_on_selector_all("img", sizes)
            assert len(pictures) > 5
            assert [p for p in pictures if not (p[0] and p[1] > 300 and p[2] > 50)] == []
            assert [request.url for request in events.pop("request")] == [file.as_uri()]
            assert events == {"console": [], "pageerror": []}
