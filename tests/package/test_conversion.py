"""What ``convert`` and ``revert`` replace, what they leave alone or refuse, and what they say."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lookalikes import (
    LOOK_ALIKES,
    Activation,
    Branches,
    FlippedMish,
    ForgetfulMish,
    Functional,
    HardMish,
    InCode,
    InplaceMish,
    MadeOfLayersMish,
    MiSh,
    wrapped,
)
from torch import nn

import mish_cuda
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

# --- What stays ---


def test_names_flags_and_attributes_stay() -> None:
    """And what happened after the conversion stays when it is reverted."""
    model: Any = Branches(lambda: nn.Mish(True))
    first, original = model.act, copy.deepcopy(model)
    model.act.eval()
    model.act.f = -1  # as YOLO's parsers note where a layer's input comes from
    convert(model)
    names = [name for name, _ in original.named_modules(remove_duplicate=False)]
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    assert repr(model) == repr(original)
    assert (model.act.training, model.named.act.training, model.act.f) == (False, True, -1)
    model.named.act.eval()
    model.act.f = 3
    model.new = mish_cuda.Mish()
    assert "new" not in revert(model).changed
    assert model.act is first
    assert (model.act.f, model.named.act.training) == (3, False)


def test_inplace_is_what_a_layer_does() -> None:
    layers = (nn.Mish(True), nn.Mish(), InplaceMish(), ForgetfulMish(), nn.ReLU(True), nn.SiLU())
    model: Any = nn.Sequential(*layers)
    convert(model, (nn.Mish, nn.ReLU, nn.SiLU))
    assert [layer.inplace for layer in model] == [True, False] * 3


# --- Modules inside modules ---


def test_shared_instances_stay_shared() -> None:
    shared = nn.Mish()
    block = nn.Sequential(nn.Linear(4, 4), shared)
    model: Any = nn.Sequential(block, shared, nn.Sequential(block, shared), nn.Mish())
    other_model = nn.Sequential(shared)
    assert list(convert(model).changed) == ["1", "3", "0.1", "2.1"]
    assert model[1] is model[0][1] is model[2][1]
    assert model[1] is not model[3]
    assert other_model[0] is shared
    revert(model)
    assert model[1] is model[0][1] is model[2][1] is shared
    convert(model, where="1")
    assert type(model[1]) is mish_cuda.Mish
    assert model[0][1] is shared


def test_modules_that_hold_themselves() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish(), MiSh())
    model.me = model
    model[0].parent = nn.ModuleList([model])
    model[2].me = model[2]
    assert list(convert(model).changed) == ["1", "2"]
    assert convert(model) == mish_cuda.Conversion()
    assert list(revert(model).changed) == ["1", "2"]
    assert model[2].me is model[2]
    with pytest.raises(ValueError, match="one activation"):
        convert(model[2])


def test_modules_shared_along_millions_of_paths() -> None:
    """Each is visited once, under the first of its names."""
    model: nn.Module = nn.ModuleList([nn.Mish(), InCode()])
    for _ in range(40):
        model = nn.ModuleList([model, model])
    report = convert(model)
    assert list(report.changed) == ["0." * 40 + "0"]
    assert report.hint.count("InCode.forward") == 1
    assert revert(model).changed.keys() == report.changed.keys()


class Keras(nn.Module):
    """Holds modules in plain lists and dictionaries, where torch does not register them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.ReLU(), wrapped(), Functional()]
        self.activations: Any = {"act": nn.Mish()}
        self.again: Any = (self.layers, self.layers[1], nn.Mish())


def test_modules_in_plain_lists_are_told() -> None:
    model = Keras()
    report = convert(model)
    assert report.changed == {}
    inside, lists = ["layers[1].act", "layers[2].function"], ["activations['act']", "again[2]"]
    assert sorted(report.left_alone) == sorted(inside + lists)
    assert all("convert that module by itself" in report.left_alone[name] for name in inside)
    assert all("use nn.ModuleList or nn.ModuleDict" in report.left_alone[name] for name in lists)
    assert list(convert(model, where=lambda name, _: name[0] == "l").left_alone) == inside
    for layer in model.layers[1:]:
        assert len(convert(layer).changed) == 1
    assert list(convert(model).left_alone) == lists
    model.activations, model.again = {}, ()
    assert (convert(model).left_alone, convert(model).hint) == ({}, "")


# --- Which are replaced ---


class DerivedReLU(nn.ReLU):
    pass


def activations() -> nn.Module:
    inside = nn.ModuleDict({"act": nn.Mish(True), "silu": nn.SiLU()})
    others = {"named": inside, "derived": DerivedReLU(), "other": nn.ReLU6()}
    return nn.ModuleDict({"stem": nn.Sequential(nn.ReLU(True), nn.Mish()), "act": MiSh(), **others})


