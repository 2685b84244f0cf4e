"""A build for CUDA, as far as a machine without a GPU can judge it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mish_cuda
from project import copy_sources

# Runs setup.py as on a machine whose only nvcc is the one that pip installed.
BUILD_WITH_PIP_COMPILER = """
import runpy, sys
sys.path.insert(0, ".")
import build_config
build_config.SYSTEM_TOOLKITS = ()
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""


def built_for_cuda() -> bool:
    if importlib.util.find_spec("mish_cuda._build") is None:
        return False
    from mish_cuda import _build

    return _build.MODE == "cuda"


def pip_has_nvcc() -> bool:
    return any(Path(folder, "nvidia", "cu13", "bin", "nvcc").is_file() for folder in sys.path)


@pytest.mark.skipif(not built_for_cuda(), reason="mish_cuda was not built for CUDA")
def test_every_op_has_a_cuda_kernel() -> None:
    names = torch._C._dispatch_get_all_op_names()
    ops = [name for name in names if name.startswith(f"{mish_cuda.__name__}::")]
    without = [n for n in ops if not torch._C._dispatch_has_kernel_for_dispatch_key(n, "CUDA")]
    assert "mish_cuda::mish" in ops
    assert without == []


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not built for CUDA")
@pytest.mark.skipif(not pip_has_nvcc(), reason="pip has installed no nvcc")
def test_the_compiler_of_pip_builds_a_module_that_loads(tmp_path: Path) -> None:
    copy = copy_sources(tmp_path / "copy")
    env = {k: v for k, v in os.environ.items() if k not in {"CUDA_HOME", "CUDA_PATH"}}
    folders = env["PATH"].split(os.pathsep)
    env["PATH"] = os.pathsep.join(f for f in folders if shutil.which("nvcc", path=f) is None)
    env |= {"MISH_CUDA_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "9.0"}
    env["PYTHONPATH"] = str(copy / "src")

    def python(code: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "(from pip)" in python(BUILD_WITH_PIP_COMPILER)
    module = python("import mish_cuda._C; print(mish_cuda._C.__file__)")
    assert Path(module.strip()).is_relative_to(copy)
