"""A fresh process: what importing does, and that without kernels all works, with the reason."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C import DispatchKey, DispatchKeySet
from torch._subclasses.fake_tensor import FakeTensorMode

import mish_cuda
import reference
from conftest import EAGER, needs_extension
from mish_cuda._extension import C
from project import copy_sources, is_quoted, run_python

PACKAGE = Path(mish_cuda.__file__).parent
SUFFIX = EXTENSION_SUFFIXES[0]

# Tells what happens in a fresh interpreter.
SCRIPT = """
import json, sys, warnings
import torch
before = set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mish_cuda
    from mish_cuda._extension import REASON, REMEDY
imported = sorted(set(sys.modules) - before)

def derivatives(mish):
    y = mish(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    return y, slope, torch.autograd.grad(slope.sum(), x)[0]

x = torch.linspace(-30, 30, 61, dtype=torch.float64, requires_grad=True)
y, slope, curvature = derivatives(mish_cuda.mish)
expected = derivatives(torch.nn.functional.mish)
torch.testing.assert_close((y, slope, curvature), expected, rtol=1e-12, atol=1e-14)
x = x.detach()
layer = torch.nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(inplace=True))
assert torch.equal(layer(x.clone()), mish_cuda.mish(mish_cuda.mish(x)))
assert torch.equal(mish_cuda.mish(x, out=torch.empty(0).double()), y)
assert torch.equal(mish_cuda.mish_(x.clone()), y)
assert torch.equal(mish_cuda.mish_backward(x, torch.ones_like(y)), slope)
print(json.dumps({
    "backend": mish_cuda.backend(x),
    "file": mish_cuda.__file__,
    "warnings": [[w.category.__name__, str(w.message)] for w in caught],
    "reason": REASON,
    "remedy": REMEDY,
    "imported": imported,
}))
"""


def tell(packages: Path, **env: str) -> dict[str, Any]:
    """What the script tells when mish_cuda is imported from that folder."""
    done = run_python("-c", SCRIPT, cwd=packages, env=env)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert Path(result["file"]).parent == packages / "mish_cuda"
    # DTensor and the compiler take a second to import.
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "onnx", "numpy")
    heavy += ("mish_cuda.diagnostics", "mish_cuda.selfcheck")
    assert [name for name in result["imported"] if name.startswith(heavy)] == []
    return result


# --- Every state that an installation may be in ---


def install(folder: Path, files: dict[str, bytes | None]) -> Path:
    """A copy of the package with these files, those of a build; None: links to nowhere."""
    unwanted = shutil.ignore_patterns("__pycache__", "_C*", "_without_kernels.py")
    shutil.copytree(PACKAGE, folder / "mish_cuda", ignore=unwanted)
    for name, content in files.items():
        path = folder / "mish_cuda" / name
        if content is None:
            path.symlink_to(folder / "nowhere")
        else:
            path.write_bytes(content)
    return folder


def facts(**changed: str | None) -> bytes:
    """What a module holds that has facts of its build, and no machine code."""
    told = {"python": SUFFIX, "torch": torch.__version__, **changed}
    return f"mish_cuda facts: {json.dumps(told)}\0".encode()


MODULE = f"_C{SUFFIX}"
OTHER = ".cpython-399-nowhere.so"
NIGHTLY = "2.99.0.dev20990101"
WITHOUT: dict[str, bytes | None] = {"_without_kernels.py": b""}  # as MISH_CUDA_BUILD=none

# The files of each state, and the reason that is told.
STATES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "built without kernels": (WITHOUT, "MISH_CUDA_BUILD=none"),
    "of another torch": (
        {MODULE: facts(torch="2.5.1")},
        f"compiled for torch 2.5.1, but this is torch {torch.__version__}",
    ),
    "of another nightly": ({MODULE: facts(torch=NIGHTLY)}, f"compiled for torch {NIGHTLY}, but"),
    "of another Python": ({f"_C{OTHER}": facts()}, OTHER),
    "renamed from another Python": ({MODULE: facts(python=OTHER)}, f"another Python, {OTHER}"),
    "lost": ({}, "there is no compiled extension for this Python"),
    "damaged": ({MODULE: facts()[:40]}, "is damaged"),
    "a link to nowhere": ({MODULE: None}, f"for this Python ({SUFFIX}) in "),
    "no machine code": ({MODULE: facts()}, "it cannot be loaded"),
}


@pytest.mark.parametrize("state", STATES)
def test_fallback(tmp_path: Path, state: str) -> None:
    """Everything works, and the reason is told once, unless somebody asked for it."""
    files, reason = STATES[state]
    result = tell(install(tmp_path, files))
    assert result["backend"] == "eager"
    assert "torch.onnx" not in result["imported"]
    assert reason in result["reason"]
    assert (result["remedy"] is None) == (files is WITHOUT)
    if files is WITHOUT:
        assert result["warnings"] == []
    else:
        ((category, message),) = result["warnings"]
        assert category == "RuntimeWarning"
        assert reason in message
        assert "pip install --no-build-isolation -" in message
        assert state != "of another torch" or is_quoted(message)


@needs_extension
@pytest.mark.parametrize("value", ["true", "False", "off", "0"])
def test_the_extension_is_used_unless_switched_off(value: str) -> None:
    """Silently. torch.onnx must be told of the op; that takes 1 % of what torch does to import."""
    told = tell(PACKAGE.parent, MISH_CUDA_EAGER=value)
    used = value != "true"
    assert (told["backend"], told["warnings"]) == ("cpu" if used else "eager", [])
    assert told["remedy"] is None
    assert used or told["reason"] == "MISH_CUDA_EAGER is set"
    assert ("torch.onnx" in told["imported"]) is used


def unbuilt(folder: Path) -> Path:
    """A source folder in which nothing was built, with a space in its name."""
    return copy_sources(folder / "a clone")


@needs_extension
def test_a_source_folder_borrows_no_kernels(tmp_path: Path) -> None:
    """Of another one that is installed editable, whose finder answers for every submodule."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import sys
