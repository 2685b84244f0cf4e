"""Puts this library's Mish into models that exist already, and takes it out again.

``convert`` replaces layers; ``override_torch`` redirects the calls of ``F.mish`` in a block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .functional import mish
from .modules import Mish, MishCuda


@dataclass(frozen=True, repr=False)
class Conversion:
    """What ``convert`` or ``revert`` did. Printed, it is a list to read.

    Attributes:
        changed: by qualified name, the class (of a function: the function itself) before and after.
        left_alone: by qualified name, why what looked like an activation to replace has stayed.
        retrain: the names in ``changed`` that compute another function than before.
        hint: what else to try where ``convert`` found no Mish.
    """

    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    retrain: list[str] = field(default_factory=list)
    hint: str = field(default="", compare=False)

    def __repr__(self) -> str:
        lines = [f"{len(self.changed)} replaced"]
        for name, (before, after) in self.changed.items():
            lines.append(f"  {name}: {_title(before)} -> {_title(after)}")
        if self.left_alone:
            lines.append(f"{len(self.left_alone)} left alone")
            lines += [f"  {name}: {reason}" for name, reason in self.left_alone.items()]
        if self.retrain:
            lines.append(f"{len(self.retrain)} compute another function now: train the model again")
            lines += [f"  {name}" for name in self.retrain]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


def convert(
    model: nn.Module,
    from_: type[nn.Module] | tuple[type[nn.Module], ...] = (nn.Mish,),
    where: str | Callable[[str, Any], bool] = "*",
) -> Conversion:
    """Replaces activations anywhere inside a model by ``mish_cuda.Mish``, in place::

        print(mish_cuda.convert(model))
        mish_cuda.convert(model, nn.SiLU, where="backbone.*")  # train it again afterwards

    Names, ``state_dict`` keys, the training flag, ``inplace``, hooks and other attributes stay, and
    an instance used in several places is replaced by one instance. Converting again does nothing;
    ``revert`` undoes it.

    Args:
        model: any module that holds activations. TorchScript cannot be changed: convert first.
        from_: the classes to replace. ``nn.Mish`` stands for Mish of any make: attributes that are
            the function ``F.mish``, and layers whose class derives from ``nn.Mish`` or has "mish"
            in its name, if they have no parameters or buffers and when tried out, in training and
            in evaluation, have the values and slopes of Mish. Of other classes exactly the
            instances are meant, which when tried out must be elementwise; they compute something
            else, so the model must be trained again.
        where: which ones: a pattern for qualified names, in which ``*`` stands for anything, dots
            included (``fnmatch``, case sensitive); or a function of the name and the activation.

    Returns:
        What was replaced, what was left alone and why, and what makes training necessary.

    Raises:
        TypeError: ``model`` is no module or is TorchScript; ``from_`` is not made of classes;
            ``where`` is neither.
        ValueError: no activation has a name that matches; an instance of ``from_`` cannot be
            replaced; ``model`` is an activation itself. The model is then as it was.
    """
    _check_model("convert", model)
    classes = _check_classes(from_)
    if not (isinstance(where, str) or callable(where)):
        raise TypeError(f"convert: expected `where` to be a pattern or a function, got {where!r}.")
    names = []
    result = _Replacements()
    for place in _places(model):
        value = place.value
        ours = isinstance(value, Mish) or value is mish or value is converted_mish
        if id(place.owner) in result.new or not (ours or _is_wanted(value, classes)):
            continue
        names.append(place.name)
        if ours or not _matches(where, place.name, value):
            continue
        if value is F.mish:
            result.add(place, converted_mish)
        elif obstacle := _obstacle(place):
            if isinstance(value, classes):
                raise _irreplaceable(place, obstacle)
            result.report.left_alone[place.name] = obstacle
        else:
            difference, inplace = _compare(value)
            if difference and type(value) not in classes:
                result.report.left_alone[place.name] = (
                    f"{difference}; to replace it nevertheless, name {_title(type(value))} in from_"
                )
                continue
            if difference and (obstacle := _not_elementwise(value)):
                raise _irreplaceable(place, obstacle)
            result.add(place, Mish(inplace), difference)
    if (
        not names
        and _is_wanted(model, classes)
        and (isinstance(model, classes) or _compare(model)[0] is None)
    ):
        raise ValueError(_itself("convert", model, "mish_cuda.Mish()"))
    if isinstance(where, str) and where != "*" and not any(fnmatchcase(n, where) for n in names):
        there = ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])
        raise ValueError(
            f"convert: expected `where` to match the name of an activation, got {where!r}. "
            f"Their names: {there or 'there is none'}."
        )
    if not names and nn.Mish in classes:
        return Conversion(hint=_NOTHING_FOUND)
    return result.carry_out()


def revert(model: nn.Module, to: type[nn.Mish] | None = None) -> Conversion:
    """Takes this library's Mish out of a model again, in place.

    What happened to a layer since it was converted, such as ``eval()`` or a new hook, stays. Copies
    of converted models and unpickled ones can be reverted, too.

    Args:
        model: a model; one without Mish of this library stays as it is.
        to: None, to put back what ``convert`` replaced; or ``torch.nn.Mish``, to have it (and
            ``F.mish``) in place of every ``mish_cuda.Mish``, ``MishCuda`` and ``mish``, converted
            or not, so that the model runs and loads without this library.

    Returns:
        As ``convert`` does.

    Raises:
        TypeError: ``model`` is no module or is TorchScript.
        ValueError: another ``to``; a layer cannot be replaced; ``model`` is an activation itself.
            The model is then as it was.
    """
    _check_model("revert", model)
    if to not in (None, nn.Mish):
        raise ValueError(f"revert: expected `to` to be None or torch.nn.Mish, got {to!r}.")
    if isinstance(model, Mish):
        raise ValueError(_itself("revert", model, "torch.nn.Mish()"))
    result = _Replacements()
    for place in _places(model):
        value = place.value
        new, difference = None, None
        if value is converted_mish or (to and value is mish):
            new = F.mish
        elif isinstance(value, Mish) and to:
            difference, inplace = _compare(value)
            if difference:
                result.report.left_alone[place.name] = (
                    f"derives from mish_cuda.Mish, but {difference}"
                )
            else:
                new = nn.Mish(inplace)
        elif isinstance(value, Mish) and _REPLACED in vars(value):
            new = vars(value)[_REPLACED]
            difference, _ = _compare(new)
        if new is None:
            continue
        if obstacle := _obstacle(place):
            raise ValueError(
                f"revert: expected layers that can be replaced, but {place.name!r} {obstacle}."
            )
        result.add(place, new, difference)
    return result.carry_out()


class override_torch(TorchFunctionMode):
    """Within it, ``torch.nn.functional.mish`` is ``mish_cuda.mish``, in ``torch.nn.Mish`` too::

        with mish_cuda.override_torch():
            model(x).sum().backward()

    For models whose code calls ``F.mish``, so that there is no layer to ``convert``. Calls are seen
    under whatever name the function was imported, and under ``torch.compile``, but not those of
    ``torch._C._nn.mish`` and ``torch.ops.aten.mish``. Nothing is patched: only the thread that
    entered is affected, until it leaves. Blocks nest, among themselves and with other modes.
    Each call of any torch function costs more inside, so where there are layers, ``convert`` them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (mish if func is F.mish else func)(*args, **(kwargs or {}))


