"""What has a meaning on a GPU only. All other tests run there too, by their `device`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

import layouts
import mish_cuda
import reference
from conftest import ORDERS, Path

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture
def kernels(compiled: Path) -> Path:
    if mish_cuda.backend(torch.empty(0, device="cuda")) != "cuda":
        pytest.skip("the extension was built without CUDA kernels")
    return compiled


@ORDERS
def test_works_on_the_current_stream(kernels: Path, order: int) -> None:
    """Started on a side stream behind a long wait, it must see what was written before it."""
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
def test_does_not_synchronise(kernels: Path, order: int, layout: str) -> None:
    x = layouts.make(layout, torch.float32, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.derivative(x, order)
        kernels.mish_(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "several threads"])
def test_graph_capture_and_replay(kernels: Path, dtype: torch.dtype, layout: str) -> None:
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


def test_training_step_in_a_graph(kernels: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), mish_cuda.Mish()).cuda()
    x = torch.randn(16, 8, device="cuda")
    plain = copy.deepcopy(module)  # the graphed module is the same object with another forward
    graphed = torch.cuda.make_graphed_callables(module, (x,))
    x = torch.randn_like(x)  # other numbers than those it was captured with
    expected = torch.autograd.grad(plain(x).sum(), list(plain.parameters()))
    results = torch.autograd.grad(graphed(x).sum(), list(module.parameters()))
    torch.testing.assert_close(results, expected)


@ORDERS
def test_a_device_that_is_not_the_current_one(kernels: Path, order: int) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one GPU only")
    x = layouts.normal((1000,), torch.float32, "cuda:1")
    assert torch.cuda.current_device() == 0
    result = kernels.derivative(x, order)
    assert result.device == x.device
    assert reference.same_bits(result, kernels.derivative(x.to("cuda:0"), order))


def test_operands_on_two_devices(kernels: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one GPU only")
    x = torch.randn(3, device="cuda:0")
    with pytest.raises(RuntimeError, match=r"device.*cuda:0.*cuda:1"):
        kernels.mish_backward(x.to("cuda:1"), x)


MIXED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "input on the CPU": lambda x: mish_cuda.mish(x.cpu(), out=x),
    "out on the CPU": lambda x: mish_cuda.mish(x, out=x.cpu()),
    "gradient on the CPU": lambda x: mish_cuda.mish_backward(x, x.cpu()),
}


@pytest.mark.parametrize("call", MIXED.values(), ids=MIXED)
def test_operands_on_cpu_and_gpu(call: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(RuntimeError, match="device"):
        call(torch.randn(3, device="cuda"))


@ORDERS
def test_pointers_of_any_alignment(kernels: Path, dtype: torch.dtype, order: int) -> None:
    """Each operand on its own boundary: the wide loads need 16 bytes."""
    ops = (kernels.mish, kernels.mish_backward, kernels.mish_double_backward)
    for size in (1, 7, 8, 9, 255, 256, 257, 5000):
        aligned = [layouts.filled((size,), dtype, "cuda", seed) for seed in range(order + 1)]
        expected = ops[order](*aligned)
        for shift in range(16 // dtype.itemsize):
            moved = [
                torch.cat([x.new_zeros(shift * i % 9), x])[shift * i % 9 :]
                for i, x in enumerate(aligned, start=1)
            ]
            assert reference.same_bits(ops[order](*moved), expected)


def test_out_of_any_alignment_keeps_its_surroundings(kernels: Path, dtype: torch.dtype) -> None:
    for size in (1, 8, 255, 256, 257, 5000, 2**16 + 1):
        x = layouts.filled((size,), dtype, "cuda")
        expected = kernels.mish(x)
        for shift in range(9):
            out = torch.full((size + 32,), 7, dtype=dtype, device="cuda")[shift : shift + size]
            kernels.mish_out(x, out)
            assert reference.same_bits(out, expected)
            assert layouts.surroundings(out).eq(7).all()


def test_more_than_2_31_elements_strided(kernels: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 20 * 2**30:
        pytest.skip("20 GB of GPU memory are not free")
    rows = 2**16 + 1
    values = torch.linspace(-9, 9, 2**15, dtype=torch.bfloat16, device="cuda")
    x = values.expand(rows, -1).t()  # more than 2^31 elements, and not dense
    assert x.numel() > 2**31
    expected = kernels.mish(values)
    result = kernels.mish(x)
    for start in range(0, rows, 4096):
        part = result[:, start : start + 4096]
        assert torch.equal(part, expected[:, None].expand_as(part))
