"""setup.py as users run it: what it writes, and the line in which an impossible build ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import mish_cuda
from project import ROOT, copy_sources


def test_metadata_can_be_read_without_a_build() -> None:
    """Else uv cannot build with the torch that a project has."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{mish_cuda.__version__}"\n' in text
    assert '\ndynamic = ["license"]\n' in text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, free of anything built."""
    return copy_sources(tmp_path / "copy")


def run_setup(
    copy: Path, *arguments: str, torch: str, files: dict[str, str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py where `import torch` finds a module of the given text, beside other `files`."""
    modules = copy.parent / "modules"
    for name, text in {"torch.py": torch, **(files or {})}.items():
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(modules), **env},
        capture_output=True,
        text=True,
        check=False,
    )


NO_TORCH = "raise ImportError('No module named torch')"
SOME_TORCH = "__version__ = '2.13.0'\nclass version: cuda = hip = git_version = None"


def test_mode_none_needs_no_torch_and_removes_what_was_built(copy: Path) -> None:
    package = copy / "mish_cuda"
    left = package / f"_C{EXTENSION_SUFFIXES[0]}"
    of_another_python = package / "_C.cpython-399-nowhere.so"
    left.touch()
    of_another_python.touch()
    done = run_setup(copy, "build", torch=NO_TORCH, MISH_CUDA_BUILD="none")
    assert done.returncode == 0, done.stderr
    assert "mish_cuda: building without compiled kernels (MISH_CUDA_BUILD=none)" in done.stdout
    assert not left.exists()
    assert of_another_python.exists()
    packed = {path.name for path in (copy / "build" / "lib" / "mish_cuda").iterdir()}
    assert {"__init__.py", "py.typed", "bounds.csv", "_without_kernels.py"} <= packed
    assert not {path for path in packed if path.endswith(".so")}


@pytest.mark.parametrize(
    ("torch", "env", "told"),
    [
        (NO_TORCH, {}, "pip install --no-build-isolation ."),
        ("", {}, "modules/torch.py. Rename that"),
        (SOME_TORCH, {"MISH_CUDA_BUILD": "gpu"}, "one of auto, cuda, cpu, none, but is 'gpu'"),
        (SOME_TORCH, {"CXX": "no-such-compiler"}, "MISH_CUDA_BUILD=none pip install"),
        (SOME_TORCH, {"FORCE_CUDA": "maybe"}, "FORCE_CUDA must be 1 or 0, but is 'maybe'"),
        (SOME_TORCH, {"MAX_JOBS": "abc"}, "MAX_JOBS must be a number"),
        (SOME_TORCH, {"LDFLAGS": "-mdaz-ftz"}, "LDFLAGS has -mdaz-ftz"),
    ],
)
def test_an_impossible_build_ends_in_one_line(
    torch: str, env: dict[str, str], told: str, copy: Path
) -> None:
    failed = run_setup(copy, "build", torch=torch, **env)
    assert failed.returncode != 0
    assert failed.stderr.startswith("mish_cuda: ")
    assert failed.stderr.count("\n") == 1
    assert told in failed.stderr


@pytest.mark.parametrize("mode", ["none", "auto"])
@pytest.mark.parametrize("command", ["build", "dist_info"])
def test_a_torch_that_pip_would_replace_is_refused(copy: Path, mode: str, command: str) -> None:
    """Before pip fetches anything, and also where that torch cannot be imported."""
    files = {"torch-2.8.0.dist-info/METADATA": "Name: torch\nVersion: 2.8.0+cu128\n"}
    failed = run_setup(copy, command, torch=NO_TORCH, files=files, MISH_CUDA_BUILD=mode)
    assert failed.returncode != 0
    assert failed.stderr.startswith(
        "mish_cuda: torch 2.9 or later is needed, but torch 2.8.0+cu128"
    )
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "folder"), [("develop", "-e ."), ("install", ".")])
def test_commands_of_old_are_replaced(copy: Path, command: str, folder: str) -> None:
    failed = run_setup(copy, command, torch=SOME_TORCH)
    assert failed.returncode != 0
    assert failed.stderr.startswith("mish_cuda: ")
    assert failed.stderr.endswith(f"Run: pip install --no-build-isolation {folder}\n")
    assert failed.stderr.count("\n") == 1


def test_setuptools_that_would_install_nothing_is_refused(copy: Path) -> None:
    files = {"setuptools.py": "__version__ = '59.8.0'"}
    failed = run_setup(copy, "build", torch=SOME_TORCH, files=files)
    assert failed.returncode != 0
    assert failed.stderr.startswith("mish_cuda: setuptools 64 or later is needed, but 59.8.0")
    assert failed.stderr.count("\n") == 1


def test_the_source_archive_is_complete_and_needs_no_torch(copy: Path) -> None:
    (copy / "mish_cuda" / "_without_kernels.py").touch()
    done = run_setup(copy, "--quiet", "sdist", torch=NO_TORCH)
    assert done.returncode == 0, done.stderr
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    folders = ("csrc", "mish_cuda", "benchmarks", "tests")
    sources = {
        str(path.relative_to(copy))
        for folder in folders
        for path in (copy / folder).rglob("*")
        if path.is_file()
        and path.suffix in {".py", ".pyi", ".typed", ".csv", ".html", ".cpp", ".cu", ".cuh", ".h"}
    }
    built = "mish_cuda/_without_kernels.py"
    assert built not in packed
    expected = sources - {built} | {"Makefile", "CMakeLists.txt", "build_config.py"}
    assert expected <= packed
