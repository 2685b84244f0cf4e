"""Finds the norms that ``convert(..., fuse_norms=True)`` replaces: those that feed Mish."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from ._before_mish import BEFORE_MISH
from ._norm_act import activation, before_mish
from ._replacing import copy_state
from .modules import Mish, MishCuda
from .norms import Layer

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def pairs(
    model: nn.Module, wanted: Callable[[str, nn.Module], bool]
) -> Iterator[tuple[str, nn.Module, str, str, str | None]]:
    """Norms that feed a ``mish_cuda.Mish`` and nothing else, or hold one, in each module once.

    Yields:
        The prefix of qualified names, the module that holds the norm, the names of norm and Mish in
        it, and None or why the norm cannot be replaced.
    """
    uses = Counter(id(m) for m in _slots(model))
    for prefix, parent in model.named_modules():
        prefix = f"{prefix}." if prefix else ""
        children: dict[str, Any] = parent._modules
        norms = {
            key
            for key, child in children.items()
            if isinstance(child, _NORMS) and not isinstance(child, Layer)
        }
        found = [(norm, f"{norm}.{act}") for norm in norms if (act := activation(children[norm]))]
        acts = {key for key, child in children.items() if type(child) in (Mish, MishCuda)}
        if norms and acts:
            found += [(a, b) for a, b in _neighbours(parent) if a in norms and b in acts]
        for norm, act in found:
            layer = parent.get_submodule(act)
            if wanted(prefix + act, layer):
                yield prefix, parent, norm, act, _obstacle(children[norm], layer, uses)


def _slots(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        yield from (child for child in module._modules.values() if child is not None)


def _obstacle(norm: Any, act: Any, uses: Counter[int]) -> str | None:
    if type(norm) not in BEFORE_MISH and not activation(norm):
        return f"there is no kernel for {type(norm).__name__} and Mish"
    for layer, what in ((norm, "the norm"), (act, "the activation")):
        if any(getattr(layer, name) for name in _HOOKS) or "forward" in vars(layer):
            return f"{what} has hooks, which may read what lies between: first remove them"
        if vars(layer).get("_compiled_call_impl") is not None:
            return f"{what} is compiled by itself: convert before torch.compile"
    if uses[id(norm)] > 1:
        return "the norm is used in several places"
    return None


class _Tracer(fx.Tracer):
    """Sees the calls of a module's children, and nothing inside them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _neighbours(parent: nn.Module) -> set[tuple[str, str]]:
    """Names of children of which the second gets what the first gives, and nothing else does; the
    first is called once."""
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        calls = Counter(map(id, parent._modules.values()))
        return {
            (a, b)
            for a, b in itertools.pairwise(parent._modules)
            if calls[id(parent._modules[a])] == 1
        }
    found = []
    dtype = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=()), torch.set_grad_enabled(torch.is_grad_enabled()):
            for mode in (True, False):
                # A copy, so that what the code stores does not reach the model.
                memo: Any = {id(p): p for p in parent.parameters()}
                twin = copy.deepcopy(parent, memo)
                twin.training = mode
                found.append(_traced(twin))
    except Exception:  # code that cannot be copied or traced, which may raise anything
        return set()
    finally:
        torch.set_default_dtype(dtype)
    return found[0] & found[1]


def _traced(parent: nn.Module) -> set[tuple[str, str]]:
    tracer = _Tracer()
    nodes = [n for n in tracer.trace(parent).nodes if n.op == "call_module"]
    vars(tracer).clear()  # it is part of a cycle, which would keep the module alive for a while
    calls = Counter(id(parent.get_submodule(str(n.target))) for n in nodes)
    return {
        (str(norm.target), str(node.target))
        for node in nodes
        for norm in node.all_input_nodes
        if norm in nodes and node.args == (norm,) and not node.kwargs and len(norm.users) == 1
        if calls[id(parent.get_submodule(str(norm.target)))] == 1
    }


def fuse(parent: nn.Module, norm: str) -> None:
    """Replaces a child of which ``convert`` has found that it can be replaced."""
    children: dict[str, Any] = parent._modules
    old = children[norm]
    cls = before_mish(type(old))
    new: Any = cls.__new__(cls)
    nn.Module.__init__(new)
    new._count_as_torchs()
    copy_state(old, new)
    vars(new)["_modules"] = old._modules
    children[norm] = new
