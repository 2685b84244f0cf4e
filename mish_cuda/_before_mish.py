"""Norms before Mish, which ``convert(..., fuse_norms=True)`` puts in place of those of torch.

Such a norm computes norm and Mish at once, and returns a tensor that stands for the result of the
norm. Mish, where that comes next, takes what is known. For anything else the norm is computed then,
by torch. So the layer is a norm to whoever looks at it, and no layer has to know another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.overrides import has_torch_function_variadic
from torch.serialization import add_safe_globals

from ._extension import C
from ._norm_output import NormOutput
from .norms import BatchNormLayer, Layer, is_read

# To make a NormOutput takes 10 to 20 µs, and up to 100 where no cache holds its code, as in a
# network. From so many elements on, fusing saves more than that: timed beside convert(model), with
# caches that held other memory, on one core of a Xeon with AVX-512.
FEWEST_ELEMENTS = {"with gradients": 65_536, "without": 262_144}


def _serves(input: Tensor, *others: Tensor | None) -> bool:
    """Whether a ``NormOutput`` is worth making, and only autograd sees functions of these."""
    fewest = FEWEST_ELEMENTS["with gradients" if torch.is_grad_enabled() else "without"]
    return (
        type(input) is Tensor
        and input.numel() >= fewest
        and not has_torch_function_variadic(*others)
        and not is_read()
        # Nobody counts how often a tensor of this mode is overwritten.
        and not torch.is_inference_mode_enabled()
        and not input.is_inference()
    )


def batch_norm(
    input: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` before Mish."""
    inputs = input, mean, var, weight, bias
    if C is None or not (_serves(*inputs) and C.batch_norm_is_fused(*inputs, training)):
        return F.batch_norm(*inputs, training, momentum, eps)
    known = C.batch_norm_mish(*inputs, training, momentum, eps)
    # The running ones are updated by now, or may be before the norm is computed.
    mean, var = (None if training or t is None else t.clone() for t in (mean, var))

    def norm(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        return F.batch_norm(x, mean, var, w, b, training, eps=eps)

    return NormOutput.of(norm, known, input, weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``F.group_norm`` before Mish."""
    inputs = input, weight, bias
    if (
        C is None
        or not _serves(*inputs)
        or not C.group_norm_is_fused(input, num_groups, weight, bias)
    ):
        return F.group_norm(input, num_groups, weight, bias, eps)
    known = C.group_norm_mish(input, num_groups, weight, bias, eps)

    def norm(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        # Few of torch's kernels take an input of 16 bits with parameters of 32.
        return F.group_norm(x if w is None else x.to(w.dtype), num_groups, w, b, eps)

    return NormOutput.of(norm, known, *inputs)


def _has_hooks(module: nn.Module) -> bool:
    """Whether something looks at its result: then the norm is computed in any case."""
    of_all = torch.nn.modules.module
    return bool(
        module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or of_all._global_forward_hooks
        or of_all._global_backward_hooks
    )


class _BatchNormBeforeMish(BatchNormLayer):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = self._count_batch()
        mean, var, training = self._statistics()
        weight, bias, eps = self.weight, self.bias, self.eps
        if is_scripting():
            return F.batch_norm(input, mean, var, weight, bias, training, momentum, eps)
        norm = F.batch_norm if _has_hooks(self) else batch_norm
        return norm(input, mean, var, weight, bias, training, momentum, eps)


class BatchNorm1dBeforeMish(_BatchNormBeforeMish, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` that computes the Mish behind it, too."""


class BatchNorm2dBeforeMish(_BatchNormBeforeMish, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that computes the Mish behind it, too."""


class BatchNorm3dBeforeMish(_BatchNormBeforeMish, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` that computes the Mish behind it, too."""


class GroupNormBeforeMish(Layer, nn.GroupNorm):
    """``nn.GroupNorm`` that computes the Mish behind it, too."""

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        norm = F.group_norm if _has_hooks(self) else group_norm
        return norm(input, self.num_groups, self.weight, self.bias, self.eps)


BEFORE_MISH: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1dBeforeMish,
    nn.BatchNorm2d: BatchNorm2dBeforeMish,
    nn.BatchNorm3d: BatchNorm3dBeforeMish,
    nn.GroupNorm: GroupNormBeforeMish,
}
# They hold no code of their own: torch.load(..., weights_only=True) may build them.
add_safe_globals(list(BEFORE_MISH.values()))
