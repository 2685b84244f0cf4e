"""Builds with compiler flags that would change the arithmetic of the kernels and of the process."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch

import mish_cuda
from conftest import needs_extension
from mish_cuda.selfcheck import inputs
from project import ROOT, copy_sources, run_python

FAST = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only -fno-signed-zeros"
INEXACT = {
    "CXX": f"{os.environ.get('CXX') or 'c++'} -ffast-math",
    "CFLAGS": f"{FAST} -march=native",
    "CXXFLAGS": f"{FAST} -march=native",
    "CPPFLAGS": "-ffinite-math-only",
    "LDFLAGS": FAST,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="the flags are those of GCC and Clang"),
]


def results() -> list[bytes]:
    """The bits of all ops."""
    ops = torch.ops.mish_cuda
    bits = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = inputs(dtype)
        one = torch.ones_like(x)
        for y in (ops.mish(x), ops.mish_backward(one, x), ops.mish_double_backward(one, one, x)):
            bits.append(y.view(torch.uint8).numpy().tobytes())
    return bits


IN_A_FRESH_PROCESS = """
import pickle, sys
smallest = float(sys.argv[2])
import mish_cuda
assert mish_cuda.__file__.startswith(sys.argv[3]), mish_cuda.__file__
assert smallest * 1.0 == smallest > 0, "subnormal numbers are flushed to zero"
from test_build_flags import results
pickle.dump(results(), open(sys.argv[1], "wb"))
"""


@needs_extension
def test_flags_of_the_environment_change_neither_kernels_nor_process(tmp_path: Path) -> None:
    copy = copy_sources(tmp_path / "a copy")
    env = {**INEXACT, "MISH_CUDA_BUILD": "cpu"}
    built = run_python("setup.py", "--quiet", "build_ext", "--inplace", cwd=copy, env=env)
    assert built.returncode == 0, built.stderr
    folders = os.pathsep.join([str(copy), str(Path(__file__).parent), str(ROOT / "tests")])
    arguments = [str(tmp_path / "bits"), "5e-324", str(copy)]
    env = {"PYTHONPATH": folders}
    done = run_python("-c", IN_A_FRESH_PROCESS, *arguments, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert pickle.loads((tmp_path / "bits").read_bytes()) == results()
    assert mish_cuda.backend(torch.ones(1)) == "cpu"


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")
def test_flags_of_cmake_change_no_kernel_of_any_instruction_set(tmp_path: Path) -> None:
    kernels = []
    for name, flags in {"plain": "", "inexact": INEXACT["CXXFLAGS"]}.items():
        build = str(tmp_path / name)
        options = ["-DMISH_TORCH=OFF", f"-DCMAKE_CXX_FLAGS={flags}"]
        subprocess.run(["cmake", "-S", ROOT, "-B", build, *options], check=True)
        subprocess.run(["cmake", "--build", build, "--target", "accuracy_kernels"], check=True)
        kernels.append(ctypes.CDLL(f"{build}/accuracy_kernels.so"))
    assert float("5e-324") * 1.0 > 0
    plain, inexact = ([*everything(library)] for library in kernels)
    assert len(plain) >= 12
    assert inexact == plain


def everything(library: ctypes.CDLL) -> list[bytes]:
    """The bits of each op, of each dtype, by each instruction set of this processor."""
    library.isa_name.restype = ctypes.c_char_p
    bits = []
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for isa, op, dtype in product(range(3), range(3), range(4)):
        if library.isa_name(isa) is None:
            continue
        x = inputs(dtypes[dtype])
        operands = [torch.empty_like(x), *[torch.ones_like(x)] * op, x]
        data = (ctypes.c_void_p * 4)(*(operand.data_ptr() for operand in operands))
        strides = (ctypes.c_int64 * 8)(*[x.itemsize] * len(operands))
        library.run(op, dtype, isa, data, strides, ctypes.c_int64(x.numel()), ctypes.c_int64(1))
        bits.append(operands[0].view(torch.uint8).numpy().tobytes())
    return bits
