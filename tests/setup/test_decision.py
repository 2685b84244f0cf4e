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
from csrc.cuda.nvrtc import Nvrtc
from mish_cuda._extension import facts_of
from project import is_quoted

CPU = Torch("2.13.0+cpu", None, None)
ROCM = Torch("2.11.0+rocm6.4", None, "6.4")
XPU = Torch("2.13.0+xpu", None, None, "20250301")
CUDA_12 = Torch("2.9.1+cu128", "12.8", None)
CUDA_13 = Torch("2.11.0+cu130", "13.0", None)
ASKED, FORCED = {"MISH_CUDA_BUILD": "cuda"}, {"FORCE_CUDA": "1"}
DEFAULT_ARCHS = ";".join(build_config.DEFAULT_ARCHS) + "+PTX"
QUOTED = "quoted in docs/troubleshooting.md"

Decide = Callable[..., Decision]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake compilers are shell scripts")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


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


def nvrtc_packages(folder: Path, version: tuple[int, int] = (12, 8)) -> Path:
    """Packages of pip with what a build by NVRTC needs; the library is compiled C."""
    major, minor = version
    (folder / "triton/backends/nvidia/include/crt").mkdir(parents=True)
    libraries = folder / "nvidia/cuda_runtime/lib"
    libraries.mkdir(parents=True)
    (libraries / f"libcudart.so.{major}").touch()
    library = folder / f"nvidia/cuda_nvrtc/lib/libnvrtc.so.{major}"
    library.parent.mkdir(parents=True)
    source = folder / "nvrtc.c"
    source.write_text(
        f"int nvrtcVersion(int *a, int *b) {{ *a = {major}; *b = {minor}; return 0; }}"
        "int nvrtcGetNumSupportedArchs(int *count) { *count = 3; return 0; }"
        "int nvrtcGetSupportedArchs(int *a) { a[0] = 52; a[1] = 75; a[2] = 120; return 0; }"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.fixture
def decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decide:
    """Decides for a machine with such a torch and nvcc (None: without), and that environment."""
    monkeypatch.setattr(nvcc, "SYSTEM_TOOLKITS", ())

    def decide(
        torch: Torch = CUDA_13,
        nvcc: str | None = "13.0",
        codes: tuple[str, ...] = ALL_CODES,
        packages: Path = tmp_path,
        **env: str,
    ) -> Decision:
        if nvcc:
            env = {"CUDA_HOME": str(toolkit(tmp_path / "cuda", nvcc, codes)), **env}
        return build_config.decide({"PATH": str(tmp_path), **env}, torch, [packages])

    return decide


def answer(call: Callable[[], object]) -> str:
    """What it returns, or the line in which it refuses; QUOTED if the documentation has that."""
    try:
        return str(call())
    except BuildError as error:
        line = f"mish_cuda: {error}"
    assert "\n" not in line
    return QUOTED if is_quoted(line) else line


@pytest.mark.parametrize(
    ("torch", "installed", "env", "told"),
    [
        (CPU, "13.0", {}, r"cpu: torch 2\.13\.0\+cpu is a CPU build"),
        (ROCM, "13.0", {}, r"cpu: torch 2\.11\.0\+rocm6\.4 is a ROCm build \(HIP 6\.4\)"),
        (XPU, None, {}, r"cpu: .* is an XPU build \(SYCL 20250301\)"),
        (CUDA_13, "13.2", {}, r"cuda: .*2\.11\.0\+cu130 .*CUDA 13\.0, nvcc 13\.2 .*from CUDA_HOME"),
        (CUDA_13, None, {}, r"cpu: .* CUDA 13\.0, but no nvcc was found"),
        (CUDA_13, "12.8", {}, r"cpu: .* CUDA 13\.0, but nvcc 12\.8"),
        (CUDA_13, "13.0", {"MISH_CUDA_BUILD": "cpu", **FORCED}, "cpu: MISH_CUDA_BUILD=cpu$"),
        (CUDA_12, "12.8", FORCED, r"cuda: .* nvcc 12\.8"),
        (CPU, None, ASKED, QUOTED),
        (CUDA_13, None, FORCED, QUOTED),
        (CUDA_12, "13.0", ASKED, QUOTED),
        (Torch("2.8.0+cu128", "12.8", None), None, {}, QUOTED),
        (Torch("1.13.1", None, None), None, {}, r"mish_cuda: torch 2\.9 or later is needed"),
        *((Torch(new, None, None), None, {}, "cpu: ") for new in ("2.9.0", "2.14.0a0+git1", "3.0")),
    ],
)
def test_the_mode_follows_from_torch_and_nvcc(
    torch: Torch, installed: str | None, env: dict[str, str], told: str, decide: Decide
) -> None:
    def mode() -> str:
        decision = decide(torch, installed, **env)
        assert isinstance(decision.toolkit, Toolkit) == (decision.mode == "cuda")
        # What is missing for CUDA, unless that was not wanted.
        assert bool(decision.remedy) == (decision.mode == "cpu" and not env)
        return f"{decision.mode}: {decision.reason}"

    assert re.match(told, answer(mode))


FLAGS_THAT_FIT = {"MAX_JOBS": "8", "CXXFLAGS": "-ffast-math", "NVCC_APPEND_FLAGS": "-lineinfo"}


@pytest.mark.parametrize(
    ("function", "env", "told"),
    [
        *(("requested_mode", {"FORCE_CUDA": yes}, "cuda") for yes in ("1", "TRUE", "yes", "On")),
        *(("requested_mode", {"FORCE_CUDA": no}, "auto") for no in ("", "0", "False", "no", "off")),
        ("requested_mode", {"MISH_CUDA_BUILD": ""}, "auto"),
        ("requested_mode", {"FORCE_CUDA": "-1"}, ".* FORCE_CUDA must be 1 or 0, but is '-1'"),
        ("requested_mode", {"FORCE_CUDA": "cuda"}, ".* FORCE_CUDA must be 1 or 0, but is 'cuda'"),
        (
            "requested_mode",
            {"MISH_CUDA_BUILD": "gpu"},
            ".* one of auto, cuda, cpu, none, but is 'g",
        ),
        *(
            ("check_environment", {"MAX_JOBS": n}, ".* must be a number")
            for n in ("abc", "0", "-2")
        ),
        *(
            ("check_environment", {name: "-DTEXT='a"}, f".* {name} is .*: No closing quotation")
            for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")
        ),
        ("check_environment", {"CXXFLAGS": "-O2 -mdaz-ftz"}, ".* CXXFLAGS has -mdaz-ftz"),
        ("check_environment", {"LDFLAGS": "-mdaz-ftz"}, QUOTED),
        ("check_environment", {"LDFLAGS": "-mpc32"}, ".* LDFLAGS has -mpc32"),
        ("check_environment", {"CFLAGS": "-fsingle-precision-constant -g"}, ".* has -fsingle-prec"),
        ("check_environment", {"NVCC_APPEND_FLAGS": "-use_fast_math"}, ".* has -use_fast_math"),
        ("check_environment", {"NVCC_APPEND_FLAGS": "--ftz=true"}, ".* has --ftz=true"),
        ("check_environment", FLAGS_THAT_FIT, "None"),
        ("check_environment", {"MAX_JOBS": ""}, "None"),
        ("compiler_version", {"CXX": "my-g++ -m64"}, r"my-g\+\+ 15\.1$"),
        ("compiler_version", {"CXX": "ccache my-g++ -m64"}, r"my-g\+\+ 15\.1$"),
        ("compiler_version", {}, QUOTED),
        ("compiler_version", {"CXX": "fails -m64"}, ".* fails -m64 does not tell its version"),
        ("compiler_version", {"CXX": "silent"}, ".* silent does not tell its version"),
    ],
)
def test_variables_are_obeyed_or_refused_never_ignored(
    function: str, env: dict[str, str], told: str, tmp_path: Path
) -> None:
    script(tmp_path / "my-g++", 'echo "my-g++ 15.1"; echo "Copyright"')
    script(tmp_path / "fails", "exit 1")
    script(tmp_path / "silent", "echo")
    env = {"PATH": str(tmp_path), **env}
    assert re.match(told, answer(lambda: getattr(build_config, function)(env)))
    if told.startswith("my-g"):
        assert "-ccbin=my-g++" in build_config.nvcc_flags(env, "9.0")


# --- Which nvcc ---


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


def test_a_fitting_compiler_is_preferred_and_others_are_named(
    tmp_path: Path, decide: Decide
) -> None:
    """The fitting one is on PATH, and there a script that calls it."""
    new = toolkit(tmp_path / "new", "13.0")
    script(tmp_path / "path" / "nvcc", f'exec {new}/bin/nvcc "$@"')
    decision = decide(CUDA_13, "12.8", PATH=f"{tmp_path}/path")
    assert isinstance(decision.toolkit, Toolkit)
    assert decision.toolkit.root == new.resolve()
    assert f"passed over nvcc 12.8 in {tmp_path}/cuda" in decision.reason
    broken = script(tmp_path / "nvcc", "exit 1")
    reason = decide(nvcc=None, CUDA_HOME=str(tmp_path)).reason
    assert f"CUDA_HOME is set, but there is no nvcc in {tmp_path}/bin" in reason
    assert f"{broken} (from PATH) does not tell its version" in reason


# --- NVRTC, where there is no nvcc ---


@needs_compiler
@pytest.mark.parametrize(("other", "found"), [(None, "no nvcc was found"), ("13.0", "nvcc 13.0")])
def test_nvrtc_takes_the_place_of_a_missing_nvcc(
    other: str | None, found: str, tmp_path: Path, decide: Decide
) -> None:
    packages = nvrtc_packages(tmp_path / "site-packages")
    decision = decide(CUDA_12, other, packages=packages)
    assert isinstance(decision.toolkit, Nvrtc)
    assert (decision.mode, decision.archs) == ("cuda", "7.5;12.0+PTX")
    assert re.search(rf"{found}.*so NVRTC 12\.8 in {packages}", decision.reason)
    assert decide(CUDA_12, other, packages=packages, **ASKED) == decision
    refused = answer(lambda: decide(CUDA_12, None, packages=packages, TORCH_CUDA_ARCH_LIST="9.0"))
    assert re.search(r"NVRTC 12\.8 in .* cannot compile for 9\.0", refused)
    assert isinstance(decide(CUDA_12, "12.6", packages=packages).toolkit, Toolkit)


@needs_compiler
@pytest.mark.parametrize(
    ("lacks", "torch", "version", "told"),
    [
        ("triton", CUDA_12, (12, 8), "headers are not among the packages of pip"),
        ("nvidia/cuda_runtime", CUDA_12, (12, 8), "headers are not among the packages of pip"),
        ("nothing", CUDA_12, (12, 6), "NVRTC 12.6 in .* is older than 12.8"),
        ("nothing", CUDA_13, (12, 8), "no nvcc was found; NVRTC 13"),
        ("contents", CUDA_12, (12, 8), "NVRTC cannot be loaded"),
    ],
)
def test_why_nvrtc_is_of_no_use_is_told(
    lacks: str, torch: Torch, version: tuple[int, int], told: str, tmp_path: Path, decide: Decide
) -> None:
    packages = nvrtc_packages(tmp_path, version)
    if lacks == "contents":
        (packages / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12").write_bytes(b"")
    shutil.rmtree(packages / lacks, ignore_errors=True)
    decision = decide(torch, None)
    assert decision.mode == "cpu"
    assert re.search(told, decision.reason)


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
        ("compute_90", QUOTED),
    ],
)
def test_architectures_may_be_written_in_many_ways(wanted: str, archs: str, decide: Decide) -> None:
    """Or are refused: !."""
    told = answer(lambda: decide(TORCH_CUDA_ARCH_LIST=wanted).archs)
    if archs.startswith("!"):
        assert f"cannot compile for {archs[1:]}; it can for 7.5" in told
    else:
        assert told == archs


