"""``run``: what its options choose, what it writes, what becomes of failures and of Ctrl-C."""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from rows import BOTH, Capture, Patch, main, printed, read, row, write

from benchmarks import arguments, measure, providers, run
from benchmarks.arguments import INTERRUPTED
from benchmarks.cases import KERNEL_DIRECTIONS, KERNEL_PROVIDERS, Group
from benchmarks.measure import Measured
from project import copy_sources, run_python

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


def rows_of(group: Group) -> Measured:
    return Measured([row(case.provider, 1e-6) for case in group.cases])


def test_run_measures_and_prints_and_table_prints_it_again(path: Path, capsys: Capture) -> None:
    first = printed(capsys, *command(path, "--sizes", "7", "2x3", "--dtypes", "bf16"))
    rows = read(path)
    assert set(rows.suite) == {"kernels"}
    assert not rows.duplicated(["provider", "direction", "shape"]).any()
    assert len(rows) == 2 * len(KERNEL_PROVIDERS) * len(KERNEL_DIRECTIONS)
    both = rows[(rows.direction == BOTH) & (rows["shape"] == "7")]
    peaks = both.set_index("provider").peak_bytes
    assert peaks["mish_cuda"] == 2 * 2 * 7  # result and gradient, in bf16
    assert peaks["naive"] == 5 * 2 * 7
    assert (rows.peak_bytes.isna() == (rows.direction != BOTH)).all()
    assert rows.command.iloc[0].startswith("python -m benchmarks run --device cpu")
    assert rows.torch.iloc[0] == torch.__version__
    assert printed(capsys, "table", path).strip() in first


def test_options_choose_the_groups() -> None:
    suites = {"": "kernels compiled norms claims", "--preset grad-tts": "kernels norms"}
    for options, expected in {**suites, "--sizes 7": "kernels", "--threads 2": "kernels"}.items():
        assert {group.suite for group in chosen(*options.split())} == set(expected.split())
    groups = chosen("--preset", "grad-tts", "--batch", "4", "--threads", "2", "--dtypes", "bf16")
    cases = [case for group in groups for case in group.cases]
    assert {(case.shape[0], case.threads, case.dtype) for case in cases} == {(4, 2, "bf16")}
    sizes = [g.cases[0].numel for g in chosen("--only", "gpu", device="cuda") if g.suite == "gpu"]
    assert sizes == sorted(sizes, reverse=True)  # most claims are about the large ones
    assert sizes[0] == 2**30


def test_options_of_the_old_perftest(path: Path, monkeypatch: Patch) -> None:
    measured = MagicMock(return_value=Measured())
    monkeypatch.setattr(run, "measure", measured)
    monkeypatch.setattr(arguments, "device", lambda text: "cpu")
    line = "-d 0 -n 50 -w 5 -s (16,10,8,8) -b -t float16"
    assert main("run", "--csv", path, *line.split()) == 0
    calls = [call.args for call in measured.call_args_list]
    assert [group.cases[0].direction for group, *_ in calls] == [*KERNEL_DIRECTIONS]
    for group, *pace in calls:
        assert (pace, group.min_rounds) == (["cpu", 0, 5], 50)
        assert [case.provider for case in group.cases] == ["mish_cuda", "naive", "relu"]
        assert {(case.dtype, case.shape) for case in group.cases} == {("fp16", (16, 10, 8, 8))}


def fails(monkeypatch: Patch, name: str, error: type[Exception] = RuntimeError) -> MagicMock:
    """From now on this provider does, in all directions; counts the calls."""
    function = MagicMock(side_effect=error("no compiler\nmore"))
    recipes = dict.fromkeys(KERNEL_DIRECTIONS, ("f(x)", function))
    monkeypatch.setitem(providers._RECIPES, name, recipes)
    return function


