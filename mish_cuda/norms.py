"""BatchNorm and GroupNorm with Mish behind them, as one op: functions and layers.

On the CPU and on CUDA GPUs the compiled extension computes both at once, and for backward keeps the
input alone.
What its kernels do not serve is torch's norm with ``mish`` behind it: other devices, inputs that
are not contiguous, ``channels_last`` among them, transforms of ``torch.func``, forward mode,
compilers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.overrides import handle_torch_function, has_torch_function_variadic
from torch.serialization import add_safe_globals

from . import eager
from ._extension import C
from .functional import mish


def is_read() -> bool:
    """Whether a compiler or exporter reads the call, which knows torch's norms."""
    # The older exporter traces, and to ask torch.onnx takes 15 µs when its code is in no cache.
    return is_compiling() or (is_tracing() and torch.onnx.is_in_onnx_export())


def batch_norm_mish(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``mish(torch.nn.functional.batch_norm(...))`` of the same arguments.

    Args:
        input: (N, C) or (N, C, ...); float32, float64, float16 or bfloat16.
        running_mean, running_var: (C); read in evaluation, updated in training, where both may be
            None. Like ``weight`` and ``bias`` of the dtype of ``input`` or, for one of 16 bits,
            float32.
        weight, bias: (C), or None for ones and zeros.
        training: normalise by mean and variance of ``input``, not by the running ones.
        momentum: the share of ``input`` in the new running statistics.
        eps: added to the variance.

    Returns:
        Shape and dtype of ``input``; differentiable any number of times.

    Raises:
        TypeError: not a tensor.
        ValueError: one value for each channel in training.
        RuntimeError: other shapes or dtypes; evaluation without running statistics.
    """
    if is_scripting():
        return mish(
            F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        )
    tensors = (input, running_mean, running_var, weight, bias)
    arguments = (training, momentum, eps)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(batch_norm_mish, tensors, *tensors, *arguments)  # type: ignore[no-any-return]
    eager.check_tensor("input", input)
    if C is None or is_read() or (training and input.numel() == input.shape[1:2].numel()):
        # A single value of each channel is an error, in torch's own words.
        return mish(F.batch_norm(*tensors, *arguments))
    return C.batch_norm_mish(*tensors, *arguments)  # type: ignore[no-any-return]


def group_norm_mish(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``mish(torch.nn.functional.group_norm(...))`` of the same arguments.

    Args:
        input: (N, C) or (N, C, ...); float32, float64, float16 or bfloat16.
        num_groups: of channels; divides C.
        weight, bias: (C), or None for ones and zeros; of the dtype of ``input`` or, for one of 16
            bits, float32.
        eps: added to the variance.

    Returns:
        Shape and dtype of ``input``, under ``torch.autocast`` too, where ``group_norm`` by itself
        gives float32; differentiable any number of times.

    Raises:
        TypeError: not a tensor.
        ValueError: one value for each group.
        RuntimeError: ``num_groups`` that does not divide C; other shapes or dtypes.
    """
    if is_scripting():
        return mish(F.group_norm(input, num_groups, weight, bias, eps))
    tensors = (input, weight, bias)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(  # type: ignore[no-any-return]
            group_norm_mish, tensors, input, num_groups, weight, bias, eps
        )
    eager.check_tensor("input", input)
    if C is None or is_read() or input.dim() < 2 or input.numel() == num_groups:
        # A single value of each group is an error, in torch's own words.
        return mish(F.group_norm(input, num_groups, weight, bias, eps)).to(input.dtype)
    return C.group_norm_mish(input, num_groups, weight, bias, eps)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """For torch.fx and what is built on it, a layer of torch.nn, as ``mish_cuda.Mish`` is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._count_as_torchs()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._count_as_torchs()

    def _count_as_torchs(self) -> None:
        if type(self).__module__ == "mish_cuda":  # not a class that derives from one of these
            vars(self)["__module__"] = "torch.nn"  # pickles ask the class


def _count(number: Tensor) -> None:
    """``number.add_(1)``"""
    if C is None or is_compiling():
        number.add_(1)
    else:
        C.count(number)


class BatchNormLayer(Layer, nn.modules.batchnorm._BatchNorm):
    """The statistics that BatchNorms of any dimension take, and how they count batches."""

    def _statistics(self) -> tuple[Tensor | None, Tensor | None, bool]:
        """Running mean and variance to read or update, and whether those of the batch are taken."""
        reads = self.track_running_stats or not self.training
        mean, var = (self.running_mean, self.running_var) if reads else (None, None)
        return mean, var, self.training or (self.running_mean is None and self.running_var is None)

    def _count_batch(self) -> float:
        """The share of this batch in the running statistics."""
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            if is_scripting():
                self.num_batches_tracked.add_(1)
            else:
                _count(self.num_batches_tracked)
            if self.momentum is None:  # the mean of all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        return momentum


class _BatchNormMish(BatchNormLayer):
    """What BatchNorms of any dimension do, with ``batch_norm_mish`` for ``batch_norm``."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = self._count_batch()
        mean, var, of_batch = self._statistics()
        return batch_norm_mish(
            input, mean, var, self.weight, self.bias, of_batch, momentum, self.eps
        )


class BatchNormMish1d(_BatchNormMish, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with Mish behind it: arguments, ``state_dict`` and errors are its own.

    Shape:
        (N, C) or (N, C, L), and the output has the input's; dtypes as ``batch_norm_mish`` takes.
    """


class BatchNormMish2d(_BatchNormMish, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with Mish behind it: arguments, ``state_dict`` and errors are its own.

    Shape:
        (N, C, H, W), and the output has the input's; dtypes as ``batch_norm_mish`` takes.
    """


class BatchNormMish3d(_BatchNormMish, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` with Mish behind it: arguments, ``state_dict`` and errors are its own.

    Shape:
        (N, C, D, H, W), and the output has the input's; dtypes as ``batch_norm_mish`` takes.
    """


class GroupNormMish(Layer, nn.GroupNorm):
    """``nn.GroupNorm`` with Mish behind it: arguments, ``state_dict`` and errors are its own.

    Shape:
        (N, C, ...), and the output has the input's; dtypes as ``group_norm_mish`` takes.
    """

    def forward(self, input: Tensor) -> Tensor:
        return group_norm_mish(input, self.num_groups, self.weight, self.bias, self.eps)


# They hold no code of their own: torch.load(..., weights_only=True) may build them.
add_safe_globals([BatchNormMish1d, BatchNormMish2d, BatchNormMish3d, GroupNormMish])
