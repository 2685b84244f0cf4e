"""``gpu``: its steps go on when one fails, end in time, and leave an archive; two of the steps."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from rows import main, refusal

from benchmarks import environment, gpu, smoke
from benchmarks.variants import CHOSEN, Kernel, other_bits, overall, variants
from conftest import needs_extension


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = [(9, 0), (8, 6), (9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: found[i])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be used")
@pytest.mark.parametrize(("command", "flag"), [("gpu", "--out"), ("variants", "--csv")])
def test_without_a_gpu_it_says_so(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected a GPU" in refusal(capsys, command, flag, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_only_torch_is_needed_to_begin() -> None:
    missing = dict.fromkeys(["rich", "matplotlib", "mpmath", "numpy", "pandas", "triton"])
    program = f"import torch, sys; sys.modules.update({missing}); import benchmarks.gpu"
    subprocess.run(python(program), check=True)


@pytest.mark.usefixtures("with_gpu")
def test_steps_go_on_and_leave_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
        "tests: not run: no-such-program is not on PATH, nor beside an nvcc",
        "accuracy: not run: see accuracy.log",
    ]
    assert "8.6;9.0" in (out / "build.log").read_text()
    assert "the rest" in (out / "speed.log").read_text()
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
    assert {"summary.txt", "build.log", "speed.log", "accuracy.log"} <= names
    assert main("gpu", "build", "--out", out) == 0
    assert f"Results: {out}, {out}.tar.gz" in capsys.readouterr().out


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


@pytest.mark.usefixtures("with_gpu")
def test_names_of_failed_tests_survive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's own options, on tests of which the last neither ends nor hears an interrupt."""
    monkeypatch.setattr(gpu, "GRACE", 1)
    file = tmp_path / "test_cuda_steps.py"
    file.write_text("""
import signal, time
def test_wrong():
    assert False
def test_hangs():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)
""")
    command, _ = gpu.steps(tmp_path)["tests"]
    outcome = gpu.run_step([[*command[:-1], str(file)]], tmp_path / "a.log", limit=10)
    assert outcome == "stopped after 10 s, see a.log"
    assert re.search("test_wrong.*FAILED|FAILED.*test_wrong", (tmp_path / "a.log").read_text())


def test_the_commands_fetch_nothing_and_end_within_nine_minutes(tmp_path: Path) -> None:
    steps = gpu.steps(tmp_path)
    assert " ".join(steps) == "build smoke speed variants tests accuracy sanitizer"
    assert gpu.LIMIT + gpu.GRACE < 9 * 60
    assert 60 * int(gpu.MINUTES) < gpu.LIMIT
    commands = [command for name in steps if name != "sanitizer" for command in steps[name]]
    assert {command[0] for command in commands} == {sys.executable}
    assert not any("pip" in command for command in commands)


@needs_extension
def test_smoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main("smoke", "--device", "cpu") == 0
    assert capsys.readouterr().out.count(": ok") == 4
    # As if a kernel wrote other bits there.
    monkeypatch.setattr(smoke, "same_bits", lambda got, _: torch.tensor(got.numel() != 257))
    assert main("smoke", "--device", "cpu") == 1
    assert "fp32: mish: 257 elements, dense" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "threads"), [((7, 5), 1024), ((8, 6), 1536), ((9, 0), 2048), ((10, 0), 2048)]
)
def test_all_that_a_gpu_can_run_is_tried(capability: tuple[int, int], threads: int) -> None:
    tried = variants(capability, threads)
    assert tried.pop(CHOSEN) == []
    macros = [dict(macro.split("=") for macro in name.split()) for name in tried]
    assert all(int(v["threads"]) * int(v["min_blocks"]) <= threads for v in macros)
    assert {v["packs"] for v in macros} == {"1", "2", "4"}
    assert ("32" in {v["pack_bytes"] for v in macros}) == (capability >= (10, 0))
    for name, flags in tried.items():
        assert flags == [f"-DMISH_{macro.upper()}" for macro in name.split()]


def test_the_best_variant_and_those_that_do_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [{CHOSEN: 1.0, "a": 0.5, "b": 0.9}, {CHOSEN: 2.0, "a": 2.2, "b": 1.8}]
    assert overall(cases, cases[0]).startswith("best a, 0.742 of")

    def refuse(*_: object) -> None:
        raise RuntimeError("b: CUDA error 701")

    monkeypatch.setattr("benchmarks.variants.operands_of", lambda *_: [torch.ones(3)] * 2)
    kernels: dict[str, Kernel] = {
        CHOSEN: lambda op, operands: None,
        "a": lambda op, operands: operands[0].fill_(2),
        "b": refuse,
    }
    assert other_bits(kernels, torch.float32, 0) == {"a"}
    assert [*kernels] == [CHOSEN, "a"]
    assert capsys.readouterr().out == "Dropped: b: CUDA error 701\n"


def test_the_commit_where_there_is_no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(environment.COMMIT, "abc1234-dirty")
    assert environment.without_kernels("a GPU", "run")["commit"] == "abc1234-dirty"
    monkeypatch.delenv(environment.COMMIT)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmarks" / "environment.py"))
    assert environment.without_kernels("a GPU", "run")["commit"] == ""
