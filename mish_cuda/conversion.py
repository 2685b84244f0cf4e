"""Replaces the Mish of existing models by this library's, and restores it.

``convert`` replaces layers and functions; ``revert`` restores them; ``override_torch`` redirects
calls of ``F.mish``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from ._code import Use, uses
from ._fusing import fuse, pairs
from ._places import (
    OPS,
    TORCHS_OPS,
    Place,
    converted_mish,
    converted_mish_,
    converted_mish_copy,
    innermost,
    is_function,
    is_ours,
    is_wanted,
    obstacle,
    places,
    title,
    unregistered,
)
from ._replacing import Conversion, Replacements
from ._trial import argument_names, compare, forgets_inplace, not_elementwise
from .functional import mish, mish_, mish_forward
from .modules import Mish, MishCuda
from .norms import Layer


def convert(
    model: nn.Module,
    from_: type[nn.Module] | tuple[type[nn.Module], ...] = (nn.Mish,),
    where: str | Callable[[str, Any], bool] = "*",
    fuse_norms: bool = False,
) -> Conversion:
    """Replaces activations anywhere inside a model by ``mish_cuda.Mish``, in place::

        print(mish_cuda.convert(model))
        mish_cuda.convert(model, nn.SiLU, where="backbone.*")  # train it again afterwards

    Names, ``state_dict`` keys, the training flag, ``inplace``, hooks and other attributes do not
    change. One instance replaces an instance that is used in several places. Converting again does
    nothing; ``revert`` undoes it.

    Args:
        model: any module that holds activations. TorchScript cannot be changed: convert first.
        from_: the classes to replace. ``nn.Mish`` means every implementation of Mish, as a layer,
            a function in an attribute or a call in an FX graph: it is ``F.mish``, derives from
            ``nn.Mish`` or has "mish" in its name; it has no parameters or buffers; and in a trial,
            in training and in evaluation, its values and slopes are those of Mish. Any other class
            means its direct instances, which must be elementwise in a trial. They compute another
            function, so the model must be trained again.
        where: selects activations: a pattern for qualified names, in which ``*`` matches anything,
            dots included (``fnmatch``, case sensitive); or a function of name and activation.
        fuse_norms: have each BatchNorm and GroupNorm that feeds one of these Mish layers, and
            nothing else, compute both at once. The norm becomes a ``BatchNorm2dBeforeMish`` or the
            like, with the same parameters and buffers. It remains a norm for whatever else reads
            its result.

    Returns:
        The places that were replaced, those left alone with the reason, those that make training
        necessary, and calls of Mish in the code of the model.

    Raises:
        TypeError: ``model`` is not a module, or is TorchScript; ``from_`` is not a class of modules
            or a tuple of them; ``where`` is neither a pattern nor a function.
        ValueError: ``where`` matches no activation; an instance of ``from_`` cannot be replaced;
            ``model`` is itself an activation. The model is then unchanged.
    """
    _check_model("convert", model)
    classes = _check_classes(from_)
    if not (isinstance(where, str) or callable(where)):
        raise TypeError(f"convert: expected `where` to be a pattern or a function, got {where!r}.")
    found: dict[str, Any] = {}
    result = Replacements(note=True)
    for place in places(model):
        value = place.value
        ours = is_ours(value)
        if id(place.owner) in result.layers or not (ours or is_wanted(value, classes, place.key)):
            continue
        found[place.name] = value
        if ours or not _matches(where, place.name, value):
            continue
        if reason := obstacle(place):
            if isinstance(value, classes):
                raise _irreplaceable(place, f"{reason}. Or leave")
            result.report.left_alone[place.name] = reason
        elif isinstance(place.holder, fx.Node) and value in OPS:
            result.add(place, OPS[value])
        else:
            difference, inplace = compare(value)
            if type(value) not in classes and (reason := _misfit(place) or difference):
                result.report.left_alone[place.name] = f"{reason}; {_nevertheless(value)}"
            elif difference and (reason := not_elementwise(value)):
                raise _irreplaceable(place, f"{reason}. Leave")
            elif isinstance(value, nn.Module):
                result.add(place, Mish(inplace), difference)
            elif forgets_inplace(value):
                result.add(place, converted_mish_copy)
            else:
                result.add(place, converted_mish_ if inplace else converted_mish)
    if (
        not found
        and is_wanted(model, classes)
        and (isinstance(model, classes) or compare(model)[0] is None)
    ):
        raise ValueError(_itself("convert", model, "mish_cuda.Mish()"))
    if isinstance(where, str) and where != "*" and not any(fnmatchcase(n, where) for n in found):
        raise ValueError(
            f"convert: expected `where` to match the name of an activation, got {where!r}. "
            f"Their names: {_listed(list(found)) or 'there is none'}."
        )
    for name, module in unregistered(model):
        inside = [(name, "", module)]
        inside += [(f"{name}.{place.name}", place.key, place.value) for place in places(module)]
        for name, key, value in inside:
            if is_ours(value):
                found[name] = value
            elif is_wanted(value, classes, key) and _matches(where, name, value):
                result.report.left_alone[name] = _IN_LIST if value is module else _INSIDE_LIST
    hint = ""
    if nn.Mish in classes:
        looked_at = [v for name, v in found.items() if name not in result.report.left_alone]
        hint = _calls("convert", uses(model, _is_mish, _ids(looked_at)))
        hint = hint or ("" if found or result.report.left_alone else _NOTHING_FOUND)
    report = result.apply(hint)
    if fuse_norms:
        _fuse(model, where, report)
    return report


def revert(model: nn.Module, to: type[nn.Mish] | None = None) -> Conversion:
    """Removes this library's Mish from a model, in place.

    Changes of a layer since its conversion, such as ``eval()`` or a new hook, are kept. Copies of
    converted models and unpickled ones can be reverted, too.

    Args:
        model: any module; one without Mish of this library does not change.
        to: None restores the layers and functions that ``convert`` replaced. ``torch.nn.Mish``
            replaces every ``mish_cuda.Mish``, ``MishCuda`` and ``mish``, converted or not, by
            ``torch.nn.Mish`` and ``F.mish``, so that the model runs and loads without this library.

    Returns:
        The same as from ``convert``.

    Raises:
        TypeError: ``model`` is not a module, or is TorchScript.
        ValueError: ``to`` has another value; a layer cannot be replaced; ``model`` is itself an
            activation. The model is then unchanged.
    """
    _check_model("revert", model)
    if to not in (None, nn.Mish):
        raise ValueError(f"revert: expected `to` to be None or torch.nn.Mish, got {to!r}.")
    if isinstance(model, Mish):
        raise ValueError(_itself("revert", model, "torch.nn.Mish()"))
    result = Replacements(note=False)
    for place in places(model):
        if not is_ours(place.value):
            continue
        try:
            new = _torchs(place) if to else place.before()
        except _LeftAlone as error:
            result.report.left_alone[place.name] = str(error)
            continue
        if new is None:
            continue
        if reason := obstacle(place):
            raise ValueError(
                f"revert: expected layers that can be replaced, but {place.name!r} {reason}."
            )
        is_activation = isinstance(new, nn.Module) and not isinstance(place.value, Layer)
        result.add(place, new, compare(new)[0] if is_activation else None)
    hint = ""
    if to:
        held = [place.value for place in places(model) if is_ours(place.value)]
        hint = _calls("revert", uses(model, _is_of_this_library, _ids(held)))
    return result.apply(hint)


class override_torch(TorchFunctionMode):
    """A block in which calls of ``torch.nn.functional.mish`` run ``mish_cuda.mish``::

        with mish_cuda.override_torch():
            model(x).sum().backward()

    For models whose code calls ``F.mish``, so that there is no layer to ``convert``. It redirects
    calls under any imported name, those of ``torch.nn.Mish``, and those under ``torch.compile``;
    not those of ``torch._C._nn.mish`` and ``torch.ops.aten.mish``. Nothing is patched, and only the
    thread that entered the block is affected. Blocks nest, with each other and with other modes.
    In the block each call of any torch function takes longer, so ``convert`` layers if there are
    some.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (mish if func is F.mish else func)(*args, **(kwargs or {}))


