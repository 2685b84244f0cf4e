"""Transforms of torch.func, alone and nested, eager and compiled, over each form of a call of Mish,
and all that transforms, traces or wraps norms with Mish behind them.

The result is compared with that of the same transforms over the textbook formula in float64, or
over torch's norm with Mish behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_norm import NORMS, OURS, TORCHS, results
from test_programs import HOW, compiled
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import layouts
import mish_cuda
from conftest import EAGER, TORCH, Implementation, slow

# Without a rule of its own an op is called once for every element of the batch.
pytestmark = pytest.mark.filterwarnings("error:.*performance drop")

Function = Callable[[Tensor], Tensor]
Norm = Callable[..., Tensor]  # of input, weight and bias


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
FUNCTIONALIZED = [(*outer, "functionalize") for outer in [(), ("grad",), ("grad",) * 2, ("jvp",)]]
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


# Compiled, only some: each takes the compiler seconds, torch 2.13 cannot compile vmap or jvp of a
# hessian of any function, and programs that write are compiled by test_programs.py.
DEEPER_COMPILED = [
    *(("grad",) * 3, ("jacrev", "hessian"), ("jacfwd", "jacrev", "jacrev")),
    *(("vmap", "jacrev", "grad"), ("grad", "vmap", "grad")),
]
CASES = [
    *product(["eager"], FORMS, [*NESTED, *FUNCTIONALIZED]),
    *(slow("eager", *case) for case in product(["function", "in place"], DEEPER)),
    *(
        (slow if nested else pytest.param)("compiled", "function", nested)
        for nested in [*NESTED, *DEEPER_COMPILED]
    ),
    *product(["compiled"], ["override_torch"], [(), ("grad",), ("vmap", "jacfwd")]),
]


@pytest.mark.parametrize(
    ("how", "form", "transforms"),
    CASES,
    ids=lambda of: of if isinstance(of, str) else " of ".join(of),
)
def test_transforms(
    public: str, how: str, form: str, transforms: tuple[str, ...], device: str
) -> None:
    if public == "eager" and "functionalize" in transforms and "in place" in form:
        pytest.skip(
            "eager mish_ writes by copy_, which torch makes into an op without a derivative"
        )
    x = X.to(device)
    expected = apply(transforms, between_products(lambda x: x * torch.tanh(F.softplus(x))))(x)
    function = apply(transforms, between_products(FORMS[form]))
    torch.testing.assert_close(HOW[how](function)(x), expected, rtol=1e-9, atol=1e-12)


OPS: Any = torch.ops.mish_cuda
TRACED: dict[str, Function] = {
    **FORMS,
    "out": lambda x: mish_cuda.mish(x, out=torch.empty_like(x)),
    "batch norm": lambda x: OPS.batch_norm_mish(x, None, None, x[0, :, 0], x[1, :, 0], True),
    "group norm": lambda x: OPS.group_norm_mish(x, 2, x[0, :, 0], x[1, :, 0]),
}


@pytest.mark.parametrize("name", TRACED)
def test_traced(public: str, name: str, device: str) -> None:
    """The ops are gone from the graph and, functionalized, none writes to any of its arguments."""
    if public == "eager" and "norm" in name:
        pytest.skip("the ops by name")
    x = layouts.normal((3, 4, 20), torch.float64, device)
    traced = make_fx(TRACED[name] if "norm" in name else functionalize(TRACED[name]))(x)
    assert "mish_cuda" not in traced.code
    ops = {node.target for node in traced.graph.nodes if isinstance(node.target, OpOverload)}
    assert ops
    assert not any(op._schema.is_mutable for op in ops)
    for by in (traced, compiled(TRACED[name])):
        torch.testing.assert_close(by(x), TRACED[name](x))


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


IN_DIMS = [dims for count in (1, 2, 3) for dims in product([None, 0, 1, -1], repeat=count)]


@pytest.mark.parametrize("in_dims", [dims for dims in IN_DIMS if any(d is not None for d in dims)])
@pytest.mark.parametrize("out_dim", [0, 1, -1])
def test_vmap(
    compiled: Implementation, device: str, in_dims: tuple[int | None, ...], out_dim: int
) -> None:
    """Of mish, mish_backward and mish_double_backward, beside the rules of torch's functions."""
    operands = [
        layouts.normal((4, 4) if dim is None else (4, 4, 4), torch.float64, device, seed)
        for seed, dim in enumerate(in_dims)
    ]
    ours, torchs = (vmap(by.apply, in_dims, out_dim)(*operands) for by in (compiled, EAGER))
    torch.testing.assert_close(ours, torchs)


def test_vmap_of_a_write_in_place(impl: Implementation, device: str) -> None:
    batch = layouts.normal((4, 5, 3), torch.float64, device)
    expected = impl.mish(batch)
    vmap(vmap(impl.mish_, 1), 2)(batch)
    torch.testing.assert_close(batch, expected)


# --- Norms with Mish behind them ---

EVERY_NORM = pytest.mark.parametrize("norm", ["batch", "two groups", "frozen"])


def inputs(*shape: int, device: str = "cpu") -> list[Tensor]:
    tensors = torch.randn(shape), 1 + torch.randn(shape[1]) / 4, torch.randn(shape[1])
    return [t.to(device, torch.float64).requires_grad_() for t in tensors]


