"""Mish as layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.serialization import add_safe_globals

from .functional import mish


class Mish(nn.Mish):
    """``mish`` as a layer; derives from ``torch.nn.Mish``.

    Args:
        inplace: overwrite the input with the result.

    Shape:
        Input of any shape, in float32, float64, float16 or bfloat16; output of the same shape and
        dtype. Errors are those of ``mish``.
    """

    # For instances pickled before `inplace` existed. No annotation: torch.jit.script rejects it.
    inplace = False

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace)
        self._count_as_torchs()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._count_as_torchs()

    def _count_as_torchs(self) -> None:
        """Lets torch.fx treat the layer as one of torch.nn, which is one node of a graph; it traces
        through other layers. torch.fx reads the attribute of the instance, pickle that of the
        class."""
        if type(self) in (Mish, MishCuda):
            vars(self)["__module__"] = "torch.nn"

    def forward(self, input: Tensor) -> Tensor:
        return mish(input, self.inplace)


class MishCuda(Mish):
    """``Mish`` under its name in the old mish-cuda package, for old models and checkpoints."""


# Safe for torch.load(..., weights_only=True): they hold only a flag.
add_safe_globals([Mish, MishCuda])