def test_native_asks_the_gpus(tmp_path: Path, decide: Decide) -> None:
    script(tmp_path / "nvidia-smi", "printf '12.0\\n9.0\\n12.0\\n'")
    assert decide(TORCH_CUDA_ARCH_LIST="native").archs == "9.0;12.0+PTX"
    script(tmp_path / "nvidia-smi", "printf '9.0\\n13.0\\n'")
    assert "cannot compile for native" in answer(lambda: decide(TORCH_CUDA_ARCH_LIST="native"))


def test_defaults_are_those_that_nvcc_knows(decide: Decide) -> None:
    codes = ("50", "60", "70", "75", "80", "86", "89", "90", "90a")
    assert decide(codes=codes).archs == "7.5;8.0;8.6;8.9;9.0+PTX"
    assert "Set TORCH_CUDA_ARCH_LIST" in answer(lambda: decide(codes=("130",)))


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


def test_what_lacks_in_folders_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's headers, and leave to write."""
    assert answer(lambda: build_config.check_python_headers(tmp_path)) == QUOTED
    (tmp_path / "Python.h").touch()
    build_config.check_python_headers(tmp_path)
    build_config.check_writable([tmp_path])
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert answer(lambda: build_config.check_writable([tmp_path.parent, tmp_path])) == QUOTED


