"""What to build, with which compilers, and why.

Every decision of setup.py is a function of its arguments here, so that tests can ask "what would
happen on that machine?". Nothing in this file imports torch or asks whether a GPU is visible:
machines that build wheels have none.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODES = ("auto", "cuda", "cpu", "none")
OLDEST_TORCH = (2, 9)

# Variables in which users name the root of a CUDA toolkit.
ROOT_VARIABLES = ("CUDA_HOME", "CUDA_PATH")

# Globs of the folders that installers of the CUDA toolkit use.
SYSTEM_TOOLKITS = ("/usr/local/cuda", "/usr/local/cuda-*", "/opt/cuda")

# One machine code for each generation from Turing to Blackwell. Code for x.y also runs on later
# minors of x, so 8.7, 10.3 and 12.1 need none of their own; 8.6 and 8.9 get theirs because most
# desktop cards are of that kind. The PTX of the last serves whatever comes after.
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


# nvcc must not fuse by itself: the kernels are proved on the host, operation by operation.
NVCC_FLAGS = ("-O3", "-fmad=false")


class BuildError(Exception):
    """The build that was asked for is impossible; the message says what to do."""


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


@dataclass(frozen=True)
class Torch:
    """What the build must know of the torch that it builds for."""

    version: str
    cuda: str | None
    hip: str | None


@dataclass(frozen=True)
class Decision:
    """What will be built; `toolkit` and `archs` are set in mode "cuda" only."""

    mode: str
    reason: str
    toolkit: Toolkit | None = None
    archs: str | None = None


def requested_mode(env: Mapping[str, str]) -> str:
    """The mode that the environment asks for; MISH_CUDA_BUILD is stronger than FORCE_CUDA."""
    mode = env.get("MISH_CUDA_BUILD") or ("cuda" if env.get("FORCE_CUDA") == "1" else "auto")
    if mode not in MODES:
        raise BuildError(
            f"MISH_CUDA_BUILD must be one of {', '.join(MODES)}, but is {mode!r}. "
            "Unset it to build for CUDA where that is possible and for the CPU elsewhere."
        )
    return mode


def decide(env: Mapping[str, str], torch: Torch, package_dirs: Sequence[Path]) -> Decision:
    """Chooses between "cuda" and "cpu" (mode "none" needs no torch and is not for this function).

    `package_dirs` are the site-packages folders in which pip may have installed a compiler.
    """
    mode = requested_mode(env)
    check_torch(torch)
    if mode == "cpu":
        return Decision("cpu", "MISH_CUDA_BUILD=cpu")
    if torch.cuda is None:
        kind = f"a ROCm build (HIP {torch.hip})" if torch.hip else "a CPU build"
        if mode == "cuda":
            raise BuildError(
                f"a CUDA build was asked for, but torch {torch.version} is {kind}. Install a torch "
                "that is built for CUDA, or set MISH_CUDA_BUILD=cpu."
            )
        return Decision("cpu", f"torch {torch.version} is {kind}")

    toolkits, rejected = find_toolkits(env, package_dirs)
    built_for = f"torch {torch.version} is built for CUDA {torch.cuda}"
    fitting = next((t for t in toolkits if t.major == torch.cuda.partition(".")[0]), None)
    if fitting is None:
        found = "; ".join([*map(str, toolkits), *rejected]) or "no nvcc was found"
        if mode == "cuda":
            advice = how_to_get_nvcc(torch.cuda)
            raise BuildError(f"{built_for}, but {found}. {advice}, or set MISH_CUDA_BUILD=cpu.")
        return Decision("cpu", f"{built_for}, but {found}")
    passed_over = [f"passed over {t}" for t in toolkits[: toolkits.index(fitting)]]
    reason = "; ".join([f"{built_for}, {fitting}", *passed_over, *rejected])
    return Decision("cuda", reason, fitting, arch_list(env, fitting))


def check_torch(torch: Torch) -> None:
    """Refuses a torch that pip would replace right after building for it."""
    if tuple(int(n) for n in re.findall(r"\d+", torch.version)[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise BuildError(
            f"torch {oldest} or later is needed, but torch {torch.version} is installed. "
            f"Upgrade it first (pip install 'torch>={oldest}'), then build again."
        )


def how_to_get_nvcc(torch_cuda: str) -> str:
    """The advice for a machine without the nvcc that fits torch's CUDA version."""
    if int(torch_cuda.partition(".")[0]) < 13:  # the older packages hold no nvcc
        return f"Install the CUDA {torch_cuda} toolkit and set CUDA_HOME to it"
    # Naming all five keeps pip from mixing versions: the compiler's package does not pin its parts.
    return (
        "Install a compiler beside torch with `pip install "
        f'"cuda-toolkit[nvcc,nvvm,crt,cccl,cudart]=={torch_cuda}.*"`, set CUDA_HOME to a toolkit '
        f"of CUDA {torch_cuda}"
    )


