"""Fixtures: each device, each implementation of the ops, each dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mish_cuda
from mish_cuda import _before_mish, eager, functional, norms
from mish_cuda._extension import REASON, C
from reference import DTYPES

pytest.register_assert_rewrite("networks")  # it asserts for several files

needs_extension = pytest.mark.skipif(C is None, reason=f"no compiled ops: {REASON}")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
slow = partial(pytest.param, marks=pytest.mark.slow)
ORDERS = pytest.mark.parametrize("order", [0, 1, 2], ids=["value", "slope", "curvature"])


@dataclass(frozen=True)
class Implementation:
    """One implementation of the ops: compiled, behind the public names, or eager."""

    name: str
    mish: Callable[..., Tensor]
    mish_: Callable[[Tensor], Tensor]
    mish_backward: Callable[[Tensor, Tensor], Tensor]
    mish_double_backward: Callable[[Tensor, Tensor, Tensor], Tensor]

    def backend(self, x: Tensor) -> str:
        """The backend that computes x: "cpu", "cuda" or "eager"."""
        return "eager" if self.name == "eager" else mish_cuda.backend(x)

    def apply(self, *operands: Tensor) -> Tensor:
        """Mish of one operand, its backward of two, its double backward of three."""
        ops = (self.mish, self.mish_backward, self.mish_double_backward)
        return ops[len(operands) - 1](*operands)

    def derivative(self, x: Tensor, order: int) -> Tensor:
        """f, f' or f'' (order 0, 1 or 2), each by its op."""
        return self.apply(*[torch.ones_like(x)] * order, x)


EAGER = Implementation(
    "eager", eager.mish, eager.mish_, eager.input_gradient, eager.double_backward
)

TORCH = replace(
    EAGER,
    name="torch",
    mish=lambda x, out=None: F.mish(x) if out is None else torch.ops.aten.mish.out(x, out=out),
    mish_=lambda x: F.mish(x, inplace=True),
    # Not the op of torch, which has no derivative. The input must require a gradient.
    mish_backward=lambda g, x: torch.autograd.grad(F.mish(x), x, g, create_graph=True)[0],
)

# The functions of the package, whichever implementation they choose.
PUBLIC = replace(
    EAGER,
    name="public",
    mish=mish_cuda.mish,
    mish_=mish_cuda.mish_,
    mish_backward=lambda g, x: mish_cuda.mish_backward(x, g),
)

# The ops, which are looked up late: without the extension there are none.
_OPS: Any = torch.ops.mish_cuda
COMPILED = replace(
    PUBLIC,
    name="compiled",
    mish_backward=lambda g, x: _OPS.mish_backward(g, x),
    mish_double_backward=lambda h, g, x: _OPS.mish_double_backward(h, g, x),
)
_COMPILED = pytest.param(COMPILED, marks=needs_extension, id="compiled")


class Log(TorchDispatchMode):
    """Notes the ops of this library."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "mish_cuda":
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[_COMPILED, pytest.param(EAGER, id="eager")])
def impl(request: pytest.FixtureRequest) -> Implementation:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[_COMPILED])
def compiled(request: pytest.FixtureRequest) -> Implementation:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernels(compiled: Implementation, device: str) -> Implementation:
    """The compiled ops, where they have a kernel for the device."""
    if compiled.backend(torch.empty(0, device=device)) == "eager":
        pytest.skip(f"the extension was built without {device} kernels")
    return compiled


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def fuse_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuses norms for ``convert(..., fuse_norms=True)`` where the input is too small to pay."""
    fewest = dict.fromkeys(_before_mish.FEWEST_ELEMENTS, 0)
    monkeypatch.setattr(_before_mish, "FEWEST_ELEMENTS", fewest)


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the public functions and layers compute as without the extension."""
    names = {"_mish": eager.mish, "_mish_": eager.mish_, "_mish_out": eager.mish_out}
    for name, value in {**names, "_ops": torch.ops.aten, "C": None}.items():
        monkeypatch.setattr(functional, name, value)
    for module in (norms, _before_mish):
        monkeypatch.setattr(module, "C", None)


@pytest.fixture(params=[pytest.param("compiled", marks=needs_extension), "eager"])
def public(request: pytest.FixtureRequest) -> str:
    """Runs the public functions and layers with the extension and without it."""
    if request.param == "eager":
        request.getfixturevalue("fallback")
    return str(request.param)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds torch, so that every run draws the same numbers."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():  # without, torch.manual_seed would note the stack each time
        torch.cuda.manual_seed_all(0)


def pytest_report_header() -> str:
    """In place of thousands of skipped tests."""
    on_gpu = "run" if torch.cuda.is_available() else "are left out: torch sees no GPU"
    return f"tests on a GPU {on_gpu}"
