"""Mish that models hold as functions, call in their code or in FX graphs; ``override_torch``."""

from __future__ import annotations

import copy
import io
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Functional, MiSh, is_ours, layer, mish, mish_, timm_mish
from networks import COPIES, Branches, Calls, InCode, check, draw, traced
from torch import Tensor, fx, nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import mish_cuda
from conftest import needs_extension
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
    "settings": (lambda self, x: self.value.act(x), Namespace(act=F.relu), Namespace(act=F.mish)),
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


ACTIVATIONS = {"relu": F.relu, "mish": F.mish}
OWN_LAYER = MiSh()
# Models with Mish in their code that override_torch redirects.
REDIRECTED: dict[str, nn.Module] = {
    "call": InCode(),
    "super": InSuper(),
    "class attribute": model_of(lambda self, x: self.act(x), act=nn.Mish()),
    "type(self)": model_of(lambda self, x: type(self).act(x), act=F.mish),
    "self.__class__": model_of(lambda self, x: self.__class__.act(x), act=F.mish),
    "static method": model_of(
        torch.no_grad()(lambda self, x: self.act(x)), act=staticmethod(calls(F.mish))
    ),
    "property": model_of(lambda self, x: self.act(x), act=property(lambda self: F.mish)),
    "dict": model_of(lambda self, x: self.acts["m"](x), {"acts": {"m": nn.Mish()}}),
    "global dict": model_of(lambda self, x: ACTIVATIONS["mish"](x)),
    "imported inside": model_of(imported_inside),
    "lambda": model_of(lambda self, x: (lambda: torch.nn.functional.mish(x))()),
    "made when called": model_of(lambda self, x: nn.Mish(True)(x)),
    "helper": model_of(lambda self, x: helper(x)),
    "default": model_of(lambda self, x, activation=F.mish: activation(x)),
    "keyword": model_of(lambda self, x, *, activation=F.mish: activation(x)),
    "in place": model_of(lambda self, x: F.mish(x, inplace=True)),
    "by keyword": model_of(lambda self, x: F.mish(input=x)),
    "torch.func": model_of(lambda self, x: vmap(grad(F.mish))(x)),
    **{name: model_of(code, {"value": mish}) for name, (code, _, mish) in CHOICES.items()},
}
OTHERS: dict[str, nn.Module] = {
    "op": model_of(lambda self, x: torch.ops.aten.mish.default(x)),
    "own function": model_of(lambda self, x: mish(x)),
    "own method": model_of(
        lambda self, x: self.mish(x), mish=lambda self, x: x * F.softplus(x).tanh()
    ),
    "autograd function": model_of(lambda self, x: like.MishFunction.apply(x)),
    "global layer": model_of(lambda self, x: OWN_LAYER(x)),
    "binding": model_of(lambda self, x: torch._C._nn.mish(x)),
}


@pytest.mark.parametrize("name", REDIRECTED | OTHERS)
def test_mish_in_code_is_told(name: str, public: str) -> None:
    """Alone and beside a layer, in one line that ends the report; and the advice is good."""
    model, overridden = (REDIRECTED | OTHERS)[name], name in REDIRECTED
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


# --- What is this library's and does not become torch's ---

