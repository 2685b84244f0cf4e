"""Pairs of a norm and the Mish behind it, which ``convert(..., fuse_norms=True)`` makes one op.

Both layers stay where they are. The norm computes both for as long as they stand in their parent as
they were found, and marks its result; the activation hands on what is marked. Whatever becomes of
one of them, they ask the same question, so Mish is computed once: conv and norm may be merged, a
SyncBatchNorm may take the norm's place, either may get hooks. The mark tells of what cannot be seen
in the parent: where another tensor reaches the activation, it raises.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.serialization import add_safe_globals

from .functional import mish
from .modules import Mish, MishCuda
from .norms import (
    LAYERS,
    BatchNormMish1d,
    BatchNormMish2d,
    BatchNormMish3d,
    GroupNormMish,
    is_marked,
)

FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNormMish1d,
    nn.BatchNorm2d: BatchNormMish2d,
    nn.BatchNorm3d: BatchNormMish3d,
    nn.GroupNorm: GroupNormMish,
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _has_hooks(module: nn.Module) -> bool:
    """Of its own or of all modules."""
    everywhere = torch.nn.modules.module
    return (
        any(getattr(module, name) for name in _HOOKS)
        or any(getattr(everywhere, f"_global{name}") for name in _HOOKS)
        or "forward" in vars(module)
    )


# A number marks a tensor, not the pair: that would be saved and copied with it.
_MARKS = itertools.count()


class NormMishPair:
    """A norm and the Mish behind it: their names in the module that holds them."""

    def __init__(self, parent: nn.Module, norm: str, activation: str) -> None:
        # Weak: where a model was taken apart and put together anew, the old parent is no witness.
        self.parent = weakref.ref(parent)
        self.norm, self.activation = norm, activation
        self.mark = next(_MARKS)

    def holds(self) -> bool:
        """Whether both are there still, with no hook that would see what lies between them."""
        parent = self.parent()
        if parent is None:
            return False
        norm = parent._modules.get(self.norm)
        activation = parent._modules.get(self.activation)
        # Not isinstance and getattr: wrappers hand on the attributes of what they wrap.
        return (
            norm is not None
            and activation is not None
            and type(norm) in LAYERS
            and type(activation) is MishBehindNorm
            and vars(norm).get("_pair") is self
            and vars(activation).get("_pair") is self
            and not _has_hooks(norm)
            and not _has_hooks(activation)
        )

    def __getstate__(self) -> tuple[nn.Module | None, str, str]:
        return self.parent(), self.norm, self.activation

    def __setstate__(self, state: tuple[nn.Module | None, str, str]) -> None:
        parent, self.norm, self.activation = state
        self.parent = weakref.ref(nn.Module() if parent is None else parent)
        self.mark = next(_MARKS)


_SOMETHING_BETWEEN = (
    "mish_cuda: expected the result of the norm that was fused with this Mish, got another tensor, "
    "although the norm has computed Mish already. Something works on what lies between the two: a "
    "checkpoint or pipeline that begins there, or code that does not run one right after the "
    "other. Undo the fusion with mish_cuda.revert(model), and leave this pair out, with `where`, "
    "of convert(model, fuse_norms=True)."
)


class MishBehindNorm(Mish):
    """The activation of a pair. ``convert`` makes it.

    Shape:
        any, and the output has the input's.
    """

    _pair: NormMishPair | None = None
    __constants__ = [*Mish.__constants__, "_steps_aside"]  # noqa: RUF012  a list in torch, too
    __jit_unused_properties__ = ("_steps_aside",)
    __jit_ignored_attributes__ = ("_pair",)

    @property
    def _steps_aside(self) -> bool:
        """Whether the norm computes the Mish of the pair."""
        return self._pair is not None and self._pair.holds()

    def _count_as_torchs(self) -> None:
        if type(self) is MishBehindNorm:
            vars(self)["__module__"] = "torch.nn"

    def forward(self, input: Tensor) -> Tensor:
        if not self._steps_aside:
            return mish(input, self.inplace)
        if is_scripting():  # tensors have no marks there
            return input
        if not is_marked(input, self._pair):
            raise RuntimeError(_SOMETHING_BETWEEN)
        return input


add_safe_globals([NormMishPair, MishBehindNorm])


def pairs(
    model: nn.Module, wanted: Callable[[str, nn.Module], bool]
) -> Iterator[tuple[str, nn.Module, str, str, str | None]]:
    """Norms that feed a ``mish_cuda.Mish`` and nothing else, in each module once.

    Yields:
        The prefix of qualified names, the module that holds both, their names in it, and None or
        why they cannot be one.
    """
    uses = Counter(id(m) for m in _slots(model))
    for prefix, parent in model.named_modules():
        prefix = f"{prefix}." if prefix else ""
        children = parent._modules
        acts = {
            key
            for key, child in children.items()
            if type(child) in (Mish, MishCuda) and wanted(prefix + key, child)
        }
        norms = {
            key
            for key, child in children.items()
            if isinstance(child, _NORMS) and not isinstance(child, LAYERS)
        }
        if not acts or not norms:
            continue
        for norm, act in _neighbours(parent):
            if norm in norms and act in acts:
                yield prefix, parent, norm, act, _obstacle(children[norm], children[act], uses)


def _slots(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        yield from (child for child in module._modules.values() if child is not None)


def _obstacle(norm: Any, act: Any, uses: Counter[int]) -> str | None:
    kind = type(norm)
    if kind not in FUSED:
        return f"there is no kernel for {kind.__name__} and Mish"
    for layer, what in ((norm, "the norm"), (act, "the activation")):
        if _has_hooks(layer):
            return f"{what} has hooks, which would not see what lies between: first remove them"
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
    """Names of children of which the second gets what the first gives, and nothing else does;
    each of them is called once."""
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        calls = Counter(id(child) for child in parent._modules.values())
        return {
            (a, b)
            for a, b in itertools.pairwise(names)
            if calls[id(parent._modules[a])] == calls[id(parent._modules[b])] == 1
        }
    found = []
    mode = parent.training
    try:
        for parent.training in (True, False):
            found.append(_traced(parent))
    except Exception:  # code that cannot be traced, which may raise anything
        return set()
    finally:
        parent.training = mode
    return found[0] & found[1]


def _traced(parent: nn.Module) -> set[tuple[str, str]]:
    tracer = _Tracer()
    nodes = [n for n in tracer.trace(parent).nodes if n.op == "call_module"]
    vars(tracer).clear()  # it is part of a cycle, which would keep the module alive for a while
    calls = Counter(id(parent.get_submodule(str(n.target))) for n in nodes)
    once = [n for n in nodes if calls[id(parent.get_submodule(str(n.target)))] == 1]
    return {
        (str(before.target), str(node.target))
        for node in once
        for before in node.all_input_nodes
        if before in once and node.args == (before,) and not node.kwargs and len(before.users) == 1
    }


def fuse(parent: nn.Module, norm: str, activation: str) -> None:
    """Makes a pair of two children, of which ``convert`` has found that they can be one."""
    from ._places import REPLACED
    from ._replacing import copy_state

    pair = NormMishPair(parent, norm, activation)
    children: dict[str, Any] = parent._modules
    old, mish_before = children[norm], children[activation]
    new = FUSED[type(old)].__new__(FUSED[type(old)])
    nn.Module.__init__(new)
    new._count_as_torchs()  # type: ignore[operator]
    act = MishBehindNorm(mish_before.inplace)
    copy_state(old, new)
    copy_state(mish_before, act)
    # Of a layer that was converted before, revert goes back to what came first.
    vars(act)[REPLACED] = vars(mish_before).get(REPLACED, mish_before)
    for key, layer in ((norm, new), (activation, act)):
        vars(layer)["_pair"] = pair
        children[key] = layer
