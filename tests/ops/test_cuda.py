"""Tests that make sense only on a GPU. Others run there, too, by their `device`."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from test_norm import EVERY_SHAPE, NORMS, OURS, draw, operands, results, worst
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


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Lets operations raise that make the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- Streams and graphs ---

# Of a tensor with eight channels.
FUNCTIONS: dict[str, Callable[[Implementation, Tensor], Tensor]] = {
    "value": lambda kernels, x: kernels.derivative(x, 0),
    "slope": lambda kernels, x: kernels.derivative(x, 1),
    "curvature": lambda kernels, x: kernels.derivative(x, 2),
    "slope, strided": lambda kernels, x: kernels.derivative(x.transpose(0, 2), 1),
    "batch": lambda kernels, x: NORMS["batch"](OURS, x, None, None),
    "groups of two": lambda kernels, x: NORMS["groups of two"](OURS, x, None, None),
}
EVERY_FUNCTION = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@EVERY_FUNCTION
def test_works_on_the_current_stream(
    kernels: Implementation, function: Callable[[Implementation, Tensor], Tensor]
) -> None:
    """On a side stream after a long wait, it must see the data written before it."""
    x = layouts.normal((16, 8, 2**13), torch.float32, "cuda")
    expected, late = function(kernels, x), torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        result = function(kernels, late)
    side.synchronize()
    assert reference.same_bits(result, expected)


@EVERY_FUNCTION
def test_does_not_synchronise(
    kernels: Implementation, function: Callable[[Implementation, Tensor], Tensor]
) -> None:
    x = layouts.normal((4, 8, 100), torch.float32, "cuda")
    with no_synchronisation():
        function(kernels, x)
        kernels.mish_(x)
        kernels.mish_(x.transpose(0, 2))


@pytest.mark.parametrize("norm", ["batch", "groups of two"])
def test_a_norm_does_not_synchronise(norm: str) -> None:
    inputs = [t.cuda().requires_grad_() for t in operands((4, 8, 100))]
    running = torch.zeros(8, device="cuda"), torch.ones(8, device="cuda")
    with no_synchronisation():
        y = NORMS[norm](OURS, *inputs)
        y.backward(torch.ones_like(y))
        mish_cuda.batch_norm_mish(inputs[0], *running, training=True)
        mish_cuda.batch_norm_mish(inputs[0], *running)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "several threads"])
def test_graph_capture_and_replay(kernels: Implementation, dtype: torch.dtype, layout: str) -> None:
    def step(x: Tensor) -> list[Tensor]:
        y = kernels.mish(x)
        return [y, kernels.apply(y, x), kernels.apply(y, y, x)]

    static = layouts.make(layout, dtype, "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(static)
    for seed in (1, 2):
        static.copy_(layouts.make(layout, dtype, "cuda", seed))
        graph.replay()
        for result, expected in zip(results, step(static), strict=True):
            assert reference.same_bits(result, expected)


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


@EVERY_SHAPE
@pytest.mark.parametrize("norm", ["batch", "groups of two", "frozen"])
def test_norms_are_those_of_the_cpu(shape: tuple[int, ...], norm: str, dtype: torch.dtype) -> None:
    tensors, function = operands(shape, dtype), partial(NORMS[norm], OURS)
    y = function(*(t.cuda().requires_grad_() for t in tensors))
    assert y.grad_fn.name() == "NormMishBackward"
    for a, b in zip(
        results(function, *tensors, device="cuda"), results(function, *tensors), strict=True
    ):
        assert a.dtype == b.dtype
        # Both round once, in 16 bits perhaps to neighbours; sums have errors as their terms do.
        assert worst(a, b) <= 40 * torch.finfo(dtype).eps * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_layers_keep_the_statistics_of_the_cpu(
    dtype: torch.dtype, affine: bool, training: bool
) -> None:
    here = mish_cuda.BatchNormMish2d(6, affine=affine).to(dtype)
    there = copy.deepcopy(here).cuda()
    for _ in range(3):
        x = draw((5, 6, 9, 9), dtype=dtype)
        here(x)
        there(x.cuda())
        for a, b in zip(there.buffers(), here.buffers(), strict=True):
            torch.testing.assert_close(a.cpu(), b)
    versions = [b._version for b in there.buffers()]
    tolerance = 16 * torch.finfo(dtype).eps
    result, expected = there.train(training)(x.cuda()).cpu(), here.train(training)(x)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
    changed = [b._version > v for b, v in zip(there.buffers(), versions, strict=True)]
    assert changed == [training] * 3


# --- Devices ---


@needs_two
@ORDERS
def test_two_devices(kernels: Implementation, order: int) -> None:
    """Current or not; and each on a stream of its own device, launched without waiting for the
    other."""
    x = layouts.normal((2**20 + 5,), torch.float32, "cpu")
    expected = kernels.derivative(x.to("cuda:0"), order)
    there = [x.to(f"cuda:{i}") for i in range(2)]
    assert torch.cuda.current_device() == 0
    assert reference.same_bits(kernels.derivative(there[1], order), expected)
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    streams = [torch.cuda.Stream(i) for i in range(2)]
    results = []
    for operand, stream in zip(there, streams, strict=True):
        with torch.cuda.stream(stream):
            results.append(kernels.derivative(operand, order))
    for result, stream in zip(results, streams, strict=True):
        stream.synchronize()
        assert result.device == stream.device
        assert reference.same_bits(result, expected)


# --- Large tensors ---


def need_memory(gigabytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 2**30:
        pytest.skip(f"{gigabytes} GiB of GPU memory are needed, {free / 2**30:.0f} are free")


@ORDERS
def test_more_than_2_31_elements_dense(kernels: Implementation, order: int) -> None:
    """2^31 + 5: the last pack is cut, and no 32-bit integer counts them."""
    need_memory(6 * (order + 2) + 2)
    size, period = 2**31 + 5, 2**15 - 1  # not a power of two, so places do not repeat
    values = torch.linspace(-9, 9, period, dtype=torch.bfloat16, device="cuda")
    x = values.repeat(-(-size // period))[:size]
    gradients = [torch.ones_like(x)] * order
    result = kernels.apply(*gradients, x)
    expected = kernels.derivative(values, order)
    whole = size // period * period
    for part in result[:whole].view(-1, period).split(4096):
        assert torch.equal(part, expected.expand_as(part))
    assert torch.equal(result[whole:], expected[: size - whole])


def test_more_than_2_31_elements_strided(kernels: Implementation) -> None:
    need_memory(20)
    rows = 2**16 + 1
    values = torch.linspace(-9, 9, 2**15, dtype=torch.bfloat16, device="cuda")
    x = values.expand(rows, -1).t()  # more than 2^31 elements, and not dense
    assert x.numel() > 2**31
    expected = kernels.mish(values)
    result = kernels.mish(x)
    for start in range(0, rows, 4096):
        part = result[:, start : start + 4096]
        assert torch.equal(part, expected[:, None].expand_as(part))
