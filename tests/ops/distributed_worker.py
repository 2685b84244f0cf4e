"""One of the processes that test_distributed.py starts: runs each case and records failures.

Every process draws the same numbers, so each can compute alone, with torch's own Mish in float64,
what all of them compute together.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

import mish_cuda
from mish_cuda import Mish, eager

# isort: split
# Imported after mish_cuda, which must register its sharding rules nevertheless.
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

DEVICE = sys.argv[2]  # "cpu", with gloo, or "cuda", with NCCL and a GPU for each process
TIMEOUT = timedelta(seconds=40)  # processes that wait for one that failed give up


def world() -> int:
    return dist.get_world_size()


def line() -> DeviceMesh:
    return init_device_mesh(DEVICE, (world(),))


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def same(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(whole(actual), expected, rtol=1e-12, atol=1e-12)


# --- A training step ---


def linear_layers(mish: Callable[..., nn.Module], inplace: bool = False) -> nn.Sequential:
    """Layers with sizes divisible by four. The first Mish never works in place, since torch lets no
    op overwrite the output of a tensor-parallel layer."""
    second = mish(inplace=inplace)
    return nn.Sequential(nn.Linear(8, 12), mish(), nn.Linear(12, 8), second, nn.Linear(8, 4))


def trains_as_alone(
    parallel: Callable[[nn.Sequential], nn.Module],
    share: Callable[[Tensor], Tensor] = lambda x: x,
    **options: Any,
) -> None:
    """The gradients of a parallel step are those of one process and torch's Mish in float64."""
    x = torch.randn(16, 8, dtype=torch.float64)
    single, model = linear_layers(nn.Mish).double(), linear_layers(Mish, **options).double()
    model.load_state_dict(single.state_dict())
    whole(single(x)).square().mean().backward()
    trained = parallel(model)  # which averages gradients for as long as it lives
    whole(trained(share(x))).square().mean().backward()
    for p, expected in zip(model.parameters(), single.parameters(), strict=True):
        same(p.grad, expected.grad)


def share_of(batch: Tensor) -> Tensor:
    """This process's share of a batch."""
    return batch.chunk(world())[dist.get_rank()]


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


CASES: dict[str, Callable[[], None]] = {
    "DDP": partial(trains_as_alone, DistributedDataParallel, share_of, inplace=True),
    "FSDP": partial(trains_as_alone, in_shards, share_of, inplace=True),
    "tensor parallel": partial(trains_as_alone, by_plan),
}


# --- DTensors ---


def sharded(mesh: DeviceMesh, placements: list[Placement]) -> DTensor:
    """Sizes that do not divide evenly, one of them less than four."""
    return distribute_tensor(torch.randn(9, 5, 3, dtype=torch.float64), mesh, placements)


def dtensors() -> list[DTensor]:
    """Sharded, replicated and partial, on a line of processes and on a grid."""
    grid = init_device_mesh(DEVICE, (2, world() // 2))
    summand = torch.randn(world(), 4, 6, dtype=torch.float64)[dist.get_rank()]
    on_a_line: list[Placement] = [Shard(0), Shard(1), Shard(2), Shard(-1), Replicate()]
    return [
        *(sharded(line(), [placement]) for placement in on_a_line),
        sharded(grid, [Shard(0), Shard(1)]),
        sharded(grid, [Shard(0), Shard(0)]),
        sharded(grid, [Replicate(), Shard(1)]),
        DTensor.from_local(summand, line(), [Partial()], run_check=False),
        DTensor.from_local(summand, grid, [Partial(), Shard(1)], run_check=False),
    ]


def check_dtensors(mish: Callable[[Tensor], Tensor]) -> None:
    """Value, gradient and the gradient's own gradients."""
    for x in dtensors():
        plain = whole(x).detach().requires_grad_()
        x.requires_grad_()
        results = []
        for function, at in ((functional.mish, plain), (mish, x)):
            y = function(at)
            g = torch.ones_like(y).requires_grad_()
            (slope,) = torch.autograd.grad(y, at, g, create_graph=True)
            results.append((y, slope, *torch.autograd.grad(slope.sum(), (at, g))))
        for expected, actual in zip(*results, strict=True):
            same(actual, expected)


def compiled_dtensor() -> None:
    x = sharded(line(), [Shard(0)])
    plain, at = whole(x).requires_grad_(), x.detach().requires_grad_()
    torch.compile(mish_cuda.mish, backend="aot_eager", fullgraph=True)(at).sum().backward()
    functional.mish(plain).sum().backward()
    same(at.grad, whole(plain.grad))


def dtensors_without_autograd() -> None:
    """The ops by name, with operands of different placement; in-place ops keep theirs."""
    x, g = sharded(line(), [Shard(1)]), sharded(line(), [Replicate()])
    ops, plain = torch.ops.mish_cuda, whole(x)
    for actual in (ops.mish(x), mish_cuda.mish_(x.clone()), ops.mish_(x.clone())):
        assert actual.placements == (Shard(1),)
        same(actual, functional.mish(plain))
    slope = torch.ops.aten.mish_backward(whole(g), plain)
    same(mish_cuda.mish_backward(x, g), slope)
    same(ops.mish_backward(g, x), slope)


CASES |= {
    "DTensors": partial(check_dtensors, mish_cuda.mish),
    "DTensors, eager maths": partial(check_dtensors, eager.mish),
    "DTensor, compiled": compiled_dtensor,
    "DTensors without autograd": dtensors_without_autograd,
}


def main(reports: Path) -> None:
    """Runs all cases until one fails; after that the processes may be out of step."""
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.set_default_device("cuda")
    dist.init_process_group({"cpu": "gloo", "cuda": "nccl"}[DEVICE], timeout=TIMEOUT)
    report: dict[str, str | None] = {}
    for name, function in CASES.items():
        torch.manual_seed(0)
        try:
            function()
            report[name] = None
        except Exception:
            report[name] = traceback.format_exc()
            break
    (reports / f"{dist.get_rank()}.json").write_text(json.dumps(report))
    if all(error is None for error in report.values()):
        dist.destroy_process_group()
    else:
        os._exit(0)  # without waiting for the others; they notice


if __name__ == "__main__":
    main(Path(sys.argv[1]))
