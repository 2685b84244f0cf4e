"""The code in docs/pytorch.md runs, block by block."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mish_cuda
from conftest import needs_extension

_PAGE = (Path(__file__).parents[1] / "docs" / "pytorch.md").read_text(encoding="utf-8")
_HEADING_OR_BLOCK = re.compile(r"^## ([^\n]+)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDED = {"torch.onnx.export": ("onnx", "onnxscript")}


def blocks() -> Iterator[tuple[str, str]]:
    """The heading that each block of code stands under, and the block."""
    heading = ""
    for match in _HEADING_OR_BLOCK.finditer(_PAGE):
        if match[1]:
            heading = match[1]
        else:
            yield heading, match[2]


_PREAMBLE, *_BLOCKS = blocks()


@needs_extension
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("heading", "code"), _BLOCKS, ids=[heading for heading, _ in _BLOCKS])
def test_block(heading: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call, packages in _NEEDED.items():
        if call in code:
            for package in packages:
                pytest.importorskip(package, reason=f"{package} is not installed")
    if "compile" in code and shutil.which("g++") is None:
        pytest.skip("inductor calls g++, which is not here")
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    try:
        exec(compile(_PREAMBLE[1] + code, f"docs/pytorch.md, {heading}", "exec"), {})
    finally:
        mish_cuda.compile_with("decomposition")
