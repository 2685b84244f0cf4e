"""The documentation: its code runs, its links exist, its messages are those of the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

import build_config
from build_config import BuildError, Torch
from conftest import needs_extension
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit
from mish_cuda import _extension
from project import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
_HEADING_OR_BLOCK = re.compile(r"^##+ ([^\n]+)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDED = {"torch.onnx.export": ("onnx", "onnxscript")}


class Block(NamedTuple):
    """A block of Python, after the code that must run before it."""

    name: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page. Each runs by itself, after those above the first heading."""
    found: list[Block] = []
    heading, preamble = "", ""
    for match in _HEADING_OR_BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match[1]:
            heading = match[1]
        else:
            found.append(Block(f"{page.name}: {heading}", preamble + match[2]))
            if not heading:
                preamble = found[-1].code
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


@needs_extension
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
def test_code_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call, packages in _NEEDED.items():
        if call in block.code:
            for package in packages:
                pytest.importorskip(package, reason=f"{package} is not installed")
    if re.search(r"torch\.compile|aoti_compile", block.code) and shutil.which("g++") is None:
        pytest.skip("inductor calls g++, which is not here")
    monkeypatch.chdir(tmp_path)
    page = ModuleType("documentation")
    monkeypatch.setitem(sys.modules, page.__name__, page)  # where torch 2.11's compiler looks
    torch._dynamo.reset()
    exec(compile(block.code, block.name, "exec"), vars(page))


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


# --- docs/troubleshooting.md quotes the messages of the build ---


def quoted(message: str) -> bool:
    """Whether the page quotes the message, in broken lines and with ... for varying parts."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for quote in re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        parts = [re.escape(part) for part in " ".join(quote.split()).split("...")]
        if re.fullmatch(".*".join(parts), message):
            return True
    return False


def fake_nvcc(folder: Path) -> None:
    """Writes a stand-in for nvcc that reports version 13.0."""
    folder.mkdir()
    path = folder / "nvcc"
    path.write_text('#!/bin/sh\necho "Cuda compilation tools, release 13.0, V13.0.88"\n')
    path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvcc is a shell script")
def test_messages_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "SYSTEM_TOOLKITS", ())
    fake_nvcc(tmp_path / "bin")
    asked = {"MISH_CUDA_BUILD": "cuda"}
    cuda_torch = Torch("2.11.0+cu130", "13.0", None)
    toolkit = Toolkit(tmp_path, "13.0", "13.0.88", ("7.5", "9.0", "12.0", "12.1"), "PATH")
    home = {**asked, "CUDA_HOME": str(tmp_path)}
    failures = [
        lambda: build_config.decide(asked, cuda_torch, []),
        lambda: build_config.decide(home, Torch("2.9.1+cu128", "12.8", None), []),
        lambda: build_config.decide(asked, Torch("2.13.0+cpu", None, None), []),
        lambda: build_config.decide({}, Torch("2.8.0+cu128", "12.8", None), []),
        lambda: build_config.compiler_version({"PATH": str(tmp_path)}),
        lambda: build_config.check_python_headers(tmp_path),
        lambda: build_config.arch_list({"TORCH_CUDA_ARCH_LIST": "compute_90"}, toolkit),
        lambda: build_config.check_environment({"LDFLAGS": "-mdaz-ftz"}),
        lambda: build_config.check_writable([tmp_path / "missing"]),
    ]
    for fail in failures:
        with pytest.raises(BuildError) as raised:
            fail()
        assert quoted(f"mish_cuda: {raised.value}"), raised.value


def test_message_of_a_build_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")\n")
    done = subprocess.run(
        [sys.executable, "setup.py", "build"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MISH_CUDA_BUILD": "auto"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert quoted(done.stderr.strip()), done.stderr


@needs_extension
def test_warning_of_a_build_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISH_CUDA_EAGER", raising=False)
    facts = {"python": EXTENSION_SUFFIXES[0], "torch": "2.8.0"}
    monkeypatch.setattr(_extension, "facts_of", lambda module: facts)
    with pytest.warns(RuntimeWarning) as caught:
        _extension._load()
    assert quoted(str(caught[0].message)), caught[0].message