from importlib.util import spec_from_file_location
class Finder:
    def find_spec(name, path=None, target=None):
        if name == 'mish_cuda._C':
            return spec_from_file_location(name, {getattr(C, "__file__", "")!r})
sys.meta_path.append(Finder)
""")
    folder = unbuilt(tmp_path)
    told = tell(folder, PYTHONPATH=f"{folder}{os.pathsep}{tmp_path}")
    assert told["backend"] == "eager"
    ((_, message),) = told["warnings"]
    assert is_quoted(message)


@pytest.mark.parametrize(
    ("command", "status"), [("mish_cuda", 0), ("benchmarks run --only kernels", 2)]
)
def test_commands_in_an_unbuilt_source_folder(tmp_path: Path, command: str, status: int) -> None:
    folder = unbuilt(tmp_path)
    done = run_python("-m", *command.split(), cwd=folder)
    told = " ".join((done.stdout + done.stderr).split())
    assert "in which nothing was built" in told
    assert "pip install --no-build-isolation -e" in told
    assert "start Python in another folder" in told
    assert done.returncode == status
    assert not [*folder.glob("mish_benchmark*")]


def test_in_an_archive_the_remedy_is_to_unpack_it(tmp_path: Path) -> None:
    archive = shutil.make_archive(
        str(tmp_path / "packages"), "zip", install(tmp_path / "unpacked", {})
    )
    script = "import mish_cuda; print(mish_cuda.mish(mish_cuda.functional.torch.ones(1)))"
    done = run_python("-c", script, cwd=tmp_path, env={"PYTHONPATH": archive})
    assert "0.8651" in done.stdout
    assert f"no compiled extension from {archive}. Unpack it into a folder" in done.stderr


IMPORTED_TWICE = """
import sys, warnings
import torch
import mish_cuda as first
for name in [name for name in sys.modules if name.partition(".")[0] == "mish_cuda"]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    import mish_cuda
assert mish_cuda is not first
x = torch.linspace(-3, 3, 7)
slopes = [torch.func.vmap(torch.func.grad(module.mish))(x) for module in (first, mish_cuda)]
torch.testing.assert_close(*slopes)
print(mish_cuda.backend(x), type(mish_cuda.mish(x.requires_grad_()).grad_fn).__name__)
print(*(warning.message for warning in caught))
"""


@needs_extension
@pytest.mark.parametrize("another", [False, True], ids=["the same", "another"])
def test_imported_again(another: bool, tmp_path: Path) -> None:
    """As by reloaders that drop it from sys.modules. A second copy cannot register the ops."""
    assert C is not None
    module = Path(str(C.__file__))
    second = install(tmp_path, {MODULE: module.read_bytes()}) if another else PACKAGE.parent
    done = run_python("-c", IMPORTED_TWICE, str(second), cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    if another:
        assert f"{module} is in this process already" in done.stdout
        assert "Start a new process" in done.stdout
    else:
        assert done.stdout.strip() == "cpu MishCudaBackward"


# --- Devices that no kernel was written for, with the extension in place ---

ELSEWHERE = DispatchKeySet(DispatchKey.PrivateUse1)


@needs_extension
@pytest.mark.parametrize(
    ("name", "operands"),
    [("mish", 1), ("mish_", 1), ("mish_backward", 2), ("mish_double_backward", 3)],
)
def test_other_devices_compute_eagerly(name: str, operands: int, dtype: torch.dtype) -> None:
    """The kernel that a device without one of its own gets, called on memory at hand."""
    args = [reference.samples(dtype, 50).clone() for _ in range(operands)]
    expected = getattr(EAGER, name.rstrip("_"))(*args)
    result = getattr(torch.ops.mish_cuda, name).default.redispatch(ELSEWHERE, *args)
    assert reference.same_bits(result, expected)
    assert (result is args[0]) == (name == "mish_")
    if name == "mish":
        out = torch.empty_like(expected)
        assert torch.ops.mish_cuda.mish.out.redispatch(ELSEWHERE, *args, out=out) is out
        assert reference.same_bits(out, expected)


@needs_extension
def test_other_devices_have_a_kernel_of_every_op() -> None:
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("mish_cuda::")]
    assert len(names) == 7
    for name in names:
        for device in ("MPS", "XPU", "PrivateUse1", "CUDA"):
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, device)
    assert mish_cuda.backend(torch.empty(1, device="meta")) == "eager"


# --- CUDA tensors, where the build fell back to the CPU ---

REASON = "torch 2.11.0+cu130 is built for CUDA 13.0, but no nvcc was found"
REMEDY = "Install a compiler beside torch"


@needs_extension
@pytest.mark.parametrize(
    ("cuda", "remedy"),
    [("13.0", REMEDY), ("13.0", None), (None, REMEDY)],
    ids=["fell back", "for the CPU, as asked", "no longer on CUDA"],
)
def test_a_gpu_in_use_by_nobody_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, remedy: str | None
) -> None:
    """Fake CUDA tensors, given to the kernel that they get without a kernel of their own."""
    from mish_cuda import _registration  # which needs the ops

    monkeypatch.setattr(_registration, "FACTS", {"reason": REASON, "remedy": remedy})
    monkeypatch.setattr(torch.version, "cuda", cuda)
    _registration._tell_of_cuda.cache_clear()
    ops = torch.ops.mish_cuda
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ops.mish.default.redispatch(ELSEWHERE, torch.ones(3))
        assert caught == []  # not of a CPU tensor, nor at import
        with FakeTensorMode():
            x = torch.ones(3, device="cuda")
            ops.mish.default.redispatch(ELSEWHERE, x)
            ops.mish_backward.default.redispatch(ELSEWHERE, x, x)
    _registration._tell_of_cuda.cache_clear()
    assert len(caught) == (cuda is not None and remedy is not None)
    assert all(is_quoted(str(warning.message)) for warning in caught)


# --- Importing changes nothing else in the process ---

STATE = """
import os, signal, sys, threading, warnings
import torch, torch.nn.functional as F
import torch.onnx  # which torch loads at its first use
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

