"""Timing in turns, graphs and peak memory. No time is asserted anywhere."""

from __future__ import annotations

import sys
import weakref
from unittest.mock import MagicMock

import pytest
import torch

from benchmarks import cases, measure, memory, providers, timing
from benchmarks.cases import Case, Group
from benchmarks.providers import Inputs, make_inputs
from benchmarks.timing import Statement, sampler, take_turns


def no_error(key: str, error: Exception) -> None:
    raise AssertionError(key) from error


def test_a_statement_is_timed_with_its_threads() -> None:
    before = torch.get_num_threads()
    seen: set[int] = set()
    names = {"note": lambda: seen.add(torch.get_num_threads())}
    assert sampler(Statement("note()", names, threads=before + 1))() > 0
    assert (seen, torch.get_num_threads()) == ({before + 1}, before)


def test_turns_are_taken_in_changing_order() -> None:
    taken: list[str] = []
    samplers = {key: lambda key=key: taken.append(key) or 1.0 for key in "abcd"}
    found = take_turns(samplers, 0, 6, no_error)
    rounds = [taken[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert found == {key: [1.0] * 6 for key in "abcd"}


def test_a_key_that_raises_is_dropped_and_ctrl_c_is_not_caught() -> None:
    outcomes = {"a": [1, 2, 3], "b": [1, RuntimeError("late")]}
    samplers = {key: MagicMock(side_effect=found) for key, found in outcomes.items()}
    failed: dict[str, Exception] = {}
    assert take_turns(samplers, 0, 3, failed.setdefault) == {"a": [1, 2, 3]}
    assert failed == {"b": outcomes["b"][1]}
    with pytest.raises(KeyboardInterrupt):
        take_turns({"a": MagicMock(side_effect=KeyboardInterrupt)}, 0, 3, no_error)


def test_peak_memory_counts_what_is_alive_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    x = torch.zeros(1000)

    def function() -> torch.Tensor:
        y = x + 1  # 4000 bytes, then 8000, then 4000, then 12,000
        z = y + 1
        del y
        return torch.cat([z, z])

    assert memory.peak(function, "cpu") == 12_000
    assert memory.peak(lambda: None, "cpu") == 0
    assert capfd.readouterr() == ("", "")  # the profiler is silent


def test_peak_memory_on_cuda_is_above_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, steps = MagicMock(), MagicMock()
    cuda.memory_allocated.return_value, cuda.max_memory_allocated.return_value = 1000, 5000
    for name in ("synchronize", "reset_peak_memory_stats"):
        steps.attach_mock(getattr(cuda, name), name)
    monkeypatch.setattr(torch, "cuda", cuda)
    assert memory.peak(steps.call, "cuda") == 4000
    names = [name for name, *_ in steps.mock_calls]
    assert names == ["synchronize", "reset_peak_memory_stats", "call"]


@pytest.mark.parametrize("size", [2**n for n in range(8, 36, 3)])
def test_rotation_leaves_the_cache_within_bounds_and_graphs_are_long(size: int) -> None:
    cache = 50 * 2**20
    sets = timing.buffer_sets(size, cache)
    assert 2 <= sets <= timing.MOST_CALLS
    assert sets * size >= timing.CACHES * cache or sets == timing.MOST_CALLS
    assert (sets - 1) * size < timing.CACHES * cache or sets == 2
    calls = timing.calls_per_graph(size, sets)
    assert calls % sets == 0
    assert calls >= timing.MOST_CALLS or calls * size >= timing.GRAPH_BYTES
    assert calls <= 2 * timing.MOST_CALLS


def test_as_many_results_live_as_there_are_sets() -> None:
    alive, counts, order = weakref.WeakSet[torch.Tensor](), [], []

    def function(one: Inputs) -> torch.Tensor:
        order.append(inputs.index(one))
        result = torch.empty(0)
        alive.add(result)
        counts.append(len(alive))
        return result

    inputs = [make_inputs(Case("relu", "forward", "fp32", (1,)), "cpu", seed) for seed in range(3)]
    timing.rotate(function, inputs, 9)
    assert order == [0, 1, 2] * 3
    assert (len(alive), max(counts)) == (0, 4)  # the three, and the one just made


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timing asks of CUDA, on the CPU: graphs run when they are captured, and a replay of any
    takes no time on a clock that goes a millisecond from event to event."""
    fake = MagicMock(L2_cache_size=2**20)
    fake.elapsed_time.return_value = 1.0
    devices = ("get_device_properties", "graph_pool_handle", "Stream", "current_stream")
    for name in (*devices, "stream", "graph", "CUDAGraph", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: fake)


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_cases_are_captured_and_sampled(monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    names = [name for name in cases.GPU_PROVIDERS if name != "compiled F.mish"]  # takes a compiler
    group = Group("gpu", tuple(Case(name, direction, "bf16", (2**12,)) for name in names), 7)
    found = measure.measure(group, "cpu", 0, prepare=measure.by_graphs)
    ((case, reason),) = found.failures.items()
    assert (case.provider, reason.partition(":")[0]) == ("triton", "ModuleNotFoundError")
    sets = timing.buffer_sets(case.bytes, 2**20)
    seconds = f"{1e-3 / (2 * timing.calls_per_graph(case.bytes, sets)):.4e}"
    names.remove("triton")
    assert columns(found) == [(name, 7, 1, seconds) for name in names]


@pytest.mark.usefixtures("pretended_gpu")
def test_the_cost_of_a_call_is_that_of_many_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CALLS", 10)
    group = next(group for group in cases.gpu_groups() if group.suite == "launch")
    found = measure.measure(group, "cpu", 0)
    assert not found.failures
    assert columns(found) == [(name, 21, 1, "1.0000e-04") for name in ("mish_cuda", "F.mish")]


def columns(found: measure.Measured) -> list[tuple[object, ...]]:
    names = ("provider", "rounds", "threads", "median_s")
    return [tuple(row[name] for name in names) for row in found.rows]


def test_without_memory_for_operands_no_case_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "make_inputs", MagicMock(side_effect=torch.OutOfMemoryError("8")))
    group = Group("gpu", tuple(Case(n, "forward", "fp64", (2**30,)) for n in cases.GPU_PROVIDERS))
    found = measure.measure(group, "cpu", 0)
    assert not found.rows
    assert list(found.failures) == list(group.cases)
    reasons = [*found.failures.values(), "RuntimeError: can't allocate"]
    assert all(map(measure.out_of_memory, reasons))
    assert not measure.out_of_memory("RuntimeError: no compiler")


def test_measure_gives_a_row_for_each_case_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the number of threads as it was."""
    before = torch.get_num_threads()
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0)
    counts = []
    for warmup in (1, 5):
        function = MagicMock()
        monkeypatch.setitem(providers._RECIPES, "custom", {"forward": ("f(x)", function)})
        pair = (Case(p, "forward", "fp32", (8,), threads=before + 1) for p in ("custom", "copy"))
        found = measure.measure(Group("kernels", tuple(pair), 2), "cpu", 0, warmup)
        counts.append(function.call_count)
        rows = [line[:3] for line in columns(found)]
        assert rows == [("custom", 2, before + 1), ("copy", 2, before + 1)]
        for row in found.rows:
            assert 0 < float(row["p20_s"]) <= float(row["median_s"]) <= float(row["p80_s"])
    assert counts[1] - counts[0] == 4
    assert torch.get_num_threads() == before
