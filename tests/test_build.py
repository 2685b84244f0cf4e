"""What the build decides on machines of every kind, played by scripts that answer as nvcc does."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import build_config
from build_config import BuildError, Decision, Torch, decide
from project import copy_sources

CPU_TORCH = Torch("2.13.0+cpu", None, None)
CUDA_TORCH = Torch("2.11.0+cu130", "13.0", None)
ALL_CODES = ("75", "80", "86", "87", "88", "89", "90", "100", "110", "103", "120", "121")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake compilers are shell scripts")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolkits of this machine do not count."""
    monkeypatch.setattr(build_config, "SYSTEM_TOOLKITS", ())


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def toolkit(root: Path, version: str = "13.0", codes: tuple[str, ...] = ALL_CODES) -> Path:
    """A toolkit whose nvcc answers the three questions that the build asks."""
    lines = "\\n".join(f"sm_{code}" for code in codes)
    script(
        root / "bin" / "nvcc",
        'case "$1" in\n'
        f'--version) echo "Cuda compilation tools, release {version}, V{version}.88";;\n'
        f'--dryrun) echo "#\\$ _HERE_={root}/bin"; echo "#\\$ TOP={root}/bin/..";;\n'
        f'--list-gpu-code) printf "{lines}\\n";;\n'
        "esac",
    )
    return root


def test_cpu_torch_builds_for_the_cpu() -> None:
    assert decide({}, CPU_TORCH, []) == Decision("cpu", "torch 2.13.0+cpu is a CPU build")


def test_cpu_is_built_when_asked_for(tmp_path: Path) -> None:
    env = {"MISH_CUDA_BUILD": "cpu", "CUDA_HOME": str(toolkit(tmp_path))}
    assert decide(env, CUDA_TORCH, []) == Decision("cpu", "MISH_CUDA_BUILD=cpu")


def test_rocm_torch_builds_for_the_cpu() -> None:
    decision = decide({}, Torch("2.11.0+rocm6.4", None, "6.4"), [])
    assert decision == Decision("cpu", "torch 2.11.0+rocm6.4 is a ROCm build (HIP 6.4)")


def test_cuda_torch_and_fitting_nvcc_build_for_cuda(tmp_path: Path) -> None:
    decision = decide({"CUDA_HOME": str(toolkit(tmp_path, "13.2"))}, CUDA_TORCH, [])
    assert decision.mode == "cuda"
    assert decision.toolkit is not None
    assert decision.toolkit.root == tmp_path.resolve()
    assert decision.toolkit.nvcc == "13.2.88"
    for told in ("2.11.0+cu130", "CUDA 13.0", "nvcc 13.2", str(tmp_path), "CUDA_HOME"):
        assert told in decision.reason


def test_cuda_torch_without_nvcc_builds_for_the_cpu(tmp_path: Path) -> None:
    decision = decide({"PATH": str(tmp_path)}, CUDA_TORCH, [tmp_path])
    assert decision.mode == "cpu"
    assert "CUDA 13.0" in decision.reason
    assert "no nvcc was found" in decision.reason


def test_nvcc_of_another_major_version_builds_for_the_cpu(tmp_path: Path) -> None:
    decision = decide({"CUDA_HOME": str(toolkit(tmp_path, "12.8"))}, CUDA_TORCH, [])
    assert decision.mode == "cpu"
    assert "CUDA 13.0" in decision.reason
    assert "nvcc 12.8" in decision.reason


@pytest.mark.parametrize("env", [{"MISH_CUDA_BUILD": "cuda"}, {"FORCE_CUDA": "1"}])
class TestCudaAskedFor:
    def test_builds_for_cuda(self, env: dict[str, str], tmp_path: Path) -> None:
        env = {**env, "CUDA_HOME": str(toolkit(tmp_path))}
        assert decide(env, CUDA_TORCH, []).mode == "cuda"

    def test_refuses_a_cpu_torch(self, env: dict[str, str]) -> None:
        with pytest.raises(BuildError, match=r"2\.13\.0\+cpu is a CPU build\. Install a torch"):
            decide(env, CPU_TORCH, [])

    def test_without_nvcc_says_how_to_get_one(self, env: dict[str, str]) -> None:
        with pytest.raises(BuildError, match=r"no nvcc was found.*pip install .*==13\.0\.\*"):
            decide(env, CUDA_TORCH, [])

    def test_names_both_versions_of_a_mismatch(self, env: dict[str, str], tmp_path: Path) -> None:
        env = {**env, "CUDA_HOME": str(toolkit(tmp_path, "12.8"))}
        with pytest.raises(BuildError, match=r"CUDA 13\.0, but nvcc 12\.8.*pip install"):
            decide(env, CUDA_TORCH, [])

    def test_before_cuda_13_pip_has_no_compiler_to_offer(self, env: dict[str, str]) -> None:
        with pytest.raises(BuildError, match=r"Install the CUDA 12\.8 toolkit and set CUDA_HOME"):
            decide(env, Torch("2.9.1+cu128", "12.8", None), [])


