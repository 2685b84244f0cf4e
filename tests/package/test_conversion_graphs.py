"""FX graphs: layers stay nodes of their own, and calls in graphs are converted and reverted."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lookalikes import COPIES, Branches, InCode, MiSh, assert_same_function, is_ours, results
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import mish_cuda
from conftest import needs_extension
from mish_cuda import convert, revert

Node = tuple[str, str, Any]


def nodes(model: Any) -> list[Node]:
    return [(node.op, node.name, node.target) for node in model.graph.nodes]


def mishes(model: Any) -> list[Any]:
    return [target for _, _, target in nodes(model) if "mish" in str(target)]


def untyped(module: type[nn.Module]) -> type[nn.Module]:
    """A graph whose types are strings, as they are in this file, cannot be pickled."""
    module.forward.__annotations__.clear()
    return module


@untyped
class Calls(nn.Module):
    """Layers, and each way to call Mish."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Mish()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Mish(True))
        self.function = F.mish

    def forward(self, x: Tensor) -> Tensor:
        x = F.mish(self.act(x))
        x = F.mish(x + 1, inplace=True)
        x = torch._C._nn.mish(self.function(x))
        x = torch._C._nn.mish_(x - 1)
        return torch.ops.aten.mish(self.body(x))  # type: ignore[no-any-return]


@pytest.fixture
def traced() -> Any:
    return fx.symbolic_trace(Calls())


# --- Layers are leaves ---


