"""Builds mish_cuda. The metadata is in pyproject.toml, the decisions are in build_config.py."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from glob import glob
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import setuptools

# Older ones do not know [project] in pyproject.toml, and would install nothing as UNKNOWN-0.0.0.
if int(setuptools.__version__.partition(".")[0]) < 64:
    sys.exit(
        f"mish_cuda: setuptools 64 or later is needed, but {setuptools.__version__} is installed. "
        "Run: pip install --upgrade setuptools, then install mish_cuda again."
    )

from setuptools import Distribution, setup
from setuptools.errors import ModuleError

# Build front ends do not put the project's folder on the path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import build_config
from build_config import BuildError, Decision, Torch
from csrc.cuda import nvrtc
from csrc.cuda.nvcc import Toolkit
from csrc.cuda.nvrtc import Nvrtc

PACKAGE = Path("mish_cuda")
# By this file a module that is not wanted differs from a lost one.
WITHOUT = PACKAGE / "_without_kernels.py"

EMBEDDED = "embedded_kernels.h"  # what NVRTC compiles, for csrc/cuda/embedded.cpp

# setup.py also runs for metadata and source archives, which need neither torch nor a compiler.
COMPILES = {"bdist_wheel", "build", "build_ext", "editable_wheel"}
INSTALLS = COMPILES | {"dist_info"}  # with which pip begins, before it fetches anything
WRITES = INSTALLS | {"egg_info", "sdist"}
NEEDS_WHEEL = {"bdist_wheel", "dist_info", "editable_wheel"}

# These would fetch torch as an egg, or in an environment of their own. What pip takes instead:
REPLACED = {"develop": "-e .", "install": "."}


def main() -> None:
    # The paths below begin there; who calls setup.py may be elsewhere.
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    for command in set(REPLACED).intersection(sys.argv):
        instead = f"pip install --no-build-isolation {REPLACED[command]}"
        raise BuildError(f"python setup.py {command} is not supported. Run: {instead}")
    if WRITES.intersection(sys.argv):
        written = [f"{PACKAGE}/", "*.egg-info/", "build/", "build/[lo]*/**/"]
        build_config.check_writable([".", *(f for w in written for f in glob(w, recursive=True))])
    if INSTALLS.intersection(sys.argv):
        # An isolated build does not have the folder that it installs into on its path.
        folders = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        for torch in list(metadata.distributions(name="torch", path=folders))[:1]:
            build_config.check_torch(torch.version)
    if NEEDS_WHEEL.intersection(sys.argv):
        check_wheel()
    options: dict[str, Any] = {}
    if build_config.requested_mode(os.environ) == "none":
        if COMPILES.intersection(sys.argv):
            print("mish_cuda: building without compiled kernels (MISH_CUDA_BUILD=none)")
            remove_compiled()
            WITHOUT.write_text('"""Written by a build with MISH_CUDA_BUILD=none."""\n')
    elif COMPILES.intersection(sys.argv):
        options = compiled()
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
    """What an earlier build for this Python left in this folder would be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        (PACKAGE / f"_C{suffix}").unlink(missing_ok=True)


