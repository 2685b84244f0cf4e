"""What the build decides on machines of every kind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from machines import ALL_CODES, nvrtc_packages, script, toolkit

import build_config
from build_config import BuildError, Decision, Torch, decide
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit
from csrc.cuda.nvrtc import Nvrtc
from mish_cuda._extension import facts_of

CPU = Torch("2.13.0+cpu", None, None)
ROCM = Torch("2.11.0+rocm6.4", None, "6.4")
XPU = Torch("2.13.0+xpu", None, None, "20250301")
CUDA_12 = Torch("2.9.1+cu128", "12.8", None)
CUDA_13 = Torch("2.11.0+cu130", "13.0", None)
ASKED = {"MISH_CUDA_BUILD": "cuda"}
DEFAULT_ARCHS = ";".join(build_config.DEFAULT_ARCHS) + "+PTX"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake compilers are shell scripts")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolkits of this machine do not count."""
    monkeypatch.setattr(nvcc, "SYSTEM_TOOLKITS", ())


def home(folder: Path, version: str = "13.0", *codes: str) -> dict[str, str]:
    """The environment of a machine with that nvcc."""
    return {"CUDA_HOME": str(toolkit(folder, version, codes or ALL_CODES))}


@pytest.mark.parametrize(
    ("torch", "installed", "mode", "told"),
    [
        (CPU, "13.0", "cpu", ["torch 2.13.0+cpu is a CPU build"]),
        (ROCM, "13.0", "cpu", ["torch 2.11.0+rocm6.4 is a ROCm build (HIP 6.4)"]),
        (XPU, None, "cpu", ["an XPU build (SYCL 20250301)"]),
        (CUDA_13, "13.2", "cuda", ["2.11.0+cu130", "CUDA 13.0", "nvcc 13.2", "from CUDA_HOME"]),
        (CUDA_13, None, "cpu", ["CUDA 13.0", "no nvcc was found"]),
        (CUDA_13, "12.8", "cpu", ["CUDA 13.0", "nvcc 12.8"]),
    ],
)
def test_the_mode_follows_from_torch_and_nvcc(
    torch: Torch, installed: str | None, mode: str, told: list[str], tmp_path: Path
) -> None:
    env = home(tmp_path, installed) if installed else {"PATH": str(tmp_path)}
    decision = decide(env, torch, [tmp_path])
    assert decision.mode == mode
    assert [part for part in told if part not in decision.reason] == []
    assert (decision.remedy is None) == (mode == "cuda")  # else what is missing for CUDA
    assert isinstance(decision.toolkit, Toolkit) == (mode == "cuda")


def test_cpu_is_built_when_asked_for(tmp_path: Path) -> None:
    env = {"MISH_CUDA_BUILD": "cpu", "FORCE_CUDA": "1", **home(tmp_path)}
    assert decide(env, CUDA_13, []) == Decision("cpu", "MISH_CUDA_BUILD=cpu")


@pytest.mark.parametrize("asked", [ASKED, {"FORCE_CUDA": "1"}])
@pytest.mark.parametrize(
    ("torch", "installed", "told"),
    [
        (CPU, None, r"2\.13\.0\+cpu is a CPU build\. Install a torch"),
        (CUDA_13, None, r"no nvcc was found.*pip install .*nvcc,nvvm,crt,cccl,cudart\]==13\.0\.\*"),
        (CUDA_13, "12.8", r"CUDA 13\.0, but nvcc 12\.8.*pip install"),
        (CUDA_12, None, r"Install .*CUDA 12\.8 .*CUDA_HOME.*hold no nvcc"),  # pip has none
    ],
)
def test_cuda_that_cannot_be_had_is_refused(
    asked: dict[str, str], torch: Torch, installed: str | None, told: str, tmp_path: Path
) -> None:
    env = home(tmp_path, installed) if installed else {}
    with pytest.raises(BuildError, match=told):
        decide({**asked, **env}, torch, [])
    if torch.cuda:
        assert decide({**asked, **home(tmp_path, torch.cuda)}, torch, []).mode == "cuda"


