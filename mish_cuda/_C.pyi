"""The compiled module: the ops, called without the argument parsing of ``torch.ops``.

Importing it registers ``torch.ops.mish_cuda``. All functions take strided tensors of float32,
float64, float16 or bfloat16, of any shape and strides, on the CPU, on CUDA or on another device
(computed eagerly). All raise TypeError for an argument that is not a tensor, and
NotImplementedError for an ``input`` of another dtype or layout.
"""

from torch import Tensor

def mish(input: Tensor) -> Tensor:
    """``input * tanh(softplus(input))``; shape and dtype of ``input``."""

def mish_(input: Tensor) -> Tensor:
    """``mish`` in place: overwrites ``input`` and returns it.

    Raises:
        RuntimeError: elements of ``input`` overlap in memory; it is a leaf that requires grad.
    """

def mish_out(input: Tensor, out: Tensor) -> Tensor:
    """``mish`` written to ``out``, which is resized to the shape of ``input`` and returned.

    Raises:
        RuntimeError: ``out`` has another dtype or device than ``input``; one of them requires grad;
            their memory overlaps partly.
    """

def mish_forward(input: Tensor, out: Tensor | None = None) -> Tensor:
    """``mish(input)`` or ``mish_out(input, out)``, under the old mish-cuda package's name."""

def mish_backward(input: Tensor, grad_out: Tensor) -> Tensor:
    """``grad_out * mish'(input)``, in the old mish-cuda package's order of arguments.

    The op ``torch.ops.mish_cuda.mish_backward`` takes ``grad_out`` first. Shape of ``input``; the
    dtype that torch promotes the two to; sparse if ``grad_out`` is.

    Raises:
        RuntimeError: ``grad_out`` has another shape or device than ``input``, or is complex.
    """

def batch_norm_mish(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor: ...
def group_norm_mish(
    input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor: ...
def batch_norm_is_fused(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
) -> bool:
    """Whether ``batch_norm_mish`` computes norm and Mish of these at once, or one by one."""

def group_norm_is_fused(
    input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None
) -> bool:
    """Whether ``group_norm_mish`` computes norm and Mish of these at once, or one by one."""

def count(number: Tensor) -> None:
    """``number.add_(1)``, without an op for one int64 in the memory of the CPU."""

def cpu_isa() -> str:
    """The instruction set of the CPU kernels on this processor: "AVX-512", "AVX2", "baseline"."""

facts: str
"""JSON that the build wrote, see ``facts`` in build_config.py."""