def find_toolkits(
    env: Mapping[str, str], package_dirs: Sequence[Path]
) -> tuple[list[Toolkit], list[str]]:
    """All usable toolkits in the order of preference, and why each other candidate is none."""
    toolkits: list[Toolkit] = []
    rejected: list[str] = []
    for origin, folder in _compiler_folders(env, package_dirs):
        nvcc = shutil.which("nvcc", path=str(folder))
        if nvcc is None:
            if origin in ROOT_VARIABLES:
                rejected.append(f"{origin} is set, but there is no nvcc in {folder}")
            continue
        try:
            toolkit = probe(Path(nvcc), origin)
        except BuildError as error:
            rejected.append(str(error))
            continue
        if all(toolkit.root != known.root for known in toolkits):
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


def probe(nvcc: Path, origin: str) -> Toolkit:
    """Asks an nvcc what it is and where its toolkit lies."""
    version = re.search(r"release (\d+\.\d+), V([\d.]+)", _output(nvcc, "--version"))
    if version is None:
        raise BuildError(f"{nvcc} (from {origin}) does not tell its version when called")
    # An nvcc on PATH may be a script that calls the real one, with no headers near it. The real
    # one names its toolkit in a dry run.
    top = re.search(r"^#\$ TOP=(.+)$", _output(nvcc, "--dryrun", "-x", "cu", os.devnull), re.M)
    root = Path(top[1]).resolve() if top else nvcc.resolve().parent.parent
    if shutil.which("nvcc", path=str(root / "bin")) is None:
        raise BuildError(f"{nvcc} (from {origin}) names {root}, which has no bin/nvcc")
    codes = re.findall(r"^sm_(\d+)(\d)$", _output(nvcc, "--list-gpu-code"), re.M)
    archs = tuple(f"{major}.{minor}" for major, minor in codes)
    return Toolkit(root, version[1], version[2], archs, origin)


def arch_list(env: Mapping[str, str], toolkit: Toolkit) -> str:
    """The value of TORCH_CUDA_ARCH_LIST: the user's, else the defaults that this nvcc knows."""
    wanted = env.get("TORCH_CUDA_ARCH_LIST")
    if wanted:
        # Names, such as Ampere, are torch's to know.
        numbers = re.findall(r"(?<![\w.])(\d+\.\d)[af]?(?![\w.])", wanted)
        if unknown := [number for number in numbers if number not in toolkit.archs]:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST is {wanted!r}, but {toolkit} cannot compile for "
                f"{', '.join(unknown)}; it can for {', '.join(toolkit.archs)}. Leave the others "
                f"out, or unset it: the default is what there is of {', '.join(DEFAULT_ARCHS)}."
            )
        return wanted
    archs = [arch for arch in DEFAULT_ARCHS if arch in toolkit.archs]
    if not archs:
        raise BuildError(
            f"{toolkit} compiles for none of {', '.join(DEFAULT_ARCHS)}. "
            "Set TORCH_CUDA_ARCH_LIST to what your GPU needs."
        )
    return ";".join(archs) + "+PTX"


def compiler_version(env: Mapping[str, str]) -> str:
    """The first line that the C++ compiler says of itself; refuses a machine that has none."""
    if os.name == "nt":
        return "MSVC"  # setuptools looks for it in places of its own
    name, *arguments = shlex.split(env.get("CXX") or "c++")
    compiler = shutil.which(name, path=env.get("PATH"))
    if compiler is None:
        raise BuildError(
            f"no C++ compiler: {name!r} is not on PATH. Install one (Debian, Ubuntu: apt "
            "install g++; Fedora: dnf install gcc-c++; conda: conda install gxx; macOS: "
            "xcode-select --install) or set CXX. To install without compiled kernels, in pure "
            "Python: MISH_CUDA_BUILD=none pip install ."
        )
    return _output(compiler, *arguments, "--version").partition("\n")[0]


def check_python_headers(include: Path) -> None:
    """Refuses a Python that was installed without what C++ needs of it, in the folder `include`."""
    if not (include / "Python.h").exists():
        raise BuildError(
            f"there is no Python.h in {include}, so nothing can be compiled for this Python. "
            "Install its headers (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install "
            "python3-devel). To install without compiled kernels, in pure Python: "
            "MISH_CUDA_BUILD=none pip install ."
        )


def facts(decision: Decision, torch: Torch, cxx: str) -> str:
    """The text of mish_cuda/_build.py, readable also where the compiled module cannot be loaded."""
    toolkit = decision.toolkit
    constants = {
        "MODE": decision.mode,
        "REASON": decision.reason,
        "TORCH": torch.version,
        "CUDA": toolkit.version if toolkit else None,
        "NVCC": toolkit.nvcc if toolkit else None,
        "ARCHS": decision.archs,
        "CXX": cxx,
    }
    lines = [f"{name}: str | None = {value!r}" for name, value in constants.items()]
    return "\n".join(['"""Written by the build: what it made, and why."""\n', *lines, ""])


def _output(*command: str | Path) -> str:
    """What a command prints, or nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout + done.stderr  # a dry run of nvcc goes to stderr
