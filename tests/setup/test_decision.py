"""What the build decides on machines of every kind, and the line in which it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import build_config
from build_config import BuildError, Decision, Torch
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit
from mish_cuda._extension import facts_of
from project import Env, is_quoted

CPU = Torch("2.13.0+cpu", None, None)
CUDA_12 = Torch("2.9.1+cu128", "12.8", None)
CUDA_13 = Torch("2.11.0+cu130", "13.0", None)
ASKED, FORCED = {"MISH_CUDA_BUILD": "cuda"}, {"FORCE_CUDA": "1"}
DEFAULT_ARCHS = ";".join(build_config.DEFAULT_ARCHS) + "+PTX"
QUOTED = "quoted in docs/troubleshooting.md"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake compilers are shell scripts")


def answer(call: Callable[..., object], *arguments: object) -> str:
    """What it returns, or the line in which it refuses; QUOTED if the documentation has that."""
    try:
        return str(call(*arguments))
    except BuildError as error:
        line = f"mish_cuda: {error}"
    assert "\n" not in line
    return QUOTED if is_quoted(line) else line


# --- Machines: compilers and packages of pip, played by scripts that answer as they do ---

ALL_CODES = ("75", "80", "86", "87", "88", "89", "90", "100", "110", "103", "120", "121")


def script(path: Path, text: str) -> Path:
    """A program of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def toolkit(root: Path, version: str = "13.0", codes: tuple[str, ...] = ALL_CODES) -> Path:
    """A toolkit whose nvcc answers the questions that the build asks."""
    lines = "\\n".join(f"sm_{code}" for code in codes)
    script(
        root / "bin" / "nvcc",
        'case "$1" in\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.88";;\n'
        f'--dryrun) echo "#\\$ _HERE_={root}/bin"; echo "#\\$ TOP={root}/bin/..";;\n'
        f'--list-gpu-code) printf "{lines}\\n";;\n'
        '-arch=sm_8?[af] | -arch=sm_90f) echo "nvcc fatal : Unsupported gpu architecture" >&2;;\n'
        "esac",
    )
    return root


