"""``python -m mish_cuda`` on sound installations, on broken ones, and with wrong kernels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import reference
from conftest import needs_extension
from mish_cuda import __main__ as command
from mish_cuda import diagnostics, functional, selfcheck
from mish_cuda._extension import _REBUILD, C
from test_fallback import PACKAGE, python_only
from test_values import ACCURACY

PARTS = [
    *("versions", "paths", "build", "extension", "cpu", "cuda", "devices", "environment"),
    *("self_check", "benchmark", "advice"),
]


# --- In other processes: every state that an installation may be in ---


@dataclass(frozen=True)
class Run:
    """What a run with --json left."""

    status: int
    facts: dict[str, Any]
    stderr: str


def run_in(folder: Path, **env: str) -> Run:
    """Runs the package in that folder, which is the user's own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MISH_CUDA")}
    done = subprocess.run(
        [sys.executable, "-m", "mish_cuda", "--json"],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(folder), "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Run(done.returncode, json.loads(done.stdout), done.stderr)


def build_file(**facts: str | None) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in facts.items())


def copy_with_kernels(folder: Path) -> Path:
    """A copy of the package with the module that was compiled, but not what the build wrote."""
    for module in PACKAGE.glob("_C.*[do]"):
        shutil.copy(module, python_only(folder) / "mish_cuda")
    return folder


def without_other_packages(folder: Path) -> Path:
    for name in ("numpy", "rich"):
        (folder / f"{name}.py").write_text("raise ModuleNotFoundError")
    return python_only(folder)


def unloadable(folder: Path) -> Path:
    (python_only(folder) / "mish_cuda" / "_C.so").write_text("no machine code")
    return folder


def built_for_another_torch(folder: Path) -> Path:
    facts = build_file(MODE="cpu", REASON="a reason", TORCH="2.1.0")
    (copy_with_kernels(folder) / "mish_cuda" / "_build.py").write_text(facts)
    return folder


def build_file_damaged(folder: Path) -> Path:
    (copy_with_kernels(folder) / "mish_cuda" / "_build.py").write_text("MODE = 'cpu\0")
    return folder


def build_file_of_other_names(folder: Path) -> Path:
    (copy_with_kernels(folder) / "mish_cuda" / "_build.py").write_text("VERSION = 2")
    return folder


def built_for_cuda(folder: Path) -> Path:
    facts = build_file(
        MODE="cuda",
        REASON=f"nvcc 13.0 in {folder}/cuda",
        TORCH=torch.__version__,
        CUDA="13.0",
        ARCHS="9.0",
    )
    (copy_with_kernels(folder) / "mish_cuda" / "_build.py").write_text(facts)
    return folder


def wrong_maths(folder: Path) -> Path:
    eager = python_only(folder) / "mish_cuda" / "eager.py"
    with eager.open("a") as text:
        text.write("\n\ndef value(input):\n    return torch.nn.functional.mish(input)\n")
    return folder


STATES: dict[str, Callable[[Path], Path]] = {
    "without other packages": without_other_packages,
    "switched off": copy_with_kernels,
    "unloadable": unloadable,
    "built for another torch": built_for_another_torch,
    "no build file": copy_with_kernels,
    "build file damaged": build_file_damaged,
    "build file of other names": build_file_of_other_names,
    "built for cuda": built_for_cuda,
    "wrong maths": wrong_maths,
}
NEED_KERNELS = {"no build file", "build file damaged", "build file of other names"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    def run(state: str) -> Run:
        env = {"MISH_CUDA_EAGER": "1"} if state == "switched off" else {}
        return run_in(STATES[state](tmp_path_factory.mktemp("home", numbered=True)), **env)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(STATES, pool.map(run, STATES), strict=True))


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_reported_in_full(runs: dict[str, Run], state: str) -> None:
    run = runs[state]
    assert list(run.facts) == PARTS
    assert run.facts["versions"]["torch"] == torch.__version__
    assert run.facts["paths"]["mish_cuda"] == "~/mish_cuda"
    assert run.facts["devices"]["present"][0]["device"] == "cpu"
    assert run.facts["self_check"]["passed"] == (state != "wrong maths")
    assert run.status == (state == "wrong maths")
    assert len(run.facts["benchmark"]["results"]) == 4


