"""Programs of every kind give the results and gradients that they give with F.mish in float64.

A row of a table is one use of Mish. Random programs write in place, through views too, and detach,
so they try what is saved for the gradient and when; ``make fuzz`` tries thousands of new ones.
torch.func: test_transforms.py; other dtypes, sparse gradients: test_autograd.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import allow_mutation_on_saved_tensors, get_gradient_edge
from torch.func import jvp
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import layouts
from conftest import PUBLIC, TORCH, Implementation, slow
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


def around_two_tensors(m: Implementation, x: Tensor) -> list[Tensor]:
    """A wrapper subclass: value, derivatives, and a write in place."""
    pair = TwoTensor(x.detach().clone(), 2 * x.detach()).requires_grad_()
    results = second_derivative(m, pair)
    written = pair.detach().clone()
    assert m.mish_(written) is written
    return [part.detach() for pair in (*results, written) for part in (pair.a, pair.b)]


def what_is_recorded(m: Implementation, x: Tensor) -> Tensor:
    """Nothing without need; and writes to a leaf are allowed, as in an optimiser."""
    results = [m.mish(x.detach())]
    with torch.no_grad():
        results += [m.mish(x), m.mish_(x), m.mish(x, out=torch.empty_like(x))]
    with torch.inference_mode():
        results += [m.mish_(m.mish(x.detach()))]
    return torch.tensor([(y.requires_grad, y.is_leaf, y.is_inference()) for y in results])


def selective_checkpoint(m: Implementation, x: Tensor) -> Any:
    """Recomputes in backward all but Mish."""
    ours = [] if C is None else [torch.ops.mish_cuda.mish.default]
    kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mish.default, *ours])
    return checkpoint(lambda x: m.mish(x) * m.mish(2 * x), x, use_reentrant=False, context_fn=kept)


def input_of_a_compiled_function(m: Implementation, x: Tensor) -> Tensor:
    """It is overwritten, is differentiated and is no leaf, as a part of a network gets it."""
    if torch.__version__.startswith("2.9."):
        pytest.skip("torch 2.9 raises for its own mish_ here, too")
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
    "selective checkpoint": selective_checkpoint,
    "gradient edge": gradient_edge,
    "saved tensor overwritten": saved_tensor_overwritten,
    "second derivative, negated": lambda m, x: second_derivative(m, negated(x)),
    "gradient, negated": lambda m, x: (
        m.mish_backward(negated(x), x) + m.mish_backward(x, negated(x))
    ),
    "write to a negated view": write_to_negated,
    "TwoTensor": around_two_tensors,
    "what is recorded": what_is_recorded,
}


def compiled(function: Callable[..., Any], dynamic: bool | None = None) -> Callable[..., Any]:
    """Without a graph break."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")


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


