"""What the tests run on: each device, each implementation, each dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import mish_cuda
from mish_cuda import eager, functional
from mish_cuda._extension import REASON, C
from reference import DTYPES

needs_extension = pytest.mark.skipif(C is None, reason=f"no compiled ops: {REASON}")


ORDERS = pytest.mark.parametrize("order", [0, 1, 2], ids=["value", "slope", "curvature"])


@dataclass(frozen=True)
class Path:
    """One implementation of the ops: the compiled one behind the public names, or the eager one."""

    name: str
    mish: Callable[[Tensor], Tensor]
    mish_: Callable[[Tensor], Tensor]
    mish_out: Callable[[Tensor, Tensor], Tensor]
    mish_backward: Callable[[Tensor, Tensor], Tensor]
    mish_double_backward: Callable[[Tensor, Tensor, Tensor], Tensor]

    def backend(self, x: Tensor) -> str:
        """What computes x: "cpu", "cuda" or "eager"."""
        return "eager" if self.name == "eager" else mish_cuda.backend(x)

    def derivative(self, x: Tensor, order: int) -> Tensor:
        """f, f' or f'' by the op of its own."""
        one = torch.ones_like(x)
        if order == 0:
            return self.mish(x)
        if order == 1:
            return self.mish_backward(one, x)
        return self.mish_double_backward(one, one, x)


def compiled_path() -> Path:
    ops: Any = torch.ops.mish_cuda
    return Path(
        "compiled",
        mish_cuda.mish,
        mish_cuda.mish_,
        lambda x, out: mish_cuda.mish(x, out=out),
        ops.mish_backward,
        ops.mish_double_backward,
    )


EAGER_PATH = Path(
    "eager",
    eager.mish,
    eager.mish_,
    eager.mish_out,
    eager.mish_backward,
    eager.double_backward,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every run draws the same numbers."""
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return str(request.param)


@pytest.fixture
def compiled() -> Path:
    if C is None:
        pytest.skip(f"no compiled ops: {REASON}")
    return compiled_path()


@pytest.fixture(params=["compiled", "eager"])
def path(request: pytest.FixtureRequest) -> Path:
    if request.param == "eager":
        return EAGER_PATH
    result: Path = request.getfixturevalue("compiled")
    return result


@pytest.fixture(params=["compiled", "eager"])
def public(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The public functions and layers, as with the extension and as without it."""
    if request.param == "eager":
        names = {"_mish": eager.mish, "_mish_": eager.mish_, "_mish_out": eager.mish_out}
        for name, value in {**names, "_ops": torch.ops.aten}.items():
            monkeypatch.setattr(functional, name, value)
    elif C is None:
        pytest.skip(f"no compiled ops: {REASON}")
    return str(request.param)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    result: torch.dtype = request.param
    return result
