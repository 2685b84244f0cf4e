"""``python -m mish_cuda``: how this installation was built, and what runs."""

from __future__ import annotations

import importlib

import torch

from . import __version__, backend
from ._extension import REASON, C


def main() -> None:
    print(f"mish_cuda {__version__} with torch {torch.__version__}: {REASON}")
    try:
        build = importlib.import_module("mish_cuda._build")
    except ImportError:
        print("build: pure Python")
    else:
        print(f"build: {build.MODE}, because {build.REASON}")
        print(f"       with torch {build.TORCH}, CUDA {build.CUDA} for {build.ARCHS}, {build.CXX}")
    if C is not None:
        print(f"instruction set of the CPU kernels: {C.cpu_isa()}")
    for device in ("cpu", "cuda"):
        if device == "cpu" or torch.cuda.is_available():
            print(f"{device} tensors: {backend(torch.empty(0, device=device))}")


if __name__ == "__main__":
    main()
