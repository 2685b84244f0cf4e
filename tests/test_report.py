"""The report: what is in it, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli, report, report_tables
from benchmarks.cells import KERNEL_DIRECTIONS, Cell, Direction, compiled_provider
from benchmarks.environment import Environment
from benchmarks.results import Result, Timing, open_writer
from project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
COMMITTED = [
    RESULTS / "xeon-avx512" / "cpu.csv",
    RESULTS / "epyc-avx512" / "cpu.csv",
    RESULTS / "epyc-avx512" / "models.csv",
    RESULTS / "xeon-avx512" / "accuracy.csv",
]
FACTS = Environment(
    *("a device", "a processor", "AVX2", "cpu", "1.2.3", "abc1234", "2.9", "", "", "3.10"),
    *("2000-01-01", "python -m benchmarks run --csv 'a file.csv'", "2400 MHz"),
)
HOSTILE = '<script>alert("1")</script>&amp;|`*\'{{ 7 * 7 }}'


def timed(suite: str, cell: Cell, seconds: float = 1e-3, peak_bytes: int | None = None) -> Result:
    return Result(suite, cell, Timing(3, seconds, seconds, seconds), peak_bytes)


def kernels(size: int = 65_536, dtype: str = "fp32") -> list[Result]:
    seconds = {"mish_cuda": 20e-6, "F.mish": 250e-6, "copy": 10e-6}
    return [
        timed("kernels", Cell(name, d, dtype, (size,)), time, 2**20 if "+" in d else None)
        for d in KERNEL_DIRECTIONS
        for name, time in seconds.items()
    ]


def networks() -> list[Result]:
    directions: tuple[Direction, ...] = ("training step", "inference")
    return [
        timed("models", Cell(name, d, "fp32", (8, 512), threads=2, network="mlp"), 1.0, 2**20)
        for name in ("mish_cuda", "F.mish")
        for d in directions
    ]


def compiled() -> list[Result]:
    times = {"F.mish": 6.0, "decomposition": 2.0, "kernel": 3.0}
    return [
        timed("compiled", Cell(compiled_provider(n), "forward+backward", "fp32", (2**20,)), time)
        for n, time in times.items()
    ]


def main(*arguments: str | Path) -> int:
    return cli.main(["report", *map(str, arguments)])


def write(path: Path, rows: list[Result], facts: Environment = FACTS) -> Path:
    with open_writer(path, facts) as add:
        add(rows)
    return path


def pages(path: Path) -> tuple[str, str]:
    """HTML and Markdown of a file of results."""
    assert main(path) == 0
    html, markdown = (path.with_suffix(end).read_text("utf-8") for end in (".html", ".md"))
    return html, markdown


class Reader(HTMLParser):
    """Text in the cells of each table, the elements, their attributes, and that all are closed."""

    VOID = frozenset(("meta", "link"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "
        if not {"th", "td"}.isdisjoint(self.open):
            self.tables[-1][-1][-1] += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, without the rule below its header."""
    tables = []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
            assert all(re.fullmatch(" ---:? ", cell) for cell in lines.pop(1))
            tables.append([[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in ln] for ln in lines])
    return tables


def test_page_and_markdown_have_the_same_tables(tmp_path: Path) -> None:
    rows = [*networks(), *kernels(), *kernels(2**20, "bf16"), *compiled()]
    html, markdown = pages(write(tmp_path / "a.csv", rows))
    tables = Reader(html).tables
    assert tables == markdown_tables(markdown)
    # A network, three directions, memory, torch.compile.
    assert len(tables) == 6
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    # 250 us / 20 us; 2 * 4 * 65,536 bytes in 20 us; 10 us of copy / 20 us.
    assert tables[1] == [
        ["input", "mish_cuda", "F.mish", "copy", "speed up", "GB/s", "of copy"],
        ["fp32 65,536", "20.0 µs", "250 µs", "10.0 µs", "12.50x", "26.2", "50%"],
        ["bf16 1 M", "20.0 µs", "250 µs", "10.0 µs", "12.50x", "210", "50%"],
    ]
    assert tables[4][1] == ["fp32 65,536", "1.00 MiB", "1.00 MiB", "1.00 MiB"]
    assert tables[5][1] == ["fp32 1 M, f(x)", "6.00 s", "2.00 s", "3.00 s", "3.00x"]


