"""Where a model holds activations: as layers, as attributes that are functions, in FX graphs."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import handle_torch_function, has_torch_function_unary

from ._extension import C
from .functional import mish, mish_, mish_forward
from .modules import Mish
from .norms import Layer

# convert replaces functions by these, by which revert recognises them. Each handles
# __torch_function__ under its own name, so it keeps that name in graphs.


def converted_mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``mish`` in place of ``F.mish`` and other functions that compute it."""
    if has_torch_function_unary(input):
        return handle_torch_function(converted_mish, (input,), input, inplace=inplace)  # type: ignore[no-any-return]
    return mish(input, inplace)


def converted_mish_(input: Tensor, inplace: bool = True) -> Tensor:
    """``mish`` in place of functions that overwrite their input by default."""
    if has_torch_function_unary(input):
        return handle_torch_function(converted_mish_, (input,), input, inplace=inplace)  # type: ignore[no-any-return]
    return mish(input, inplace)


def converted_mish_copy(input: Tensor, inplace: bool = False) -> Tensor:
    """``mish`` in place of functions that take ``inplace`` and ignore it, such as timm's."""
    if has_torch_function_unary(input):
        return handle_torch_function(converted_mish_copy, (input,), input, inplace=inplace)  # type: ignore[no-any-return]
    return mish(input)


CONVERTED = (converted_mish, converted_mish_, converted_mish_copy)
FUNCTIONS = (*CONVERTED, mish, mish_, mish_forward)  # of this library, in models


def _ops(namespace: Any) -> list[Any]:
    packets = [namespace.mish, namespace.mish_, namespace.mish_backward]
    return [*packets, *(packet.default for packet in packets), namespace.mish.out]


# Torch's ops and this library's, so that a graph of ops stays a graph of ops.
OPS = {} if C is None else dict(zip(_ops(torch.ops.aten), _ops(torch.ops.mish_cuda), strict=True))
TORCHS_OPS = {ours: theirs for theirs, ours in OPS.items()}

REPLACED = "_replaced"  # the attribute of a layer with the layer that it replaced
_NOTE = "_mish_cuda_replaced_"  # prefix of the key under which a replaced function is stored


@dataclass(frozen=True, eq=False)
class Place:
    """One activation of a model, and what holds it.

    Attributes:
        name: the qualified name, for reports and filters.
        owner: the module that the activation belongs to.
        holder: the submodules or the attributes of ``owner``, or a node of its graph.
        key: the name in ``holder``.
        value: the layer or function.
    """

    name: str
    owner: nn.Module
    holder: dict[str, Any] | fx.Node
    key: str
    value: Any

    def put(self, new: Any, note: bool) -> None:
        """Replaces the value. With `note`, stores a replaced function for ``before``."""
        if isinstance(self.holder, fx.Node):
            notes = self.holder.meta
            if new is F.mish and is_ours(self.value):
                arguments = self.arguments()
                self.holder.args = (arguments["input"],)
                inplace = arguments.get("inplace", self.value is mish_)
                self.holder.kwargs = {"inplace": inplace and self.value is not converted_mish_copy}
                notes.pop("is_wrapped", None)  # if it was a function of fx.wrap; F.mish is none
            self.holder.target = new
        else:
            notes = self.holder
            # Not setattr: a module may override it, and it does not take indices.
            self.holder[self.key] = new
        notes.pop(_NOTE + self.key, None)
        if note and not isinstance(self.value, nn.Module):
            notes[_NOTE + self.key] = self.value

    def before(self) -> Any:
        """What ``convert`` replaced here; ``F.mish`` for an unknown function; else None."""
        if isinstance(self.value, nn.Module):
            return vars(self.value).get(REPLACED)
        notes = self.holder.meta if isinstance(self.holder, fx.Node) else self.holder
        default = F.mish if any(self.value is f for f in CONVERTED) else None
        return notes.get(_NOTE + self.key, default)

    def arguments(self) -> dict[str, Any]:
        """The arguments by name of a call of this library's function in a graph."""
        assert isinstance(self.holder, fx.Node)
        bound = inspect.signature(self.value).bind(*self.holder.args, **self.holder.kwargs)
        bound.apply_defaults()
        return bound.arguments


def is_ours(value: Any) -> bool:
    """Whether it is a layer or function of this library."""
    if isinstance(value, (OpOverload, OpOverloadPacket)):
        return value in TORCHS_OPS
    return isinstance(value, (Mish, Layer)) or any(innermost(value) is f for f in FUNCTIONS)


def places(model: nn.Module) -> Iterator[Place]:
    """Each submodule, function and call in a graph, in each module once, outer ones first.

    A module that several share has only its first name here: there may be millions of paths to it,
    and infinitely many if a module holds itself.
    """
    for prefix, owner in model.named_modules():
        if isinstance(owner, Mish):  # its other attributes came from the layer that it replaced
            continue
        prefix = f"{prefix}." if prefix else ""
        for key, value in owner._modules.items():
            if value is not None and value is not model:  # the caller would still hold the old one
                yield Place(prefix + key, owner, owner._modules, key, value)
        for key, value in vars(owner).items():
            if is_function(value) and not key.startswith((_NOTE, "_old_forward")):
                yield Place(prefix + key, owner, vars(owner), key, value)
        if isinstance(owner, fx.GraphModule):
            for node in owner.graph.nodes:
                if node.op == "call_function":
                    yield Place(f"{prefix}graph.{node.name}", owner, node, "target", node.target)