EVERY = (nn.Mish, nn.ReLU, nn.SiLU, DerivedReLU)


@pytest.mark.parametrize(
    ("selected", "changed"),
    [
        ({}, ["act", "stem.1", "named.act"]),
        ({"where": "*act"}, ["act", "named.act"]),
        ({"where": "[!s]*.act"}, ["named.act"]),
        ({"where": lambda name, _: name.startswith("a")}, ["act"]),
        ({"where": lambda _, layer: getattr(layer, "inplace", False)}, ["named.act"]),
        ({"from_": nn.ReLU}, ["stem.0"]),
        ({"from_": EVERY}, ["act", "derived", "stem.0", "stem.1", "named.act", "named.silu"]),
        ({"from_": EVERY, "where": "*[01u]"}, ["stem.0", "stem.1", "named.silu"]),
    ],
)
def test_selected_by_class_and_name(selected: dict[str, Any], changed: list[str]) -> None:
    """Mish alone is known in every class, others have to be named; the model must be retrained."""
    model = activations()
    before = dict(model.named_modules())
    report = convert(model, **selected)
    assert list(report.changed) == changed
    assert report.retrain == [
        name for name in changed if name not in ("act", "stem.1", "named.act")
    ]
    if selected.get("from_") is nn.ReLU:
        assert "name test_conversion.DerivedReLU in from_" in report.left_alone.pop("derived")
    assert report.left_alone == {}
    assert convert(model, **selected).changed == {}
    ours = {name for name, layer in model.named_modules() if type(layer) is mish_cuda.Mish}
    assert ours == {*changed}
    assert revert(model).retrain == report.retrain
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    "make",
    [
        *(nn.ReLU, nn.LogSigmoid, nn.RReLU, lambda: nn.Threshold(0, 0), nn.Dropout, nn.Identity),
        *(lambda: nn.ReLU(True), lambda: nn.RReLU(inplace=True)),
    ],
)
def test_what_is_elementwise_is_replaced(make: Callable[[], nn.Module]) -> None:
    for training in (True, False):
        model = nn.Sequential(make()).train(training)
        assert convert(model, type(model[0])).retrain == ["0"]
        assert type(model[0]) is mish_cuda.Mish


# --- What looks like Mish ---


@pytest.mark.parametrize(("item", "reason"), LOOK_ALIKES.items())
def test_what_is_not_mish_is_left_alone(item: Any, reason: str | None, public: str) -> None:
    """It is tried out without its hooks, and random numbers stay as they were."""
    other = item() if isinstance(item, type) else Functional(item)
    model = nn.Sequential(nn.Mish(), other).train(public == "eager")  # each mode once
    other.register_forward_pre_hook(lambda *_: pytest.fail("a hook ran"))
    before, state = dict(vars(other)), torch.get_rng_state()
    report = convert(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(report.changed) == ["0"]
    if reason:
        ((name, told),) = report.left_alone.items()
        assert name == ("1" if isinstance(item, type) else "1.function")
        assert re.search(reason, told)
        assert str(report).count("\n") == 3 + bool(report.hint)  # a line for each
    else:
        assert report.left_alone == {}
    assert model[1] is other
    assert vars(other) == before


def test_what_is_not_mish_can_be_forced() -> None:
    report = convert(nn.Sequential(HardMish(), MiSh()), (HardMish, MiSh))
    assert list(report.changed.values()) == [(HardMish, mish_cuda.Mish), (MiSh, mish_cuda.Mish)]
    assert report.retrain == ["0"]


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), override_torch],
    ids=["no_grad", "inference_mode", "meta", "override_torch"],
)
def test_trying_out_within(context: Callable[[], Any]) -> None:
    with context():
        report = convert(nn.Sequential(MiSh(), HardMish()))
    assert list(report.changed) == ["0"]
    assert "has the slope" in report.left_alone["1"]


# --- What cannot be replaced ---


def altered(alter: Callable[[nn.Module], Any]) -> nn.Module:
    layer = nn.Mish()
    alter(layer)
    return layer


