"""Fresh processes: what importing does, and that in every state of an installation all works."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import warnings
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import product
from pathlib import Path

import pytest
import torch
from torch._C import DispatchKey, DispatchKeySet
from torch._subclasses.fake_tensor import FakeTensorMode

import mish_cuda
import reference
from conftest import EAGER, needs_extension
from mish_cuda import __main__ as command
from mish_cuda import _extension
from mish_cuda._extension import C
from project import is_quoted, run_python

PACKAGE = Path(mish_cuda.__file__).parent
SUFFIX = EXTENSION_SUFFIXES[0]

# --- Every state that an installation may be in ---

Files = dict[str, bytes | None]


def install(folder: Path, files: Files) -> Path:
    """A copy of the package with these files, those of a build; None: links to nowhere."""
    unwanted = shutil.ignore_patterns("__pycache__", "_C*", "_without_kernels.py")
    shutil.copytree(PACKAGE, folder / "mish_cuda", ignore=unwanted)
    for name, content in files.items():
        path = folder / "mish_cuda" / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.symlink_to(folder / "nowhere")
        else:
            path.write_bytes(content)
    return folder


BUILD = {"mode": "cuda", "architectures": "9.0", "reason": "nvcc 13.0 was found", "remedy": "Wait"}


def facts(**changed: str) -> bytes:
    """What a module holds that has facts of its build, and no machine code."""
    told = {"python": SUFFIX, "torch": torch.__version__, **BUILD, **changed}
    return f"mish_cuda facts: {json.dumps(told)}\0".encode()


MODULE = f"_C{SUFFIX}"
OTHER = ".cpython-399-nowhere.so"
NIGHTLY = "2.99.0.dev20990101"
WITHOUT: Files = {"_without_kernels.py": b""}  # as MISH_CUDA_BUILD=none
UNBUILT: Files = {"../setup.py": b"", "../csrc/mish_math.h": b""}
# As of another source folder that is installed editable: it answers for every submodule.
FINDER = f"""
import sys
from importlib.util import spec_from_file_location
class Finder:
    def find_spec(name, path=None, target=None):
        if name == 'mish_cuda._C':
            return spec_from_file_location(name, {getattr(C, "__file__", "")!r})
