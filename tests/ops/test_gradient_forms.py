"""Every form of gradients and tangents that torch passes: another dtype than the input's, sparse,
jagged, zero without memory. Of numbers: test_transforms.py; negated: test_programs.py."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwAD
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
        expected = impl.apply(*map(Tensor.to_dense, operands))
        torch.testing.assert_close(result.to_dense(), expected)


# --- Jagged ---


def jagged(dtype: torch.dtype, device: str, lengths: Tensor | None = None) -> Tensor:
    values = layouts.normal((10, 3), dtype, device)
    offsets = torch.tensor([0, 4, 8, 10], device=device)
    return torch.nested.nested_tensor_from_jagged(values, offsets, lengths).requires_grad_()


JAGGED: dict[str, Callable[[torch.dtype, str], Tensor]] = {
    "jagged": jagged,
    "with holes": lambda dtype, device: jagged(dtype, device, torch.tensor([2, 3, 1]).to(device)),
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
        primal, tangent = fwAD.unpack_dual(WRITES[write](impl, dual))
        assert tangent is not None
        assert tangent.clone().eq(0).all()
        torch.testing.assert_close(primal, impl.mish(x))
