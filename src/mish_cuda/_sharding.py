"""How the compiled ops run on DTensors, which tensor and sequence parallelism are made of.

DTensor takes half a second to import and most programs never do, so its rules wait for it: they are
registered at the moment ``torch.distributed.tensor`` is imported, before anyone can hold a DTensor.
"""

from __future__ import annotations

import importlib.abc
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_DTENSOR = "torch.distributed.tensor"


def _elementwise(*operands: Any) -> list[tuple[list[Any], list[Any]]]:
    """What may be computed shard by shard: (placement of the result, placements of the operands).

    All replicated, or all sharded along a dimension that one of them is sharded along already.
    Partial sums are not offered, since mish(a) + mish(b) is not mish(a + b), so DTensor sums them
    up; and into whole tensors, as for ``F.mish``, where any dimension would do to share them out.
    """
    from torch.distributed.tensor import Replicate, Shard

    sharded = {p.dim for operand in operands for p in operand.placements if isinstance(p, Shard)}
    placements = [Replicate(), *map(Shard, sorted(sharded))]
    return [([placement], [placement] * len(operands)) for placement in placements]


def _register() -> None:
    """``mish.out`` has no rule: DTensor would write to a copy of an ``out`` sharded otherwise."""
    from torch.distributed.tensor.experimental import register_sharding

    ops = torch.ops.mish_cuda
    register_sharding(
        [
            ops.mish.default,
            ops.mish_.default,
            ops.mish_backward.default,
            ops.mish_double_backward.default,
        ]
    )(_elementwise)


def _register_or_warn() -> None:
    """The interface is experimental: should it change, all but DTensor goes on working."""
    try:
        _register()
    except Exception as error:
        warnings.warn(
            f"mish_cuda has no sharding rules for DTensor with torch {torch.__version__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Has the rules registered at the end of the import of DTensor; finds nothing by itself.

    A check in ``mish`` would cost every call, and miss those of ``torch.ops``. It stays in place:
    taking it out could make another thread's import miss the finder behind it.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _DTENSOR:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_or_warn()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _DTENSOR in sys.modules:
    _register_or_warn()
else:
    sys.meta_path.insert(0, _AfterImport())
