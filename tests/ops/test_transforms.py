"""Transforms of torch.func, alone and nested, eager and compiled, over each form of a call of Mish.

The result is compared with that of the same transforms over the textbook formula in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import layouts
import mish_cuda
from conftest import TORCH, Implementation

# Without a rule of its own an op is called once for every element of the batch.
pytestmark = pytest.mark.filterwarnings("error:.*performance drop")

Function = Callable[[Tensor], Tensor]


def number(f: Function) -> Function:
    """A function whose value is a number."""

    def function(x: Tensor) -> Tensor:
        y = f(x)
        return y.square().sum() if y.dim() else y

    return function


# Each makes another function whose value is a number of one, so any can follow any.
TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda u: number(grad(u)),
    "jacrev": lambda u: number(jacrev(u)),
    "jacfwd": lambda u: number(jacfwd(u)),
    "jvp": lambda u: lambda x: jvp(u, (x,), (torch.ones_like(x),))[1],
    "vmap": lambda u: lambda x: vmap(u)(torch.stack([x, -2 * x])).sum(),
    "vjp": lambda u: number(lambda x: vjp(u, x)[1](x.new_ones(()))[0]),
    "hessian": lambda u: number(hessian(u)),
    "functionalize": functionalize,
    "linearize": lambda u: lambda x: linearize(u, x)[1](torch.ones_like(x)),
    "jacobian": lambda u: lambda x: jacobian(u, x, vectorize=True, strategy="forward-mode"),
}
NESTABLE = ["grad", "jacrev", "jacfwd", "jvp", "vmap"]
NESTED = [(), ("vjp",), ("hessian",), *product(NESTABLE), *product(NESTABLE, repeat=2)]
DEEPER = [("linearize",), *product(NESTABLE, repeat=3)]


def apply(transforms: tuple[str, ...], u: Function) -> Function:
    """The last of the transforms is the innermost."""
    for name in reversed(transforms):
        u = TRANSFORMS[name](u)
    return u


X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
WEIGHT = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def between_products(activation: Function) -> Function:
    """A network of two activations."""

    def function(x: Tensor) -> Tensor:
        weight = WEIGHT.to(x.device)
        return activation(activation(x @ weight.T) @ weight)

    return number(function)


def in_place_of_a_view(x: Tensor) -> Tensor:
    """The view that is written to is what is differentiated."""
    return mish_cuda.mish_(torch.cat([x, x], -1)[..., x.shape[-1] :])


def overridden(x: Tensor) -> Tensor:
    with mish_cuda.override_torch():
        return F.mish(x)


FORMS: dict[str, Function] = {
    "function": lambda x: mish_cuda.mish(x),
    "override_torch": overridden,
    "in place": lambda x: mish_cuda.mish_(x.clone()),
    "in place of a view": in_place_of_a_view,
}


def check(transforms: tuple[str, ...], form: str, device: str, compiled: bool = False) -> None:
    x = X.to(device)
    expected = apply(transforms, between_products(lambda x: x * torch.tanh(F.softplus(x))))(x)
    function = apply(transforms, between_products(FORMS[form]))
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(function(x), expected, rtol=1e-9, atol=1e-12)


EAGER_CASES = [
    *product(FORMS, NESTED),
    *product(["function", "in place"], DEEPER),
    *product(
        FORMS, [(*outer, "functionalize") for outer in [(), ("grad",), ("grad",) * 2, ("jvp",)]]
    ),
]
# Only some: each takes the compiler seconds, and torch 2.13 cannot compile vmap or jvp of a hessian
# of any function.
DEEPER_COMPILED = [
    *(("grad",) * 3, ("jacrev", "hessian"), ("jacfwd", "jacrev", "jacrev")),
    *(("vmap", "jacrev", "grad"), ("grad", "vmap", "grad")),
]
# Programs that write are compiled by test_programs.py.
COMPILED_CASES = [
    *product(["function"], [*NESTED, *DEEPER_COMPILED]),
    *product(["override_torch"], [(), ("grad",), ("vmap", "jacfwd")]),
]


def name(of: str | tuple[str, ...]) -> str:
    return of if isinstance(of, str) else " of ".join(of)


@pytest.mark.parametrize(("form", "transforms"), EAGER_CASES, ids=name)
def test_eager(public: str, form: str, transforms: tuple[str, ...], device: str) -> None:
    if public == "eager" and "functionalize" in transforms and "in place" in form:
        pytest.skip(
            "eager mish_ writes by copy_, which torch makes into an op without a derivative"
        )
    check(transforms, form, device)


@pytest.mark.parametrize(("form", "transforms"), COMPILED_CASES, ids=name)
def test_compiled(public: str, form: str, transforms: tuple[str, ...], device: str) -> None:
    check(transforms, form, device, compiled=True)


OUT: dict[str, Function] = {"out": lambda x: mish_cuda.mish(x, out=torch.empty_like(x))}


@pytest.mark.parametrize("function", [*FORMS.values(), *OUT.values()], ids=[*FORMS, *OUT])
def test_functionalized_writes_become_values(public: str, function: Function, device: str) -> None:
    """Functionalized, no op writes to any of its arguments."""
    graph = make_fx(functionalize(function))(X.to(device)).graph
    ops = [node.target for node in graph.nodes if node.op == "call_function"]
    assert ops
    assert not any(op._schema.is_mutable for op in ops)


# --- Numbers: torch makes float64 tangents of 0-dim tensors times a number ---

SCALAR_PROGRAMS: dict[str, Callable[[Implementation, Tensor], Tensor]] = {
    "times a number": lambda impl, q: impl.mish(q * 2.0),
    "in place": lambda impl, q: impl.mish_(q / 3.0) + 1.5,
    "twice": lambda impl, q: impl.mish(impl.mish(q * 2.0) + q) ** 2,
    "expanded": lambda impl, q: impl.mish((q * 2.0).expand(3)).sum() * 1.5,
    "part of a tensor": lambda impl, q: impl.mish(torch.stack([q, q * 2.0])).mean(),
    "in place of a part": lambda impl, q: impl.mish_(torch.stack([q, q * 2.0])[1:]).sum(),
    "by a condition": lambda impl, q: torch.where(q > 0, impl.mish(q * 2.0), q),
    "in a batch": lambda impl, q: vmap(lambda q: impl.mish(q * 2.0) * 3.0)(q.expand(2)).sum(),
}


@pytest.mark.parametrize("name", SCALAR_PROGRAMS)
@pytest.mark.parametrize(
    "transforms",
    [
        *(("jvp",), ("jacfwd",), ("jacobian",), ("hessian",), ("vmap", "jacfwd")),
        *(("vmap", "hessian"), ("jacfwd", "jacfwd"), ("jacfwd", "grad"), ("grad", "jacfwd")),
    ],
    ids=" of ".join,
)
def test_forward_mode_of_scalars(
    impl: Implementation, device: str, dtype: torch.dtype, name: str, transforms: tuple[str, ...]
) -> None:
    if (name, transforms) == ("in place", ("jacfwd", "jacfwd")):
        pytest.skip("torch writes to no tangent that has a zero tangent: F.mish raises here, too")

    def derivative(impl: Implementation, q: Tensor) -> Tensor:
        return apply(transforms, lambda q: SCALAR_PROGRAMS[name](impl, q))(q)

    q = torch.tensor(0.4, dtype=dtype, device=device)
    result, torchs, exact = derivative(impl, q), derivative(TORCH, q), derivative(TORCH, q.double())
    digits = 5e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-5
    torch.testing.assert_close(result.double(), exact, rtol=digits, atol=digits)
    if impl.name == "compiled":  # in torch calls the dtype depends on how many there are
        assert result.dtype == torchs.dtype


# --- vmap over any dimension ---


@pytest.mark.parametrize(
    "in_dims",
    [
        *((0,), (1,), (2,), (-1,)),
        *((0, 0), (0, None), (None, 0), (1, 0), (0, 2)),
        *((0, 0, 0), (0, None, 1), (None, None, 0), (2, 0, None)),
    ],
    ids=str,
)
@pytest.mark.parametrize("out_dim", [0, 1, -1])
def test_vmap(
    impl: Implementation, device: str, in_dims: tuple[int | None, ...], out_dim: int
) -> None:
    """Of mish, mish_backward and mish_double_backward."""
    operands = [
        layouts.normal((4, 4) if dim is None else (4, 4, 4), torch.float64, device, seed)
        for seed, dim in enumerate(in_dims)
    ]
    aligned = [
        t.expand(4, 4, 4) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(operands, in_dims, strict=True)
    ]
    result = vmap(impl.apply, in_dims, out_dim)(*operands)
    torch.testing.assert_close(result, impl.apply(*aligned).movedim(0, out_dim))


def test_vmap_of_a_write_in_place(impl: Implementation, device: str) -> None:
    batch = layouts.normal((4, 5, 3), torch.float64, device)
    expected = impl.mish(batch)
    vmap(vmap(impl.mish_, 1), 2)(batch)
    torch.testing.assert_close(batch, expected)
