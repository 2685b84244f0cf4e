"""The nodes of the graph have what torch's own have. Tools that use them: test_programs.py."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import Node

import layouts
import reference
from conftest import Implementation

# What a node of each kind saves, in the order of its edges.
SAVED = {
    "MishCudaBackward": ["self"],
    "MishCudaBackwardBackward": ["grad_output", "self"],
}
EVERY_NODE = pytest.mark.parametrize("name", SAVED)
Leaves = dict[str, Tensor]


@pytest.fixture
def leaves(device: str) -> Leaves:
    return {
        name: layouts.normal((6,), torch.float64, device, seed).requires_grad_()
        for seed, name in enumerate(["self", "grad_output"])
    }


def make(name: str, impl: Implementation, leaves: Leaves) -> tuple[Tensor, Any]:
    """A tensor and its node. The gradient of the first saved tensor is f'(self)."""
    y = impl.apply(*(leaves[saved] for saved in SAVED[name]))
    return y, y.grad_fn


@EVERY_NODE
def test_attributes(impl: Implementation, leaves: Leaves, name: str) -> None:
    y, node = make(name, impl, leaves)
    assert isinstance(node, Node)
    assert issubclass(type(node), Node)
    assert node.name() == type(node).__name__ == name
    assert f"grad_fn=<{name}>" in repr(y)
    torchs = {a for a in dir(F.mish(leaves["self"]).grad_fn) if not a.startswith(("__", "_saved_"))}
    assert {*dir(node)} >= torchs
    for prefix in ("_saved_", "_raw_saved_"):
        found = {a.removeprefix(prefix) for a in dir(node) if a.startswith(prefix)}
        assert found - {"tensors"} == set(SAVED[name])
    for saved, (edge, number) in zip(SAVED[name], node.next_functions, strict=True):
        assert getattr(node, f"_saved_{saved}") is edge.variable is leaves[saved]
        assert number == 0


@EVERY_NODE
def test_metadata_and_hooks(impl: Implementation, leaves: Leaves, name: str) -> None:
    y, node = make(name, impl, leaves)
    node.metadata["layer"] = "activation"
    assert y.grad_fn is node
    assert y.grad_fn.metadata == {"layer": "activation"}
    calls: list[str] = []
    node.register_prehook(lambda grads: calls.append("before") or (grads[0] * 3,))
    node.register_hook(lambda results, grads: calls.append("after"))
    (result,) = grad(y.sum(), leaves[SAVED[name][0]])
    assert calls == ["before", "after"]
    torch.testing.assert_close(result, 3 * reference.mish(leaves["self"], 1))


@EVERY_NODE
def test_hooks_of_a_saved_tensor(impl: Implementation, leaves: Leaves, name: str) -> None:
    y, node = make(name, impl, leaves)
    packed: list[Tensor] = []
    node._raw_saved_self.register_hooks(lambda t: packed.append(t) or t * 2, lambda t: t + 1)
    assert torch.equal(packed[0], leaves["self"])
    expected = leaves["self"] * 2 + 1
    assert torch.equal(node._saved_self, expected)
    (result,) = grad(y, leaves[SAVED[name][0]], torch.ones_like(y))
    torch.testing.assert_close(result, reference.mish(expected, 1))


@EVERY_NODE
def test_released(impl: Implementation, leaves: Leaves, name: str) -> None:
    """The same refusal as from torch's own node."""
    y, node = make(name, impl, leaves)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    for saved in SAVED[name]:
        with pytest.raises(RuntimeError, match="already been freed"):
            getattr(node, f"_saved_{saved}")
        with pytest.raises(RuntimeError):
            getattr(node, f"_raw_saved_{saved}").register_hooks(lambda t: t, lambda t: t)


@EVERY_NODE
def test_a_raw_saved_tensor_outlives_the_graph(
    compiled: Implementation, leaves: Leaves, name: str
) -> None:
    """The saved tensors of torch's own nodes and of Python functions crash here."""
    y, node = make(name, compiled, leaves)
    raw = getattr(node, f"_raw_saved_{SAVED[name][0]}")
    del y, node
    gc.collect()
    raw.register_hooks(lambda t: t, lambda t: t)


def test_a_node_keeps_nothing_alive_after_its_graph(impl: Implementation, leaves: Leaves) -> None:
    inner = leaves["self"] * 1
    y: Any = impl.mish(inner)
    saved = weakref.ref(inner)
    assert y.grad_fn._saved_self is inner
    del inner
    assert saved() is not None
    y.sum().backward()
    gc.collect()
    assert saved() is None


def test_anomaly_mode_names_the_node(impl: Implementation, leaves: Leaves) -> None:
    with (
        pytest.warns(UserWarning, match=r"(?s)MishCudaBackward.*test_nodes"),
        pytest.raises(RuntimeError, match="MishCudaBackward"),
        torch.autograd.detect_anomaly(),
    ):
        impl.mish(leaves["self"]).backward(torch.full((6,), torch.nan).to(leaves["self"]))
