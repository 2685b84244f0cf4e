"""Hooks of the layers that are converted: those of torch, and those of accelerate."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lookalikes import MiSh, is_ours
from networks import COPIES, Branches, InCode, check, draw
from torch import Tensor, fx, nn

from mish_cuda import convert, revert

# The methods that register hooks, with their arguments.
HOOKS: list[tuple[str, dict[str, bool]]] = [
    *((f"register_{name}", {}) for name in ("forward_hook", "forward_pre_hook")),
    *((f"register_full_{name}", {}) for name in ("backward_hook", "backward_pre_hook")),
    *((f"register_{name}_post_hook", {}) for name in ("state_dict", "load_state_dict")),
    *((f"register_{name}_pre_hook", {}) for name in ("state_dict", "load_state_dict")),
    ("register_forward_pre_hook", {"with_kwargs": True}),
    ("register_forward_hook", {"with_kwargs": True, "always_call": True}),
]


@pytest.mark.parametrize(("method", "options"), HOOKS)
def test_hooks_stay(method: str, options: dict[str, bool]) -> None:
    """They run as often as before and are given the layer that is there; their handles work."""
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish())
    original = model[1]
    calls: list[nn.Module] = []

    def register() -> Any:
        return getattr(model[1], method)(lambda module, *_: calls.append(module), **options)

    def use() -> None:  # whatever makes a hook run
        model(torch.randn(2, 4, requires_grad=True)).sum().backward()
        model.load_state_dict(model.state_dict())

    handle = register()
    convert(model)
    use()
    assert calls == [model[1]]
    later = register()
    revert(model)
    use()
    assert calls[1:] == [original, original]
    convert(model)
    handle.remove()
    later.remove()
    use()
    assert len(calls) == 3


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def note(module: Any, *_: Any) -> None:
    module.noted = True


@pytest.mark.parametrize("copied", COPIES)
def test_hooks_of_copies(copied: Callable[[Any], Any]) -> None:
    model: Any = nn.Sequential(nn.Mish())
    model[0].register_forward_hook(double)
    model[0].register_load_state_dict_pre_hook(note)
    convert(model)
    x = torch.randn(3)
    other = copied(copied(model))
    for change in (lambda model: None, revert):
        change(other)
        torch.testing.assert_close(other(x), 2 * F.mish(x))
        other[0].noted = False
        other.load_state_dict({})
        assert other[0].noted


# --- Accelerate ---


class Hook(list[nn.Module]):
    """As accelerate.hooks.ModelHook: it is given the module. It lists those that were called."""


def add_hook_to_module(module: Any, hook: Hook) -> None:
    """As in accelerate, which puts a forward into the instance."""
    old_forward = module._old_forward if hasattr(module, "_hf_hook") else module.forward
    module._old_forward, module._hf_hook = old_forward, hook

    def new_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        module._hf_hook.append(module)
        return module._old_forward(*args, **kwargs)

    module.forward = functools.update_wrapper(functools.partial(new_forward, module), old_forward)


def remove_hook_from_module(module: Any) -> None:
    del module._hf_hook, module._old_forward, module.forward


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Hook:
    functions = {f.__name__: f for f in (add_hook_to_module, remove_hook_from_module)}
    monkeypatch.setitem(sys.modules, "accelerate.hooks", SimpleNamespace(**functions))
    return Hook()


@pytest.mark.parametrize("make", [nn.Mish, MiSh])
def test_dispatched_by_accelerate(make: type[nn.Module], hook: Hook) -> None:
    """Its hooks run for the layers that are there, and for each call once."""
    model: Any = Branches(make).double()
    x = draw((5, 4))
    original = copy.deepcopy(model)
    for module in [*model.modules()]:
        add_hook_to_module(module, hook)
    assert len(convert(model).changed) == 5
    assert hook == []
    check(model, original, x)
    model(x)
    assert hook.count(model.act) == 2
    assert {*hook} <= {*model.modules()}
    for to in (None, nn.Mish):
        other = copy.deepcopy(model)
        revert(other, to=to)
        check(other, original, x)
        assert "_hf_hook" in vars(other.act)
    remove_hook_from_module(model.act)
    revert(model)  # what was taken away since stays away
    assert not {"_hf_hook", "_old_forward", "forward"} & vars(model.act).keys()
    check(model, original, x)


def test_graphs_dispatched_by_accelerate_are_left_alone(hook: Hook) -> None:
    """It puts its forward into the class, which a change of the graph would undo."""
    graph = fx.symbolic_trace(InCode())
    add_hook_to_module(graph, hook)
    report = convert(graph)
    assert "accelerate.hooks.remove_hook_from_module" in report.left_alone["graph.mish"]
    remove_hook_from_module(graph)
    convert(graph)
    assert is_ours(graph)