@pytest.mark.parametrize(
    ("env", "mode"),
    [
        *(({"FORCE_CUDA": yes}, "cuda") for yes in ("1", "TRUE", "yes", "On")),
        *(({"FORCE_CUDA": no}, "auto") for no in ("", "0", "False", "no", "off")),
        ({"MISH_CUDA_BUILD": ""}, "auto"),
        ({"FORCE_CUDA": "-1"}, "FORCE_CUDA must be 1 or 0, but is '-1'"),
        ({"FORCE_CUDA": "cuda"}, "FORCE_CUDA must be 1 or 0, but is 'cuda'"),
        ({"MISH_CUDA_BUILD": "gpu"}, "one of auto, cuda, cpu, none, but is 'gpu'"),
    ],
)
def test_modes_are_read_or_refused_never_ignored(env: dict[str, str], mode: str) -> None:
    if mode in build_config.MODES:
        assert build_config.requested_mode(env) == mode
    else:
        with pytest.raises(BuildError, match=mode):
            build_config.requested_mode(env)


def test_the_oldest_torch() -> None:
    for version in ("2.9.0", "2.14.0a0+git123", "3.0"):
        assert decide({}, Torch(version, None, None), []).mode == "cpu"
    for version in ("1.13.1", "2.8.0+cu128"):
        with pytest.raises(BuildError, match=r"torch 2\.9 or later is needed"):
            decide({}, Torch(version, None, None), [])


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


def test_a_fitting_compiler_is_preferred_and_the_other_named(tmp_path: Path) -> None:
    old, new = toolkit(tmp_path / "old", "12.8"), toolkit(tmp_path / "new", "13.0")
    decision = decide({"CUDA_HOME": str(old), "PATH": f"{new}/bin"}, CUDA_13, [])
    assert isinstance(decision.toolkit, Toolkit)
    assert decision.toolkit.root == new.resolve()
    assert f"passed over nvcc 12.8 in {old}" in decision.reason


def test_a_wrapper_on_path_leads_to_its_toolkit(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "toolkit")
    wrapper = script(tmp_path / "bin" / "nvcc", f'exec {real}/bin/nvcc "$@"')
    found = nvcc.probe(wrapper, "PATH")
    assert isinstance(found, Toolkit)
    assert found.root == real.resolve()


def test_what_is_no_compiler_is_named(tmp_path: Path) -> None:
    broken = script(tmp_path / "nvcc", "exit 1")
    env = {"CUDA_HOME": str(tmp_path), "PATH": str(tmp_path)}
    reason = decide(env, CUDA_13, []).reason
    assert f"CUDA_HOME is set, but there is no nvcc in {tmp_path}/bin" in reason
    assert f"{broken} (from PATH) does not tell its version" in reason


# --- NVRTC, where there is no nvcc ---


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize(("other", "found"), [(None, "no nvcc was found"), ("13.0", "nvcc 13.0")])
def test_nvrtc_takes_the_place_of_a_missing_nvcc(
    other: str | None, found: str, tmp_path: Path
) -> None:
    packages = nvrtc_packages(tmp_path / "site-packages")
    env = home(tmp_path / "cuda", other) if other else {}
    decision = decide(env, CUDA_12, [packages])
    assert isinstance(decision.toolkit, Nvrtc)
    assert (decision.mode, decision.toolkit.version) == ("cuda", "12.8")
    assert decision.archs == "7.5;12.0+PTX"
    assert re.search(rf"{found}.*so NVRTC 12\.8 in {packages}", decision.reason)
    assert decide({**ASKED, **env}, CUDA_12, [packages]) == decision
    with pytest.raises(BuildError, match=r"NVRTC 12\.8 in .* cannot compile for 9\.0"):
        decide({**env, "TORCH_CUDA_ARCH_LIST": "9.0"}, CUDA_12, [packages])
    fitting = decide(home(tmp_path / "fitting", "12.6"), CUDA_12, [packages])
    assert isinstance(fitting.toolkit, Toolkit)


