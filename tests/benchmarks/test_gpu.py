"""``gpu``: its steps go on when one fails, end in time, and leave an archive; and ``smoke``."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from rows import Capture, Patch, main, printed, refusal

from benchmarks import gpu, smoke
from benchmarks.arguments import INTERRUPTED
from benchmarks.variants import CHOSEN, variants
from conftest import needs_extension


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def archived(folder: Path) -> set[str]:
    with tarfile.open(f"{folder}.tar.gz") as tar:
        return {name.removeprefix("./") for name in tar.getnames()} - {"."}


@pytest.fixture
def with_gpu(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = [(9, 0), (8, 6), (9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: found[i])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be used")
@pytest.mark.parametrize(("command", "flag"), [("gpu", "--out"), ("variants", "--csv")])
def test_without_a_gpu_it_says_so(command: str, flag: str, tmp_path: Path, capsys: Capture) -> None:
    assert "expected a GPU" in refusal(capsys, command, flag, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_only_torch_is_needed_to_begin() -> None:
    missing = dict.fromkeys(["rich", "matplotlib", "mpmath", "numpy", "pandas", "triton"])
    program = f"import torch, sys; sys.modules.update({missing}); import benchmarks.gpu"
    subprocess.run(python(program), check=True)


@pytest.mark.usefixtures("with_gpu")
def test_steps_go_on_and_leave_an_archive(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    known = {
        "build": [python("import os; print(os.environ['TORCH_CUDA_ARCH_LIST'])")],
        "speed": [python("print('why'); exit(3)"), python("print('the rest')")],
        "tests": [["no-such-program"]],
        "accuracy": [python("exit(2)")],
    }
    monkeypatch.setattr(gpu, "steps", lambda out: known)
    out = tmp_path / "out"
    assert main("gpu", "--out", out) == 1
    lines = (out / "summary.txt").read_text().splitlines()
    assert [line.rpartition(" (")[0] for line in lines] == [
        "build: ok",
        "speed: FAILED, exit status 3: why, see speed.log",
        "tests: not run: no-such-program is not on PATH, nor in CUDA_HOME",
        "accuracy: not run: see accuracy.log",
    ]
    assert "8.6;9.0" in (out / "build.log").read_text()
    assert "the rest" in (out / "speed.log").read_text()
    assert {"summary.txt", "build.log", "speed.log", "accuracy.log"} <= archived(out)
    assert f"Results: {out}, {out}.tar.gz" in printed(capsys, "gpu", "build", "--out", out)


@pytest.mark.usefixtures("with_gpu")
def test_ctrl_c_leaves_the_archive_of_the_steps_before(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(gpu, "run_step", MagicMock(side_effect=["ok", KeyboardInterrupt]))
    assert main("gpu", "--out", tmp_path / "out") == INTERRUPTED
    assert archived(tmp_path / "out") == {"summary.txt"}


@pytest.mark.usefixtures("with_gpu")
def test_a_command_is_stopped_with_its_children_and_can_tell_what_it_has(tmp_path: Path) -> None:
    alive, log = tmp_path / "alive", tmp_path / "a.log"
    child = f"signal.signal(2, signal.SIG_IGN); time.sleep(3); open({str(alive)!r}, 'w')"
    program = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import signal, time; ' + {child!r}])
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("kept")
"""
    start = time.time()
    assert gpu.run_step([python(program)], log, limit=1) == "stopped after 1 s, see a.log"
    assert log.read_text() == "kept\n"
    time.sleep(max(0, start + 5 - time.time()))
    assert not alive.exists()


def test_the_commands_fetch_nothing_and_end_within_nine_minutes(tmp_path: Path) -> None:
    steps = gpu.steps(tmp_path)
    assert " ".join(steps) == "build smoke speed variants tests accuracy sanitizer"
    assert gpu.LIMIT + gpu.GRACE < 9 * 60
    assert 60 * int(gpu.MINUTES) < gpu.LIMIT
    commands = [command for name in steps if name != "sanitizer" for command in steps[name]]
    assert {command[0] for command in commands} == {sys.executable}
    assert not any("pip" in command for command in commands)
    assert "-v" in steps["tests"][0]  # names as tests end, so that they survive a kill


@needs_extension
def test_smoke(monkeypatch: Patch, capsys: Capture) -> None:
    assert printed(capsys, "smoke", "--device", "cpu").count(": ok") == 4
    # As if a kernel wrote other bits there.
    monkeypatch.setattr(smoke, "same_bits", lambda got, _: torch.tensor(got.numel() != 257))
    output = printed(capsys, "smoke", "--device", "cpu", status=1)
    assert "fp32: mish: 257 elements, dense" in output


@pytest.mark.parametrize(("capability", "threads"), [((8, 6), 1536), ((10, 0), 2048)])
def test_variants_are_those_that_a_gpu_can_run(capability: tuple[int, int], threads: int) -> None:
    tried = variants(capability, threads)
    assert tried.pop(CHOSEN) == []
    for name, flags in tried.items():
        macros = dict(macro.split("=") for macro in name.split())
        assert int(macros["threads"]) * int(macros["min_blocks"]) <= threads
        assert macros["pack_bytes"] == "16" or capability >= (10, 0)
        assert flags == [f"-DMISH_{macro.upper()}" for macro in name.split()]