DOUBLED = layer("Doubled", lambda self, x: 2 * mish_cuda.mish(x), mish_cuda.Mish)
OUT = layer("Out", lambda self, x: mish_cuda.mish(x, out=torch.empty_like(x)))
LEFT_ALONE = {
    "derives from mish_cuda.Mish, but has the value": nn.Sequential(DOUBLED()),
    "is a norm with Mish": nn.Sequential(mish_cuda.BatchNormMish1d(4)),
    "takes out=, which torch.nn.functional.mish does not": Functional(mish_cuda.mish_forward),
    "takes out=": traced(OUT()),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_what_torch_has_not_is_told(reason: str) -> None:
    report = revert(LEFT_ALONE[reason], to=nn.Mish)
    assert reason in "".join(report.left_alone.values())
    assert report.changed == {}


@pytest.mark.parametrize("activation", [mish_cuda.mish, calls(mish_cuda.mish)])
def test_revert_to_torch_tells_calls_of_ours(activation: Any) -> None:
    model = nn.Sequential(mish_cuda.Mish(), model_of(lambda self, x: activation(x)))
    assert revert(model).hint == ""
    report = revert(model, to=nn.Mish)
    assert list(report.changed) == ["0"]
    told = r"mish_cuda\.mish is used in the code of \S+, .*torch\.nn\.functional\.mish there"
    assert re.fullmatch(told, report.hint)


# --- FX graphs ---


def mishes(model: Any) -> list[Any]:
    return [node.target for node in model.graph.nodes if "mish" in str(node.target)]


TRACERS = [fx.Tracer, layer("Tracer", base=fx.Tracer, is_leaf_module=lambda *_: False)]


@pytest.mark.parametrize("tracer", TRACERS, ids=["layers", "everything"])
def test_layers_are_traced_as_those_of_torch(tracer: type[fx.Tracer]) -> None:
    """Those of copies, too, and of layers whose pickles are old."""
    models = [Branches(mish_cuda.Mish), Branches(mish_cuda.MishCuda)]
    convert(converted := Branches())
    del vars(converted.act)["__module__"]
    models += [copied(converted) for copied in COPIES]
    expected = [(node.op, node.name) for node in tracer().trace(Branches()).nodes]
    for model in models:
        assert [(node.op, node.name) for node in tracer().trace(model).nodes] == expected
    own = layer("Own", base=mish_cuda.Mish)()  # traced through, as those of torch's users
    assert mishes(fx.symbolic_trace(nn.Sequential(own))) == [mish_cuda.mish]


def test_a_trace_of_a_converted_model() -> None:
    model = Calls().double()
    original = copy.deepcopy(model)
    convert(model)
    graph = traced(model)
    assert mishes(graph).count(mish_cuda.converted_mish) == 1  # that of the attribute
    revert(graph)
    assert mishes(graph) == mishes(traced(Calls()))
    check(graph, original, draw((5, 4)))


@needs_extension
def test_graphs_of_ops_stay_such() -> None:
    """Also those of a backward."""
    model = Branches().double()
    x = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 4)
    parameters = list(model.parameters())
    graph = make_fx(lambda x: torch.autograd.grad(model(x).sum(), parameters))(x)
    expected, code = graph(x), graph.code
    report = convert(graph)
    before = {str(op) for op, _ in report.changed.values()}
    assert "aten.mish.default" in before  # the backward has an op of its own in newer torch
    after = {str(target) for target in mishes(graph)}
    assert after == {name.replace("aten", "mish_cuda") for name in before}
    other = pickle.loads(pickle.dumps(graph))
    torch.testing.assert_close(graph(x), expected, rtol=1e-12, atol=1e-12)
    revert(graph)
    assert graph.code == code
    assert len(revert(other, to=nn.Mish).changed) == len(report.changed)
    assert not any(map(mish_cuda._places.is_ours, mishes(other)))
    torch.testing.assert_close(other(x), expected, rtol=1e-12, atol=1e-12)


@needs_extension
@pytest.mark.parametrize("inplace", [False, True])
def test_exported_programs(inplace: bool) -> None:
    """Converted, saved and loaded, and put back."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Mish(inplace))
    x = torch.randn(2, 4)
    program = torch.export.export(model, (x,))
    assert len(convert(program.graph_module).changed) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded: Any = torch.export.load(file)
    for library in ("mish_cuda", "aten"):
        assert [str(op) for op in mishes(loaded)] == [f"{library}.mish{'_' * inplace}.default"]
        torch.testing.assert_close(loaded.module()(x), model(x))
        revert(loaded.graph_module, to=nn.Mish)


def test_ops_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension there is no op: they become calls of the function."""
    monkeypatch.setattr(mish_cuda.conversion, "OPS", {})
    graph = make_fx(InCode())(torch.ones(3))
    assert list(convert(graph).changed) == ["graph.mish"]
    assert mishes(graph) == [mish_cuda.converted_mish]
    assert is_ours(copy.deepcopy(graph))


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
            with override_torch(), torch.device("cpu"), mode:
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