# --- What is where ---


@dataclass(frozen=True)
class _Place:
    """An attribute of a module that holds a module or a function."""

    name: str
    owner: nn.Module
    key: str
    value: Any


def converted_mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``mish`` in the place of ``F.mish``: a function of its own, by which ``revert`` knows it."""
    return mish(input, inplace)


converted_mish.__module__ = "mish_cuda"  # pickles name the public path

_FUNCTIONS = (F.mish, mish, converted_mish)


def _places(model: nn.Module) -> Iterator[_Place]:
    """Each submodule and each function of ``_FUNCTIONS``, by all of its names, outer ones first."""
    for prefix, owner in model.named_modules(remove_duplicate=False):
        if isinstance(owner, Mish):  # what else it holds was handed over by what it replaced
            continue
        functions = [(key, f) for key, f in vars(owner).items() if isinstance(f, FunctionType)]
        for key, value in chain(owner._modules.items(), functions):
            if isinstance(value, nn.Module) or value in _FUNCTIONS:
                yield _Place(f"{prefix}.{key}".removeprefix("."), owner, key, value)


def _is_wanted(value: Any, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether it is of one of the classes or, with ``nn.Mish`` among them, may be a Mish."""
    if isinstance(value, Mish):  # ours
        return False
    if isinstance(value, classes):
        return True
    if nn.Mish not in classes:
        return False
    if not isinstance(value, nn.Module):
        return value is F.mish
    scripted = isinstance(value, torch.jit.ScriptModule)
    name = str(value.original_name) if scripted else type(value).__name__
    if "mish" not in name.lower():
        return False
    # A layer may be made of others, say Softplus and Tanh; blocks and networks have more inside.
    inside = list(value.modules())[1:]
    return not inside or not (_has_state(value) or any(_is_wanted(m, classes) for m in inside))


