"""The command line: help, refusals, missing packages, exit statuses; ``gpu`` and ``smoke``."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from rows import RESULTS, Patch, main, printed, refusal

from benchmarks import gpu, smoke
from conftest import needs_extension
from project import ROOT, run_python

NO_GPU = "expected a GPU, but torch "
SPEED = RESULTS / "epyc-avx512" / "cpu.csv"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("mesure", "choose from"),
        # Linux would kill the process.
        ("run --device cpu --sizes 8x1000000000000", "8x1000000000000 in fp64 takes about"),
        ("run --device cpu --sizes 8 --csv .", ".: Is a directory"),
        (f"compare {SPEED} {SPEED.with_name('accuracy.csv')}", "expected a file of speed"),
        ("gpu bench", "sanitizer, got bench"),
        *([] if torch.cuda.is_available() else [("gpu", NO_GPU), ("variants", NO_GPU)]),
    ],
)
def test_a_wrong_option_is_refused_in_a_line_and_nothing_written(
    line: str, named: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    last = refusal(*line.split()).splitlines()[-1]
    assert last.startswith("python -m benchmarks")
    assert named in last
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "packages", "named"),
    [
        ("run --sizes 7", ["rich"], "rich: pip install rich"),
        ("plot a.csv", ["matplotlib"], "matplotlib: pip install matplotlib"),
        ("paper --epochs 1", ["sklearn"], "sklearn: pip install scikit-learn"),
        # Torch is enough for that command, which runs the others.
        ("gpu --help", ["rich", "matplotlib", "mpmath", "numpy", "pandas", "triton"], ""),
    ],
)
def test_a_missing_package_is_named_before_anything_is_measured(
    command: str, packages: list[str], named: str, tmp_path: Path
) -> None:
    if packages == ["sklearn"]:
        pytest.importorskip("scipy")  # which is looked for before
    program = f"import sys; sys.modules.update({dict.fromkeys(packages)}); "
    program += "from benchmarks.cli import main; sys.exit(main())"
    env = {"PYTHONPATH": str(ROOT)}
    done = run_python("-c", program, *command.split(), cwd=tmp_path, env=env)
    assert f"needs the Python package {named}\n" in done.stderr or not named
    assert (done.returncode, list(tmp_path.iterdir())) == (2 if named else 0, [])


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it() -> None:
    """Status 1 would mean "slower". Files come from pipes, too."""
    line = f"{sys.executable} -m benchmarks compare {SPEED} <(cat {SPEED}) | (exec <&-; sleep 1)"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A folder for the steps of `gpu`, and GPUs to see."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(9, 0), (8, 6), (9, 0)].__getitem__)
    return tmp_path / "out"


def test_steps_go_on_and_leave_an_archive(out: Path, monkeypatch: Patch) -> None:
    known = {
        "build": ["echo $TORCH_CUDA_ARCH_LIST"],
        "speed": ["echo why; exit 3", "echo the rest"],
        "tests": ["no-such-program"],
    }
    monkeypatch.setattr(gpu, "steps", lambda out: known)
    assert main("gpu", "--out", out) == 1
    built, speed, tests = (out / "summary.txt").read_text().splitlines()
    assert built.startswith("build: ok (")
    assert speed.startswith("speed: FAILED, exit status 3: why, see speed.log (")
    assert tests.startswith("tests: FAILED, exit status 127: ")
    assert "no-such-program" in tests
    assert (out / "build.log").read_text() == "8.6;9.0\n"
    assert (out / "speed.log").read_text() == "why\nthe rest\n"
    with tarfile.open(f"{out}.tar.gz") as tar:
        assert {f"./{path.name}" for path in out.iterdir()} == {*tar.getnames()} - {"."}
    assert main("gpu", "build", "--out", out) == 0


@pytest.mark.slow
def test_a_command_is_stopped_with_its_children_and_can_tell_what_it_has(out: Path) -> None:
    alive, log = out.with_name("alive"), out.with_name("a.log")
    line = f"(trap '' INT; sleep 3; touch {alive}) & trap 'echo kept; exit' INT; sleep 60"
    assert gpu.run_step([line], log, limit=1) == "stopped after 1 s, see a.log"
    assert log.read_text() == "kept\n"
    time.sleep(4)
    assert not alive.exists()


def test_the_commands_fetch_nothing_and_end_within_nine_minutes() -> None:
    steps = gpu.steps(Path("out"))
    assert " ".join(steps) == "build smoke speed variants tests accuracy sanitizer"
    assert 60 * int(gpu.MINUTES) < gpu.LIMIT < 9 * 60 - gpu.GRACE
    lines = [line for name in steps if name != "sanitizer" for line in steps[name]]
    assert all(line.startswith(sys.executable) and "pip" not in line for line in lines)
    assert " -v " in steps["tests"][0]  # names as tests end, so that they survive a kill


@needs_extension
def test_smoke(monkeypatch: Patch) -> None:
    assert printed("smoke", "--device", "cpu").count(": ok") == 4
    # As if a kernel wrote other bits there.
    monkeypatch.setattr(smoke, "same_bits", lambda got, _: torch.tensor(got.numel() != 257))
    output = printed("smoke", "--device", "cpu", status=1)
    assert "fp32: mish: 257 elements, dense" in output
