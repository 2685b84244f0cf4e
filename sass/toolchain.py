"""Finds nvcc and cuobjdump, and runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import build_config
from build_config import BuildError, Toolkit

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "csrc/cuda/mish_kernels.cu"
HEADERS = ROOT / "csrc"
PLAIN_HEADERS = ROOT / "sass/plain"

_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.S,
)


@dataclass(frozen=True)
class Toolchain:
    """The programs of a CUDA toolkit that this package needs."""

    toolkit: Toolkit
    cuobjdump: str

    @property
    def nvcc(self) -> str:
        return str(self.toolkit.root / "bin/nvcc")


@dataclass(frozen=True)
class Resources:
    """What ptxas reports of a kernel."""

    registers: int
    spill_bytes: int


def find(archs: Sequence[str]) -> Toolchain:
    """The first toolkit that compiles for all of `archs` ("90"), and a disassembler."""
    wanted = {f"{arch[:-1]}.{arch[-1]}" for arch in archs}
    toolkits, rejected = build_config.find_toolkits(os.environ, [Path(p) for p in sys.path])
    toolkit = next((t for t in toolkits if wanted <= set(t.archs)), None)
    if toolkit is None:
        found = "; ".join([*map(str, toolkits), *rejected]) or "no nvcc was found"
        raise BuildError(
            f"an nvcc that compiles for {', '.join(sorted(wanted))} is needed, but {found}. "
            "`make sass` installs one; or set CUDA_HOME to a toolkit of CUDA 13."
        )
    return Toolchain(toolkit, _find_cuobjdump(toolkit))


def _find_cuobjdump(toolkit: Toolkit) -> str:
    folders = [str(toolkit.root / "bin"), os.environ.get("PATH", "")]
    # pip's CUDA packages have no cuobjdump, but Triton, which torch installs, brings its own.
    triton = find_spec("triton")
    if triton and triton.origin:
        folders.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(folders))
    if cuobjdump is None:
        raise BuildError(
            f"{toolkit} has no cuobjdump, and there is none on PATH or in a triton package. "
            "Install a whole CUDA toolkit, or `pip install triton`."
        )
    return cuobjdump


def compile_kernels(tools: Toolchain, arch: str, plain: bool) -> tuple[str, dict[str, Resources]]:
    """Compiles the kernels and returns their disassembly and what ptxas says of them.

    `plain` takes mish_math.h from the headers of PyTorch's formula.
    """
    includes = [PLAIN_HEADERS, HEADERS] if plain else [HEADERS]
    with tempfile.TemporaryDirectory() as scratch:
        cubin = str(Path(scratch, "kernels.cubin"))
        flags = ["-O3"] if plain else build_config.NVCC_FLAGS  # PyTorch lets nvcc fuse
        arguments = [*flags, "-cubin", f"-arch=sm_{arch}", "-Xptxas=-v", "-o", cubin]
        arguments += [f"-I{folder}" for folder in [*includes, *tools.toolkit.include_dirs]]
        report = _run(tools.nvcc, *arguments, str(SOURCE))
        listing = _run(tools.cuobjdump, "-sass", cubin)
    return listing, read_report(report)


def read_report(report: str) -> dict[str, Resources]:
    """What `ptxas -v` says of each kernel, by its mangled name."""
    return {
        name: Resources(int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in _REPORT.findall(report)
    }


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr  # ptxas reports to stderr