@needs_compiler
@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ("triton", "headers are not among the packages of pip"),
        ("nvidia/cuda_runtime", "headers are not among the packages of pip"),
        ("version", "NVRTC 12.6 in .* is older than 12.8"),
        ("contents", "NVRTC cannot be loaded"),
        ("fit", "no nvcc was found; NVRTC 13"),
    ],
)
def test_why_nvrtc_is_of_no_use_is_told(lacks: str, told: str, tmp_path: Path) -> None:
    packages = nvrtc_packages(tmp_path, (12, 6) if lacks == "version" else (12, 8))
    if lacks == "contents":
        (packages / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12").write_bytes(b"")
    shutil.rmtree(packages / lacks, ignore_errors=True)
    torch = CUDA_13 if lacks == "fit" else CUDA_12
    decision = decide({}, torch, [packages])
    assert decision.mode == "cpu"
    assert re.search(told, decision.reason)
    with pytest.raises(BuildError, match=told):
        decide(ASKED, torch, [packages])


# --- Architectures ---


@pytest.mark.parametrize(
    ("wanted", "archs"),
    [
        *(("9.0a 12.0", "9.0a;12.0"), ("9", "9.0"), ("90", "9.0"), ("sm_90", "9.0")),
        *(("SM_90A", "9.0a"), ("12", "12.0"), ("120+ptx", "12.0+PTX"), ("9.0;", "9.0")),
        *((" ;9.0 ;, 8.0 ", "9.0;8.0"), ("9.0+PTX,8.0", "9.0+PTX;8.0")),
        *(("9.0;9.0+PTX;90", "9.0+PTX"), ("12.0f;10.0f+PTX", "12.0f;10.0f+PTX")),
        *(("Ampere", "8.0;8.6+PTX"), ("hopper+PTX", "9.0+PTX"), ("Ada 8.0", "8.9+PTX;8.0")),
        *(("Blackwell", "10.0;10.3;12.0;12.1+PTX"), ("", DEFAULT_ARCHS), (" ; ", DEFAULT_ARCHS)),
    ],
)
def test_architectures_may_be_written_in_many_ways(wanted: str, archs: str, tmp_path: Path) -> None:
    env = {"TORCH_CUDA_ARCH_LIST": wanted, **home(tmp_path)}
    assert decide(env, CUDA_13, []).archs == archs


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        *(("5.2;9.0", "5.2"), ("9.0 3.5+PTX", r"3.5\+PTX"), ("9.9a", "9.9a"), ("8.0a", "8.0a")),
        *(("9.0f", "9.0f"), ("9.0+PTX+PTX", "9.0"), ("compute_90", "compute_90"), ("all", "all")),
        *(("Hoper", "Hoper"), ("Pascal", "Pascal"), ("9.0|8.0", "9.0"), ("9,0", "0")),
        *(("90aa", "90a"), ("native", "native")),
    ],
)
def test_other_architectures_are_refused_in_a_line(
    wanted: str, refused: str, tmp_path: Path
) -> None:
    env = {"TORCH_CUDA_ARCH_LIST": wanted, "PATH": str(tmp_path), **home(tmp_path)}
    with pytest.raises(BuildError, match=rf"cannot compile for {refused}.*it can for 7\.5") as told:
        decide(env, CUDA_13, [])
    assert "\n" not in str(told.value)


def test_defaults_are_those_that_nvcc_knows(tmp_path: Path) -> None:
    env = home(tmp_path, "13.0", "50", "60", "70", "75", "80", "86", "89", "90", "90a")
    assert decide(env, CUDA_13, []).archs == "7.5;8.0;8.6;8.9;9.0+PTX"
    with pytest.raises(BuildError, match="Set TORCH_CUDA_ARCH_LIST"):
        decide(home(tmp_path, "13.0", "130"), CUDA_13, [])


@pytest.mark.parametrize(
    "gpu",
    # Turing, A100, GeForce 30, Orin, GeForce 40, H100, B200, B300, Thor, GeForce 50, Spark
    ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"],
)
def test_every_generation_since_turing_finds_machine_code(gpu: str) -> None:
    """Code for x.y runs on x.y and later minors of x."""
    major, minor = gpu.split(".")
    codes = (code.split(".") for code in build_config.DEFAULT_ARCHS)
    assert any(code[0] == major and code[1] <= minor for code in codes)


def test_native_asks_the_gpus(tmp_path: Path) -> None:
    env = {"TORCH_CUDA_ARCH_LIST": "native", "PATH": str(tmp_path), **home(tmp_path / "cuda")}
    script(tmp_path / "nvidia-smi", "printf '12.0\\n9.0\\n12.0\\n'")
    assert decide(env, CUDA_13, []).archs == "9.0;12.0+PTX"
    script(tmp_path / "nvidia-smi", "printf '9.0\\n13.0\\n'")
    with pytest.raises(BuildError, match="cannot compile for native"):
        decide(env, CUDA_13, [])


def test_torch_is_left_no_architecture_to_find() -> None:
    flags = build_config.nvcc_flags({"MAX_JOBS": "2", "NVCC_CCBIN": "g++-12"}, "8.0;9.0a;12.0+PTX")
    codes = [flag.rpartition("code=")[2] for flag in flags if flag.startswith("-gencode=")]
    assert codes == ["sm_80", "sm_90a", "sm_120", "compute_120"]
    assert {"-gencode=arch=compute_90a,code=sm_90a", "--threads=2", "-ccbin=g++-12"} <= {*flags}


