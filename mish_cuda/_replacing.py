"""Replaces activations at the places that were found, and reports it."""

from __future__ import annotations

import dataclasses
import sys
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from ._places import REPLACED, Place, title
from .modules import Mish
from .norms import Layer


@dataclass(frozen=True, repr=False)
class Conversion:
    """The report of ``convert`` or ``revert``; prints as a list.

    Attributes:
        changed: for each qualified name, the class (of a function: the function itself) before and
            after.
        left_alone: for each qualified name of an activation that was not replaced, the reason and
            the remedy.
        retrain: the names in ``changed`` that compute another function than before.
        hint: calls of Mish in the code of the model, which do not change, and the remedy.
    """

    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    retrain: list[str] = field(default_factory=list)
    hint: str = field(default="", compare=False)

    def __repr__(self) -> str:
        lines = [f"{len(self.changed)} replaced"]
        for name, (before, after) in self.changed.items():
            lines.append(f"  {name}: {title(before)} -> {title(after)}")
        if self.left_alone:
            lines.append(f"{len(self.left_alone)} left alone")
            lines += [f"  {name}: {reason}" for name, reason in self.left_alone.items()]
        if self.retrain:
            lines.append(f"{len(self.retrain)} compute another function now: train the model again")
            lines += [f"  {name}" for name in self.retrain]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class Replacements:
    """Planned replacements. The model does not change before ``apply``."""

    def __init__(self, note: bool) -> None:
        self.note = note
        self.layers: dict[int, nn.Module] = {}  # the new ones, by the id() of the old
        self.changes: list[tuple[Place, Any]] = []
        self.report = Conversion()

    def add(self, place: Place, new: Any, difference: str | None = None) -> None:
        """Plans to put `new` at the place, or the successor that its layer got at another place."""
        if isinstance(new, nn.Module):
            new = self.layers.setdefault(id(place.value), new)
        self.changes.append((place, new))
        self.report.changed[place.name] = (_kind(place.value), _kind(new))
        if difference:
            self.report.retrain.append(place.name)

    def apply(self, hint: str) -> Conversion:
        """Changes the model, and returns the report with this hint."""
        olds = {id(new): place.value for place, new in self.changes}
        for new in self.layers.values():
            copy_state(olds[id(new)], new)
        for place, new in self.changes:
            place.put(new, self.note)
        graphs = {place.owner for place, _ in self.changes if isinstance(place.holder, fx.Node)}
        for module in graphs:
            module.recompile()  # type: ignore[operator]
        return dataclasses.replace(self.report, hint=hint)


def copy_state(old: nn.Module, new: nn.Module) -> None:
    """Gives `new` the training flag, the hooks and other attributes of `old`.

    The two share the dictionaries of hooks, so that existing handles still remove their hooks.
    """
    own = {"__module__", "inplace", "_modules", REPLACED}
    own |= {"forward", "_old_forward", "_hf_hook"}
    vars(new).update({name: value for name, value in vars(old).items() if name not in own})
    hook: Any
    for hook in new._load_state_dict_pre_hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)
    if isinstance(new, (Mish, Layer)):
        vars(new)[REPLACED] = old  # setattr would make it a submodule
    # Accelerate's hooks are in a forward of the instance, which only accelerate can make.
    if "_hf_hook" in vars(new):
        sys.modules["accelerate.hooks"].remove_hook_from_module(new)
    if "_hf_hook" in vars(old):
        sys.modules["accelerate.hooks"].add_hook_to_module(new, vars(old)["_hf_hook"])


def _kind(value: Any) -> Any:
    return type(value) if isinstance(value, nn.Module) else value
