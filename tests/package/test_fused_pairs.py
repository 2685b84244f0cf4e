"""``convert(..., fuse_norms=True)``: the norms it finds, and norms that hold their Mish."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import X, check, converted, fuse_small_inputs, fused  # noqa: F401  a fixture
from lookalikes import MishFunction
from torch import Tensor, nn

import mish_cuda
from conftest import needs_extension


class Forward(nn.Module):
    """A module with `norm` and `act`, and the code that uses them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
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
    (True, lambda m, x: m.act(m.act(m.norm(x)) + x)),  # the first one follows the norm
    (False, lambda m, x: m.act(m.norm(m.norm(x)))),
    (False, lambda m, x: m.act(m.norm(x)) if m.training else m.norm(x)),
    (False, lambda m, x: m.act(m.norm(x)) if x.sum() > 1e9 else m.norm(x)),  # not to be traced
]


@pytest.mark.parametrize(("expected", "forward"), FED)
def test_norms_that_feed_mish_and_nothing_else(
    expected: bool, forward: Callable[[Any, Tensor], Tensor]
) -> None:
    model, before = converted(Forward(forward))
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
    state = torch.get_rng_state()
    mish_cuda.convert(model, fuse_norms=True)
    assert fused(model) == 1
    assert (model.calls, model.last, model.count.item()) == ([], None, 0)
    assert all(m.training and not hasattr(m, "seen") for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def compiled(layer: nn.Module) -> nn.Module:
    layer.compile()
    return layer


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.SyncBatchNorm(3), "no kernel for SyncBatchNorm"),
        (nn.LayerNorm([9, 9]), "no kernel for LayerNorm"),
        (nn.LazyBatchNorm2d(), "no kernel for LazyBatchNorm2d"),
        (compiled(nn.BatchNorm2d(3)), "compiled by itself"),
    ],
)
def test_other_norms_are_left_alone(norm: nn.Module, reason: str) -> None:
    model = nn.Sequential(norm, nn.Mish())
    report = mish_cuda.convert(model, fuse_norms=True)
    assert model[0] is norm
    assert type(model[1]) is mish_cuda.Mish
    assert reason in report.left_alone["0"]


def test_shared_layers() -> None:
    act, norm = nn.Mish(), nn.BatchNorm2d(8)
    model = nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(8), act),
        nn.Sequential(nn.BatchNorm2d(8), act, act),
        nn.Sequential(nn.Conv2d(8, 8, 1), act),
        nn.Sequential(norm, nn.Mish()),
        nn.Sequential(norm, nn.Tanh()),
    )
    before = copy.deepcopy(model)
    report = mish_cuda.convert(model, fuse_norms=True)
    assert "several places" in report.left_alone["3.0"]
    assert fused(model) == 2
    check(model, before)


# --- Norms that hold their activation, as timm's do ---


class BatchNormAct(nn.BatchNorm2d):
    """In the manner of timm.layers.BatchNormAct2d."""

    def __init__(self, drop: nn.Module | None = None) -> None:
        super().__init__(8)
        self.drop = drop or nn.Identity()
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError("expected 4 dimensions")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.2
        )
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class GroupNormAct(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, 8)
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Any:
        return self.act(super().forward(x))


class Other(BatchNormAct):
    """Does more with its input, and hands it on."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.last(x) is x
        more = MishFunction.apply(x) + torch.cat([x.exp(), x])[: len(x)]
        return super().forward(x) + more + self.last(x)

    def last(self, x: Tensor) -> Tensor:
        return x


class Special(GroupNormAct):
    def __new__(cls) -> Special:
        return super().__new__(cls)


class Returning(GroupNormAct):
    def forward(self, x: Tensor) -> Any:
        return x, super().forward(x)


@pytest.mark.parametrize(
    "norm", [BatchNormAct(), BatchNormAct(nn.Dropout2d(0.5)), GroupNormAct(), Other()]
)
@pytest.mark.parametrize("training", [True, False])
def test_computes_the_same(norm: nn.Module, training: bool) -> None:
    model = nn.Sequential(copy.deepcopy(norm)).train(training)
    before = copy.deepcopy(model)
    report = mish_cuda.convert(model, fuse_norms=True)
    assert report.changed["0"] == (type(norm), type(model[0]))
    assert report.changed["0.act"] == (nn.Mish, mish_cuda.Mish)
    assert isinstance(model[0], type(norm))
    assert not mish_cuda.convert(model, fuse_norms=True).changed
    others = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    others += [torch.compile(copy.deepcopy(model), backend="aot_eager")]
    if type(norm) is BatchNormAct:
        others += [torch.jit.script(copy.deepcopy(model))]
    for other in others:
        check(other, copy.deepcopy(before))
    model.load_state_dict(before.state_dict())
    mish_cuda.revert(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    check(model, before)


@needs_extension
def test_both_are_computed_at_once() -> None:
    model, _ = converted(nn.Sequential(BatchNormAct()))
    assert model(X).grad_fn.name() == "NormMishBackward"
    with pytest.raises(ValueError, match="4 dimensions"):
        model(X[0])


def test_input_is_handed_on() -> None:
    model, _ = converted(nn.Sequential(Returning()))
    assert type(model[0]) is not Returning
    assert model(X)[0] is X


def test_classes_that_are_made_in_their_own_way_are_left_alone() -> None:
    model, _ = converted(nn.Sequential(Special()))
    assert type(model[0]) is Special
    assert type(model[0].act) is mish_cuda.Mish
