"""FX graphs: layers stay nodes of their own, and calls in graphs are converted and reverted."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Branches, Calls, Functional, InCode, is_ours, scaled_mish, timm_mish
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import mish_cuda
from conftest import needs_extension
from mish_cuda import convert, revert


def mishes(model: Any) -> list[Any]:
    return [node.target for node in model.graph.nodes if "mish" in str(node.target)]


# --- Layers are leaves ---


class EverythingTraced(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False


@pytest.mark.parametrize("tracer", [fx.Tracer, EverythingTraced])
def test_layers_are_traced_as_those_of_torch(tracer: type[fx.Tracer]) -> None:
    """Those of copies, too, and of layers whose pickles are old."""
    models = [Branches(mish_cuda.Mish), Branches(mish_cuda.MishCuda)]
    convert(converted := Branches())
    del vars(converted.act)["__module__"]
    models += [copied(converted) for copied in like.COPIES]
    expected = [(node.op, node.name) for node in tracer().trace(Branches()).nodes]
    for model in models:
        assert [(node.op, node.name) for node in tracer().trace(model).nodes] == expected
    own = like.layer("Own", base=mish_cuda.Mish)()  # traced through, as those of torch's users
    assert mishes(fx.symbolic_trace(nn.Sequential(own))) == [mish_cuda.mish]


# --- Calls ---


def test_a_trace_of_a_converted_model() -> None:
    model = Calls()
    before = like.results(model)
    assert "graph.mish_2" in convert(fx.symbolic_trace(model), where="graph.mish_?").changed
    convert(model)
    graph = like.traced(model)
    assert mishes(graph).count(mish_cuda.converted_mish) == 1  # that of the attribute
    revert(graph)
    assert mishes(graph) == mishes(like.traced(Calls()))
    like.assert_same_function(before, graph)


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = mish_cuda.MishCuda()

    def forward(self, x: Tensor) -> Tensor:
        x = mish_cuda.mish(self.act(x))
        x = mish_cuda.mish_(mish_cuda.mish(x + 1, True) * 2)
        return mish_cuda.MishCudaFunction.apply(mish_cuda.mish_forward(x))


def test_revert_to_torch_leaves_nothing_of_ours() -> None:
    graph = like.traced(Ours())
    before = like.results(graph)
    assert mishes(graph) == [mish_cuda.mish] * 2 + [mish_cuda.mish_] + [mish_cuda.mish] * 2
    assert "mish_cuda.functional" not in str(graph.graph)
    assert revert(graph) == mish_cuda.Conversion()
    assert len(revert(graph, to=nn.Mish).changed) == 6
    assert mishes(graph) == [F.mish] * 5
    assert b"mish_cuda" not in pickle.dumps(graph)
    like.assert_same_function(before, graph)


fx.wrap("timm_mish")  # tracing keeps them whole
fx.wrap("scaled_mish")


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = timm_mish(x, inplace=True) + timm_mish(x) + scaled_mish(x)
        return y + scaled_mish(x, 2) + timm_mish(x=x)


def test_functions_that_tracing_keeps_whole() -> None:
    """In a graph it is known what is passed to them."""
    graph = like.traced(Wrapped())
    before = like.results(graph)
    report = convert(graph)
    assert list(report.changed) == ["graph.timm_mish", "graph.timm_mish_1", "graph.scaled_mish"]
    assert "takes scale, which" in report.left_alone["graph.scaled_mish_1"]
    assert "takes x, which" in report.left_alone["graph.timm_mish_2"]
    like.assert_same_function(before, graph)
    revert(graph)
    assert mishes(graph).count(scaled_mish) == 2


class Out(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return mish_cuda.mish(x, out=torch.empty_like(x))


def test_what_torch_has_not_is_told() -> None:
    for model in (like.traced(Out()), Functional(mish_cuda.mish_forward)):
        ((_, reason),) = revert(model, to=nn.Mish).left_alone.items()
        assert "takes out=, which torch.nn.functional.mish does not" in reason


# --- Graphs of ops ---


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
    op = f"mish_cuda.mish{'_' * inplace}.default"
    assert [str(target) for target in mishes(loaded)] == [op]
    torch.testing.assert_close(loaded.module()(x), model(x))
    revert(loaded.graph_module, to=nn.Mish)
    assert [str(target) for target in mishes(loaded)] == [op.replace("mish_cuda", "aten")]
    torch.testing.assert_close(loaded.module()(x), model(x))


def test_ops_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extension there is no op: they become calls of the function."""
    monkeypatch.setattr(mish_cuda.conversion, "OPS", {})
    graph = make_fx(InCode())(torch.ones(3))
    assert list(convert(graph).changed) == ["graph.mish"]
    assert mishes(graph) == [mish_cuda.converted_mish]
    assert is_ours(copy.deepcopy(graph))