@EVERY_NORM
def test_gradients_of_every_order(norm: str, device: str) -> None:
    """Against finite differences, since torch's own third derivatives of batch_norm are wrong."""
    ours, tensors = partial(NORMS[norm], OURS), inputs(3, 4, 17, device=device)
    for wanted in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        assert gradcheck(ours, leaves, check_forward_ad=True)
    x, w, b = inputs(3, 2, 17, device=device)
    assert gradgradcheck(ours, (x, w, b))

    def slope(x: Tensor) -> Any:
        return torch.autograd.grad(ours(x, w, b).sin().sum(), x, create_graph=True)[0]

    assert gradgradcheck(slope, x)


# --- What is done with a norm: f of x, w and b, of which x and parts of it are inputs ---


def backward_by_the_compiler(f: Norm, *tensors: Tensor) -> list[Tensor | None]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiler = torch.compile(backend="aot_eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        f(*leaves).sin().sum().backward()
    return [leaf.grad for leaf in leaves]


def overwritten_afterwards(f: Norm, x: Tensor, w: Tensor, b: Tensor) -> None:
    inner = x.clone().requires_grad_() * 1
    y = f(inner, w, b)
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


USES: dict[str, Callable[[Norm, Tensor, Tensor, Tensor], Any]] = {
    # Without weight or bias, differentiable or not.
    "x, w": lambda f, x, w, b: results(f, x, w, None),
    "x, b": lambda f, x, w, b: results(f, x, None, b),
    "x twice": lambda f, x, w, b: results(f, x, None, None, create_graph=True),
    "x, w twice": lambda f, x, w, b: results(f, x, w, None, create_graph=True),
    "x, b twice": lambda f, x, w, b: results(f, x, None, b, create_graph=True),
    # Layouts.
    "channels_last": lambda f, x, w, b: f(x.contiguous(memory_format=torch.channels_last), w, b),
    "transposed": lambda f, x, w, b: f(x.transpose(2, 3), w, b),
    "steps": lambda f, x, w, b: f(x[:, :, ::2], w, b),
    "expanded": lambda f, x, w, b: f(x[:, :1].expand(5, 4, 6, 10), w, b),
    "offset in rows": lambda f, x, w, b: f(x.flatten(2)[:, :, 1:], w, b),
    "offset by one": lambda f, x, w, b: f(x.flatten()[1:1181].view(5, 4, 59), w, b),
    "gradient transposed": lambda f, *t: results(lambda *t: f(*t).transpose(2, 3), *t),
    "gradient expanded": lambda f, *t: results(lambda *t: f(*t).sum(), *t),
    # Transforms.
    "vmap": lambda f, x, w, b: torch.vmap(f)(x, x[:, 0, :, 0], x[:, 1, :, 0]),
    "vmap over another dimension": lambda f, x, w, b: torch.vmap(f, in_dims=(2, None, 0))(
        x, w, b.expand(6, 4) + x[0, 0, :, :1]
    ),
    "vmap of grad": lambda f, x, w, b: torch.vmap(grad(lambda *a: f(*a).sin().sum()))(
        x, x[:, 0, :, 0], x[:, 1, :, 0]
    ),
    "jvp": lambda f, x, w, b: jvp(f, (x, w, b), (x.cumsum(2), b, w)),
    "jvp of x": lambda f, x, w, b: jvp(lambda x: f(x, w, b), (x,), (x.cumsum(2),)),
    "jacrev": lambda f, x, w, b: jacrev(f, argnums=1)(x, w, b),
    "jacfwd": lambda f, x, w, b: jacfwd(f, argnums=2)(x, w, b),
    "hessian": lambda f, x, w, b: hessian(lambda w: f(x, w, b).sin().sum())(w),
    # Compilers.
    "compiled": lambda f, *tensors: results(compiled(f), *tensors),
    "compiled for any size": lambda f, *tensors: results(compiled(f, dynamic=True), *tensors),
    "backward by the compiler": backward_by_the_compiler,
    "inference mode": lambda f, *tensors: torch.inference_mode()(f)(*tensors),
    "overwritten afterwards": overwritten_afterwards,
}


@EVERY_NORM
@pytest.mark.parametrize("use", [slow(use) if "compile" in use else use for use in USES])
def test_uses(norm: str, use: str, device: str) -> None:
    torch._dynamo.reset()
    not_in_2_9 = ("compiled for any size", "backward by the compiler")
    if norm == "two groups" and use in not_in_2_9 and torch.__version__.startswith("2.9."):
        pytest.skip("torch 2.9 fails for its own group_norm here")
    tensors = [t.detach() for t in inputs(5, 4, 6, 10, device=device)]
    ours, torchs = (USES[use](partial(NORMS[norm], of), *tensors) for of in (OURS, TORCHS))
    torch.testing.assert_close(ours, torchs, check_stride=device == "cpu")


def test_running_statistics_may_change_before_backward() -> None:
    x = torch.randn(3, 4, 20, requires_grad=True)
    mean, var = torch.zeros(4), torch.ones(4)
    y = mish_cuda.batch_norm_mish(x, mean, var)
    mish_cuda.batch_norm_mish(x, mean, var, training=True)
    y.sum().backward()
    with torch.inference_mode():  # and be made here
        mean, var = torch.zeros(4), torch.ones(4)
        mish_cuda.batch_norm_mish(x, mean, var, training=True)
        assert mean.abs().sum() > 0
