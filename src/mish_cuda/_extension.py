"""Loads the compiled module ``_C``, or remembers why it is not in use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."


def _built_against() -> str | None:
    """The torch version that ``_C`` was built against, as the build wrote it down beside it."""
    try:
        return str(importlib.import_module("mish_cuda._build").TORCH)
    except Exception:  # missing, or damaged in whatever way: no reason for an import to fail
        return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _unusable() -> str | None:
    """Why importing ``_C`` would crash or abort the process, if it would."""
    built = _built_against()
    # Between minor versions torch changes the layout of its C++ classes, and not always the names
    # by which a loader would notice.
    if built is not None and _minor(built) != _minor(torch.__version__):
        return "another minor version"
    if "mish_cuda::mish" in torch._C._dispatch_get_all_op_names():
        return "its ops are in this process already, from another library"
    return None


def _load() -> tuple[ModuleType | None, str]:
    """``_C`` or None, and in one sentence why."""
    if os.environ.get("MISH_CUDA_EAGER", "0") not in ("", "0"):
        return None, "MISH_CUDA_EAGER is set"
    if importlib.util.find_spec("mish_cuda._C") is None:
        return None, "this installation has no compiled extension"
    problem = _unusable()
    if problem is None:
        try:
            return importlib.import_module("mish_cuda._C"), "the compiled extension is loaded"
        except (ImportError, OSError) as error:
            problem = str(error)
    reason = (
        f"the compiled extension was built against torch {_built_against() or 'unknown'} and "
        f"cannot be loaded with torch {torch.__version__}: {problem}"
    )
    warnings.warn(
        f"mish_cuda runs in eager mode, correct but slow: {reason}. "
        f"Rebuild it from its source folder with: {_REBUILD}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None, reason


C, REASON = _load()