def computes_denormals(told):
    told += [5e-324 * 1.0 != 0.0, bool((denormal * 1.0).ne(0).all())]

def state():
    thread = threading.Thread(target=computes_denormals, args=(denormals := [],))
    thread.start()
    thread.join()
    computes_denormals(denormals)
    return {
        "imports": [*sys.meta_path, *sys.path_hooks, *sys.path, __builtins__.__import__],
        "warnings": list(warnings.filters),
        "functions": [sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile(),
                      sys.unraisablehook, threading.excepthook, warnings.showwarning],
        "modes": [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()],
        "defaults": [torch.get_default_dtype(), torch.get_default_device()],
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                      torch.is_anomaly_enabled(), torch.is_autocast_enabled("cpu")],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(),
                    threading.active_count()],
        "GIL": getattr(sys, "_is_gil_enabled", bool)(),  # free-threaded Pythons can turn it on
        "generator": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "torch": [dict(vars(item)) for item in (torch, F, torch.nn, torch.Tensor, torch.nn.Mish)],
        "denormals": denormals,
        "environment": dict(os.environ),
    }

denormal = torch.tensor([5e-324] * 1000, dtype=torch.float64)
# Python's own set-up at the first use of some modules happens before.
before = state()
before = state()
import mish_cuda
after = state()
assert all(before["denormals"]), before["denormals"]
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""


def test_importing_changes_nothing_else(tmp_path: Path) -> None:
    done = run_python("-c", STATE, cwd=tmp_path, env={"PYTHONPATH": str(PACKAGE.parent)})
    assert done.returncode == 0, done.stderr
