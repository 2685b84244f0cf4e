"""Finds the CUDA toolkits of a machine by their nvcc."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Variables in which users name the root of a CUDA toolkit.
ROOT_VARIABLES = ("CUDA_HOME", "CUDA_PATH")
# Where installers put CUDA toolkits.
SYSTEM_TOOLKITS = ("/usr/local/cuda", "/usr/local/cuda-*", "/opt/cuda")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that holds an nvcc."""

    root: Path
    version: str  # major.minor, such as "13.0"
    nvcc: str  # the compiler's own, such as "13.0.88"
    archs: tuple[str, ...]  # what it can compile for, such as ("7.5", "8.0")
    origin: str  # where it was found, such as "PATH"

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    @property
    def include_dirs(self) -> list[str]:
        return self._folders("include", "targets/*/include")

    @property
    def library_dirs(self) -> list[str]:
        return self._folders("lib64", "lib", "lib/x64", "targets/*/lib")

    def _folders(self, *patterns: str) -> list[str]:
        return [str(folder) for pattern in patterns for folder in self.root.glob(pattern)]

    def __str__(self) -> str:
        return f"nvcc {self.version} in {self.root} (from {self.origin})"


def find(env: Mapping[str, str], package_dirs: Sequence[Path]) -> tuple[list[Toolkit], list[str]]:
    """All usable toolkits in the order of preference, and why each other candidate is none."""
    toolkits: list[Toolkit] = []
    rejected: list[str] = []
    for origin, folder in _compiler_folders(env, package_dirs):
        nvcc = shutil.which("nvcc", path=str(folder))
        if nvcc is None:
            if origin in ROOT_VARIABLES:
                rejected.append(f"{origin} is set, but there is no nvcc in {folder}")
            continue
        toolkit = probe(Path(nvcc), origin)
        if isinstance(toolkit, str):
            rejected.append(toolkit)
        elif all(toolkit.root != known.root for known in toolkits):
            toolkits.append(toolkit)
    return toolkits, rejected


def _compiler_folders(
    env: Mapping[str, str], package_dirs: Sequence[Path]
) -> Iterator[tuple[str, Path]]:
    """Where an nvcc may lie, in the order of preference: (origin, folder)."""
    for variable in ROOT_VARIABLES:
        if env.get(variable):
            yield variable, Path(env[variable], "bin")
    for name in filter(None, env.get("PATH", "").split(os.pathsep)):
        yield "PATH", Path(name)
    for pattern in SYSTEM_TOOLKITS:
        for root in sorted(glob.glob(pattern), reverse=True):
            yield "system", Path(root, "bin")
    for packages in package_dirs:
        for binaries in sorted(packages.glob("nvidia/cu[0-9]*/bin")):
            yield "pip", binaries


def probe(nvcc: Path, origin: str) -> Toolkit | str:
    """Asks an nvcc what it is and where its toolkit lies, or says why it is of no use."""
    version = re.search(r"release (\d+\.\d+), V([\d.]+)", output(nvcc, "--version"))
    if version is None:
        return f"{nvcc} (from {origin}) does not tell its version when called"
    # An nvcc on PATH may be a script that calls the real one, with no headers near it. The real
    # one names its toolkit in a dry run.
    top = re.search(r"^#\$ TOP=(.+)$", output(nvcc, "--dryrun", "-x", "cu", os.devnull), re.M)
    root = Path(top[1]).resolve() if top else nvcc.resolve().parent.parent
    if shutil.which("nvcc", path=str(root / "bin")) is None:
        return f"{nvcc} (from {origin}) names {root}, which has no bin/nvcc"
    codes = re.findall(r"^sm_(\d+)(\d)$", output(nvcc, "--list-gpu-code"), re.M)
    archs = tuple(f"{major}.{minor}" for major, minor in codes)
    return Toolkit(root, version[1], version[2], archs, origin)


def output(*command: str | Path, path: str | None = None) -> str:
    """What a command, looked for in `path`, prints, or nothing where it cannot be run."""
    program = shutil.which(command[0], path=path)
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout + done.stderr  # a dry run of nvcc goes to stderr