@pytest.mark.parametrize(
    ("how", "name"), [*product(["eager", "compiled"], TRACED), *product(["eager"], EAGER_ONLY)]
)
def test_programs(public: str, device: str, how: str, name: str) -> None:
    program, x = {**TRACED, **EAGER_ONLY}[name], layouts.normal((5, 3), torch.float64, device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        actual = run(program, PUBLIC, x, how)
    check(actual, run(program, TORCH, x))


# --- What a program writes to ---

WRITES: dict[str, Program] = {
    "mish_": lambda m, x: m.mish_(x),
    "out": lambda m, x: m.mish(x.sin(), out=x),
    "mish_ of a view": lambda m, x: m.mish_(x[1:]),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", WRITES)
def test_writes_to_the_argument(public: str, device: str, name: str, how: str) -> None:
    ours, torchs = (layouts.normal((4, 6), torch.float64, device) for _ in range(2))
    result = HOW[how](partial(WRITES[name], PUBLIC))(ours)
    check([result, ours], [WRITES[name](TORCH, torchs), torchs])


# --- Random programs ---


def on_slice(tensor: Tensor) -> Tensor:
    return tensor.flatten()[1::2] if tensor.is_contiguous() else tensor[..., 1:]


def written_without_grad(m: Implementation, x: Tensor, other: Tensor) -> Tensor:
    with torch.no_grad():
        return x.mul_(0.5)


# Each gives the next tensor, from the current one and the one before.
STEPS: dict[str, Callable[[Implementation, Tensor, Tensor], Tensor]] = {
    "mish": lambda m, x, other: m.mish(x),
    "mish_": lambda m, x, other: m.mish_(x),
    "mish_ of a view": lambda m, x, other: m.mish_(on_slice(x)),
    "mish of the other": lambda m, x, other: m.mish(other),
    "mish twice": lambda m, x, other: m.mish(m.mish(x)),
    "mish_ of mish": lambda m, x, other: m.mish_(m.mish(x)),
    "mish without grad": lambda m, x, other: m.mish(x.detach()) + x,
    "scale": lambda m, x, other: x * 1.5,
    "add_": lambda m, x, other: x.add_(1.0),
    "mul_": lambda m, x, other: x.mul_(-0.5),
    "add_ the other": lambda m, x, other: x.add_(other.sum()),
    "sigmoid_": lambda m, x, other: x.sigmoid_(),
    "write to a view": lambda m, x, other: on_slice(x).add_(2.0),
    "fill a view": lambda m, x, other: on_slice(x).zero_(),
    "copy_": lambda m, x, other: x.copy_(other.sum().expand_as(x)),
    "write without grad": written_without_grad,
    "out without grad": lambda m, x, other: m.mish(x.detach(), out=x.detach()),
    "slice": lambda m, x, other: x[..., 1:] if x.shape[-1] > 2 else x,
    "transpose": lambda m, x, other: x.mT if x.dim() > 1 else x,
    "flatten": lambda m, x, other: x.flatten(),
    "strided": lambda m, x, other: on_slice(x) if x.numel() > 4 else x,
    "expand": lambda m, x, other: x.unsqueeze(0).expand(2, *x.shape).sum(1),
    "sum to a number": lambda m, x, other: x.sum().reshape(1, 1).expand(2, 3),
    "clone": lambda m, x, other: x.clone(),
    "detach": lambda m, x, other: x.detach(),
    "swap": lambda m, x, other: other,
}


def outcome(
    steps: list[str], m: Implementation, device: str, how: str
) -> list[Tensor] | type[Exception]:
    """The final values of the program and its gradient, or the type of error that it raises."""

    def program(m: Implementation, x: Tensor) -> Tensor:
        values = start = [x * 1.0, x + 0.5]
        for step in steps:
            values = [STEPS[step](m, *values), values[0]]
        return torch.cat([value.flatten() for value in (*values, *start)])

    x = torch.linspace(-3, 3, 12, dtype=torch.float64, device=device).reshape(3, 4)
    try:
        return run(program, m, x, how)
    except Exception as error:
        # What the compiler raises may say what it was that the eager program would have raised.
        return RuntimeError if isinstance(error, RuntimeError) else type(error)


REGRESSIONS = [
    ["mish", "swap", "add_"],  # overwrites what the gradient needs: both raise
    ["mish_ of a view", "mish", "write to a view"],
    ["detach", "mish_", "mish"],
    ["mish", "mul_"],  # the gradient does not need the result
    ["sigmoid_", "out without grad"],  # a write by out= counts: both raise
    ["mish", "swap", "out without grad"],
    ["sigmoid_", "mish_"],  # overwrites what another function saved: both raise
]
TIMES = int(os.environ.get("MISH_FUZZ", "1"))


# Anomaly mode warns of programs that are meant to raise.
@pytest.mark.filterwarnings("ignore:Error detected in")
@pytest.mark.parametrize(("how", "count"), [("eager", 300), slow("compiled", 50)])
def test_random(public: str, device: str, how: str, count: int) -> None:
    """By default always the same programs."""

    @settings(max_examples=count * TIMES, derandomize=TIMES == 1, deadline=None)
    @given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=7))
    def compare(steps: list[str]) -> None:
        actual, expected = (outcome(steps, m, device, how) for m in (PUBLIC, TORCH))
        if isinstance(actual, list) and isinstance(expected, list):
            check(actual, expected)
        else:
            assert actual is expected

    for steps in REGRESSIONS:
        compare = example(steps)(compare)
    compare()
