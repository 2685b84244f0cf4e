"""Builds the CUDA kernels without nvcc: by NVRTC, the compiler that torch brings for itself.

nvcc compiles the kernels together with their launches. NVRTC compiles kernels.cuh and
norm_kernels.cuh alone. What it makes goes into a header of embedded.cpp, which the C++ compiler
takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

# The first whose runtime has cudaLibraryLoadData.
OLDEST = (12, 8)

# The kernels that launch.h and norm_launch.h ask for, by the template in which embedded.cpp looks
# for their names.
OPS = ("kForward", "kBackward", "kDoubleBackward")
SIZES = {"float": 4, "double": 8, "__half": 2, "__nv_bfloat16": 2}
KERNELS = {
    f"Name<Op::{op}, {t}, Kind::{kind}, {n}>": f"strided<mish::Op::{op}, {t}, {n}>"
    if kind == "kStrided"
    else f"dense<mish::Op::{op}, {t}, mish::cuda::Kind::{kind}, {n}>"
    for op, t, kind in product(OPS, SIZES, ("kLarge", "kSmall", "kStrided"))
    for n in ([16 // SIZES[t]] if kind == "kLarge" else [16 // SIZES[t], 1])
}
for t in SIZES:
    for n in (16 // SIZES[t], 1):
        for kernel in ("Moments", "Apply", "Reduce", "Finish"):
            KERNELS[f"NormName<NormKernel::k{kernel}, {t}, {n}>"] = f"{kernel.lower()}<{t}, {n}>"
    for kernel in ("Statistics", "Gradients"):
        KERNELS[f"NormName<NormKernel::k{kernel}, {t}, 1>"] = f"{kernel.lower()}<{t}>"

# NVRTC has no headers of the standard library; memcpy it knows.
HEADERS = {
    "cstdint": "using int64_t = long; using uint32_t = unsigned; using uint64_t = unsigned long;",
    "cstring": "",
}


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC, and the parts of CUDA that a build needs with it."""

    path: Path
    version: str  # major.minor, such as "12.8"
    archs: tuple[str, ...]  # what it can compile for, such as ("7.5", "8.0")
    include_dirs: list[str]
    library_dirs: list[str]

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    def __str__(self) -> str:
        return f"NVRTC {self.version} in {self.path.parent} (from pip)"


def find(major: str, package_dirs: Sequence[Path]) -> Nvrtc | str:
    """The NVRTC of a CUDA version among the packages of pip, or why there is none to use."""

    def first(*patterns: str) -> Path | None:
        found = (path for p in patterns for folder in package_dirs for path in folder.glob(p))
        return next(found, None)

    path = first(f"nvidia/*/lib/libnvrtc.so.{major}")
    runtime = first(f"nvidia/*/lib/libcudart.so.{major}")
    # CUDA's headers include these. Its package for the runtime lacks them, Triton has them.
    crt = first("triton/backends/nvidia/include/crt", "nvidia/*/include/crt")
    if path is None or runtime is None or crt is None:
        return f"NVRTC {major}, the CUDA runtime or its headers are not among the packages of pip"
    try:
        library = _load(path)
    except OSError as error:
        return f"NVRTC cannot be loaded ({error})"
    version = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(*map(ctypes.byref, version))
    name = ".".join(str(number.value) for number in version)
    if tuple(number.value for number in version) < OLDEST:
        return f"NVRTC {name} in {path.parent} is older than {'.'.join(map(str, OLDEST))}"
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(archs)
    return Nvrtc(
        path,
        name,
        tuple(f"{arch // 10}.{arch % 10}" for arch in archs),
        include_dirs=[str(runtime.parent.parent / "include"), str(crt.parent)],
        library_dirs=[str(runtime.parent)],
    )


def embed(nvrtc: Nvrtc, targets: Iterable[str], header: Path) -> None:
    """Compiles for targets, such as "sm_90" and "compute_90" (PTX), into embedded.cpp's header."""
    # PTX first: of two images that fit, embedded.cpp takes the later.
    order = sorted(set(targets), key=lambda t: (t.startswith("sm_"), int(t.split("_")[1])))
    lines = [f"// Written by csrc/cuda/nvrtc.py: the kernels as NVRTC {nvrtc.version} made them."]
    images = []
    for target in order:
        names, code = compile_kernels(nvrtc, target)
        ptx, capability = target.startswith("compute_"), target.split("_")[1]
        images.append(f"{{{capability}, {str(ptx).lower()}, {target}}}")
        lines.append(f"alignas(16) constexpr char {target}[] =")
        for start in range(0, len(code), 64):
            octal = "".join(f"\\{byte:03o}" for byte in code[start : start + 64])
            lines.append(f'    "{octal}"')
        lines.append("    ;")
    lines.append(f"constexpr Image kImages[] = {{{', '.join(images)}}};")
    for template, name in names.items():
        lines.append(f"template <> struct {template} {{")
        lines.append(f'  static constexpr char value[] = "{name}";\n}};')
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text("\n".join([*lines, ""]), encoding="ascii")


def compile_kernels(nvrtc: Nvrtc, target: str) -> tuple[dict[str, str], bytes]:
    """The name of each of KERNELS in the compiled code, and that code."""
    library = _load(nvrtc.path)
    program = ctypes.c_void_p()

    def call(function: str, *arguments: object) -> None:
        if error := getattr(library, function)(*arguments):
            log = output("ProgramLog").decode() if function == "nvrtcCompileProgram" else ""
            raise RuntimeError(f"{function} returned {error}\n{log}")

    def output(what: str) -> bytes:
        size = ctypes.c_size_t()
        call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    source = b'#include "cuda/norm_kernels.cuh"'  # which includes kernels.cuh
    headers = len(HEADERS), _strings(HEADERS.values()), _strings(HEADERS)
    call("nvrtcCreateProgram", ctypes.byref(program), source, b"mish_kernels.cu", *headers)
    expressions = {key: f"mish::cuda::{kernel}".encode() for key, kernel in KERNELS.items()}
    for expression in expressions.values():
        call("nvrtcAddNameExpression", program, expression)
    folders = [str(Path(__file__).parent.parent), *nvrtc.include_dirs]
    # -default-device lets it pass over functions for the host. For -fmad see build_config.py.
    options = [f"-arch={target}", "-fmad=false", "-default-device", *(f"-I{d}" for d in folders)]
    call("nvrtcCompileProgram", program, len(options), _strings(options))
    names = {}
    for key, expression in expressions.items():
        name = ctypes.c_char_p()
        call("nvrtcGetLoweredName", program, expression, ctypes.byref(name))
        names[key] = (name.value or b"").decode()
    code = output("CUBIN" if target.startswith("sm_") else "PTX")
    call("nvrtcDestroyProgram", ctypes.byref(program))
    return names, code


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _load(path: Path) -> ctypes.CDLL:
    # Its other half, which not every version finds for itself.
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))