def test_the_exact_switch_is_stronger_than_force_cuda() -> None:
    assert build_config.requested_mode({"MISH_CUDA_BUILD": "cpu", "FORCE_CUDA": "1"}) == "cpu"


@pytest.mark.parametrize("env", [{}, {"MISH_CUDA_BUILD": ""}, {"FORCE_CUDA": "0"}])
def test_auto_is_the_default(env: dict[str, str]) -> None:
    assert build_config.requested_mode(env) == "auto"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(BuildError, match=r"one of auto, cuda, cpu, none, but is 'gpu'"):
        build_config.requested_mode({"MISH_CUDA_BUILD": "gpu"})


@pytest.mark.parametrize("version", ["2.8.0+cu128", "1.13.1"])
def test_an_old_torch_is_refused(version: str) -> None:
    with pytest.raises(BuildError, match=r"torch 2\.9 or later is needed"):
        decide({}, Torch(version, None, None), [])


@pytest.mark.parametrize("version", ["2.9.0", "2.14.0a0+git123", "3.0"])
def test_a_new_torch_is_taken(version: str) -> None:
    assert decide({}, Torch(version, None, None), []).mode == "cpu"


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = {name: toolkit(tmp_path / name) for name in ("home", "path", "cuda-13.0")}
    roots["pip"] = toolkit(tmp_path / "site-packages" / "nvidia" / "cu13")
    monkeypatch.setattr(build_config, "SYSTEM_TOOLKITS", (str(tmp_path / "cuda-*"),))
    env = {"CUDA_HOME": str(roots["home"]), "PATH": f"{tmp_path}:{roots['path']}/bin"}
    toolkits, rejected = build_config.find_toolkits(env, [tmp_path / "site-packages"])
    assert [t.root for t in toolkits] == [root.resolve() for root in roots.values()]
    assert [t.origin for t in toolkits] == ["CUDA_HOME", "PATH", "system", "pip"]
    assert rejected == []


def test_a_fitting_compiler_is_preferred_and_the_other_named(tmp_path: Path) -> None:
    old, new = toolkit(tmp_path / "old", "12.8"), toolkit(tmp_path / "new", "13.0")
    decision = decide({"CUDA_HOME": str(old), "PATH": f"{new}/bin"}, CUDA_TORCH, [])
    assert decision.toolkit is not None
    assert decision.toolkit.root == new.resolve()
    assert f"passed over nvcc 12.8 in {old}" in decision.reason


def test_a_wrapper_on_path_leads_to_its_toolkit(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "toolkit")
    wrapper = script(tmp_path / "bin" / "nvcc", f'exec {real}/bin/nvcc "$@"')
    found = build_config.probe(wrapper, "PATH")
    assert found.root == real.resolve()


def test_one_toolkit_found_twice_counts_once(tmp_path: Path) -> None:
    real = toolkit(tmp_path / "cuda-13.0")
    (tmp_path / "cuda").symlink_to(real)
    env = {"CUDA_HOME": str(tmp_path / "cuda"), "PATH": f"{real}/bin"}
    toolkits, _ = build_config.find_toolkits(env, [])
    assert [(t.root, t.origin) for t in toolkits] == [(real.resolve(), "CUDA_HOME")]


def test_a_variable_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    decision = decide({"CUDA_HOME": str(tmp_path)}, CUDA_TORCH, [])
    assert decision.mode == "cpu"
    assert f"CUDA_HOME is set, but there is no nvcc in {tmp_path}/bin" in decision.reason


def test_a_broken_compiler_is_named(tmp_path: Path) -> None:
    broken = script(tmp_path / "nvcc", "exit 1")
    decision = decide({"PATH": str(tmp_path)}, CUDA_TORCH, [])
    assert decision.mode == "cpu"
    assert f"{broken} (from PATH) does not tell its version" in decision.reason


