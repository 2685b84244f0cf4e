"""What tests of fused norms share."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import mish_cuda
from mish_cuda import _before_mish
from mish_cuda._before_mish import BEFORE_MISH


@pytest.fixture(autouse=True)
def fuse_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _before_mish, "FEWEST_ELEMENTS", dict.fromkeys(_before_mish.FEWEST_ELEMENTS, 0)
    )


X = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(3))


class Conv(nn.Module):
    """The block of YOLO's code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]

    def fuse(self) -> None:
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = lambda x: self.act(self.conv(x))  # type: ignore[method-assign]


def network() -> nn.Sequential:
    model = nn.Sequential(Conv(), nn.Sequential(nn.GroupNorm(2, 8), nn.Mish()), Conv())
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias)
    return model


def converted(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copies of it: with fused norms, and as it was."""
    before, model = copy.deepcopy(model), copy.deepcopy(model)
    mish_cuda.convert(model, fuse_norms=True)
    return model, before


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


def check(model: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor]) -> None:
    """Values, in this mode, and gradients."""
    results = []
    for function in (model, expected):
        x = X.clone().requires_grad_()
        torch.manual_seed(0)
        y = function(x)
        results.append((y, *torch.autograd.grad(y.sin().sum(), x)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
