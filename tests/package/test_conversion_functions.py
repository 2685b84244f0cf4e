"""Mish that models hold as functions, or call in their code."""

from __future__ import annotations

import copy
import functools
import pickle
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lookalikes import (
    Derived,
    Functional,
    HardMish,
    InCode,
    MiSh,
    is_ours,
    textbook,
    timm_mish,
)
from torch import Tensor, nn

import mish_cuda
import reference
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


# --- In attributes ---


def mish(x: Tensor) -> Tensor:
    """As many models have one."""
    return x * torch.tanh(F.softplus(x))


def mish_(x: Tensor, inplace: bool = True) -> Tensor:
    return F.mish(x, inplace=inplace)


class CallableMish:
    def __call__(self, x: Tensor) -> Tensor:
        return textbook(x)


class MishFunction(Derived):
    pass


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "F.mish": F.mish,
    "own": mish,
    "timm": timm_mish,
    "in place": mish_,
    "in place for inference": lambda x: x.mul_(F.softplus(x).tanh()),
    "partial": functools.partial(F.mish, inplace=True),
    "lambda of the formula": lambda x: x * torch.tanh(F.softplus(x)),
    "lambda of F.mish": lambda x: F.mish(x),
    "op": torch.ops.aten.mish,
    "overload": torch.ops.aten.mish.default,
    "binding": torch._C._nn.mish,
    "binding in place": torch._C._nn.mish_,
    "autograd function": MishFunction.apply,
    "callable": CallableMish(),
    "method of a layer": nn.Mish().forward,
}
IN_PLACE = {"in place", "in place for inference", "partial", "binding in place"}


