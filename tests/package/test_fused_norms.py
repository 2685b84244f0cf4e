"""``convert(..., fuse_norms=True)``: which norms it fuses, and that it saves memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import networks as net
import pytest
import torch
from lookalikes import layer
from torch import Tensor, nn

from conftest import needs_extension
from mish_cuda import convert
from mish_cuda._before_mish import GroupNormBeforeMish
from mish_cuda._norm_output import NormOutput, _Call

pytestmark = pytest.mark.usefixtures("fuse_small_inputs")
X = torch.randn(net.IMAGES)


class NormAndMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.Mish()


# Code, and whether a norm in it feeds Mish and nothing else.
CODE: list[tuple[bool, Callable[[Any, Tensor], Tensor]]] = [
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


def shared() -> nn.Module:
    act, norm = nn.Mish(), nn.BatchNorm2d(8)
    return nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(8), act),
        nn.Sequential(nn.BatchNorm2d(8), act, act),
        nn.Sequential(nn.Conv2d(8, 8, 1), act),
        nn.Sequential(norm, nn.Mish()),
        nn.Sequential(norm, nn.Tanh()),
    )


def hooked(name: str) -> nn.Module:
    model = net.with_norms()
    model.get_submodule(name).register_forward_hook(net.scaled)
    return model


COMPILED = nn.BatchNorm2d(3)
COMPILED.compile()
NOT_FUSED = [
    (nn.SyncBatchNorm(3), "no kernel for SyncBatchNorm"),
    (nn.LayerNorm([9, 9]), "no kernel for LayerNorm"),
    (nn.LazyBatchNorm2d(), "no kernel for LazyBatchNorm2d"),
    (COMPILED, "compiled by itself"),
]

# Made in a way of its own.
Special = layer("Special", base=net.GroupNormAct, __new__=lambda cls: object.__new__(cls))
Returning = layer(
    "Returning", lambda self, x: (x, net.GroupNormAct.forward(self, x)), net.GroupNormAct
)


def case(
    make: Callable[[], nn.Module], changed: list[str], left_alone: Any = None, **arguments: Any
) -> net.Case:
    return net.Case(
        make, changed, left_alone or {}, [], {"fuse_norms": True, **arguments}, net.IMAGES
    )


ACTS = ["0.act", "1.1", "2.act"]
CASES = {
    "network": case(net.with_norms, ACTS + net.NORMS),
    "not asked for": case(net.with_norms, ACTS, fuse_norms=False),
    "where": case(net.with_norms, ["0.act", "0.bn"], where="0*"),
    "shared": case(
        shared, ["0.0", "0.1", "1.1", "1.2", "1.0", "2.1", "3.1"], {"3.0": "several places"}
    ),
    "dropout": case(partial(nn.Sequential, net.BatchNormAct(nn.Dropout2d())), ["0", "0.act"]),
    "made otherwise": case(partial(nn.Sequential, Special()), ["0.act"]),
}
CASES |= {
    f"hook of {name}": case(partial(hooked, name), ACTS + net.NORMS[1:], {"0.bn": "has hooks"})
    for name in ("0.bn", "0.act")
}
CASES |= {
    f"code {i}": case(layer(f"NormAndMish{i}", code, NormAndMish), ["act"] + ["norm"] * feeds)
    for i, (feeds, code) in enumerate(CODE)
}
CASES |= {
    norm.__name__: case(partial(nn.Sequential, norm()), ["0", "0.act"])
    for norm in (net.BatchNormAct, net.GroupNormAct, net.UsesItsInput)
}
CASES |= {
    reason: case(partial(nn.Sequential, norm, nn.Mish()), ["1"], {"0": reason})._replace(shape=None)
    for norm, reason in NOT_FUSED
}


@pytest.mark.parametrize("name", CASES)
def test_convert_and_revert(name: str, public: str) -> None:
    net.check_conversion(CASES[name])


def test_code_leaves_no_traces() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        m.last = x
        m.calls += [torch.rand(1)]
        m.count.add_(1)
        for child in m.children():
            child.train(m.training)
            child.seen = {"x": x}
        return m.act(m.norm(x))  # type: ignore[no-any-return]

    model: Any = layer("Noting", code, NormAndMish)()
    model.calls, model.last = [], None
    model.register_buffer("count", torch.zeros(1))
    state = torch.get_rng_state()
    assert "norm" in convert(model, fuse_norms=True).changed
    assert (model.calls, model.last, model.count.item()) == ([], None, 0)
    assert all(m.training and not hasattr(m, "seen") for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_input_is_handed_on() -> None:
    model = nn.Sequential(Returning())
    assert "0" in convert(model, fuse_norms=True).changed
    assert model(X)[0] is X


@needs_extension
@pytest.mark.parametrize("training", [True, False])
def test_both_are_computed_at_once(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is worth it."""
    model = nn.Sequential(*net.with_norms(), net.BatchNormAct()).train(training)
    convert(model)
    convert(model, fuse_norms=True)
    for name in ("value", "gradients"):
        monkeypatch.setattr(_Call, name, lambda *_: pytest.fail("a norm was computed by itself"))
    y = model(X)
    assert y.grad_fn.name() == "NormMishBackward"
    y.sum().backward()
    norm = model[1][0]
    assert type(norm) is GroupNormBeforeMish
    assert type(norm(X)) is NormOutput
    monkeypatch.undo()  # the input is small
    assert type(norm(X)) is Tensor


def saved_bytes(model: nn.Module) -> int:
    """What is kept for the backward pass."""
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (t, saved.append(t))[0], lambda t: t):
        model(X)
    return sum({t.data_ptr(): t.nbytes for t in saved}.values())


@needs_extension
def test_one_tensor_less_is_saved() -> None:
    convert(model := net.with_norms())
    before = saved_bytes(model)
    convert(model, fuse_norms=True)
    statistics = 4 * 3 * 8 * 22  # of channels
    assert before - saved_bytes(model) >= 3 * X.nbytes - statistics
