"""Loading of models that were pickled with renamed builds of the old mish-cuda package."""

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

# All threads share sys.modules and torch's list of safe classes. Without the lock, the first thread
# to leave the block would remove the entries that another still needs.
_lock = threading.RLock()


@contextmanager
def old_checkpoints(*modules: str) -> Iterator[None]:
    """A block in which models of renamed builds of the old mish-cuda package load.

    A pickle stores only the name by which a class was imported. Models of the old package itself
    load anyway, since ``mish_cuda.MishCuda`` exists. Models of a renamed build need this::

        with mish_cuda.old_checkpoints():
            model = torch.load("best.pt", weights_only=False)

    Saved again, the model names ``mish_cuda``, and loads without this.

    The names ``mish_mish`` and ``mc.build.lib.mish_mish`` are known. If such a module cannot be
    imported, a stand-in with ``MishCuda`` and the rest of the old package is in ``sys.modules``
    during the block, for every thread. ``torch.load(..., weights_only=True)`` accepts the layers
    under these names, too. Only one thread at a time can be in the block; others wait.

    With ``weights_only=False`` a pickle can run any code, in this block as well. So load only files
    that you trust, or pass ``weights_only=True`` and allow the classes that it asks for.

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
    """Makes `name` importable if it is not, and appends the names of new modules to `added`."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        try:
            importlib.import_module(prefix)
        except ImportError:  # missing, or a broken build: neither can load a pickle
            sys.modules[prefix] = module = ModuleType(prefix, "Stands in for the old mish-cuda.")
            added.append(prefix)
            if prefix == name:
                vars(module).update({item.__name__: item for item in _CONTENT})
