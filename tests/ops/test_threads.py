"""Right under any threads: Python's, torch's own, and those of a forked process."""

from __future__ import annotations

import os

import pytest

from conftest import Implementation
from project import ROOT, run_python

pytestmark = pytest.mark.slow

IMPORTS = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import torch
from torch.autograd import grad

def ours():
    import mish_cuda
    return mish_cuda.eager if sys.argv[1] == "eager" else mish_cuda
"""
PROGRAMS = {
    # Threads that import the library at once and compute first, bit by bit as one thread does.
    "first use": """
sizes = [*range(2000, 2007), 50_001]  # torch computes the last in threads of its own
start = threading.Barrier(len(sizes))

def derivatives(x):
    found = [ours().mish(x)]
    for _ in range(3):
        found += grad(found[-1].sum(), x, create_graph=True)
    return found

def work(x):
    start.wait()
    return [derivatives(x) for _ in range(40)]

inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
with ThreadPoolExecutor(len(sizes)) as pool:
    results = [*pool.map(work, inputs)]
for x, found in zip(inputs, results):
    expected = derivatives(x)
    assert all(torch.equal(*pair) for again in found for pair in zip(again, expected))
""",
    # Threads of which one frees the graph that others are about to use, who are told so.
    "shared graph": """
x, g = torch.randn(64, requires_grad=True), torch.ones(64, requires_grad=True)
start, errors = threading.Barrier(3), []

def differentiate(y):
    start.wait()
    grad(y, (x, g), torch.ones(64), allow_unused=True)

with ThreadPoolExecutor(3) as pool:
    for i in range(600):
        y = ours().mish(x)
        if i % 2:
            (y,) = grad(y, x, g, create_graph=True)
        threads = [pool.submit(differentiate, y) for _ in range(3)]
        errors += [str(thread.exception()) for thread in threads if thread.exception()]
assert len(errors) <= 1200
assert all("second time" in error for error in errors), errors
""",
    # Not by autograd, whose engine refuses to run after a fork once it has threads of its own.
    "fork": """
mish = ours().mish
backward = ours().input_gradient if sys.argv[1] == "eager" else torch.ops.mish_cuda.mish_backward
x = torch.linspace(-9, 9, 100_003)
y, gradient = mish(x), backward(x, x)  # starts torch's threads
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends it if it hangs
    torch.set_num_threads(1)  # torch's threads do not live on
    assert torch.equal(mish(x), y) and torch.allclose(backward(x, x), gradient)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(impl: Implementation, name: str) -> None:
    if name == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    run_python("-c", IMPORTS + PROGRAMS[name], impl.name, cwd=ROOT, status=0)