# --- The replacement for each place, and reasons to leave it alone ---


def _fuse(model: nn.Module, where: str | Callable[[str, Any], bool], report: Conversion) -> None:
    """Replaces norms before Mish, and adds them to the report."""
    found = list(pairs(model, lambda name, value: _matches(where, name, value)))
    for prefix, parent, norm, activation, reason in found:
        if reason:
            report.left_alone[prefix + norm] = f"not fused with {prefix + activation}: {reason}"
            continue
        before = type(parent._modules[norm])
        fuse(parent, norm)
        report.changed[prefix + norm] = before, type(parent._modules[norm])


class _LeftAlone(Exception):
    """The reason to leave a place alone, and the remedy."""


def _torchs(place: Place) -> Any:
    """Torch's counterpart of a layer or function of this library."""
    value = place.value
    if isinstance(value, Layer):
        if (before := place.before()) is None:
            raise _LeftAlone("is a norm with Mish: put a norm and torch.nn.Mish there by hand")
        return before
    if isinstance(value, Mish):
        difference, inplace = compare(value)
        if difference:
            raise _LeftAlone(f"derives from mish_cuda.Mish, but {difference}: replace it by hand")
        return nn.Mish(inplace)
    if isinstance(place.holder, fx.Node) and value in TORCHS_OPS:
        return TORCHS_OPS[value]
    function = innermost(value)
    if isinstance(place.holder, fx.Node):
        out = place.arguments().get("out")
    else:
        out = function is mish_forward or getattr(value, "keywords", {}).get("out")
    if out is not None and out is not False:
        raise _LeftAlone("takes out=, which torch.nn.functional.mish does not: replace it by hand")
    in_place = {"inplace": True} if function is mish_ or function is converted_mish_ else {}
    if isinstance(place.holder, fx.Node) or (value is function and not in_place):
        return F.mish
    keywords = in_place | getattr(value, "keywords", {})
    return functools.partial(F.mish, *getattr(value, "args", ()), **keywords)


