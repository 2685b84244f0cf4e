"""``run``: what is timed, how, what is written, and what becomes of failures and of Ctrl-C.

Clocks are pretended: no time is asserted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from rows import BOTH, Patch, printed, read, row, write
from torch.utils import benchmark

from benchmarks import cases, measure, providers, run, timing
from benchmarks.arguments import INTERRUPTED
from benchmarks.cases import KERNEL_DIRECTIONS, KERNEL_PROVIDERS, Case, Group
from benchmarks.claims import CLAIMS, rival_of
from benchmarks.providers import Inputs, call, make_inputs

FORWARD = ("--directions", "forward", "--dtypes", "fp32", "--sizes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def command(path: Path, *options: str) -> tuple[object, ...]:
    return ("run", "--device", "cpu", "--seconds", "0", "--csv", path, *options)


def chosen(*options: str, device: str = "cpu") -> list[Group]:
    """The groups that `run` with these options measures."""
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    args = parser.parse_args(options)
    args.device = device
    return run.choose(args)


def test_run_measures_and_prints_and_table_prints_it_again(path: Path, monkeypatch: Patch) -> None:
    first = printed(*command(path, "--sizes", "7", "2x3", "--dtypes", "bf16"))
    rows = read(path)
    assert not rows.duplicated(["provider", "direction", "shape"]).any()
    assert len(rows) == 2 * len(KERNEL_PROVIDERS) * len(KERNEL_DIRECTIONS)
    both = rows[(rows.direction == BOTH) & (rows["shape"] == "7")]
    peaks = both.set_index("provider").peak_bytes
    assert peaks["mish_cuda"] == 2 * 2 * 7  # result and gradient, in bf16
    assert peaks["naive"] == 5 * 2 * 7
    assert (rows.peak_bytes.isna() == (rows.direction != BOTH)).all()
    assert rows.command.iloc[0].startswith("python -m benchmarks run --device cpu")
    assert rows.torch.iloc[0] == torch.__version__
    assert printed("table", path).strip() in first
    monkeypatch.setattr("mish_cuda.backend", lambda tensor: "eager")
    told = printed(*command(path, *FORWARD, "7")).split()
    assert "measuring its eager fallback" in " ".join(told)


def test_options_choose_the_groups() -> None:
    assert {group.suite for group in chosen()} == {"kernels", "compiled", "norms", "claims"}
    assert {group.suite for group in chosen("--sizes", "7")} == {"kernels"}
    groups = chosen("--preset", "grad-tts", "--batch", "4", "--threads", "2", "--dtypes", "bf16")
    found = [case for group in groups for case in group.cases]
    assert {(case.shape[0], case.threads, case.dtype) for case in found} == {(4, 2, "bf16")}
    sizes = [g.cases[0].numel for g in chosen("--only", "gpu", device="cuda") if g.suite == "gpu"]
    assert sizes == sorted(sizes, reverse=True)  # most claims are about the large ones
    assert sizes[0] == 2**30


def test_claims_are_about_what_is_timed_in_turn() -> None:
    """Each case and its rival are in one group; of the suite "claims", alone."""
    groups = [*chosen(), *chosen("--only", "gpu", device="cuda")]
    known = {case.provider for group in groups if group.suite != "claims" for case in group.cases}
    assert all(CLAIMS.at_most == CLAIMS.ratio.str.startswith("ours /"))
    for claim in CLAIMS.itertuples():
        case, rival = cases.case_of(claim), rival_of(claim)
        together = [g for g in groups if g.suite == claim.suite and {case, rival} <= {*g.cases}]
        assert min(len(group.cases) for group in together) == 2 or claim.suite != "claims"
        assert case.bytes > 0  # such a direction, dtype and layout exist
        assert {case.provider, rival.provider} <= known


@pytest.mark.parametrize(("error", "tries"), [(RuntimeError, 1), (torch.OutOfMemoryError, 2)])
@pytest.mark.parametrize("name", ["relu", "mish_cuda"])
def test_a_provider_that_fails_is_named_and_the_others_go_on(
    name: str, error: type[Exception], tries: int, path: Path, monkeypatch: Patch
) -> None:
    """It is not tried again at the second size, unless memory was short."""
    function = MagicMock(side_effect=error("no compiler\nmore"))
    monkeypatch.setitem(providers._FUNCTIONS, name, (function, function))
    options = (*FORWARD, "8", "7", "--providers", "mish_cuda", "relu")
    output = printed(*command(path, *options), status=1)
    assert f"{name} forward fp32 8: {error.__name__}: no compiler\n" in output
    assert function.call_count == tries
    assert {*read(path).provider} == {"mish_cuda", "relu"} - {name}
    # On a GPU rivals may fail, and memory may be short.
    timed = partial(measure.measure, device="cpu", seconds=0)
    status = measure.record(chosen(*options), timed, "cpu", "", path, rivals_may_fail=True)
    assert status == (name == "mish_cuda" and tries == 1)


def test_after_so_many_minutes_no_group_is_begun(path: Path, monkeypatch: Patch) -> None:
    rows = ([row("relu", 1e-6)], {})
    monkeypatch.setattr(run, "measure", MagicMock(return_value=rows))
    monkeypatch.setattr(measure.time, "monotonic", MagicMock(side_effect=[0, 59, 61, 61]))
    output = printed(*command(path, *FORWARD, "7", "8", "9", "--minutes", "1"))
    assert len(read(path)) == 1
    assert "Not reached in 1 minutes: kernels: forward, fp32, 8; " in output


def test_ctrl_c_keeps_what_was_measured(path: Path, monkeypatch: Patch) -> None:
    """And before the first row an older file."""
    rows = [([row(name, 1e-6)], {}) for name in ("mish_cuda", "relu")]
    outcomes = [*rows, KeyboardInterrupt, KeyboardInterrupt]
    monkeypatch.setattr(run, "measure", MagicMock(side_effect=outcomes))
    assert "Interrupted" in printed(*command(path), status=INTERRUPTED)
    assert list(read(path).provider) == ["mish_cuda", "relu"]
    older = write(path, [row("relu", 1.0)]).read_text()
    output = printed(*command(path, "--sizes", "7"), status=INTERRUPTED)
    assert "Nothing was measured" in output
    assert "a device" not in output  # the older file is no result of this run
    assert path.read_text() == older


@pytest.mark.parametrize("seconds", [1e-7, 2e-4, 3.0])
def test_a_sample_is_the_time_of_one_call(seconds: float, monkeypatch: Patch) -> None:
    """On a clock that only the call moves on."""
    before, now, seen = torch.get_num_threads(), [0.0], set()
    monkeypatch.setattr(benchmark, "timer", lambda: now[0])

    def call() -> None:
        seen.add(torch.get_num_threads())
        now[0] += seconds

    sample = timing.sampler(timing.Statement("call()", {"call": call}, threads=before + 1))
    assert sample() == pytest.approx(seconds)
    assert (seen, torch.get_num_threads()) == ({before + 1}, before)


def test_turns_are_taken_in_changing_order() -> None:
    taken: list[str] = []
    samplers = {key: lambda key=key: taken.append(key) or 1.0 for key in "abcd"}
    assert timing.take_turns(samplers, 0, 6, MagicMock()) == {key: [1.0] * 6 for key in "abcd"}
    rounds = [taken[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_cases_are_captured_and_sampled(direction: str, monkeypatch: Patch) -> None:
    """With what timing asks of CUDA, on the CPU: graphs run when they are captured, and a replay of
    any takes no time on a clock that goes a millisecond from event to event."""
    fake = MagicMock(L2_cache_size=2**20)
    fake.elapsed_time.return_value = 1.0
    devices = ("get_device_properties", "graph_pool_handle", "Stream", "current_stream")
    for name in (*devices, "stream", "graph", "CUDAGraph", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: fake)
    monkeypatch.setitem(sys.modules, "triton", None)
    names = [name for name in cases.GPU_PROVIDERS if name != "compiled F.mish"]  # takes a compiler
    group = Group("gpu", tuple(Case(name, direction, "bf16", (2**12,)) for name in names), 7)
    found, failures = measure.measure(group, "cpu", 0, prepare=measure.by_graphs)
    ((case, reason),) = failures.items()
    assert (case.provider, reason.partition(":")[0]) == ("triton", "ModuleNotFoundError")
    # Two replays of so many calls take that millisecond.
    calls = timing.calls_per_graph(case.bytes, timing.buffer_sets(case.bytes, 2**20))
    time = f"{1e-3 / (2 * calls):.4e}"
    rows = [(row["provider"], row["rounds"], row["median_s"]) for row in found]
    assert rows == [(name, 7, time) for name in names if name != "triton"]


def values(case: Case, inputs: Inputs, provider: str, direction: str) -> tuple[torch.Tensor, ...]:
    """What a statement gives; autograd gives several tensors."""
    found = call(replace(case, provider=provider, direction=direction), inputs)
    return found if isinstance(found, tuple) else (found.clone(),)


MISH = ("F.mish", "mish_cuda", "naive", "memory-efficient")


@pytest.mark.parametrize(
    ("names", "shape", "layout"),
    [
        (MISH, (24,), "x"),
        *((MISH, (6, 8), layout) for layout in ("x[:, ::2]", "x[:, 1:-1]", "x.t()")),
        (MISH, (3, 4, 6), "x.transpose(1, 2)"),
        (MISH, (2, 3, 4, 5), "x.permute(0, 3, 1, 2)"),
        *((grid.providers, (4, 16), "x") for grid in cases.SUITES["norms"]),
        *((grid.providers, (2, 16, 3, 6), "x") for grid in cases.SUITES["norms"]),
    ],
    ids=str,
)
def test_mish_is_the_same_by_all_providers(
    names: Sequence[str], shape: tuple[int, ...], layout: str
) -> None:
    """With norms forward in evaluation, and both in training, with gradients of the parameters."""
    case = Case(names[0], "", "fp64", shape, layout)
    inputs = make_inputs(case, "cpu")
    assert inputs.x.std() > 2  # zeros would be faster
    assert inputs.x.numel() == case.numel
    for direction in filter(partial(cases.can_do, names[0]), KERNEL_DIRECTIONS):
        first, *others = (values(case, inputs, name, direction) for name in names)
        for other in others:
            torch.testing.assert_close(other, first)
    if names[0].startswith("BatchNorm"):  # by the statistics of a new layer
        (found,) = values(case, inputs, names[0], "forward")
        torch.testing.assert_close(found, F.mish(inputs.x), rtol=1e-4, atol=1e-4)
        # In training, where a norm takes the mean off, it is the same at all x + c.
        slope = values(case, inputs, names[0], BOTH)[0].transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("provider", KERNEL_PROVIDERS)
def test_backward_is_what_autograd_gives_of_both(provider: str) -> None:
    case = Case(provider, "", "fp64", (3, 4, 6), "x.transpose(1, 2)")
    inputs = make_inputs(case, "cpu")
    (found,), both = (values(case, inputs, provider, d) for d in ("backward", BOTH))
    torch.testing.assert_close(found, inputs.x + inputs.g if provider == "copy" else both[0])
