"""Mish, ``x * tanh(softplus(x))``, as fused forward and backward kernels for PyTorch.

``mish`` and ``Mish`` replace ``torch.nn.functional.mish`` and ``torch.nn.Mish``. They are faster
on CPUs (docs/speed.md), and handle ±inf, where ``F.mish`` returns NaN. ``MishCuda``,
``MishCudaFunction``, ``mish_forward`` and ``mish_backward`` are the names of the old mish-cuda
package.
"""

try:
    import torch.nn as _nn  # noqa: F401  # another file or folder called torch has no nn
except Exception as error:  # torch or a library that it needs is missing, or another file is found
    import sys
    from importlib.machinery import PathFinder

    found = PathFinder.find_spec("torch")
    place = found and (found.origin or " ".join(found.submodule_search_locations or ()))
    where = f" from {place}" if place else ""
    # With `name`, `python -m mish_cuda` prints this in one line, without a traceback.
    raise ImportError(
        f"mish_cuda needs torch, which {sys.executable} cannot import{where}: "
        f"{type(error).__name__}: {error}. Install or repair it there, "
        "or rename what only bears its name: https://pytorch.org/get-started/locally/",
        name=__name__,
    ) from error

from ._before_mish import BEFORE_MISH
from ._places import (  # noqa: F401 - named by pickles of converted models
    CONVERTED,
    converted_mish,
    converted_mish_,
    converted_mish_copy,
)
from ._replacing import Conversion
from .conversion import convert, override_torch, revert
from .functional import (
    MishCudaFunction,
    backend,
    mish,
    mish_,
    mish_backward,
    mish_forward,
)
from .modules import Mish, MishCuda
from .norms import (
    BatchNormMish1d,
    BatchNormMish2d,
    BatchNormMish3d,
    GroupNormMish,
    batch_norm_mish,
    group_norm_mish,
)
from .old_checkpoints import old_checkpoints

__version__ = "0.1.0"

__all__ = [
    "BatchNormMish1d",
    "BatchNormMish2d",
    "BatchNormMish3d",
    "Conversion",
    "GroupNormMish",
    "Mish",
    "MishCuda",
    "MishCudaFunction",
    "__version__",
    "backend",
    "batch_norm_mish",
    "convert",
    "group_norm_mish",
    "mish",
    "mish_",
    "mish_backward",
    "mish_forward",
    "old_checkpoints",
    "override_torch",
    "revert",
]

globals().update({_layer.__name__: _layer for _layer in BEFORE_MISH.values()})

# Pickles, graphs and messages then name the public path, so that files can be rearranged.
for _public in [
    *(globals()[_name] for _name in __all__ if _name != "__version__"),
    *CONVERTED,
    *BEFORE_MISH.values(),
]:
    _public.__module__ = __name__
