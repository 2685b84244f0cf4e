"""Right under any threads: Python's, torch's own, and those of a forked process."""

from __future__ import annotations

import multiprocessing
import sys

import pytest
import torch
from torch import Tensor

import layouts
import reference
from conftest import Implementation
from project import ROOT, run_python

FIRST_USE = """
import sys, threading
import torch
sizes = [*range(2000, 2007), 50_001]  # torch computes the last in threads of its own
inputs = [torch.randn(size, dtype=torch.float64) for size in sizes]
start, results, errors = threading.Barrier(8), {}, []
threading.excepthook = lambda args: errors.append(args.exc_value)

def derivatives(x):
    import mish_cuda
    mish = mish_cuda.eager.mish if sys.argv[1] == "eager" else mish_cuda.mish
    x = x.clone().requires_grad_()
    found = [mish(x)]
    for _ in range(3):
        found += torch.autograd.grad(found[-1].sum(), x, create_graph=True)
    return found

def work(seed):
    start.wait()
    results[seed] = [derivatives(inputs[seed]) for _ in range(40)]

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors
for seed, x in enumerate(inputs):
    expected = derivatives(x)
    for found in results[seed]:
        assert all(map(torch.equal, found, expected))
"""

SHARED_GRAPH = """
import sys, threading
import torch, mish_cuda
mish = mish_cuda.eager.mish if sys.argv[1] == "eager" else mish_cuda.mish
x, g = torch.randn(64, requires_grad=True), torch.ones(64, requires_grad=True)
errors, outcomes = set(), []
def differentiate(y, start):
    start.wait()
    try:
        torch.autograd.grad(y, (x, g), torch.ones(64), allow_unused=True)
        outcomes.append("done")
    except RuntimeError as error:
        errors.add(str(error))
for i in range(600):
    y = mish(x)
    if i % 2:
        (y,) = torch.autograd.grad(y, x, g, create_graph=True)
    start = threading.Barrier(3)
    threads = [threading.Thread(target=differentiate, args=(y, start)) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
assert len(outcomes) >= 600
assert all("second time" in error for error in errors), errors
"""


@pytest.mark.parametrize("program", [FIRST_USE, SHARED_GRAPH], ids=["first use", "shared graph"])
def test_program(impl: Implementation, program: str) -> None:
    """Threads that import the library at once and compute first, bit by bit as one thread does;
    and threads of which one frees the graph that others are about to use, who are told so."""
    done = run_python("-c", program, impl.name, cwd=ROOT)
    assert done.returncode == 0, (done.returncode, done.stderr)


def child(impl: Implementation, x: Tensor, expected: Tensor) -> None:
    """Runs in a forked process; its exit code says whether all was right."""
    torch.set_num_threads(1)  # torch's threads do not live on in the child
    # Not by autograd, whose engine refuses to run after a fork once it has threads of its own.
    y, gradient = impl.mish(x), impl.mish_backward(torch.ones_like(x), x)
    right = torch.equal(y, expected)
    right = right and torch.allclose(gradient, reference.mish(x, 1).float(), atol=1e-5)
    sys.exit(0 if right else 1)


def test_after_fork(impl: Implementation) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    x = layouts.normal((100_003,), torch.float32, "cpu")
    expected = impl.mish(x)  # starts torch's threads in the parent
    process = multiprocessing.get_context("fork").Process(target=child, args=(impl, x, expected))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("the forked process hangs")
    assert process.exitcode == 0
