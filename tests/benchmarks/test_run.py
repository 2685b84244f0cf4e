"""``run``: what its options choose, what becomes of failures and of Ctrl-C."""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from rows import main, read, row, write

from benchmarks import arguments, measure, providers, run
from benchmarks.arguments import INTERRUPTED, Refused
from benchmarks.cases import KERNEL_DIRECTIONS, KERNEL_PROVIDERS, Group, preset_shapes
from benchmarks.measure import Measured

FORWARD = ("--directions", "forward", "--dtypes", "fp32", "--sizes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def execute(path: Path, *options: str) -> int:
    return main("run", "--device", "cpu", "--seconds", "0", "--csv", path, *options)


def chosen(*options: str, device: str = "cpu") -> list[Group]:
    """The groups that `run` with these options measures."""
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    args = parser.parse_args(options)
    args.device = device
    return run.choose(args)


def rows_of(group: Group) -> Measured:
    return Measured([row(case.provider, 1e-6) for case in group.cases])


def test_run_measures_and_prints_and_table_prints_it_again(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(path, "--sizes", "7", "2x3", "--dtypes", "bf16") == 0
    first = capsys.readouterr().out
    rows = read(path)
    assert set(rows.suite) == {"kernels"}
    assert len(rows) == 2 * len(KERNEL_PROVIDERS) * len(KERNEL_DIRECTIONS)
    assert set(rows["shape"]) == {"7", "2x3"}
    both = rows[(rows.direction == "forward+backward") & (rows["shape"] == "7")]
    peaks = both.set_index("provider").peak_bytes
    assert peaks["mish_cuda"] == 2 * 2 * 7  # result and gradient, in bf16
    assert peaks["naive"] == 5 * 2 * 7
    assert (rows.peak_bytes.isna() == (rows.direction != "forward+backward")).all()
    assert rows.command.iloc[0].startswith("python -m benchmarks run --device cpu")
    assert rows.torch.iloc[0] == torch.__version__
    assert main("table", path) == 0
    assert capsys.readouterr().out.strip() in first


@pytest.mark.parametrize(
    ("options", "device", "suites"),
    [
        ("", "cpu", "kernels compiled norms claims"),
        ("", "cuda", "kernels compiled norms"),
        ("--only gpu", "cuda", "gpu launch"),
        ("--only compiled", "cpu", "compiled"),
        *((option, "cpu", "kernels") for option in ("--sizes 7", "--threads 2", "-b")),
        ("--preset resnet50", "cpu", "kernels"),
        ("--preset grad-tts", "cpu", "kernels norms"),
    ],
)
def test_suites_by_default_and_by_choice(options: str, device: str, suites: str) -> None:
    groups = chosen(*options.split(), device=device)
    assert {group.suite for group in groups} == set(suites.split())


def test_options_choose_from_the_grid() -> None:
    groups = chosen("--directions", "backward")
    assert {group.cases[0].direction for group in groups} == {"backward"}
    groups = chosen("--preset", "resnet50", "--batch", "2", "--sizes", "9", "--dtypes", "fp32")
    assert {group.cases[0].shape for group in groups} == {(9,), *preset_shapes("resnet50", 2)}
    norms = [g for g in chosen("--preset", "grad-tts", "--threads", "2") if g.suite == "norms"]
    assert [g.cases[0].shape for g in norms[::2]] == preset_shapes("grad-tts", 1)
    assert {case.threads for group in norms for case in group.cases} == {2}
    sizes = [g.cases[0].numel for g in chosen("--only", "gpu", device="cuda") if g.suite == "gpu"]
    assert sizes == sorted(sizes, reverse=True)  # most claims are about the large ones
    assert sizes[0] == 2**30
    with pytest.raises(Refused, match="expected --device cpu"):
        chosen("--only", "claims", device="cuda")


@pytest.mark.parametrize(
    "line",
    [
        "-d 0 -n 50 -w 5 -s (16,10,8,8) -b -t float16",
        "--device 0 --n_repeat 50 --warmup 5 --size [16,10,8,8] --baseline --type torch.float16",
    ],
)
def test_options_of_the_old_perftest(
    line: str, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    measured = MagicMock(return_value=Measured())
    monkeypatch.setattr(run, "measure", measured)
    monkeypatch.setattr(arguments, "device", lambda text: "cpu")
    assert main("run", "--csv", path, *line.split()) == 0
    assert [call.args[0].cases[0].direction for call in measured.call_args_list] == [
        *KERNEL_DIRECTIONS
    ]
    for (group, *pace), _ in measured.call_args_list:
        assert (pace, group.min_rounds) == (["cpu", 0, 5], 50)
        assert [case.provider for case in group.cases] == ["mish_cuda", "naive", "relu"]
        assert {(case.dtype, case.shape) for case in group.cases} == {("fp16", (16, 10, 8, 8))}


def fails(monkeypatch: pytest.MonkeyPatch, provider: str) -> MagicMock:
    """From now on, in all directions; counts the calls."""
    function = MagicMock(side_effect=RuntimeError("no compiler\nmore"))
    recipes = dict.fromkeys(KERNEL_DIRECTIONS, ("f(x)", function))
    monkeypatch.setitem(providers._RECIPES, provider, recipes)
    return function


def test_a_provider_that_fails_is_named_and_the_others_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = fails(monkeypatch, "relu")
    options = ["--sizes", "7", "8", "--dtypes", "fp32", "--providers", "mish_cuda", "relu"]
    assert execute(path, *options) == 1
    assert tried.call_count == len(KERNEL_DIRECTIONS)  # at 8 not again
    assert list(read(path).provider) == ["mish_cuda"] * 6
    assert "relu backward fp32 7: RuntimeError: no compiler\n" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "status"), [("relu", 0), ("mish_cuda", 1)])
def test_on_a_gpu_rivals_may_fail(
    name: str, status: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, name)
    groups, timed = chosen(*FORWARD, "7"), lambda group: measure.measure(group, "cpu", 0)
    assert measure.record(groups, timed, "cpu", "", path, rivals_may_fail=True) == status


def test_after_so_many_minutes_no_group_is_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure.time, "monotonic", MagicMock(side_effect=[0, 59, 61, 61]))
    groups = chosen(*FORWARD, "7", "8", "9")
    assert measure.record(groups, rows_of, "cpu", "", path, minutes=1) == 0
    assert len(read(path)) == len(KERNEL_PROVIDERS)
    assert "Not reached in 1 minutes: kernels: forward, fp32, 8; " in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And before the first row an older file."""
    groups = chosen()
    outcomes = [*map(rows_of, groups[:2]), KeyboardInterrupt, KeyboardInterrupt]
    monkeypatch.setattr(run, "measure", MagicMock(side_effect=outcomes))
    assert execute(path) == INTERRUPTED
    assert len(read(path)) == sum(len(group.cases) for group in groups[:2])
    assert "Interrupted" in capsys.readouterr().out
    older = write(path, [row("relu", 1.0)]).read_text()
    assert execute(path, "--sizes", "7") == INTERRUPTED
    output = capsys.readouterr().out
    assert "Nothing was measured" in output
    assert "a device" not in output  # the older file is no result of this run
    assert path.read_text() == older


def test_without_kernels_run_says_what_it_measures(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mish_cuda.backend", lambda tensor: "eager")
    assert execute(path, *FORWARD, "7", "--providers", "mish_cuda") == 0
    assert "measuring its eager fallback" in " ".join(capsys.readouterr().out.split())
