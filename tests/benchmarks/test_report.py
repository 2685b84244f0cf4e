"""The report: what is in it, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rows import RESULTS, Row, main, network, refusal, row, write

from benchmarks import report
from benchmarks.cases import KERNEL_DIRECTIONS, compiled_provider

COMMITTED = [
    RESULTS / name
    for name in ("xeon-avx512/cpu.csv", "epyc-avx512/networks.csv", "xeon-avx512/accuracy.csv")
]
HOSTILE = '<script>alert("1")</script>&amp;|`*\'{{ 7 * 7 }}'


def rows() -> list[Row]:
    """For every kind of table."""
    seconds = {"mish_cuda": 20e-6, "F.mish": 250e-6, "copy": 10e-6}
    compiled = {"F.mish": 6.0, "mish_cuda": 2.0}
    return [
        *(
            row(name, time, d, peak=2**20 if "+" in d else "")
            for d in KERNEL_DIRECTIONS
            for name, time in seconds.items()
        ),
        *(
            row(compiled_provider(n), time, "forward+backward", 2**20, suite="compiled")
            for n, time in compiled.items()
        ),
        *(network(name, "training step", 1.0, 2**20) for name in ("mish_cuda", "F.mish")),
    ]


class Reader(HTMLParser):
    """Text in the cells of each table, the elements, their attributes, and that all are closed."""

    VOID = frozenset(("meta", "link", "img"))

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
            names = sum(cell == " --- " for cell in lines.pop(1))
            cells = [[re.sub(r"\\(.)", r"\1", c.strip()) for c in line] for line in lines]
            # The names of a row are one cell of the page.
            joined = (", ".join(line[:names]).strip(", ") for line in cells)
            tables.append([[name, *line[names:]] for name, line in zip(joined, cells, strict=True)])
    return tables


def test_page_and_markdown_have_the_same_tables_and_facts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", rows())
    second = write(
        tmp_path / "b.csv", rows(), device="a GPU", cuda="13.0", driver="580.1", clock=""
    )
    assert main("report", first, second, "--output", tmp_path / "all.html") == 0
    html, markdown = ((tmp_path / f"all.{end}").read_text("utf-8") for end in ("html", "md"))
    reader = Reader(html)
    assert reader.tables == markdown_tables(markdown)
    # Three directions, memory, torch.compile, a network, the claims about torch.compile.
    assert len(reader.tables) == 2 * 7
    for table in reader.tables:
        assert {len(line) for line in table} == {len(table[0])}
        names = [line[0] for line in table]  # all that is seen of a row that is scrolled
        assert len(set(names)) == len(names)
    # 2 * 4 * 65,536 bytes in 20 us; 250 us / 20 us.
    assert reader.tables[0] == [
        ["dtype, input", "ours", "GB/s", "F.mish", "copy"],
        ["fp32, 65,536", "20.0 µs", "26.2", "12.5", "0.50"],
    ]
    text = " ".join(reader.text.split())
    for fact in ("a device", "a processor", "AVX2", "2400 MHz", "1.2.3", "abc1234", "2.9"):
        assert fact in text
        assert fact in markdown
    assert "command python -m benchmarks run --csv 'a file.csv'" in text
    assert "cuda 13.0 driver 580.1" in text
    assert "clock not recorded" in text
    # The page needs no other file.
    assert not re.findall(r"https?://|@import", html)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    links = {attributes["href"][1:] for tag, attributes in reader.tags if tag == "a"}  # type: ignore[index]
    assert links == ids


def test_what_comes_from_a_file_has_no_meaning(tmp_path: Path) -> None:
    found = [
        row(HOSTILE, 1.0),
        row(f"compiled F.mish in {HOSTILE}", 1.0, "forward+backward", suite="compiled"),
        network(HOSTILE, "training step", 1.0, 3) | {"network": HOSTILE},
    ]
    facts = dict.fromkeys(("device", "commit", "command"), HOSTILE)
    path = write(tmp_path / "a.csv", found, **facts)
    assert main("report", path) == 0
    html, markdown = (path.with_suffix(end).read_text("utf-8") for end in (".html", ".md"))
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert reader.text.count(HOSTILE) >= 7
    assert markdown_tables(markdown) == reader.tables
    assert not re.search(r"(?<!\\)<", markdown)


@pytest.mark.parametrize(
    ("output", "reason"),
    [("a.csv/page.html", "cannot be written"), ("page.txt", "expected a name that ends in .html")],
)
def test_an_output_that_cannot_be_is_named(
    output: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", rows())
    (line,) = refusal(capsys, "report", path, "--output", tmp_path / output).splitlines()
    assert str(tmp_path / output.split("/")[0]) in line
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
    """A page of committed results and of every kind of new ones, with long names in them."""
    folder = tmp_path_factory.mktemp("report")
    facts = {"device": "A device of a long name " * 4, "command": "python " + "x" * 200}
    page = folder / "page.html"
    assert (
        main("report", write(folder / "new.csv", rows(), **facts), *COMMITTED, "--output", page)
        == 0
    )
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
    assert len(found) == page.locator("h3").count() > 10

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
        "img", "images => images.map(i => [i.alt, i.complete && i.naturalWidth, i.width, i.height])"
    )
    assert len(pictures) > 5
    for text, loaded, wide, high in pictures:
        assert text
        assert loaded
        assert wide > 300
        assert high > 50

    smallest = page.evaluate(
        """() => {
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            let smallest = Infinity;
            while (walk.nextNode()) {
                if (!walk.currentNode.data.trim()) continue;
                const size = parseFloat(getComputedStyle(walk.currentNode.parentElement).fontSize);
                smallest = Math.min(smallest, size);
            }
            return smallest;
        }"""
    )
    assert smallest >= 14  # pixels
    light = page.evaluate(
        """() => ["backgroundColor", "color"].map(name => getComputedStyle(document.body)[name]
            .match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"""
    )
    assert [value > 3 * 128 for value in light] == (
        [True, False] if scheme == "light" else [False, True]
    )