def unregistered(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The name and module of each module in a plain list or dictionary, where torch does not
    register submodules."""
    known = set(map(id, model.modules()))
    roots = [("", model)]
    for root, module in roots:  # grows during the loop
        for prefix, owner in module.named_modules(prefix=root):
            for key, held in vars(owner).items():
                if isinstance(held, (list, tuple, dict)):
                    for index, value in held.items() if isinstance(held, dict) else enumerate(held):
                        if isinstance(value, nn.Module) and id(value) not in known:
                            known.update(map(id, value.modules()))
                            name = f"{prefix}.{key}[{index!r}]".removeprefix(".")
                            roots.append((name, value))
                            yield name, value


def is_function(value: Any) -> bool:
    return callable(value) and not isinstance(innermost(value), (type, nn.Module))


def innermost(function: Any) -> Any:
    """The function that a nested ``functools.partial`` calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_wanted(value: Any, classes: tuple[type[nn.Module], ...], key: str = "") -> bool:
    """Whether it is of one of the classes or, if ``nn.Mish`` is among them, may be a Mish."""
    if is_ours(value):
        return False
    if isinstance(value, classes):
        return True
    if nn.Mish not in classes:
        return False
    if not isinstance(value, nn.Module):
        return _is_function_named_mish(innermost(value), key)
    if not _is_mish(_name(value)):
        return False
    # A Mish layer may consist of others, such as Softplus and Tanh. A block or network named after
    # Mish has parameters, or a Mish of its own.
    inside = list(value.modules())[1:]
    return not inside or not (
        has_state(value) or any(isinstance(m, classes) or _is_mish(_name(m)) for m in inside)
    )


def _is_mish(name: str) -> bool:
    return "mish" in name.lower()


def _name(module: nn.Module) -> str:
    scripted = isinstance(module, torch.jit.ScriptModule)
    return str(module.original_name) if scripted else type(module).__name__


def _is_function_named_mish(function: Any, key: str) -> bool:
    """Whether its name, its class or the attribute has "mish", or it is a lambda of the formula."""
    attribute = "name" if isinstance(function, torch.jit.ScriptFunction) else "__name__"
    layer = getattr(function, "__self__", None)
    if isinstance(layer, nn.Module) and function.__name__ == "forward":  # nn.Mish().forward
        return is_wanted(layer, (nn.Mish,))
    names = {key, str(getattr(function, attribute, type(function).__name__))}
    if isinstance(owner := getattr(function, "__self__", None), type):  # torch.autograd.Function
        names.add(owner.__name__)
    if "<lambda>" in names:
        names.update(function.__code__.co_names, function.__code__.co_freevars)
        if "tanh" in names and not names.isdisjoint({"softplus", "exp", "log1p"}):
            return True
    return any(map(_is_mish, names))


def has_state(module: nn.Module) -> bool:
    return next(chain(module.parameters(), module.buffers()), None) is not None


_UNHOOK = (
    "first remove its hooks with accelerate.hooks.remove_hook_from_module(model, recurse=True)"
)


def obstacle(place: Place) -> str | None:
    """Why the activation cannot be replaced, with the remedy; None if it can."""
    owner, value = place.owner, place.value
    attributes = vars(value) if isinstance(value, nn.Module) else {}
    if isinstance(owner, torch.jit.ScriptModule) or isinstance(value, torch.jit.ScriptModule):
        return "is TorchScript, which cannot be changed: convert before torch.jit.script"
    if hasattr(value, "_torchdynamo_orig_callable"):
        return "is a compiled function, which would still run: compile mish_cuda.mish instead"
    if place.key == "_orig_mod" or attributes.get("_compiled_call_impl") is not None:
        return "is compiled by itself and would still run: convert before torch.compile"
    if isinstance(place.holder, fx.Node) and "_hf_hook" in vars(owner):
        return f"is called in a graph that accelerate has dispatched: {_UNHOOK}"
    if "forward" in attributes:
        if "_hf_hook" not in attributes:
            return "has a forward of its own, set by other code: first delete it from the layer"
        if "accelerate.hooks" not in sys.modules:
            return f"was dispatched by accelerate, which is not loaded: {_UNHOOK}"
    if isinstance(value, nn.Module) and has_state(value) and not isinstance(value, Layer):
        return (
            "has parameters or buffers, which would be lost: put mish_cuda.Mish() there by hand if "
            "the model can do without them"
        )
    if place.key == "activation" and getattr(owner, "activation_relu_or_gelu", False):
        return (
            "is not used in evaluation, where its nn.TransformerEncoderLayer computes it in one "
            "kernel: first set activation_relu_or_gelu of that layer to 0"
        )
    return None


def title(value: Any) -> str:
    """The qualified name of a class, function or op, or of the class of an instance."""
    if isinstance(value, functools.partial):
        given = [*map(repr, value.args), *(f"{k}={v!r}" for k, v in value.keywords.items())]
        return f"functools.partial({', '.join([title(value.func), *given])})"
    if isinstance(value, (OpOverload, OpOverloadPacket)):
        return f"torch.ops.{value}"
    if isinstance(value, torch.jit.ScriptFunction):
        return f"torch.jit.script({value.name})"
    if isinstance(owner := getattr(value, "__self__", None), type):
        return f"{title(owner)}.{value.__name__}"
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return f"{value.__module__}.{value.__qualname__}"
