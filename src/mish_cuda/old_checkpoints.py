"""Whole models pickled by copies of the old mish-cuda package that went by other names."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch.serialization import get_safe_globals, safe_globals

from .functional import MishCudaFunction, mish_backward, mish_forward
from .modules import Mish, MishCuda

NAMES = ("mish_mish", "mc.build.lib.mish_mish")
_CONTENT = (Mish, MishCuda, MishCudaFunction, mish_backward, mish_forward)

# sys.modules and torch's list of safe classes are one for all threads: the first to leave would
# take away what another still loads with.
_lock = threading.RLock()


@contextmanager
def old_checkpoints(*modules: str) -> Iterator[None]:
    """Within it, models load whose pickles name the old package's classes by another module.

    A pickle holds no class, only the name by which it was imported. Models of the old package
    itself need nothing, since ``mish_cuda.MishCuda`` is there; those of a renamed build do::

        with mish_cuda.old_checkpoints():
            model = torch.load("best.pt", weights_only=False)

    Saved again, the model names ``mish_cuda``, and loads without this.

    Known are ``mish_mish`` and ``mc.build.lib.mish_mish``. As long as the block runs, those that
    cannot be imported stand in ``sys.modules``, for every thread, with ``MishCuda`` and the rest of
    the old package in them; those that can be imported are left as they are. For
    ``torch.load(..., weights_only=True)`` the layers count as safe under these names, too. One
    thread at a time is inside; others wait.

    This makes no file safer: with ``weights_only=False`` a pickle can run any code, so load only
    what you trust, or else pass ``weights_only=True`` and allow the classes it asks for.

    Args:
        modules: further names of the package, as ``No module named ...`` reported them.
    """
    names = (*NAMES, *modules)
    layers = [(layer, f"{name}.{layer.__name__}") for name in names for layer in (Mish, MishCuda)]
    with _lock, safe_globals([layer for layer in layers if layer not in get_safe_globals()]):
        added: list[str] = []
        try:
            for name in names:
                _stand_in(name, added)
            yield
        finally:
            for name in added:
                sys.modules.pop(name, None)


def _stand_in(name: str, added: list[str]) -> None:
    """Makes `name` importable if it is not; what that takes is appended to `added`."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        try:
            importlib.import_module(prefix)
        except ImportError:  # missing, or a build that fits no more: neither can load a pickle
            sys.modules[prefix] = module = ModuleType(prefix, "Stands in for the old mish-cuda.")
            added.append(prefix)
            if prefix == name:
                vars(module).update({item.__name__: item for item in _CONTENT})
