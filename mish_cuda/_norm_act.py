"""Layers that derive from a norm of torch and hold the Mish behind it, such as timm's
``BatchNormAct2d``: their own code runs, and the norm that it calls is one before Mish."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ._before_mish import BEFORE_MISH, batch_norm, group_norm
from .modules import Mish
from .norms import Layer, is_read

_BEFORE_MISH = {F.batch_norm: batch_norm, F.group_norm: group_norm}


class _Input(Tensor):
    """The input of a layer, while its code runs and until a function takes it."""

    _input: Tensor

    @staticmethod
    def of(input: Tensor) -> _Input:
        self = input.as_subclass(_Input)
        self._input = input
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(cls, lambda t: vars(t)["_input"], (args, kwargs or {}))
        return _BEFORE_MISH.get(func, func)(*args, **kwargs)


class NormActBeforeMish(Layer):
    """With the class of the layer as its other base."""

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor or is_read():
            return super().forward(input)  # type: ignore[no-any-return, misc]
        output = super().forward(_Input.of(input))  # type: ignore[misc]
        return tree_map_only(_Input, lambda t: vars(t)["_input"], output)  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new, (type(self).__bases__[1],), vars(self)

    def __prepare_scriptable__(self) -> nn.Module:
        """For TorchScript, which does not take the code above: the layer of before."""
        cls: Any = type(self).__bases__[1]
        new: nn.Module = cls.__new__(cls)
        vars(new).update(vars(self))
        return new


_classes: dict[Any, type[nn.Module]] = dict(BEFORE_MISH)


def before_mish(cls: Any) -> type[nn.Module]:
    """The class that replaces a layer of `cls`."""
    if cls not in _classes:
        name = f"{cls.__name__}BeforeMish"
        _classes[cls] = type(name, (NormActBeforeMish, cls), {"__module__": __name__})
    return _classes[cls]


def _new(cls: Any) -> nn.Module:
    new = before_mish(cls)
    return new.__new__(new)


_UNUSUAL = {"__new__", "__init_subclass__", "__slots__", "__reduce__", "__reduce_ex__"}


def activation(module: nn.Module) -> str | None:
    """The name of the Mish that a norm holds, if it is one."""
    kinds = tuple(BEFORE_MISH)
    cls: Any = type(module)
    if not isinstance(module, kinds) or cls in kinds or isinstance(module, Layer):
        return None
    # A class that is made, or copied, in ways of its own cannot be a base.
    own = [c for c in cls.__mro__ if c is not object and not c.__module__.startswith("torch.")]
    if type(cls) is not type or any(not _UNUSUAL.isdisjoint(vars(c)) for c in own):
        return None
    return next((k for k, child in module._modules.items() if isinstance(child, Mish)), None)
