"""``variants``: what is tried on which GPU, and what a machine without one is told."""

from __future__ import annotations

import pytest
import torch
from rows import refusal

from benchmarks.variants import CHOSEN, variants


@pytest.mark.parametrize(
    ("capability", "threads"), [((7, 5), 1024), ((8, 6), 1536), ((9, 0), 2048), ((10, 0), 2048)]
)
def test_all_that_a_gpu_can_run_is_tried(capability: tuple[int, int], threads: int) -> None:
    tried = variants(capability, threads)
    assert tried.pop(CHOSEN) == []
    macros = [dict(macro.split("=") for macro in name.split()) for name in tried]
    assert all(int(v["threads"]) * int(v["min_blocks"]) <= threads for v in macros)
    assert {v["packs"] for v in macros} == {"1", "2", "4"}
    assert ("32" in {v["pack_bytes"] for v in macros}) == (capability >= (10, 0))
    for name, flags in tried.items():
        assert flags == [f"-DMISH_{macro.upper()}" for macro in name.split()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a GPU" in refusal(capsys, "variants")
