"""torch.compile with its default backend: what is fused, what is exact, what is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.torch_version import TorchVersion

import layouts
import mish_cuda
import reference
from conftest import needs_extension
from mish_cuda import eager

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="inductor calls g++ or clang++, and neither is here",
)

IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation", ["decomposition", pytest.param("kernel", marks=needs_extension)]
)
INFINITY = float("inf")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Nothing compiled before, and the default choice afterwards."""
    torch._dynamo.reset()
    yield
    mish_cuda.compile_with("decomposition")


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return result


class Graphs:
    """A backend that runs what it is given, and remembers the ops it saw."""

    def __init__(self) -> None:
        self.ops: set[str] = set()
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        def see(inner: Any, _: Any) -> Any:
            self.ops |= {str(n.target) for n in inner.graph.nodes if n.op == "call_function"}
            return make_boxed_func(inner.forward)

        self.count += 1
        return aot_autograd(fw_compiler=see, bw_compiler=see)(graph, inputs)


def kernels(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """How many kernels inductor generates for a training step of `function`."""
    metrics = pytest.importorskip("torch._inductor.metrics", reason="this torch counts no kernels")
    torch._dynamo.reset()
    metrics.reset()
    with torch._inductor.config.patch(force_disable_caches=True):  # what is cached is not counted
        gradient(torch.compile(function, fullgraph=True), x)
    count: int = metrics.generated_kernel_count
    assert count > 0
    return count


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_fuses_with_normalisation(device: str, training: bool) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device).train(training)
    x = torch.randn(2, 3, 10, 10, device=device)
    ours = kernels(lambda x: mish_cuda.mish(layers(x)), x)
    assert ours <= kernels(lambda x: F.mish(layers(x)), x)


def test_fuses_with_arithmetic(device: str) -> None:
    x = torch.randn(1000, device=device)
    ours = kernels(lambda x: mish_cuda.mish(2 * x) + 1, x)
    assert ours <= kernels(lambda x: F.mish(2 * x) + 1, x)
    assert ours == 2  # one forward, one backward


@IMPLEMENTATIONS
def test_six_ulp(device: str, implementation: str) -> None:
    mish_cuda.compile_with(implementation)
    x = torch.linspace(-87.3, 25, 20_001, device=device)
    function = torch.compile(mish_cuda.mish, fullgraph=True)
    ulps, _ = reference.error(function(x), reference.expected(x, 0))
    assert ulps.max() <= 6
    ulps, absolute = reference.error(gradient(function, x), reference.expected(x, 1))
    near_zero = ((x > -3) & (x < 0)).cpu()  # where f' changes its sign, and no ULP bound can hold
    assert ulps[~near_zero].max() <= 8
    assert absolute[near_zero].max() <= 2.5e-7


@IMPLEMENTATIONS
def test_limits(device: str, dtype: torch.dtype, implementation: str) -> None:
    mish_cuda.compile_with(implementation)
    x = torch.tensor([-INFINITY, INFINITY, float("nan"), -0.0, 0.0], dtype=dtype, device=device)
    function = torch.compile(mish_cuda.mish, fullgraph=True)
    y, slope = function(x), gradient(function, x)
    assert y[0] == 0
    assert y[1] == INFINITY
    assert y[2].isnan()
    assert y[3:].tolist() == [0, 0]
    assert torch.signbit(y).tolist()[3:] == [True, False]
    assert slope[:2].tolist() == [0, 1]
    assert slope[2].isnan()


@IMPLEMENTATIONS
def test_sixteen_bits_round_once(device: str, implementation: str) -> None:
    mish_cuda.compile_with(implementation)
    x = layouts.normal((1000,), torch.bfloat16, device)
    function = torch.compile(mish_cuda.mish, fullgraph=True)
    torch.testing.assert_close(function(x), mish_cuda.mish(x), rtol=2**-8, atol=0)
    torch.testing.assert_close(
        gradient(function, x), gradient(mish_cuda.mish, x), rtol=2**-8, atol=2e-6
    )


@IMPLEMENTATIONS
def test_one_graph_for_all_sizes(implementation: str) -> None:
    mish_cuda.compile_with(implementation)
    backend = Graphs()
    function = torch.compile(mish_cuda.mish, fullgraph=True, dynamic=True, backend=backend)
    for size in (3, 17, 100):
        x = torch.randn(size, 4)
        torch.testing.assert_close(gradient(function, x), gradient(mish_cuda.mish, x))
    assert backend.count == 1


def test_reduce_overhead(device: str) -> None:
    x = layouts.normal((64, 8), torch.float32, device)
    function = torch.compile(mish_cuda.mish, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):  # on CUDA: warm-up, capture, replay
        torch.testing.assert_close(gradient(function, x), gradient(mish_cuda.mish, x))


def test_under_autocast(device: str) -> None:
    layer = nn.Sequential(nn.Linear(8, 8), mish_cuda.Mish()).to(device)
    x = torch.randn(4, 8, device=device)
    function = torch.compile(layer, fullgraph=True)
    with torch.autocast(device, dtype=torch.bfloat16):
        y, expected = function(x), layer(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2**-7, atol=1e-5)


def test_compiled_autograd_with_inductor(device: str) -> None:
    x = layouts.normal((50,), torch.float32, device).requires_grad_()

    def step(x: Tensor) -> None:
        mish_cuda.mish(2 * x).sum().backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(step)(x)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient(lambda x: mish_cuda.mish(2 * x), x))


@IMPLEMENTATIONS
@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_jagged_tensors(implementation: str, compiler: str) -> None:
    if implementation == "decomposition" and "2.10" <= TorchVersion(torch.__version__) < "2.13":
        pytest.skip(
            "torch 2.11 cannot trace an autograd function of a jagged tensor; 2.9, 2.13 can"
        )
    mish_cuda.compile_with(implementation)
    rows = [torch.randn(2, 3), torch.randn(4, 3)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    y = torch.compile(mish_cuda.mish, fullgraph=True, backend=compiler)(x)
    y.values().sum().backward()
    assert x.grad is not None
    for got, slope, row in zip(y.unbind(), x.grad.unbind(), rows, strict=True):
        torch.testing.assert_close(got, mish_cuda.mish(row))
        torch.testing.assert_close(slope, gradient(mish_cuda.mish, row))


@needs_extension
def test_compiled_autograd_of_an_eager_forward(device: str) -> None:
    x = layouts.normal((50,), torch.float32, device).requires_grad_()
    for function in (mish_cuda.mish, lambda x: mish_cuda.mish(mish_cuda.mish_(2 * x))):
        x.grad = None
        result = function(x).sum()
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
            result.backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, gradient(function, x))


@needs_extension
def test_the_choice_is_what_the_graph_holds() -> None:
    backend = Graphs()
    function = torch.compile(mish_cuda.mish, fullgraph=True, backend=backend)
    x = torch.randn(5)
    gradient(function, x)
    assert not any("mish" in op for op in backend.ops)
    mish_cuda.compile_with("kernel")
    gradient(function, x)  # compiled anew
    assert {"mish_cuda.mish.default", "mish_cuda.mish_backward.default"} <= backend.ops
    assert backend.count == 2


def test_other_choices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected 'decomposition' or 'kernel', got 'fast'"):
        mish_cuda.compile_with("fast")
    monkeypatch.setattr(mish_cuda.functional, "C", None)
    with pytest.raises(RuntimeError, match="expected the compiled extension"):
        mish_cuda.compile_with("kernel")
    assert mish_cuda.functional._traced() is eager
