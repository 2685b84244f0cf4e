"""Loads the compiled module ``_C``, or states why it is not in use."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

FOLDER = Path(__file__).parent

# Without --no-cache-dir pip and uv may install a wheel again that was made for another torch.
_REBUILD = "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps ."
_REMEDY = (
    f"Rebuild it with: {_REBUILD} (the dot is its source folder, or else the address that it was "
    "installed from; in an environment of uv the same behind uv)"
)


def facts_of(module: Path) -> dict[str, Any]:
    """The facts that the build wrote into a module, see ``facts`` in build_config.py; else {}.

    They are read without loading the module, since loading a module that does not fit could crash.
    """
    found = re.search(rb"mish_cuda facts: (\{.*?\})\0", module.read_bytes(), re.DOTALL)
    try:
        return dict(json.loads(found[1])) if found else {}
    except ValueError:
        return {}


def _interface(version: str) -> str:
    """The part of torch's version that must be the same when building and loading. Minor versions
    change the layout of C++ classes, not always with the symbol names that a loader checks; nightly
    versions may change it every day."""
    release = re.fullmatch(r"(\d+\.\d+)(\.\d+)*(\+.*)?", version)
    return release[1] if release else version


def _loaded_from() -> str:
    """The file that registered the ops of this process."""
    return str(vars(torch.ops.mish_cuda).get("loaded_from", "another library"))


def _is_loaded(module: Path) -> bool:
    """Whether this file is loaded already, by an earlier import of the package."""
    if not hasattr(os, "RTLD_NOLOAD"):  # Windows, where no loaded file can be replaced
        return _loaded_from() == str(module)
    try:
        ctypes.CDLL(str(module), mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def _misfit(module: Path, facts: dict[str, Any]) -> tuple[str, str] | None:
    """Why importing the module would crash or abort the process, with the remedy; else None."""
    if not facts.keys() >= {"python", "torch"}:
        return f"{module} is damaged, or of another version of mish_cuda", _REMEDY
    if facts["python"] not in EXTENSION_SUFFIXES:
        return f"{module} was compiled for another Python, {facts['python']}", _REMEDY
    if _interface(facts["torch"]) != _interface(torch.__version__):
        versions = f"torch {facts['torch']}, but this is torch {torch.__version__}"
        return f"{module} was compiled for {versions}", _REMEDY
    if "mish_cuda::mish" in torch._C._dispatch_get_all_op_names() and not _is_loaded(module):
        other = _loaded_from()
        other = "an older build of it" if other == str(module) else other
        return (
            f"{module} cannot be loaded, since {other} is in this process already",
            "Start a new process that imports mish_cuda from one place only",
        )
    return None


def _refused(module: Path, facts: dict[str, Any], error: Exception) -> tuple[str, str]:
    """Why the system did not load the module, with the remedy."""
    versions = f"compiled for torch {facts['torch']}, and with torch {torch.__version__}"
    reason = f"{module} was {versions} it cannot be loaded: {error.__cause__ or error}"
    noexec = getattr(os, "ST_NOEXEC", 0)
    if noexec and os.statvfs(module).f_flag & noexec:
        return reason, "Install it in a folder that is not mounted with noexec"
    return reason, _REMEDY


def _missing() -> tuple[str, str]:
    """Why there is no module for this Python although one was asked for, with the remedy."""
    if not FOLDER.is_dir():
        archive = next(parent for parent in FOLDER.parents if parent.exists())
        return f"Python loads no compiled extension from {archive}", "Unpack it into a folder"
    files = [file for file in sorted(FOLDER.glob("_C*")) if file.is_file()]
    others = [file.name for file in files if file.suffix in (".so", ".pyd")]
    source = FOLDER.parent
    if not others and (source / "setup.py").exists() and (source / "csrc").is_dir():
        import shlex  # not needed otherwise

        return (
            f"this is the source folder {source}, in which nothing was built",
            f"Build it with: pip install --no-build-isolation -e {shlex.quote(str(source))}\n"
            "Or start Python in another folder, to import the mish_cuda that is installed",
        )
    reason = f"there is no compiled extension for this Python ({EXTENSION_SUFFIXES[0]}) in {FOLDER}"
    return f"{reason}, only {', '.join(others)}" if others else reason, _REMEDY


def _beside(name: str) -> Path | None:
    """The file of a submodule, if it is beside this one: an editable install of another source
    folder would lend its own."""
    spec = importlib.util.find_spec(f"mish_cuda.{name}")
    file = Path(spec.origin) if spec and spec.origin else None
    return file if file and file.parent == FOLDER else None


def _load() -> tuple[ModuleType | None, dict[str, Any], str, str | None]:
    """``_C`` or None, the facts of its build, why it is in use or not, and what to do about that
    (None where it is meant to be so)."""
    module = _beside("_C")
    facts: dict[str, Any] = {}
    try:
        facts = facts_of(module) if module else {}
        problem = _misfit(module, facts) if module else _missing()
    except OSError as error:
        problem = f"{module} cannot be read: {error.strerror}", _REMEDY
    if os.environ.get("MISH_CUDA_EAGER", "").lower() not in ("", "0", "false", "no", "off"):
        return None, facts, "MISH_CUDA_EAGER is set", None
    # Import statements only: tools that pack programs do not see names in strings.
    if module is None and _beside("_without_kernels"):
        from . import _without_kernels  # type: ignore[attr-defined]  # noqa: F401

        reason = "MISH_CUDA_BUILD=none"
        return None, {"mode": "none", "reason": reason}, f"it was built with {reason}", None
    if module and problem is None:
        try:
            from . import _C
        except (ImportError, OSError) as error:
            problem = _refused(module, facts, error)
        else:
            vars(torch.ops.mish_cuda).setdefault("loaded_from", str(module))
            return _C, facts, "the compiled extension is loaded", None
    assert problem is not None
    reason, remedy = problem
    warnings.warn(
        f"mish_cuda runs in eager mode, correct but slow: {reason}. {remedy}.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None, facts, reason, remedy


C, FACTS, REASON, REMEDY = _load()
