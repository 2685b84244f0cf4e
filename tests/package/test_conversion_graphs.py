"""FX graphs: layers stay nodes of their own, and calls in graphs are converted and reverted."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import lookalikes as like
import pytest
import torch
from lookalikes import is_ours
from networks import COPIES, Branches, Calls, InCode, check, draw, traced
from torch import fx, nn
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
    models += [copied(converted) for copied in COPIES]
    expected = [(node.op, node.name) for node in tracer().trace(Branches()).nodes]
    for model in models:
        assert [(node.op, node.name) for node in tracer().trace(model).nodes] == expected
    own = like.layer("Own", base=mish_cuda.Mish)()  # traced through, as those of torch's users
    assert mishes(fx.symbolic_trace(nn.Sequential(own))) == [mish_cuda.mish]


# --- Calls ---


def test_a_trace_of_a_converted_model() -> None:
    model = Calls().double()
    original = copy.deepcopy(model)
    convert(model)
    graph = traced(model)
    assert mishes(graph).count(mish_cuda.converted_mish) == 1  # that of the attribute
    revert(graph)
    assert mishes(graph) == mishes(traced(Calls()))
    check(graph, original, draw((5, 4)))


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
