"""Derivatives: of every order, in both modes, through views and writes in place; every form of
gradients and tangents that torch passes; saved tensors and nodes of the graph.

Gradients of numbers: test_transforms.py; negated ones, and tools that use the nodes:
test_programs.py.
"""

from __future__ import annotations

import functools
import gc
import itertools
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.autograd.graph import Node, saved_tensors_hooks

import layouts
import reference
from conftest import TORCH, Implementation
from reference import DTYPES


def leaf(*sizes: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return layouts.normal(sizes, dtype, device, seed).requires_grad_()


def in_place_of_views(impl: Implementation, x: Tensor) -> Tensor:
    """mish_ of both halves of a copy, each of which changes the graph of the whole."""
    y = x.clone()
    impl.mish_(y[..., ::2])
    impl.mish_(y[..., 1::2])
    return y


Function = Callable[..., Tensor]
FUNCTIONS: dict[str, Function] = {
    "mish": lambda impl, x: impl.mish(x),
    "mish_": lambda impl, x: impl.mish_(x.clone()),
    "mish_ of views": in_place_of_views,
}


# --- The numbers ---

# Of which operands of mish_backward and mish_double_backward gradients are asked for.
NEEDED = [(1, 0), (0, 1), (1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
CASES = [*((f, (1,)) for f in FUNCTIONS.values()), *((Implementation.apply, n) for n in NEEDED)]


@pytest.mark.parametrize(("function", "needed"), CASES, ids=[*FUNCTIONS, *map(str, NEEDED)])
def test_gradients(
    impl: Implementation, device: str, function: Function, needed: tuple[int, ...]
) -> None:
    """First and second ones against finite differences, in both modes and batched."""
    operands = [
        layouts.normal((5, 2), torch.float64, device, seed).t().requires_grad_(bool(need))
        for seed, need in enumerate(needed)
    ]
    checked, first = partial(function, impl), ["forward_ad", "batched_grad", "batched_forward_grad"]
    assert gradcheck(checked, operands, **{f"check_{what}": True for what in first})
    assert gradgradcheck(checked, operands, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_any_order(
    impl: Implementation, device: str, dtype: torch.dtype, function: Function, order: int
) -> None:
    """Exact in float64, and in any dtype finite at ±inf, where torch's formulas give NaN."""
    low, high = [-torch.inf, -1e4, -2e3, -760.0], [22.5, 45.0, 89.0, 1e4, torch.inf]
    points = [-20.0, -3.0, reference.MINIMUM, -0.1, 0.0, 0.7, 5.0, 19.0]
    x = torch.tensor([*low, *high, torch.nan, *points], dtype=dtype, device=device)
    y = function(impl, x.requires_grad_())
    for _ in range(order):
        (y,) = grad(y, x, torch.ones_like(y), create_graph=True)
    limits, at_nan, elsewhere = y[:9].tolist(), y[9], y[10:]
    # CUDA's division by the compiler is not correctly rounded.
    on_cuda = impl.backend(x) == "eager" and device == "cuda"
    tolerance = torch.finfo(dtype).eps if on_cuda else 0.0
    expected = [0.0] * 4 + [1.0 if order == 1 else 0.0] * 5
    assert limits == pytest.approx(expected, rel=tolerance, abs=0)
    assert at_nan.isnan()
    if dtype == torch.float64:
        with mpmath.workdps(60):
            exact = [float(mpmath.diff(reference.definition, point, order)) for point in points]
        torch.testing.assert_close(elsewhere.tolist(), exact, rtol=1e-12, atol=1e-13)


# --- Another dtype ---

OTHER_DTYPES = [*DTYPES, torch.int32, torch.bool]


def operands(dtypes: tuple[torch.dtype, ...], device: str) -> list[Tensor]:
    return [
        layouts.normal((9,), torch.float64, device, seed).to(dtype)
        for seed, dtype in enumerate(dtypes)
    ]


@pytest.mark.parametrize(
    "gradients",
    [*((other,) for other in OTHER_DTYPES), *itertools.permutations(OTHER_DTYPES, 2)],
    ids=str,
)
def test_backward_ops_promote(
    impl: Implementation, device: str, dtype: torch.dtype, gradients: tuple[torch.dtype, ...]
) -> None:
    tensors = operands((*gradients, dtype), device)
    common = functools.reduce(torch.promote_types, (*gradients, dtype))
    expected = impl.apply(*(t.to(common) for t in tensors))
    assert reference.same_bits(impl.apply(*tensors), expected)
    recorded = impl.apply(*tensors[:-1], tensors[-1].clone().requires_grad_())
    torch.testing.assert_close(recorded.detach(), expected)
    if impl.name == "compiled":
        assert impl.apply(*(t.to("meta") for t in tensors)).dtype == common


@pytest.mark.parametrize("kept", [torch.float64, torch.float16], ids=str)
def test_hooks_that_keep_another_dtype(
    impl: Implementation, device: str, kept: torch.dtype
) -> None:
    x = layouts.normal((9,), torch.float32, device).requires_grad_()
    with saved_tensors_hooks(lambda t: t.to(kept), lambda t: t):
        result = impl.mish(x)
    for order in (1, 2):
        (result,) = grad(result.sum(), x, create_graph=True)
        expected = reference.mish(x.to(kept), order).float()
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


# --- Sparse ---

# Where a gradient has elements: in rows, one of them twice, as that of F.embedding; at single
# places, as that of gather.
PLACES = {"rows": [[1, 2, 2, 4]], "no rows": [[]], "single": [[0, 1, 1, 1], [2, 0, 1, 1]]}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_sparse_gradients(
    impl: Implementation, device: str, dtype: torch.dtype, places: list[list[int]]
) -> None:
    """Give sparse derivatives, the second too, which F.mish lacks. Third ones raise, since torch's
    own of sparse products are wrong."""
    x = layouts.normal((5, 3), dtype, device).requires_grad_()
    dense = layouts.normal((5, 3), dtype, device, seed=1)
    where = torch.tensor(places, dtype=torch.int64, device=device)
    sparse = torch.sparse_coo_tensor(where, dense[tuple(where)], x.shape, check_invariants=True)
    plain = x.detach()
    found = [((*g, plain), impl.apply(*g, plain)) for g in ((sparse, dense), (dense, sparse))]
    # Eager mish_ writes by copy_, which takes no sparse gradient.
    for y in [impl.mish(x)] if impl.name == "eager" else [impl.mish(x), impl.mish_(x * 1)]:
        (first,) = grad(y, x, sparse, create_graph=True)
        (second,) = grad(first, x, sparse)
        found += [((sparse, plain), first), ((sparse, sparse, plain), second)]
    for operands, result in found:
        assert (result.layout, result.dtype) == (torch.sparse_coo, dtype)
        torch.testing.assert_close(result.to_dense(), impl.apply(*map(Tensor.to_dense, operands)))


@pytest.mark.parametrize("sparse", [True, False])
def test_second_derivative_through_rows(impl: Implementation, device: str, sparse: bool) -> None:
    """Where the sparse gradient depends on x itself."""
    x = layouts.normal((5, 3), torch.float64, device).requires_grad_()
    rows = torch.tensor([1, 2, 2, 4], device=device)
    results = []
    for mish, is_sparse in ((impl.mish, sparse), (F.mish, False)):
        chosen = F.embedding(rows, mish(x), sparse=is_sparse)
        (first,) = grad(chosen.square().sum(), x, create_graph=True)
        (second,) = grad((first.to_dense() if first.is_sparse else first).sum(), x)
        results.append(second.to_dense() if second.is_sparse else second)
    torch.testing.assert_close(*results)


# --- Jagged ---


@pytest.mark.parametrize("lengths", [None, (2, 3, 1)], ids=["whole", "with holes"])
@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivative_of_jagged_tensors(
    impl: Implementation, device: str, dtype: torch.dtype, lengths: Any, transposed: bool
) -> None:
    """The same as for a dense program on their values."""

    def values(x: Tensor) -> Tensor:
        return x.values() if x.is_nested else x

    def derivatives(x: Tensor) -> list[Tensor]:
        found = []
        for y in (impl.mish(x), impl.mish_(x * 1)):
            (first,) = grad(values(y).square().sum(), x, create_graph=True)
            found += [y, first, *grad(values(first).sum(), x)]
        return [values(t) for t in found]

    offsets = torch.tensor([0, 4, 8, 10], device=device)
    rows = lengths and torch.tensor(lengths, device=device)
    dense = layouts.normal((10, 3), dtype, device)
    x = torch.nested.nested_tensor_from_jagged(dense, offsets, rows).requires_grad_()
    x = x.transpose(1, 2) if transposed else x
    torch.testing.assert_close(derivatives(x), derivatives(x.values().detach().requires_grad_()))


# --- Tangents ---


def test_tangents_of_another_dtype(impl: Implementation, device: str, dtype: torch.dtype) -> None:
    """As a caller may pass them."""
    for other in DTYPES:
        tangent, x = operands((other, dtype), device)
        with fwAD.dual_level():
            dual = fwAD.make_dual(x, tangent)
            ours, torchs = (fwAD.unpack_dual(by.mish(dual)).tangent for by in (impl, TORCH))
        assert torchs is not None
        exact = tangent.double() * reference.mish(x, 1)
        torch.testing.assert_close(ours, exact.to(torchs.dtype))


def test_tangent_that_is_zero_without_memory(impl: Implementation, device: str) -> None:
    functions = [impl.mish, lambda dual: impl.mish_(dual.clone())]
    if impl.name == "compiled":  # where the dual is overwritten torch's own ops raise, F.mish too
        functions.append(impl.mish_)
    x = torch.ones(3, device=device)
    for function in functions:
        with fwAD.dual_level():
            dual = fwAD.make_dual(x.clone(), torch._efficientzerotensor(3, device=device))
            primal, tangent = fwAD.unpack_dual(function(dual))
            assert tangent is not None
            assert tangent.clone().eq(0).all()
            torch.testing.assert_close(primal, impl.mish(x))


# --- Tensors saved for the backward pass ---


def test_saved_tensors(impl: Implementation, device: str, dtype: torch.dtype) -> None:
    """The inputs alone, without a copy unless they are overwritten."""
    x, g = (leaf(10, device=device, dtype=dtype, seed=seed) for seed in range(2))
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        impl.mish(x)
        impl.mish_backward(g, x)
        impl.mish_(x * 1)
    assert [t.data_ptr() for t in saved[:3]] == [t.data_ptr() for t in (x, g, x)]
    assert len(saved) == 4
    assert torch.equal(saved[3], x)


# --- Nodes of the graph: they have what torch's own have ---

# What a node of each kind saves, in the order of its edges. The gradient of the first is f'(self).
SAVED = {"MishCudaBackward": ["self"], "MishCudaBackwardBackward": ["grad_output", "self"]}
EVERY_NODE = pytest.mark.parametrize("name", SAVED)


@EVERY_NODE
def test_node(impl: Implementation, device: str, name: str) -> None:
    """Names, edges, metadata, hooks, what it saves, and that none of this outlives a backward."""
    saved = {of: leaf(6, device=device, seed=len(of)) for of in SAVED[name]}
    y: Any = impl.apply(*saved.values())
    node = y.grad_fn
    assert isinstance(node, Node)
    assert issubclass(type(node), Node)
    assert name == node.name() == type(node).__name__
    assert f"grad_fn=<{name}>" in repr(y)
    torchs = F.mish(saved["self"]).grad_fn
    assert {*dir(node)} >= {a for a in dir(torchs) if not a.startswith(("__", "_saved_"))}
    for prefix in ("_saved_", "_raw_saved_"):
        found = {a.removeprefix(prefix) for a in dir(node) if a.startswith(prefix)}
        assert found - {"tensors"} == {*saved}
    for (of, x), (edge, number) in zip(saved.items(), node.next_functions, strict=True):
        assert getattr(node, f"_saved_{of}") is edge.variable is x
        assert number == 0

    calls: list[str] = []
    node.metadata["layer"] = "activation"
    assert y.grad_fn is node
    assert y.grad_fn.metadata == {"layer": "activation"}
    node.register_prehook(lambda grads: calls.append("before") or (grads[0] * 3,))
    node.register_hook(lambda results, grads: calls.append("after"))
    node._raw_saved_self.register_hooks(lambda t: t * 2, lambda t: t + 1)
    assert torch.equal(node._saved_self, saved["self"] * 2 + 1)
    (result, *_) = grad(y.sum(), [*saved.values()])
    assert calls == ["before", "after"]
    torch.testing.assert_close(result, 3 * reference.mish(saved["self"] * 2 + 1, 1))

    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    for of in saved:
        with pytest.raises(RuntimeError, match="already been freed"):
            getattr(node, f"_saved_{of}")
        with pytest.raises(RuntimeError):
            getattr(node, f"_raw_saved_{of}").register_hooks(lambda t: t, lambda t: t)


@EVERY_NODE
def test_a_raw_saved_tensor_outlives_the_graph(
    compiled: Implementation, device: str, name: str
) -> None:
    """The saved tensors of torch's own nodes and of Python functions crash here."""
    y: Any = compiled.apply(*(leaf(6, device=device) for _ in SAVED[name]))
    raw = getattr(y.grad_fn, f"_raw_saved_{SAVED[name][0]}")
    del y
    gc.collect()
    raw.register_hooks(lambda t: t, lambda t: t)


def test_a_node_keeps_nothing_alive_after_its_graph(impl: Implementation, device: str) -> None:
    inner = leaf(6, device=device) * 1
    y: Any = impl.mish(inner)
    saved = weakref.ref(inner)
    assert y.grad_fn._saved_self is inner
    del inner
    assert saved() is not None
    y.sum().backward()
    gc.collect()
    assert saved() is None


def test_anomaly_mode_names_the_node(impl: Implementation, device: str) -> None:
    x = leaf(6, device=device)
    with (
        pytest.warns(UserWarning, match=r"(?s)MishCudaBackward.*test_autograd"),
        pytest.raises(RuntimeError, match="MishCudaBackward"),
        torch.autograd.detect_anomaly(),
    ):
        impl.mish(x).backward(torch.full_like(x, torch.nan))
