"""Timing in turns, graphs and peak memory. No time is asserted anywhere."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from functools import partial
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
    assert found == ({key: [1.0] * 6 for key in "abcd"}, False)


@pytest.mark.parametrize("last", [3, 4])
def test_an_interruption_keeps_complete_rounds_or_is_a_plain_one(last: int) -> None:
    """Ctrl-C in that round of "a", where three are needed; "b" fails in the second."""
    rounds = Counter[str]()
    failed = {}

    def sample(key: str) -> float:
        rounds[key] += 1
        if (key, rounds[key]) == ("b", 2):
            raise RuntimeError("late")
        if (key, rounds[key]) == ("a", last):
            raise KeyboardInterrupt
        return rounds[key]

    samplers = {key: partial(sample, key) for key in "ab"}
    if last == 3:
        with pytest.raises(KeyboardInterrupt):
            take_turns(samplers, 60, 3, failed.setdefault)
    else:
        assert take_turns(samplers, 60, 3, failed.setdefault) == ({"a": [1, 2, 3]}, True)
        assert str(failed["b"]) == "late"


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
    steps: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: steps.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5000)
    assert memory.peak(lambda: steps.append("call"), "cuda") == 4000
    assert steps == ["synchronize", "reset", "call"]


def test_rotation_leaves_the_cache_within_bounds() -> None:
    cache = 50 * 2**20
    assert timing.buffer_sets(2**33, cache) == 2
    assert timing.buffer_sets(2**10, cache) == timing.MOST_CALLS
    sets = timing.buffer_sets(2**24, cache)
    assert sets * 2**24 >= timing.CACHES * cache > (sets - 1) * 2**24


@pytest.mark.parametrize("size", [2**n for n in range(11, 36, 3)])
def test_graphs_are_long_and_made_of_whole_rotations(size: int) -> None:
    sets = timing.buffer_sets(size, 50 * 2**20)
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
    rows, failures = found.rows, found.failures
    assert [r["provider"] for r in rows] == [name for name in names if name != "triton"]
    ((case, reason),) = failures.items()
    assert case.provider == "triton"
    assert reason.startswith("ModuleNotFoundError")
    sets = timing.buffer_sets(group.cases[0].bytes, 2**20)
    calls = timing.calls_per_graph(group.cases[0].bytes, sets)
    assert {(r["rounds"], r["median_s"]) for r in rows} == {(7, f"{1e-3 / (2 * calls):.4e}")}


@pytest.mark.usefixtures("pretended_gpu")
def test_the_cost_of_a_call_is_that_of_many_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CALLS", 10)
    group = next(group for group in cases.gpu_groups() if group.suite == "launch")
    found = measure.measure(group, "cpu", 0)
    rows, failures = found.rows, found.failures
    assert not failures
    assert [(r["provider"], r["rounds"], r["median_s"]) for r in rows] == [
        ("mish_cuda", 21, "1.0000e-04"),
        ("F.mish", 21, "1.0000e-04"),
    ]


def test_without_memory_for_operands_no_case_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: object) -> None:
        raise torch.OutOfMemoryError("8 GB")

    monkeypatch.setattr(measure, "make_inputs", make)
    group = Group("gpu", tuple(Case(n, "forward", "fp64", (2**30,)) for n in cases.GPU_PROVIDERS))
    found = measure.measure(group, "cpu", 0)
    rows, failures = found.rows, found.failures
    assert not rows
    assert list(failures) == list(group.cases)
    assert all(map(measure.out_of_memory, [*failures.values(), "RuntimeError: can't allocate"]))
    assert not measure.out_of_memory("RuntimeError: no compiler")


def test_measure_gives_a_row_for_each_case_and_restores_the_threads() -> None:
    before = torch.get_num_threads()
    names = ("relu", "copy")
    group = Group(
        "kernels", tuple(Case(p, "forward", "fp32", (8,), threads=before + 1) for p in names), 2
    )
    found = measure.measure(group, "cpu", seconds=0)
    rows = found.rows
    assert not found.failures
    assert [(r["provider"], r["rounds"], r["threads"]) for r in rows] == [
        (name, 2, before + 1) for name in names
    ]
    assert all(0 < float(r["p20_s"]) <= float(r["median_s"]) <= float(r["p80_s"]) for r in rows)
    assert torch.get_num_threads() == before


def test_warm_up_calls_come_before_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[int]()

    def count(warmup: int) -> int:
        recipe = {"forward": ("f(x)", lambda x: calls.update([warmup]))}
        monkeypatch.setitem(providers._RECIPES, "custom", recipe)
        monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0)
        group = Group("kernels", (Case("custom", "forward", "fp32", (1,)),), 2)
        measure.measure(group, "cpu", 0, warmup)
        return calls[warmup]

    assert count(5) - count(1) == 4
