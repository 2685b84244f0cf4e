"""Tests that make sense only on a GPU. Others run there, too, by their `device`."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable

import pytest
import torch

import layouts
import mish_cuda
import reference
from conftest import ORDERS, Implementation, needs_gpu
from mish_cuda._extension import C

pytestmark = needs_gpu
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU at most")


@pytest.fixture
def device() -> str:
    """Of the fixture `kernels`, which all these tests use."""
    return "cuda"


@ORDERS
def test_works_on_the_current_stream(kernels: Implementation, order: int) -> None:
    """On a side stream after a long wait, it must see the data written before it."""
    x = layouts.normal((2**20,), torch.float32, "cuda")
    expected = kernels.derivative(x, order)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        result = kernels.derivative(late, order)
    side.synchronize()
    assert reference.same_bits(result, expected)


@ORDERS
@pytest.mark.parametrize("layout", ["several threads", "several threads, transposed"])
def test_does_not_synchronise(kernels: Implementation, order: int, layout: str) -> None:
    x = layouts.make(layout, torch.float32, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.derivative(x, order)
        kernels.mish_(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "several threads"])
def test_graph_capture_and_replay(kernels: Implementation, dtype: torch.dtype, layout: str) -> None:
    def step(x: torch.Tensor) -> list[torch.Tensor]:
        y = kernels.mish(x)
        return [y, kernels.mish_backward(y, x), kernels.mish_double_backward(y, y, x)]

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


def test_training_step_in_a_graph(kernels: Implementation) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), mish_cuda.Mish()).cuda()
    x = torch.randn(16, 8, device="cuda")
    plain = copy.deepcopy(module)  # the graphed module is the same object with another forward
    graphed = torch.cuda.make_graphed_callables(module, (x,))
    x = torch.randn_like(x)  # other numbers than those it was captured with
    expected = torch.autograd.grad(plain(x).sum(), list(plain.parameters()))
    results = torch.autograd.grad(graphed(x).sum(), list(module.parameters()))
    torch.testing.assert_close(results, expected)


@needs_two
@ORDERS
def test_a_device_that_is_not_the_current_one(kernels: Implementation, order: int) -> None:
    x = layouts.normal((1000,), torch.float32, "cuda:1")
    assert torch.cuda.current_device() == 0
    result = kernels.derivative(x, order)
    assert result.device == x.device
    assert reference.same_bits(result, kernels.derivative(x.to("cuda:0"), order))


@ORDERS
def test_more_dimensions_than_a_launch_takes(kernels: Implementation, order: int) -> None:
    few = layouts.normal((*[1, 2] * 8, 1), torch.float32, "cuda")
    x = few.expand(*[2] * 17)  # every other stride is 0, so no two dimensions are one
    assert reference.same_bits(kernels.derivative(x, order), kernels.derivative(x.clone(), order))


@ORDERS
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_bits_of_the_cpu(kernels: Implementation, wide: torch.dtype, order: int) -> None:
    if platform.machine() == "x86_64" and C is not None and C.cpu_isa() == "baseline":
        pytest.skip("this CPU has no AVX2, so its kernels round products before they add")
    every = torch.arange(-(2**31), 2**31, 509).to(torch.int32).view(torch.float32)
    x = torch.cat([every.to(wide), reference.samples(wide), reference.random_patterns(wide, 10**6)])
    assert reference.same_bits(kernels.derivative(x.cuda(), order), kernels.derivative(x, order))
    g = layouts.normal(tuple(x.shape), wide, "cpu")
    gradients = [g] * order
    ops = (kernels.mish, kernels.mish_backward, kernels.mish_double_backward)
    on_gpu = ops[order](*(t.cuda() for t in (*gradients, x)))
    assert reference.same_bits(on_gpu, ops[order](*gradients, x))


MIXED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "input": lambda x, other: mish_cuda.mish(other, out=x),
    "out": lambda x, other: mish_cuda.mish(x, out=other),
    "gradient": lambda x, other: mish_cuda.mish_backward(x, other),
}


@pytest.mark.parametrize("elsewhere", ["cpu", pytest.param("cuda:1", marks=needs_two)])
@pytest.mark.parametrize("call", MIXED.values(), ids=MIXED)
def test_operands_on_two_devices(
    call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], elsewhere: str
) -> None:
    x = torch.randn(3, device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        call(x, x.to(elsewhere))


@ORDERS
@pytest.mark.parametrize("offset", [1, 3, 7])
def test_an_odd_storage_offset(
    kernels: Implementation, dtype: torch.dtype, order: int, offset: int
) -> None:
    """No pack is aligned; neither neighbour is written."""
    x = layouts.normal((70_001,), dtype, "cuda")
    operands = [x.flip(0)] * order + [x]
    shifted = [torch.nn.functional.pad(t, (offset, 1))[offset:-1] for t in operands]
    assert all(t.storage_offset() == offset for t in shifted)
    expected = kernels.apply(*operands)
    assert reference.same_bits(kernels.apply(*shifted), expected)
    if order == 0:
        whole = torch.full((len(x) + offset + 1,), 7.0, dtype=dtype, device="cuda")
        inside = whole[offset:-1]
        inside.copy_(x)
        kernels.mish_(inside)
        assert reference.same_bits(inside, expected)
        assert (whole[:offset] == 7).all()
        assert whole[-1] == 7


@needs_two
@ORDERS
def test_two_devices_in_turn(kernels: Implementation, order: int) -> None:
    """Each on a stream of its own device, launched without waiting for the other."""
    x = layouts.normal((2**20 + 5,), torch.float32, "cpu")
    expected = kernels.derivative(x.to("cuda:0"), order)
    there = [x.to(f"cuda:{i}") for i in range(2)]
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