def compiled() -> dict[str, Any]:
    """Arguments of setup() for a build with kernels."""
    WITHOUT.unlink(missing_ok=True)
    build_config.check_environment(os.environ)
    torch = find_torch()
    decision = build_config.decide(os.environ, torch, [Path(folder) for folder in sys.path])
    cxx = build_config.compiler_version(os.environ)
    build_config.check_python_headers(Path(sysconfig.get_path("include")))
    print(f"mish_cuda: building for {decision.mode}: {decision.reason}", flush=True)
    if isinstance(decision.toolkit, Toolkit):
        # torch reads it when cpp_extension is imported; left to itself it takes the first nvcc on
        # PATH.
        os.environ["CUDA_HOME"] = str(decision.toolkit.root)
    from torch.utils import cpp_extension

    python = [sys.version, sysconfig.get_path("include")]
    objects = build_config.objects_folder(os.environ, torch, python, cxx, decision)
    facts = objects / "facts.cpp"

    # Without ninja files are compiled one after the other; asking here keeps that quiet.
    command = cpp_extension.BuildExtension.with_options(
        use_ninja=cpp_extension.is_ninja_available()
    )

    class BuildWithFacts(command):  # type: ignore[misc, valid-type]
        def finalize_options(self) -> None:
            super().finalize_options()
            # An editable install would use a new temporary folder, and compile everything anew.
            self.build_temp = str(objects)
            # Without it setuptools keeps a module that is newer than its sources, whatever torch it
            # was built for. What need not be compiled is for ninja to find out.
            self.force = True

        def run(self) -> None:
            facts.parent.mkdir(parents=True, exist_ok=True)
            facts.write_text(build_config.facts(decision, torch, cxx, EXTENSION_SUFFIXES[0]))
            if isinstance(decision.toolkit, Nvrtc):
                targets = build_config.targets(str(decision.archs))
                nvrtc.embed(decision.toolkit, targets, objects / EMBEDDED)
            super().run()

    options = sources_and_flags(decision)
    options["sources"].append(str(facts))
    options["include_dirs"].append(os.path.abspath(objects))
    module = cpp_extension.CppExtension("mish_cuda._C", **options)
    if os.name != "nt":
        # torch takes CXX for the name of a program, and CC from its second word on for flags.
        os.environ["CXX"] = build_config.compiler(os.environ)[0]
        if "CC" in os.environ:
            os.environ["CC"] = shlex.join(build_config.without_launcher(os.environ["CC"]))
    return {"ext_modules": [module], "cmdclass": {"build_ext": BuildWithFacts}}


def find_torch() -> Torch:
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            "building needs the torch that mish_cuda will run with, but it cannot be imported here "
            f"({error}). Install torch, then: pip install --no-build-isolation . "
            "(with uv: uv pip install --no-build-isolation .)"
        ) from error
    if not hasattr(torch, "version"):
        raise BuildError(
            "building needs the torch that mish_cuda will run with, but what is imported here as "
            f"torch is {torch.__spec__.origin or ' '.join(torch.__path__)}. Rename that, or start "
            "pip elsewhere, with the path of this folder in place of the dot."
        )
    # A torch without xpu is too old, which is for decide() to say.
    xpu = getattr(torch.version, "xpu", None)
    version, path = torch.version, torch.__file__
    return Torch(torch.__version__, version.cuda, version.hip, xpu, version.git_version, path)


def sources_and_flags(decision: Decision) -> dict[str, Any]:
    windows = os.name == "nt"
    # -g0 takes back the -g in Python's own flags, which makes the module 30 times larger.
    own = [*build_config.CXX_FLAGS, "-fvisibility=hidden", "-g0"]
    cxx = [] if windows else [*build_config.compiler(os.environ)[1:], *own]
    options: dict[str, Any] = {
        "sources": sorted(glob("csrc/torch/*.cpp") + glob("csrc/cpu/*.cpp")),
        "depends": glob("csrc/**/*.h", recursive=True),
        "include_dirs": [os.path.abspath("csrc")],
        "extra_compile_args": {"cxx": ["/O2", "/fp:precise"] if windows else cxx},
        "extra_link_args": cxx,
    }
    toolkit = decision.toolkit
    if toolkit:
        # By its full name: the CUDA packages of pip have no plain libcudart.so.
        cudart = "cudart" if windows else f":libcudart.so.{toolkit.major}"
        if isinstance(toolkit, Nvrtc):
            options["sources"].append("csrc/cuda/embedded.cpp")
        else:
            options["sources"] += glob("csrc/cuda/*.cu")
            nvcc = build_config.nvcc_flags(os.environ, str(decision.archs))
            options["extra_compile_args"]["nvcc"] = nvcc
        options["include_dirs"] += toolkit.include_dirs
        options["define_macros"] = [("MISH_WITH_CUDA", None)]
        options["library_dirs"] = toolkit.library_dirs
        options["libraries"] = ["c10_cuda", "torch_cuda", cudart]
    return options


try:
    main()
except BuildError as error:
    sys.exit(f"mish_cuda: {error}")