def _has_state(module: nn.Module) -> bool:
    return next(chain(module.parameters(), module.buffers()), None) is not None


def _matches(where: str | Callable[[str, Any], bool], name: str, value: Any) -> bool:
    return fnmatchcase(name, where) if isinstance(where, str) else where(name, value)


def _obstacle(place: _Place) -> str | None:
    """Why the layer there cannot be replaced, as the rest of a sentence; None if it can."""
    owner, value = place.owner, place.value
    if isinstance(value, FunctionType):
        return None
    if isinstance(owner, torch.jit.ScriptModule) or isinstance(value, torch.jit.ScriptModule):
        return "is TorchScript, which cannot be changed: convert before torch.jit.script"
    if place.key == "_orig_mod" or value._compiled_call_impl is not None:
        return "is compiled by itself, which would go on: convert before torch.compile"
    if "forward" in vars(value):
        return "has a forward of its own, put there by other code"
    if _has_state(value):
        return "has parameters or buffers, which would be lost"
    if place.key == "activation" and getattr(owner, "activation_relu_or_gelu", False):
        return "goes unused in evaluation: its nn.TransformerEncoderLayer computes it in one kernel"
    return None


def _compare(activation: nn.Module) -> tuple[str | None, bool]:
    """How it differs from Mish when tried out, None if it does not; whether it works in place."""
    inplace = bool(getattr(activation, "inplace", False))
    if type(activation) in (nn.Mish, Mish, MishCuda):
        return None, inplace
    training = activation.training
    # In float64: the tolerance is for other formulas of Mish, and no other function comes near.
    points = torch.linspace(-20, 20, 81, dtype=torch.float64, device="cpu")
    try:
        with torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.enable_grad():
            expected, _ = _try_out(mish, points)
            for mode in (True, False):
                activation.training = mode
                # What it overwrites is seen, not asked: there are layers that ignore `inplace`.
                got, inplace = _try_out(activation.forward, points)
                gap = (got - expected).abs().nan_to_num(nan=torch.inf)
                if (gap > 1e-5 * (1 + expected.abs())).any():
                    row, column = divmod(int(gap.argmax()), len(points))
                    return (
                        f"has the {('value', 'slope')[row]} {got[row, column]:.4g} at "
                        f"{points[column]:g}, where Mish has {expected[row, column]:.4g}"
                    ), inplace
    except Exception as error:
        return f"fails when tried out ({type(error).__name__}: {error})", inplace
    finally:
        activation.training = training
    return None, inplace


