"""Models as others write them: converted, copied, saved, traced, exported, and put back."""

from __future__ import annotations

import copy
import functools
import pickle
import re
from collections.abc import Callable
from typing import Any

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Branches, Calls, Functional, InCode, MiSh, is_ours
from torch import Tensor, fx, nn

import mish_cuda
from mish_cuda import convert, revert

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`torch\.jit\.\w+` is deprecated", "ignore::DeprecationWarning"
)


def transformer(activation: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, activation, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


TRANSFORMER = ["layers.0.activation", "layers.1.activation"]
GRAPH = ["act", "body.1", *(f"graph.mish{end}" for end in ("", "_1", "_2", "_3", "_", "_4"))]


def mortal() -> nn.Module:
    """A factory of activations is kept beside them, and stays."""
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish(True))
    model.actv = functools.partial(nn.Mish, inplace=True)
    return model  # type: ignore[no-any-return]


class ConvMish(nn.Sequential):
    """A block that is named after the Mish in it."""


def nested() -> nn.Module:
    model = like.wrapped()
    for _ in range(60):
        model = ConvMish(model)
    return nn.Sequential(ConvMish(nn.Linear(4, 4), nn.Mish()), model)


Model = tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]

# By name what makes them, the shape of their input, and what is replaced.
BLOCKS: dict[str, Model] = {
    "branches": (Branches, (2, 4), like.NAMES),
    "ours already": (lambda: Branches(mish_cuda.MishCuda), (2, 4), []),
    "timm": (
        lambda: nn.Sequential(nn.Conv1d(3, 3, 3), like.ForgetfulMish(), Functional(like.timm_mish)),
        (2, 3, 8),
        ["1", "2.function"],
    ),
    "Mortal": (mortal, (2, 4), ["1"]),
}
MODELS: dict[str, Model] = {
    **BLOCKS,
    "blocks": (nested, (2, 4), ["0.1", f"1.{'0.' * 60}act"]),
    "transformer": (lambda: transformer(nn.Mish()), (2, 3, 4), TRANSFORMER),
    "transformer with a function": (lambda: transformer(F.mish), (2, 3, 4), TRANSFORMER),
    **{
        make.__name__: (functools.partial(Branches, make), (5, 4), like.NAMES)
        for make in like.RECOGNISED
    },
    **{
        name: (functools.partial(Functional, f), (5, 4), ["function"])
        for name, f in like.FUNCTIONS.items()
    },
    "graph": (lambda: like.traced(Calls()), (5, 4), GRAPH),
}


def held(model: nn.Module) -> dict[str, Any]:
    """What is at each place for an activation."""
    return {place.name: place.value for place in mish_cuda._places.places(model)}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, public: str) -> None:
    """Converted, copied, saved and put back, they compute the same, and in place where they did."""
    make, shape, names = MODELS[name]
    model = make()
    before, state = like.results(model, shape), [*model.state_dict()]
    original, classes = held(model), like.kinds(model)
    report = convert(model)
    assert sorted(report.changed) == sorted(names)
    assert len(re.findall(r": \S.* -> \S*mish_cuda\.\w+$", str(report), re.MULTILINE)) == len(names)
    assert (report.left_alone, report.retrain, report.hint) == ({}, [], "")
    assert all(is_ours(held(model)[name]) for name in names)
    again = convert(model)
    assert (again, again.hint) == (mish_cuda.Conversion(), "")
    converted, torchs = like.kinds(model), copy.deepcopy(model)
    assert revert(torchs, to=nn.Mish).changed.keys() >= report.changed.keys()
    assert b"mish_cuda" not in pickle.dumps(torchs)
    if name not in like.UNPICKLABLE:  # pickles name public paths, so that files can be rearranged
        assert b"cmish_cuda." not in pickle.dumps(model, protocol=0)
    copied_by = like.COPIES[:1] if name in like.UNPICKLABLE else like.COPIES
    copies = [copied(model) for copied in copied_by]
    for one in (*copies, model):
        assert like.kinds(one) == converted
        like.assert_same_function(before, one)
        again = revert(one)
        assert name == "graph" or len(again.changed) == len(names)  # its pickles forget ops
        assert like.kinds(one) == classes
        assert not any(is_ours(held(one)[name]) for name in again.changed)
        assert revert(one) == mish_cuda.Conversion()
        if names and name not in {"graph", *like.UNPICKLABLE}:
            assert b"mish_cuda" not in pickle.dumps(one)
    for one in (torchs, *copies, model):
        like.assert_same_function(before, one)
        assert [*one.state_dict()] == state
    assert held(model) == original
    assert {name: pair[::-1] for name, pair in again.changed.items()} == report.changed


