"""The GPU suite, as far as it runs without a GPU: what it counts, judges and writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accuracy import reference
from accuracy.formats import FP32
from benchmarks import graphs
from benchmarks import measure as measuring
from benchmarks.cells import DTYPES, Cell, Direction
from benchmarks.environment import collect
from benchmarks.providers import Inputs, make_inputs
from benchmarks.results import Failure, Result, Timing, read
from benchmarks.timing import Sampler, take_turns
from conftest import needs_extension
from gpu import (
    accuracy,
    claims,
    cli,
    commands,
    devices,
    exercise,
    grid,
    launch,
    providers,
    report,
    work,
)
from gpu.steps import Deadline, Missing, Outcome, Step, attempt

FACTS = collect("cpu", "python -m gpu")
PLENTY = Deadline(time.time() + 1e6)
FINE = Step(lambda deadline: Outcome("ok", "fine"))


class Clock:
    """A clock that stands still but for what is done by it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[Deadline], Outcome]:
        """A step of that length."""

        def work(deadline: Deadline) -> Outcome:
            self.now += seconds
            return Outcome("ok", f"could have taken {deadline.left() + seconds:.0f} s")

        return work


def raises(error: Exception) -> Step:
    def work(deadline: Deadline) -> Outcome:
        raise error

    return Step(work)


def timed(seconds: float) -> Timing:
    return Timing(rounds=3, median=seconds, p20=seconds, p80=seconds)


def result(
    provider: str,
    seconds: float,
    size: int = 2**24,
    dtype: str = "bf16",
    direction: Direction = "forward",
) -> Result:
    return Result("gpu", Cell(provider, direction, dtype, (size,)), timed(seconds))


def speed(results: Sequence[Result]) -> str:
    return report.speed(grid.Found(list(results)), claims.judge(results))


def ratios(results: Sequence[Result]) -> dict[str, float]:
    return {str(v.claim): v.ratio for v in claims.judge(results) if v.ratio is not None}


# The command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be used")
@pytest.mark.parametrize("module", ["gpu", "gpu.devices"])
def test_without_a_gpu_it_says_so(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected a GPU" in done.stderr
    assert not done.stdout


def test_without_build_tools_it_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "BUILD_TOOLS", ("pytest", "no_such_tool"))
    with pytest.raises(SystemExit):
        devices.require_build_tools()
    assert "the build needs no_such_tool, which" in capsys.readouterr().err


def test_it_builds_for_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(9, 0), (8, 6), (9, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: found[i])
    assert devices.architectures() == "8.6;9.0"


def test_no_optional_package_is_needed_to_begin() -> None:
    missing = dict.fromkeys(["rich", "matplotlib", "mpmath", "numpy", "triton"])
    program = f"import torch, sys; sys.modules.update({missing}); import gpu.cli"
    subprocess.run([sys.executable, "-c", program], check=True)


# Steps and their time


def test_what_a_step_raises_is_its_outcome() -> None:
    outcomes = [
        attempt(step, PLENTY)
        for step in (
            raises(RuntimeError("no such kernel\nmore")),
            raises(Missing("no such tool")),
            FINE,
        )
    ]
    assert [(o.word, o.detail) for o in outcomes] == [
        ("FAILED", "RuntimeError: no such kernel"),
        ("not run", "no such tool"),
        ("ok", "fine"),
    ]