def _try_out(function: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, bool]:
    """Its values in a row and its slopes in another, and whether it overwrote its input."""
    leaf = points.clone().requires_grad_()
    x = leaf.clone()
    y = function(x)
    if y.dtype != points.dtype:
        raise TypeError(f"from {points.dtype} it makes {y.dtype}")
    (slope,) = torch.autograd.grad(y.sum(), leaf)
    return torch.stack([y.detach(), slope]), not torch.equal(x, points)


def _not_elementwise(module: nn.Module) -> str | None:
    """Why it is no elementwise function, as the rest of a sentence; None if a trial lets it pass.

    Of 128 numbers one is changed, and then no other result may change. Random numbers stay, and so
    does the sign, by which RReLU decides how many to draw.
    """
    x = torch.linspace(-3, 3, 128, dtype=torch.float32, device="cpu").reshape(2, 4, 4, 4)
    one = (1, 1, 1, 2)  # no place that mirroring or shuffling leaves as it is
    other = x.clone()
    other[one] = 9
    try:
        with torch.inference_mode(False), torch.no_grad():
            before, after = _values(module, x), _values(module, other)
        if before.shape != x.shape:
            return f"makes the shape {tuple(before.shape)} of {tuple(x.shape)}"
        after = after.clone()  # an expanded result cannot be written to
        after[one] = before[one]
        if not torch.equal(before.nan_to_num(), after.nan_to_num()):
            return "computes a result from several elements, so it is no elementwise function"
    except Exception as error:
        return f"fails when tried out on {tuple(x.shape)} ({type(error).__name__}: {error})"
    return None


def _values(module: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=()):
        return module.forward(x.clone())  # type: ignore[no-any-return]


# --- Replacing ---

_REPLACED = "_replaced"  # the attribute in which a layer keeps what it has replaced


class _Replacements:
    """What is to be replaced by what. Nothing is touched before ``carry_out``."""

    def __init__(self) -> None:
        self.new: dict[int, Any] = {}  # by the id() of the old
        self.places: list[_Place] = []
        self.report = Conversion()

    def add(self, place: _Place, new: Any, difference: str | None = None) -> None:
        """`new` is passed over if what is there has been given a successor at another place."""
        self.new.setdefault(id(place.value), new)
        self.places.append(place)
        self.report.changed[place.name] = (_kind(place.value), _kind(new))
        if difference:
            self.report.retrain.append(place.name)

    def carry_out(self) -> Conversion:
        for place in self.places:
            new = self.new[id(place.value)]
            # Not by setattr, which a module may override and which knows no indices.
            if isinstance(new, nn.Module):
                _hand_over(place.value, new)
                place.owner._modules[place.key] = new
            else:
                vars(place.owner)[place.key] = new
        return self.report


def _hand_over(old: nn.Module, new: nn.Module) -> None:
    """Gives `new` the training flag, the hooks and what else was set on `old`.

    They share the dictionaries of hooks, so that the handles of the hooks still remove them.
    """
    own = ("inplace", "_modules", _REPLACED)
    vars(new).update({name: value for name, value in vars(old).items() if name not in own})
    hook: Any
    for hook in new._load_state_dict_pre_hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)
    if isinstance(new, Mish):
        vars(new)[_REPLACED] = old  # not by setattr, which would make it a submodule


# --- Messages ---

_NOTHING_FOUND = (
    "no layer or attribute is Mish; for calls of F.mish there is mish_cuda.override_torch()"
)


def _kind(value: Any) -> Any:
    return value if isinstance(value, FunctionType) else type(value)


def _title(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _irreplaceable(place: _Place, obstacle: str) -> ValueError:
    return ValueError(
        f"convert: expected activations that can be replaced, but {place.name!r} "
        f"({_title(type(place.value))}) {obstacle}. Leave it out by means of `where`."
    )


def _itself(name: str, model: nn.Module, instead: str) -> str:
    return (
        f"{name}: expected a model that holds activations, got one activation, "
        f"{_title(type(model))}, which has no place to be replaced in. Use {instead} in its stead."
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