def nvrtc_packages(folder: Path, lacking: str) -> None:
    """Packages of pip for builds by NVRTC, lacking "nothing", a folder, the version "12.8", or the
    "contents" of the library, which is compiled C."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library = folder / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    runtime = folder / "nvidia/cuda_runtime/lib/libcudart.so.12"
    for path in (library, runtime, folder / "triton/backends/nvidia/include/crt/host_defines.h"):
        path.parent.mkdir(parents=True)
        path.touch()
    source, minor = folder / "nvrtc.c", 6 if lacking == "12.8" else 8
    source.write_text(
        f"int nvrtcVersion(int *a, int *b) {{ *a = 12; *b = {minor}; return 0; }}"
        "int nvrtcGetNumSupportedArchs(int *count) { *count = 3; return 0; }"
        "int nvrtcGetSupportedArchs(int *a) { a[0] = 52; a[1] = 75; a[2] = 120; return 0; }"
    )
    if lacking != "contents":
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    shutil.rmtree(folder / lacking, ignore_errors=True)


Decide = Callable[..., str]


@pytest.fixture
def decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decide:
    """What is decided for a machine with such a torch, nvcc, packages of NVRTC and environment."""
    monkeypatch.setattr(nvcc, "SYSTEM_TOOLKITS", ())

    def decide(
        torch: Torch = CUDA_13, nvcc: str | None = "13.0", lacking: str | None = None, **env: str
    ) -> str:
        if lacking:
            nvrtc_packages(tmp_path / "packages", lacking)
        if nvcc:
            env = {"CUDA_HOME": str(toolkit(tmp_path / "cuda", nvcc)), **env}
        env = {"PATH": str(tmp_path), **env}
        return answer(lambda: told(build_config.decide(env, torch, [tmp_path / "packages"])))

    def told(decision: Decision) -> str:
        asked = decision.reason == "MISH_CUDA_BUILD=cpu"
        assert (decision.toolkit is None) == (decision.mode == "cpu")
        # What is missing for CUDA, unless that was not wanted.
        assert bool(decision.remedy) == (decision.mode == "cpu" and not asked)
        return f"{decision.mode} {decision.archs}: {decision.reason}"

    return decide


BY_NVRTC = r"cuda 7\.5;12\.0\+PTX: .*, but {}.*, so NVRTC 12\.8 in .*/packages"


@pytest.mark.parametrize(
    ("torch", "installed", "lacking", "env", "told"),
    [
        (CPU, "13.0", None, {}, r"cpu None: torch 2\.13\.0\+cpu is a CPU build"),
        (Torch("2.11.0", None, "6.4"), "13.0", None, {}, r"cpu .* is a ROCm build \(HIP 6\.4\)"),
        (Torch("2.13.0", None, None, "2025"), None, None, {}, r"cpu .* an XPU build \(SYCL 2025\)"),
        (CUDA_13, "13.2", None, {}, r"cuda .*\+cu130 .* 13\.0, nvcc 13\.2 .*from CUDA_HOME"),
        (CUDA_13, None, None, {}, r"cpu .* CUDA 13\.0, but no nvcc was found; NVRTC 13"),
        (CUDA_13, "12.8", None, {}, r"cpu .* CUDA 13\.0, but nvcc 12\.8"),
        (CUDA_13, "13.0", None, {"MISH_CUDA_BUILD": "cpu", **FORCED}, ".*: MISH_CUDA_BUILD=cpu$"),
        (CUDA_12, "12.8", None, FORCED, r"cuda .* nvcc 12\.8"),
        (CPU, None, None, ASKED, QUOTED),
        (CUDA_13, None, None, FORCED, QUOTED),
        (CUDA_12, "13.0", None, ASKED, QUOTED),
        (Torch("2.8.0+cu128", "12.8", None), None, None, {}, QUOTED),
        (Torch("1.13.1", None, None), None, None, {}, r"mish_cuda: torch 2\.9 or later is needed"),
        *((Torch(v, None, None), None, None, {}, "cpu ") for v in ("2.9.0", "2.14.0a0+git", "3.0")),
        (CUDA_12, None, "nothing", {}, BY_NVRTC.format("no nvcc was found")),
        (CUDA_12, None, "nothing", ASKED, BY_NVRTC.format("no nvcc was found")),
        (CUDA_12, "13.0", "nothing", {}, BY_NVRTC.format(r"nvcc 13\.0")),
        (CUDA_12, "12.6", "nothing", {}, r"cuda 7\.5;8\.0;.* nvcc 12\.6"),
        (CUDA_12, None, "nothing", {"TORCH_CUDA_ARCH_LIST": "9.0"}, ".* cannot compile for 9.0"),
        (CUDA_12, None, "triton", {}, "cpu .* not among the packages of pip"),
        (CUDA_12, None, "nvidia/cuda_runtime", {}, "cpu .* not among the packages of pip"),
        (CUDA_12, None, "12.8", {}, r"cpu .* NVRTC 12\.6 in .* is older than 12\.8"),
        (CUDA_13, None, "nothing", {}, "cpu .*no nvcc was found; NVRTC 13"),
        (CUDA_12, None, "contents", {}, "cpu .*NVRTC cannot be loaded"),
    ],
)
def test_the_mode_follows_from_torch_and_compilers(
    torch: Torch, installed: str | None, lacking: str | None, env: Env, told: str, decide: Decide
) -> None:
    assert re.match(told, decide(torch, installed, lacking, **env))


@pytest.mark.parametrize(
    ("env", "told"),
    [
        *(({"FORCE_CUDA": yes}, "cuda by") for yes in ("1", "TRUE", "yes", "On")),
        *(({"FORCE_CUDA": no}, "auto by") for no in ("", "0", "False", "no", "off")),
        ({"FORCE_CUDA": "-1"}, ".* FORCE_CUDA must be 1 or 0, but is '-1'"),
        ({"FORCE_CUDA": "cuda"}, ".* FORCE_CUDA must be 1 or 0, but is 'cuda'"),
        ({"MISH_CUDA_BUILD": "gpu"}, ".* must be one of auto, cuda, cpu, none, but is 'gpu'"),
        *(({"MAX_JOBS": jobs}, ".* MAX_JOBS must be a number") for jobs in ("abc", "0", "-2")),
        *(({name: "-D'a"}, f".* {name} is .*: No closing") for name in build_config.INEXACT),
        ({"CXXFLAGS": "-O2 -mdaz-ftz"}, ".* CXXFLAGS has -mdaz-ftz"),
        ({"LDFLAGS": "-mdaz-ftz"}, QUOTED),
        ({"LDFLAGS": "-mpc32"}, ".* LDFLAGS has -mpc32"),
        ({"CFLAGS": "-fsingle-precision-constant -g"}, ".* CFLAGS has -fsingle-precision-constant"),
        ({"NVCC_APPEND_FLAGS": "-use_fast_math"}, ".* NVCC_APPEND_FLAGS has -use_fast_math"),
        ({"NVCC_APPEND_FLAGS": "--ftz=true"}, ".* NVCC_APPEND_FLAGS has --ftz=true"),
        ({"CXXFLAGS": "-ffast-math", "NVCC_APPEND_FLAGS": "-lineinfo"}, "auto by"),
        ({"MISH_CUDA_BUILD": "", "MAX_JOBS": ""}, "auto by"),
        ({"CXX": "my-g++ -m64", "MAX_JOBS": "8"}, r"auto by my-g\+\+ 15\.1$"),
        ({"CXX": "ccache my-g++ -m64"}, r"auto by my-g\+\+ 15\.1$"),
        ({"CXX": ""}, QUOTED),
        ({"CXX": "fails -m64"}, ".* fails -m64 does not tell its version"),
        ({"CXX": "silent"}, ".* silent does not tell its version"),
    ],
)
def test_variables_are_obeyed_or_refused_never_ignored(env: Env, told: str, tmp_path: Path) -> None:
    script(tmp_path / "my-g++", 'echo "my-g++ 15.1"; echo "Copyright"')
    script(tmp_path / "fails", "exit 1")
    script(tmp_path / "silent", "echo")
    env = {"PATH": str(tmp_path), "CXX": "my-g++", **env}

    def settings() -> str:
        build_config.check_environment(env)
        mode, compiler = build_config.requested_mode(env), build_config.compiler_version(env)
        assert "-ccbin=my-g++" in build_config.nvcc_flags(env, "9.0")
        return f"{mode} by {compiler}"

    assert re.match(told, answer(settings))


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = {name: toolkit(tmp_path / name) for name in ("home", "path", "cuda-13.0")}
    roots["pip"] = toolkit(tmp_path / "site-packages" / "nvidia" / "cu13")
    (tmp_path / "link").symlink_to(roots["home"])  # one toolkit found twice counts once
    monkeypatch.setattr(nvcc, "SYSTEM_TOOLKITS", (str(tmp_path / "cuda-*"),))
    path = os.pathsep.join(map(str, [tmp_path, tmp_path / "link/bin", roots["path"] / "bin"]))
    env = {"CUDA_HOME": str(roots["home"]), "PATH": path}
    toolkits, rejected = nvcc.find(env, [tmp_path / "site-packages"])
    assert [t.root for t in toolkits] == [root.resolve() for root in roots.values()]
    assert [t.origin for t in toolkits] == ["CUDA_HOME", "PATH", "system", "pip"]
    assert rejected == []


def test_a_fitting_compiler_is_preferred(tmp_path: Path, decide: Decide) -> None:
    """And others are named. The fitting one is on PATH, and there a script that calls it."""
    new = toolkit(tmp_path / "new", "13.0")
    script(tmp_path / "path" / "nvcc", f'exec {new}/bin/nvcc "$@"')
    told = decide(CUDA_13, "12.8", PATH=f"{tmp_path}/path")
    assert f"nvcc 13.0 in {new.resolve()} (from PATH)" in told
    assert f"passed over nvcc 12.8 in {tmp_path}/cuda" in told
    broken = script(tmp_path / "nvcc", "exit 1")
    told = decide(nvcc=None, CUDA_HOME=str(tmp_path))
    assert f"CUDA_HOME is set, but there is no nvcc in {tmp_path}/bin" in told
    assert f"{broken} (from PATH) does not tell its version" in told


# --- Architectures ---


@pytest.mark.parametrize(
    ("wanted", "archs"),
    [
        *(("9.0a 12.0", "9.0a;12.0"), ("9", "9.0"), ("90", "9.0"), ("SM_90A", "9.0a")),
        *((" ;9.0 ;, 8.0 ", "9.0;8.0"), ("9.0+PTX,8.0", "9.0+PTX;8.0"), ("120+ptx", "12.0+PTX")),
        *(("9.0;9.0+PTX;90", "9.0+PTX"), ("12.0f;10.0f+PTX", "12.0f;10.0f+PTX")),
        *(("Ampere", "8.0;8.6+PTX"), ("hopper+PTX", "9.0+PTX"), ("Ada 8.0", "8.9+PTX;8.0")),
        *(("", DEFAULT_ARCHS), (" ; ", DEFAULT_ARCHS)),
        *((f"8.0 {name}", f"!{name}") for name in ("5.2", "3.5+PTX", "9.9a", "8.0a", "9.0f")),
        *((name, f"!{name}") for name in ("sm_900", "all", "Pascal", "9.0|8.0", "90aa", "native")),
    ],
)
def test_architectures_may_be_written_in_many_ways(wanted: str, archs: str, decide: Decide) -> None:
    """Or are refused: !."""
    told = decide(TORCH_CUDA_ARCH_LIST=wanted)
    if archs.startswith("!"):
        assert f"cannot compile for {archs[1:]}; it can for 7.5" in told
    else:
        assert told.startswith(f"cuda {archs}: ")


def test_architectures_are_those_that_the_machine_has(tmp_path: Path, decide: Decide) -> None:
    """The defaults those that nvcc knows; native those of the GPUs."""
    old = toolkit(tmp_path / "old", codes=("50", "70", "75", "90", "90a"))
    new = toolkit(tmp_path / "new", codes=("130",))
    assert decide(CUDA_HOME=str(old)).startswith("cuda 7.5;9.0+PTX: ")
    assert "Set TORCH_CUDA_ARCH_LIST" in decide(CUDA_HOME=str(new))
    assert decide(TORCH_CUDA_ARCH_LIST="compute_90") == QUOTED
    script(tmp_path / "nvidia-smi", "printf '12.0\\n9.0\\n12.0\\n'")
    assert decide(TORCH_CUDA_ARCH_LIST="native").startswith("cuda 9.0;12.0+PTX: ")
    script(tmp_path / "nvidia-smi", "printf '9.0\\n13.0\\n'")
    assert "cannot compile for native" in decide(TORCH_CUDA_ARCH_LIST="native")


def test_every_generation_since_turing_finds_machine_code() -> None:
    """Code for x.y runs on x.y and later minors of x."""
    codes = [code.split(".") for code in build_config.DEFAULT_ARCHS]
    for gpu in ALL_CODES:
        assert any(gpu[:-1] == major and gpu[-1] >= minor for major, minor in codes)


def test_torch_is_left_no_architecture_to_find() -> None:
    flags = build_config.nvcc_flags({"MAX_JOBS": "2", "NVCC_CCBIN": "g++-12"}, "8.0;9.0a;12.0+PTX")
    codes = [flag.rpartition("code=")[2] for flag in flags if flag.startswith("-gencode=")]
    assert codes == ["sm_80", "sm_90a", "sm_120", "compute_120"]
    assert {"-gencode=arch=compute_90a,code=sm_90a", "--threads=2", "-ccbin=g++-12"} <= {*flags}


# --- The rest of the machine ---


def test_what_lacks_in_folders_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's headers, and leave to write."""
    assert answer(build_config.check_python_headers, tmp_path) == QUOTED
    (tmp_path / "Python.h").touch()
    build_config.check_python_headers(tmp_path)
    build_config.check_writable([tmp_path])
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert answer(build_config.check_writable, [tmp_path.parent, tmp_path]) == QUOTED