# --- The rest of the machine ---


@pytest.mark.parametrize(
    ("env", "told"),
    [
        *(({"MAX_JOBS": wrong}, "MAX_JOBS must be a number") for wrong in ("abc", "0", "-2")),
        *(
            ({name: "-DTEXT='a"}, f"{name} is .*: No closing quotation")
            for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")
        ),
        ({"CXXFLAGS": "-O2 -mdaz-ftz"}, "CXXFLAGS has -mdaz-ftz"),
        ({"LDFLAGS": "-mpc32"}, "LDFLAGS has -mpc32"),
        ({"CFLAGS": "-fsingle-precision-constant -g"}, "CFLAGS has -fsingle-precision"),
        ({"NVCC_APPEND_FLAGS": "-use_fast_math"}, "NVCC_APPEND_FLAGS has -use_fast_math"),
        ({"NVCC_APPEND_FLAGS": "--ftz=true"}, "NVCC_APPEND_FLAGS has --ftz=true"),
        ({"MAX_JOBS": "8", "CXXFLAGS": "-ffast-math", "NVCC_APPEND_FLAGS": "-lineinfo"}, None),
        ({"MAX_JOBS": ""}, None),
    ],
)
def test_what_would_fail_later_or_compute_otherwise_is_refused(
    env: dict[str, str], told: str | None
) -> None:
    if told is None:
        build_config.check_environment(env)
    else:
        with pytest.raises(BuildError, match=told):
            build_config.check_environment(env)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_config.check_writable([tmp_path])
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(BuildError, match=f"{tmp_path} cannot be written"):
        build_config.check_writable([tmp_path.parent, tmp_path])


def test_missing_headers_of_python_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="apt install python3-dev"):
        build_config.check_python_headers(tmp_path)
    (tmp_path / "Python.h").touch()
    build_config.check_python_headers(tmp_path)


@pytest.mark.parametrize("cxx", ["my-g++ -m64", "ccache my-g++", "ccache my-g++ -m64"])
def test_the_compiler_is_the_one_in_cxx(tmp_path: Path, cxx: str) -> None:
    script(tmp_path / "my-g++", 'echo "my-g++ 15.1"; echo "Copyright"')
    env = {"CXX": cxx, "PATH": str(tmp_path)}
    assert build_config.compiler_version(env) == "my-g++ 15.1"
    assert "-ccbin=my-g++" in build_config.nvcc_flags(env, "9.0")
    with pytest.raises(BuildError, match=r"'c\+\+'.*install g\+\+.*MISH_CUDA_BUILD=none pip"):
        build_config.compiler_version({"PATH": str(tmp_path)})


@pytest.mark.parametrize("answer", ["exit 1", "echo"])
def test_what_is_no_compiler_is_refused(tmp_path: Path, answer: str) -> None:
    script(tmp_path / "false", answer)
    with pytest.raises(BuildError, match="false -m64 does not tell its version"):
        build_config.compiler_version({"CXX": "false -m64", "PATH": str(tmp_path)})


def test_facts_are_read_from_the_module(tmp_path: Path) -> None:
    decision = decide(home(tmp_path), CUDA_13, [])
    source, module = tmp_path / "facts.cpp", tmp_path / "facts.o"
    source.write_text(build_config.facts(decision, CUDA_13, 'g++ "12.2"', ".so"))
    subprocess.run(["c++", "-c", source, "-o", module], check=True)
    assert facts_of(module) == {
        "mode": "cuda",
        "reason": decision.reason,
        "remedy": None,
        "torch": "2.11.0+cu130",
        "python": ".so",
        "compiler": 'g++ "12.2"',
        "cuda": "13.0",
        "nvcc": "13.0.88",
        "architectures": DEFAULT_ARCHS,
    }


def test_each_torch_python_compiler_and_mode_has_its_objects() -> None:
    env = {"PATH": os.environ["PATH"]}
    causes = [CUDA_13, "3.11", "g++ 12.2", "cpu"]
    others = [[*causes[:i], "another", *causes[i + 1 :]] for i in range(len(causes))]
    folders = [build_config.objects_folder(env, *other) for other in (causes, *others)]
    folders.append(build_config.objects_folder({**env, "CXXFLAGS": "-O1"}, *causes))
    assert len(set(folders)) == 6
    assert build_config.objects_folder(env, *causes) == folders[0]
