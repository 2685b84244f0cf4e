"""Loads the compiled module ``_C``, or remembers why it is not in use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps mish_cuda"


def _built_against() -> str:
    """The torch version that ``_C`` was built against, as the build wrote it down beside it."""
    try:
        build = importlib.import_module("mish_cuda._build")
    except ImportError:
        return "an unknown version of torch"
    return f"torch {build.TORCH}"


def _load() -> tuple[ModuleType | None, str]:
    """``_C`` or None, and in one sentence why."""
    if os.environ.get("MISH_CUDA_EAGER", "0") not in ("", "0"):
        return None, "MISH_CUDA_EAGER is set"
    if importlib.util.find_spec("mish_cuda._C") is None:
        return None, "this installation has no compiled extension"
    try:
        return importlib.import_module("mish_cuda._C"), "the compiled extension is loaded"
    except (ImportError, OSError) as error:
        reason = (
            f"the compiled extension was built against {_built_against()} and cannot be loaded "
            f"with torch {torch.__version__}: {error}"
        )
        warnings.warn(
            f"mish_cuda runs in eager mode, correct but slow: {reason}. "
            f"Rebuild it from its source folder with: {REBUILD.replace('mish_cuda', '.')}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None, reason


C, REASON = _load()
