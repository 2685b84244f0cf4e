"""Pictures and the report: what is in them, and how a browser shows it."""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rows import FACTS, RESULTS, everything, frame, pair, printed, row, tables_in, write

from benchmarks import speed_plots
from benchmarks.plots import Picture


def draw(rows: list[Any], sizes: tuple[int, ...] = speed_plots.SIZES) -> dict[str, Picture]:
    pictures = speed_plots.pictures(frame(rows), sizes)
    return {picture.name: picture for picture in pictures}


def panels(picture: Picture) -> dict[str, str]:
    """Label, length and text of each bar, of each panel; a bar is at its label's tick."""
    found = {}
    for axes in picture.figure.axes:
        ticks = axes.get_yticks()
        labels = axes.yaxis.get_major_formatter().format_ticks(ticks)
        lines = []
        for bar, tick, label, text in zip(axes.patches, ticks, labels, axes.texts, strict=True):
            assert bar.get_y() < tick < bar.get_y() + bar.get_height()
            lines.append(f"{label}: {bar.get_width():g} {text.get_text()}")
        found[axes.get_title("left")] = "; ".join(lines)
    return found


def test_panels_of_speed_ups_have_their_rows_in_common() -> None:
    """Also where not all of them were measured at each size; only what was timed in turns."""
    small = [*pair(2.0), *pair(0.5, "backward"), *pair(4.0, "backward", dtype="fp64")]
    large = [*pair(5.0, "forward", 2**20), *pair(6.0, "forward", 2**20, dtype="bf16")]
    others = [*pair(7.0, suite="claims"), *pair(8.0, threads=2)]
    others += [row("mish_cuda", 1.0, "backward", 2**20)]
    others += [row("F.mish", 1.0, "backward", 2**20, suite="claims")]
    drawn = draw([*large, *small, *others])
    assert panels(drawn["overview"]) == {
        "65,536 elements": "fp32 forward: 2 2.0x; fp32 backward: 0.5 0.5x; "
        "bf16 forward: 0 not measured; fp64 backward: 4 4.0x",
        "1 M elements": "fp32 forward: 5 5.0x; fp32 backward: 0 not measured; "
        "bf16 forward: 6 6.0x; fp64 backward: 0 not measured",
    }
    assert panels(drawn["overview-2-threads"]) == {"65,536 elements": "fp32 forward: 8 8.0x"}
    assert list(panels(draw(small, (7,))["overview"])) == ["65,536 elements"]  # else the largest


def test_bars_are_those_of_the_tables() -> None:
    """And the lines of rates: three tensors of 4 * 65,536 bytes in 20 us."""
    small = row("mish_cuda", 1.0, "forward+backward", 512, peak=99)  # not the largest
    pictures = draw([*everything(), small])
    ours = pictures["backward-fp32"].figure.axes[0].lines[0]
    assert ours.get_xydata().tolist() == [[65_536, pytest.approx(39.3216)]]
    assert panels(pictures["memory-fp32"]) == {
        "": "mish_cuda: 524288 512 KiB; naive: 1.31072e+06 1.25 MiB"
    }
    inference = "mish_cuda: 0.02 20.0 ms; F.mish: 0.03 30.0 ms; ReLU: 0.5 500 ms"
    assert panels(pictures["se_resnet18"])["time of inference"] == inference
    (compiled,) = panels(pictures["compiled-fp32-1048576"]).values()
    assert compiled.startswith("f(x): 3 3.00x; f(2x) + 1: 3 3.00x; relu(f(2x + 1) / 2")
    assert panels(pictures["norms-forward+backward"]) == {
        "torch's norm, then mish_cuda": "BatchNorm 2x8x4: 3 3.0x",
        "torch's norm, then F.mish": "BatchNorm 2x8x4: 9 9.0x",
    }


def test_files_of_pictures(tmp_path: Path) -> None:
    """Of several files, even of one name, each has its own; signed with where data are from."""
    files = [write(tmp_path / f"{n}" / "cpu.csv", pair(n), device=f"GPU {n}") for n in (2, 3)]
    folder = tmp_path / "new" / "folder"
    printed("plot", *files, "--format", "svg", "--output", folder)
    names = {f"{n}-cpu-{name}.svg" for n in (2, 3) for name in ("overview", "forward-fp32")}
    assert {file.name for file in folder.iterdir()} == names
    for n in (2, 3):
        text = (folder / f"{n}-cpu-overview.svg").read_text()
        assert f">{n}.0x</text>" in text
        assert f"GPU {n} · a cpu_capability" in text


NAMES = ("xeon-avx512/cpu.csv", "epyc-avx512/networks.csv", "xeon-avx512/accuracy.csv")


def tables_of_page(path: Path) -> list[list[list[str]]]:
    """The cells of its tables: the page is XML, too."""
    tables = ElementTree.parse(path).iter("table")
    return [[["".join(c.itertext()) for c in row] for row in t.iter("tr")] for t in tables]


def test_page_and_markdown_have_the_same_tables_and_facts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", everything())
    second = write(tmp_path / "b.csv", everything(), device="a GPU", cuda="13.0", clock="")
    path = tmp_path / "all.html"
    printed("report", first, second, "--output", path)
    markdown, page = (path.with_suffix(end).read_text("utf-8") for end in (".md", ".html"))
    tables = tables_of_page(path)
    # Three directions, memory, torch.compile, a norm, a network, and on the CPU claims.
    assert len(tables) == 8 + 7
    for (_, expected), found in zip(tables_in(markdown), tables, strict=True):
        names = len(expected[0]) - len(found[0]) + 1  # are one cell of the page
        joined = [[", ".join(line[:names]).strip(", "), *line[names:]] for line in expected]
        assert found == joined
    for fact in (*FACTS.values(), "a GPU", "13.0", "not recorded"):
        assert fact in html.unescape(page)
        assert fact in markdown.replace("\\", "")


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """On a phone and a desk: the same tables, all pictures, and no need of anything else."""
    facts = {"device": "A device of a long name " * 4, "command": "python " + "x" * 200}
    new, file = write(tmp_path / "new.csv", everything(), **facts), tmp_path / "page.html"
    printed("report", new, *(RESULTS / name for name in NAMES), "--output", file)
    for width in (400, 1280):
        messages: list[str] = []
        requests: list[str] = []
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message, told=messages: told.append(message.text))
        page.on("pageerror", lambda error, told=messages: told.append(str(error)))
        page.on("request", lambda request, asked=requests: asked.append(request.url))
        page.goto(file.as_uri())
        rows = "tables => tables.map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
        found = page.eval_on_selector_all("table", rows)
        assert [[[c.strip() for c in row] for row in t] for t in found] == tables_of_page(file)
        # Nothing makes the page wider than the screen; what is wider itself scrolls.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = "images => images.map(i => [i.complete && i.naturalWidth, i.width, i.height])"
        pictures = page.eval_on_selector_all("img", sizes)
        assert len(pictures) > 5
        assert [p for p in pictures if not (p[0] and p[1] > 300 and p[2] > 50)] == []
        assert (messages, requests) == ([], [file.as_uri()])
