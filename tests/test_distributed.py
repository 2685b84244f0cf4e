"""Parallel training, in process groups of 2 and 4: gradients are those of a single process.

With gloo on the CPU, and with NCCL where there are two GPUs.

The cases are in distributed_worker.py; one group of processes runs them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch.torch_version import TorchVersion

from conftest import needs_extension

WORKER = Path(__file__).with_name("distributed_worker.py")

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no torch.distributed with gloo",
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread each: the processes share the cores.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)


CASES = (
    "ddp",
    "fsdp",
    "fsdp_in_mixed_precision",
    "tensor_parallel",
    "tensor_parallel_in_fsdp",
    "sequence_parallel",
    "dtensor_sharded_or_replicated",
    "dtensor_partial",
    "dtensor_on_a_grid",
    "dtensor_by_the_eager_maths",
    "dtensor_compiled",
    "dtensor_without_autograd",
    pytest.param(
        "pipeline",
        marks=pytest.mark.skipif(
            TorchVersion(torch.__version__) < "2.11",
            reason="with torch 2.9.1 a schedule sends int64 to neighbours that receive float32, at "
            "which gloo ends the process",
        ),
    ),
)


@pytest.fixture(
    scope="session",
    params=[("cpu", 2), ("cpu", 4), ("cuda", 2)],
    ids=lambda param: f"{param[1]} processes, {param[0]}",
)
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Of each process: the error of each case that it ran, or None."""
    device, count = request.param
    if device == "cuda" and torch.cuda.device_count() < count:
        pytest.skip(f"torch sees fewer than {count} GPUs")
    folder = tmp_path_factory.mktemp("reports")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    done = python(*launcher, str(count), str(WORKER), str(folder), device)
    files = [folder / f"{rank}.json" for rank in range(count)]
    assert all(file.exists() for file in files), done.stdout + done.stderr
    return [json.loads(file.read_text()) for file in files]


@needs_extension
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(reports: list[dict[str, Any]], case: str) -> None:
    if any(case not in report for report in reports):
        pytest.fail("not run, since a case before it failed")
    errors = [report[case] for report in reports]
    assert errors == [None] * len(errors), "\n".join(filter(None, errors))


@needs_extension
def test_every_case_is_listed(reports: list[dict[str, Any]]) -> None:
    assert not set().union(*reports) - {*CASES[:-1], "pipeline"}


DTENSOR_FIRST = """
import torch
import torch.distributed.tensor
import mish_cuda
from torch.distributed import HashStore, init_device_mesh, init_process_group
from torch.distributed.tensor import Shard, distribute_tensor
init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
x = distribute_tensor(torch.ones(3, 2), init_device_mesh("cpu", (1,)), [Shard(1)])
assert torch.ops.mish_cuda.mish(x).placements == (Shard(1),)
"""


@needs_extension
def test_rules_are_there_if_dtensor_is_imported_first() -> None:
    """The workers import it behind mish_cuda."""
    done = python("-c", DTENSOR_FIRST)
    assert done.returncode == 0, done.stderr


def test_importing_mish_cuda_leaves_dtensor_alone() -> None:
    script = "import sys, torch; before = set(sys.modules); import mish_cuda"
    done = python("-c", script + "; print(*sorted(set(sys.modules) - before))")
    imported = done.stdout.split()
    assert "mish_cuda" in imported, done.stderr
    assert not [name for name in imported if not name.startswith(("mish_cuda", "importlib"))]
