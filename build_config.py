"""What to build, with which compilers, and why.

Every decision of setup.py is a function of its arguments here, so that tests can ask "what would
happen on that machine?". Nothing in this file imports torch or asks whether a GPU is visible:
machines that build wheels have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from csrc.cuda import nvcc, nvrtc
from csrc.cuda.nvcc import Toolkit, output
from csrc.cuda.nvrtc import Nvrtc

MODES = ("auto", "cuda", "cpu", "none")
OLDEST_TORCH = (2, 9)

# One machine code for each generation from Turing to Blackwell. Code for x.y also runs on later
# minors of x, so 8.7, 10.3 and 12.1 need none of their own; 8.6 and 8.9 get theirs because most
# desktop cards are of that kind. The PTX of the last serves whatever comes after. CUDA before 13
# calls 11.0 10.1, which the code for 10.0 serves.
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0")

# Names that torch knows; the last architecture of each gets PTX too.
GENERATIONS = {
    "maxwell": ("5.0", "5.2"),
    "pascal": ("6.0", "6.1"),
    "volta": ("7.0",),
    "turing": ("7.5",),
    "ampere": ("8.0", "8.6"),
    "ada": ("8.9",),
    "hopper": ("9.0",),
    "blackwell": ("10.0", "10.3", "12.0", "12.1"),
}

# The compiler must not fuse by itself: an element's bits would depend on its place. The last two
# let loops vectorise and keep NaN and inf alive. The others take back a -ffast-math of CXXFLAGS or
# CXX; at the link, where all are repeated, it would add code that flushes subnormal numbers to zero
# in the whole process.
CXX_FLAGS = (
    *("-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-finite-math-only"),
    *("-fno-associative-math", "-fno-reciprocal-math", "-fsigned-zeros", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-trapping-math"),
)

# nvcc must not fuse either: the kernels are proved on the host, operation by operation.
NVCC_FLAGS = ("-O3", "-fmad=false", "-ftz=false", "-prec-div=true")

# Flags that change the arithmetic and cannot be taken back, by the variable that may hold them.
INEXACT = {
    "NVCC_APPEND_FLAGS": r"--?(use_fast_math|fmad|ftz|prec-div)\b\S*",
    **dict.fromkeys(
        ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "LDCXXSHARED"),
        r"-mdaz-ftz|-mpc(32|64)|-fsingle-precision-constant|-mfpmath=\S+",
    ),
}


# What else compilers read, or are told.
FLAGS = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "CPATH", "CPLUS_INCLUDE_PATH"),
    *("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"),
)


class BuildError(Exception):
    """The build that was asked for is impossible; the message says what to do."""


@dataclass(frozen=True)
class Torch:
    """What the build must know of the torch that it builds for."""

    version: str
    cuda: str | None
    hip: str | None
    xpu: str | None = None
    commit: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Decision:
    """What will be built; `toolkit` and `archs` are set in mode "cuda" only.

    `remedy` is what a build for CUDA lacks, where nobody asked for the CPU.
    """

    mode: str
    reason: str
    toolkit: Toolkit | Nvrtc | None = None
    archs: str | None = None
    remedy: str | None = None


def requested_mode(env: Mapping[str, str]) -> str:
    """The mode that the environment asks for; MISH_CUDA_BUILD is stronger than FORCE_CUDA."""
    force = env.get("FORCE_CUDA", "").lower()
    forced = force in ("1", "true", "yes", "on")
    if not forced and force not in ("", "0", "false", "no", "off"):
        raise BuildError(f"FORCE_CUDA must be 1 or 0, but is {force!r}.")
    mode = env.get("MISH_CUDA_BUILD") or ("cuda" if forced else "auto")
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
    check_torch(torch.version)
    if mode == "cpu":
        return Decision("cpu", "MISH_CUDA_BUILD=cpu")
    if torch.cuda is None:
        kind = f"an XPU build (SYCL {torch.xpu})" if torch.xpu else "a CPU build"
        kind = f"a ROCm build (HIP {torch.hip})" if torch.hip else kind
        reason = f"torch {torch.version} is {kind}"
        remedy = "Install a torch that is built for CUDA"
        if mode == "cuda":
            raise BuildError(
                f"a CUDA build was asked for, but {reason}. {remedy}, or set MISH_CUDA_BUILD=cpu."
            )
        return Decision("cpu", reason, remedy=remedy)

    toolkits, rejected = nvcc.find(env, package_dirs)
    built_for = f"torch {torch.version} is built for CUDA {torch.cuda}"
    major = torch.cuda.partition(".")[0]
    fitting = next((t for t in toolkits if t.major == major), None)
    if fitting is None:
        found = "; ".join([*map(str, toolkits), *rejected]) or "no nvcc was found"
        instead = nvrtc.find(major, package_dirs)
        if isinstance(instead, Nvrtc):
            reason = f"{built_for}, but {found}, so {instead} compiles the kernels"
            return Decision("cuda", reason, instead, arch_list(env, instead))
        reason, remedy = f"{built_for}, but {found}; {instead}", how_to_get_nvcc(torch.cuda)
        if mode == "cuda":
            raise BuildError(f"{reason}. {remedy}. For CPU kernels only: MISH_CUDA_BUILD=cpu.")
        return Decision("cpu", reason, remedy=remedy)
    passed_over = [f"passed over {t}" for t in toolkits[: toolkits.index(fitting)]]
    reason = "; ".join([f"{built_for}, {fitting}", *passed_over, *rejected])
    return Decision("cuda", reason, fitting, arch_list(env, fitting))


def check_torch(version: str) -> None:
    """Refuses a torch that pip would replace, by one of another CUDA perhaps."""
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise BuildError(
            f"torch {oldest} or later is needed, but torch {version} is installed. "
            f"Upgrade it first (pip install 'torch>={oldest}'), then build again."
        )


def how_to_get_nvcc(torch_cuda: str) -> str:
    """The advice for a machine without the nvcc that fits torch's CUDA version."""
    if int(torch_cuda.partition(".")[0]) < 13:
        return (
            f"Install NVIDIA's toolkit of CUDA {torch_cuda} and set CUDA_HOME to it, or in conda "
            f"`conda install conda-forge::cuda-nvcc={torch_cuda}`, or take an nvidia/cuda image of "
            f"that version with -devel in its name; pip's packages for CUDA 12 hold no nvcc"
        )
    # Naming all five keeps pip from mixing versions: the compiler's package does not pin its parts.
    return (
        "Install a compiler beside torch with `pip install "
        f'"cuda-toolkit[nvcc,nvvm,crt,cccl,cudart]=={torch_cuda}.*"`, or set CUDA_HOME to a '
        f"toolkit of CUDA {torch_cuda}"
    )


