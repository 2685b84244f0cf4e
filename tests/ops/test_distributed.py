"""Parallel training, in process groups of 2 and 4: gradients are those of a single process.

With gloo on the CPU, and with NCCL where there are two GPUs. Every process draws the same numbers,
so each can compute alone, with torch's own Mish in float64, what all of them compute together.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import mish_cuda
from conftest import needs_extension
from mish_cuda import Mish, eager
from project import ROOT, run_python

# Imported after mish_cuda, which must register its sharding rules nevertheless.
pytest.importorskip("torch.distributed.tensor", reason="this torch has no torch.distributed")
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU at most")
needs_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
pytestmark = [needs_gloo, pytest.mark.slow]


def process(rank: int, count: int, device: str, store: str, function: Any, *args: Any) -> None:
    """Calls the function as one of a group of processes. One thread each: they share the cores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.set_device(rank)
        torch.set_default_device("cuda")
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
    timeout = timedelta(seconds=40)  # for processes that are out of step
    dist.init_process_group(backend, f"file://{store}", timeout, world_size=count, rank=rank)
    function(*args)
    dist.destroy_process_group()
    # At Python's own end, threads of gloo may still drop tensors and abort the process
    # (https://github.com/pytorch/pytorch/pull/179291).
    os._exit(0)


def line() -> DeviceMesh:
    return init_device_mesh(torch.get_default_device().type, (dist.get_world_size(),))


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def same(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(whole(actual), expected, rtol=1e-12, atol=1e-12)


# --- A training step ---


def linear_layers(mish: Callable[..., nn.Module], inplace: bool = False) -> nn.Sequential:
    """Layers with sizes divisible by four. The first Mish never works in place, since torch lets no
    op overwrite the output of a tensor-parallel layer."""
    return nn.Sequential(nn.Linear(8, 12), mish(), nn.Linear(12, 8), mish(inplace), nn.Linear(8, 4))


def trains_as_alone(parallel: Callable[[nn.Sequential], nn.Module], of_data: bool) -> None:
    """The gradients of a step in parallel, by a share of the data in each process or by parts of
    the model, are those of one process and torch's Mish in float64."""
    x = torch.randn(16, 8, dtype=torch.float64)
    single, model = linear_layers(nn.Mish).double(), linear_layers(Mish, inplace=of_data).double()
    model.load_state_dict(single.state_dict())
    whole(single(x)).square().mean().backward()
    trained = parallel(model)  # which averages gradients for as long as it lives
    share = x.chunk(dist.get_world_size())[dist.get_rank()] if of_data else x
    whole(trained(share)).square().mean().backward()
    for p, expected in zip(model.parameters(), single.parameters(), strict=True):
        same(p.grad, expected.grad)


def in_shards(model: nn.Sequential) -> nn.Module:
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=line())
    return model


def by_plan(model: nn.Sequential) -> nn.Module:
    """Both activations meet DTensors."""
    plan = {
        "0": ColwiseParallel(use_local_output=False),
        "2": RowwiseParallel(use_local_output=False),
        "4": ColwiseParallel(output_layouts=Replicate()),
    }
    return parallelize_module(model, line(), plan)


# --- DTensors ---


def sharded(mesh: DeviceMesh, *placements: Any) -> DTensor:
    """Sizes that do not divide evenly, one of them less than four."""
    return distribute_tensor(torch.randn(9, 5, 3, dtype=torch.float64), mesh, placements)


