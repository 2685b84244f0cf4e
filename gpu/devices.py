"""The GPUs of this machine: ``python -m gpu.devices`` prints what to build for."""

from __future__ import annotations

import sys
from importlib.util import find_spec

BUILD_TOOLS = ("torch", "setuptools")  # of others setup.py says whether it needs them


def require() -> None:
    """Ends the program with status 2 where torch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        _end(
            f"expected a GPU, but torch {torch.__version__} sees none. "
            "On a machine without one use make test, make test-cuda-build and make sass."
        )


def require_build_tools() -> None:
    """Ends the program with status 2 where pip would look for something in the network."""
    if missing := [name for name in BUILD_TOOLS if find_spec(name) is None]:
        _end(
            f"the build needs {', '.join(missing)}, which {sys.executable} does not have. "
            "make gpu fetches nothing: install that first, or give another interpreter as PYTHON=."
        )


def architectures() -> str:
    """TORCH_CUDA_ARCH_LIST for these GPUs alone, which compiles in a fraction of the time."""
    import torch

    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))


def _end(message: str) -> None:
    print(f"python -m gpu: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    require_build_tools()
    require()
    print(architectures())
