"""Programs of every kind give the results and gradients that they give with F.mish in float64.

A row of a table is one use of Mish. Random programs write in place, through views too, and detach,
so they try what is saved for the gradient and when; ``make fuzz`` tries thousands of new ones.
torch.func: test_transforms.py; other dtypes, sparse gradients: test_autograd.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import (
    allow_mutation_on_saved_tensors,
    get_gradient_edge,
    saved_tensors_hooks,
)
from torch.func import jvp
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import layouts
from conftest import PUBLIC, TORCH, Implementation
from mish_cuda._extension import C

Program = Callable[[Implementation, Tensor], Any]


# --- Programs that the compiler traces, too ---


TRACED: dict[str, Program] = {
    "twice": lambda m, x: m.mish(2 * m.mish(x)),
    "in place": lambda m, x: m.mish_(x * 1),
    "a mask": lambda m, x: m.mish(x[x > 0]),  # the number of elements depends on values
    "a branch": lambda m, x: torch.cond(
        x.sum() > 0, lambda x: m.mish(x), lambda x: m.mish(-x), [x]
    ),
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


def saved_in_another_form(m: Implementation, x: Tensor) -> list[Tensor]:
    with saved_tensors_hooks(lambda t: t.numpy(force=True), lambda a: torch.from_numpy(a).to(x)):
        return second_derivative(m, x)


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


def counted_writes(m: Implementation, x: Tensor) -> Tensor:
    """As the versions by which saved tensors detect them."""
    written = x.detach().clone()
    view, versions = written[2:], [written._version]
    for write in (m.mish_, lambda t: m.mish(x.detach(), out=t)):
        write(written)
        versions += [written._version, view._version]
    m.mish(written)
    return torch.tensor([*versions, written._version])


def what_is_recorded(m: Implementation, x: Tensor) -> Tensor:
    """Nothing without need; and writes to a leaf are allowed, as in an optimiser."""
    results = [m.mish(x.detach())]
    with torch.no_grad():
        results += [m.mish(x), m.mish_(x), m.mish(x, out=torch.empty_like(x))]
    with torch.inference_mode():
        results += [m.mish_(m.mish(x.detach()))]
    return torch.tensor([(y.requires_grad, y.is_leaf, y.is_inference()) for y in results])


def save_mish() -> Any:
    """Recomputes in backward all but Mish."""
    ops: Any = [torch.ops.aten.mish.default]
    if C is not None:
        ops.append(torch.ops.mish_cuda.mish.default)
    return create_selective_checkpoint_contexts(ops)


def input_of_a_compiled_function(m: Implementation, x: Tensor) -> Tensor:
    """It is overwritten, is differentiated and is no leaf, as a part of a network gets it."""
    y = x * 1
    return torch.compile(m.mish_, backend="aot_eager")(y).square() + y


def backward_by_the_compiler(m: Implementation, x: Tensor) -> list[Any]:
    """Nodes and saved tensors are traced."""
    y = m.mish_backward(m.mish(m.mish_(2 * x)), x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        y.sum().backward()
    return [x.grad]


EAGER_ONLY: dict[str, Program] = {
    "input of a compiled function": input_of_a_compiled_function,
    "backward by the compiler": backward_by_the_compiler,
    "reentrant checkpoint": lambda m, x: checkpoint(
        lambda x: m.mish_(m.mish(2 * x) + 1), x, use_reentrant=True
    ),
    "selective checkpoint": lambda m, x: checkpoint(
        lambda x: m.mish(x) * m.mish(2 * x), x, use_reentrant=False, context_fn=save_mish
    ),
    "gradient edge": gradient_edge,
    "saved tensor overwritten": saved_tensor_overwritten,
    "second derivative": second_derivative,
    "second derivative, negated": lambda m, x: second_derivative(m, negated(x)),
    "gradient, negated": lambda m, x: (
        m.mish_backward(negated(x), x) + m.mish_backward(x, negated(x))
    ),
    "write to a negated view": write_to_negated,
    "saved in another form": saved_in_another_form,
    "TwoTensor": around_two_tensors,
    "no gradient from above": no_gradient_from_above,
    "counted writes": counted_writes,
    "what is recorded": what_is_recorded,
}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without a graph break."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


HOW: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "eager": lambda function: function,
    "compiled": compiled,
    "functionalized": torch.func.functionalize,
}


def run(program: Program, m: Implementation, x: Tensor, how: str = "eager") -> list[Tensor]:
    """The program's results, and the gradient of one that has a graph."""
    leaf = x.clone().requires_grad_()
    result = HOW[how](partial(program, m))(leaf)
    if isinstance(result, Tensor) and result.requires_grad:
        result.square().sum().backward()
        result = [result.detach(), leaf.grad]
    return result if isinstance(result, list) else [result]


def check(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*TRACED, *EAGER_ONLY])
def test_eager(impl: Implementation, device: str, name: str) -> None:
    program, x = {**TRACED, **EAGER_ONLY}[name], layouts.normal((5, 3), torch.float64, device)
    check(run(program, impl, x), run(program, TORCH, x))


