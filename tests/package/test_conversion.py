"""What ``convert`` and ``revert`` replace, what they leave alone or refuse, and what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import lookalikes as like
import networks as net
import pytest
import torch
import torch.nn.functional as F
from lookalikes import FlippedMish, Functional, HardMish, MiSh, layer
from networks import BRANCHES, Branches, Calls, Case, InCode
from torch import Tensor, fx, nn

import mish_cuda
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


# --- Models as others write them ---


ConvMish = layer("ConvMish", base=nn.Sequential)  # a block that is named after the Mish in it


def nested() -> nn.Module:
    model = net.wrapped(nn.Mish())
    for _ in range(60):
        model = ConvMish(model)
    return nn.Sequential(ConvMish(nn.Linear(4, 4), nn.Mish()), model)


def transformer(activation: Any) -> nn.Module:
    layer: Any = nn.TransformerEncoderLayer(4, 2, 8, 0.0, activation, batch_first=True)
    layer.activation_relu_or_gelu = 0  # else it does not use its ReLU in evaluation
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def shared() -> nn.Module:
    act = nn.Mish()
    block = nn.Sequential(nn.Linear(4, 4), act)
    return nn.Sequential(block, act, nn.Sequential(block, act), nn.Mish())


def traced_calls() -> nn.Module:
    return net.traced(Calls())  # type: ignore[no-any-return]


CALLS = ["act", "body.1", *(f"graph.mish{end}" for end in ("", "_1", "_2", "_3", "_", "_4"))]

timm_mish, scaled_mish = like.timm_mish, like.scaled_mish
fx.wrap("timm_mish")  # tracing keeps them whole, so that it is known what is passed to them
fx.wrap("scaled_mish")


def ours() -> nn.Module:
    old, derived = mish_cuda.MishCuda(), layer("Derived", base=mish_cuda.Mish)()
    del vars(old)["inplace"]  # as layers of the old package are unpickled
    functions = mish_cuda.mish, mish_cuda.mish_, partial(mish_cuda.mish, inplace=True)
    return nn.Sequential(*map(net.wrapped, (mish_cuda.Mish(True), old, derived, *functions)))


def ours_in_a_graph() -> nn.Module:
    functions = mish_cuda.MishCudaFunction.apply, mish_cuda.mish_forward
    return fx.symbolic_trace(nn.Sequential(ours(), *map(net.wrapped, functions)))


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = timm_mish(x, inplace=True) + timm_mish(x) + scaled_mish(x)
        return y + scaled_mish(x, 2) + timm_mish(x=x)


WRAPPED = ["graph.timm_mish", "graph.timm_mish_1", "graph.scaled_mish"]
NOT_TAKEN = {"graph.scaled_mish_1": "takes scale, which", "graph.timm_mish_2": "takes x, which"}

IN_TRANSFORMER = ["layers.0.activation", "layers.1.activation"]
CASES = {
    "branches": Case(Branches, BRANCHES, shape=(2, 4)),
    "ours already": Case(partial(Branches, mish_cuda.MishCuda), [], shape=(2, 4)),
    "ours, in every form": Case(ours, [], shape=(5, 4)),
    "ours in a graph": Case(ours_in_a_graph, [], shape=(5, 4)),
    "factory": Case(net.with_a_factory, ["1"], shape=(2, 4)),
    "timm": Case(net.timm, ["1", "2.function"], shape=(2, 3, 8)),
    "blocks": Case(nested, ["0.1", f"1.{'0.' * 60}act"], shape=(2, 4)),
    "shared": Case(shared, ["1", "3", "0.1", "2.1"], shape=(2, 4)),
    "transformer": Case(partial(transformer, nn.Mish()), IN_TRANSFORMER, shape=(2, 3, 4)),
    "its function": Case(partial(transformer, F.mish), IN_TRANSFORMER, shape=(2, 3, 4)),
    "graph": Case(traced_calls, CALLS, shape=(5, 4)),
    "some calls": Case(traced_calls, CALLS[3:5], {}, [], {"where": "graph.mish_[12]"}, (5, 4)),
    "graph of functions": Case(lambda: net.traced(Wrapped()), WRAPPED, NOT_TAKEN, shape=(5, 4)),
}
CASES |= {
    make.__name__: Case(partial(Branches, make), BRANCHES, shape=(5, 4)) for make in like.RECOGNISED
}
CASES |= {
    name: Case(partial(Functional, f), ["function"], shape=(5, 4))
    for name, f in like.FUNCTIONS.items()
}
UNPICKLABLE = {"lambda of the formula", "lambda of F.mish", "op", "overload"}

# --- Models that are not run ---


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
        self.layers = [nn.ReLU(), net.wrapped(nn.Mish()), Functional()]
        self.activations: Any = {"act": nn.Mish()}
        self.again: Any = (self.layers, self.layers[1], nn.Mish())


INSIDE = dict.fromkeys(("layers[1].act", "layers[2].function"), "convert that module by itself")
IN_LISTS = dict.fromkeys(("activations['act']", "again[2]"), "use nn.ModuleList or nn.ModuleDict")


def with_torchscript() -> nn.Sequential:
    scripted = torch.jit.script(nn.Sequential(nn.Mish()))
    return nn.Sequential(nn.Mish(), scripted, torch.jit.trace(nn.Mish(), torch.ones(3)))


SCRIPT = "TorchScript.*before torch.jit.script"
CASES |= {
    "held by themselves": Case(held_by_themselves, ["1", "2"]),
    "millions of paths": Case(with_millions_of_paths, ["0." * 40 + "0"]),
    "plain lists": Case(Keras, [], IN_LISTS | INSIDE),
    "where in lists": Case(
        Keras, [], INSIDE, arguments={"where": lambda name, _: name.startswith("l")}
    ),
    "scripted function": Case(lambda: Functional(torch.jit.script(like.mish)), ["function"]),
    "TorchScript": Case(with_torchscript, ["0"], {"2": SCRIPT, "1.0": SCRIPT}),
}


def beside_mish(item: Any, training: bool) -> nn.Module:
    """Something that looks like Mish. It is tried out without its hooks."""
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

# --- Selected by class and name: Mish is known in every class, others have to be named ---


DerivedReLU = layer("DerivedReLU", base=nn.ReLU)


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
ELEMENTWISE = (
    *(nn.ReLU(), nn.LogSigmoid(), nn.RReLU(), nn.Threshold(0, 0), nn.Dropout(), nn.Identity()),
    *(nn.ReLU(True), nn.RReLU(inplace=True), nn.Dropout().eval(), nn.RReLU().eval()),
)
RELU: dict[str, Any] = {"from_": nn.ReLU}
DERIVED = {"derived": "name lookalikes.DerivedReLU in from_"}
IN_ENCODER = partial(transformer, nn.ReLU())
CASES |= {
    "ReLU": Case(activations, ["stem.0"], DERIVED, ["stem.0"], RELU),
    "ReLU in a transformer": Case(IN_ENCODER, IN_TRANSFORMER, {}, IN_TRANSFORMER, RELU),
    "named": Case(
        partial(nn.Sequential, HardMish(), MiSh()),
        ["0", "1"],
        {},
        ["0"],
        {"from_": (HardMish, MiSh)},
    ),
}
CASES |= {
    f"{layer}, {layer.training}": Case(
        partial(nn.Sequential, layer), ["0"], {}, ["0"], {"from_": type(layer)}
    )
    for layer in ELEMENTWISE
}


@pytest.mark.parametrize("name", CASES)
def test_convert_and_revert(name: str, public: str) -> None:
    net.check_conversion(CASES[name], name not in UNPICKLABLE)


def test_names_flags_and_attributes_stay() -> None:
    """And what happened after the conversion stays when it is reverted."""
    model: Any = Branches(lambda: nn.Mish(True))
    first, original = model.act, copy.deepcopy(model)
    model.act.eval()
    model.act.f = -1  # as YOLO's parsers note where a layer's input comes from
    convert(model)
    assert repr(model) == repr(original)
    assert len([*model.modules()]) == len([*original.modules()])  # what is shared stays so
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
    "context", [torch.no_grad, torch.inference_mode, partial(torch.device, "meta"), override_torch]
)
def test_trying_out_within(context: Callable[[], Any]) -> None:
    with context():
        report = convert(nn.Sequential(MiSh(), HardMish()))
    assert list(report.changed) == ["0"]
    assert "has the slope" in report.left_alone["1"]


@pytest.mark.parametrize(("item", "inplace"), like.INFERENCE_ONLY.items())
def test_what_cannot_be_differentiated_is_known_by_its_values(item: Any, inplace: bool) -> None:
    """Afterwards it can be trained."""
    activation = item() if isinstance(item, type) else Functional(item)
    x = torch.randn(3, 4)
    expected = activation(x.clone())
    convert(model := nn.Sequential(nn.Linear(4, 4), activation))
    torch.testing.assert_close(model[1](y := x.clone()), expected)
    assert (not torch.equal(x, y)) is inplace
    model(x).sum().backward()


# --- What cannot be replaced ---

NAMED = (nn.Mish, nn.PReLU, nn.BatchNorm2d, nn.MaxPool2d, nn.ChannelShuffle, FlippedMish)
NAMED += (nn.MSELoss, nn.ReLU)
# What is of such a class and yet no activation that can be replaced, and what is told of it.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "pooling": (lambda: nn.MaxPool2d(2), r"makes the shape \(2, 4, 2, 2\) of \(2, 4, 4, 4\)"),
    "pooling that keeps the shape": (lambda: nn.MaxPool2d(3, 1, 1), "from several elements"),
    "permutation": (lambda: nn.ChannelShuffle(2), "from several elements"),
    "mirror": (FlippedMish, "from several elements"),
    "loss": (nn.MSELoss, "fails when tried out.*target"),
    "parameters": (nn.PReLU, "PReLU.* has parameters or buffers"),
    "buffers": (lambda: nn.BatchNorm2d(4, affine=False), "has parameters or buffers"),
    "forward": (lambda: (m := nn.Mish(), setattr(m, "forward", F.mish))[0], "a forward of its own"),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0, nn.ReLU()), "ReLU.* not used"),
    "compiled": (lambda: torch.compile(nn.Mish(), backend="eager"), "is compiled by itself"),
    "compiled in place": (lambda: (m := nn.Mish(), m.compile())[0], "is compiled by itself"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_replaced_is_refused(make: Callable[[], Any], message: str) -> None:
    """Model and random numbers are then as they were; and there is a way around it."""
    model = nn.Sequential(nn.Mish(), make(), nn.Mish())
    layers, state = [*model.modules()], torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"'1(\.\w+)?' .*{message}.*eave it out with `where`"):
        convert(model, NAMED)
    assert [*model.modules()] == layers
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in layers)
    convert(model, NAMED, where=lambda name, _: not name.startswith("1"))
    assert [type(layer) is mish_cuda.Mish for layer in model] == [True, False, True]


OTHERS = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
NOWHERE = r"expected `where` to match .*Their names: act, again, stem\.1, listed"
MODULE, CLASS = r"expected a torch\.nn\.Module, got", "expected `from_` to be a subclass"
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
    (convert, ZeroDivisionError, "", {"where": lambda name, _: name != "named.act" or 1 / 0}),
]


@pytest.mark.parametrize(("function", "error", "message", "arguments"), WRONG)
def test_errors_change_nothing(
    function: Callable[..., Any], error: type[Exception], message: str, arguments: dict[str, Any]
) -> None:
    model = Branches()
    layers = [*model.modules()]
    with pytest.raises(error, match=message):
        function(**{"model": model, **arguments})
    assert [*model.modules()] == layers


def test_what_cannot_be_put_back_is_refused() -> None:
    model: Any = Branches()
    convert(model)
    model.act.forward = F.mish
    layers = [*model.modules()]
    with pytest.raises(ValueError, match="'act' has a forward of its own"):
        revert(model)
    assert [*model.modules()] == layers


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
