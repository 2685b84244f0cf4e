"""Machines to build on: compilers and packages of pip, played by scripts that answer as they do."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