@pytest.mark.parametrize("name", TRACED)
def test_compiled(public: str, device: str, name: str) -> None:
    x = layouts.normal((5, 3), torch.float64, device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        actual = run(TRACED[name], PUBLIC, x, "compiled")
    check(actual, run(TRACED[name], TORCH, x))


# --- What a program writes to ---

WRITES: dict[str, Callable[[Implementation, Tensor, Tensor], Tensor]] = {
    "mish_": lambda m, x, y: m.mish_(x),
    "out": lambda m, x, y: m.mish(x, out=y),
    "mish_ of a view": lambda m, x, y: m.mish_(x[1:]),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", WRITES)
def test_writes_to_arguments(public: str, device: str, name: str, how: str) -> None:
    def written(function: Callable[..., Tensor]) -> list[Tensor]:
        arguments = [layouts.normal((4, 6), torch.float64, device, seed) for seed in range(2)]
        return [function(*arguments), *arguments]

    check(written(HOW[how](partial(WRITES[name], PUBLIC))), written(partial(WRITES[name], TORCH)))


# --- Random programs ---


def on_slice(tensor: Tensor) -> Tensor:
    return tensor.flatten()[1::2] if tensor.is_contiguous() else tensor[..., 1:]


def put(values: list[Tensor], new: Tensor) -> None:
    """A result becomes the current value; the one before it can still be used."""
    values[:] = [new, values[0]]


def write_without_grad(values: list[Tensor], m: Implementation) -> None:
    with torch.no_grad():
        values[0].mul_(0.5)


# values[0] is the current tensor, values[1] the one before. Steps in place overwrite values[0].
STEPS: dict[str, Callable[[list[Tensor], Implementation], None]] = {
    "mish": lambda v, m: put(v, m.mish(v[0])),
    "mish_": lambda v, m: put(v, m.mish_(v[0])),
    "mish_ of a view": lambda v, m: put(v, m.mish_(on_slice(v[0]))),
    "mish of the other": lambda v, m: put(v, m.mish(v[1])),
    "mish twice": lambda v, m: put(v, m.mish(m.mish(v[0]))),
    "mish_ of mish": lambda v, m: put(v, m.mish_(m.mish(v[0]))),
    "mish without grad": lambda v, m: put(v, m.mish(v[0].detach()) + v[0]),
    "scale": lambda v, m: put(v, v[0] * 1.5),
    "add_": lambda v, m: put(v, v[0].add_(1.0)),
    "mul_": lambda v, m: put(v, v[0].mul_(-0.5)),
    "add_ the other": lambda v, m: put(v, v[0].add_(v[1].sum())),
    "sigmoid_": lambda v, m: put(v, v[0].sigmoid_()),
    "write to a view": lambda v, m: put(v, on_slice(v[0]).add_(2.0)),
    "fill a view": lambda v, m: put(v, on_slice(v[0]).zero_()),
    "copy_": lambda v, m: put(v, v[0].copy_(v[1].sum().expand_as(v[0]))),
    "write without grad": write_without_grad,
    "slice": lambda v, m: put(v, v[0][..., 1:] if v[0].shape[-1] > 2 else v[0]),
    "transpose": lambda v, m: put(v, v[0].mT if v[0].dim() > 1 else v[0]),
    "flatten": lambda v, m: put(v, v[0].flatten()),
    "strided": lambda v, m: put(v, on_slice(v[0]) if v[0].numel() > 4 else v[0]),
    "expand": lambda v, m: put(v, v[0].unsqueeze(0).expand(2, *v[0].shape).sum(1)),
    "sum to a number": lambda v, m: put(v, v[0].sum().reshape(1, 1).expand(2, 3)),
    "clone": lambda v, m: put(v, v[0].clone()),
    "detach": lambda v, m: put(v, v[0].detach()),
    "swap": lambda v, m: v.reverse(),
}


def outcome(
    steps: list[str], m: Implementation, device: str, how: str
) -> list[Tensor] | type[Exception]:
    """The final values of the program and its gradient, or the type of error that it raises."""

    def program(m: Implementation, x: Tensor) -> Tensor:
        values = [x * 1.0, x + 0.5]
        start = list(values)
        for step in steps:
            STEPS[step](values, m)
        return torch.cat([value.flatten() for value in (*values, *start)])

    x = torch.linspace(-3, 3, 12, dtype=torch.float64, device=device).reshape(3, 4)
    try:
        return run(program, m, x, how)
    except Exception as error:
        # What the compiler raises may say what it was that the eager program would have raised.
        return RuntimeError if isinstance(error, RuntimeError) else type(error)


def compare(steps: list[str], device: str, how: str) -> None:
    actual, expected = (outcome(steps, m, device, how) for m in (PUBLIC, TORCH))
    if isinstance(actual, list) and isinstance(expected, list):
        check(actual, expected)
    else:
        assert actual is expected


REGRESSIONS = [
    ["mish", "swap", "add_"],  # overwrites what the gradient needs: both raise
    ["mish_ of a view", "mish", "write to a view"],
    ["detach", "mish_", "mish"],
    ["mish", "mul_"],  # the gradient does not need the result
    ["sigmoid_", "mish_"],  # overwrites what another function saved: both raise
]
TIMES = int(os.environ.get("MISH_FUZZ", "1"))


def programs(count: int) -> Callable[[Any], Any]:
    """Tries the ``REGRESSIONS`` and ``count`` random ones, by default always the same."""

    def decorate(test: Any) -> Any:
        test = given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=7))(test)
        for steps in REGRESSIONS:
            test = example(steps=steps)(test)
        return settings(
            max_examples=count * TIMES,
            derandomize=TIMES == 1,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )(test)

    return decorate


# Anomaly mode warns of programs that are meant to raise.
@pytest.mark.filterwarnings("ignore:Error detected in")
@programs(300)
def test_random(public: str, device: str, steps: list[str]) -> None:
    compare(steps, device, "eager")


@pytest.mark.filterwarnings("ignore:Error detected in")
@programs(50)
def test_random_compiled(public: str, device: str, steps: list[str]) -> None:
    compare(steps, device, "compiled")