def arch_list(env: Mapping[str, str], toolkit: Toolkit | Nvrtc) -> str:
    """What to compile for, such as "8.0;9.0a;12.0+PTX": the user's list, else the defaults."""
    wanted = env.get("TORCH_CUDA_ARCH_LIST", "")
    default = [arch for arch in DEFAULT_ARCHS if arch in toolkit.archs]
    items = re.findall(r"[^\s;,]+", wanted) or [*default[:-1], *(f"{a}+PTX" for a in default[-1:])]
    if not items:
        raise BuildError(
            f"{toolkit} compiles for none of {', '.join(DEFAULT_ARCHS)}. "
            "Set TORCH_CUDA_ARCH_LIST to what your GPU needs."
        )
    archs: dict[str, str] = {}
    for item in items:
        name = item.lower().removesuffix("+ptx")
        found = _archs_called(name, env, toolkit)
        if not found or any(arch.rstrip("af") not in toolkit.archs for arch in found):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST is {wanted!r}, but {toolkit} cannot compile for {item}; it "
                f"can for {', '.join(toolkit.archs)} (written 9.0, 90, sm_90, 9.0a or 9.0+PTX), "
                "for generations such as Hopper, and for native where nvidia-smi finds a GPU. "
                f"Unset it for the default, {';'.join(default)}+PTX."
            )
        archs |= {arch: archs.get(arch, "") for arch in found}
        if item.lower() != name or name in ("native", *GENERATIONS):
            archs[found[-1]] = "+PTX"
    return ";".join(arch + ptx for arch, ptx in archs.items())


def _archs_called(name: str, env: Mapping[str, str], toolkit: Toolkit | Nvrtc) -> list[str]:
    """The architectures that a user means by 9.0, 9, 90, sm_90, 9.0a, Hopper or native."""
    if name == "native":
        query = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        told = output(*query, path=env.get("PATH"))
        return sorted(set(re.findall(r"^\d+\.\d$", told, re.M)), key=float)
    if name in GENERATIONS:
        return [arch for arch in GENERATIONS[name] if arch in toolkit.archs]
    known = {key: a for a in toolkit.archs for key in (a, a.replace(".", ""), a.removesuffix(".0"))}
    parts = re.fullmatch(r"(?:sm_)?([\d.]+)([af]?)", name)
    if parts is None or parts[1] not in known:
        return []
    arch = known[parts[1]] + parts[2]
    if isinstance(toolkit, Nvrtc):
        return [known[parts[1]]]  # the kernels use nothing that is special to a variant
    # nvcc lists no variants, but knows which there are.
    trial = (f"-arch=sm_{arch.replace('.', '')}", "--dryrun", "-x", "cu", os.devnull)
    refused = parts[2] and "fatal" in output(toolkit.root / "bin" / "nvcc", *trial)
    return [] if refused else [arch]


def targets(archs: str) -> list[str]:
    """What the compilers call the architectures: sm_90 (machine code), compute_90 (PTX)."""
    numbers = [arch.replace(".", "") for arch in archs.split(";")]
    ptx = [f"compute_{n.removesuffix('+PTX')}" for n in numbers if n.endswith("+PTX")]
    return [*(f"sm_{n.removesuffix('+PTX')}" for n in numbers), *ptx]


