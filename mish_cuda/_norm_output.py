"""The result of a norm whose Mish is known, and which is computed when something reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._guards import CompileContext
from torch.compiler import is_compiling
from torch.utils._pytree import tree_map_only

from ._places import CONVERTED, converted_mish_copy
from .functional import mish, mish_

_OVERWRITTEN = (
    "mish_cuda: expected the input, the parameters and the running statistics of a norm before "
    "Mish to be unchanged until something else than Mish has read its result, but one of them was "
    "overwritten or freed. Leave this norm out, with `where`, of convert(model, fuse_norms=True)."
)
_IN_PLACE = (
    "mish_cuda: expected the result of a norm before Mish not to be changed by {} once Mish has "
    "overwritten it, or in its shape. Work on a clone, or leave this norm out, with `where`, of "
    "convert(model, fuse_norms=True)."
)
_PASSED_BY = (
    "mish_cuda: expected no gradient to be asked for the result of a norm before Mish, since Mish "
    "has computed both at once, so that its gradient passes by. Ask for hooks, or retain_grad(), "
    "before Mish is called, or leave this norm out, with `where`, of convert(model, "
    "fuse_norms=True)."
)
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def _states(tensors: tuple[Tensor | None, ...]) -> list[tuple[int, int]]:
    """How often each was overwritten, and where its memory is."""
    return [(t._version, t.data_ptr()) for t in tensors if t is not None]


class _Call:
    """A call of a norm.

    Attributes:
        norm: the norm, a function of input, weight and bias.
        inputs: those three.
        mish: the Mish of its result, until it is used or something else is read.
        is_used: whether the Mish was used, with gradients.
        is_overwritten: whether Mish worked in place, so that its result is the norm's, too.
    """

    def __init__(
        self, norm: Callable[..., Tensor], mish: Tensor, inputs: tuple[Tensor | None, ...]
    ) -> None:
        self.norm, self.dtype = norm, mish.dtype
        self.inputs: tuple[Tensor | None, ...] | None = inputs
        self.mish: Tensor | None = mish
        self.states = _states(inputs)
        self.saved_tensors_hooks = _saved_tensors_hooks(True)
        self.is_used = self.is_overwritten = False

    def value(self) -> Tensor:
        """The result of the norm. It is asked for once, and the inputs are not kept."""
        inputs, self.inputs, self.mish = self.inputs, None, None
        if inputs is None or _states(inputs) != self.states:
            raise RuntimeError(_OVERWRITTEN)
        with torch.inference_mode(False), torch.no_grad():
            return self.norm(*inputs).to(self.dtype)

    def gradients(
        self, inputs: tuple[Tensor | None, ...], wanted: tuple[bool, ...], grad: Tensor
    ) -> Iterator[Tensor | None]:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Of aliases: hooks of the inputs are not for this.
            aliases = [
                None if t is None else t.view_as(t) if t.requires_grad else t.detach()
                for t in inputs
            ]
            leaves = [
                t if t.requires_grad else t.requires_grad_()
                for t, needed in zip(aliases, wanted, strict=True)
                if needed and t is not None
            ]
            output = self.norm(*aliases).to(self.dtype)
            if self.is_overwritten:
                output = mish(output)
        found = iter(torch.autograd.grad(output, leaves, grad, create_graph=create_graph))
        return (next(found) if needed else None for needed in wanted)


class _Norm(torch.autograd.Function):
    """The node of the result of a norm, for others than Mish."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor | None) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*inputs[:2])
        ctx.bias = inputs[2]  # its values do not count, so that it may change
        assert call.mish is not None
        return NormOutput(call, call.mish)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs = (*ctx.saved_tensors, ctx.bias)
        return None, *ctx.call.gradients(inputs, ctx.needs_input_grad[1:], grads[0])


def _saved_as_they_are() -> Any:
    """A context in which the node of a result saves its inputs.

    The node of Mish saves the same ones. Hooks that store saved tensors elsewhere should not do so
    twice; those of a checkpoint, which computes them again, have to know of both.
    """
    hooks = _saved_tensors_hooks(True)
    if hooks is None or getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint":
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


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
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined, union-attr]
_ASK_FOR_GRADIENTS = (
    Tensor.grad.__get__,  # type: ignore[attr-defined, union-attr]
    Tensor.register_hook,
    Tensor.retain_grad,
)


class NormOutput(Tensor):
    """The result of a norm, whose Mish is known, and which is computed when something reads it.

    The first op that reads it computes it, below autograd. To autograd it is the result of a node
    that computes the gradients of the norm.
    """

    _call: _Call | None
    _node: Any
    _value: Tensor | None
    _version_of_mish: int

    @staticmethod
    def __new__(cls, call: _Call | None, like: Tensor) -> NormOutput:
        self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, like.shape, dtype=like.dtype, device=like.device
        )
        # C++ that reads memory without an op raises, instead of reading none.
        torch._C._set_throw_on_mutable_data_ptr(self)
        self._call, self._node, self._value = call, None, None
        return self  # type: ignore[no-any-return]

    @staticmethod
    def of(norm: Callable[..., Tensor], mish: Tensor, *inputs: Tensor | None) -> NormOutput:
        """The result of ``norm(*inputs)``: input, weight and bias."""
        call = _Call(norm, mish, inputs)
        if not mish.requires_grad:
            return NormOutput(call, mish)
        with _saved_as_they_are():
            self = _Norm.apply(call, *inputs)  # type: ignore[no-untyped-call]
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
        call.mish = None
        if inplace:
            self._value, call.is_overwritten = known.detach(), True
            self._version_of_mish = known._version
        if known.requires_grad:
            call.is_used = torch.is_grad_enabled()
            return known if call.is_used else known.detach()
        return known

    @property
    def _computed(self) -> Tensor:
        if self._value is None:
            assert self._call is not None
            self._value = self._call.value()
        elif (
            self._call
            and self._call.is_overwritten
            and self.requires_grad
            and self._value._version != self._version_of_mish
        ):
            # Both share memory, but what is done to one has no place in the graph of the other.
            raise RuntimeError(_IN_PLACE.format("what was done to the result of Mish"))
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
            compiling = CompileContext.try_get() is not None
            # A compiler that makes a fake of it wants the memory of the wrapper, and no gradient.
            if func in _NEED_PLAIN_TENSORS and not (compiling and func is Tensor.untyped_storage):
                return _with_plain(torch.ops.aten.alias, func, args, kwargs)
            if func == _SET_DATA:
                raise RuntimeError(_IN_PLACE.format("setting .data"))
            if not compiling:
                _check_gradients(func, args)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            _check_in_place(func, args, kwargs)
        result = _with_plain(lambda output: output._computed, func, args, kwargs)
        if func is torch.ops.aten.detach.default and CompileContext.try_get() is not None:
            # A compiler makes a fake that is no leaf from one that is, and expects the same kind.
            return NormOutput.__tensor_unflatten__({"_computed": result}, None, None, None)
        return result


def _check_in_place(func: Any, args: Any, kwargs: Any) -> None:
    """Raises where a change in place would not be seen by the result of Mish, or by its shape."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        output = given.get(argument.name)
        if isinstance(output, NormOutput) and argument.alias_info and argument.alias_info.is_write:
            call = output._call
            if torch.Tag.inplace_view in func.tags or (call and call.is_overwritten):
                raise RuntimeError(_IN_PLACE.format(func))


def _check_gradients(func: Any, args: Any) -> None:
    """Raises where the gradient for a result is asked whose Mish has been used."""
    asked: Any = ()
    if func in _ASK_FOR_GRADIENTS:
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
