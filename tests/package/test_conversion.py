"""What ``convert`` and ``revert`` replace, what they leave alone or refuse, and what they say."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Branches, FlippedMish, Functional, HardMish, InCode, MiSh, wrapped
from torch import nn

import mish_cuda
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


class Case(NamedTuple):
    """A model, what is replaced in it, and why other activations are not, as patterns.

    ``retrain`` are the replaced ones that were no Mish.
    """

    make: Callable[[], nn.Module]
    changed: list[str]
    left_alone: dict[str, str] = {}  # noqa: RUF012
    retrain: list[str] = []  # noqa: RUF012
    arguments: dict[str, Any] = {}  # noqa: RUF012


# --- Modules inside modules ---


def shared() -> nn.Module:
    act = nn.Mish()
    block = nn.Sequential(nn.Linear(4, 4), act)
    return nn.Sequential(block, act, nn.Sequential(block, act), nn.Mish())


def held_by_themselves() -> nn.Sequential:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish(), MiSh())
    model.me = model
    model[0].parent = nn.ModuleList([model])
    model[2].me = model[2]
    return model  # type: ignore[no-any-return]


def with_millions_of_paths() -> nn.Module:
    model: nn.Module = nn.ModuleList([nn.Mish(), InCode()])
    for _ in range(40):
        model = nn.ModuleList([model, model])
    return model


class Keras(nn.Module):
    """Holds modules in plain lists and dictionaries, where torch does not register them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.ReLU(), wrapped(), Functional()]
        self.activations: Any = {"act": nn.Mish()}
        self.again: Any = (self.layers, self.layers[1], nn.Mish())


INSIDE = dict.fromkeys(("layers[1].act", "layers[2].function"), "convert that module by itself")
IN_LISTS = dict.fromkeys(("activations['act']", "again[2]"), "use nn.ModuleList or nn.ModuleDict")


def with_torchscript() -> nn.Sequential:
    scripted = torch.jit.script(nn.Sequential(nn.Mish()))
    return nn.Sequential(nn.Mish(), scripted, torch.jit.trace(nn.Mish(), torch.ones(3)))


CASES = {
    "shared": Case(shared, ["1", "3", "0.1", "2.1"]),
    "held by themselves": Case(held_by_themselves, ["1", "2"]),
    "millions of paths": Case(with_millions_of_paths, ["0." * 40 + "0"]),
    "plain lists": Case(Keras, [], IN_LISTS | INSIDE),
    "where in lists": Case(
        Keras, [], INSIDE, arguments={"where": lambda name, _: name.startswith("l")}
    ),
    "TorchScript": Case(
        with_torchscript, ["0"], dict.fromkeys(["2", "1.0"], "TorchScript.*before torch.jit.script")
    ),
    "forced": Case(
        lambda: nn.Sequential(HardMish(), MiSh()),
        ["0", "1"],
        retrain=["0"],
        arguments={"from_": (HardMish, MiSh)},
    ),
}

# --- Selected by class and name: Mish is known in every class, others have to be named ---


class DerivedReLU(nn.ReLU):
    pass


def activations() -> nn.Module:
    inside = nn.ModuleDict({"act": nn.Mish(True), "silu": nn.SiLU()})
    others = {"named": inside, "derived": DerivedReLU(), "other": nn.ReLU6()}
    return nn.ModuleDict({"stem": nn.Sequential(nn.ReLU(True), nn.Mish()), "act": MiSh(), **others})


MISH = ["act", "stem.1", "named.act"]
EVERY = (nn.Mish, nn.ReLU, nn.SiLU, DerivedReLU)
SELECTED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, MISH),
    ({"where": "*act"}, ["act", "named.act"]),
    ({"where": "[!s]*.act"}, ["named.act"]),
    ({"where": lambda name, _: name.startswith("a")}, ["act"]),
    ({"where": lambda _, layer: getattr(layer, "inplace", False)}, ["named.act"]),
    ({"from_": EVERY}, ["act", "derived", "stem.0", "stem.1", "named.act", "named.silu"]),
    ({"from_": EVERY, "where": "*[01u]"}, ["stem.0", "stem.1", "named.silu"]),
]
CASES |= {
    f"selected, {i}": Case(activations, names, {}, [n for n in names if n not in MISH], chosen)
    for i, (chosen, names) in enumerate(SELECTED)
}
DERIVED = {"derived": "name test_conversion.DerivedReLU in from_"}
CASES["ReLU"] = Case(activations, ["stem.0"], DERIVED, ["stem.0"], {"from_": nn.ReLU})

# --- What is elementwise, by name ---

