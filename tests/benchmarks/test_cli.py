"""The command line: help, refusals, missing packages, exit statuses, outputs that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from rows import RESULTS, Capture, Patch, main, refusal

from benchmarks.arguments import INTERRUPTED, device
from benchmarks.cli import COMMANDS
from project import ROOT

SPEED = RESULTS / "epyc-avx512" / "cpu.csv"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: Capture) -> None:
    assert main(*command.split(), "--help") == 0
    assert f"usage: python -m benchmarks {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("mesure", "choose from"),
        ("run --device nowhere", "expected cpu, cuda, cuda:N or N, got nowhere"),
        ("run --shapes 8x", "expected elements or a shape"),
        ("run --dtypes int8", "expected one of fp32, bf16, fp16, fp64, got int8"),
        ("run --threads two", "expected a whole number above 0, got two"),
        ("run --seconds nan", "expected seconds, got nan"),
        ("run --device cpu --batch 2", "--batch: expected a --preset"),
        ("run --device cpu --only claims --sizes 8", "--only claims: expected no options"),
        ("run --device cpu --only gpu", "--only gpu: expected --device cuda"),
        ("run --device cpu --providers triton --directions forward+backward", "a provider"),
        # Linux would kill the process.
        ("run --device cpu --sizes 8x1000000000000", "8x1000000000000 in fp64 takes about"),
        ("networks --device cpu --batch 1000000000000", "give a smaller --batch"),
        ("paper --device cpu --batch-size 895", "leaves a batch of one image"),
        ("paper --device cpu --data somewhere", "digits come with scikit-learn"),
        ("compare a b --threshold=-1", "a percentage, as 10"),
        ("gpu bench", "sanitizer, got bench"),
        (f"report {SPEED} --output page.txt", "expected a name that ends in .html"),
    ],
)
def test_a_wrong_option_is_refused_in_a_line_and_nothing_written(
    line: str, named: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    last = refusal(capsys, *line.split()).splitlines()[-1]
    assert last.startswith("python -m benchmarks")
    assert named in last
    assert not list(tmp_path.iterdir())


def test_only_gpus_that_are_here(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device(name) for name in ("1", "cuda", "cpu")] == ["cuda:1", "cuda", "cpu"]
    assert "expected one of 2 GPUs, got cuda:2" in refusal(capsys, "run", "--device", "cuda:2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "expected a GPU for cuda, but torch" in refusal(capsys, "run", "--device", "cuda")


def python(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *program.split(maxsplit=1), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, capture_output=True, text=True, cwd=folder, env=env)


@pytest.mark.parametrize(
    ("command", "package", "pip"),
    [
        ("run --sizes 7", "rich", "rich"),
        ("plot a.csv", "matplotlib", "matplotlib"),
        ("paper --epochs 1", "sklearn", "scikit-learn"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(
    command: str, package: str, pip: str, tmp_path: Path
) -> None:
    """Before anything is measured."""
    program = f"-c import sys; sys.modules[{package!r}] = None; "
    program += "from benchmarks.cli import main; sys.exit(main())"
    done = python(program, *command.split(), folder=tmp_path)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]  # torch may have said something before
    expected = f"needs the Python package {package}: pip install {pip}"
    assert line == f"python -m benchmarks {command.split()[0]}: {expected}"
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_a_folder_called_torch_is_named(tmp_path: Path) -> None:
    module = tmp_path / "torch" / "__init__.py"
    module.parent.mkdir()
    module.touch()
    done = python("-m benchmarks", "table", str(SPEED), folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(module) in done.stderr


def test_ctrl_c_is_no_traceback(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("benchmarks.plots.save", MagicMock(side_effect=KeyboardInterrupt))
    assert main("plot", SPEED, "--output", tmp_path) == INTERRUPTED
    assert capsys.readouterr().err.startswith("Interrupted")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's devices")
@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ("> /dev/full", 2, "No space left on device"),
        # A reader that goes away: status 1 would mean "slower".
        ("| (exec <&-; sleep 1)", 128 + signal.SIGPIPE, ""),
    ],
)
def test_output_that_fails_has_its_status(
    output: str, status: int, message: str, tmp_path: Path
) -> None:
    """Files come from pipes, too."""
    command = f"{sys.executable} -m benchmarks compare <(cat {SPEED}) <(cat {SPEED}) {output}"
    bash = ["bash", "-o", "pipefail", "-c", command]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(bash, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (status, bool(message)), done.stderr
    assert message in done.stderr