class EverythingTraced(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False


@pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
@pytest.mark.parametrize("tracer", [fx.Tracer, EverythingTraced])
def test_layers_are_traced_as_those_of_torch(
    layer: type[nn.Module], tracer: type[fx.Tracer]
) -> None:
    ours, torchs = (tracer().trace(Branches(make)) for make in (layer, nn.Mish))
    assert [(n.op, n.name) for n in ours.nodes] == [(n.op, n.name) for n in torchs.nodes]


@COPIES
def test_copies_are_leaves_too(copied: Callable[[nn.Module], Any]) -> None:
    """Of converted models, and of layers whose pickles are old."""
    model = Branches()
    expected = [(op, name) for op, name, _ in nodes(fx.symbolic_trace(model))]
    convert(model)
    del vars(model.act)["__module__"]
    assert [(op, name) for op, name, _ in nodes(fx.symbolic_trace(copied(model)))] == expected


class Own(mish_cuda.Mish):
    pass


def test_derived_classes_are_traced_through_as_those_of_torch() -> None:
    (node,) = mishes(fx.symbolic_trace(nn.Sequential(Own())))
    assert node is mish_cuda.mish


# --- Calls ---


@COPIES
def test_calls_are_replaced(traced: Any, copied: Callable[[Any], Any]) -> None:
    """And reverted in a copy, in which every call is Mish of torch again, if not the very one."""
    before, were = results(traced), nodes(traced)
    report = convert(traced)
    names = ["mish", "mish_1", "mish_2", "mish_3", "mish_", "mish_4"]
    assert sorted(report.changed) == sorted(["act", "body.1", *(f"graph.{n}" for n in names)])
    assert (report.left_alone, report.retrain, report.hint) == ({}, [], "")
    assert [name for _, name, _ in nodes(traced)] == [name for _, name, _ in were]
    assert all(map(mish_cuda._places.is_ours, mishes(traced)))
    assert_same_function(before, traced)
    assert convert(traced) == mish_cuda.Conversion()
    for to in (None, nn.Mish):
        other = copied(traced)
        assert_same_function(before, other)
        revert(other, to=to)
        assert_same_function(before, other)
        assert not is_ours(nn.Sequential(other.act))
        if to:
            assert b"mish_cuda" not in pickle.dumps(other)
    assert revert(traced).changed.keys() == report.changed.keys()
    assert nodes(traced) == were
    assert_same_function(before, traced)


def test_calls_by_name() -> None:
    model = nn.Sequential(fx.symbolic_trace(Calls()), nn.Mish())
    assert list(convert(model, where="0.graph.mish_?").changed) == [
        *("0.graph.mish_1", "0.graph.mish_2", "0.graph.mish_3", "0.graph.mish_4"),
    ]
    named = {"0.graph.mish": F.mish}
    assert convert(model, where=lambda name, f: named.get(name) is f).changed.keys() == {*named}


def test_a_trace_of_a_converted_model() -> None:
    model = Calls()
    before = results(model)
    convert(model)
    traced = fx.symbolic_trace(model)
    assert mishes(traced).count(mish_cuda.converted_mish) == 1  # that of the attribute
    revert(traced)
    assert mishes(traced) == mishes(fx.symbolic_trace(Calls()))
    assert_same_function(before, traced)


@untyped
class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = mish_cuda.MishCuda()

    def forward(self, x: Tensor) -> Tensor:
        x = mish_cuda.mish(self.act(x))
        x = mish_cuda.mish(x + 1, True)
        x = mish_cuda.mish_(x * 2)
        x = mish_cuda.mish_forward(x)
        return mish_cuda.MishCudaFunction.apply(x)


@COPIES
def test_revert_to_torch_leaves_nothing_of_ours(copied: Callable[[Any], Any]) -> None:
    traced: Any = copied(fx.symbolic_trace(Ours()))
    before = results(traced)
    assert mishes(traced) == [mish_cuda.mish] * 2 + [mish_cuda.mish_] + [mish_cuda.mish] * 2
    assert "mish_cuda.functional" not in str(traced.graph)
    assert revert(traced) == mish_cuda.Conversion()
    report = revert(traced, to=nn.Mish)
    assert len(report.changed) == 6
    assert mishes(traced) == [F.mish] * 5
    assert b"mish_cuda" not in pickle.dumps(traced)
    assert_same_function(before, traced)


@fx.wrap
def own_mish(x: Tensor, inplace: bool = False) -> Tensor:
    """It takes ``inplace``, and forgets it."""
    return x * torch.tanh(F.softplus(x))


@fx.wrap
def scaled_mish(x: Tensor, scale: float = 1) -> Tensor:
    return scale * own_mish(x)


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = own_mish(x, inplace=True) + own_mish(x) + scaled_mish(x)
        return y + scaled_mish(x, 2) + own_mish(x=x)


def test_functions_that_tracing_keeps_whole() -> None:
    """In a graph it is known what is passed to them."""
    traced = fx.symbolic_trace(Wrapped())
    before = results(traced)
    report = convert(traced)
    assert list(report.changed) == ["graph.own_mish", "graph.own_mish_1", "graph.scaled_mish"]
    assert "takes scale, which" in report.left_alone["graph.scaled_mish_1"]
    assert "takes x, which" in report.left_alone["graph.own_mish_2"]
    assert_same_function(before, traced)
    revert(traced)
    assert mishes(traced).count(scaled_mish) == 2


def test_what_torch_has_not_is_told() -> None:
    class Out(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mish_cuda.mish(x, out=torch.empty_like(x))

    report = revert(fx.symbolic_trace(Out()), to=nn.Mish)
    assert "takes out=, which torch.nn.functional.mish does not" in report.left_alone["graph.mish"]


def test_a_layer_taken_apart_is_told() -> None:
    report = convert(fx.symbolic_trace(nn.Sequential(MiSh())))
    assert "convert before torch.fx expands layers" in report.hint


# --- Graphs of ops ---


@needs_extension
def test_graphs_of_ops_stay_such() -> None:
    """Also those of a backward."""
    model = Branches().double()
    x = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 4)
    parameters = list(model.parameters())
    traced = make_fx(lambda x: torch.autograd.grad(model(x).sum(), parameters))(x)
    expected, code = traced(x), traced.code
    report = convert(traced)
    before = {str(op) for op, _ in report.changed.values()}
    assert "aten.mish.default" in before  # the backward has an op of its own in newer torch
    after = {str(target) for target in mishes(traced)}
    assert after == {name.replace("aten", "mish_cuda") for name in before}
    torch.testing.assert_close(traced(x), expected, rtol=1e-12, atol=1e-12)
    other = pickle.loads(pickle.dumps(traced))
    revert(traced)
    assert traced.code == code
    assert len(revert(other, to=nn.Mish).changed) == len(report.changed)
    assert not any(map(mish_cuda._places.is_ours, mishes(other)))
    torch.testing.assert_close(other(x), expected, rtol=1e-12, atol=1e-12)


@needs_extension
@pytest.mark.parametrize("inplace", [False, True])
def test_exported_programs(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Mish(inplace))
    x = torch.randn(2, 4)
    program = torch.export.export(model, (x,))
    module: Any = program.module()
    assert len(convert(module).changed) == 1
    torch.testing.assert_close(module(x), model(x))
    convert(program.graph_module)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded: Any = torch.export.load(file)
    op = f"mish_cuda.mish{'_' * inplace}.default"
    assert [str(target) for target in mishes(loaded)] == [op]
    torch.testing.assert_close(loaded.module()(x), model(x))
    revert(loaded.graph_module, to=nn.Mish)
    assert [str(t) for t in mishes(loaded)] == [op.replace("mish_cuda", "aten")]
    torch.testing.assert_close(loaded.module()(x), model(x))


def test_ops_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension there is no op: they become calls of the function."""
    monkeypatch.setattr(mish_cuda.conversion, "OPS", {})
    traced = make_fx(InCode())(torch.ones(3))
    assert list(convert(traced).changed) == ["graph.mish"]
    assert mishes(traced) == [mish_cuda.converted_mish]
    assert is_ours(copy.deepcopy(traced))
