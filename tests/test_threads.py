"""Right under any threads: Python's, torch's own, and those of a forked process."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import layouts
import reference
from conftest import ORDERS, Path


def forward_and_backward(path: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = path.mish(leaf)
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    return y.detach(), gradient


def agree(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def test_several_python_threads(path: Path, device: str) -> None:
    inputs = [
        layouts.normal((20_000 + 17 * seed,), torch.float32, device, seed) for seed in range(8)
    ]
    expected = [forward_and_backward(path, x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            results = pool.map(lambda x: forward_and_backward(path, x), inputs)
            assert all(map(agree, results, expected))


def test_one_input_shared_by_threads(path: Path, device: str) -> None:
    x = layouts.normal((50_001,), torch.float32, device)
    expected = forward_and_backward(path, x)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: forward_and_backward(path, x), range(16)))
    assert all(agree(result, expected) for result in results)


def test_backward_from_several_threads_adds_up(path: Path, device: str) -> None:
    x = layouts.normal((1000,), torch.float64, device).requires_grad_()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: path.mish(x).sum().backward(), range(16)))
    torch.testing.assert_close(x.grad, 16 * reference.mish(x, 1).to(device))


SHARED_GRAPH = """
import sys, threading
import torch, mish_cuda
from mish_cuda import eager
mish = eager.mish if sys.argv[1] == "eager" else mish_cuda.mish
x = torch.randn(64, requires_grad=True)
g = torch.ones(64, requires_grad=True)
told = set()
def differentiate(y, start):
    start.wait()
    try:
        torch.autograd.grad(y, (x, g), torch.ones(64), allow_unused=True)
    except RuntimeError as error:
        told.add(str(error).partition(".")[0])
for i in range(600):
    y = mish(x)
    if i % 2:
        (y,) = torch.autograd.grad(y, x, g, create_graph=True)
    start = threading.Barrier(3)
    threads = [threading.Thread(target=differentiate, args=(y, start)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(*told, sep="\\n")
"""


def test_threads_that_share_a_graph(path: Path) -> None:
    """One backward frees what others are about to use: they are told so, and nothing crashes."""
    command = [sys.executable, "-c", SHARED_GRAPH, path.name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert set(done.stdout.split("\n")) <= {
        "",
        "Trying to backward through the graph a second time (or directly access saved tensors "
        "after they have already been freed)",
    }


def child(path: Path, x: Tensor, expected: Tensor) -> None:
    """Runs in a forked process; its exit code says whether all was right."""
    torch.set_num_threads(1)  # torch's threads do not live on in the child
    y, gradient = forward_and_backward(path, x)
    right = torch.equal(y, expected)
    right = right and torch.allclose(gradient, reference.mish(x, 1).float(), atol=1e-5)
    sys.exit(0 if right else 1)


def test_after_fork(path: Path) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    x = layouts.normal((100_003,), torch.float32, "cpu")
    expected = path.mish(x)  # starts torch's threads in the parent
    process = multiprocessing.get_context("fork").Process(target=child, args=(path, x, expected))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("the forked process hangs")
    assert process.exitcode == 0


@ORDERS
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("layout", ["several threads", "several threads, transposed"])
def test_any_number_of_torchs_threads(
    path: Path, device: str, order: int, count: int, layout: str
) -> None:
    x = layouts.make(layout, torch.float32, device, fill=layouts.normal)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        result = path.derivative(x, order)
    finally:
        torch.set_num_threads(before)
    expected = reference.mish(x, order).to(device, torch.float32)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
