"""``convert(..., fuse_norms=True)`` of norms that hold their activation, as timm's do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import fuse_small_inputs  # noqa: F401  a fixture
from torch import Tensor, nn

import mish_cuda
from conftest import needs_extension


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2


class BatchNormAct(nn.BatchNorm2d):
    """In the manner of timm.layers.BatchNormAct2d."""

    def __init__(self, channels: int, drop: nn.Module) -> None:
        super().__init__(channels)
        self.drop = drop
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError("expected 4 dimensions")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.2
        )
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class GroupNormAct(nn.GroupNorm):
    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels)
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


class Other(BatchNormAct):
    """Does more with its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + Doubled.apply(x) + torch.cat([x.exp(), x])[: len(x)]  # type: ignore[no-any-return]


class Returned(BatchNormAct):
    """Hands on its input, too."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.last(x) is x
        return super().forward(x) + self.last(x)

    def last(self, x: Tensor) -> Tensor:
        return x


class Special(GroupNormAct):
    def __new__(cls, *args: Any) -> Special:
        return super().__new__(cls)


NORMS = [
    BatchNormAct(8, nn.Identity()),
    BatchNormAct(8, nn.Dropout2d(0.5)),
    GroupNormAct(2, 8),
    Other(8, nn.Identity()),
    Returned(8, nn.Identity()),
]
X = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))


def check(model: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor]) -> None:
    results = []
    for function in (model, expected):
        x = X.clone().requires_grad_()
        torch.manual_seed(0)
        y = function(x)
        results.append((y, torch.autograd.grad(y.sin().sum(), x)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_computes_the_same(norm: nn.Module, training: bool) -> None:
    model = nn.Sequential(copy.deepcopy(norm)).train(training)
    before = copy.deepcopy(model)
    report = mish_cuda.convert(model, fuse_norms=True)
    assert report.changed["0"] == (type(norm), type(model[0]))
    assert report.changed["0.act"] == (nn.Mish, mish_cuda.Mish)
    assert isinstance(model[0], type(norm))
    assert not mish_cuda.convert(model, fuse_norms=True).changed
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        check(other, copy.deepcopy(before))
        other.load_state_dict(before.state_dict())
    check(torch.compile(model, backend="aot_eager"), copy.deepcopy(before))
    model.load_state_dict(before.state_dict())
    mish_cuda.revert(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    check(model, before)


@needs_extension
def test_both_are_computed_at_once() -> None:
    model = nn.Sequential(copy.deepcopy(NORMS[0]))
    mish_cuda.convert(model, fuse_norms=True)
    assert model(X).grad_fn.name() == "NormMishBackward"
    with pytest.raises(ValueError, match="4 dimensions"):
        model(X[0])


def test_input_is_handed_on() -> None:
    class Layer(GroupNormAct):
        def forward(self, x: Tensor) -> Any:
            return x, super().forward(x)

    model = nn.Sequential(Layer(2, 8))
    mish_cuda.convert(model, fuse_norms=True)
    assert model(X)[0] is X


def test_classes_that_are_made_in_their_own_way_are_left_alone() -> None:
    model = nn.Sequential(Special(2, 8))
    mish_cuda.convert(model, fuse_norms=True)
    assert type(model[0]) is Special
    assert type(model[0].act) is mish_cuda.Mish


def test_script() -> None:
    model = nn.Sequential(copy.deepcopy(NORMS[0]))
    before = copy.deepcopy(model)
    mish_cuda.convert(model, fuse_norms=True)
    check(torch.jit.script(model), before)
    check(model, before)