def _misfit(place: Place) -> str | None:
    """What this library's Mish would not do: further arguments, a call other than forward."""
    value = place.value
    is_layer = isinstance(value, nn.Module) and not isinstance(value, fx.GraphModule)
    if is_layer and type(value).__call__ is not nn.Module.__call__:
        return "has a __call__ of its own, which would no longer run"
    names = argument_names(value)[1:]
    if isinstance(place.holder, fx.Node):  # the call shows which are passed
        names = [*names[: max(len(place.holder.args) - 1, 0)], *place.holder.kwargs]
    ours = () if isinstance(place.value, nn.Module) else ("input", "inplace")
    names = [name for name in names if name not in ours]
    return f"takes {', '.join(names)}, which mish_cuda.mish does not" if names else None


def _nevertheless(value: Any) -> str:
    """How to replace an activation that failed the trial."""
    if isinstance(value, nn.Module) and not_elementwise(value) is None:
        return f"to replace it nevertheless, name {title(type(value))} in from_"
    ours = "mish_cuda.Mish()" if isinstance(value, nn.Module) else "mish_cuda.mish"
    return f"to replace it nevertheless, put {ours} there by hand"


def _is_mish(item: Any) -> bool:
    """Whether code that uses it computes Mish."""
    if innermost(item) is nn.Mish:
        return True
    if not (isinstance(item, nn.Module) or is_function(item)) or not is_wanted(item, (nn.Mish,)):
        return False
    return not set(argument_names(item)[1:]) - {"inplace"} and compare(item)[0] is None


def _is_of_this_library(item: Any) -> bool:
    return is_ours(item) or item is Mish or item is MishCuda


def _ids(activations: Iterable[Any]) -> set[int]:
    """The id() of every function and module among the activations, and of their submodules."""
    parts = (a.modules() if isinstance(a, nn.Module) else (a,) for a in activations)
    return {id(part) for inside in parts for part in inside}


def _matches(where: str | Callable[[str, Any], bool], name: str, value: Any) -> bool:
    return fnmatchcase(name, where) if isinstance(where, str) else where(name, value)


# --- Messages ---

_IN_LIST = "is in a plain list, tuple or dict: use nn.ModuleList or nn.ModuleDict"
_INSIDE_LIST = "is in a module in a plain list, tuple or dict: convert that module by itself"

_NOTHING_FOUND = (
    "found no Mish: no layer, no function in an attribute or a graph, and no call in the code of "
    "forward methods, as far as it can be followed without running it; where code computes the "
    "formula itself, use mish_cuda.mish, and convert before torch.fx expands layers"
)


def _calls(name: str, found: Iterable[Use]) -> str:
    """The hint about calls of Mish in the code of a model."""
    calls: dict[str, tuple[Any, list[str]]] = {}
    for item, function in found:
        calls.setdefault(title(item), (item, []))[1].append(function)
    return "\n".join(
        f"{what} is used in the code of {_listed(list(dict.fromkeys(functions)))}, which {name} "
        f"does not change: {_remedy(name, item)}"
        for what, (item, functions) in calls.items()
    )


def _remedy(name: str, item: Any) -> str:
    if name == "revert":
        return "use torch.nn.functional.mish there"
    ours = "mish_cuda.Mish" if isinstance(item, (nn.Module, type)) else "mish_cuda.mish"
    if innermost(item) is F.mish or nn.Mish in (innermost(item), type(item)):
        return f"run the model inside mish_cuda.override_torch(), or use {ours} there"
    return f"use {ours} there (override_torch() redirects only torch.nn.functional.mish)"


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])


def _irreplaceable(place: Place, reason: str) -> ValueError:
    return ValueError(
        f"convert: expected activations that can be replaced, but {place.name!r} "
        f"({title(place.value)}) {reason} it out with `where`."
    )


def _itself(name: str, model: nn.Module, instead: str) -> str:
    return (
        f"{name}: expected a model that holds activations, got one activation, "
        f"{title(model)}, which no module holds. Use {instead} instead."
    )


def _check_model(name: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: expected a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"{name}: expected a model in Python, got TorchScript, which cannot be changed. "
            "Do it before torch.jit.script or torch.jit.trace."
        )


def _check_classes(from_: Any) -> tuple[type[nn.Module], ...]:
    classes = from_ if isinstance(from_, tuple) else (from_,)
    for entry in classes:
        if not (isinstance(entry, type) and issubclass(entry, nn.Module)):
            raise TypeError(
                "convert: expected `from_` to be a subclass of torch.nn.Module, such as "
                f"torch.nn.ReLU, or a tuple of them, got {entry!r}."
            )
    return classes