def test_a_provider_that_was_not_measured_leaves_its_cells_empty(tmp_path: Path) -> None:
    rows = [r for r in kernels() if r.cell.direction == "forward" and r.cell.provider != "copy"]
    rows += [r for r in kernels(512) if r.cell.direction == "forward"][1:]  # without ours
    html, _ = pages(write(tmp_path / "a.csv", rows))
    assert Reader(html).tables[0][1:] == [
        ["fp32 512", "", "250 µs", "10.0 µs", "", "", ""],
        ["fp32 65,536", "20.0 µs", "250 µs", "", "12.50x", "26.2", ""],
    ]


def test_facts_of_each_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", kernels())
    second = write(
        tmp_path / "b.csv",
        kernels(),
        replace(FACTS, device="a GPU", cuda="13.0", driver="580.1", clock="", commit=""),
    )
    assert main(first, second, "--output", tmp_path / "all.html") == 0
    text = " ".join(Reader((tmp_path / "all.html").read_text("utf-8")).text.split())
    markdown = (tmp_path / "all.md").read_text("utf-8")
    for fact in ("a device", "a processor", "AVX2", "2400 MHz", "1.2.3 (cpu)", "abc1234", "2.9"):
        assert fact in text
        assert fact in markdown
    assert "command python -m benchmarks run --csv 'a file.csv'" in text
    assert "date 2000-01-01" in text
    assert "CUDA 13.0 driver 580.1" in text
    assert "clock not recorded" in text
    assert "- commit: not recorded" in markdown


def test_what_comes_from_a_file_has_no_meaning(tmp_path: Path) -> None:
    facts = replace(FACTS, device=HOSTILE, commit=HOSTILE, command=HOSTILE)
    cells = [
        Cell(HOSTILE, "forward", "fp32", (512,)),
        Cell(HOSTILE, "training step", "fp32", (512,), network=HOSTILE),
        Cell(f"compiled F.mish in {HOSTILE}", "forward+backward", "fp32", (512,)),
    ]
    suites = ("kernels", "models", "compiled")
    rows = [timed(suite, cell, 1.0, 3) for suite, cell in zip(suites, cells, strict=True)]
    html, markdown = pages(write(tmp_path / "a.csv", rows, facts))
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert reader.text.count(HOSTILE) >= 9
    tables = markdown_tables(markdown)
    assert tables == reader.tables
    assert not re.search(r"(?<!\\)<", markdown)