sys.meta_path.append(Finder)
"""
# The files of each state, and the reason that is told; None: the documentation quotes the warning.
STATES: dict[str, tuple[Files, str | None]] = {
    "built without kernels": (WITHOUT, "MISH_CUDA_BUILD=none"),
    "of another torch": ({MODULE: facts(torch="2.5.1")}, None),
    "of another nightly": ({MODULE: facts(torch=NIGHTLY)}, f"compiled for torch {NIGHTLY}, but"),
    "of another Python": ({f"_C{OTHER}": facts()}, OTHER),
    "renamed from another Python": ({MODULE: facts(python=OTHER)}, f"another Python, {OTHER}"),
    "lost": ({}, "there is no compiled extension for this Python"),
    "damaged": ({MODULE: facts()[:40]}, "is damaged"),
    "a link to nowhere": ({MODULE: None}, f"for this Python ({SUFFIX}) in "),
    "no machine code": ({MODULE: facts()}, "it cannot be loaded"),
    "a source folder, not built": (UNBUILT, None),
    "beside one that was built": ({**UNBUILT, "../sitecustomize.py": FINDER.encode()}, None),
}


@pytest.mark.slow
@pytest.mark.parametrize(("files", "reason"), STATES.values(), ids=STATES)
def test_every_state_is_explained(files: Files, reason: str | None, tmp_path: Path) -> None:
    """And works, also without other packages. A warning tells why, unless somebody asked for it."""
    others = dict.fromkeys(("../numpy.py", "../rich.py"), b"raise ModuleNotFoundError")
    folder = install(tmp_path / "a folder", {**files, **others})
    # The CPU is to be the only device, and no path to be shortened.
    env = {"CUDA_VISIBLE_DEVICES": "", "HOME": "/"}
    done = run_python("-m", "mish_cuda", "--json", cwd=folder, env=env, status=0)
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert list(told) == list(command.TITLES)
    assert told["versions"]["torch"] == torch.__version__
    assert told["paths"]["mish_cuda"] == str(folder / "mish_cuda")
    (cpu,) = told["devices"]["present"]
    assert (cpu["device"], cpu["backend"], cpu["error"]) == ("cpu", "eager", None)
    assert told["self_check"]["passed"]
    if files.get(MODULE) == facts():
        assert told["build"].items() >= BUILD.items()
    assert not told["extension"]["loaded"]
    why, remedy = told["extension"]["reason"], str(told["extension"]["remedy"])
    warning = f"mish_cuda runs in eager mode, correct but slow: {why}. {remedy}."
    warned = files is not WITHOUT
    assert done.stderr.count("RuntimeWarning") == done.stderr.count(warning) == warned
    assert ("pip install --no-build-isolation -" in remedy) == warned
    assert reason in why if reason else is_quoted(warning)
    lines = [line for part in told.items() for line in command.render(*part).splitlines()]
    assert [line for line in lines if not re.fullmatch("[ -~]{0,80}", line)] == []


@needs_extension
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["true", "False", "off", "0"])
def test_the_extension_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISH_CUDA_EAGER", value)
    module, _, reason, remedy = _extension._load()
    assert (module is None) == (reason == "MISH_CUDA_EAGER is set") == (value == "true")
    assert remedy is None


@pytest.mark.slow
def test_in_an_archive_the_remedy_is_to_unpack_it(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", install(tmp_path / "unpacked", {}))
    script = "import mish_cuda; print(mish_cuda.mish(mish_cuda.functional.torch.ones(1)))"
    done = run_python("-c", script, cwd=tmp_path, env={"PYTHONPATH": archive})
    assert "0.8651" in done.stdout
    assert f"no compiled extension from {archive}. Unpack it into a folder" in done.stderr


# What may be found in place of torch, in files of such names, and what is said of it.
IN_PLACE_OF_TORCH = [
    ("torch.py", "raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named"),
    ("torch.py", "raise OSError('libcudart.so.13: cannot open shared object')", "OSError: libcuda"),
    ("torch.py", "from mish_cuda import Mish", "ImportError: cannot import name 'Mish'"),
    ("torch/__init__.py", "", "No module named 'torch.nn'"),
    ("torch/__init__", "a folder, in the way only where torch is not installed", "'torch.nn'"),
]


@pytest.mark.parametrize(("name", "text", "told"), IN_PLACE_OF_TORCH)
def test_a_torch_that_cannot_be_imported(name: str, text: str, told: str, tmp_path: Path) -> None:
    """A line tells it."""
    install(tmp_path, {**WITHOUT, f"../{name}": text.encode()})
    options, place = ([], name) if name.endswith(".py") else (["-S"], "torch")
    for program in (["-m", "mish_cuda"], ["-c", "import mish_cuda"]):
        done = run_python(*options, *program, cwd=tmp_path, env={"PYTHONPATH": ""}, status=1)
        *before, last = done.stderr.splitlines()
        assert f"{sys.executable} cannot import from {tmp_path / place}: " in last
        assert told in last
        assert "Install or repair it" in last
        assert before == [] or program[0] == "-c"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("option", ["--help", "--json"])
def test_output_that_nobody_takes(option: str) -> None:
    """A full disk is told in a line; a reader that goes away ends it quietly."""
    env = {"PYTHONUNBUFFERED": "", "MISH_CUDA_EAGER": "1"}  # which nothing warns of
    program = partial(run_python, "-m", "mish_cuda", option, cwd=PACKAGE.parent, env=env)
    with open("/dev/full", "w") as full:
        (line,) = program(stdout=full, status=command.UNWRITTEN).stderr.splitlines()
    assert "No space left on device" in line
    reader, writer = os.pipe()
    os.close(reader)
    assert program(stdout=writer, status=-signal.SIGPIPE).stderr == ""
    os.close(writer)


# --- Importing ---

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


@pytest.mark.slow
@needs_extension
@pytest.mark.parametrize("another", [False, True], ids=["the same", "another"])
def test_imported_again(another: bool, tmp_path: Path) -> None:
    """As by reloaders that drop it from sys.modules. A second copy cannot register the ops."""
    assert C is not None
    module = Path(str(C.__file__))
    second = install(tmp_path, {MODULE: module.read_bytes()}) if another else PACKAGE.parent
    done = run_python("-c", IMPORTED_TWICE, str(second), cwd=PACKAGE.parent, status=0)
    if another:
        assert f"{module} is in this process already" in done.stdout
        assert "Start a new process" in done.stdout
    else:
        assert done.stdout.strip() == "cpu MishCudaBackward"


STATE = """
import importlib, os, signal, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
import torch, torch.nn.functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

