"""Builds for CUDA, as far as a machine without a GPU can judge them."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest
import torch

from csrc.cuda import nvrtc
from csrc.cuda.nvrtc import KERNELS, Nvrtc
from mish_cuda._extension import FACTS, C
from project import copy_sources, run_python


def installed_nvrtc() -> Nvrtc | str:
    """That of the installed torch, or why there is none."""
    if torch.version.cuda is None:
        return "this torch is not built for CUDA"
    return nvrtc.find(torch.version.cuda.partition(".")[0], [Path(folder) for folder in sys.path])


NVRTC = installed_nvrtc()
needs_nvrtc = pytest.mark.skipif(isinstance(NVRTC, str), reason=str(NVRTC))
NO_CUDA = "mish_cuda was not built for CUDA"


@pytest.mark.skipif(C is None or FACTS["mode"] != "cuda", reason=NO_CUDA)
def test_every_op_has_a_cuda_kernel() -> None:
    ops = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("mish_cuda::")]
    has = torch._C._dispatch_has_computed_kernel_for_dispatch_key  # composite ones too
    without = [n for n in ops if not has(n, "CUDA")]
    assert "mish_cuda::mish" in ops
    assert without == []


def functions(cubin: bytes) -> set[str]:
    """The functions that an ELF file holds: the names behind .text. in its table of sections."""
    return {name.decode() for name in re.findall(rb"\0\.text\.(\w+)(?=\0)", cubin)}


@needs_nvrtc
def test_machine_code_has_every_kernel() -> None:
    assert isinstance(NVRTC, Nvrtc)
    names, cubin = nvrtc.compile_kernels(NVRTC, "sm_80")
    assert list(names) == list(KERNELS)
    assert len(KERNELS) == 60 + 40
    assert cubin.startswith(b"\x7fELF")
    assert struct.unpack_from("<H", cubin, 18) == (190,)  # the machine: CUDA
    assert functions(cubin) == set(names.values())
    assert len(set(names.values())) == len(KERNELS)


@needs_nvrtc
def test_the_header_has_an_image_for_each_target(tmp_path: Path) -> None:
    assert isinstance(NVRTC, Nvrtc)
    nvrtc.embed(NVRTC, ["sm_80", "compute_80", "sm_75", "sm_80"], tmp_path / "new" / "header.h")
    header = (tmp_path / "new" / "header.h").read_text()
    assert "kImages[] = {{80, true, compute_80}, {75, false, sm_75}, {80, false, sm_80}};" in header
    images = {
        name: bytes(int(octal, 8) for octal in re.findall(r"\\(\d{3})", text))
        for name, text in re.findall(r"char (\w+)\[\] =\n(.*?);", header, re.DOTALL)
    }
    names = dict(re.findall(r"struct (.*>) \{\n.* = \"(\w+)\"", header))
    assert list(names) == list(KERNELS)
    for target in ("sm_75", "sm_80"):
        assert functions(images[target]) == set(names.values())
        assert images[target] == nvrtc.compile_kernels(NVRTC, target)[1]
    ptx = images["compute_80"].decode()
    assert ".target sm_80" in ptx
    assert set(re.findall(r"\.entry (\w+)\(", ptx)) == set(names.values())


@needs_nvrtc
def test_what_is_wrong_with_a_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(NVRTC, Nvrtc)
    monkeypatch.setitem(nvrtc.HEADERS, "cstdint", "using int64_t = nonsense;")
    with pytest.raises(RuntimeError, match='"nonsense" is undefined'):
        nvrtc.compile_kernels(NVRTC, "sm_80")


# Runs setup.py as on a machine whose only compiler of kernels is one that pip installed.
BUILD = """
import runpy, sys
sys.path.insert(0, ".")
from csrc.cuda import nvcc
real, nvcc.SYSTEM_TOOLKITS = nvcc.find, ()
nvcc.find = {find}
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""
FIND = {
    "nvcc": "lambda env, folders: real({}, folders)",
    "NVRTC": "lambda env, folders: ([], [])",
}


def pip_has_nvcc() -> bool:
    return any(Path(folder, "nvidia", "cu13", "bin", "nvcc").is_file() for folder in sys.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(
            "nvcc", marks=pytest.mark.skipif(not pip_has_nvcc(), reason="pip has installed no nvcc")
        ),
        pytest.param("NVRTC", marks=needs_nvrtc),
    ],
)
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not built for CUDA")
def test_a_compiler_of_pip_builds_a_module_that_loads(compiler: str, tmp_path: Path) -> None:
    copy = copy_sources(tmp_path / "copy")
    env = {"MISH_CUDA_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "Ampere;9.0a"}

    def python(code: str) -> str:
        done = run_python("-c", code, cwd=copy, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    built = python(BUILD.format(find=FIND[compiler]))
    assert ("(from pip)" if compiler == "nvcc" else "no nvcc was found, so NVRTC") in built
    told = python(
        "import torch, mish_cuda._extension, mish_cuda._C\n"
        "print(mish_cuda._extension.FACTS['reason'], mish_cuda._C.__file__)\n"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('mish_cuda::mish', 'CUDA'))"
    )
    assert compiler in told
    assert str(copy) in told
    assert told.endswith("True\n")
    if compiler == "NVRTC":
        (embedded,) = copy.glob("build/objects-*/embedded_kernels.h")
        (images,) = re.findall(r"kImages\[\] = (.*);", embedded.read_text())
        assert re.findall(r"\w+_\d+", images) == ["compute_86", "sm_80", "sm_86", "sm_90"]
