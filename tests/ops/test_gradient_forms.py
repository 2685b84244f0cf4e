"""Every form of gradients and tangents that torch passes: another dtype than the input's, sparse,
jagged, zero without memory. Of numbers: test_transforms.py; negated: test_programs.py."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks

import layouts
import reference
from conftest import TORCH, Implementation
from reference import DTYPES

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

Select = Callable[[Tensor, bool], Tensor]  # some elements, with a sparse gradient or a dense one


def embedded(y: Tensor, sparse: bool, rows: tuple[int, ...] = (1, 2, 2, 4)) -> Tensor:
    indices = torch.tensor(rows, dtype=torch.int64, device=y.device)
    return F.embedding(indices, y, sparse=sparse)


def embedded_in_bags(y: Tensor, sparse: bool) -> Tensor:
    rows, offsets = torch.tensor([[1, 2, 2, 4], [0, 1, 1, 3]], device=y.device)
    return F.embedding_bag(rows, y, offsets=offsets, sparse=sparse, mode="sum")


SELECTIONS: dict[str, Select] = {
    "gathered": lambda y, sparse: y.gather(
        0, torch.tensor([[0, 1, 1], [2, 0, 1]], device=y.device), sparse_grad=sparse
    ),
    "embedded": embedded,
    "embedded and dense": lambda y, sparse: torch.cat([embedded(y, sparse), y]),
    "nothing": lambda y, sparse: embedded(y, sparse, ()),
    "in bags": embedded_in_bags,
}


def dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


@pytest.mark.parametrize("name", SELECTIONS)
def test_sparse_gradient(impl: Implementation, device: str, dtype: torch.dtype, name: str) -> None:
    if name == "in bags" and dtype in (torch.float16, torch.bfloat16):
        pytest.skip("torch's own sparse gradient of it is in float32 and float64 only")
    select = SELECTIONS[name]
    x = layouts.normal((5, 3), dtype, device).requires_grad_()
    (torchs,) = grad(select(F.mish(x), True).sum(), x)
    wide = x.detach().double().requires_grad_()
    (exact,) = grad(select(F.mish(wide), False).sum(), wide)
    results = [impl.mish(x)]
    if impl.name == "compiled":  # Eager mish_ writes by copy_, which takes no sparse gradient.
        results.append(impl.mish_(x * 1))
    for y in results:
        (result,) = grad(select(y, True).sum(), x)
        assert (result.layout, result.dtype) == (torchs.layout, torchs.dtype)
        torch.testing.assert_close(dense(result), exact.to(dtype))


@pytest.mark.parametrize("name", ["gathered", "embedded", "embedded and dense"])
def test_second_derivative_through_a_sparse_gradient(
    impl: Implementation, device: str, name: str
) -> None:
    """F.mish has none. Third derivatives raise, since torch's own of sparse products are wrong."""

    def derivative(mish: Callable[[Tensor], Tensor], sparse: bool) -> Tensor:
        x = layouts.normal((5, 3), torch.float64, device).requires_grad_()
        selected = SELECTIONS[name](mish(x), sparse)
        (first,) = grad(selected.square().sum(), x, create_graph=True)
        (second,) = grad(dense(first).sum(), x)
        return dense(second)

    torch.testing.assert_close(derivative(impl.mish, True), derivative(F.mish, False))


# --- Jagged ---


def jagged(dtype: torch.dtype, device: str) -> Tensor:
    rows = [layouts.normal((n, 3), dtype, device, seed=n) for n in (2, 5, 1)]
    return torch.nested.nested_tensor(rows, layout=torch.jagged).requires_grad_()


def with_holes(dtype: torch.dtype, device: str) -> Tensor:
    values = layouts.normal((10, 3), dtype, device)
    offsets, lengths = torch.tensor([[0, 4, 8], [2, 3, 0]], device=device)
    return torch.nested.nested_tensor_from_jagged(values, offsets, lengths[:2]).requires_grad_()


JAGGED: dict[str, Callable[[torch.dtype, str], Tensor]] = {
    "jagged": jagged,
    "with holes": with_holes,
    "transposed": lambda dtype, device: jagged(dtype, device).transpose(1, 2),
}


@pytest.mark.parametrize("name", JAGGED)
@pytest.mark.parametrize("inplace", [False, True])
def test_second_derivative_of_jagged_tensors(
    impl: Implementation, device: str, dtype: torch.dtype, name: str, inplace: bool
) -> None:
    """The same as for a dense program on their values."""

    def values(x: Tensor) -> Tensor:
        return x.values() if x.is_nested else x

    def derivatives(x: Tensor) -> list[Tensor]:
        y = impl.mish_(x * 1) if inplace else impl.mish(x)
        (first,) = grad(values(y).square().sum(), x, create_graph=True)
        (second,) = grad(values(first).sum(), x)
        return [values(t) for t in (y, first, second)]

    x = JAGGED[name](dtype, device)
    torch.testing.assert_close(derivatives(x), derivatives(x.values().detach().requires_grad_()))


# --- Zero without memory ---


WRITES: dict[str, Callable[[Implementation, Tensor], Tensor]] = {
    "none": lambda impl, dual: impl.mish(dual),
    "to a copy": lambda impl, dual: impl.mish_(dual.clone()),
    "to the dual": lambda impl, dual: impl.mish_(dual),
}


@pytest.mark.parametrize("write", WRITES)
def test_tangent_that_is_zero_without_memory(impl: Implementation, device: str, write: str) -> None:
    if write == "to the dual" and impl.name == "eager":
        pytest.skip("torch's own ops, F.mish included, raise here")
    x = torch.ones(3, device=device)
    with fwAD.dual_level():
        dual = fwAD.make_dual(x.clone(), torch._efficientzerotensor(3, device=device))
        result = WRITES[write](impl, dual)
        primal, tangent = fwAD.unpack_dual(result)
        assert tangent is not None
        assert tangent.clone().eq(0).all()
        torch.testing.assert_close(primal, impl.mish(x))