def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    html, _ = pages(write(tmp_path / "a.csv", [*kernels(), *networks()]))
    names = re.findall(r"https?://[^\"' )]+", html)
    assert {name for name in names if not name.startswith("http://www.w3.org/")} == set()
    for tag, attributes in Reader(html).tags:
        assert tag not in ("script", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "@import" not in html


def test_ids_are_unique_and_references_found(tmp_path: Path) -> None:
    html, _ = pages(write(tmp_path / "a.csv", [*kernels(), *networks()]))
    reader = Reader(html)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    references = re.findall(r"(?:url\(#|href=\"#)([^\")]+)", html)
    assert references
    assert set(references) <= set(ids)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_results_have_tables(path: Path) -> None:
    (source,) = report.sources.read([path])
    tables = report_tables.make(source)
    titles = [table.title for table in tables]
    kernels = [f"{d}, CPU threads: 1" for d in KERNEL_DIRECTIONS]
    assert (
        titles
        == {
            "xeon-avx512/cpu.csv": [*kernels, "Claims"],
            "epyc-avx512/cpu.csv": [
                *kernels,
                "Peak memory of forward+backward",
                "torch.compile, forward+backward",
                "Claims",
            ],
            "epyc-avx512/models.csv": [
                f"{network}, fp32, CPU threads: 2"
                for network in (
                    "se_resnet18, input 16x3x32x32",
                    "csp_darknet, input 2x3x128x128",
                    "mlp, input 512x512",
                )
            ],
            "xeon-avx512/accuracy.csv": ["Errors, and what is required on a CPU"],
        }[f"{path.parent.name}/{path.name}"]
    )
    for table in tables:
        assert all(len(row) == len(table.header) for row in table.rows)
        names = [row[0] for row in table.rows]  # all that is seen of a row scrolled to the right
        assert len(set(names)) == len(names)


# Wrong input


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\0\1"])
def test_files_that_are_none_of_ours_are_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert main(path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m benchmarks report: {path} ")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write(tmp_path / "a.csv", [])) == 2
    assert "holds no rows: nothing was measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "reason"),
    [("a.csv/page.html", "cannot be written"), ("page.txt", "expected a name that ends in .html")],
)
def test_an_output_that_cannot_be_is_named(
    output: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", networks())
    assert main(path, "--output", tmp_path / output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / output) in line
    assert reason in line


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1280, "height": 800}


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


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of old results and of every kind of new ones, with long names in them."""
    folder = tmp_path_factory.mktemp("report")
    long = replace(FACTS, device="A device of a long name " * 4, command="python " + "x" * 200)
    new = write(folder / "new.csv", [*kernels(), *kernels(2**20), *networks(), *compiled()], long)
    page = folder / "page.html"
    assert main(new, *COMMITTED[1:], "--output", page) == 0
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
def test_in_a_browser(browser: Any, file: Path, screen: dict[str, int], scheme: str) -> None:
    messages: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport=screen, color_scheme=scheme)
    try:
        page = context.new_page()
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        look_at(page, file, screen["width"], scheme)
    finally:
        context.close()
    assert not [message for message in messages if message.startswith(("error", "warning"))]
    assert requests == [file.as_uri()]


def look_at(page: Any, file: Path, width: int, scheme: str) -> None:
    reader = Reader(file.read_text("utf-8"))
    assert page.title() == page.locator("h1").inner_text() == report.TITLE
    assert page.locator("h2").count() == 4
    assert page.locator("nav a").count() == 4

    found = page.eval_on_selector_all(
        "table",
        "tables => tables.map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))",
    )
    assert [[[c.strip() for c in row] for row in t] for t in found] == reader.tables
    assert len(found) == page.locator("h3").count() == 16

    # Nothing makes the page wider than the screen; what is wider itself scrolls.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scrolled = page.eval_on_selector_all(
        ".scroll", "boxes => boxes.filter(b => b.scrollWidth > b.clientWidth).length"
    )
    assert (scrolled > 0) == (width == PHONE["width"])

    # However far, the name of a row stays in view and leaves room for figures.
    names = page.eval_on_selector_all(
        ".scroll",
        """boxes => boxes.flatMap(box => {
            box.scrollLeft = box.scrollWidth;
            const seen = box.getBoundingClientRect();
            return [...box.querySelectorAll("tbody tr")].flatMap(row => {
                row.scrollIntoView();
                return [...row.querySelectorAll("th")].map(name => {
                    const range = document.createRange();
                    range.selectNodeContents(name);
                    const lines = [...range.getClientRects()];
                    const onTop = (x, y) => name.contains(document.elementFromPoint(x, y));
                    return [name.innerText, seen.width / name.offsetWidth, lines.every(line =>
                        line.left >= seen.left && line.right <= seen.right
                        && [line.left + 1, line.right - 1].every(
                            x => onTop(x, (line.top + line.bottom) / 2)))];
                });
            });
        })""",
    )
    assert [name for name, _, visible in names if not visible] == []
    assert [name for name, share, _ in names if share < 2] == []
    assert len(names) == sum(len(table) - 1 for table in reader.tables)

    pictures = page.eval_on_selector_all(
        "figure",
        """figures => figures.map(f => {
            const box = f.querySelector("svg").getBoundingClientRect();
            return [f.getAttribute("aria-label"), box.width, box.height];
        })""",
    )
    assert len(pictures) == len([tag for tag, _ in reader.tags if tag == "figure"]) > 10
    for label, wide, high in pictures:
        assert label
        assert wide > 300
        assert high > 50

    smallest = page.evaluate(
        """() => {
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const sizes = {page: Infinity, picture: Infinity};
            while (walk.nextNode()) {
                const element = walk.currentNode.parentElement;
                if (!walk.currentNode.data.trim()) continue;
                const svg = element.closest("svg");
                const scale = svg ? svg.getScreenCTM().a : 1;
                const size = parseFloat(getComputedStyle(element).fontSize) * scale;
                const kind = svg ? "picture" : "page";
                sizes[kind] = Math.min(sizes[kind], size);
            }
            return sizes;
        }"""
    )
    assert smallest["page"] >= 14  # pixels
    assert smallest["picture"] >= 9

    light = page.evaluate(
        """() => {
            const sum = (element, name) => getComputedStyle(element)[name]
                .match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
            const paper = document.querySelector("svg path");
            const ink = document.querySelector("svg text");
            return [document.body, paper].map(e => sum(e, e === paper ? "fill" : "backgroundColor"))
                .concat([document.body, ink].map(e => sum(e, e === ink ? "fill" : "color")));
        }"""
    )
    bright = [value > 3 * 128 for value in light]
    assert bright == (
        [True, True, False, False] if scheme == "light" else [False, False, True, True]
    )
