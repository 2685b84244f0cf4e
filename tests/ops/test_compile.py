"""torch.compile with its default backend: fusion, exactness, caching.

Compiled programs of all kinds: test_programs.py, test_transforms.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import metrics

import layouts
import mish_cuda
import reference
from project import ROOT, run_python

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor calls g++ or clang++, and neither is here",
)

Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def new_compiler() -> None:
    torch._dynamo.reset()


def gradient(function: Function, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return result


def kernels(function: Function, x: Tensor) -> int:
    """How many kernels inductor generates for a training step of `function`."""
    torch._dynamo.reset()
    metrics.reset()
    with torch._inductor.config.patch(force_disable_caches=True):  # cached kernels are not counted
        gradient(torch.compile(function, fullgraph=True), x)
    count: int = metrics.generated_kernel_count
    assert count > 0
    return count


FUSED: dict[str, Callable[[Any, Tensor, nn.Module], Tensor]] = {
    "arithmetic": lambda mish, x, norm: mish(2 * x) + 1,
    "training": lambda mish, x, norm: mish(norm.train()(x)),
    "inference": lambda mish, x, norm: mish(norm.eval()(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_fuses(device: str, name: str) -> None:
    """With what stands before and behind, into no more kernels than F.mish."""
    x, norm = torch.randn(2, 8, 10, 10, device=device), nn.BatchNorm2d(8).to(device)
    ours = kernels(lambda x: FUSED[name](mish_cuda.mish, x, norm), x)
    assert ours <= kernels(lambda x: FUSED[name](F.mish, x, norm), x)
    assert ours == 2 or name != "arithmetic"  # one forward, one backward


# In ULP, of value and slope. Torch's own exp is in them. 16 bits are rounded once.
BOUNDS = {torch.float32: (6, 8), torch.float64: (6, 8)}


@pytest.mark.slow
def test_error_bounds(device: str, dtype: torch.dtype) -> None:
    limits = torch.tensor([-torch.inf, torch.inf, torch.nan, -0.0, 0.0])
    x = torch.cat([limits, torch.linspace(-87.3, 25, 20_001)]).to(device, dtype)
    compiled = torch.compile(mish_cuda.mish, fullgraph=True)
    y, slope = compiled(x), gradient(compiled, x)
    assert torch.signbit(y[3:5]).tolist() == [True, False]
    # CUDA's division may be 1 ULP off.
    assert abs(slope[1] - 1) <= (torch.finfo(dtype).eps if device == "cuda" else 0)
    for order, result in enumerate((y, slope)):
        ulps, absolute = reference.error(result, reference.expected(x, order))
        if order == 1 and dtype in BOUNDS:  # where f' changes its sign no ULP bound can hold
            near_zero = ((x > -3) & (x < 0)).cpu()
            assert absolute[near_zero].max() <= 2 * torch.finfo(dtype).eps
            ulps = ulps[~near_zero]
        assert ulps.max() <= BOUNDS.get(dtype, (0.51, 0.51))[order]


@pytest.mark.parametrize("dynamic", [True, None], ids=["all dimensions", "a marked one"])
def test_one_graph_for_all_sizes(public: str, dynamic: bool | None) -> None:
    function = torch.compile(mish_cuda.mish, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (4, 7, 100):
            x = torch.randn(rows, 3, requires_grad=True)
            if not dynamic:
                torch._dynamo.mark_dynamic(x, 0)
            (result,) = torch.autograd.grad(function(x).sum(), x)
            torch.testing.assert_close(result, gradient(mish_cuda.mish, x))


def under_autocast(x: Tensor) -> Tensor:
    """A layer in 32 bits hands on 16 there, and so does Mish."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return mish_cuda.mish(F.linear(x, x[:3]))


@pytest.mark.parametrize("function", [mish_cuda.mish, under_autocast])
def test_inductor(public: str, device: str, function: Function) -> None:
    x = layouts.normal((6, 8), torch.float32, device)
    mode = "reduce-overhead" if function is mish_cuda.mish else "default"
    compiled = torch.compile(function, mode=mode, fullgraph=True)
    digits = {"rtol": 2**-6, "atol": 2**-6} if function is under_autocast else {}
    for _ in range(3):  # with CUDA graphs: warm-up, capture, replay
        torch.testing.assert_close(compiled(x), function(x), **digits)
        torch.testing.assert_close(gradient(compiled, x), gradient(function, x), **digits)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_jagged_input(device: str, backend: str) -> None:
    offsets = torch.tensor([0, 2, 6], device=device)
    values = torch.randn(6, 3, device=device)
    x = torch.nested.nested_tensor_from_jagged(values, offsets).requires_grad_()
    results = []
    for function in (
        torch.compile(mish_cuda.mish, fullgraph=True, backend=backend),
        mish_cuda.mish,
    ):
        y = function(x)
        (slope,) = torch.autograd.grad(y.values().sum(), x)
        results.append((y.values(), slope.values()))
    torch.testing.assert_close(*results)


SECOND_PROCESS = """
import torch, mish_cuda
from torch._dynamo.utils import counters
x = torch.randn(100, requires_grad=True)
torch.compile(lambda x: mish_cuda.mish(2 * x) + 1)(x).sum().backward()
counts = counters["aot_autograd"]
print(*(counts["autograd_cache_" + event] for event in ("bypass", "miss", "hit")))
"""


@pytest.mark.slow
def test_the_next_process_need_not_trace(tmp_path: Path) -> None:
    for expected in ("0 1 0", "0 0 1"):
        env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = run_python("-c", SECOND_PROCESS, cwd=ROOT, env=env)
        assert done.stdout.strip() == expected, done.stderr
