"""Timing in turns, graphs and peak memory, on clocks that are pretended: no time is asserted."""

from __future__ import annotations

import sys
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from rows import Patch
from torch.utils import benchmark

from benchmarks import cases, measure, memory, timing
from benchmarks.cases import Case, Group
from benchmarks.timing import Statement, sampler, take_turns


@pytest.mark.parametrize("seconds", [1e-7, 2e-4, 3.0])
def test_a_sample_is_the_seconds_of_one_call_with_its_threads(
    seconds: float, monkeypatch: Patch
) -> None:
    """On a clock that only the call moves on."""
    before, now, seen = torch.get_num_threads(), [0.0], set()
    monkeypatch.setattr(benchmark, "timer", lambda: now[0])

    def call() -> None:
        seen.add(torch.get_num_threads())
        now[0] += seconds

    sample = sampler(Statement("call()", {"call": call}, threads=before + 1))
    assert sample() == pytest.approx(seconds)
    assert (seen, torch.get_num_threads()) == ({before + 1}, before)


def test_turns_are_taken_in_changing_order() -> None:
    taken: list[str] = []
    samplers = {key: lambda key=key: taken.append(key) or 1.0 for key in "abcd"}
    assert take_turns(samplers, 0, 6, MagicMock()) == ({key: [1.0] * 6 for key in "abcd"}, False)
    rounds = [taken[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    x = torch.zeros(1000)

    def function() -> torch.Tensor:
        y = x + 1  # 4000 bytes, then 8000, then 4000, then 12,000
        z = y + 1
        del y
        return torch.cat([z, z])

    assert memory.peak(function, "cpu") == 12_000
    assert memory.peak(lambda: None, "cpu") == 0


def test_peak_memory_on_cuda_is_above_what_was_there(monkeypatch: Patch) -> None:
    cuda, steps = MagicMock(), MagicMock()
    cuda.memory_allocated.return_value, cuda.max_memory_allocated.return_value = 1000, 5000
    steps.attach_mock(cuda.reset_peak_memory_stats, "reset")
    monkeypatch.setattr(torch, "cuda", cuda)
    assert memory.peak(steps.call, "cuda") == 4000
    assert [name for name, *_ in steps.mock_calls] == ["reset", "call"]


def test_rotation_leaves_the_cache_within_bounds_and_graphs_are_long() -> None:
    cache = 50 * 2**20
    for size in (2**n for n in range(8, 36, 3)):
        sets = timing.buffer_sets(size, cache)
        assert 2 <= sets <= timing.MOST_CALLS
        assert sets * size >= 3 * cache or sets == timing.MOST_CALLS
        calls = timing.calls_per_graph(size, sets)
        assert calls % sets == 0
        assert calls >= timing.MOST_CALLS or calls * size >= timing.GRAPH_BYTES


def test_as_many_results_live_as_there_are_sets() -> None:
    alive, calls = weakref.WeakSet[torch.Tensor](), []

    def function(one: int) -> torch.Tensor:
        calls.append((one, len(alive)))
        result = torch.empty(0)
        alive.add(result)
        return result

    timing.rotate(function, [0, 1], 5)
    assert calls == [(0, 0), (1, 1), (0, 2), (1, 2), (0, 2)]


@pytest.fixture
def pretended_gpu(monkeypatch: Patch) -> None:
    """What timing asks of CUDA, on the CPU: graphs run when they are captured, and a replay of any
    takes no time on a clock that goes a millisecond from event to event."""
    fake = MagicMock(L2_cache_size=2**20)
    fake.elapsed_time.return_value = 1.0
    devices = ("get_device_properties", "graph_pool_handle", "Stream", "current_stream")
    for name in (*devices, "stream", "graph", "CUDAGraph", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: fake)


def columns(found: measure.Measured) -> list[tuple[object, ...]]:
    names = ("provider", "rounds", "threads", "median_s")
    return [tuple(row[name] for name in names) for row in found.rows]


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_cases_are_captured_and_sampled(direction: str, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    names = [name for name in cases.GPU_PROVIDERS if name != "compiled F.mish"]  # takes a compiler
    group = Group("gpu", tuple(Case(name, direction, "bf16", (2**12,)) for name in names), 7)
    found = measure.measure(group, "cpu", 0, prepare=measure.by_graphs)
    ((case, reason),) = found.failures.items()
    assert (case.provider, reason.partition(":")[0]) == ("triton", "ModuleNotFoundError")
    # Two replays of so many calls take that millisecond.
    sets = timing.buffer_sets(case.bytes, 2**20)
    seconds = f"{1e-3 / (2 * timing.calls_per_graph(case.bytes, sets)):.4e}"
    names.remove("triton")
    assert columns(found) == [(name, 7, 1, seconds) for name in names]


@pytest.mark.usefixtures("pretended_gpu")
def test_the_cost_of_a_call_is_that_of_many_in_a_row(monkeypatch: Patch) -> None:
    monkeypatch.setattr(measure, "CALLS", 10)
    group = next(group for group in cases.gpu_groups() if group.suite == "launch")
    found = columns(measure.measure(group, "cpu", 0))
    assert found == [(name, 21, 1, "1.0000e-04") for name in ("mish_cuda", "F.mish")]


def test_without_memory_for_operands_no_case_is_timed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(measure, "make_inputs", MagicMock(side_effect=torch.OutOfMemoryError("8")))
    group = Group("gpu", tuple(Case(n, "forward", "fp64", (2**30,)) for n in cases.GPU_PROVIDERS))
    found = measure.measure(group, "cpu", 0)
    assert (found.rows, list(found.failures)) == ([], list(group.cases))
