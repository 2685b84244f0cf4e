"""Finds calls of Mish in the code of a model, which ``convert`` reports but cannot replace.

No code is run. Names in the bytecode of ``forward`` are looked up as Python would, and functions of
the same package or folder are followed. Names computed at run time are not found.
"""

from __future__ import annotations

import dis
import inspect
import os
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import (
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from torch import nn
from torch._ops import OpOverloadPacket

from ._places import innermost

# A function or module that is used, and the name of the function that uses it.
Use = tuple[Any, str]
_NEUTRAL = {"CACHE", "EXTENDED_ARG", "NOP", "POP_TOP", "PRECALL", "PUSH_NULL", "ROT_TWO", "SWAP"}
_FOREIGN = ("torch", "mish_cuda")
_LARGE = 1000  # items of a list that are looked at; longer lists hold data


def uses(model: nn.Module, wanted: Callable[[Any], bool], skip: set[int]) -> Iterator[Use]:
    """The uses of ``wanted`` items in the code of ``forward`` and of the functions that it calls.

    Of modules that are alike one is examined, with the functions that are its attributes; none is
    examined whose id() is in ``skip``.
    """
    scan = _Scan(wanted, skip)
    seen = set()
    for module in model.modules():
        if (traits := _traits(module)) in seen or id(module) in skip:
            continue
        seen.add(traits)
        for base in type(module).__mro__:
            if _package(base) in _FOREIGN:
                break
            if "forward" in vars(base):
                forward = vars(base)["forward"]
                instance = None if isinstance(forward, staticmethod) else module
                forward = inspect.unwrap(forward)
                yield from scan.function(forward, instance)
                if not (isinstance(forward, FunctionType) and _asks_for_super(forward.__code__)):
                    break


def _traits(module: nn.Module) -> tuple[Any, ...]:
    """The class, and what its code may choose an activation by: strings, functions, settings."""
    chosen = (v for v in vars(module).values() if isinstance(v, (str, list, tuple)) or _has_own(v))
    return (type(module), *(v if isinstance(v, str) else id(v) for v in chosen))


def _has_own(value: Any) -> bool:
    """Whether it has attributes of its own. Dictionaries of hooks do, too."""
    return hasattr(value, "__dict__") and not isinstance(value, dict)


def _asks_for_super(code: CodeType) -> bool:
    return "__class__" in code.co_freevars


def _are_neighbours(function: FunctionType, other: FunctionType) -> bool:
    """Whether they belong to one package, or to files of one folder."""
    folders = {os.path.dirname(f.__code__.co_filename) for f in (function, other)}
    return _package(function) == _package(other) or len(folders) == 1


def _package(item: Any) -> str:
    return str(item.__module__).partition(".")[0]


class _Scan:
    def __init__(self, wanted: Callable[[Any], bool], skip: set[int]) -> None:
        self.wanted = wanted
        self.skip = skip
        self.known: dict[tuple[FunctionType, int], list[Use]] = {}

    def function(
        self, function: Any, instance: Any, caller: FunctionType | None = None
    ) -> list[Use]:
        """The uses in a Python function. None are sought in functions of torch and of this library,
        nor in those of another package and folder than the caller's."""
        if not isinstance(function, FunctionType) or _package(function) in _FOREIGN:
            return []
        if caller is not None and not _are_neighbours(function, caller):
            return []
        code = function.__code__
        key = (function, id(instance))
        if key not in self.known:
            self.known[key] = []  # it may call itself
            scope = ChainMap({}, {}, function.__globals__)
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                with suppress(ValueError):  # an empty cell
                    scope.maps[1][name] = cell.cell_contents
            positional = reversed(code.co_varnames[: code.co_argcount])
            scope.update(zip(positional, reversed(function.__defaults__ or ()), strict=False))
            scope.update(function.__kwdefaults__ or {})
            if instance is not None and code.co_argcount:
                scope[code.co_varnames[0]] = instance
            self.known[key] = self._code(code, scope, function)
        return self.known[key]

    def _code(self, code: CodeType, scope: ChainMap[str, Any], function: FunctionType) -> list[Use]:
        found: list[Use] = []
        top: Any = None  # the top of the interpreter's stack, None if unknown
        below: Any = None  # what was on top before it
        module: Any = None  # the last module that was there
        for instruction in dis.get_instructions(code):
            kind, argument = instruction.opname, instruction.argval
            if kind in _NEUTRAL:
                continue
            below, previous = top, below
            # Python 3.13 joins two loads in one instruction with two names; the last is on top.
            names = argument if type(argument) is tuple else (argument,)
            if kind.startswith("STORE_FAST"):
                scope[names[0]] = top
                top = scope.get(names[-1]) if "LOAD" in kind else None
            elif kind.startswith(("LOAD_FAST", "LOAD_DEREF")):
                top = scope.get(names[-1])
            elif kind in ("LOAD_GLOBAL", "LOAD_NAME"):
                top = scope.maps[-1].get(argument, type if argument == "type" else None)
            elif kind in ("CALL", "CALL_FUNCTION") and argument == 1 and previous is type:
                top = type(top)  # type(self)
            elif kind in ("LOAD_ATTR", "LOAD_METHOD"):
                holder, top = top, _attribute(top, argument)
                if isinstance(holder, nn.Module) and id(vars(holder).get(argument)) in self.skip:
                    top = None
            elif kind == "IMPORT_NAME":
                top = sys.modules.get(argument)
            elif kind == "IMPORT_FROM":
                top = _attribute(top, argument) or top
            elif kind == "LOAD_CONST" and isinstance(argument, CodeType):  # a lambda's
                found += self._code(argument, scope.new_child(), function)
                top = None
            else:
                top = argument if kind == "LOAD_CONST" else None
            if isinstance(top, ModuleType):
                module = top
            elif isinstance(top, str):  # getattr(F, "mish"), getattr(F, self.activation)
                top = _attribute(module, top)
            found += self._object(top, function)
        return found

    def _object(self, item: Any, caller: FunctionType) -> list[Use]:
        where = f"{caller.__module__}.{caller.__qualname__}"
        if type(item) in (list, tuple, dict):
            items = list(item.values() if type(item) is dict else item)[:_LARGE]
            return [(value, where) for value in items if self.wanted(value)]
        function: Any = innermost(item)
        instance: Any = None
        tried = item
        if isinstance(item, nn.Module):
            function = _attribute(item, "forward")
        if isinstance(function, MethodType):
            function, instance = function.__func__, function.__self__
            if isinstance(instance, nn.Module) and instance is not item:
                tried = partial(function, None)  # methods of the model are not run on it
        if isinstance(function, FunctionType):
            function = inspect.unwrap(function)
        if not self.wanted(tried):
            return self.function(function, instance, caller)
        # If it calls another Mish in turn, the report names that one.
        return self.function(function, instance) or [(item, where)]


def _attribute(item: Any, name: str) -> Any:
    """`item.name`, without running properties or the __getattr__ of modules."""
    if name == "__class__":
        return type(item)
    if isinstance(item, ModuleType) and not item.__name__.startswith("torch.ops"):
        return vars(item).get(name)
    if isinstance(item, (ModuleType, OpOverloadPacket)):
        return getattr(item, name, None)
    if not isinstance(item, type):
        value = vars(item).get(name) if hasattr(item, "__dict__") else None
        if value is not None:
            return value
    cls = item if isinstance(item, type) else type(item)
    value = inspect.getattr_static(cls, name, None)
    if isinstance(value, MemberDescriptorType):
        return getattr(item, name, None)
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, classmethod):
        return MethodType(value.__func__, cls)
    if isinstance(value, ClassMethodDescriptorType):  # torch.autograd.Function.apply of torch 2.14
        return value.__get__(None, cls)
    if isinstance(value, FunctionType) and item is not cls:
        return MethodType(value, item)
    return getattr(value, "__func__", value)