def computes_denormals(one):
    return 5e-324 * one != 0.0 and bool((denormal * one).ne(0).all())

def state():
    with ThreadPoolExecutor(1) as pool:
        denormals = [computes_denormals(1.0), *pool.map(computes_denormals, [1.0])]
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

for name in sys.argv[1:]:
    importlib.import_module(name)
denormal = torch.tensor([5e-324] * 1000, dtype=torch.float64)
# Python's own set-up at the first use of some modules happens before.
before = state()
before = state()
modules = set(sys.modules)
import mish_cuda
after = state()
assert all(before["denormals"]), before["denormals"]
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
print(*set(sys.modules) - modules)
"""
# What takes a second to import, such as DTensor and the compiler; or is for few.
HEAVY = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx", "onnx")
HEAVY += ("numpy", "mish_cuda.diagnostics", "mish_cuda.selfcheck")


@pytest.mark.slow
@pytest.mark.parametrize("eager", ["", "1"], ids=["with the extension", "without"])
def test_importing_changes_nothing_else(eager: str, tmp_path: Path) -> None:
    """Without the extension not even torch.onnx is loaded, which is told of the op."""
    env = {"PYTHONPATH": str(PACKAGE.parent), "MISH_CUDA_EAGER": eager}
    before = [] if eager else ["torch.onnx"]
    done = run_python("-c", STATE, *before, cwd=tmp_path, env=env, status=0)
    assert "mish_cuda.eager" in done.stdout.split()
    assert [name for name in done.stdout.split() if name.startswith(HEAVY)] == []


# --- Devices without a kernel: nobody wrote one, or, for CUDA, the build fell back to the CPU ---

ELSEWHERE = DispatchKeySet(DispatchKey.PrivateUse1)


@needs_extension
@pytest.mark.parametrize("name", ["mish", "mish_", "mish_backward", "mish_double_backward"])
def test_other_devices_compute_eagerly(name: str, dtype: torch.dtype) -> None:
    """The kernel that a device without one of its own gets, called on memory at hand."""
    op = getattr(torch.ops.mish_cuda, name).default
    args = [reference.samples(dtype, 50).clone() for _ in op._schema.arguments]
    expected = getattr(EAGER, name.rstrip("_"))(*args)
    result = op.redispatch(ELSEWHERE, *args)
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
    for name, device in product(names, ("MPS", "XPU", "PrivateUse1", "CUDA")):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, device)
    assert mish_cuda.backend(torch.empty(1, device="meta")) == "eager"


REASON = "torch 2.11.0+cu130 is built for CUDA 13.0, but no nvcc was found"
REMEDY = "Install a compiler beside torch"


@needs_extension
@pytest.mark.parametrize(("cuda", "remedy"), [("13.0", REMEDY), ("13.0", None), (None, REMEDY)])
def test_a_gpu_in_use_by_nobody_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, remedy: str | None
) -> None:
    """Unless the CPU was asked for, or this torch has no CUDA any more. Fake CUDA tensors are given
    to the kernel that they get without a kernel of their own."""
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
