"""Parallel training, in process groups of 2 and 4: gradients are those of a single process.

With gloo on the CPU, and with NCCL where there are two GPUs.

distributed_worker.py has the cases; one group of processes runs them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from conftest import needs_extension
from project import ROOT

WORKER = Path(__file__).with_name("distributed_worker.py")

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU at most")
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no torch.distributed with gloo",
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread each: the processes share the cores. mish_cuda may be built here, not installed.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)


@needs_extension
@pytest.mark.parametrize(
    ("device", "count"), [("cpu", 2), ("cpu", 4), pytest.param("cuda", 2, marks=needs_two)]
)
def test_gradients_are_those_of_one_process(device: str, count: int, tmp_path: Path) -> None:
    """Each process leaves a report: the cases that it ran, each with its error or None."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    done = python(*launcher, str(count), str(WORKER), str(tmp_path), device)
    files = [tmp_path / f"{rank}.json" for rank in range(count)]
    assert all(file.exists() for file in files), done.stdout + done.stderr
    for rank, file in enumerate(files):
        for case, error in json.loads(file.read_text()).items():
            assert error is None, f"{case}, process {rank}: {error}"


FIRST_MEETING = """
import threading
import torch
{imports}
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

IMPORTS = {
    "DTensor imported first": "import torch.distributed.tensor; import mish_cuda",
    "another subclass first": """
import mish_cuda
from torch.testing._internal.two_tensor import TwoTensor
mish_cuda.mish(TwoTensor(torch.ones(2), torch.ones(2)))
""",
}
MEETINGS = {
    **dict.fromkeys(["mish", *IMPORTS], "y = mish_cuda.mish(x)"),
    "torch.ops": "y = ops.mish(x)",
    "in place": "y = mish_cuda.mish_(x)",
    "backward": "y = ops.mish_backward(x, x)",
    "double backward": "y = ops.mish_double_backward(x, x, x)",
    "inference mode": "with torch.inference_mode(): y = ops.mish(x)",
    "inference tensors": "with torch.inference_mode(): y = ops.mish(sharded())",
    "below autograd": "with torch._C._AutoDispatchBelowAutograd(): y = ops.mish(x)",
    "torch.func": "y = torch.func.grad(lambda x: ops.mish(x).sum())(x)",
    "torch.compile": "y = torch.compile(mish_cuda.mish, backend='aot_eager', fullgraph=True)(x)",
    # Not of DTensors: torch 2.11 crashes when eight threads compute F.mish of one.
    "threads": """
from torch.testing._internal.two_tensor import TwoTensor
results, start = [], threading.Barrier(8)
def meet():
    start.wait()
    results.append(mish_cuda.mish(TwoTensor(torch.ones(2), torch.ones(2))))
threads = [threading.Thread(target=meet) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(results) == 8
y = mish_cuda.mish(x)
""",
}


@needs_extension
@pytest.mark.parametrize("name", MEETINGS)
def test_rules_are_there_wherever_an_op_first_meets_a_dtensor(name: str) -> None:
    imports = IMPORTS.get(name, "import mish_cuda")
    done = python("-c", FIRST_MEETING.format(imports=imports, meeting=MEETINGS[name]))
    assert done.returncode == 0, done.stderr


def test_importing_mish_cuda_leaves_dtensor_alone() -> None:
    script = "import sys, torch; before = set(sys.modules); import mish_cuda"
    done = python("-c", script + "; print(*sorted(set(sys.modules) - before))")
    imported = done.stdout.split()
    assert "mish_cuda" in imported, done.stderr
    own = ("mish_cuda", "importlib", "torch.onnx")  # registers the op with the older ONNX exporter
    assert not [name for name in imported if not name.startswith(own)]