NAMED = (nn.Mish, nn.PReLU, nn.BatchNorm2d, nn.MaxPool2d, nn.ChannelShuffle, FlippedMish)
NAMED += (nn.MSELoss,)
# What is of such a class and yet no activation that can be replaced, and what is told of it.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "pooling": (lambda: nn.MaxPool2d(2), r"makes the shape \(2, 4, 2, 2\) of \(2, 4, 4, 4\)"),
    "pooling that keeps the shape": (lambda: nn.MaxPool2d(3, 1, 1), "from several elements"),
    "permutation": (lambda: nn.ChannelShuffle(2), "from several elements"),
    "mirror": (FlippedMish, "from several elements"),
    "loss": (nn.MSELoss, "fails when tried out.*target"),
    "parameters": (nn.PReLU, "PReLU.* has parameters or buffers"),
    "buffers": (lambda: nn.BatchNorm2d(4, affine=False), "has parameters or buffers"),
    "forward": (lambda: altered(lambda m: vars(m).update(forward=F.mish)), "a forward of its own"),
    "compiled": (lambda: torch.compile(nn.Mish(), backend="eager"), "is compiled by itself"),
    "compiled in place": (lambda: altered(lambda m: m.compile(backend="eager")), "is compiled by"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_replaced_is_refused(make: Callable[[], Any], message: str) -> None:
    """Model and random numbers are then as they were; and there is a way around it."""
    model = nn.Sequential(nn.Mish(), make(), nn.Mish())
    layers, state = list(model.modules()), torch.get_rng_state()
    with pytest.raises(
        ValueError, match=rf"'1(\._orig_mod)?' .*{message}.*eave it out with `where`"
    ):
        convert(model, NAMED)
    assert list(model.modules()) == layers
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in layers)
    convert(model, NAMED, where=lambda name, _: not name.startswith("1"))
    assert [type(layer) is mish_cuda.Mish for layer in model] == [True, False, True]


@pytest.mark.parametrize(
    "script", [torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(3))]
)
def test_torchscript(script: Callable[[nn.Module], nn.Module]) -> None:
    scripted = script(nn.Sequential(nn.Mish()))
    for function in (convert, revert):
        with pytest.raises(TypeError, match=r"TorchScript.*before torch\.jit\.script"):
            function(scripted)
    report = convert(nn.Sequential(nn.Mish(), scripted, script(nn.Mish())))
    assert list(report.changed) == ["0"]
    assert list(report.left_alone) == ["2", "1.0"]
    assert all("is TorchScript" in reason for reason in report.left_alone.values())


OTHERS = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
NOWHERE = r"expected `where` to match .*Their names: act, again, stem\.1, listed"
MODULE, CLASS = r"expected a torch\.nn\.Module, got", "expected `from_` to be a subclass"
ITSELF = r"one activation, .*Use (mish_cuda|torch\.nn)\.Mish\(\)"
TO = r"expected `to` to be None or torch\.nn\.Mish"
WRONG: list[tuple[Callable[..., Any], type[Exception], str, dict[str, Any]]] = [
    (convert, TypeError, MODULE, {"model": {}}),
    (revert, TypeError, MODULE, {"model": nn.Mish}),
    (convert, TypeError, CLASS, {"from_": nn.Mish()}),
    (convert, TypeError, CLASS, {"from_": (nn.Mish, "ReLU")}),
    (convert, TypeError, CLASS, {"from_": int}),
    (convert, TypeError, "expected `where` to be a pattern or a function", {"where": ["stem.*"]}),
    (convert, ValueError, NOWHERE, {"where": "Act"}),
    (convert, ValueError, "Their names: there is none", {"model": OTHERS, "where": "*.2"}),
    (revert, ValueError, TO, {"to": nn.ReLU}),
    (convert, ValueError, ITSELF, {"model": MadeOfLayersMish()}),
    (convert, ValueError, ITSELF, {"model": Activation()}),
    (convert, ValueError, ITSELF, {"model": nn.ReLU(), "from_": nn.ReLU}),
    (revert, ValueError, ITSELF, {"model": mish_cuda.Mish()}),
]


@pytest.mark.parametrize(("function", "error", "message", "arguments"), WRONG)
def test_wrong_arguments(
    function: Callable[..., Any], error: type[Exception], message: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        function(**{"model": Branches(), **arguments})


def test_an_error_on_the_way_changes_nothing() -> None:
    model: Any = Branches()
    layers = list(model.modules())
    with pytest.raises(ZeroDivisionError):
        convert(model, where=lambda name, _: name != "named.act" or 1 / 0)
    assert list(model.modules()) == layers
    convert(model)
    model.act.forward = F.mish
    layers = list(model.modules())
    with pytest.raises(ValueError, match="'act' has a forward of its own"):
        revert(model)
    assert list(model.modules()) == layers


def test_the_report_tells_all_in_lines() -> None:
    for nothing in (mish_cuda.Mish(), HardMish(), OTHERS):
        assert convert(nothing) == mish_cuda.Conversion()
    report = convert(nn.Sequential(nn.Mish(), nn.ReLU(), HardMish()), (nn.Mish, nn.ReLU))
    lines = [line.strip() for line in str(report).splitlines()]
    assert f"0: {nn.Mish.__module__}.Mish -> mish_cuda.Mish" in lines
    assert f"2: {report.left_alone['2']}" in lines
    assert "train the model again" in lines[-2]
    assert lines[-1] == "1"
