"""override_torch: within a block F.mish is mish_cuda.mish, for one thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lookalikes import MINUS_INFINITY, is_ours
from torch import Tensor, nn
from torch.nn.functional import mish as imported_under_another_name
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import mish_cuda
from mish_cuda import override_torch


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not is_ours(F.mish)


# Calls, and whether they are redirected.
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "F.mish": (lambda x: F.mish(x), True),
    "in place": (lambda x: F.mish(x, inplace=True), True),
    "by keyword": (lambda x: F.mish(input=x), True),
    "under another name": (lambda x: imported_under_another_name(x), True),
    "nn.Mish": (nn.Mish(), True),
    "nn.Mish in place": (nn.Mish(True), True),
    "binding": (torch._C._nn.mish, False),
    "op": (torch.ops.aten.mish, False),
}


@pytest.mark.parametrize(("call", "redirected"), CALLS.values(), ids=CALLS)
def test_override(call: Callable[[Tensor], Tensor], redirected: bool, public: str) -> None:
    assert not is_ours(call)
    with override_torch():
        assert is_ours(call) is redirected
        x = torch.randn(5)
        in_place = call(x) is x
    assert not is_ours(call)
    assert (call(x) is x) is in_place


def test_override_nests_and_ends_with_an_exception() -> None:
    mode = override_torch()
    for _ in range(2):
        with mode:
            with override_torch(), mode:
                assert is_ours(F.mish)
            assert is_ours(F.mish)
        assert not is_ours(F.mish)
    with pytest.raises(ZeroDivisionError), override_torch():
        _ = 1 / 0


def test_override_concerns_one_thread() -> None:
    with override_torch(), ThreadPoolExecutor(1) as thread:
        assert not thread.submit(is_ours, F.mish).result()
        assert is_ours(F.mish)


class Record(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    seen: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_override_with_other_modes_and_subclasses() -> None:
    """An outer mode and a subclass see mish_cuda.mish; an inner mode sees F.mish."""
    x = torch.randn(3).as_subclass(Subclass)
    Subclass.seen.clear()
    with Record() as outer, override_torch():
        assert type(F.mish(x)) is Subclass
    assert outer.calls == Subclass.seen == [mish_cuda.mish]
    with override_torch(), Record() as inner:
        assert is_ours(F.mish)
    assert F.mish in inner.calls
    with override_torch(), torch.device("cpu"):
        assert is_ours(F.mish)


def test_override_under_torch_func() -> None:
    with override_torch():
        slope = torch.func.vmap(torch.func.grad(F.mish))(MINUS_INFINITY)
    assert torch.equal(slope, torch.zeros(1))


def within(x: Tensor) -> Tensor:
    with override_torch():
        return F.mish(x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_override_and_compile(backend: str) -> None:
    """A block around the call of a compiled function, and within one."""
    torch._dynamo.reset()
    compiled = torch.compile(F.mish, fullgraph=True, backend=backend)
    for _ in range(2):
        assert not is_ours(compiled)
        with override_torch():
            assert is_ours(compiled)
            assert is_ours(torch.compile(nn.Mish(), fullgraph=True, backend=backend))
    assert is_ours(torch.compile(within, fullgraph=True, backend=backend))
    assert not is_ours(F.mish)


@pytest.mark.parametrize("reentrant", [False, True])
def test_override_and_checkpointing(reentrant: bool) -> None:
    """The backward may recompute values by ``F.mish`` itself; the slopes are the same."""
    x = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.mish(x).sum(), x)
    with override_torch():
        checkpoint(F.mish, x, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)
