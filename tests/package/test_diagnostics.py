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
from test_fallback import module_that_says, python_only, run
from torch import Tensor

import reference
from mish_cuda import __main__ as command
from mish_cuda import diagnostics, functional, selfcheck
from mish_cuda._bounds import allowed

PARTS = [
    *("versions", "paths", "build", "extension", "cpu", "cuda", "devices", "environment"),
    "self_check",
]


# --- In other processes: every state that an installation may be in ---


# Each state makes a folder with the package, and returns some of the facts that are told of it.
State = Callable[[Path], dict[str, dict[str, Any]]]


def without_other_packages(folder: Path) -> dict[str, dict[str, Any]]:
    for name in ("numpy", "rich"):
        (folder / f"{name}.py").write_text("raise ModuleNotFoundError")
    python_only(folder)
    return {"build": {"mode": "none"}, "extension": {"loaded": False, "remedy": None}}


def built_for_cuda(folder: Path) -> dict[str, dict[str, Any]]:
    """It has no machine code."""
    facts = {"mode": "cuda", "architectures": "9.0", "remedy": "a remedy"}
    module_that_says(folder, reason=f"nvcc 13.0 in {folder}/cuda", **facts)
    return {"build": {**facts, "reason": "nvcc 13.0 in ~/cuda"}, "extension": {"loaded": False}}


def wrong_maths(folder: Path) -> dict[str, dict[str, Any]]:
    with (python_only(folder) / "mish_cuda" / "eager.py").open("a") as text:
        text.write("\n\ndef value(input):\n    return torch.nn.functional.mish(input)\n")
    return {"self_check": {"passed": False}}


