"""What the compiled ops need from Python: kernels for other devices, and rules for vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import eager

_library = torch.library.Library("mish_cuda", "IMPL")

# --- Any device without a kernel of its own computes eagerly. Autograd is already above. ---


def _mish(self: Tensor) -> Tensor:
    eager.check(self)
    return eager.value(self)


def _mish_(self: Tensor) -> Tensor:
    return self.copy_(_mish(self))


def _mish_out(self: Tensor, *, out: Tensor) -> Tensor:
    return eager.mish_out(self, out)


def _mish_backward(grad_output: Tensor, self: Tensor) -> Tensor:
    eager.check(self)
    eager.check_like("grad_output", grad_output, self)
    return eager.backward(grad_output, self)


def _mish_double_backward(grad_grad_input: Tensor, grad_output: Tensor, self: Tensor) -> Tensor:
    eager.check(self)
    eager.check_like("grad_grad_input", grad_grad_input, self)
    eager.check_like("grad_output", grad_output, self)
    return eager.double_backward(grad_grad_input, grad_output, self)


for _name, _function in {
    "mish": _mish,
    "mish_": _mish_,
    "mish.out": _mish_out,
    "mish_backward": _mish_backward,
    "mish_double_backward": _mish_double_backward,
}.items():
    _library.impl(_name, _function, "CompositeExplicitAutograd")

# --- vmap: an elementwise op does not care which dimension is the batch. ---


def _elementwise_vmap(op: Any) -> Any:
    """The batching rule of an elementwise op: bring every batch dimension to the front."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        batched = [
            arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        ]
        return op(*batched), 0

    return rule


def _inplace_vmap(info: Any, in_dims: tuple[int], self: Tensor) -> tuple[Tensor, int]:
    torch.ops.mish_cuda.mish_(self)
    return self, in_dims[0]


torch.library.register_vmap("mish_cuda::mish_", _inplace_vmap, lib=_library)
for _name in ("mish", "mish_backward", "mish_double_backward"):
    _op = getattr(torch.ops.mish_cuda, _name).default
    torch.library.register_vmap(_op, _elementwise_vmap(_op), lib=_library)
