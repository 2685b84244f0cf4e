"""Mish that models hold as functions, or call in their code; and ``override_torch``."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Functional, MiSh, is_ours, layer, mish, mish_, textbook, timm_mish
from networks import InCode, check, draw, traced
from torch import Tensor, nn

import mish_cuda
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


# --- In attributes ---


@pytest.mark.parametrize("function", [timm_mish, mish_, F.mish])
@pytest.mark.parametrize("inplace", [True, False])
def test_inplace_of_functions_is_what_they_do_with_it(function: Any, inplace: bool) -> None:
    model = Functional(function)
    x, y = torch.ones(3), torch.ones(3)
    function(x, inplace=inplace)
    convert(model)
    model.function(y, inplace=inplace)
    torch.testing.assert_close(x, y)


# --- In code ---


def model_of(forward: Any, held: dict[str, Any] | None = None, **of_class: Any) -> nn.Module:
    """A model of that code; it holds attributes, and so does its class."""
    members = {"__module__": __name__, "forward": forward, **of_class}
    model: nn.Module = type("Model", (nn.Module,), members)()
    vars(model).update(held or {})
    return model


def helper(x: Tensor) -> Tensor:
    return F.mish(x)


def calls(activation: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: activation(activation(x) * 0 + x)


def called(self: Any, x: Tensor) -> Tensor:
    return self.value(x)  # type: ignore[no-any-return]


Code = Callable[[Any, Tensor], Tensor]
# Code that computes what the module holds, and values without Mish and with it.
CHOICES: dict[str, tuple[Code, Any, Any]] = {
    "function": (called, calls(F.relu), helper),
    "closure": (called, calls(F.relu), calls(F.mish)),
    "held partial": (called, partial(calls(F.relu)), partial(helper)),
    "name": (lambda self, x: getattr(F, self.value)(x), "relu", "mish"),
    "class": (lambda self, x: self.value()(x), nn.ReLU, nn.Mish),
    "settings": (
        lambda self, x: self.value.activation(x),
        SimpleNamespace(activation=F.relu),
        SimpleNamespace(activation=F.mish),
    ),
    "list": (lambda self, x: self.value[0](x), [F.relu], [F.mish]),
}


@pytest.mark.parametrize(("code", "without", "mish"), CHOICES.values(), ids=CHOICES)
def test_modules_of_one_class_are_told_apart(code: Code, without: Any, mish: Any) -> None:
    model = model_of(code, {"value": without})
    other = type(model)()
    other.value = mish
    assert "found no Mish" in convert(model).hint
    for modules in ([model, other], [other, model]):
        assert "mish_cuda.override_torch()" in convert(nn.Sequential(*modules)).hint


class InSuper(InCode):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def imported_inside(self: nn.Module, x: Tensor) -> Tensor:
    from torch.nn.functional import mish as activate

    return activate(x)


def on_a_device(self: nn.Module, x: Tensor) -> Tensor:
    with torch.device("cpu"):
        return F.mish(x)


def own_mish(self: nn.Module, x: Tensor) -> Tensor:
    return textbook(x)


ACTIVATIONS = {"relu": F.relu, "mish": F.mish}
OWN_LAYER = MiSh()
# Models with Mish in their code, and whether override_torch redirects it.
IN_CODE: dict[str, tuple[nn.Module, bool]] = {
    "call": (InCode(), True),
    "super": (InSuper(), True),
    "class attribute": (model_of(lambda self, x: self.act(x), act=nn.Mish()), True),
    "type(self)": (model_of(lambda self, x: type(self).act(x), act=F.mish), True),
    "self.__class__": (model_of(lambda self, x: self.__class__.act(x), act=F.mish), True),
    "static method": (
        model_of(torch.no_grad()(lambda self, x: self.act(x)), act=staticmethod(calls(F.mish))),
        True,
    ),
    "property": (model_of(lambda self, x: self.act(x), act=property(lambda self: F.mish)), True),
    "dict": (model_of(lambda self, x: self.acts["m"](x), {"acts": {"m": nn.Mish()}}), True),
    "global dict": (model_of(lambda self, x: ACTIVATIONS["mish"](x)), True),
    "imported inside": (model_of(imported_inside), True),
    "lambda": (model_of(lambda self, x: (lambda: torch.nn.functional.mish(x))()), True),
    "made when called": (model_of(lambda self, x: nn.Mish(True)(x)), True),
    "helper": (model_of(lambda self, x: helper(x)), True),
    "default": (model_of(lambda self, x, activation=F.mish: activation(x)), True),
    "keyword": (model_of(lambda self, x, *, activation=F.mish: activation(x)), True),
    "op": (model_of(lambda self, x: torch.ops.aten.mish.default(x)), False),
    "own function": (model_of(lambda self, x: mish(x)), False),
    "own method": (model_of(lambda self, x: self.mish(x), mish=own_mish), False),
    "autograd function": (model_of(lambda self, x: like.MishFunction.apply(x)), False),
    "global layer": (model_of(lambda self, x: OWN_LAYER(x)), False),
    **{name: (model_of(code, {"value": mish}), True) for name, (code, _, mish) in CHOICES.items()},
}


@pytest.mark.parametrize(("model", "overridden"), IN_CODE.values(), ids=IN_CODE)
def test_mish_in_code_is_told(model: nn.Module, overridden: bool, public: str) -> None:
    """Alone and beside a layer, in one line that ends the report; and the advice is good."""
    assert list((report := convert(nn.Sequential(model, nn.Mish()))).changed) == ["1"]
    assert convert(model).hint == report.hint
    assert str(report).endswith(report.hint)
    place = r"\S+ is used in the code of (test_|networks)\S+, which convert does not change: "
    assert re.match(rf"{place}.*use mish_cuda.[mM]ish there", report.hint)
    assert "\n" not in report.hint or not overridden  # an op and its overload are two uses
    assert ("run the model inside mish_cuda.override_torch()" in report.hint) is overridden
    assert not is_ours(model)
    with override_torch():
        assert is_ours(model) is overridden
        in_place = model(x := torch.randn(5)) is x
    assert not is_ours(model)
    assert (model(x) is x) is in_place


def test_where_there_is_no_mish_nothing_is_advised() -> None:
    """And no method of the model is run on it, whatever its name."""
    ran_on: list[Any] = []
    model = model_of(
        lambda self, x: F.relu(self.mish(x)), mish=lambda self, x: (x, ran_on.append(self))[0]
    )
    report = convert(model)
    assert report == mish_cuda.Conversion()
    assert "found no Mish" in report.hint
    assert "override_torch" not in report.hint
    assert model not in ran_on
    assert convert(nn.Sequential(like.HardMish())).hint == convert(model, nn.SiLU).hint == ""


# --- What is this library's becomes torch's ---


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = mish_cuda.MishCuda()

    def forward(self, x: Tensor) -> Tensor:
        x = mish_cuda.mish(self.act(x))
        x = mish_cuda.mish_(mish_cuda.mish(x + 1, True) * 2)
        return mish_cuda.MishCudaFunction.apply(mish_cuda.mish_forward(x))


class Out(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return mish_cuda.mish(x, out=torch.empty_like(x))


def layers() -> nn.Module:
    old = mish_cuda.MishCuda()
    del vars(old)["inplace"]  # as layers of the old package are unpickled
    doubled = layer("Doubled", lambda self, x: 2 * mish_cuda.mish(x), mish_cuda.Mish)()
    return nn.Sequential(
        mish_cuda.Mish(True), old, layer("Renamed", base=mish_cuda.Mish)(), doubled
    )


def code(self: nn.Module, x: Tensor) -> Tensor:
    return mish_cuda.mish(x)


GRAPH = ["act", *(f"graph.mish{end}" for end in ("", "_1", "_", "_2", "_3"))]
OUT = "takes out=, which torch.nn.functional.mish does not"
TOLD = r"mish_cuda\.mish is used in the code of \S+, .*torch.nn.functional\.mish there"
# Models, what becomes torch's, why other Mish does not, and what is told of calls.
OURS: dict[str, tuple[nn.Module, list[str], dict[str, str], str]] = {
    "layers": (layers(), ["0", "1", "2"], {"3": "derives from mish_cuda.Mish, but has the"}, ""),
    "norm": (nn.Sequential(mish_cuda.BatchNormMish1d(4)), [], {"0": "is a norm with Mish"}, ""),
    "mish": (Functional(mish_cuda.mish), ["function"], {}, ""),
    "mish_": (Functional(mish_cuda.mish_), ["function"], {}, ""),
    "partial": (Functional(partial(mish_cuda.mish, inplace=True)), ["function"], {}, ""),
    "mish_forward": (Functional(mish_cuda.mish_forward), [], {"function": OUT}, ""),
    "graph": (traced(Ours()), GRAPH, {}, ""),
    "out in a graph": (traced(Out()), [], {"graph.mish": OUT}, ""),
    "code": (model_of(code), [], {}, TOLD),
    "what code calls": (model_of(called, {"value": calls(mish_cuda.mish)}), [], {}, TOLD),
}


@pytest.mark.parametrize(("model", "changed", "left_alone", "told"), OURS.values(), ids=OURS)
def test_revert_to_torch(
    model: nn.Module, changed: list[str], left_alone: dict[str, str], told: str
) -> None:
    """Nothing else changes, and without being asked nothing does."""
    model = copy.deepcopy(model).double().eval()
    before = copy.deepcopy(model)
    assert (report := revert(model)) == mish_cuda.Conversion()
    assert report.hint == ""
    report = revert(model, to=nn.Mish)
    assert (sorted(report.changed), report.retrain) == (sorted(changed), [])
    assert report.left_alone.keys() == left_alone.keys()
    assert all(left_alone[name] in reason for name, reason in report.left_alone.items())
    assert re.fullmatch(told, report.hint)
    assert not any(m.training for m in model.modules())
    if not left_alone:
        check(model, before, draw((5, 4)))
    if not (left_alone or told):
        assert b"mish_cuda" not in pickle.dumps(model)


# --- Within override_torch F.mish is mish_cuda.mish, for one thread ---


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not is_ours(F.mish)


def test_override_nests_and_concerns_one_thread() -> None:
    """And it ends with an exception."""
    mode = override_torch()
    for _ in range(2):
        with ThreadPoolExecutor(1) as thread, mode:
            with override_torch(), mode:
                assert is_ours(F.mish)
            assert is_ours(F.mish)
            assert not thread.submit(is_ours, F.mish).result()
        assert not is_ours(F.mish)
    with pytest.raises(ZeroDivisionError), mode:
        _ = 1 / 0


def within(x: Tensor) -> Tensor:
    with override_torch():
        return F.mish(x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_override_and_compile(backend: str) -> None:
    """A block around the call of a compiled function, and within one."""
    torch._dynamo.reset()
    compiled = torch.compile(F.mish, fullgraph=True, backend=backend)
    for _ in range(2):
        assert not is_ours(compiled)
        with override_torch():
            assert is_ours(compiled)
            assert is_ours(torch.compile(nn.Mish(), fullgraph=True, backend=backend))
    assert is_ours(torch.compile(within, fullgraph=True, backend=backend))
    assert not is_ours(F.mish)
