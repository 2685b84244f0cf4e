"""Tests that make sense only on a GPU. Others run there, too, by their `device`."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable

import pytest
import torch
from test_norm import NORMS, OURS, draw
from torch import Tensor, nn

import layouts
import mish_cuda
import reference
from conftest import ORDERS, Implementation, needs_gpu
from mish_cuda._extension import C

pytestmark = [needs_gpu, pytest.mark.usefixtures("kernels")]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU at most")


@pytest.fixture
def device() -> str:
    """Of the fixture `kernels`, which all these tests use."""
    return "cuda"


# --- Streams and graphs ---


def gradients(norm: str, x: Tensor) -> Tensor:
    leaves = [x.requires_grad_(), *torch.ones(2, 8, device=x.device).requires_grad_()]
    y = NORMS[norm](OURS, *leaves)
    return torch.cat([t.flatten() for t in torch.autograd.grad(y, leaves, y.detach())])


def statistics(x: Tensor) -> Tensor:
    mean, variance = torch.zeros(2, 8, device=x.device)
    y = mish_cuda.batch_norm_mish(x, mean, variance, training=True)
    return torch.cat([y.flatten(), mean, variance])


# Of a tensor with eight channels.
FUNCTIONS: dict[str, Callable[[Implementation, Tensor], Tensor]] = {
    "value": lambda kernels, x: kernels.derivative(x, 0),
    "slope": lambda kernels, x: kernels.derivative(x, 1),
    "curvature": lambda kernels, x: kernels.derivative(x, 2),
    "slope, strided": lambda kernels, x: kernels.derivative(x.transpose(0, 2), 1),
    "in place": lambda kernels, x: kernels.mish_(x),
    "in place, strided": lambda kernels, x: kernels.mish_(x.transpose(0, 2)),
    "batch": lambda kernels, x: gradients("batch", x),
    "groups of two": lambda kernels, x: gradients("groups of two", x),
    "frozen": lambda kernels, x: NORMS["frozen"](OURS, x, None, None),
    "statistics": lambda kernels, x: statistics(x),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_works_on_the_current_stream(
    kernels: Implementation, function: Callable[[Implementation, Tensor], Tensor]
) -> None:
    """On a side stream after a long wait, it must see the data written before it, and not make the
    host wait."""
    x = layouts.normal((16, 8, 2**13), torch.float32, "cuda")
    expected, late = function(kernels, x.clone()), torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            late.copy_(x)
            result = function(kernels, late)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    side.synchronize()
    assert reference.same_bits(result, expected)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "several threads"])
def test_graph_capture_and_replay(kernels: Implementation, dtype: torch.dtype, layout: str) -> None:
    def step(x: Tensor) -> tuple[Tensor, ...]:
        return kernels.apply(x), kernels.apply(x, x), kernels.apply(x, x, x)

    graphed = torch.cuda.make_graphed_callables(step, (layouts.make(layout, dtype, "cuda"),))
    for seed in (1, 2):
        x = layouts.make(layout, dtype, "cuda", seed)
        assert all(map(reference.same_bits, graphed(x), step(x)))


@pytest.mark.parametrize(
    "layer",
    [mish_cuda.Mish(), mish_cuda.BatchNormMish1d(8), mish_cuda.GroupNormMish(2, 8)],
    ids=lambda layer: type(layer).__name__,
)
def test_training_step_in_a_graph(layer: nn.Module) -> None:
    module = nn.Sequential(copy.deepcopy(layer)).cuda()
    graphed = torch.cuda.make_graphed_callables(module, (draw((4, 8, 60)).cuda().requires_grad_(),))
    plain = nn.Sequential(copy.deepcopy(layer)).cuda()
    plain.load_state_dict(module.state_dict())
    for _ in range(2):  # with other numbers than those it was captured with
        x = draw((4, 8, 60)).cuda().requires_grad_()
        ours, expected = (
            [*torch.autograd.grad(f(x).sum(), [x, *of.parameters()]), *of.buffers()]
            for f, of in ((graphed, module), (plain, plain))
        )
        assert all(map(torch.equal, ours, expected))


# --- Beside the CPU ---


@ORDERS
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_bits_of_the_cpu(kernels: Implementation, wide: torch.dtype, order: int) -> None:
    if platform.machine() == "x86_64" and C is not None and C.cpu_isa() == "baseline":
        pytest.skip("this CPU has no AVX2, so its kernels round products before they add")
    every = torch.arange(-(2**31), 2**31, 509).to(torch.int32).view(torch.float32)
    x = torch.cat([every.to(wide), reference.samples(wide), reference.random_patterns(wide, 10**6)])
    for g in (torch.ones_like(x), layouts.normal(tuple(x.shape), wide, "cpu")):
        tensors = [g] * order + [x]
        on_gpu = kernels.apply(*(t.cuda() for t in tensors))
        assert reference.same_bits(on_gpu, kernels.apply(*tensors))


# --- Devices ---


@needs_two
@ORDERS
def test_two_devices(kernels: Implementation, order: int) -> None:
    """Current or not; and each on a stream of its own device, launched without waiting for the
    other."""
    x = layouts.normal((2**20 + 5,), torch.float32, "cpu")
    expected = kernels.derivative(x.to("cuda:0"), order)
    there = [x.to(f"cuda:{i}") for i in range(2)]
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    assert torch.cuda.current_device() == 0
    results = [kernels.derivative(there[1], order)]
    for operand in there:
        with torch.cuda.stream(torch.cuda.Stream(operand.device)):
            results.append(kernels.derivative(operand, order))
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    assert [result.device.index for result in results] == [1, 0, 1]
    assert all(reference.same_bits(result, expected) for result in results)
