"""Sharding rules of the compiled ops for DTensor, on which tensor and sequence parallelism build.

``_C`` calls ``register`` when an op first meets a subclass of Tensor while DTensor is imported.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def _elementwise(*operands: Any) -> list[tuple[list[Any], list[Any]]]:
    """The placements that can be computed shard by shard: (of the result, of the operands).

    All replicated, or all sharded along a dimension along which one of them is sharded already.
    Partial sums are not among them, since mish(a) + mish(b) is not mish(a + b). So DTensor sums
    them up first, to replicated tensors, as for ``F.mish``.
    """
    from torch.distributed.tensor import Replicate, Shard

    sharded = {p.dim for operand in operands for p in operand.placements if isinstance(p, Shard)}
    placements = [Replicate(), *map(Shard, sorted(sharded))]
    return [([placement], [placement] * len(operands)) for placement in placements]


def register() -> None:
    """Registers the rules. ``mish.out`` gets none: DTensor would write to a copy if ``out`` is
    sharded in another way."""
    ops = torch.ops.mish_cuda
    names = (ops.mish, ops.mish_, ops.mish_backward, ops.mish_double_backward)
    try:
        from torch.distributed.tensor.experimental import register_sharding

        register_sharding([name.default for name in names])(_elementwise)
    except Exception as error:  # an experimental interface, needed only for DTensor
        warnings.warn(
            f"mish_cuda has no sharding rules for DTensor with torch {torch.__version__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