@pytest.mark.parametrize("state", STATES)
def test_every_report_can_be_pasted(runs: dict[str, Run], state: str) -> None:
    for name, facts in runs[state].facts.items():
        text = command.render(name, facts)
        assert text.isascii()
        assert "\033" not in text
        assert max(map(len, text.splitlines())) <= 80


def to_do(run: Run) -> list[str | None]:
    return [advice["command"] for advice in run.facts["advice"]["to_do"]]


def test_without_an_extension_the_way_to_build_one_is_told(runs: dict[str, Run]) -> None:
    run = runs["without other packages"]
    assert run.facts["build"]["mode"] == "none"
    assert run.facts["extension"]["loaded"] is False
    assert run.facts["devices"]["present"][0]["backend"] == "eager"
    assert to_do(run) == [_REBUILD]


def test_switched_off(runs: dict[str, Run]) -> None:
    run = runs["switched off"]
    assert run.facts["environment"]["MISH_CUDA_EAGER"] == "1"
    assert to_do(run) == ["unset MISH_CUDA_EAGER"]


@pytest.mark.parametrize("state", ["unloadable", "built for another torch"])
def test_an_extension_that_cannot_be_loaded(runs: dict[str, Run], state: str) -> None:
    if state == "built for another torch" and C is None:
        pytest.skip("nothing was compiled")
    run = runs[state]
    assert run.facts["extension"]["loaded"] is False
    assert "cannot be loaded" in run.facts["extension"]["reason"]
    assert to_do(run) == [_REBUILD]


@needs_extension
@pytest.mark.parametrize("state", ["no build file", "build file damaged"])
def test_without_the_build_file_the_kernels_run(runs: dict[str, Run], state: str) -> None:
    run = runs[state]
    assert run.facts["extension"]["loaded"] is True
    assert run.facts["devices"]["present"][0]["backend"] == "cpu"
    expected = {"no build file": "_build.py", "build file damaged": "null bytes"}[state]
    assert expected in run.facts["build"]["error"]
    assert to_do(run) == [_REBUILD]


@needs_extension
def test_a_build_file_of_another_version_leaves_gaps(runs: dict[str, Run]) -> None:
    run = runs["build file of other names"]
    assert run.facts["extension"]["loaded"] is True
    assert set(run.facts["build"].values()) == {None}


def test_the_build_for_cuda_is_told_without_the_users_folder(runs: dict[str, Run]) -> None:
    told = runs["built for cuda"].facts["build"]
    assert told["mode"] == "cuda"
    assert told["architectures"] == "9.0"
    assert told["reason"] == "nvcc 13.0 in ~/cuda"


def test_wrong_maths_is_told_with_an_argument(runs: dict[str, Run]) -> None:
    failures = runs["wrong maths"].facts["self_check"]["failures"]
    assert failures[0] == "cpu, float32, forward: got nan at x = -inf, expected -0.0"
    assert runs["wrong maths"].facts["self_check"]["results"][0]["forward"] is None
    assert "self-check failed" in runs["wrong maths"].facts["advice"]["to_do"][-1]["text"]