def test_facts_are_read_from_the_module(tmp_path: Path, decide: Decide) -> None:
    decision = decide()
    source, module = tmp_path / "facts.cpp", tmp_path / "facts.o"
    source.write_text(build_config.facts(decision, CUDA_13, 'g++ "12.2"', ".so"))
    subprocess.run(["c++", "-c", source, "-o", module], check=True)
    facts = {"mode": "cuda", "reason": decision.reason, "remedy": None, "torch": CUDA_13.version}
    facts |= {"python": ".so", "compiler": 'g++ "12.2"', "cuda": "13.0", "nvcc": "13.0.88"}
    assert facts_of(module) == {**facts, "architectures": DEFAULT_ARCHS}


def test_each_torch_python_compiler_and_mode_has_its_objects() -> None:
    env = {"PATH": os.environ["PATH"]}
    causes = [CUDA_13, "3.11", "g++ 12.2", "cpu"]
    others = [[*causes[:i], "another", *causes[i + 1 :]] for i in range(len(causes))]
    folders = [build_config.objects_folder(env, *other) for other in (causes, *others)]
    folders.append(build_config.objects_folder({**env, "CXXFLAGS": "-O1"}, *causes))
    assert len(set(folders)) == 6
    assert build_config.objects_folder(env, *causes) == folders[0]