def test_steps_share_the_time_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    steps = {
        "short": Step(clock.takes(30), limit=50),
        "long": Step(clock.takes(60), limit=500),
        "greedy": Step(clock.takes(8), spare=2),
        "last": FINE,
        "tardy": Step(clock.takes(2)),
        "late": FINE,
    }
    assert cli.run(steps, tmp_path, FACTS, Deadline(clock() + 100, clock)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert lines[:-1] == [
        "short: ok, could have taken 50 s (30 s)",
        "long: ok, could have taken 70 s (60 s)",
        "greedy: ok, could have taken 8 s (8 s)",
        "last: ok, fine (0 s)",
        "tardy: ok, could have taken 2 s (2 s)",
        "late: out of time, not begun (0 s)",
    ]


def test_a_failed_step_fails_the_run_and_is_written_down(tmp_path: Path) -> None:
    steps = {"a": raises(RuntimeError("no | kernel")), "b": FINE}
    assert cli.run(steps, tmp_path, FACTS, PLENTY) == 1
    text = (tmp_path / "SUMMARY.md").read_text(encoding="utf-8")
    assert "| a | FAILED | RuntimeError: no / kernel | 0 |" in text
    assert "| b | ok | fine | 0 |" in text


def test_a_command_gives_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    program = "import os; print('a'); print('=== b', os.environ['C'], '===')"
    assert commands.run([sys.executable, "-c", program], log, PLENTY, C="c") == "b c"
    with pytest.raises(RuntimeError, match=r"exit status 3, see x\.log: why"):
        commands.run([sys.executable, "-c", "print('why'); exit(3)"], log, PLENTY)


def test_a_command_is_stopped_with_its_children(tmp_path: Path) -> None:
    """A step that uses up its own limit has failed, one that was given less has not."""
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(alive)!r}, 'w')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    def work(deadline: Deadline) -> Outcome:
        return Outcome(
            "ok", commands.run([sys.executable, "-c", program], tmp_path / "x", deadline)
        )

    start = time.time()
    assert attempt(Step(work), Deadline(start + 1)).word == "out of time"
    assert attempt(Step(work, limit=1), PLENTY).word == "FAILED"
    assert time.time() < start + 3
    time.sleep(max(0, start + 4.5 - time.time()))
    assert not alive.exists()


# Timing


def test_rotation_leaves_the_cache_within_bounds() -> None:
    cache = 50 * 2**20
    assert graphs.buffers(2**33, cache) == 2
    assert graphs.buffers(2**10, cache) == graphs.MOST_CALLS
    sets = graphs.buffers(2**24, cache)
    assert sets * 2**24 >= graphs.CACHES * cache > (sets - 1) * 2**24


@pytest.mark.parametrize("size", [2**n for n in range(11, 36)])
def test_graphs_are_long_and_made_of_whole_rotations(size: int) -> None:
    sets = graphs.buffers(size, 50 * 2**20)
    calls = graphs.calls_per_graph(size, sets)
    assert calls % sets == 0
    assert calls >= graphs.MOST_CALLS or calls * size >= graphs.GRAPH_BYTES
    assert calls <= 2 * graphs.MOST_CALLS


def test_as_many_results_live_as_there_are_sets() -> None:
    alive, most = 0, 0
    order = []

    class Held:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def function(one: Inputs) -> Held:
        order.append(one)
        return Held()

    inputs = [make_inputs(Cell("relu", "forward", "fp32", (1,)), "cpu", seed) for seed in range(3)]
    graphs.rotate(function, inputs, 9)
    assert [inputs.index(one) for one in order] == [0, 1, 2] * 3
    assert (alive, most) == (0, 4)  # the three, and the one just made


