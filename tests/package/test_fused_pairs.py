"""``convert(..., fuse_norms=True)``: the norms it finds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fused import check, fuse_small_inputs, fused  # noqa: F401  a fixture
from torch import Tensor, nn

import mish_cuda


class Forward(nn.Module):
    """A module with `norm` and `act`, and the code that uses them."""

    def __init__(
        self, forward: Callable[[Any, Tensor], Tensor], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if norm is None else norm
        self.act = nn.Mish()
        self.code = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


FED = [
    (True, lambda m, x: m.act(m.norm(x))),
    (True, lambda m, x: m.norm(x).tanh() if x is None else m.act(m.norm(x)) + 1),
    (False, lambda m, x: m.act(m.norm(x) + x)),
    (False, lambda m, x: m.norm(m.act(x))),
    (False, lambda m, x: (lambda z: m.act(z) + z)(m.norm(x))),  # something else sees the norm
    (True, lambda m, x: m.act(m.act(m.norm(x)))),  # the first one follows the norm
    (True, lambda m, x: m.act(m.act(m.norm(x)) + x)),
    (False, lambda m, x: m.act(m.norm(m.norm(x)))),
    (False, lambda m, x: m.act(m.norm(x)) if m.training else m.norm(x)),
    (False, lambda m, x: m.act(m.norm(x)) if x.sum() > 1e9 else m.norm(x)),  # not to be traced
]


@pytest.mark.parametrize(("expected", "forward"), FED)
def test_norms_that_feed_mish_and_nothing_else(
    expected: bool, forward: Callable[[Any, Tensor], Tensor]
) -> None:
    model = Forward(forward)
    before = copy.deepcopy(model)
    mish_cuda.convert(model, fuse_norms=True)
    assert fused(model) == expected
    for mode in (True, False):
        check(model.train(mode), before.train(mode))


def test_code_leaves_no_traces() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.last = x
        m.calls += [torch.rand(1)]
        m.count.add_(1)
        for child in m.children():
            child.train(m.training)
            child.seen = {"x": x}
        return m.act(m.norm(x))  # type: ignore[no-any-return]

    model = Forward(forward)
    model.calls, model.last = [], None
    model.register_buffer("count", torch.zeros(1))
    torch.manual_seed(1)
    mish_cuda.convert(model, fuse_norms=True)
    assert fused(model) == 1
    assert (model.calls, model.last, model.count.item()) == ([], None, 0)
    assert all(m.training and not hasattr(m, "seen") for m in model.modules())
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "norm", [nn.SyncBatchNorm(3), nn.InstanceNorm2d(3), nn.LayerNorm([9, 9]), nn.LazyBatchNorm2d()]
)
def test_other_norms_are_left_alone(norm: nn.Module) -> None:
    model = nn.Sequential(norm, nn.Mish())
    report = mish_cuda.convert(model, fuse_norms=True)
    assert type(model[1]) is mish_cuda.Mish
    assert type(norm).__name__ in report.left_alone["0"]


def test_shared_layers() -> None:
    act, norm = nn.Mish(), nn.BatchNorm2d(3)
    model = nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(3), act),
        nn.Sequential(nn.BatchNorm2d(3), act, act),
        nn.Sequential(nn.Conv2d(3, 3, 1), act),
        nn.Sequential(norm, nn.Mish()),
        nn.Sequential(norm, nn.Tanh()),
    )
    before = copy.deepcopy(model)
    report = mish_cuda.convert(model, fuse_norms=True)
    assert "several places" in report.left_alone["3.0"]
    assert fused(model) == 2
    check(model, before)