ELEMENTWISE = (
    *(nn.ReLU(), nn.LogSigmoid(), nn.RReLU(), nn.Threshold(0, 0), nn.Dropout(), nn.Identity()),
    *(nn.ReLU(True), nn.RReLU(inplace=True), nn.Dropout().eval(), nn.RReLU().eval()),
)
CASES |= {
    f"{layer}, {layer.training}": Case(
        partial(nn.Sequential, layer), ["0"], {}, ["0"], {"from_": type(layer)}
    )
    for layer in ELEMENTWISE
}

# --- What looks like Mish: it is tried out without its hooks ---


def beside_mish(item: Any, training: bool) -> nn.Module:
    other: nn.Module = item() if isinstance(item, type) else Functional(item)
    other.register_forward_pre_hook(lambda *_: pytest.fail("a hook ran"))
    return nn.Sequential(nn.Mish(), other).train(training)


CASES |= {
    f"{getattr(item, '__name__', item)}, {training}": Case(
        partial(beside_mish, item, training),
        ["0"],
        {"1" if isinstance(item, type) else "1.function": reason} if reason else {},
    )
    for item, reason in like.LOOK_ALIKES.items()
    for training in (True, False)
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convert_and_revert(case: Case, public: str) -> None:
    """Nothing else changes, and shared layers stay shared."""
    model = case.make()
    before, state = [(m, m.training) for m in model.modules()], torch.get_rng_state()
    report = convert(model, **case.arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert (list(report.changed), report.retrain) == (case.changed, case.retrain)
    assert report.left_alone.keys() == case.left_alone.keys()
    for name, reason in case.left_alone.items():
        assert re.search(reason, report.left_alone[name])
    lines = [len(group) for group in (report.changed, report.left_alone, report.retrain)]
    lines[1:] = [count + 1 if count else 0 for count in lines[1:]]  # with a title
    assert len(str(report).splitlines()) == 1 + sum(lines) + bool(report.hint)
    assert len([*model.modules()]) == len(before)
    assert all(type(model.get_submodule(name)) is mish_cuda.Mish for name in case.changed)
    assert convert(model, **case.arguments).changed == {}
    back = revert(model)
    assert (back.changed.keys(), back.retrain) == (report.changed.keys(), report.retrain)
    assert [(m, m.training) for m in model.modules()] == before


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
    layers = (nn.Mish(True), nn.Mish(), like.InplaceMish(), like.ForgetfulMish())
    model: Any = nn.Sequential(*layers, nn.ReLU(True), nn.SiLU())
    convert(model, (nn.Mish, nn.ReLU, nn.SiLU))
    assert [layer.inplace for layer in model] == [True, False] * 3


def test_an_instance_that_models_share() -> None:
    model: Any = shared()
    act = model[1]
    convert(model, where="1")
    assert type(model[1]) is mish_cuda.Mish
    assert model[0][1] is act
    convert(nn.Sequential(act))
    assert model[0][1] is act


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


OTHERS = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
NOWHERE = r"expected `where` to match .*Their names: act, again, stem\.1, listed"
MODULE, CLASS = r"expected a torch\.nn\.Module, got", "expected `from_` to be a subclass"
SCRIPT = r"TorchScript.*before torch\.jit\.script"
ITSELF = r"one activation, .*Use (mish_cuda|torch\.nn)\.Mish\(\)"
TO = r"expected `to` to be None or torch\.nn\.Mish"
WRONG: list[tuple[Callable[..., Any], type[Exception], str, dict[str, Any]]] = [
    (convert, TypeError, MODULE, {"model": {}}),
    (revert, TypeError, MODULE, {"model": nn.Mish}),
    (convert, TypeError, SCRIPT, {"model": with_torchscript()[1]}),
    (revert, TypeError, SCRIPT, {"model": with_torchscript()[2]}),
    (convert, TypeError, CLASS, {"from_": nn.Mish()}),
    (convert, TypeError, CLASS, {"from_": (nn.Mish, "ReLU")}),
    (convert, TypeError, CLASS, {"from_": int}),
    (convert, TypeError, "expected `where` to be a pattern or a function", {"where": ["stem.*"]}),
    (convert, ValueError, NOWHERE, {"where": "Act"}),
    (convert, ValueError, "Their names: there is none", {"model": OTHERS, "where": "*.2"}),
    (revert, ValueError, TO, {"to": nn.ReLU}),
    (convert, ValueError, ITSELF, {"model": like.MadeOfLayersMish()}),
    (convert, ValueError, ITSELF, {"model": like.Activation()}),
    (convert, ValueError, ITSELF, {"model": held_by_themselves()[2]}),
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
    assert convert(with_millions_of_paths()).hint.count("InCode.forward") == 1