def test_providers_take_turns_in_changing_order() -> None:
    taken: list[str] = []

    def prepare(key: str) -> Sampler:
        return lambda: taken.append(key) or 1.0

    times, failed = take_turns("abcd", prepare, seconds=0, min_rounds=6)
    rounds = [taken[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert {key: t.rounds for key, t in times.items()} == dict.fromkeys("abcd", 6)
    assert not failed


def test_one_that_raises_leaves_the_others_be() -> None:
    samples = 0

    def sample() -> float:
        nonlocal samples
        samples += 1
        if samples == 3:
            raise ValueError("the third\nsample")
        return 1.0

    def prepare(key: str) -> Sampler:
        if key == "unprepared":
            raise KeyError
        return sample if key == "flaky" else lambda: 2.0

    times, failed = take_turns(["unprepared", "flaky", "sound"], prepare, seconds=0, min_rounds=5)
    assert failed == {"unprepared": "KeyError", "flaky": "ValueError: the third"}
    assert times == {"sound": Timing(5, 2.0, 2.0, 2.0)}


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timing asks of CUDA, on the CPU: graphs run when they are captured, and a replay of any
    takes no time on a clock that goes a millisecond from event to event."""

    class Nothing:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.L2_cache_size = 2**20

        def wait_stream(self, other: object) -> None: ...
        def replay(self) -> None: ...
        def record(self) -> None: ...
        def synchronize(self) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *args: object) -> None: ...

        def elapsed_time(self, end: object) -> float:
            return 1.0

    for name in ("get_device_properties", "graph_pool_handle", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    for name in ("stream", "graph", "CUDAGraph", "Event"):
        monkeypatch.setattr(torch.cuda, name, Nothing)


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("direction", providers.DIRECTIONS)
def test_cells_are_captured_and_sampled(
    monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    names = [name for name in providers.NAMES if name != "compiled F.mish"]  # it takes a compiler
    cells = [Cell(name, direction, "bf16", (2**12,)) for name in names]
    results, failures = work.measure_cells(cells, "cpu")
    assert [r.cell.provider for r in results] == [name for name in names if name != "triton"]
    assert [f.cell.provider for f in failures] == ["triton"]
    assert failures[0].reason.startswith("ModuleNotFoundError")
    sets = graphs.buffers(cells[0].bytes, 2**20)
    calls = graphs.calls_per_graph(cells[0].bytes, sets)
    assert {r.timing for r in results} == {Timing(work.ROUNDS, *[1e-3 / (2 * calls)] * 3)}


@pytest.mark.usefixtures("pretended_gpu")
def test_without_memory_for_operands_no_cell_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: object) -> None:
        raise torch.OutOfMemoryError("8 GB")

    monkeypatch.setattr(measuring, "make_inputs", make)
    cells = [Cell(name, "forward", "fp64", (2**30,)) for name in providers.NAMES]
    results, failures = work.measure_cells(cells, "cpu")
    assert not results
    assert [(f.cell, f.out_of_memory) for f in failures] == [(cell, True) for cell in cells]


@pytest.mark.parametrize("direction", providers.DIRECTIONS)
def test_providers_compute_mish(direction: Direction) -> None:
    inputs = make_inputs(Cell("naive", direction, "fp64", (99,)), "cpu")
    expected = F.mish(inputs.leaf)
    if direction == "backward":
        (expected,) = torch.autograd.grad(expected, inputs.leaf, inputs.g)
    for name in ("mish_cuda", "F.mish", "naive"):
        found = providers.call(Cell(name, direction, "fp64", (99,)), inputs)
        found = found[0] if isinstance(found, tuple) else found  # autograd's
        torch.testing.assert_close(found, expected.detach())


# Which cells


def measured(cells: Sequence[Cell], broken: dict[str, str]) -> tuple[list[Result], list[Failure]]:
    return (
        [Result("gpu", cell, timed(1.0)) for cell in cells if cell.provider not in broken],
        [Failure(c, broken[c.provider]) for c in cells if c.provider in broken],
    )


def walk(found: grid.Found, measure: grid.Measure, deadline: Deadline = PLENTY) -> None:
    grid.walk(found, measure, lambda results: None, deadline)


def test_large_sizes_come_first_until_time_is_up() -> None:
    clock, found = Clock(), grid.Found()

    def measure(cells: Sequence[Cell]) -> tuple[list[Result], list[Failure]]:
        clock.now += 10
        return measured(cells, {})

    inputs = len(grid.SIZES) * len(DTYPES) * 2
    walk(found, measure, Deadline(clock() + 315, clock))
    sizes = [r.cell.numel for r in found.results]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) >= {2**30, 2**28, 2**26, 2**24}
    assert all(v.ratio is not None for v in claims.judge(found.results))
    assert len(found.unreached) == inputs - 32
    assert found.unreached[-1] == f"backward fp64 {2**10:,}"
    assert "Not reached before time was up: forward fp32 4,194,304;" in report.speed(found, [])


def test_a_peer_that_fails_is_recorded_and_tried_no_more() -> None:
    found = grid.Found()
    walk(found, partial(measured, broken={"triton": "CompilationError: no"}))
    assert len(found.failures) == len(DTYPES) * 2
    assert {f.cell.numel for f in found.failures} == {2**30}
    assert found.broken == []
    assert {r.cell.provider for r in found.results} == set(providers.NAMES) - {"triton"}
    line = "| triton | backward | fp16 | 1,073,741,824 | CompilationError: no |"
    assert line in report.speed(found, [])


def test_memory_that_is_short_is_enough_for_smaller_sizes() -> None:
    found = grid.Found()

    def measure(cells: Sequence[Cell]) -> tuple[list[Result], list[Failure]]:
        short = dict.fromkeys(providers.NAMES, "OutOfMemoryError: 8 GB")
        return measured(cells, short if cells[0].numel == 2**30 else {})

    walk(found, measure)
    assert {r.cell.provider for r in found.results} == set(providers.NAMES)
    assert found.broken == []


def test_ours_failing_fails_the_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(cells: Sequence[Cell], device: str) -> tuple[list[Result], list[Failure]]:
        return measured(cells, {"mish_cuda": "RuntimeError: bad launch"})

    monkeypatch.setattr(work, "measure_cells", measure)
    found = grid.Found()
    outcome = work.run_benchmarks(tmp_path, FACTS, found, PLENTY)
    assert outcome.word == "FAILED"
    assert "forward fp32: RuntimeError: bad launch" in outcome.detail
    assert len(read(tmp_path / "kernels.csv")[1]) == len(found.results) > 0


# Claims and tables


def test_claims_take_the_worst_large_size() -> None:
    rows = [
        result("mish_cuda", 1.0, 2**24),
        result("F.mish", 1.9, 2**24),
        result("mish_cuda", 2.0, 2**26),
        result("F.mish", 3.0, 2**26),
        result("F.mish", 0.1, 2**20),
        result("mish_cuda", 1.0, 2**20),
    ]
    assert ratios(rows) == {"forward bf16: F.mish / mish_cuda": 1.5}
    table = speed(rows)
    assert "| forward bf16: F.mish / mish_cuda | 1.8 | 1.500 | NO |" in table
    assert "| forward fp32: relu / mish_cuda | 1 | not measured |  |" in table


def test_the_stream_to_beat_is_the_fastest_at_each_size() -> None:
    rows = [
        result("mish_cuda", 1.0, 2**24),
        result("triton", 0.98, 2**24),
        result("copy", 1.2, 2**24),
        result("naive", 0.5, 2**24),
        result("mish_cuda", 1.0, 2**26),
        result("copy", 1.1, 2**26),
    ]
    assert ratios(rows) == {"forward bf16: fastest stream / mish_cuda": 0.98}
    (verdict,) = (v for v in claims.judge(rows) if v.ratio)
    assert not verdict.broken


def test_figures_of_the_large_sizes() -> None:
    rows = [
        *(result(name, s) for name, s in (("mish_cuda", 1e-3), ("copy", 9e-4), ("F.mish", 2e-3))),
        result("compiled F.mish", 1e-3, dtype="fp32", direction="backward"),
        result("mish_cuda", 1e-6, 2**14),
    ]
    text = speed(rows)
    forward, backward = text.split("### Forward, bf16")[1].split("### Backward, fp32")
    assert "| 16,777,216 | mish_cuda | 1 | 67 | 90.0% | 2.00x |" in forward
    assert "| 16,777,216 | F.mish | 2 | 34 | 45.0% | 1.00x |" in forward
    assert "| 16,777,216 | compiled F.mish | 1 | 201 |  |  |" in backward
    assert "16,384" not in text
    assert "stay in the L2 cache" in text


def test_plots_are_drawn_and_shown(tmp_path: Path) -> None:
    found = grid.Found([result(name, 1e-3) for name in providers.NAMES])
    outcome = work.run_plots(tmp_path, FACTS, found, PLENTY)
    assert (tmp_path / "forward-bf16.png").stat().st_size > 0
    assert "![forward-bf16.png](forward-bf16.png)" in outcome.section


def test_without_matplotlib_the_plots_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gpu.plots", raising=False)
    monkeypatch.delattr("gpu.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = grid.Found([result("mish_cuda", 1e-3)])
    outcome = attempt(Step(partial(work.run_plots, tmp_path, FACTS, found)), PLENTY)
    assert (outcome.word, "matplotlib" in outcome.detail) == ("not run", True)


@pytest.mark.parametrize(("backward", "word"), [(5e-6, "ok"), (5.01e-6, "FAILED")])
def test_a_launch_may_cost_no_more_than_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backward: float, word: str
) -> None:
    times = {
        ("forward", "mish_cuda"): timed(4e-6),
        ("forward", "F.mish"): timed(5e-6),
        ("backward", "mish_cuda"): timed(backward),
        ("backward", "F.mish"): timed(5e-6),
    }
    monkeypatch.setattr(launch, "measure", lambda device: times)
    outcome = work.run_launch_cost(tmp_path, PLENTY)
    assert outcome.word == word
    assert ("dearer than F.mish: backward" in outcome.detail) == (word == "FAILED")
    assert "| forward | mish_cuda | 4.00 | 4.00 | 4.00 |" in outcome.section


# Accuracy


def test_the_chain_rule_is_the_reference_of_the_cpu() -> None:
    numbers = FP32.numbers(-FP32.infinity + 1, FP32.infinity, 99_991)
    x = FP32.widen(numbers)
    with np.errstate(all="ignore"):
        truth = reference.evaluate(x)
    for order in range(3):
        found = accuracy.chain_rule(torch.from_numpy(x), order).numpy()
        # Near the zeros of f' and f'' an ULP is no measure; below the clamp all is below 1e-300.
        np.testing.assert_allclose(
            found, truth[order], rtol=1e-13, atol=(1e-300, 1e-15, 1e-15)[order]
        )


def run_accuracy(folder: Path, deadline: Deadline = PLENTY) -> Outcome:
    return work.run_accuracy(folder, FACTS, "cpu", 2**16, deadline)


@needs_extension
def test_bounds_are_kept_on_the_cpu(tmp_path: Path) -> None:
    outcome = run_accuracy(tmp_path)
    assert outcome.word == "ok", outcome.detail
    for line in (
        "| f | fp32 | -87.3 to inf | mish_cuda | 3 ULP |",
        "| f' | fp32 | -87.3 to -3 | mish_cuda | 6 ULP |",
        "| f' | fp32 | -3 to 0 | mish_cuda | 1.2e-07 |",
        "| f' | fp16 | -3 to 0 | mish_cuda | 0.5 ULP + 1.2e-07 |",
        "| f | bf16 | -inf to inf | mish_cuda | 99.9% right |",
    ):
        assert line in outcome.section


@needs_extension
def test_a_bound_that_is_not_kept_fails_with_its_rows_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number, 4 ULP off."""
    sound = accuracy.providers(0)["mish_cuda"]

    def off(x: torch.Tensor) -> torch.Tensor:
        y = sound(x)
        return torch.where(y == y[x > 0].median(), y * (1 + 2**-21), y)

    monkeypatch.setattr(accuracy, "providers", lambda order: {"mish_cuda": off})
    monkeypatch.setattr(accuracy, "FORMATS", [FP32])
    outcome = run_accuracy(tmp_path)
    assert outcome.word == "FAILED"
    assert "f fp32, 3 ULP" in outcome.detail
    assert "NO |" in outcome.section
    assert (tmp_path / "accuracy.csv").stat().st_size > 0


def test_nan_for_a_number_is_an_infinite_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        accuracy, "providers", lambda order: {"mish_cuda": lambda x: torch.full_like(x, torch.nan)}
    )
    rows = accuracy.measure(accuracy.FP16, 0, 0, "cpu")
    assert all(row.errors.ulp == torch.inf and not row.errors.correct for row in rows)
    assert sum(row.errors.tried for row in rows) == 65536 - 2048  # but NaN and infinities


@needs_extension
def test_accuracy_stops_when_time_is_up(tmp_path: Path) -> None:
    clock = Clock()

    def tick() -> float:
        clock.now += 1
        return clock.now

    outcome = run_accuracy(tmp_path, Deadline(clock.now + 2.5, tick))
    assert outcome.word == "out of time"
    assert "7 of 9 functions and dtypes not reached" in outcome.detail


@needs_extension
def test_the_sanitizers_exercise_runs() -> None:
    exercise.main("cpu")
