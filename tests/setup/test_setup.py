"""setup.py as users run it: what it writes, and the line in which an impossible build ends."""

from __future__ import annotations

import subprocess
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import mish_cuda
from project import ROOT, copy_sources, is_quoted, run_python


def test_metadata_can_be_read_without_a_build() -> None:
    """Else uv cannot build with the torch that a project has."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{mish_cuda.__version__}"\n' in text
    assert '\ndynamic = ["license"]\n' in text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, free of anything built."""
    return copy_sources(tmp_path / "copy")


NO_TORCH = {"torch.py": "raise ImportError(\"No module named 'torch'\")"}
SOME_TORCH = {"torch.py": "__version__ = '2.13.0'\nclass version: cuda = hip = git_version = None"}
OLD_TORCH = NO_TORCH | {"torch-2.8.0.dist-info/METADATA": "Name: torch\nVersion: 2.8.0+cu128\n"}
OLD_SETUPTOOLS = SOME_TORCH | {"setuptools.py": "__version__ = '59.8.0'"}
NONE = {"MISH_CUDA_BUILD": "none"}


def run_setup(
    copy: Path, command: str, modules: dict[str, str], env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py where modules of the given texts are found first."""
    folder = copy.parent / "modules"
    for name, text in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {"PYTHONPATH": str(folder), **env}
    return run_python("setup.py", *command.split(), cwd=copy, env=env)


def test_mode_none_needs_no_torch_and_removes_what_was_built(copy: Path) -> None:
    package = copy / "mish_cuda"
    left = package / f"_C{EXTENSION_SUFFIXES[0]}"
    of_another_python = package / "_C.cpython-399-nowhere.so"
    left.touch()
    of_another_python.touch()
    done = run_setup(copy, "build", NO_TORCH, NONE)
    assert done.returncode == 0, done.stderr
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
    command: str, modules: dict[str, str], env: dict[str, str], told: str | None, copy: Path
) -> None:
    """The documentation quotes it, or what is told ends it."""
    failed = run_setup(copy, command, modules, env)
    assert failed.returncode != 0
    (line,) = failed.stderr.splitlines()
    assert line.startswith("mish_cuda: ")
    assert told in line if told else is_quoted(line)


def test_the_source_archive_is_complete_and_needs_no_torch(copy: Path) -> None:
    (copy / "mish_cuda" / "_without_kernels.py").touch()
    done = run_setup(copy, "--quiet sdist", NO_TORCH, {})
    assert done.returncode == 0, done.stderr
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
