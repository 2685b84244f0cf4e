"""What tests of fused norms share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mish_cuda import _before_mish
from mish_cuda._before_mish import BEFORE_MISH


@pytest.fixture(autouse=True)
def fuse_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _before_mish, "FEWEST_ELEMENTS", dict.fromkeys(_before_mish.FEWEST_ELEMENTS, 0)
    )


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(3))


def fused(model: nn.Module) -> int:
    """The norms that were replaced."""
    return sum(type(m) in BEFORE_MISH.values() for m in model.modules())


def nodes(output: Tensor) -> Counter[str]:
    """The names of the nodes that it was computed by."""
    found = {output.grad_fn}
    reached = [output.grad_fn]
    while reached:
        new = {n for n, _ in reached.pop().next_functions if n is not None} - found  # type: ignore[union-attr]
        found |= new
        reached += new
    return Counter(n.name() for n in found)  # type: ignore[union-attr]


def check(model: Callable[[Tensor], Tensor], expected: nn.Module) -> None:
    """Values, in this mode, and gradients."""
    torch.testing.assert_close(model(X), expected(X), rtol=1e-4, atol=1e-5)
