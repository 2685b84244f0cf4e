"""Builds mish_cuda. The metadata is in pyproject.toml, the decisions are in build_config.py."""

from __future__ import annotations

import os
import sys
import sysconfig
from glob import glob
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.errors import ModuleError

# Build front ends do not put the project's folder on the path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import build_config
from build_config import NVCC_FLAGS, BuildError, Decision, Torch

PACKAGE = Path("src/mish_cuda")

# setup.py also runs for metadata and source archives, which need neither torch nor a compiler.
COMPILES = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}
NEEDS_WHEEL = {"bdist_wheel", "dist_info", "editable_wheel"}


def main() -> None:
    # The paths below begin there; who calls setup.py may be elsewhere.
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    if NEEDS_WHEEL.intersection(sys.argv):
        check_wheel()
    options: dict[str, Any] = {}
    if build_config.requested_mode(os.environ) == "none":
        if COMPILES.intersection(sys.argv):
            print("mish_cuda: building without compiled kernels (MISH_CUDA_BUILD=none)")
            remove_compiled()
    elif COMPILES.intersection(sys.argv):
        options = compiled()
    # In pyproject.toml the licence takes one form before setuptools 77 and another after.
    setup(license="MIT", **options)


def check_wheel() -> None:
    try:
        Distribution().get_command_class("bdist_wheel")
    except ModuleError as error:
        raise BuildError(
            "this setuptools needs the package wheel, which is not installed. "
            "Run: pip install wheel, then install mish_cuda again."
        ) from error


def remove_compiled() -> None:
    """What an earlier build left in this folder would be loaded, or packed, instead of nothing."""
    for leftover in [*PACKAGE.glob("_C.*[do]"), PACKAGE / "_build.py"]:
        leftover.unlink(missing_ok=True)


def compiled() -> dict[str, Any]:
    """Arguments of setup() for a build with kernels."""
    torch = find_torch()
    decision = build_config.decide(os.environ, torch, [Path(folder) for folder in sys.path])
    cxx = build_config.compiler_version(os.environ)
    build_config.check_python_headers(Path(sysconfig.get_path("include")))
    print(f"mish_cuda: building for {decision.mode}: {decision.reason}", flush=True)
    if decision.toolkit:
        # torch reads both when cpp_extension is imported or used; left to itself it takes the
        # first nvcc on PATH, and fails where there is no GPU to ask for its architecture.
        os.environ["CUDA_HOME"] = str(decision.toolkit.root)
        os.environ["TORCH_CUDA_ARCH_LIST"] = str(decision.archs)
    from torch.utils import cpp_extension

    # Without ninja files are compiled one after the other; asking here keeps that quiet.
    command = cpp_extension.BuildExtension.with_options(
        use_ninja=cpp_extension.is_ninja_available()
    )

    class BuildWithFacts(command):  # type: ignore[misc, valid-type]
        def finalize_options(self) -> None:
            super().finalize_options()
            # An editable install would use a new temporary folder, and compile everything anew.
            self.build_temp = os.path.join("build", "objects")
            # Without it setuptools keeps a module that is newer than its sources, whatever torch it
            # was built for. What need not be compiled is for ninja to find out.
            self.force = True

        def run(self) -> None:
            super().run()
            folder = Path(self.get_ext_fullpath("mish_cuda._C")).parent
            text = build_config.facts(decision, torch, cxx)
            (folder / "_build.py").write_text(text, encoding="utf-8")

    module = cpp_extension.CppExtension("mish_cuda._C", **sources_and_flags(decision))
    return {"ext_modules": [module], "cmdclass": {"build_ext": BuildWithFacts}}


def find_torch() -> Torch:
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            "building needs the torch that mish_cuda will run with, but it cannot be imported here "
            f"({error}). Install torch, then: pip install --no-build-isolation ."
        ) from error
    return Torch(torch.__version__, torch.version.cuda, torch.version.hip)


def sources_and_flags(decision: Decision) -> dict[str, Any]:
    windows = os.name == "nt"
    # The -fno-* flags let loops vectorise and, unlike -ffast-math, keep NaN and inf alive. The
    # compiler must not fuse by itself: an element's bits would depend on its place. -g0 takes back
    # the -g in Python's own flags, which makes the module 30 times larger.
    cxx = "-O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -fvisibility=hidden -g0"
    options: dict[str, Any] = {
        "sources": sorted(glob("csrc/torch/*.cpp") + glob("csrc/cpu/*.cpp")),
        "depends": glob("csrc/**/*.h", recursive=True),
        "include_dirs": [os.path.abspath("csrc")],
        "extra_compile_args": {"cxx": ["/O2", "/fp:precise"] if windows else cxx.split()},
    }
    toolkit = decision.toolkit
    if toolkit:
        # By its full name: the CUDA packages of pip have no plain libcudart.so.
        cudart = "cudart" if windows else f":libcudart.so.{toolkit.major}"
        options["sources"] += glob("csrc/cuda/*.cu")
        options["include_dirs"] += toolkit.include_dirs
        threads = os.environ.get("MAX_JOBS") or "0"  # 0: as many as there are processors
        options["extra_compile_args"]["nvcc"] = [*NVCC_FLAGS, "--threads", threads]
        options["define_macros"] = [("MISH_WITH_CUDA", None)]
        options["library_dirs"] = toolkit.library_dirs
        options["libraries"] = ["c10_cuda", "torch_cuda", cudart]
    return options


try:
    main()
except BuildError as error:
    sys.exit(f"mish_cuda: {error}")
