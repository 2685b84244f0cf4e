"""Mish, ``x * tanh(softplus(x))``, as fused forward and backward kernels for PyTorch.

``mish`` and ``Mish`` are what ``torch.nn.functional.mish`` and ``torch.nn.Mish`` are, faster and
right at the limits. ``MishCuda``, ``MishCudaFunction``, ``mish_forward`` and ``mish_backward`` are
the names of the old mish-cuda package.
"""

from .conversion import Conversion, convert, override_torch, revert
from .functional import (
    MishCudaFunction,
    backend,
    compile_with,
    mish,
    mish_,
    mish_backward,
    mish_forward,
)
from .modules import Mish, MishCuda
from .old_checkpoints import old_checkpoints

__version__ = "0.1.0"

__all__ = [
    "Conversion",
    "Mish",
    "MishCuda",
    "MishCudaFunction",
    "__version__",
    "backend",
    "compile_with",
    "convert",
    "mish",
    "mish_",
    "mish_backward",
    "mish_forward",
    "old_checkpoints",
    "override_torch",
    "revert",
]