@pytest.mark.parametrize(
    ("codes", "archs"),
    [
        (ALL_CODES, "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        (("50", "60", "70", "75", "80", "86", "89", "90", "90a"), "7.5;8.0;8.6;8.9;9.0+PTX"),
    ],
)
def test_default_architectures_are_those_that_nvcc_knows(
    codes: tuple[str, ...], archs: str, tmp_path: Path
) -> None:
    env = {"CUDA_HOME": str(toolkit(tmp_path, codes=codes))}
    assert decide(env, CUDA_TORCH, []).archs == archs


def test_the_architectures_of_the_user_are_kept(tmp_path: Path) -> None:
    env = {"CUDA_HOME": str(toolkit(tmp_path)), "TORCH_CUDA_ARCH_LIST": "9.0a 12.0"}
    assert decide(env, CUDA_TORCH, []).archs == "9.0a 12.0"


def test_an_nvcc_that_knows_no_default_asks_for_a_list(tmp_path: Path) -> None:
    env = {"CUDA_HOME": str(toolkit(tmp_path, codes=("130",)))}
    with pytest.raises(BuildError, match="Set TORCH_CUDA_ARCH_LIST"):
        decide(env, CUDA_TORCH, [])


@pytest.mark.parametrize("wanted", ["5.2;9.0", "9.0 3.5+PTX", "9.9a"])
def test_an_architecture_that_nvcc_does_not_know_is_named(tmp_path: Path, wanted: str) -> None:
    env = {"CUDA_HOME": str(toolkit(tmp_path)), "TORCH_CUDA_ARCH_LIST": wanted}
    with pytest.raises(BuildError, match=r"cannot compile for (5\.2|3\.5|9\.9); it can for 7\.5"):
        decide(env, CUDA_TORCH, [])


@pytest.mark.parametrize("wanted", ["Ampere;Hopper+PTX", "9.0a;10.0f+PTX", "12.1"])
def test_names_and_variants_of_architectures_are_for_torch(tmp_path: Path, wanted: str) -> None:
    env = {"CUDA_HOME": str(toolkit(tmp_path)), "TORCH_CUDA_ARCH_LIST": wanted}
    assert decide(env, CUDA_TORCH, []).archs == wanted


def test_missing_headers_of_python_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="apt install python3-dev"):
        build_config.check_python_headers(tmp_path)
    (tmp_path / "Python.h").touch()
    build_config.check_python_headers(tmp_path)


def test_the_compiler_is_the_one_in_cxx(tmp_path: Path) -> None:
    script(tmp_path / "my-g++", 'echo "my-g++ 15.1"; echo "Copyright"')
    env = {"CXX": "my-g++ -m64", "PATH": str(tmp_path)}
    assert build_config.compiler_version(env) == "my-g++ 15.1"


def test_without_a_compiler_both_ways_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"'c\+\+'.*install g\+\+.*MISH_CUDA_BUILD=none pip"):
        build_config.compiler_version({"PATH": str(tmp_path)})


def test_facts_are_simple_constants(tmp_path: Path) -> None:
    decision = decide({"CUDA_HOME": str(toolkit(tmp_path))}, CUDA_TORCH, [])
    text = build_config.facts(decision, CUDA_TORCH, "g++ 12.2")
    values = {
        node.target.id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign)
    }
    assert values == {
        "MODE": "cuda",
        "REASON": decision.reason,
        "TORCH": "2.11.0+cu130",
        "CUDA": "13.0",
        "NVCC": "13.0.88",
        "ARCHS": "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX",
        "CXX": "g++ 12.2",
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, free of anything built."""
    return copy_sources(tmp_path / "copy")


def run_setup(
    copy: Path, *arguments: str, torch: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py where `import torch` finds a module of the given text."""
    modules = copy.parent / "modules"
    modules.mkdir()
    (modules / "torch.py").write_text(torch)
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(modules), **env},
        capture_output=True,
        text=True,
        check=False,
    )


NO_TORCH = "raise ImportError('No module named torch')"
SOME_TORCH = "__version__ = '2.13.0'\nclass version: cuda = hip = None"


def test_mode_none_needs_no_torch_and_removes_what_was_built(copy: Path) -> None:
    package = copy / "src" / "mish_cuda"
    left = [package / "_C.cpython-311-x86_64-linux-gnu.so", package / "_build.py"]
    for path in left:
        path.touch()
    done = run_setup(copy, "build", torch=NO_TORCH, MISH_CUDA_BUILD="none")
    assert done.returncode == 0, done.stderr
    assert "mish_cuda: building without compiled kernels (MISH_CUDA_BUILD=none)" in done.stdout
    assert not any(path.exists() for path in left)
    packed = {path.name for path in (copy / "build" / "lib" / "mish_cuda").iterdir()}
    assert {"__init__.py", "py.typed"} <= packed
    assert not {path.name for path in left} & packed


@pytest.mark.parametrize(
    ("torch", "env", "told"),
    [
        (NO_TORCH, {}, "pip install --no-build-isolation ."),
        (SOME_TORCH, {"MISH_CUDA_BUILD": "gpu"}, "one of auto, cuda, cpu, none, but is 'gpu'"),
        (SOME_TORCH, {"CXX": "no-such-compiler"}, "MISH_CUDA_BUILD=none pip install"),
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


def test_the_source_archive_is_complete_and_needs_no_torch(copy: Path) -> None:
    (copy / "src" / "mish_cuda" / "_build.py").touch()
    done = run_setup(copy, "--quiet", "sdist", torch=NO_TORCH)
    assert done.returncode == 0, done.stderr
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    folders = ("csrc", "src", "benchmarks", "tests", "examples", "tools")
    sources = {
        str(path.relative_to(copy))
        for folder in folders
        for path in (copy / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi", ".typed", ".cpp", ".cu", ".cuh", ".h"}
    }
    built = "src/mish_cuda/_build.py"
    assert built not in packed
    expected = sources - {built} | {"Makefile", "CMakeLists.txt", "build_config.py"}
    assert expected <= packed
