"""Small random programs with Mish in them do what the same programs do with ``F.mish``.

The programs write in place, through views too, and detach, so they try what is saved for the
gradient and when. ``make fuzz`` tries thousands of new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import mish_cuda

Mish = Callable[..., Tensor]
Step = Callable[[list[Tensor], Mish], None]


def on_slice(tensor: Tensor) -> Tensor:
    return tensor.flatten()[1::2] if tensor.is_contiguous() else tensor[..., 1:]


def put(values: list[Tensor], new: Tensor) -> None:
    """A result becomes the current value; the one before it can still be used."""
    values[:] = [new, values[0]]


def write_without_grad(values: list[Tensor], mish: Mish) -> None:
    with torch.no_grad():
        values[0].mul_(0.5)


# values[0] is the current tensor, values[1] the one before. Steps in place overwrite values[0].
STEPS: dict[str, Step] = {
    "mish": lambda v, mish: put(v, mish(v[0])),
    "mish_": lambda v, mish: put(v, mish(v[0], inplace=True)),
    "mish_ of a view": lambda v, mish: put(v, mish(on_slice(v[0]), inplace=True)),
    "mish of the other": lambda v, mish: put(v, mish(v[1])),
    "mish twice": lambda v, mish: put(v, mish(mish(v[0]))),
    "mish_ of mish": lambda v, mish: put(v, mish(mish(v[0]), inplace=True)),
    "mish without grad": lambda v, mish: put(v, mish(v[0].detach()) + v[0]),
    "scale": lambda v, mish: put(v, v[0] * 1.5),
    "add_": lambda v, mish: put(v, v[0].add_(1.0)),
    "mul_": lambda v, mish: put(v, v[0].mul_(-0.5)),
    "add_ the other": lambda v, mish: put(v, v[0].add_(v[1].sum())),
    "sigmoid_": lambda v, mish: put(v, v[0].sigmoid_()),
    "write to a view": lambda v, mish: put(v, on_slice(v[0]).add_(2.0)),
    "fill a view": lambda v, mish: put(v, on_slice(v[0]).zero_()),
    "copy_": lambda v, mish: put(v, v[0].copy_(v[1].sum().expand_as(v[0]))),
    "write without grad": write_without_grad,
    "slice": lambda v, mish: put(v, v[0][..., 1:] if v[0].shape[-1] > 2 else v[0]),
    "transpose": lambda v, mish: put(v, v[0].mT if v[0].dim() > 1 else v[0]),
    "flatten": lambda v, mish: put(v, v[0].flatten()),
    "strided": lambda v, mish: put(v, on_slice(v[0]) if v[0].numel() > 4 else v[0]),
    "expand": lambda v, mish: put(v, v[0].unsqueeze(0).expand(2, *v[0].shape).sum(1)),
    "sum to a number": lambda v, mish: put(v, v[0].sum().reshape(1, 1).expand(2, 3)),
    "clone": lambda v, mish: put(v, v[0].clone()),
    "detach": lambda v, mish: put(v, v[0].detach()),
    "swap": lambda v, mish: v.reverse(),
}


def run(
    steps: list[str], mish: Mish, device: str, compiler: str | None
) -> list[Tensor] | type[Exception]:
    """The final values of the program and its gradient, or the type of error that it raises."""

    def program(x: Tensor) -> list[Tensor]:
        values = [x * 1.0, x + 0.5]
        start = list(values)
        for step in steps:
            STEPS[step](values, mish)
        return [*values, *start]

    function: Any = program
    if compiler:
        torch._dynamo.reset()
        function = torch.compile(program, fullgraph=True, backend=compiler)
    x = torch.linspace(-3, 3, 12, dtype=torch.float64, device=device)
    x = x.reshape(3, 4).requires_grad_()
    try:
        results = function(x)
        loss = torch.stack([result.square().sum() for result in results]).sum()
        (gradient,) = torch.autograd.grad(loss, x)
    except Exception as error:
        # What the compiler raises may say what it was that the eager program would have raised.
        return RuntimeError if isinstance(error, RuntimeError) else type(error)
    return [*(result.detach().clone() for result in results), gradient]


def compare(steps: list[str], device: str, compiler: str | None) -> None:
    expected = run(steps, F.mish, device, compiler)
    actual = run(steps, mish_cuda.mish, device, compiler)
    if isinstance(expected, list):
        assert isinstance(actual, list), f"F.mish computes, mish_cuda.mish raises {actual}"
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
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
def test_eager(public: str, device: str, steps: list[str]) -> None:
    compare(steps, device, compiler=None)


@pytest.mark.filterwarnings("ignore:Error detected in")
@programs(50)
def test_compiled(public: str, device: str, steps: list[str]) -> None:
    compare(steps, device, compiler="aot_eager")
