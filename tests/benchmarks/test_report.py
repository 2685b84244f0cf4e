"""The report: what is in it, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rows import FACTS, RESULTS, everything, main, network, row, tables_in, write

COMMITTED = [
    RESULTS / name
    for name in ("xeon-avx512/cpu.csv", "epyc-avx512/networks.csv", "xeon-avx512/accuracy.csv")
]
HOSTILE = '<script>alert("1")</script>&amp;|`*\'{{ 7 * 7 }}'


class Page:
    """The elements of a page, which is also XML, its text, and the cells of its tables."""

    def __init__(self, path: Path) -> None:
        root = ElementTree.parse(path).getroot()
        self.elements = list(root.iter())
        self.text = " ".join(" ".join(root.itertext()).split())
        self.tables = [
            [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
            for table in root.iter("table")
        ]


def check_markdown(path: Path, page: Page) -> str:
    """The Markdown file has the tables of the page, where the names of a row are one cell."""
    text = path.with_suffix(".md").read_text("utf-8")
    for (_, expected), found in zip(tables_in(text), page.tables, strict=True):
        names = len(expected[0]) - len(found[0]) + 1
        joined = [(", ".join(line[:names]).strip(", "), *line[names:]) for line in expected]
        assert [tuple(line) for line in found] == joined
    return text


def test_page_and_markdown_have_the_same_tables_and_facts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", everything())
    facts = {"device": "a GPU", "cuda": "13.0", "driver": "580.1", "clock": ""}
    second = write(tmp_path / "b.csv", everything(), **facts)
    path = tmp_path / "all.html"
    assert main("report", first, second, "--output", path) == 0
    page = Page(path)
    markdown = check_markdown(path, page)
    # Three directions, memory, torch.compile, a norm, a network, the claims about torch.compile.
    assert len(page.tables) == 2 * 8
    # 2 * 4 * 65,536 bytes in 20 us; 250 us / 20 us.
    assert page.tables[0] == [
        ["dtype, input", "ours", "GB/s", "F.mish", "naive", "copy"],
        ["fp32, 65,536", "20.0 µs", "26.2", "12.5", "7.00", "0.50"],
    ]
    for fact in FACTS.values():
        assert fact in page.text
        assert fact in markdown.replace("\\", "")
    assert "cuda 13.0 driver 580.1" in page.text
    assert "clock not recorded" in page.text
    # The page needs no other file.
    assert not re.findall(r"https?://|@import", path.read_text("utf-8"))
    for element in page.elements:
        assert element.tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert element.get(name, "#").startswith(("#", "data:"))


def test_what_comes_from_a_file_has_no_meaning(tmp_path: Path) -> None:
    found = [
        row(HOSTILE, 1.0),
        row(f"compiled F.mish in {HOSTILE}", 1.0, "forward+backward", suite="compiled"),
        network(HOSTILE, "training step", 1.0, 3) | {"network": HOSTILE},
    ]
    facts = dict.fromkeys(("device", "commit", "command"), HOSTILE)
    path = write(tmp_path / "a.csv", found, **facts).with_suffix(".html")
    assert main("report", path.with_suffix(".csv")) == 0
    page = Page(path)
    assert "script" not in {element.tag for element in page.elements}
    assert not any(name.startswith("on") for element in page.elements for name in element.attrib)
    assert page.text.count(HOSTILE) >= 7
    assert not re.search(r"(?<!\\)<", check_markdown(path, page))


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


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
    new = write(folder / "new.csv", everything(), **facts)
    assert main("report", new, *COMMITTED, "--output", page) == 0
    return page


# Whether the text of each row's name is in view where its table is scrolled to its end.
NAMES_IN_VIEW = """boxes => boxes.flatMap(box => {
    box.scrollLeft = box.scrollWidth;
    const seen = box.getBoundingClientRect();
    return [...box.querySelectorAll("tbody th")].map(name => {
        const place = name.getBoundingClientRect();
        return seen.left <= place.left && place.right <= (seen.left + seen.right) / 2 + 1;
    });
})"""


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_in_a_browser(browser: Any, file: Path, width: int, scheme: str) -> None:
    messages: list[str] = []
    requests: list[str] = []
    viewport = {"width": width, "height": 800}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    try:
        page = context.new_page()
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        look_at(page, Page(file).tables, width)
    finally:
        context.close()
    assert not [message for message in messages if message.startswith(("error", "warning"))]
    assert requests == [file.as_uri()]


def look_at(page: Any, expected: list[list[list[str]]], width: int) -> None:
    found = page.eval_on_selector_all(
        "table",
        "tables => tables.map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))",
    )
    assert [[[c.strip() for c in row] for row in t] for t in found] == expected
    assert page.locator("h2").count() == page.locator("nav a").count() == 1 + len(COMMITTED)
    # Nothing makes the page wider than the screen; what is wider itself scrolls.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    names = page.eval_on_selector_all(".scroll", NAMES_IN_VIEW)
    assert len(names) == sum(len(table) - 1 for table in expected)
    assert all(names)
    pictures = page.eval_on_selector_all(
        "img", "images => images.map(i => [i.alt, i.complete && i.naturalWidth, i.width, i.height])"
    )
    assert len(pictures) > 5
    assert [p for p in pictures if not (p[0] and p[1] and p[2] > 300 and p[3] > 50)] == []
