"""The documentation: its code runs, and its links exist."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import needs_extension, slow
from project import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
_HEADING_OR_BLOCK = re.compile(r"^##+ ([^\n]+)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[Any]:
    """The blocks of Python. Each runs by itself, after those above its page's first heading."""
    for page in PAGES:
        heading, preamble = "", ""
        for match in _HEADING_OR_BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match[1]:
                heading = match[1]
                continue
            name, code = f"{page.name}: {heading}", preamble + match[2]
            takes_long = re.search(r"onnx\.export|aoti_compile", code)
            yield (slow if takes_long else pytest.param)(code, id=name)
            if not heading:
                preamble += match[2]


@needs_extension
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("code", [*blocks()])
def test_code_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript") if "torch.onnx.export" in code else ():
        pytest.importorskip(package, reason=f"{package} is not installed")
    if re.search(r"torch\.compile|aoti_compile", code) and shutil.which("g++") is None:
        pytest.skip("inductor calls g++, which is not here")
    monkeypatch.chdir(tmp_path)
    page = ModuleType("documentation")
    monkeypatch.setitem(sys.modules, page.__name__, page)  # where torch 2.11's compiler looks
    torch._dynamo.reset()
    exec(compile(code, page.__name__, "exec"), vars(page))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Anchors are headings as GitHub names them."""
    for name, anchor in re.findall(r"\]\((?!\w+://)([^)\s#]*)#?([^)\s]*)\)", prose(page)):
        target = page.parent / name if name else page
        assert target.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target).lower(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h).replace(" ", "-") for h in headings]