def nvcc_flags(env: Mapping[str, str], archs: str) -> list[str]:
    """Flags of nvcc. With an architecture among them torch reads no TORCH_CUDA_ARCH_LIST itself."""
    flags = [*NVCC_FLAGS, f"--threads={env.get('MAX_JOBS') or 0}"]  # 0: one for each processor
    for target in targets(archs):
        flags.append(f"-gencode=arch=compute_{target.partition('_')[2]},code={target}")
    if os.name != "nt":  # the compiler of the other sources, which nvcc would not take from CXX
        flags.append(f"-ccbin={env.get('NVCC_CCBIN') or compiler(env)[0]}")
    return flags


def check_environment(env: Mapping[str, str]) -> None:
    """Refuses variables that would fail in the middle of a build, or change the arithmetic."""
    if not re.fullmatch(r"([1-9]\d*)?", env.get("MAX_JOBS", "")):
        raise BuildError(f"MAX_JOBS must be a number, 1 or more, but is {env['MAX_JOBS']!r}.")
    for variable, flags in INEXACT.items():
        try:
            shlex.split(env.get(variable, ""))
        except ValueError as error:
            raise BuildError(f"{variable} is {env[variable]!r}: {error}. Correct it.") from None
        if found := re.search(rf"(?<!\S)({flags})(?!\S)", env.get(variable, "")):
            raise BuildError(
                f"{variable} has {found[0]}, which changes what floating-point operations give. "
                "Take it out and build again."
            )


def check_writable(folders: Sequence[str | Path]) -> None:
    """Refuses a source folder in which a build would end half-way."""
    for folder in folders:
        if not os.access(folder, os.W_OK):
            raise BuildError(
                f"{Path(folder).absolute()} cannot be written, and a build leaves its files there. "
                "If another user's build made that folder, remove it; else copy the source folder "
                "to a place of your own (cp -r) and install from there."
            )


def without_launcher(command: str) -> list[str]:
    """The words of `ccache g++ -m64`, say, without the first: torch starts ccache by itself."""
    words = shlex.split(command)
    return words[1:] if len(words) > 1 and not words[1].startswith("-") else words


def compiler(env: Mapping[str, str]) -> list[str]:
    """The C++ compiler's program and its arguments; refuses a machine that has none."""
    words = without_launcher(env.get("CXX", "")) or ["c++"]
    if shutil.which(words[0], path=env.get("PATH")) is None:
        raise BuildError(
            f"no C++ compiler: {words[0]!r} is not on PATH. Install one (Debian, Ubuntu: apt "
            "install g++; Fedora: dnf install gcc-c++; conda: conda install gxx; macOS: "
            "xcode-select --install) or set CXX. To install without compiled kernels, in pure "
            "Python: MISH_CUDA_BUILD=none pip install ."
        )
    return words


def compiler_version(env: Mapping[str, str]) -> str:
    """The first line that the C++ compiler says of itself."""
    if os.name == "nt":
        return "MSVC"  # setuptools looks for it in places of its own
    words = compiler(env)
    told = output(*words, "--version", path=env.get("PATH")).strip()
    if not told:
        raise BuildError(
            f"{shlex.join(words)} does not tell its version when called, as a C++ compiler does. "
            "Set CXX to one, or unset it for c++."
        )
    return told.partition("\n")[0]


def check_python_headers(include: Path) -> None:
    """Refuses a Python that was installed without what C++ needs of it, in the folder `include`."""
    if not (include / "Python.h").exists():
        raise BuildError(
            f"there is no Python.h in {include}, so nothing can be compiled for this Python. "
            "Install its headers (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install "
            "python3-devel). To install without compiled kernels, in pure Python: "
            "MISH_CUDA_BUILD=none pip install ."
        )


def objects_folder(env: Mapping[str, str], *causes: object) -> Path:
    """Where objects are compiled. Each torch, Python, compiler and mode has a folder of its own:
    the times of files do not tell for which of them an object was made."""
    program = shutil.which("cl" if os.name == "nt" else compiler(env)[0], path=env.get("PATH"))
    flags = [env.get(name) for name in FLAGS]
    key = hashlib.sha256(repr((causes, program, flags)).encode()).hexdigest()[:16]
    return Path("build", f"objects-{key}")


def facts(decision: Decision, torch: Torch, cxx: str, python: str) -> str:
    """C++ code that puts facts of the build into the module, where they can be read also if it
    cannot be loaded, and belong to no other; `python` is the suffix of modules.

    No constant: what may be written to lies at the end of the file, so a module that was cut off
    has no facts.
    """
    toolkit = decision.toolkit
    told = {
        "mode": decision.mode,
        "reason": decision.reason,
        "remedy": decision.remedy,
        "torch": torch.version,
        "python": python,
        "compiler": cxx,
        "cuda": toolkit.version if toolkit else None,
        "nvcc": toolkit.nvcc if isinstance(toolkit, Toolkit) else None,
        "architectures": decision.archs,
    }
    return f'char mish_cuda_facts[] = R"facts(mish_cuda facts: {json.dumps(told)})facts";\n'
