"""What is timed: the grid, and that each provider computes what its direction says."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F

from benchmarks import cases, providers
from benchmarks.cases import BLOCKS, KERNEL_DIRECTIONS, KERNEL_PROVIDERS, LAYOUTS, NORMS, Case
from benchmarks.claims import claim_groups
from benchmarks.providers import Inputs, call, make_inputs, statement


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet() -> None:
    """Else torch counts what earlier tests had it compile, and in 2.11 gives up at the eighth."""
    torch._dynamo.reset()


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It takes seconds to compile; what it makes of Mish is tested elsewhere."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    providers._compile.cache_clear()
    yield
    providers._compile.cache_clear()


def value_of(case: Case, inputs: Inputs) -> Any:
    """What the statement of a case computes; the first of what autograd gives."""
    value = call(case, inputs)
    return value[0] if isinstance(value, tuple) else value


def test_the_grid_holds_every_provider_of_every_input_once() -> None:
    groups = cases.kernel_groups([(1,), (8, 64)], ["fp32", "bf16"], threads=2)
    inputs = product([(1,), (8, 64)], ["fp32", "bf16"], KERNEL_DIRECTIONS)
    assert [group.cases for group in groups] == [
        tuple(Case(name, direction, dtype, shape, threads=2) for name in KERNEL_PROVIDERS)
        for shape, dtype, direction in inputs
    ]


@pytest.mark.parametrize(
    ("direction", "tensors"),
    [("forward", 2), ("forward out=", 2), ("backward", 3), ("forward+backward", 5)],
)
def test_bytes_are_those_read_and_written(direction: str, tensors: int) -> None:
    for dtype, size in {"fp32": 4, "fp64": 8, "bf16": 2, "fp16": 2}.items():
        assert Case("copy", direction, dtype, (100,)).bytes == tensors * size * 100
        sliced = Case("copy", direction, dtype, (10, 20), "x[:, ::2]")
        assert (sliced.numel, sliced.bytes) == (100, tensors * size * 100)


def test_inputs_are_random_repeatable_and_laid_out_as_named() -> None:
    case = Case("mish_cuda", "forward", "fp32", (16, 32), "x.t()")
    inputs = make_inputs(case, "cpu")
    assert (inputs.x.shape, inputs.x.stride()) == ((32, 16), (1, 32))
    assert inputs.x.std() > 2
    assert torch.equal(inputs.x, make_inputs(case, "cpu").x)
    assert inputs.leaf.requires_grad
    assert inputs.leaf.stride() == inputs.x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("provider", KERNEL_PROVIDERS)
def test_statements_compute_what_the_direction_says(provider: str, layout: str) -> None:
    """Forward and backward apart give what autograd gives of both."""
    shapes = {1: (24,), 2: (6, 8), 3: (3, 4, 6), 4: (2, 3, 4, 5)}
    dims = {"x": 1, "x.transpose(1, 2)": 3, "x.permute(0, 3, 1, 2)": 4}.get(layout, 2)
    case = Case(provider, "forward", "fp64", shapes[dims], layout)
    inputs = make_inputs(case, "cpu")

    def value(direction: str) -> object:
        return value_of(replace(case, direction=direction), inputs)

    if provider == "copy":
        torch.testing.assert_close(value("forward"), inputs.x)
        torch.testing.assert_close(value("backward"), inputs.x + inputs.g)
    else:
        assert torch.is_tensor(value("forward"))
        torch.testing.assert_close(value("backward"), value("forward+backward"))


@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize("direction", KERNEL_DIRECTIONS)
@pytest.mark.parametrize("shape", [(100,), (1,), (3, 1, 5)], ids=str)
def test_mish_providers_agree(direction: str, shape: tuple[int, ...]) -> None:
    inputs = make_inputs(Case("naive", direction, "fp64", shape), "cpu")
    expected = value_of(Case("F.mish", direction, "fp64", shape), inputs)
    compiled = ("compiled F.mish", "compiled mish_cuda")
    for provider in ("mish_cuda", "naive", "memory-efficient", *compiled):
        found = value_of(Case(provider, direction, "fp64", shape), inputs)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(4, 16), (4, 16, 5), (2, 16, 3, 6), (2, 16, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_with_mish_behind_them(norm: str, shape: tuple[int, ...], block: str) -> None:
    """In evaluation by the statistics of a new layer, in training by those of the input."""
    new = {"running_mean": torch.zeros(16).double(), "running_var": torch.ones(16).double()}

    def expected(x: torch.Tensor, training: bool) -> torch.Tensor:
        if norm == "GroupNorm":
            return F.mish(F.group_norm(x, 8))
        return F.mish(F.batch_norm(x, **new, training=training))

    case = Case(cases.norm_provider(norm, block), "forward", "fp64", shape)
    inputs = make_inputs(case, "cpu")
    found = call(case, inputs)
    torch.testing.assert_close(found, expected(inputs.x, training=False))
    assert not found.requires_grad
    of_x, *of_parameters = call(replace(case, direction="forward+backward"), inputs)
    result = expected(inputs.leaf, training=True)
    torch.testing.assert_close((of_x,), torch.autograd.grad(result, inputs.leaf, inputs.g))
    assert [gradient.shape for gradient in of_parameters] == [(16,), (16,)]
    assert statement(case, inputs).names["f"] is statement(case, inputs).names["f"]


def test_the_memory_efficient_way_saves_its_input_alone() -> None:
    leaf = torch.randn(100, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        providers._MemoryEfficient.apply(leaf)
    assert [tensor.data_ptr() for tensor in saved] == [leaf.data_ptr()]


@pytest.mark.usefixtures("without_inductor")
def test_claims_time_both_sides_of_each_ratio_in_turn() -> None:
    groups = claim_groups()
    timed = [case for group in groups for case in group.cases]
    assert max(Counter(timed).values()) == 1  # else one row would stand for two measurements
    assert all(len(group.cases) == 2 for group in groups)
    for case in timed:
        statement(case, make_inputs(replace(case, shape=(2,) * len(case.shape)), "cpu"))


def test_presets_come_in_batches() -> None:
    for preset in cases.PRESETS:
        shapes = cases.preset_shapes(preset, 4)
        assert {shape[0] for shape in shapes} == {4}
        kinds = shapes if preset in cases.PRESET_NORMS else map(math.prod, shapes)
        assert len(set(kinds)) == len(shapes)


@pytest.mark.parametrize(("direction", "operands"), [("forward", 1), ("backward", 2)])
def test_the_triton_kernels_are_asked_for_by_name(
    direction: str, operands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = MagicMock()
    monkeypatch.setattr("benchmarks.triton_mish", called, raising=False)
    monkeypatch.setitem(sys.modules, "benchmarks.triton_mish", called)
    case = Case("triton", direction, "fp32", (9,))
    call(case, make_inputs(case, "cpu"))
    ((name, tensors, _),) = called.mock_calls
    assert (name, len(tensors)) == (direction, operands)
