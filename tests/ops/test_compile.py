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
from torch._dynamo.testing import AotEagerAndRecordGraphs

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
def compiled_mish() -> Function:
    """After a reset of the compiler."""
    torch._dynamo.reset()
    return torch.compile(mish_cuda.mish, fullgraph=True)


def gradient(function: Function, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return result


def kernels(function: Function, x: Tensor) -> int:
    """How many kernels inductor generates for a training step of `function`."""
    metrics = pytest.importorskip("torch._inductor.metrics", reason="this torch counts no kernels")
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


@pytest.mark.parametrize("name", FUSED)
def test_fuses(device: str, name: str) -> None:
    """With what stands before and behind, into no more kernels than F.mish."""
    x, norm = torch.randn(2, 8, 10, 10, device=device), nn.BatchNorm2d(8).to(device)
    ours = kernels(lambda x: FUSED[name](mish_cuda.mish, x, norm), x)
    assert ours <= kernels(lambda x: FUSED[name](F.mish, x, norm), x)
    assert ours == 2 or name != "arithmetic"  # one forward, one backward


def test_six_ulp(compiled_mish: Function, device: str) -> None:
    x = torch.linspace(-87.3, 25, 20_001, device=device)
    ulps, _ = reference.error(compiled_mish(x), reference.expected(x, 0))
    assert ulps.max() <= 6
    ulps, absolute = reference.error(gradient(compiled_mish, x), reference.expected(x, 1))
    near_zero = ((x > -3) & (x < 0)).cpu()  # where f' changes its sign, and no ULP bound can hold
    assert ulps[~near_zero].max() <= 8
    assert absolute[near_zero].max() <= 2.5e-7


def test_limits(compiled_mish: Function, device: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-torch.inf, torch.inf, torch.nan, -0.0, 0.0], dtype=dtype, device=device)
    y, slope = compiled_mish(x), gradient(compiled_mish, x)
    assert y.nan_to_num(7, torch.inf).tolist() == [0, torch.inf, 7, 0, 0]
    assert torch.signbit(y).tolist()[3:] == [True, False]
    unit = torch.finfo(dtype).eps if device == "cuda" else 0  # CUDA's division may be 1 ULP off
    assert slope.nan_to_num(7).tolist()[:3] == [0, pytest.approx(1, rel=unit, abs=0), 7]


def test_sixteen_bits_round_once(compiled_mish: Function, device: str) -> None:
    x = layouts.normal((1000,), torch.bfloat16, device)
    torch.testing.assert_close(compiled_mish(x), mish_cuda.mish(x), rtol=2**-8, atol=0)
    ours, expected = gradient(compiled_mish, x), gradient(mish_cuda.mish, x)
    torch.testing.assert_close(ours, expected, rtol=2**-8, atol=2e-6)


@pytest.mark.parametrize("dynamic", [True, None], ids=["all dimensions", "a marked one"])
def test_one_graph_of_arithmetic_for_all_sizes(public: str, dynamic: bool | None) -> None:
    backend = AotEagerAndRecordGraphs()
    function = torch.compile(mish_cuda.mish, fullgraph=True, dynamic=dynamic, backend=backend)
    for rows in (4, 7, 100):
        x = torch.randn(rows, 3, requires_grad=True)
        if not dynamic:
            torch._dynamo.mark_dynamic(x, 0)
        (result,) = torch.autograd.grad(function(x).sum(), x)
        torch.testing.assert_close(result, gradient(mish_cuda.mish, x))
    (forward,), (backward,) = backend.fw_graphs, backend.bw_graphs
    ops = [str(node.target) for graph in (forward, backward) for node in graph.graph.nodes]
    assert "aten.exp.default" in ops
    assert not any("mish" in op for op in ops)


def test_reduce_overhead(device: str) -> None:
    x = layouts.normal((64, 8), torch.float32, device)
    function = torch.compile(mish_cuda.mish, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):  # on CUDA: warm-up, capture, replay
        torch.testing.assert_close(gradient(function, x), gradient(mish_cuda.mish, x))


@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_jagged_tensors(compiler: str) -> None:
    rows = [torch.randn(2, 3), torch.randn(4, 3)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    y = torch.compile(mish_cuda.mish, fullgraph=True, backend=compiler)(x)
    y.values().sum().backward()
    assert x.grad is not None
    for got, slope, row in zip(y.unbind(), x.grad.unbind(), rows, strict=True):
        torch.testing.assert_close(got, mish_cuda.mish(row))
        torch.testing.assert_close(slope, gradient(mish_cuda.mish, row))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_autocast(public: str, device: str, compiler: str) -> None:
    """Under it, a layer in 32 bits hands on 16, and so does Mish."""
    model = nn.Sequential(nn.Linear(6, 5), mish_cuda.Mish(), nn.Linear(5, 4)).to(device)
    x = layouts.normal((7, 6), torch.float32, device)

    def program(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return model(x)  # type: ignore[no-any-return]

    compiled = torch.compile(program, fullgraph=True, backend=compiler)
    assert compiled(x).dtype == torch.bfloat16
    digits = {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(compiled(x), program(x), **digits)
    torch.testing.assert_close(gradient(compiled, x), gradient(program, x), **digits)


SECOND_PROCESS = """
import torch, mish_cuda
from torch._dynamo.utils import counters
x = torch.randn(100, requires_grad=True)
torch.compile(lambda x: mish_cuda.mish(2 * x) + 1)(x).sum().backward()
counts = counters["aot_autograd"]
print(*(counts["autograd_cache_" + event] for event in ("bypass", "miss", "hit")))
"""


def test_the_next_process_need_not_trace(tmp_path: Path) -> None:
    for expected in ("0 1 0", "0 0 1"):
        env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = run_python("-c", SECOND_PROCESS, cwd=ROOT, env=env)
        assert done.stdout.strip() == expected, done.stderr
