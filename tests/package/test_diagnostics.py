"""``python -m mish_cuda``: what it tells of torch, of the system and of wrong kernels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layouts
from mish_cuda import __main__ as command
from mish_cuda import diagnostics, functional, selfcheck

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def test_text_and_json_tell_the_same(capsys: Capture) -> None:
    """And the help documents every part."""
    assert (command.main(["--json"]), command.main([])) == (0, 0)
    document, text = capsys.readouterr().out.split("\n}\n")
    for part, facts in json.loads(f"{document}}}").items():
        facts.pop("seconds", None)
        assert all(line in text for line in command.render(part, facts).splitlines())
        assert f"    {part} " in command._parser().format_help()


def test_ctrl_c_keeps_what_was_told(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(selfcheck, "check", Mock(side_effect=KeyboardInterrupt()))
    assert command.main([]) == command.INTERRUPTED
    assert command.TITLES["environment"] in capsys.readouterr().out


@pytest.mark.parametrize("home", ["/home/ann", "/"])
def test_the_users_folder_is_a_tilde(home: str, monkeypatch: Patch) -> None:
    others = "/home/anna/cuda /home/ann-b /mnt/home/ann"
    text = f"nvcc in /home/ann (from PATH) /home/ann/a:/home/ann/b {others}"
    told = text if home == "/" else f"nvcc in ~ (from PATH) ~/a:~/b {others}"
    monkeypatch.setattr(diagnostics, "self_check", lambda names: {"failures": [text]})
    monkeypatch.setenv("HOME", home)
    assert dict(diagnostics.diagnose())["self_check"]["failures"] == [told]


# --- What torch and the system may answer, and what is told of it ---

Facts = dict[str, Any]
Diagnose = Callable[[Facts], tuple[int, Facts]]


@pytest.fixture
def diagnose(monkeypatch: Patch, capsys: Capture) -> Diagnose:
    """The exit status and the document, with these answers, or errors, in place of functions."""

    def diagnose(answers: Facts) -> tuple[int, Facts]:
        for name, answer in answers.items():
            raises = isinstance(answer, Exception)
            monkeypatch.setattr(name, Mock(side_effect=answer) if raises else answer)
        status = command.main(["--json"])
        return status, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return diagnose


FAILED = CompletedProcess("nvidia-smi", 9, "a GPU, 580.1\n", "no driver\n")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def warns() -> bool:
    warnings.warn(TOO_OLD, stacklevel=1)
    return False


def try_torch(device: str, dtype: torch.dtype) -> None:
    """As where the GPU is out of order, and the device has no float64, as Apple's."""
    if device != "cpu" or dtype == torch.float64:
        raise TypeError("not here")


# The answers, the part that tells of them, and a piece of it.
RUN, ACCELERATOR = "subprocess.run", "torch.accelerator.current_accelerator"
CUDA = {ACCELERATOR: lambda: torch.device("cuda")}
OLD_DRIVER = {"torch.version.cuda": "13.0", "torch.cuda.init": RuntimeError(TOO_OLD)}
LIMITED = {"mish_cuda.diagnostics._try_torch": try_torch}
USELESS_GPUS = {
    **CUDA,
    **LIMITED,
    "torch.accelerator.is_available": lambda: True,
    "torch.accelerator.device_count": lambda: 2,
    "torch.cuda.get_device_name": lambda device: f"GPU {device}",
    "torch.cuda.get_device_capability": lambda device: (9, 0),
}
ANSWERS: list[tuple[Facts, str, str]] = [
    ({RUN: FileNotFoundError()}, "cuda", '"nvidia_smi": null'),
    ({RUN: lambda *a, **k: FAILED}, "cuda", '"nvidia_smi": ["a GPU, 580.1", "no driver"]'),
    ({RUN: TimeoutExpired("nvidia-smi", 5)}, "cuda", "did not answer"),
    (OLD_DRIVER, "cuda", f'"problem": "RuntimeError: {TOO_OLD}"'),
    ({**CUDA, "torch.accelerator.is_available": warns}, "devices", f'"warnings": ["{TOO_OLD}"]'),
    ({ACCELERATOR: OSError("no libcuda")}, "devices", '"error": "OSError: no libcuda"'),
    (USELESS_GPUS, "devices", '"name": "GPU cuda:1", "capability": "9.0", "error": "'),
    (LIMITED, "self_check", '"skipped": ["cpu, float64: TypeError: not here"]'),
    (USELESS_GPUS, "self_check", '"skipped": ["cpu, float64: TypeError: not here"]'),
]
for part in ("versions", "paths", "build", "extension", "cpu", "cuda", "devices", "self_check"):
    error = RuntimeError("out of luck\nwith a trace")
    told = '{"error": "RuntimeError: out of luck"}'
    ANSWERS.append(({f"mish_cuda.diagnostics.{part}": error}, part, told))


@pytest.mark.parametrize(("answers", "part", "piece"), ANSWERS)
def test_answers_are_told(answers: Facts, part: str, piece: str, diagnose: Diagnose) -> None:
    """What fails fails alone; but where nothing can be checked, the check fails."""
    status, told = diagnose(answers)
    assert piece in json.dumps(told[part])
    assert status == ("error" in told[part] and part in ("devices", "self_check"))


# --- The self-check ---


def test_what_is_installed_passes() -> None:
    """With one thread; their number is then as it was."""
    with layouts.threads(3):
        told = diagnostics.self_check(["cpu"])
        assert torch.get_num_threads() == 3
    assert (told["passed"], told["failures"], told["skipped"]) == (True, [], [])
    assert len({row["dtype"] for row in told["results"]}) == 4


EXACT = functional._mish


def gradient_without_factor(x: Tensor) -> Tensor:
    y = EXACT(x)
    if y.requires_grad:
        y.register_hook(torch.ones_like)
    return y


WRONG: dict[str, tuple[str, Any, str]] = {
    "NaN at -inf": ("_mish", F.mish, "forward: got nan at x = -inf, expected -0.0"),
    "off by 1e-6": ("_mish", lambda x: EXACT(x) * (1 + 1e-6), "float32, forward"),
    "sign of zero": ("_mish", lambda x: EXACT(x) + 0.0, "forward: got 0.0 at x = -"),
    "NaN": ("_mish", lambda x: torch.where(x.isnan(), 0.0, EXACT(x)), "got 0.0 at x = nan"),
    "subnormal": ("_mish", lambda x: torch.where(x.abs() < 1e-38, 0 * x, EXACT(x)), "got 0.0 at"),
    "last element": ("_mish", lambda x: torch.cat([EXACT(x[:-1]), x[-1:]]), "forward"),
    "gradient": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()), "backward"),
    "factor": ("_mish", gradient_without_factor, "backward"),
    "curvature": ("_mish", lambda x: EXACT(x) + 1e-3 * (x - x.detach()) ** 2, "double_backward"),
    "strides": ("_mish", lambda x: EXACT(x) if x.is_contiguous() else F.mish(x), "strided"),
    "in place": ("_mish_", EXACT, "in_place"),
    "out": ("_mish_out", lambda x, out: EXACT(x), "out"),
    "an error": ("_mish", RuntimeError("no kernel"), "float64: RuntimeError: no kernel"),
}


@pytest.mark.parametrize(("name", "function", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found(name: str, function: Any, told: str, diagnose: Diagnose) -> None:
    status, document = diagnose({f"mish_cuda.functional.{name}": function})
    assert (status, document["self_check"]["passed"]) == (1, False)
    assert any(told in failure for failure in document["self_check"]["failures"])
