"""Mish as layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.serialization import add_safe_globals

from .functional import mish


class Mish(nn.Module):
    """``mish`` as a layer: a drop-in for ``torch.nn.Mish``.

    Args:
        inplace: overwrite the input with the result.

    Shape:
        any, and the output has the input's; dtype float32, float64, float16 or bfloat16.
    """

    __module__ = "mish_cuda"  # pickles name the public path

    # For instances pickled before it was an attribute. torch.jit.script reads no annotation here.
    inplace = False

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return mish(input, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class MishCuda(Mish):
    """The layer of the old mish-cuda package: the same as ``Mish``, under its old name.

    Models and checkpoints that hold the old class load with this one.
    """

    __module__ = "mish_cuda"


# They hold a flag and no code of their own: torch.load(..., weights_only=True) may build them.
add_safe_globals([Mish, MishCuda])