def test_facts_are_read_from_the_module(tmp_path: Path) -> None:
    toolkit = Toolkit(tmp_path, "13.0", "13.0.88", ("9.0",), "PATH")
    source, module = tmp_path / "facts.cpp", tmp_path / "facts.o"
    decision = Decision("cuda", "as asked", toolkit, "9.0+PTX")
    source.write_text(build_config.facts(decision, CUDA_13, 'g++ "12.2"', ".so"))
    subprocess.run(["c++", "-c", source, "-o", module], check=True)
    facts = {"mode": "cuda", "reason": "as asked", "remedy": None, "torch": CUDA_13.version}
    facts |= {"python": ".so", "compiler": 'g++ "12.2"', "cuda": "13.0", "nvcc": "13.0.88"}
    assert facts_of(module) == {**facts, "architectures": "9.0+PTX"}


def test_each_torch_python_compiler_and_mode_has_its_objects() -> None:
    env, causes = {"PATH": os.environ["PATH"]}, [CUDA_13, "3.11", "g++ 12.2", "cpu"]
    others = [[*causes[:i], "another", *causes[i + 1 :]] for i in range(len(causes))]
    folders = {build_config.objects_folder(env, *other) for other in (causes, causes, *others)}
    folders.add(build_config.objects_folder({**env, "CXXFLAGS": "-O1"}, *causes))
    assert len(folders) == 6
