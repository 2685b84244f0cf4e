"""Norms before Mish, which ``convert(..., fuse_norms=True)`` puts in place of those of torch.

Such a norm computes norm and Mish at once, and returns a tensor that stands for the result of the
norm. Mish, where that comes next, takes what is known. For anything else the norm is computed then,
by torch. So the layer is a norm to whoever looks at it, and no layer has to know another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import CompileContext
from torch.compiler import is_compiling
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.overrides import has_torch_function_variadic
from torch.serialization import add_safe_globals
from torch.utils._pytree import tree_map_only

from ._extension import C
from ._places import CONVERTED, converted_mish_copy
from .functional import mish, mish_
from .norms import BatchNormLayer, Layer, is_read

_INPUT_OVERWRITTEN = (
    "mish_cuda: expected the input, the parameters and the running statistics of a norm before "
    "Mish to be unchanged until its result is used, but one of them was overwritten. Leave this "
    "norm out, with `where`, of convert(model, fuse_norms=True)."
)
_OUTPUT_OVERWRITTEN = (
    "mish_cuda: expected the result of a norm before Mish not to be differentiated, since Mish has "
    "overwritten it in place. Use what Mish returned, or Mish(inplace=False)."
)


_PASSED_BY = (
    "mish_cuda: expected no gradient to be asked for the result of a norm before Mish, since Mish "
    "has computed both at once, so that its gradient passes by. Ask for hooks, or retain_grad(), "
    "before Mish is called, or leave this norm out, with `where`, of convert(model, "
    "fuse_norms=True)."
)
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks


class _Call:
    """A call of a norm: its Mish, and what computes it by itself.

    ``inputs`` begins with those that ``norm()`` can be differentiated for.
    """

    def __init__(
        self, norm: Callable[[], Tensor], mish: Tensor, inputs: tuple[Tensor | None, ...]
    ) -> None:
        self.norm, self.inputs = norm, inputs
        self.mish: Tensor | None = mish
        self.dtype = mish.dtype
        self.versions = self._versions()
        self.saved_tensors_hooks = _saved_tensors_hooks(True)
        self.error = ""
        self.is_used = False

    def _versions(self) -> list[int]:
        """How often each was overwritten, where torch counts that."""
        return [t._version for t in self.inputs if t is not None and not t.is_inference()]

    def output(self) -> Tensor:
        if self._versions() != self.versions:
            self.error = _INPUT_OVERWRITTEN
        if self.error:
            raise RuntimeError(self.error)
        return self.norm().to(self.dtype)


class _Norm(torch.autograd.Function):
    """The node of the result of a norm, for others than Mish."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor | None) -> Tensor:
        # Not save_for_backward: the node of Mish saves the same tensors, and hooks for saved
        # tensors would see them, or copy them, twice.
        ctx.call = call
        assert call.mish is not None
        return NormOutput(call, call.mish)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            output = ctx.call.output()
        inputs = [t for t, needed in zip(ctx.call.inputs, wanted, strict=False) if needed]
        create_graph = torch.is_grad_enabled()
        found = iter(torch.autograd.grad(output, inputs, grads[0], create_graph=create_graph))
        return None, *(next(found) if needed else None for needed in wanted)


# These are no ops, and ask for the memory or the type of a tensor.
_NEED_PLAIN_TENSORS = (
    Tensor.__array__,
    Tensor.__cuda_array_interface__.__get__,  # type: ignore[attr-defined]
    Tensor.__deepcopy__,
    Tensor.__dlpack__,
    Tensor.__reduce_ex__,
    Tensor.apply_,
    Tensor.data_ptr,
    Tensor.map_,
    Tensor.numpy,
    Tensor.share_memory_,
    Tensor.storage,
    Tensor.tolist,
    Tensor.untyped_storage,
)