@pytest.mark.parametrize(("item", "inplace"), like.INFERENCE_ONLY.items())
def test_what_cannot_be_differentiated_is_known_by_its_values(item: Any, inplace: bool) -> None:
    """Afterwards it can be trained."""
    activation = item() if isinstance(item, type) else Functional(item)
    model: Any = nn.Sequential(nn.Linear(4, 4), activation)
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x)
    report = convert(model)
    assert (report.left_alone, report.retrain) == ({}, [])
    y = x.clone()
    torch.testing.assert_close(model[1](y), activation(x.clone()))
    assert (not torch.equal(x, y)) is inplace
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()


TOOLS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "trace": lambda model, x: torch.jit.trace(model, x),
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "compile": lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True),
    "script": lambda model, x: torch.jit.script(model),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("tool", TOOLS)
def test_tools(name: str, tool: str) -> None:
    torch._dynamo.reset()
    make, shape, _ = BLOCKS[name]
    model, x = make().eval(), torch.linspace(-2, 2, torch.Size(shape).numel()).reshape(shape)
    expected = model(x * 1).detach()
    convert(model)
    torch.testing.assert_close(TOOLS[tool](model, x)(x * 1).detach(), expected)


@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "Module.compile"])
@pytest.mark.parametrize(
    ("make", "name"),
    [(like.wrapped, "act"), (lambda: fx.symbolic_trace(InCode()), "graph.mish")],
)
def test_what_has_been_compiled_before_is_compiled_anew(
    make: Callable[[], Any], name: str, in_place: bool
) -> None:
    torch._dynamo.reset()
    model = make()
    compiled = model if in_place else torch.compile(model, backend="eager", fullgraph=True)
    if in_place:
        model.compile(backend="eager", fullgraph=True)
    assert not is_ours(compiled)
    assert list(convert(compiled).changed) == [name if in_place else f"_orig_mod.{name}"]
    assert is_ours(compiled)
    revert(model)
    assert not is_ours(compiled)


def test_revert_to_torch() -> None:
    renamed = like.layer("Renamed", base=mish_cuda.Mish)()
    doubled = like.layer("Doubled", lambda self, x: 2 * mish_cuda.mish(x), mish_cuda.Mish)()
    old = mish_cuda.MishCuda()
    del vars(old)["inplace"]  # as layers of the old package are unpickled
    layers = (mish_cuda.Mish(True), old, MiSh(), nn.ReLU(), Functional(), renamed, doubled)
    model: Any = nn.Sequential(*layers).eval()
    convert(model, (nn.Mish, nn.ReLU))
    report = revert(model, to=nn.Mish)
    assert list(report.changed) == ["0", "1", "2", "3", "5", "4.function"]
    assert [type(model[i]) for i in (0, 1, 2, 3, 5, 6)] == [nn.Mish] * 5 + [type(doubled)]
    assert [layer.inplace for layer in model[:4]] == [True, False, False, False]
    assert not any(layer.training for layer in model)
    assert "derives from mish_cuda.Mish, but has the value" in report.left_alone["6"]
    assert report.retrain == []
    assert b"mish_cuda" not in pickle.dumps(model[:6])
    assert revert(model) == mish_cuda.Conversion()