@pytest.mark.parametrize(("error", "tries"), [(RuntimeError, 1), (torch.OutOfMemoryError, 2)])
def test_a_provider_that_fails_is_named_and_the_others_go_on(
    error: type[Exception], tries: int, path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """It is not tried again at the second size, unless memory was short."""
    tried = fails(monkeypatch, "relu", error)
    options = ["--sizes", "8", "7", "--dtypes", "fp32", "--providers", "mish_cuda", "relu"]
    output = printed(capsys, *command(path, *options), status=1)
    assert tried.call_count == tries * len(KERNEL_DIRECTIONS)
    assert list(read(path).provider) == ["mish_cuda"] * 6
    assert f"relu backward fp32 8: {error.__name__}: no compiler\n" in output


@pytest.mark.parametrize(("name", "status"), [("relu", 0), ("mish_cuda", 1)])
def test_on_a_gpu_rivals_may_fail(name: str, status: int, path: Path, monkeypatch: Patch) -> None:
    fails(monkeypatch, name)
    groups, timed = chosen(*FORWARD, "7"), lambda group: measure.measure(group, "cpu", 0)
    assert measure.record(groups, timed, "cpu", "", path, rivals_may_fail=True) == status


def test_after_so_many_minutes_no_group_is_begun(
    path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(run, "measure", lambda group, *_: rows_of(group))
    monkeypatch.setattr(measure.time, "monotonic", MagicMock(side_effect=[0, 59, 61, 61]))
    output = printed(capsys, *command(path, *FORWARD, "7", "8", "9", "--minutes", "1"))
    assert len(read(path)) == len(KERNEL_PROVIDERS)
    assert "Not reached in 1 minutes: kernels: forward, fp32, 8; " in output


def test_ctrl_c_keeps_what_was_measured(path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    """And before the first row an older file."""
    groups = chosen()
    outcomes = [*map(rows_of, groups[:2]), KeyboardInterrupt, KeyboardInterrupt]
    monkeypatch.setattr(run, "measure", MagicMock(side_effect=outcomes))
    assert "Interrupted" in printed(capsys, *command(path), status=INTERRUPTED)
    assert len(read(path)) == sum(len(group.cases) for group in groups[:2])
    older = write(path, [row("relu", 1.0)]).read_text()
    output = printed(capsys, *command(path, "--sizes", "7"), status=INTERRUPTED)
    assert "Nothing was measured" in output
    assert "a device" not in output  # the older file is no result of this run
    assert path.read_text() == older


@pytest.mark.parametrize("rounds", [2, 3])
def test_ctrl_c_after_enough_rounds_keeps_a_group(
    rounds: int, path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Of each case that did not fail median and spread, and why the others did; nothing after."""

    def sampler(statement: object) -> MagicMock:
        return MagicMock(side_effect=[*[3e-6, 1e-6, 2e-6][:rounds], KeyboardInterrupt])

    monkeypatch.setattr(measure, "sampler", sampler)
    fails(monkeypatch, "relu")
    names = ["--providers", "mish_cuda", "relu", "copy", "--seconds", "60"]
    output = printed(capsys, *command(path, *FORWARD, "7", "8", *names), status=INTERRUPTED)
    if rounds < 3:
        assert "Nothing was measured" in output
        return
    columns = ["provider", "numel", "rounds", "p20_s", "median_s", "p80_s"]
    figures = [7, 3, 1.4e-6, 2e-6, 2.6e-6]
    assert read(path)[columns].to_numpy().tolist() == [[n, *figures] for n in ("mish_cuda", "copy")]
    assert "relu forward fp32 7: RuntimeError: no compiler" in output


def test_without_kernels_it_says_so(path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("mish_cuda.backend", lambda tensor: "eager")
    output = printed(capsys, *command(path, *FORWARD, "7", "--providers", "mish_cuda"))
    assert "measuring its eager fallback" in " ".join(output.split())


def test_an_unbuilt_source_folder_is_not_measured(tmp_path: Path) -> None:
    clone = copy_sources(tmp_path / "a clone")
    done = run_python("-m", "benchmarks", "run", "--device", "cpu", "--sizes", "7", cwd=clone)
    assert done.returncode == 2, done.stderr
    assert "no kernels to measure" in done.stderr
    assert not list(clone.glob("*.csv"))