def test_the_package_itself_imports_none_of_this() -> None:
    names = ("mish_cuda.diagnostics", "mish_cuda.selfcheck", "torch.utils.benchmark")
    code = f"import sys, mish_cuda; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "error",
    [
        "ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
        "ImportError('libtorch_python.so: undefined symbol: iJIT_NotifyEvent')",
        "OSError('libcudart.so.13: cannot open shared object file')",
    ],
)
def test_a_torch_that_cannot_be_imported_is_told_in_a_line(error: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(f"raise {error}")
    for program in (["-m", "mish_cuda"], ["-c", "import mish_cuda"]):
        done = subprocess.run(
            [sys.executable, *program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        *before, last = done.stderr.splitlines()
        kind, _, message = error.partition("(")
        assert f"which {sys.executable} cannot import: {kind}: {message[1:10]}" in last
        assert "Install or repair it there" in last
        assert before == [] or program[0] == "-c"


# --- In this process: what torch and the system may say ---


def raising(error: Exception) -> Callable[..., Any]:
    def function(*args: object, **kwargs: object) -> None:
        raise error

    return function


@pytest.fixture
def no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "benchmark", lambda names: {})


def report() -> dict[str, Any]:
    return dict(diagnostics.diagnose())


def test_text_and_json_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert command.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [title for title in command.TITLES.values() if f"{title}\n" in text] == list(
        command.TITLES.values()
    )
    for fact in (*facts["versions"].values(), *facts["paths"].values()):
        assert "".join(fact.split()) in "".join(text.split())
    for row in facts["self_check"]["results"]:
        assert f"{row['dtype']:<8}  {row['forward']:.2f}" in text


def test_help_documents_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for part in PARTS:
        assert f"    {part} " in told


def test_an_unknown_option_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--yaml"])
    assert stopped.value.code == 2
    assert "--yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("no_benchmark")
def test_ctrl_c_keeps_what_was_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selfcheck, "check", raising(KeyboardInterrupt()))  # type: ignore[arg-type]
    assert command.main([]) == command.INTERRUPTED
    assert command.TITLES["environment"] in capsys.readouterr().out


FUNCTIONS = [
    *("versions", "paths", "build", "extension", "cpu", "cuda", "devices", "self_check"),
    *("benchmark", "advice"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("no_benchmark")
def test_a_part_that_fails_is_told_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(diagnostics, name, raising(RuntimeError("out of luck\nwith a trace")))
    # Without devices nothing is checked.
    assert command.main([]) == (1 if name in ("devices", "self_check") else 0)
    text = capsys.readouterr().out
    assert f"{command.TITLES[name]}\n  error  RuntimeError: out of luck\n" in text
    assert command.TITLES["advice"] in text


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.usefixtures("no_benchmark")
def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", raising(RuntimeError(TOO_OLD)))

    def is_available() -> bool:
        warnings.warn("CUDA initialization: " + TOO_OLD, stacklevel=1)
        return False

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", is_available)
    facts = report()
    assert facts["cuda"]["problem"] == f"RuntimeError: {TOO_OLD}"
    assert facts["devices"]["warnings"] == ["CUDA initialization: " + TOO_OLD]
    assert [row["device"] for row in facts["devices"]["present"]] == ["cpu"]
    assert facts["self_check"]["passed"]


@pytest.mark.usefixtures("no_benchmark")
def test_a_torch_that_raises_when_asked_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", raising(OSError("no libcuda")))
    facts = report()
    cpu, accelerator = facts["devices"]["present"]
    assert cpu["error"] is None
    assert accelerator["error"] == "OSError: no libcuda"
    assert facts["self_check"]["passed"]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which torch knows the name and the capability, but which can do nothing."""
    if torch.cuda.is_available():
        pytest.skip("torch sees real GPUs")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.usefixtures("no_benchmark", "two_gpus")
def test_gpus_that_fail_are_told_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    _, first, second = facts["devices"]["present"]
    assert (first["name"], first["capability"]) == ("GPU cuda:0", "9.0")
    assert first["error"] is not None
    assert second["device"] == "cuda:1"
    assert {row["device"] for row in facts["self_check"]["results"]} == {"cpu"}


@pytest.mark.parametrize(
    ("architectures", "capability", "covered"),
    [
        ("9.0", (9, 0), True),
        ("8.0", (8, 6), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("8.0+PTX", (7, 5), False),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("10.0f+PTX", (12, 0), False),
        ("7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX", (12, 1), True),
        ("7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX", (7, 0), False),
        ("9.0a 12.0", (12, 0), True),
        ("Hopper", (9, 0), None),
        ("Ampere;9.0", (9, 0), True),
    ],
)
def test_which_gpus_a_build_covers(
    architectures: str, capability: tuple[int, int], covered: bool | None
) -> None:
    assert diagnostics.covers(architectures, capability) is covered


def known_gpu(**row: object) -> dict[str, Any]:
    gpu = {"device": "cuda:0", "backend": "cuda", "capability": "9.0", "covered": True, **row}
    return {"build": {}, "devices": {"present": [gpu]}, "self_check": {"passed": True}}


@needs_extension
def test_advice_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def commands(known: dict[str, Any]) -> list[str]:
        return [advice["command"] for advice in diagnostics.advice(known)["to_do"]]

    assert commands(known_gpu()) == []
    assert commands(known_gpu(covered=None)) == []
    assert commands(known_gpu(backend="eager", covered=None)) == [
        f"MISH_CUDA_BUILD=cuda {_REBUILD}"
    ]
    (rebuild,) = commands(known_gpu(covered=False))
    assert rebuild == f"MISH_CUDA_BUILD=cuda TORCH_CUDA_ARCH_LIST='9.0' {_REBUILD}"
    lines = command.render("advice", diagnostics.advice(known_gpu(covered=False))).splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.strip().rstrip("\\") for line in lines[2:] if line) == rebuild


@needs_extension
def test_a_build_without_cuda_is_right_for_a_torch_without() -> None:
    if torch.version.cuda is None:
        assert diagnostics.advice(known_gpu(backend="eager"))["to_do"] == []


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
    monkeypatch.setenv("HOME", "/home/ann")
    assert diagnostics._without_home({"a": [text], "b": None}) == {"a": [told], "b": None}
    monkeypatch.setenv("HOME", "/")
    assert diagnostics._without_home(text) == text


@pytest.mark.skipif(os.name == "nt", reason="the command is a shell script")
def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnostics.cuda()["nvidia_smi"] is None
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'a GPU, 580.1'\necho 'no driver' >&2\nexit 9\n")
    script.chmod(0o755)
    assert diagnostics.cuda()["nvidia_smi"] == ["a GPU, 580.1", "no driver"]
    monkeypatch.setattr(subprocess, "run", raising(subprocess.TimeoutExpired("nvidia-smi", 5)))
    assert diagnostics.cuda()["nvidia_smi"] == ["nvidia-smi did not answer within 5 seconds"]


def test_a_benchmark_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.9 has no setuptools where Python is older than 3.12, and its benchmark needs that."""
    monkeypatch.setitem(sys.modules, "torch.utils.benchmark", None)
    (failure,) = diagnostics.benchmark(["cpu"])["failures"]
    assert "torch.utils.benchmark" in failure


# --- The self-check ---


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_reference_is_as_good_as_it_says(order: int) -> None:
    x = selfcheck.inputs(torch.float64)
    near = x[(x.abs() < 745) & (x.abs() > 1e-4)]  # elsewhere limits and Taylor's first terms
    x = torch.cat([torch.tensor(selfcheck.EDGES, dtype=torch.float64), near[::7]])
    got = selfcheck.reference(x, order)
    ulp, absolute = reference.error(got, reference.exact(x, order))
    normal = (x > -708.3) | x.isnan()
    assert (absolute[~normal] < 1e-305).all()
    if order == 0:
        assert ulp[normal].max() <= 3
        assert torch.equal(got.signbit(), x.signbit() & ~x.isnan())
    elif order == 1:
        assert ulp[normal & (x <= -3)].max() <= 6
        assert absolute[(x > -3) & (x < 0)].max() <= 2e-16
        assert ulp[x >= 0].max() <= 2
    else:
        assert absolute[normal].max() <= 4e-16


@pytest.mark.parametrize("by", ["cpu", "eager"])
def test_bounds_are_those_of_the_tests(by: str) -> None:
    ours, theirs = selfcheck.BOUNDS[by, torch.float32], ACCURACY[by, torch.float32]
    assert (ours.value, ours.slope_below, ours.slope_between, ours.slope_above) == (
        theirs.value,
        theirs.slope_below,
        theirs.slope_between,
        theirs.slope_above,
    )
    assert ours.curvature == theirs.curvature


def test_spacing(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, -1.5, 3e-9, 1e-320, 60000.0], dtype=torch.float64)
    assert torch.equal(selfcheck.spacing(x, dtype), reference.spacing(x, dtype))


def test_inputs_hold_every_kind_of_number(dtype: torch.dtype) -> None:
    x = selfcheck.inputs(dtype)
    assert x.dtype == dtype
    assert x.isnan().any()
    assert x.isinf().sum() >= 2
    zeros = x[x == 0]
    assert zeros.signbit().any()
    assert (~zeros.signbit()).any()
    assert ((x != 0) & (x.abs() < torch.finfo(dtype).smallest_normal)).any()


def test_what_is_installed_passes() -> None:
    facts = diagnostics.self_check(["cpu"])
    assert facts["failures"] == []
    assert facts["passed"]
    assert [row["dtype"] for row in facts["results"]] == [
        "float32",
        "float64",
        "float16",
        "bfloat16",
    ]


class _Double(torch.autograd.Function):
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


EXACT = functional._mish


def wrong_where_not_contiguous(x: Tensor) -> Tensor:
    return EXACT(x) if x.is_contiguous() else EXACT(x.contiguous().flip(0))


def wrong_at_the_end(x: Tensor) -> Tensor:
    return torch.cat([EXACT(x[:-1]), x[-1:]])


def gradient_without_factor(x: Tensor) -> Tensor:
    y = EXACT(x)
    if y.requires_grad:
        y.register_hook(torch.ones_like)
    return y


WRONG: dict[str, tuple[str, Callable[..., Any], str]] = {
    "NaN at -inf": ("_mish", F.mish, "forward: got nan at x = -inf, expected -0.0"),
    "textbook": ("_mish", lambda x: x * F.softplus(x).tanh(), "forward: got nan at x = -inf"),
    "x tanh(silu(x))": ("_mish", lambda x: x * F.silu(x).tanh(), "forward"),
    "off by 1e-6": ("_mish", lambda x: EXACT(x) * (1 + 1e-6), "float32, forward"),
    "sign of zero": ("_mish", lambda x: EXACT(x) + 0.0, "forward: got 0.0 at x = -"),
    "last element": ("_mish", wrong_at_the_end, "forward"),
    "gradient": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()), "backward"),
    "factor": ("_mish", gradient_without_factor, "backward"),
    "curvature": ("_mish", _Double.apply, "double_backward"),
    "strides": ("_mish", wrong_where_not_contiguous, "strided"),
    "in place": ("_mish_", EXACT, "in_place"),
    "out": ("_mish_out", lambda x, out: EXACT(x), "out"),
    "an error": (
        "_mish",
        raising(RuntimeError("no kernel image")),
        "float64: RuntimeError: no kernel",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    name, function, told = WRONG[wrong]
    monkeypatch.setattr(functional, name, function)
    facts = diagnostics.self_check(["cpu"])
    assert not facts["passed"]
    assert any(told in failure for failure in facts["failures"])
    json.dumps(facts, allow_nan=False)


@pytest.mark.usefixtures("no_benchmark")
def test_wrong_kernels_end_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(functional, "_mish", F.mish)
    assert command.main([]) == 1
    text = capsys.readouterr().out
    assert "  passed    no\n" in text
    assert "cpu, float32, forward: got nan at x = -inf, expected -0.0" in text
    assert ("export MISH_CUDA_EAGER=1" in text) == (C is not None)


def test_dtypes_that_a_device_lacks_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As float64 on Apple's GPUs."""
    original = diagnostics._try_torch

    def try_torch(device: str, dtype: torch.dtype) -> None:
        if dtype == torch.float64:
            raise TypeError("no float64")
        original(device, dtype)

    monkeypatch.setattr(diagnostics, "_try_torch", try_torch)
    facts = diagnostics.self_check(["cpu"])
    assert facts["passed"]
    assert facts["skipped"] == ["cpu, float64: TypeError: no float64"]
    assert [row["dtype"] for row in facts["results"]] == ["float32", "float16", "bfloat16"]


def test_nothing_checked_is_not_passed() -> None:
    assert not diagnostics.self_check([])["passed"]


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        diagnostics.self_check([])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
