"""Programs of every kind give the results and gradients that they give with F.mish in float64.

A row of a table is one use of Mish. Random programs: test_differential.py; torch.func:
test_transforms.py; other dtypes, sparse gradients: test_gradient_forms.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.autograd.graph import (
    allow_mutation_on_saved_tensors,
    get_gradient_edge,
    register_multi_grad_hook,
    save_on_cpu,
    saved_tensors_hooks,
)
from torch.func import jvp
from torch.nn.utils.parametrize import register_parametrization
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import layouts
import mish_cuda
from conftest import PUBLIC, TORCH, Implementation

Program = Callable[[Implementation, Tensor], Any]


# --- Programs that the compiler traces, too ---


def in_a_loop(m: Implementation, x: Tensor) -> Tensor:
    def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return count + 1, m.mish(y)

    # torch 2.13 does not differentiate it with all back ends.
    start = torch.zeros((), dtype=torch.int64, device=x.device), x.detach()
    return torch.while_loop(lambda count, y: count < 3, body, start)[1]


def networks_weight(m: Implementation, x: Tensor) -> Tensor:
    """Mish as a parametrization, of a layer's weight."""

    class Positive(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return m.mish(weight)

    layer = nn.utils.skip_init(nn.Linear, 3, 5, bias=False, device=x.device, dtype=x.dtype)
    nn.init.ones_(layer.weight)
    register_parametrization(layer, "weight", Positive())
    return torch.func.functional_call(layer, {"parametrizations.weight.original": x}, (x,))


TRACED: dict[str, Program] = {
    "twice": lambda m, x: m.mish(2 * m.mish(x)),
    "in place": lambda m, x: m.mish_(x * 1),
    "a mask": lambda m, x: m.mish(x[x > 0]),  # the number of elements depends on values
    "a branch": lambda m, x: torch.cond(
        x.sum() > 0, lambda x: m.mish(x), lambda x: m.mish(-x), [x]
    ),
    "a loop": in_a_loop,
    "checkpoint": lambda m, x: checkpoint(lambda x: m.mish(2 * x), x, use_reentrant=False),
    "backward, called": lambda m, x: m.mish_backward(x.sin(), x),
    "out": lambda m, x: m.mish(x.detach(), out=torch.empty_like(x)),
}


# --- Eager ones ---


def gradient_edge(m: Implementation, x: Tensor) -> list[Tensor]:
    y = m.mish(x)
    edge = get_gradient_edge(y)
    (at_edge,) = grad((y * 3).sum(), edge, retain_graph=True)
    del y
    return [at_edge, *grad(edge, x, torch.ones_like(x))]


def multi_grad_hook(m: Implementation, x: Tensor) -> list[Tensor]:
    seen: list[Any] = []
    y = m.mish(x)
    with register_multi_grad_hook([x, y], seen.extend):
        m.mish(y).sum().backward()
    return seen


def saved_tensor_overwritten(m: Implementation, x: Tensor) -> Tensor:
    with allow_mutation_on_saved_tensors():
        inner = x * 1
        y = m.mish(inner)
        inner.zero_()
        return grad(y.sum(), x)[0]


def second_derivative(m: Implementation, x: Tensor) -> list[Tensor]:
    y = m.mish(x)
    (first,) = grad(y.sum(), x, create_graph=True)
    return [y, first, *grad(first.sum(), x)]


def negated(x: Tensor) -> Tensor:
    """A view whose elements are negated when they are read."""
    result = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert result.is_neg()
    return result


def write_to_negated(m: Implementation, x: Tensor) -> list[Tensor]:
    memory = torch.complex(x, -x).detach()
    m.mish_(memory.conj().imag)
    return [memory.imag, *jvp(lambda x: m.mish_(negated(x)), (x.detach(),), (x.cos().detach(),))]


def offloaded(m: Implementation, x: Tensor) -> list[Tensor]:
    with save_on_cpu(pin_memory=x.is_cuda):
        return second_derivative(m, x)


def saved_in_another_form(m: Implementation, x: Tensor) -> list[Tensor]:
    with saved_tensors_hooks(lambda t: (t.numpy(force=True), t.device), lambda p: to_tensor(*p)):
        return second_derivative(m, x)


def to_tensor(array: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def around_two_tensors(m: Implementation, x: Tensor) -> list[Tensor]:
    """A wrapper subclass: value, derivatives, and a write in place."""
    pair = TwoTensor(x.detach().clone(), 2 * x.detach()).requires_grad_()
    results = second_derivative(m, pair)
    written = pair.detach().clone()
    assert m.mish_(written) is written
    return [part.detach() for pair in (*results, written) for part in (pair.a, pair.b)]


def no_gradient_from_above(m: Implementation, x: Tensor) -> list[Tensor]:
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.set_materialize_grads(False)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> None:
            return None

    g = torch.ones_like(x).requires_grad_()
    results = (
        grad(Stop.apply(y).sum(), [g, x], allow_unused=True, materialize_grads=True)
        for y in (m.mish(x), m.mish_backward(g, x))
    )
    return [gradient for gradients in results for gradient in gradients]


EAGER_ONLY: dict[str, Program] = {
    "reentrant checkpoint": lambda m, x: checkpoint(
        lambda x: m.mish_(m.mish(2 * x) + 1), x, use_reentrant=True
    ),
    "a parametrization": networks_weight,
    "gradient edge": gradient_edge,
    "multi-grad hook": multi_grad_hook,
    "saved tensor overwritten": saved_tensor_overwritten,
    "second derivative": second_derivative,
    "second derivative, negated": lambda m, x: second_derivative(m, negated(x)),
    "gradient, negated": lambda m, x: (
        m.mish_backward(negated(x), x) + m.mish_backward(x, negated(x))
    ),
    "write to a negated view": write_to_negated,
    "offloaded": offloaded,
    "saved in another form": saved_in_another_form,
    "TwoTensor": around_two_tensors,
    "no gradient from above": no_gradient_from_above,
}


def run(program: Program, m: Implementation, x: Tensor) -> list[Tensor]:
    """The program's results, and the gradient of one that has a graph."""
    leaf = x.clone().requires_grad_()
    result = program(m, leaf)
    if isinstance(result, Tensor) and result.requires_grad:
        result.square().sum().backward()
        result = [result.detach(), leaf.grad]
    return result if isinstance(result, list) else [result]


@pytest.mark.parametrize("name", [*TRACED, *EAGER_ONLY])
def test_eager(impl: Implementation, device: str, name: str) -> None:
    program, x = {**TRACED, **EAGER_ONLY}[name], layouts.normal((5, 3), torch.float64, device)
    actual, expected = (run(program, m, x) for m in (impl, TORCH))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", TRACED)
def test_compiled(public: str, device: str, name: str) -> None:
    """Without a graph break."""
    torch._dynamo.reset()
    x = layouts.normal((5, 3), torch.float64, device)
    program = partial(TRACED[name], PUBLIC)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
        actual = run(lambda m, x: compiled(x), PUBLIC, x)
    torch.testing.assert_close(actual, run(TRACED[name], TORCH, x), rtol=1e-9, atol=1e-11)


# --- What a program writes to ---

WRITES: dict[str, Callable[[Implementation, Tensor, Tensor], Tensor]] = {
    "mish_": lambda m, x, y: m.mish_(x),
    "out": lambda m, x, y: m.mish(x, out=y),
    "mish_ of a view": lambda m, x, y: m.mish_(x[1:]),
}


@pytest.mark.parametrize("how", ["eager", "compiled", "functionalized"])
@pytest.mark.parametrize("name", WRITES)
def test_writes_to_arguments(public: str, device: str, name: str, how: str) -> None:
    def written(function: Any) -> list[Tensor]:
        arguments = [layouts.normal((4, 6), torch.float64, device, seed) for seed in range(2)]
        return [function(*arguments), *arguments]

    function: Any = partial(WRITES[name], PUBLIC)
    if how == "compiled":
        torch._dynamo.reset()
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    elif how == "functionalized":
        function = torch.func.functionalize(function)
    reference = partial(WRITES[name], TORCH)
    torch.testing.assert_close(written(function), written(reference), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize")
def test_dynamically_quantized_model(public: str) -> None:
    """Linear layers in 8 bits, Mish between them in 32."""
    outputs = []
    for layer in (mish_cuda.Mish, nn.Mish):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), layer(), nn.Linear(5, 4), layer(inplace=True))
        quantized = torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear})
        assert "Dynamic" in repr(quantized[0])
        outputs.append(quantized(torch.randn(7, 6)))
    torch.testing.assert_close(*outputs)
