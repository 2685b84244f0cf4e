"""Activation checkpointing: the same gradients, and the policy decides what is computed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from conftest import needs_extension
from mish_cuda import Mish


class Counting(TorchDispatchMode):
    """Counts the ops that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls[func] += 1
        return func(*args, **(kwargs or {}))


def block(mish: type[nn.Module] = Mish) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), mish(), nn.Linear(5, 5), mish(), nn.Linear(5, 4)
    return nn.Sequential(*layers).double()


def gradients(model: nn.Module, run: Callable[..., Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    return list(torch.autograd.grad(run(model, x).square().sum(), [x, *model.parameters()]))


def expected() -> list[Tensor]:
    return gradients(block(nn.Mish), lambda model, x: model(x))


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
def test_plain(reentrant: bool, inplace: bool) -> None:
    model = block(partial(Mish, inplace))  # type: ignore[arg-type]

    def run(model: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(model, x, use_reentrant=reentrant)
        return result

    def backward() -> list[Tensor]:
        torch.manual_seed(1)
        x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
        run(model, x).square().sum().backward()  # all that reentrant checkpointing supports
        return [leaf.grad for leaf in (x, *model.parameters()) if leaf.grad is not None]

    torch.testing.assert_close(backward(), expected(), rtol=1e-13, atol=1e-13)


@needs_extension
@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        (CheckpointPolicy.MUST_SAVE, 2),
        (CheckpointPolicy.PREFER_SAVE, 2),
        (CheckpointPolicy.PREFER_RECOMPUTE, 4),
        (CheckpointPolicy.MUST_RECOMPUTE, 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_selective_by_policy(policy: CheckpointPolicy, calls: int) -> None:
    op = torch.ops.mish_cuda.mish.default

    def decide(context: Any, function: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return policy if function is op else CheckpointPolicy.PREFER_RECOMPUTE

    check_selective(decide, calls)


@needs_extension
def test_selective_by_a_list_of_ops() -> None:
    check_selective([torch.ops.mish_cuda.mish.default], 2)


def check_selective(policy: Any, calls: int) -> None:
    """Two activations are two calls forward, and two more where they are computed anew: their
    results are inputs that the linear layers save."""
    contexts = partial(create_selective_checkpoint_contexts, policy)

    def run(model: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(model, x, use_reentrant=False, context_fn=contexts)
        return result

    with Counting() as counting:
        actual = gradients(block(), run)
    assert counting.calls[torch.ops.mish_cuda.mish.default] == calls
    torch.testing.assert_close(actual, expected(), rtol=1e-13, atol=1e-13)
