"""Mish, ``x * tanh(softplus(x))``, as fused forward and backward kernels for PyTorch.

``mish`` and ``Mish`` are what ``torch.nn.functional.mish`` and ``torch.nn.Mish`` are, faster and
right at the limits. ``MishCuda``, ``MishCudaFunction``, ``mish_forward`` and ``mish_backward`` are
the names of the old mish-cuda package.
"""

try:
    import torch as _torch  # noqa: F401
except (ImportError, OSError) as error:  # missing, or a library of it is
    import sys

    # With its name, `python -m mish_cuda` tells this in a line, without a traceback.
    raise ImportError(
        f"mish_cuda needs torch, which {sys.executable} cannot import: "
        f"{type(error).__name__}: {error}. Install or repair it there: "
        "https://pytorch.org/get-started/locally/",
        name=__name__,
    ) from error

from .conversion import Conversion, convert, override_torch, revert
from .conversion import converted_mish as converted_mish  # for pickles of converted models
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
