"""setup.py, CMake and NVRTC: what they write, and the line in which an impossible build ends."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mish_cuda
from benchmarks.accuracy import implementations
from conftest import COMPILED, needs_extension
from csrc.cuda import nvrtc
from csrc.cuda.nvrtc import KERNELS, Nvrtc
from mish_cuda.selfcheck import inputs
from project import ROOT, Env, copy_sources, is_quoted, run_python
from reference import DTYPES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, free of anything built."""
    return copy_sources(tmp_path / "copy")


def run_setup(
    copy: Path, command: str, env: Env, modules: Env | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py where modules of the given texts are found first."""
    folder = copy.parent / "modules"
    for name, text in (modules or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {"PYTHONPATH": str(folder), **env}
    return run_python("setup.py", *command.split(), cwd=copy, env=env, status=status)


# --- Without a compiler ---

NO_TORCH = {"torch.py": "raise ImportError(\"No module named 'torch'\")"}
SOME_TORCH = {"torch.py": "__version__ = '2.13.0'\nclass version: cuda = hip = git_version = None"}
OLD_TORCH = NO_TORCH | {"torch-2.8.0.dist-info/METADATA": "Name: torch\nVersion: 2.8.0+cu128\n"}
OLD_SETUPTOOLS = SOME_TORCH | {"setuptools.py": "__version__ = '59.8.0'"}
NONE = {"MISH_CUDA_BUILD": "none"}


def test_metadata_can_be_read_without_a_build() -> None:
    """Else uv cannot build with the torch that a project has."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{mish_cuda.__version__}"\n' in text
    assert '\ndynamic = ["license"]\n' in text


def test_mode_none_needs_no_torch_and_removes_what_was_built(copy: Path) -> None:
    package = copy / "mish_cuda"
    left = package / f"_C{EXTENSION_SUFFIXES[0]}"
    of_another_python = package / "_C.cpython-399-nowhere.so"
    left.touch()
    of_another_python.touch()
    done = run_setup(copy, "build", NONE, NO_TORCH)
    assert "mish_cuda: building without compiled kernels (MISH_CUDA_BUILD=none)" in done.stdout
    assert not left.exists()
    assert of_another_python.exists()
    packed = {path.name for path in (copy / "build" / "lib" / "mish_cuda").iterdir()}
    assert {"__init__.py", "py.typed", "bounds.csv", "_without_kernels.py"} <= packed
    assert not {path for path in packed if path.endswith(".so")}


# A torch that pip would replace is refused before pip fetches anything, and also where that torch
# cannot be imported. setup.py itself fetches no packages; an old setuptools would install nothing.
@pytest.mark.parametrize(
    ("command", "modules", "env", "told"),
    [
        ("build", NO_TORCH, {}, None),
        ("build", {"torch.py": ""}, {}, None),
        ("build", SOME_TORCH, {"MISH_CUDA_BUILD": "gpu"}, "none, but is 'gpu'"),
        ("build", SOME_TORCH, {"CXX": "no-such-compiler"}, "MISH_CUDA_BUILD=none pip install"),
        ("build", SOME_TORCH, {"LDFLAGS": "-mdaz-ftz"}, None),
        ("build", OLD_TORCH, NONE, None),
        ("dist_info", OLD_TORCH, {}, None),
        ("build", OLD_SETUPTOOLS, {}, None),
        ("develop", SOME_TORCH, {}, "Run: pip install --no-build-isolation -e ."),
        ("install", SOME_TORCH, {}, "Run: pip install --no-build-isolation ."),
    ],
)
def test_an_impossible_build_ends_in_one_line(
    command: str, modules: Env, env: Env, told: str | None, copy: Path
) -> None:
    """The documentation quotes it, or what is told ends it."""
    failed = run_setup(copy, command, env, modules, status=1)
    (line,) = failed.stderr.splitlines()
    assert line.startswith("mish_cuda: ")
    assert told in line if told else is_quoted(line)


def test_the_source_archive_is_complete_and_needs_no_torch(copy: Path) -> None:
    (copy / "mish_cuda" / "_without_kernels.py").touch()
    run_setup(copy, "--quiet sdist", {}, NO_TORCH)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    kinds = {".py", ".pyi", ".typed", ".csv", ".html", ".cpp", ".cu", ".cuh", ".h"}
    folders = [copy / name for name in ("csrc", "mish_cuda", "benchmarks", "tests")]
    files = (file for folder in folders for file in folder.rglob("*") if file.suffix in kinds)
    sources = {str(file.relative_to(copy)) for file in files}
    built = "mish_cuda/_without_kernels.py"
    assert built not in packed
    assert sources - {built} | {"Makefile", "CMakeLists.txt", "build_config.py"} <= packed


# --- Compiler flags that would change the arithmetic of the kernels and of the process ---

FAST = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only -fno-signed-zeros"
INEXACT = {
    "CXX": f"{os.environ.get('CXX') or 'c++'} -ffast-math",
    **dict.fromkeys(("CFLAGS", "CXXFLAGS"), f"{FAST} -march=native"),
    "CPPFLAGS": "-ffinite-math-only",
    "LDFLAGS": FAST,
}
not_windows = pytest.mark.skipif(os.name == "nt", reason="the flags are those of GCC and Clang")


def bits(run: Callable[..., Tensor]) -> str:
    """A digest of what an implementation of the ops computes, in every dtype."""
    digest = hashlib.sha256()
    for x in map(inputs, DTYPES):
        for order in range(3):
            digest.update(run(*[torch.ones_like(x)] * order, x).view(torch.uint8).numpy())
    return digest.hexdigest()


IN_A_FRESH_PROCESS = """
import mish_cuda
from conftest import COMPILED
from test_builds import bits
assert float("5e-324") * 1.0 > 0, "subnormal numbers are flushed to zero"
print(mish_cuda.__file__, bits(COMPILED.apply), sep="\\n")
"""


@needs_extension
@not_windows
@pytest.mark.slow
def test_flags_of_the_environment_change_neither_kernels_nor_process(copy: Path) -> None:
    copy = copy.rename(copy.parent / "a copy")  # a space does no harm, either
    run_setup(copy, "--quiet build_ext --inplace", {**INEXACT, "MISH_CUDA_BUILD": "cpu"})
    folders = os.pathsep.join([str(copy), str(Path(__file__).parent), str(ROOT / "tests")])
    env = {"PYTHONPATH": folders}
    done = run_python("-c", IN_A_FRESH_PROCESS, cwd=copy.parent, env=env, status=0)
    expected = [str(copy / "mish_cuda" / "__init__.py"), bits(COMPILED.apply)]
    assert done.stdout.splitlines() == expected
    assert mish_cuda.backend(torch.ones(1)) == "cpu"


@not_windows
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")
def test_flags_of_cmake_change_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any instruction set."""
    results = []
    for name, flags in {"plain": "", "inexact": INEXACT["CXXFLAGS"]}.items():
        build = tmp_path / name
        options = ["-DMISH_TORCH=OFF", f"-DCMAKE_CXX_FLAGS={flags}"]
        subprocess.run(["cmake", "-S", ROOT, "-B", build, *options], check=True)
        subprocess.run(["cmake", "--build", build, "--target", "accuracy_kernels"], check=True)
        library = functools.cache(implementations._library.__wrapped__)
        monkeypatch.setattr(implementations, "LIBRARY", build / "accuracy_kernels.so")
        monkeypatch.setattr(implementations, "_library", library)
        results.append({isa: bits(run) for isa, run in implementations.kernels().items()})
    assert float("5e-324") * 1.0 > 0
    plain, inexact = results
    assert plain == inexact != {}


# --- Builds for CUDA, as far as a machine without a GPU can judge them ---

MAJOR = str(torch.version.cuda).partition(".")[0]
NVRTC = nvrtc.find(MAJOR, [Path(folder) for folder in sys.path])
needs_nvrtc = pytest.mark.skipif(isinstance(NVRTC, str), reason=str(NVRTC))
HAS_NVCC = any(Path(folder, "nvidia", "cu13", "bin", "nvcc").is_file() for folder in sys.path)
needs_nvcc = pytest.mark.skipif(not HAS_NVCC, reason="pip has installed no nvcc")


def functions(cubin: bytes) -> set[str]:
    """The functions that an ELF file holds: the names behind .text. in its table of sections."""
    assert cubin.startswith(b"\x7fELF")
    assert struct.unpack_from("<H", cubin, 18) == (190,)  # the machine: CUDA
    return {name.decode() for name in re.findall(rb"\0\.text\.(\w+)(?=\0)", cubin)}


@needs_nvrtc
def test_the_header_has_an_image_of_every_kernel_for_each_target(tmp_path: Path) -> None:
    assert isinstance(NVRTC, Nvrtc)
    nvrtc.embed(NVRTC, ["sm_80", "compute_80", "sm_75", "sm_80"], tmp_path / "new" / "header.h")
    header = (tmp_path / "new" / "header.h").read_text()
    assert "kImages[] = {{80, true, compute_80}, {75, false, sm_75}, {80, false, sm_80}};" in header
    images = {
        name: bytes(int(octal, 8) for octal in re.findall(r"\\(\d{3})", text))
        for name, text in re.findall(r"char (\w+)\[\] =\n(.*?);", header, re.DOTALL)
    }
    names = dict(re.findall(r"struct (.*>) \{\n.* = \"(\w+)\"", header))
    assert list(names) == list(KERNELS)
    assert len(set(names.values())) == len(KERNELS) == 60 + 40
    for target in ("sm_75", "sm_80"):
        assert functions(images[target]) == set(names.values())
        assert nvrtc.compile_kernels(NVRTC, target) == (names, images[target])
    ptx = images["compute_80"].decode()
    assert ".target sm_80" in ptx
    assert set(re.findall(r"\.entry (\w+)\(", ptx)) == set(names.values())


@needs_nvrtc
def test_what_is_wrong_with_a_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(NVRTC, Nvrtc)
    monkeypatch.setitem(nvrtc.HEADERS, "cstdint", "using int64_t = nonsense;")
    with pytest.raises(RuntimeError, match='"nonsense" is undefined'):
        nvrtc.compile_kernels(NVRTC, "sm_80")


# Appended to csrc/cuda/nvcc.py: the only compiler of kernels is one that pip installed.
FIND = {
    "nvcc": "SYSTEM_TOOLKITS, real = (), find\ndef find(env, folders): return real({}, folders)\n",
    "NVRTC": "def find(env, folders): return [], []\n",
}
LOADED = """
import torch, mish_cuda._extension, mish_cuda._C
print(mish_cuda._extension.FACTS["reason"], mish_cuda._C.__file__)
print(torch._C._dispatch_has_kernel_for_dispatch_key("mish_cuda::mish", "CUDA"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiler", [pytest.param("nvcc", marks=needs_nvcc), pytest.param("NVRTC", marks=needs_nvrtc)]
)
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not built for CUDA")
def test_a_compiler_of_pip_builds_a_module_that_loads(compiler: str, copy: Path) -> None:
    with open(copy / "csrc" / "cuda" / "nvcc.py", "a") as file:
        file.write(FIND[compiler])
    env = {"MISH_CUDA_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "Ampere;9.0a"}
    built = run_setup(copy, "--quiet build_ext --inplace", env)
    assert ("(from pip)" if compiler == "nvcc" else "no nvcc was found, so NVRTC") in built.stdout
    done = run_python("-c", LOADED, cwd=copy, status=0)
    assert compiler in done.stdout
    assert str(copy) in done.stdout
    assert done.stdout.endswith("True\n")
    if compiler == "NVRTC":
        (embedded,) = copy.glob("build/objects-*/embedded_kernels.h")
        (images,) = re.findall(r"kImages\[\] = (.*);", embedded.read_text())
        assert re.findall(r"\w+_\d+", images) == ["compute_86", "sm_80", "sm_86", "sm_90"]
