"""``python -m mish_cuda`` on sound installations, on broken ones, and with wrong kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_fallback import MODULE, WITHOUT, facts, install
from torch import Tensor

from mish_cuda import __main__ as command
from mish_cuda import diagnostics, functional, selfcheck
from project import run_python

PARTS = [
    *("versions", "paths", "build", "extension", "cpu", "cuda", "devices", "environment"),
    "self_check",
]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


# --- In other processes: every state that an installation may be in ---


@pytest.mark.parametrize("built", [False, True], ids=["without kernels", "for CUDA, in vain"])
def test_every_state_is_reported_in_full(built: bool, tmp_path: Path) -> None:
    """Also without other packages; folders of the user as ~; and as text it can be pasted."""
    build = {"mode": "cuda", "architectures": "9.0", "remedy": "a remedy"} if built else {}
    if built:
        install(tmp_path, {MODULE: facts(reason=f"nvcc 13.0 in {tmp_path}/cuda", **build)})
    else:
        install(tmp_path, WITHOUT)
        for name in ("numpy", "rich"):
            (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError")
    env = {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}  # the CPU is to be the only device
    done = run_python("-m", "mish_cuda", "--json", cwd=tmp_path, env=env)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    told = json.loads(done.stdout)
    assert list(told) == PARTS
    assert told["versions"]["torch"] == torch.__version__
    assert told["paths"]["mish_cuda"] == "~/mish_cuda"
    (cpu,) = told["devices"]["present"]
    assert (cpu["device"], cpu["backend"], cpu["error"]) == ("cpu", "eager", None)
    assert told["self_check"]["passed"]
    expected = {**build, "reason": "nvcc 13.0 in ~/cuda"} if built else {"mode": "none"}
    assert told["build"].items() >= expected.items()
    assert not told["extension"]["loaded"]
    assert told["extension"]["reason"].startswith("~/mish_cuda/_C") is built
    assert ("pip install" in (told["extension"]["remedy"] or "")) is built
    for name, part in told.items():
        text = command.render(name, part)
        assert text.isascii()
        assert "\033" not in text
        assert max(map(len, text.splitlines())) <= 80


# What may be found in place of torch, in files of such names, and what is said of it.
IN_PLACE_OF_TORCH = [
    ("torch.py", "raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named"),
    ("torch.py", "raise OSError('libcudart.so.13: cannot open shared object')", "OSError: libcuda"),
    ("torch.py", "from mish_cuda import Mish", "ImportError: cannot import name 'Mish'"),
    ("torch/__init__.py", "", "No module named 'torch.nn'"),
    ("torch/__init__", "a folder, in the way only where torch is not installed", "'torch.nn'"),
]


@pytest.mark.parametrize(("name", "text", "told"), IN_PLACE_OF_TORCH)
def test_a_torch_that_cannot_be_imported_is_told_in_a_line(
    name: str, text: str, told: str, tmp_path: Path
) -> None:
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text(text)
    install(tmp_path, WITHOUT)
    options, place = ([], other) if name.endswith(".py") else (["-S"], other.parent)
    for program in (["-m", "mish_cuda"], ["-c", "import mish_cuda"]):
        done = run_python(*options, *program, cwd=tmp_path, env={"PYTHONPATH": ""})
        assert done.returncode == 1
        *before, last = done.stderr.splitlines()
        assert f"{sys.executable} cannot import from {place}: " in last
        assert told in last
        assert "Install or repair it" in last
        assert before == [] or program[0] == "-c"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("option", ["--help", "--json"])
def test_output_that_nobody_takes(option: str, tmp_path: Path) -> None:
    """A full disk is told in a line; a reader that goes away ends it quietly."""
    install(tmp_path, WITHOUT)
    program, env = ["-m", "mish_cuda", option], {"PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        done = run_python(*program, cwd=tmp_path, env=env, stdout=full)
    assert done.returncode == command.UNWRITTEN
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    reader, writer = os.pipe()
    os.close(reader)
    done = run_python(*program, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


# --- In this process: what torch and the system may say ---


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: object, **kwargs: object) -> None:
        raise error

    return function


def test_text_and_json_tell_the_same(capsys: Capture) -> None:
    """And the help documents every part."""
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert "{" not in text
    assert command.main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(f"{command.TITLES[part]}\n" in text for part in PARTS)
    for fact in (*told["versions"].values(), *told["paths"].values()):
        assert "".join(fact.split()) in "".join(text.split())
    for row in told["self_check"]["results"]:
        assert f"{row['dtype']:<8}  {row['forward']:.2f}" in text
    assert all(f"    {part} " in command._parser().format_help() for part in PARTS)


def test_ctrl_c_keeps_what_was_told(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(selfcheck, "check", raising(KeyboardInterrupt()))
    assert command.main([]) == command.INTERRUPTED
    assert command.TITLES["environment"] in capsys.readouterr().out


@pytest.mark.parametrize("name", [part for part in PARTS if part != "environment"])
def test_a_part_that_fails_is_told_in_its_place(
    monkeypatch: Patch, capsys: Capture, name: str
) -> None:
    monkeypatch.setattr(diagnostics, name, raising(RuntimeError("out of luck\nwith a trace")))
    # Without devices nothing is checked.
    assert command.main([]) == (1 if name in ("devices", "self_check") else 0)
    text = capsys.readouterr().out
    assert f"{command.TITLES[name]}\n  error  RuntimeError: out of luck\n" in text
    assert command.TITLES["self_check"] in text


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def warns_of_the_driver() -> bool:
    warnings.warn(TOO_OLD, stacklevel=1)
    return False


# What torch may answer, and what is then said of the devices besides the CPU: name and error.
GPUS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "a driver that is too old": (
        {
            "version.cuda": "13.0",
            "cuda.init": raising(RuntimeError(TOO_OLD)),
            "accelerator.current_accelerator": lambda: torch.device("cuda"),
            "accelerator.is_available": warns_of_the_driver,
        },
        [],
    ),
    "an error": (
        {"accelerator.current_accelerator": raising(OSError("no libcuda"))},
        [("accelerator", None, None)],
    ),
    "GPUs that can do nothing": (
        {
            "accelerator.current_accelerator": lambda: torch.device("cuda"),
            "accelerator.is_available": lambda: True,
            "accelerator.device_count": lambda: 2,
            "cuda.get_device_name": lambda device: f"GPU {device}",
            "cuda.get_device_capability": lambda device: (9, 0),
        },
        [("cuda:0", "GPU cuda:0", "9.0"), ("cuda:1", "GPU cuda:1", "9.0")],
    ),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees real GPUs")
@pytest.mark.parametrize(("answers", "devices"), GPUS.values(), ids=GPUS)
def test_gpus_that_fail_are_told_and_left_alone(
    answers: dict[str, Any], devices: list[Any], monkeypatch: Patch
) -> None:
    for name, answer in answers.items():
        monkeypatch.setattr(f"torch.{name}", answer)
    told: dict[str, Any] = dict(diagnostics.diagnose())
    cpu, *others = told["devices"]["present"]
    assert cpu["error"] is None
    assert [(row["device"], row["name"], row["capability"]) for row in others] == devices
    assert all(row["error"] for row in others)
    assert told["self_check"]["passed"]
    assert {row["device"] for row in told["self_check"]["results"]} == {"cpu"}
    if "cuda.init" in answers:
        assert told["cuda"]["problem"] == f"RuntimeError: {TOO_OLD}"
        assert told["devices"]["warnings"] == [TOO_OLD]


def test_the_users_folder_is_a_tilde(monkeypatch: Patch) -> None:
    others = "/home/anna/cuda /home/ann-b /mnt/home/ann"
    text = f"nvcc in /home/ann (from PATH) /home/ann/a:/home/ann/b {others}"
    told = f"nvcc in ~ (from PATH) ~/a:~/b {others}"
    monkeypatch.setattr(diagnostics, "self_check", lambda names: {"failures": [text]})
    for home, expected in {"/home/ann": told, "/": text}.items():
        monkeypatch.setenv("HOME", home)
        assert dict(diagnostics.diagnose())["self_check"]["failures"] == [expected]


@pytest.mark.skipif(os.name == "nt", reason="the command is a shell script")
def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnostics.cuda()["nvidia_smi"] is None
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'a GPU, 580.1'\necho 'no driver' >&2\nexit 9\n")
    script.chmod(0o755)
    assert diagnostics.cuda()["nvidia_smi"] == ["a GPU, 580.1", "no driver"]
    monkeypatch.setattr(subprocess, "run", raising(subprocess.TimeoutExpired("nvidia-smi", 5)))
    assert "did not answer" in diagnostics.cuda()["nvidia_smi"][0]


# --- The self-check ---

DTYPES = ["float32", "float64", "float16", "bfloat16"]


def test_inputs_hold_every_kind_of_number(dtype: torch.dtype) -> None:
    x = selfcheck.inputs(dtype)
    assert x.isnan().any()
    assert x.isinf().sum() >= 2
    assert set(x[x == 0].signbit().tolist()) == {True, False}
    assert ((x != 0) & (x.abs() < torch.finfo(dtype).smallest_normal)).any()


def test_what_is_installed_passes() -> None:
    """With one thread; their number is then as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        told = diagnostics.self_check(["cpu"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert (told["passed"], told["failures"], told["skipped"]) == (True, [], [])
    assert [row["dtype"] for row in told["results"]] == DTYPES
    assert not diagnostics.self_check([])["passed"]  # nothing was checked


EXACT = functional._mish


def gradient_without_factor(x: Tensor) -> Tensor:
    y = EXACT(x)
    if y.requires_grad:
        y.register_hook(torch.ones_like)
    return y


WRONG: dict[str, tuple[str, Callable[..., Any], str]] = {
    "NaN at -inf": ("_mish", F.mish, "forward: got nan at x = -inf, expected -0.0"),
    "off by 1e-6": ("_mish", lambda x: EXACT(x) * (1 + 1e-6), "float32, forward"),
    "sign of zero": ("_mish", lambda x: EXACT(x) + 0.0, "forward: got 0.0 at x = -"),
    "last element": ("_mish", lambda x: torch.cat([EXACT(x[:-1]), x[-1:]]), "forward"),
    "gradient": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()), "backward"),
    "factor": ("_mish", gradient_without_factor, "backward"),
    "curvature": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()) ** 2, "double_backward"),
    "strides": ("_mish", lambda x: EXACT(x) if x.is_contiguous() else F.mish(x), "strided"),
    "in place": ("_mish_", EXACT, "in_place"),
    "out": ("_mish_out", lambda x, out: EXACT(x), "out"),
    "an error": ("_mish", raising(RuntimeError("no kernel")), "float64: RuntimeError: no kernel"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(monkeypatch: Patch, capsys: Capture, wrong: str) -> None:
    name, function, expected = WRONG[wrong]
    monkeypatch.setattr(functional, name, function)
    assert command.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["self_check"]
    assert not told["passed"]
    assert any(expected in failure for failure in told["failures"])


def test_dtypes_that_a_device_lacks_are_skipped(monkeypatch: Patch) -> None:
    """As float64 on Apple's GPUs."""

    def try_torch(device: str, dtype: torch.dtype) -> None:
        if dtype == torch.float64:
            raise TypeError("no float64")

    monkeypatch.setattr(diagnostics, "_try_torch", try_torch)
    told = diagnostics.self_check(["cpu"])
    assert told["passed"]
    assert told["skipped"] == ["cpu, float64: TypeError: no float64"]
    assert [row["dtype"] for row in told["results"]] == DTYPES[:1] + DTYPES[2:]
