"""Parallel training, in process groups of 2 and 4: gradients are those of a single process.

With gloo on the CPU, and with NCCL where there are two GPUs.

distributed_worker.py has the cases; one group of processes runs them all.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed

from conftest import needs_extension
from project import ROOT, run_python

WORKER = Path(__file__).with_name("distributed_worker.py")

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU at most")
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no torch.distributed with gloo",
)


def run(*arguments: str | Path) -> str:
    """What Python prints. One thread each: the processes share the cores."""
    env = {"OMP_NUM_THREADS": "1"}
    done = run_python("-W", "ignore", *arguments, cwd=ROOT, env=env, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@needs_extension
@pytest.mark.parametrize(
    ("device", "count"), [("cpu", 2), ("cpu", 4), pytest.param("cuda", 2, marks=needs_two)]
)
def test_gradients_are_those_of_one_process(device: str, count: int, tmp_path: Path) -> None:
    """Each process leaves a report: the cases that it ran, each with its error or None."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    run(*launcher, WORKER, tmp_path, device)
    for rank in range(count):
        for case, error in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            assert error is None, f"{case}, process {rank}: {error}"


# The last is after another subclass, whose threads meet the ops at once. (Not of DTensors: torch
# 2.11 crashes when eight threads compute F.mish of one.)
FIRST_MEETINGS = {
    "mish": "y = mish_cuda.mish(x)",
    "in place": "y = mish_cuda.mish_(x)",
    "backward": "y = ops.mish_backward(x, x)",
    "double backward": "y = ops.mish_double_backward(x, x, x)",
    "inference tensors": "with torch.inference_mode(): y = ops.mish(sharded())",
    "below autograd": "with torch._C._AutoDispatchBelowAutograd(): y = ops.mish(x)",
    "torch.func": "y = torch.func.grad(lambda x: ops.mish(x).sum())(x)",
    "torch.compile": "y = torch.compile(mish_cuda.mish, backend='aot_eager', fullgraph=True)(x)",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
from torch.testing._internal.two_tensor import TwoTensor
pairs, start = [TwoTensor(torch.ones(2), torch.ones(2))] * 8, threading.Barrier(8)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda pair: start.wait() < 8 and mish_cuda.mish(pair), pairs))
y = mish_cuda.mish(x)
""",
}
PROGRAM = """
import threading, torch
import {imports}
if {another_first}:
    from torch.testing._internal.two_tensor import TwoTensor
    mish_cuda.mish(TwoTensor(torch.ones(2), torch.ones(2)))
from torch.distributed import HashStore, init_device_mesh, init_process_group
from torch.distributed.tensor import Shard, distribute_tensor
init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
ops = torch.ops.mish_cuda
def sharded():
    return distribute_tensor(torch.ones(3, 2), mesh, [Shard(1)])
x = sharded()
{meeting}
assert y.placements == (Shard(1),)
"""


@needs_extension
@pytest.mark.parametrize(
    ("meeting", "before"),
    [*((name, "") for name in FIRST_MEETINGS), ("mish", "DTensor"), ("mish", "TwoTensor")],
)
def test_rules_are_there_wherever_an_op_first_meets_a_dtensor(meeting: str, before: str) -> None:
    imports = "torch.distributed.tensor, mish_cuda" if before == "DTensor" else "mish_cuda"
    program = PROGRAM.format(
        imports=imports, another_first=before == "TwoTensor", meeting=FIRST_MEETINGS[meeting]
    )
    run("-c", program)


def test_importing_mish_cuda_leaves_dtensor_alone() -> None:
    script = "import sys, torch; before = set(sys.modules); import mish_cuda"
    imported = run("-c", script + "; print(*sorted(set(sys.modules) - before))").split()
    assert "mish_cuda" in imported
    own = ("mish_cuda", "importlib", "torch.onnx")  # registers the op with the older ONNX exporter
    assert not [name for name in imported if not name.startswith(own)]