@pytest.mark.parametrize("state", [without_other_packages, built_for_cuda, wrong_maths])
def test_every_state_is_reported_in_full(state: State, tmp_path: Path) -> None:
    expected = state(tmp_path)
    done = run("-m", "mish_cuda", "--json", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    facts = json.loads(done.stdout)
    assert list(facts) == PARTS
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["paths"]["mish_cuda"] == "~/mish_cuda"
    assert all(facts[part].items() >= some.items() for part, some in expected.items())
    (cpu,) = facts["devices"]["present"]
    assert (cpu["device"], cpu["backend"], cpu["error"]) == ("cpu", "eager", None)
    assert facts["self_check"]["passed"] == (done.returncode == 0) == (state is not wrong_maths)
    if state is built_for_cuda:
        assert facts["extension"]["reason"].startswith("~/mish_cuda/_C")
        assert "pip install" in facts["extension"]["remedy"]
    if state is wrong_maths:
        assert "float32, forward: got nan at x = -inf" in facts["self_check"]["failures"][0]
        assert facts["self_check"]["results"][0]["forward"] is None  # infinite, as JSON has it
    for name, part in facts.items():  # as text it can be pasted
        text = command.render(name, part)
        assert text.isascii()
        assert "\033" not in text
        assert max(map(len, text.splitlines())) <= 80


# What may stand where torch is looked for, and what is said of it.
IN_PLACE_OF_TORCH = {
    "raise ModuleNotFoundError(\"No module named 'torch'\")": "No module named 'torch'",
    "raise OSError('libcudart.so.13: cannot open shared object file')": "OSError: libcudart.so.13",
    "x = 1": "'torch' is not a package",
    "import torch; torch.ones(3)": "AttributeError: ",
    "from mish_cuda import Mish": "ImportError: cannot import name 'Mish'",
    "x = (": "SyntaxError: ",
}


@pytest.mark.parametrize(("text", "told"), IN_PLACE_OF_TORCH.items())
def test_a_torch_that_cannot_be_imported_is_told_in_a_line(
    text: str, told: str, tmp_path: Path
) -> None:
    python_only(tmp_path)
    (tmp_path / "torch.py").write_text(text)
    for program in (["-m", "mish_cuda"], ["-c", "import mish_cuda"]):
        done = run(*program, cwd=tmp_path)
        assert done.returncode == 1
        *before, last = done.stderr.splitlines()
        assert f"{sys.executable} cannot import from {tmp_path / 'torch.py'}: " in last
        assert told in last
        assert "Install or repair it" in last
        assert before == [] or program[0] == "-c"


@pytest.mark.parametrize("other", ["torch", "torch/__init__.py"])
def test_a_folder_called_torch(other: str, tmp_path: Path) -> None:
    """Without an __init__.py it is in the way only where torch itself is not installed."""
    (tmp_path / "torch").mkdir()
    if other != "torch":
        (tmp_path / other).touch()
    python_only(tmp_path)
    none_installed = ["-S"] if other == "torch" else []
    done = run(*none_installed, "-m", "mish_cuda", cwd=tmp_path, env={"PYTHONPATH": ""})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot import from {tmp_path / other}: " in line
    assert "No module named 'torch.nn'" in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("option", ["--help", "--json", ""])
def test_a_full_disk_is_told_in_a_line(option: str, tmp_path: Path) -> None:
    python_only(tmp_path)
    program = ["-m", "mish_cuda", *filter(None, [option])]
    with open("/dev/full", "w") as full:
        done = run(*program, cwd=tmp_path, env={"PYTHONUNBUFFERED": ""}, stdout=full)
    assert done.returncode == command.UNWRITTEN
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that signal")
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    python_only(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    done = run("-m", "mish_cuda", cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


# --- In this process: what torch and the system may say ---


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: object, **kwargs: object) -> None:
        raise error

    return function


def report() -> dict[str, Any]:
    return dict(diagnostics.diagnose())


def test_text_and_json_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert "{" not in text
    assert command.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert all(f"{command.TITLES[part]}\n" in text for part in PARTS)
    for fact in (*facts["versions"].values(), *facts["paths"].values()):
        assert "".join(fact.split()) in "".join(text.split())
    for row in facts["self_check"]["results"]:
        assert f"{row['dtype']:<8}  {row['forward']:.2f}" in text


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--yaml", 2)])
def test_options(option: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The help documents every part."""
    with pytest.raises(SystemExit) as stopped:
        command.main([option])
    assert stopped.value.code == status
    told = capsys.readouterr()
    assert "--yaml" in told.err if status else all(f"    {part} " in told.out for part in PARTS)


def test_ctrl_c_keeps_what_was_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selfcheck, "check", raising(KeyboardInterrupt()))
    assert command.main([]) == command.INTERRUPTED
    assert command.TITLES["environment"] in capsys.readouterr().out


@pytest.mark.parametrize("name", [part for part in PARTS if part != "environment"])
def test_a_part_that_fails_is_told_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(diagnostics, name, raising(RuntimeError("out of luck\nwith a trace")))
    # Without devices nothing is checked.
    assert command.main([]) == (1 if name in ("devices", "self_check") else 0)
    text = capsys.readouterr().out
    assert f"{command.TITLES[name]}\n  error  RuntimeError: out of luck\n" in text
    assert command.TITLES["self_check"] in text


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn(TOO_OLD, stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", raising(RuntimeError(TOO_OLD)))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", is_available)
    facts = report()
    assert facts["cuda"]["problem"] == f"RuntimeError: {TOO_OLD}"
    assert facts["devices"]["warnings"] == [TOO_OLD]
    assert [row["device"] for row in facts["devices"]["present"]] == ["cpu"]
    assert facts["self_check"]["passed"]


def test_a_torch_that_raises_when_asked_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", raising(OSError("no libcuda")))
    facts = report()
    cpu, accelerator = facts["devices"]["present"]
    assert (cpu["error"], accelerator["error"]) == (None, "OSError: no libcuda")
    assert facts["self_check"]["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees real GPUs")
def test_gpus_that_fail_are_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch knows their names and capabilities, but they can do nothing."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    facts = report()
    cpu, *gpus = facts["devices"]["present"]
    assert [(gpu["device"], gpu["name"], gpu["capability"]) for gpu in gpus] == [
        ("cuda:0", "GPU cuda:0", "9.0"),
        ("cuda:1", "GPU cuda:1", "9.0"),
    ]
    assert cpu["error"] is None
    assert all(gpu["error"] is not None for gpu in gpus)
    assert facts["self_check"]["passed"]
    assert {row["device"] for row in facts["self_check"]["results"]} == {"cpu"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ann/cuda", "~/cuda"),
        ("nvcc in /home/ann (from PATH)", "nvcc in ~ (from PATH)"),
        ("/home/ann/a:/home/ann/b", "~/a:~/b"),
        ("/home/anna/cuda", "/home/anna/cuda"),
        ("/home/ann-b", "/home/ann-b"),
        ("/mnt/home/ann", "/mnt/home/ann"),
    ],
)
def test_the_users_folder_is_a_tilde(monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    monkeypatch.setattr(diagnostics, "self_check", lambda names: {"failures": [text]})
    monkeypatch.setenv("CXX", text)
    for home, expected in {"/home/ann": told, "/": text}.items():
        monkeypatch.setenv("HOME", home)
        facts = report()
        assert facts["environment"]["CXX"] == expected
        assert facts["self_check"]["failures"] == [expected]


@pytest.mark.skipif(os.name == "nt", reason="the command is a shell script")
def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnostics.cuda()["nvidia_smi"] is None
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'a GPU, 580.1'\necho 'no driver' >&2\nexit 9\n")
    script.chmod(0o755)
    assert diagnostics.cuda()["nvidia_smi"] == ["a GPU, 580.1", "no driver"]
    monkeypatch.setattr(subprocess, "run", raising(subprocess.TimeoutExpired("nvidia-smi", 5)))
    assert "did not answer" in diagnostics.cuda()["nvidia_smi"][0]


# --- The self-check ---


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_reference_is_as_good_as_it_says(order: int) -> None:
    x = selfcheck.inputs(torch.float64)
    near = x[(x.abs() < 745) & (x.abs() > 1e-4)]  # elsewhere limits and Taylor's first terms
    x = torch.cat([torch.tensor(selfcheck.EDGES, dtype=torch.float64), near[::7]])
    got = selfcheck.reference(x, order)
    true = reference.exact(x, order)
    _, absolute = reference.error(got, true)
    normal = (x > -708.3) | x.isnan()
    assert (absolute[~normal] < 1e-305).all()
    assert (absolute <= allowed("reference", torch.float64, order, x, true[0]))[normal].all()
    if order == 0:
        assert torch.equal(got.signbit(), x.signbit() & ~x.isnan())


def test_inputs_hold_every_kind_of_number(dtype: torch.dtype) -> None:
    x = selfcheck.inputs(dtype)
    assert x.dtype == dtype
    assert x.isnan().any()
    assert x.isinf().sum() >= 2
    assert set(x[x == 0].signbit().tolist()) == {True, False}
    assert ((x != 0) & (x.abs() < torch.finfo(dtype).smallest_normal)).any()


def test_what_is_installed_passes() -> None:
    """With one thread; their number is then as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        facts = diagnostics.self_check(["cpu"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert (facts["passed"], facts["failures"], facts["skipped"]) == (True, [], [])
    dtypes = [row["dtype"] for row in facts["results"]]
    assert dtypes == ["float32", "float64", "float16", "bfloat16"]
    assert not diagnostics.self_check([])["passed"]  # nothing was checked


EXACT = functional._mish


class Double(torch.autograd.Function):
    """A slope that is right, and a curvature that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return EXACT(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = functional.mish_backward(x.detach(), g)
        return slope + 0 * x.clamp(-1, 1)


def wrong_where_not_contiguous(x: Tensor) -> Tensor:
    return EXACT(x) if x.is_contiguous() else EXACT(x.contiguous().flip(0))


def gradient_without_factor(x: Tensor) -> Tensor:
    y = EXACT(x)
    if y.requires_grad:
        y.register_hook(torch.ones_like)
    return y


WRONG: dict[str, tuple[str, Callable[..., Any], str]] = {
    "NaN at -inf": ("_mish", F.mish, "forward: got nan at x = -inf, expected -0.0"),
    "x tanh(silu(x))": ("_mish", lambda x: x * F.silu(x).tanh(), "forward"),
    "off by 1e-6": ("_mish", lambda x: EXACT(x) * (1 + 1e-6), "float32, forward"),
    "sign of zero": ("_mish", lambda x: EXACT(x) + 0.0, "forward: got 0.0 at x = -"),
    "last element": ("_mish", lambda x: torch.cat([EXACT(x[:-1]), x[-1:]]), "forward"),
    "gradient": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()), "backward"),
    "factor": ("_mish", gradient_without_factor, "backward"),
    "curvature": ("_mish", Double.apply, "double_backward"),
    "strides": ("_mish", wrong_where_not_contiguous, "strided"),
    "in place": ("_mish_", EXACT, "in_place"),
    "out": ("_mish_out", lambda x, out: EXACT(x), "out"),
    "an error": ("_mish", raising(RuntimeError("no kernel")), "float64: RuntimeError: no kernel"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    name, function, told = WRONG[wrong]
    monkeypatch.setattr(functional, name, function)
    assert command.main(["--json"]) == 1
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["self_check"]
    assert not facts["passed"]
    assert any(told in failure for failure in facts["failures"])


def test_dtypes_that_a_device_lacks_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As float64 on Apple's GPUs."""

    def try_torch(device: str, dtype: torch.dtype) -> None:
        if dtype == torch.float64:
            raise TypeError("no float64")

    monkeypatch.setattr(diagnostics, "_try_torch", try_torch)
    facts = diagnostics.self_check(["cpu"])
    assert facts["passed"]
    assert facts["skipped"] == ["cpu, float64: TypeError: no float64"]
    assert [row["dtype"] for row in facts["results"]] == ["float32", "float16", "bfloat16"]