class NormOutput(Tensor):
    """The result of a norm, whose Mish is known, and which is computed when something reads it.

    The first op that reads it computes it, below autograd. To autograd it is the result of a node
    that computes the gradients of the norm.
    """

    _call: _Call | None
    _node: Any
    _value: Tensor | None

    @staticmethod
    def __new__(cls, call: _Call | None, like: Tensor) -> NormOutput:
        self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, like.shape, dtype=like.dtype, device=like.device
        )
        self._call, self._node, self._value = call, None, None
        return self  # type: ignore[no-any-return]

    @staticmethod
    def of(norm: Callable[[], Tensor], mish: Tensor, *inputs: Tensor | None) -> NormOutput:
        """The result of ``norm()``, which reads the inputs: three to be differentiated for, and
        others."""
        call = _Call(norm, mish, inputs)
        if not mish.requires_grad:
            return NormOutput(call, mish)
        self = _Norm.apply(call, *inputs[:3])  # type: ignore[no-untyped-call]
        self._node = self.grad_fn
        return self  # type: ignore[no-any-return]

    def _take_mish(self, inplace: bool) -> Tensor | None:
        """Its Mish, once; None where something has come in between.

        Hooks for saved tensors may be those of a checkpoint that begins behind the norm. It runs
        Mish twice, and must find the same tensors saved each time: those of Mish by itself.
        """
        call = self._call
        known = None if call is None else call.mish
        if (
            call is None
            or known is None
            or self._value is not None
            or self.grad_fn is not self._node
            or self.requires_grad != known.requires_grad
            or self._backward_hooks
            or self.retains_grad
            or _saved_tensors_hooks(True) != call.saved_tensors_hooks
        ):
            return None
        call.mish, call.is_used = None, True
        if inplace:
            self._value, call.error = known.detach(), _OUTPUT_OVERWRITTEN
        return known if torch.is_grad_enabled() or not known.requires_grad else known.detach()

    @property
    def _computed(self) -> Tensor:
        if self._value is None:
            assert self._call is not None
            with torch.inference_mode(False), torch.no_grad():
                self._value = self._call.output()
        return self._value

    # A compiler that gets it as an input takes it for the computed tensor.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["_computed"], None

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], context: None, size: Any, stride: Any
    ) -> NormOutput:
        self = NormOutput(None, inner["_computed"])
        self._value = inner["_computed"]
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVERTED:
            return mish(args[0], kwargs["inplace"] and func is not converted_mish_copy)
        with torch._C.DisableTorchFunctionSubclass():
            if is_compiling():
                return func(*args, **kwargs)
            if func in (F.mish, mish, mish_) and kwargs.get("out") is None:
                known = args[0]._take_mish(kwargs.get("inplace", func is mish_))
                if known is not None:
                    return known
            # A compiler that makes a fake of it wants the memory of the wrapper.
            if func in _NEED_PLAIN_TENSORS and CompileContext.try_get() is None:
                return _with_plain(torch.ops.aten.alias, func, args, kwargs)
            _check_gradients(func, args)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _with_plain(lambda output: output._computed, func, args, kwargs or {})


def _check_gradients(func: Any, args: Any) -> None:
    """Raises where the gradient for a result is asked whose Mish has been used."""
    asked: Any = ()
    if func in (Tensor.register_hook, Tensor.retain_grad):
        asked = args[0]
    elif func is torch.autograd.grad:
        asked = args[1]
    for output in asked if isinstance(asked, (tuple, list)) else (asked,):
        if isinstance(output, NormOutput) and output._call and output._call.is_used:
            raise RuntimeError(_PASSED_BY)


def _with_plain(plain: Callable[[NormOutput], Tensor], func: Any, args: Any, kwargs: Any) -> Any:
    """``func(*args, **kwargs)`` with plain tensors in place of each ``NormOutput``."""
    given: list[tuple[NormOutput, Tensor]] = []

    def replaced(output: NormOutput) -> Tensor:
        given.append((output, plain(output)))
        return given[-1][1]

    args, kwargs = tree_map_only(NormOutput, replaced, (args, kwargs))
    result = func(*args, **kwargs)
    # What works in place returns the tensor that it was given.
    return tree_map_only(Tensor, lambda t: next((o for o, p in given if p is t), t), result)


# To make a NormOutput takes 10 µs, and 20 with gradients. From so many elements on, fusing saves
# more: timed beside convert(model) on one core of an AMD EPYC of the fourth generation.
FEWEST_ELEMENTS = {"with gradients": 16_384, "without": 131_072}


def _serves(input: Tensor, *others: Tensor | None) -> bool:
    """Whether a ``NormOutput`` is worth making, and only autograd sees functions of these."""
    fewest = FEWEST_ELEMENTS["with gradients" if torch.is_grad_enabled() else "without"]
    return (
        type(input) is Tensor
        and input.numel() >= fewest
        and not has_torch_function_variadic(*others)
        and not is_read()
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
    if training:
        mean, var = None, None  # they are updated by now

    def norm() -> Tensor:
        return F.batch_norm(input, mean, var, weight, bias, training, eps=eps)

    return NormOutput.of(norm, known, input, weight, bias, mean, var)


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

    def norm() -> Tensor:
        # Few of torch's kernels take an input of 16 bits with parameters of 32.
        wide = input if weight is None else input.to(weight.dtype)
        return F.group_norm(wide, num_groups, weight, bias, eps)

    return NormOutput.of(norm, known, *inputs)


class _BatchNormBeforeMish(BatchNormLayer):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = self._count_batch()
        mean, var, training = self._statistics()
        weight, bias, eps = self.weight, self.bias, self.eps
        if is_scripting():
            return F.batch_norm(input, mean, var, weight, bias, training, momentum, eps)
        return batch_norm(input, mean, var, weight, bias, training, momentum, eps)


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
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


BEFORE_MISH: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1dBeforeMish,
    nn.BatchNorm2d: BatchNorm2dBeforeMish,
    nn.BatchNorm3d: BatchNorm3dBeforeMish,
    nn.GroupNorm: GroupNormBeforeMish,
}
# They hold no code of their own: torch.load(..., weights_only=True) may build them.
add_safe_globals(list(BEFORE_MISH.values()))
