"""What is timed: each provider computes what its direction says, on inputs that are no zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from rows import Patch

from benchmarks import cases, providers
from benchmarks.cases import BLOCKS, KERNEL_DIRECTIONS, KERNEL_PROVIDERS, LAYOUTS, NORMS, Case
from benchmarks.claims import claim_groups
from benchmarks.providers import Inputs, call, make_inputs, statement


@pytest.fixture
def without_inductor(monkeypatch: Patch) -> Iterator[None]:
    """It takes seconds to compile; what it makes of Mish is tested elsewhere."""
    torch._dynamo.reset()  # else torch 2.11 counts what earlier tests compiled, and gives up
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    providers._compile.cache_clear()
    yield
    providers._compile.cache_clear()


def value_of(case: Case, inputs: Inputs) -> Any:
    """What the statement of a case computes; the first of what autograd gives."""
    value = call(case, inputs)
    return value[0] if isinstance(value, tuple) else value


def test_inputs_are_random_repeatable_and_laid_out_as_named() -> None:
    case = Case("mish_cuda", "forward", "fp32", (16, 32), "x.t()")
    inputs = make_inputs(case, "cpu")
    assert inputs.x.stride() == inputs.leaf.stride() == (1, 32)
    assert inputs.x.std() > 2
    assert torch.equal(inputs.x, make_inputs(case, "cpu").x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("provider", KERNEL_PROVIDERS)
def test_statements_compute_what_the_direction_says(provider: str, layout: str) -> None:
    """Forward and backward apart give what autograd gives of both."""
    shapes = {1: (24,), 2: (6, 8), 3: (3, 4, 6), 4: (2, 3, 4, 5)}
    dims = {"x": 1, "x.transpose(1, 2)": 3, "x.permute(0, 3, 1, 2)": 4}.get(layout, 2)
    case = Case(provider, "forward", "fp64", shapes[dims], layout)
    inputs = make_inputs(case, "cpu")
    found = [value_of(replace(case, direction=d), inputs).clone() for d in KERNEL_DIRECTIONS]
    if provider == "copy":
        torch.testing.assert_close(found[:2], [inputs.x, inputs.x + inputs.g])
    else:
        torch.testing.assert_close(found[1], found[2])


@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize("direction", KERNEL_DIRECTIONS)
def test_mish_providers_agree(direction: str) -> None:
    names = ("mish_cuda", "naive", "memory-efficient", "compiled F.mish", "compiled mish_cuda")
    expected, *others = (Case(n, direction, "fp64", (3, 1, 5)) for n in ("F.mish", *names))
    inputs = make_inputs(expected, "cpu")
    for other in others:
        torch.testing.assert_close(value_of(other, inputs), value_of(expected, inputs))


@pytest.mark.parametrize("shape", [(4, 16), (2, 16, 3, 6)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_with_mish_behind_them_agree(norm: str, shape: tuple[int, ...]) -> None:
    """Forward in evaluation; both in training, with gradients of the parameters."""
    names = [cases.norm_provider(norm, block) for block in BLOCKS]
    inputs = make_inputs(Case(names[0], "forward", "fp64", shape), "cpu")
    for direction in cases.NORM_DIRECTIONS:
        ours, *others = (call(Case(name, direction, "fp64", shape), inputs) for name in names)
        assert isinstance(ours, tuple) == (direction == "forward+backward")
        for other in others:
            torch.testing.assert_close(other, ours)


@pytest.mark.usefixtures("without_inductor")
def test_claims_time_both_sides_of_each_ratio_in_turn() -> None:
    groups = claim_groups()
    timed = [case for group in groups for case in group.cases]
    assert max(Counter(timed).values()) == 1  # else one row would stand for two measurements
    assert all(len(group.cases) == 2 for group in groups)
    for case in timed:
        statement(case, make_inputs(replace(case, shape=(2,) * len(case.shape)), "cpu"))