class Alone(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def outcome(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the input afterwards."""
    x = x.clone()
    with torch.no_grad():
        return model(x), x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_in_attributes(name: str) -> None:
    function = FUNCTIONS[name]
    model = Alone(function)
    x = torch.linspace(-5, 5, 21, dtype=torch.float64, requires_grad=True)
    expected = outcome(model, x.detach())
    report = convert(model)
    assert list(report.changed) == ["function"]
    assert report.changed["function"][0] is function
    assert (report.left_alone, report.retrain, report.hint) == ({}, [], "")
    assert re.search(r"function: \S.* -> mish_cuda\.converted_mish", str(report))
    assert is_ours(model)
    torch.testing.assert_close(outcome(model, x.detach()), expected)
    assert torch.equal(expected[1], x) is (name not in IN_PLACE)
    (slope,) = torch.autograd.grad(model(x * 1).sum(), x)
    torch.testing.assert_close(slope, reference.mish(x, 1))
    assert convert(model) == mish_cuda.Conversion()
    other = copy.deepcopy(model)
    revert(model)
    assert model.function is function
    assert list(vars(model)) == list(vars(Alone(function)))
    assert list(revert(other, to=nn.Mish).changed) == ["function"]
    torch.testing.assert_close(outcome(other, x.detach()), expected)
    assert b"mish_cuda" not in pickle.dumps(other)


@pytest.mark.parametrize("function", [timm_mish, mish_, F.mish])
@pytest.mark.parametrize("inplace", [True, False])
def test_inplace_of_functions_is_what_they_do_with_it(function: Any, inplace: bool) -> None:
    model = Alone(function)
    x, y = torch.ones(3), torch.ones(3)
    function(x, inplace=inplace)
    convert(model)
    model.function(y, inplace=inplace)
    torch.testing.assert_close(x, y)


def test_a_scripted_function() -> None:
    model = Alone(torch.jit.script(mish))
    assert list(convert(model).changed) == ["function"]
    assert is_ours(model)


def scaled_mish(x: Tensor, scale: float = 1) -> Tensor:
    return scale * textbook(x)


def make_mish() -> nn.Module:
    return nn.Mish()


# With what is told, if they look like Mish at all.
LEFT_ALONE: dict[str, tuple[Any, str | None]] = {
    "another": (lambda x: 2 * F.mish(x), "has the value 40 at 20.*put mish_cuda.mish there"),
    "further arguments": (scaled_mish, "takes scale, which mish_cuda.mish does not.*by hand"),
    "factory": (make_mish, "fails when tried out.*by hand"),
    "compiled": (torch.compile(F.mish, backend="eager"), "compile mish_cuda.mish instead"),
    "F.relu": (F.relu, None),
    "class": (nn.Mish, None),
    "partial of a class": (functools.partial(nn.Mish), None),
    "builtin of torch": (torch.tanh, None),
    "builtin of Python": (abs, None),
}


@pytest.mark.parametrize(("function", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_functions_left_alone(function: Any, reason: str | None) -> None:
    model = Alone(function)
    report = convert(model)
    assert report.changed == {}
    assert model.function is function
    if reason is None:
        assert report.left_alone == {}
    else:
        assert re.search(reason, report.left_alone["function"])


def test_pickles_name_public_paths() -> None:
    """So that the library can be rearranged, and old files still load."""
    model = nn.Sequential(*map(Functional, (F.mish, mish_, timm_mish)), nn.Mish())
    convert(model)
    data = pickle.dumps(model, protocol=0)
    for name in ("converted_mish", "converted_mish_", "converted_mish_copy", "Mish"):
        assert f"cmish_cuda\n{name}\n".encode() in data
    assert b"mish_cuda." not in data


@pytest.mark.parametrize(
    "function",
    [mish_cuda.mish, mish_cuda.mish_, functools.partial(mish_cuda.mish, inplace=True)],
    ids=["mish", "mish_", "partial"],
)
def test_functions_that_were_ours_before(function: Any) -> None:
    model = Alone(function)
    assert convert(model) == revert(model) == mish_cuda.Conversion()
    assert model.function is function
    ((_, torchs),) = revert(model, to=nn.Mish).changed.values()
    assert getattr(torchs, "func", torchs) is F.mish
    assert not is_ours(model)
    assert (model(x := torch.randn(3)) is x) is (function is not mish_cuda.mish)


def test_a_function_of_ours_that_torch_has_not() -> None:
    report = revert(Alone(mish_cuda.mish_forward), to=nn.Mish)
    assert "takes out=" in report.left_alone["function"]


def test_transformer_encoder_layer_with_a_fused_activation() -> None:
    """In evaluation it computes ReLU, whatever stands in its place by then; and the way around."""
    layer: Any = nn.TransformerEncoderLayer(4, 2, 8, 0.0, nn.ReLU(), batch_first=True).eval()
    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match=r"'activation' \(.*ReLU\) is not used in evaluation"):
        convert(layer, nn.ReLU)
    assert type(layer.activation) is nn.ReLU
    layer.activation_relu_or_gelu = 0
    convert(layer, nn.ReLU)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.train()(x))


# --- In code ---


def model_of(forward: Any, held: dict[str, Any] | None = None, **of_class: Any) -> nn.Module:
    """A model of that code; it holds attributes, and so does its class."""
    members = {"__module__": __name__, "forward": forward, **of_class}
    model: nn.Module = type("Model", (nn.Module,), members)()
    vars(model).update(held or {})
    return model


def helper(x: Tensor) -> Tensor:
    return F.mish(x)


class InSuper(InCode):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def imported_inside(self: nn.Module, x: Tensor) -> Tensor:
    from torch.nn.functional import mish as activate

    return activate(x)


def closure() -> nn.Module:
    activate = F.mish
    return model_of(lambda self, x: activate(x))


class HoldsAnything(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.value, str):
            return getattr(F, self.value)(x)  # type: ignore[no-any-return]
        if isinstance(self.value, type):
            return self.value()(x)  # type: ignore[no-any-return]
        if isinstance(self.value, SimpleNamespace):
            return self.value.activation(x)  # type: ignore[no-any-return]
        return (self.value[0] if isinstance(self.value, list) else self.value)(x)  # type: ignore[no-any-return]


def calls(activation: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: activation(activation(x) * 0 + x)


# Values of one attribute, of two modules of one class: without Mish and with it.
HELD: dict[str, tuple[Any, Any]] = {
    "function": (calls(F.relu), helper),
    "closure": (calls(F.relu), calls(F.mish)),
    "partial": (functools.partial(calls(F.relu)), functools.partial(helper)),
    "name": ("relu", "mish"),
    "class": (nn.ReLU, nn.Mish),
    "settings": (SimpleNamespace(activation=F.relu), SimpleNamespace(activation=F.mish)),
    "list": ([F.relu], [F.mish]),
}


@pytest.mark.parametrize(("without", "function"), HELD.values(), ids=HELD)
def test_what_a_module_chooses_is_told(without: Any, function: Any) -> None:
    assert "found no Mish" in convert(HoldsAnything(without)).hint
    for modules in ([without, function], [function, without]):
        report = convert(nn.Sequential(*map(HoldsAnything, modules), nn.Mish()))
        assert list(report.changed) == ["2"]
        assert "mish_cuda.override_torch()" in report.hint
    assert not is_ours(HoldsAnything(function))
    with override_torch():  # the advice is good
        assert is_ours(HoldsAnything(function))


ACTIVATIONS = {"relu": F.relu, "mish": F.mish}
SETTINGS = SimpleNamespace(activation=F.mish)
SEEN_BY_OVERRIDE = {
    "call": InCode(),
    "super": InSuper(),
    "class attribute": model_of(lambda self, x: self.act(x), act=nn.Mish()),
    "type(self)": model_of(lambda self, x: type(self).act(x), act=F.mish),
    "self.__class__": model_of(lambda self, x: self.__class__.act(x), act=F.mish),
    "static method": model_of(
        torch.no_grad()(lambda self, x: self.act(x)), act=staticmethod(lambda x: F.mish(x))
    ),
    "property": model_of(lambda self, x: self.act(x), act=property(lambda self: F.mish)),
    "dict": model_of(lambda self, x: self.acts["mish"](x), {"acts": {"mish": nn.Mish()}}),
    "global dict": model_of(lambda self, x: ACTIVATIONS["mish"](x)),
    "by name": model_of(lambda self, x: getattr(F, self.act)(x), {"act": "mish"}),
    "imported inside": model_of(imported_inside),
    "lambda": model_of(lambda self, x: (lambda: torch.nn.functional.mish(x))()),
    "made when called": model_of(lambda self, x: nn.Mish()(x)),
    "helper": model_of(lambda self, x: helper(x)),
    "settings": model_of(lambda self, x: self.settings.activation(x), {"settings": SETTINGS}),
    "closure": closure(),
    "default": model_of(lambda self, x, activation=F.mish: activation(x)),
    "keyword": model_of(lambda self, x, *, activation=F.mish: activation(x)),
}


@pytest.mark.parametrize("model", SEEN_BY_OVERRIDE.values(), ids=SEEN_BY_OVERRIDE)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a layer"])
def test_calls_of_torchs_mish_are_told(model: nn.Module, beside: bool) -> None:
    report = convert(nn.Sequential(model, nn.Mish()) if beside else model)
    assert list(report.changed) == ["1"] * beside
    assert report.hint.count("\n") == 0
    assert re.match(r"torch\.nn\.\S+ is used in the code of (test_|lookalikes)\S+,", report.hint)
    assert "run the model inside mish_cuda.override_torch()" in report.hint
    assert str(report).endswith(report.hint)
    assert not is_ours(model)
    with override_torch():  # the advice is good
        assert is_ours(model)


def own_mish(self: nn.Module, x: Tensor) -> Tensor:
    return textbook(x)


OWN_LAYER = MiSh()
NOT_SEEN = {
    "op": model_of(lambda self, x: torch.ops.aten.mish.default(x)),
    "own function": model_of(lambda self, x: mish(x)),
    "own method": model_of(lambda self, x: self.mish(x), mish=own_mish),
    "autograd function": model_of(lambda self, x: MishFunction.apply(x)),
    "global layer": model_of(lambda self, x: OWN_LAYER(x)),
}


@pytest.mark.parametrize("model", NOT_SEEN.values(), ids=NOT_SEEN)
def test_calls_that_override_torch_does_not_see_are_told(model: nn.Module) -> None:
    report = convert(model)
    assert f"{__name__}.<lambda>, which convert does not change" in report.hint
    assert re.search("use mish_cuda.[mM]ish there", report.hint)
    assert "inside mish_cuda.override_torch" not in report.hint
    with override_torch():
        assert not is_ours(model)


class Plain(nn.Module):
    """Names that are Mish elsewhere, and a method that must not be run."""

    calls = 0

    def mish(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x

    def forward(self, x: Tensor) -> Tensor:
        mish_loss = F.relu
        return mish_loss(self.mish(x))


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), Functional(F.relu), Plain()])
def test_where_there_is_no_mish_nothing_is_advised(model: nn.Module) -> None:
    report = convert(model)
    assert report == mish_cuda.Conversion()
    assert "found no Mish" in report.hint
    assert "override_torch" not in report.hint
    assert getattr(model, "calls", 0) == 0


def test_elsewhere_there_is_no_hint() -> None:
    model = nn.Sequential(nn.Mish(), MiSh(), Functional())
    for report in (convert(model), convert(model), convert(model, nn.ReLU), revert(nn.ReLU())):
        assert report.hint == ""
    assert convert(nn.Sequential(HardMish())).hint == ""


def test_revert_to_torch_tells_calls_of_ours() -> None:
    ours = model_of(lambda self, x: mish_cuda.mish(x))
    report = revert(nn.Sequential(mish_cuda.Mish(), ours), to=nn.Mish)
    assert list(report.changed) == ["0"]
    assert re.search(r"mish_cuda\.mish is used .*<lambda>.*functional\.mish", report.hint)
    held = map(HoldsAnything, (mish_cuda.mish, calls(mish_cuda.mish)))
    report = revert(nn.Sequential(*held), to=nn.Mish)
    assert list(report.changed) == ["0.value"]
    assert re.fullmatch(r"mish_cuda\.mish is used in the code of \S+<lambda>, .*", report.hint)
    assert revert(nn.Sequential(ours)).hint == ""