def dtensors() -> list[DTensor]:
    """Sharded, replicated and partial, on a line of processes and on a grid."""
    count = dist.get_world_size()
    grid = init_device_mesh(torch.get_default_device().type, (2, count // 2))
    summand = torch.randn(count, 4, 6, dtype=torch.float64)[dist.get_rank()]
    on_a_line = [Shard(0), Shard(1), Shard(2), Shard(-1), Replicate()]
    return [
        *(sharded(line(), placement) for placement in on_a_line),
        sharded(grid, Shard(0), Shard(1)),
        sharded(grid, Shard(0), Shard(0)),
        sharded(grid, Replicate(), Shard(1)),
        DTensor.from_local(summand, line(), [Partial()], run_check=False),
        DTensor.from_local(summand, grid, [Partial(), Shard(1)], run_check=False),
    ]


def check_dtensors(mish: Callable[[Tensor], Tensor]) -> None:
    """Value, gradient and the gradient's own gradients."""
    for x in dtensors():
        plain = whole(x).detach().requires_grad_()
        x.requires_grad_()
        results = []
        for function, at in ((F.mish, plain), (mish, x)):
            y = function(at)
            g = torch.ones_like(y).requires_grad_()
            (slope,) = torch.autograd.grad(y, at, g, create_graph=True)
            results.append((y, slope, *torch.autograd.grad(slope.sum(), (at, g))))
        for expected, actual in zip(*results, strict=True):
            same(actual, expected)


def check_compiled_dtensor() -> None:
    x = sharded(line(), Shard(0))
    plain, at = whole(x).requires_grad_(), x.detach().requires_grad_()
    torch.compile(mish_cuda.mish, backend="aot_eager", fullgraph=True)(at).sum().backward()
    F.mish(plain).sum().backward()
    same(at.grad, whole(plain.grad))


def check_dtensors_without_autograd() -> None:
    """The ops by name, with operands of different placement; in-place ops keep theirs."""
    x, g = sharded(line(), Shard(1)), sharded(line(), Replicate())
    ops, plain = torch.ops.mish_cuda, whole(x)
    for actual in (ops.mish(x), mish_cuda.mish_(x.clone()), ops.mish_(x.clone())):
        assert actual.placements == (Shard(1),)
        same(actual, F.mish(plain))
    slope = torch.ops.aten.mish_backward(whole(g), plain)
    same(mish_cuda.mish_backward(x, g), slope)
    same(ops.mish_backward(g, x), slope)


def check_all() -> None:
    trains_as_alone(DistributedDataParallel, of_data=True)
    trains_as_alone(in_shards, of_data=True)
    trains_as_alone(by_plan, of_data=False)
    check_dtensors(mish_cuda.mish)
    check_dtensors(eager.mish)
    check_compiled_dtensor()
    check_dtensors_without_autograd()


@needs_extension
@pytest.mark.parametrize(
    ("device", "count"), [("cpu", 2), ("cpu", 4), pytest.param("cuda", 2, marks=needs_two)]
)
def test_gradients_are_those_of_one_process(device: str, count: int, tmp_path: Path) -> None:
    arguments = (count, device, str(tmp_path / "store"), check_all)
    running = torch.multiprocessing.spawn(process, arguments, nprocs=count, join=False)
    end = time.monotonic() + 180
    try:
        while not running.join(timeout=5):  # raises what one of them raises
            assert time.monotonic() < end, "the processes hang"
    finally:
        for one in running.processes:
            one.kill()


# --- Sharding rules are registered when an op first meets a DTensor, wherever that is ---

OPS = torch.ops.mish_cuda


def below_autograd(x: Tensor) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        return OPS.mish(x)  # type: ignore[no-any-return]


def after_threads(x: Tensor) -> Tensor:
    """After another subclass, whose threads meet the ops at once. (Not of DTensors: torch 2.11
    crashes when eight threads compute F.mish of one.)"""
    pair, start = TwoTensor(torch.ones(2), torch.ones(2)), Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: start.wait() < 8 and mish_cuda.mish(pair), range(8)))
    return mish_cuda.mish(x)


FIRST_MEETINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": mish_cuda.mish,
    "in place": mish_cuda.mish_,
    "backward": lambda x: OPS.mish_backward(x, x),
    "double backward": lambda x: OPS.mish_double_backward(x, x, x),
    "inference tensor": torch.inference_mode()(lambda x: OPS.mish(x.clone())),
    "below autograd": below_autograd,
    "torch.func": torch.func.grad(lambda x: OPS.mish(x).sum()),
    "torch.compile": torch.compile(mish_cuda.mish, backend="aot_eager", fullgraph=True),
    "threads": after_threads,
}


def meet(name: str) -> None:
    x = distribute_tensor(torch.ones(3, 2), line(), [Shard(1)])
    assert FIRST_MEETINGS[name](x).placements == (Shard(1),)


def run(program: str) -> str:
    """What a new process prints."""
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = run_python("-W", "ignore", "-c", program, cwd=ROOT, env=env, timeout=180, status=0)
    return str(done.stdout)


ANOTHER_SUBCLASS = """
import torch, mish_cuda
from torch.testing._internal.two_tensor import TwoTensor
mish_cuda.mish(TwoTensor(torch.ones(2), torch.ones(2)))
"""


@needs_extension
@pytest.mark.parametrize(
    ("name", "before"),
    [
        *((name, "import mish_cuda") for name in FIRST_MEETINGS),
        *(("mish", before) for before in ("import torch.distributed.tensor", ANOTHER_SUBCLASS)),
    ],
)
def test_first_meeting(name: str, before: str, tmp_path: Path) -> None:
    arguments = f"0, 1, 'cpu', {str(tmp_path / 'store')!r}, tests.meet, {name!r}"
    run(f"{before}\nimport test_distributed as tests\ntests.process({arguments})")


def test_importing_mish_cuda_leaves_dtensor_alone() -> None:
    script = "import sys, torch; before = set(sys.modules); import mish_cuda"
    imported = run(script + "; print(*sorted(set(sys.modules) - before))").split()
    assert "mish_cuda" in imported
    own = ("mish_cuda", "importlib", "torch.onnx")  # registers the op with the older ONNX exporter
    assert not [name for name in imported if not name.startswith(own)]
