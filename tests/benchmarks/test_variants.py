"""``variants``: what is tried on which GPU, and what a machine without one is told."""

from __future__ import annotations

import pytest
import torch
from rows import refusal

from benchmarks.variants import Variant, variants


def test_a_variant_is_a_set_of_macros() -> None:
    assert str(Variant()) == "chosen"
    assert Variant().flags == []
    other = Variant((("THREADS", 128), ("PACKS", 4)))
    assert str(other) == "threads=128 packs=4"
    assert other.flags == ["-DMISH_THREADS=128", "-DMISH_PACKS=4"]


@pytest.mark.parametrize(
    ("capability", "threads"), [((7, 5), 1024), ((8, 6), 1536), ((9, 0), 2048), ((10, 0), 2048)]
)
def test_all_that_a_gpu_can_run_is_tried(capability: tuple[int, int], threads: int) -> None:
    first, *others = (dict(variant.macros) for variant in variants(capability, threads))
    assert first == {}
    assert all(v["THREADS"] * v["MIN_BLOCKS"] <= threads for v in others)
    assert {v["PACKS"] for v in others} == {1, 2, 4}
    assert (32 in {v["PACK_BYTES"] for v in others}) == (capability >= (10, 0))
    assert len({tuple(v.items()) for v in others}) == len(others)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a GPU" in refusal(capsys, "variants")
