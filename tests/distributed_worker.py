"""One process of those that test_distributed.py starts: runs each case, writes down what failed.

Every process draws the same numbers, so each can compute alone, with torch's own Mish in float64,
what all of them compute together.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

import mish_cuda
from mish_cuda import Mish, eager

# isort: split
# After mish_cuda, whose sharding rules have to be there all the same.
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
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
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.torch_version import TorchVersion

DEVICE = sys.argv[2]  # "cpu", with gloo, or "cuda", with NCCL and a GPU for each process
TIMEOUT = timedelta(seconds=40)  # what is left waiting when another process fails gives up
CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


def world() -> int:
    return dist.get_world_size()


def line() -> DeviceMesh:
    return init_device_mesh(DEVICE, (world(),))


def grid() -> DeviceMesh:
    return init_device_mesh(DEVICE, (2, world() // 2))


def mine(batch: Tensor) -> Tensor:
    """This process's share of a batch."""
    return batch.chunk(world())[dist.get_rank()]


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def same(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(whole(actual), expected, rtol=tolerance, atol=tolerance)


def same_gradients(model: nn.Module, expected: nn.Module, tolerance: float = 1e-12) -> None:
    parameters = dict(model.named_parameters())
    for name, parameter in expected.named_parameters():
        assert parameter.grad is not None
        same(parameters[name.removeprefix("module.")].grad, parameter.grad, tolerance)


def network(mish: type[nn.Module], inplace: bool = False) -> nn.Sequential:
    """Layers that divide by four. What tensor parallelism hands on, torch lets no op overwrite."""
    torch.manual_seed(0)
    second = mish(inplace=inplace)
    return nn.Sequential(
        nn.Linear(8, 12), mish(), nn.Linear(12, 8), second, nn.Linear(8, 4)
    ).double()


def batch() -> Tensor:
    return torch.randn(16, 8, dtype=torch.float64)


def loss(output: Tensor) -> Tensor:
    return output.square().mean()


def alone(x: Tensor) -> nn.Sequential:
    """The network with torch's Mish after one step in this process."""
    model = network(nn.Mish)
    loss(model(x)).backward()
    return model


@case
def ddp() -> None:
    x = batch()
    model = DistributedDataParallel(network(Mish, inplace=True))
    loss(model(mine(x))).backward()
    same_gradients(model.module, alone(x))


@case
def fsdp() -> None:
    x = batch()
    model = network(Mish, inplace=True)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=line())
    loss(model(mine(x))).backward()
    same_gradients(model, alone(x))


@case
def fsdp_in_mixed_precision() -> None:
    """What is left to differ from one process is the order of the sum of float32 gradients."""
    x = batch().float()
    model = network(Mish, inplace=True).float()
    single = copy.deepcopy(model)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=line(), mp_policy=policy)
    output = model(mine(x))
    assert output.dtype == torch.bfloat16
    loss(output).backward()

    gradients = [torch.zeros_like(parameter) for parameter in single.parameters()]
    for share in x.bfloat16().chunk(world()):
        low = copy.deepcopy(single).bfloat16()
        loss(low(share)).backward()
        for total, parameter in zip(gradients, low.parameters(), strict=True):
            assert parameter.grad is not None
            total += parameter.grad.float() / world()
    for parameter, expected in zip(single.parameters(), gradients, strict=True):
        parameter.grad = expected
    same_gradients(model, single, 1e-6)


@case
def tensor_parallel() -> None:
    x = batch()
    for local in (True, False):  # whether the activation meets a tensor or a DTensor
        model = network(Mish)
        plan = {
            "0": ColwiseParallel(use_local_output=local),
            "2": RowwiseParallel(use_local_output=local),
            "4": ColwiseParallel(output_layouts=Replicate()),
        }
        parallelize_module(model, line(), plan)
        loss(model(x)).backward()
        same_gradients(model, alone(x))


@case
def tensor_parallel_in_fsdp() -> None:
    x = batch()
    mesh = init_device_mesh(DEVICE, (world() // 2, 2), mesh_dim_names=("data", "tensor"))
    model = network(Mish)
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    parallelize_module(model, mesh["tensor"], plan)
    fully_shard(model, mesh=mesh["data"])
    share = x.chunk(world() // 2)[mesh["data"].get_local_rank()]
    loss(model(share)).backward()
    same_gradients(model, alone(x))


@case
def sequence_parallel() -> None:
    def block(mish: type[nn.Module]) -> nn.Sequential:
        torch.manual_seed(0)
        layers = nn.LayerNorm(8), mish(), nn.Linear(8, 12), mish(), nn.Linear(12, 8), mish()
        return nn.Sequential(*layers).double()

    # Twelve tokens, which any number of processes here shares evenly: uneven ones F.linear itself
    # refuses with torch 2.9. Uneven shards of Mish are among the DTensors below.
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    single = block(nn.Mish)
    loss(single(x)).backward()
    model = block(Mish)
    sequence = SequenceParallel(use_local_output=False)
    plan = {
        "0": sequence,
        "1": sequence,
        "2": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
        "4": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        "5": sequence,
    }
    parallelize_module(model, line(), plan)
    x = distribute_tensor(x, line(), [Shard(1)])
    loss(whole(model(x))).backward()
    same_gradients(model, single)


def check_dtensors(mish: Callable[[Tensor], Tensor], inputs: Iterable[DTensor]) -> None:
    """Value, gradient and the gradient's own gradients."""
    for x in inputs:
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


def sharded(mesh: DeviceMesh, placements: list[Placement]) -> DTensor:
    """Of sizes that do not divide, one of them smaller than four processes."""
    return distribute_tensor(torch.randn(9, 5, 3, dtype=torch.float64), mesh, placements)


def partial(mesh: DeviceMesh, placements: list[Placement]) -> DTensor:
    summand = torch.randn(world(), 4, 6, dtype=torch.float64)[dist.get_rank()]
    return DTensor.from_local(summand, mesh, placements, run_check=False)


def on_a_line() -> list[DTensor]:
    placements: list[Placement] = [Shard(0), Shard(1), Shard(2), Shard(-1), Replicate()]
    return [sharded(line(), [placement]) for placement in placements]


@case
def dtensor_sharded_or_replicated() -> None:
    check_dtensors(mish_cuda.mish, on_a_line())


@case
def dtensor_partial() -> None:
    check_dtensors(mish_cuda.mish, [partial(line(), [Partial()])])


@case
def dtensor_on_a_grid() -> None:
    mesh = grid()
    pairs: list[list[Placement]] = [
        [Shard(0), Shard(1)],
        [Shard(0), Shard(0)],
        [Replicate(), Shard(1)],
    ]
    inputs = [sharded(mesh, pair) for pair in pairs]
    check_dtensors(mish_cuda.mish, [*inputs, partial(mesh, [Partial(), Shard(1)])])


@case
def dtensor_by_the_eager_maths() -> None:
    check_dtensors(eager.mish, [*on_a_line(), partial(line(), [Partial()])])


@case
def dtensor_compiled() -> None:
    x = sharded(line(), [Shard(0)])
    for implementation in ("decomposition", "kernel"):
        mish_cuda.compile_with(implementation)
        compiled = torch.compile(mish_cuda.mish, backend="aot_eager", fullgraph=True)
        at = x.detach().requires_grad_()
        compiled(at).sum().backward()
        plain = whole(x).detach().requires_grad_()
        functional.mish(plain).sum().backward()
        same(at.grad, whole(plain.grad))
    mish_cuda.compile_with("decomposition")


@case
def dtensor_without_autograd() -> None:
    """The ops by their own names, operands placed apart, and nothing that changes its placement."""
    x, g = sharded(line(), [Shard(1)]), sharded(line(), [Replicate()])
    plain = whole(x)
    expected = functional.mish(plain)
    for actual in (
        torch.ops.mish_cuda.mish(x),
        mish_cuda.mish_(x.clone()),
        torch.ops.mish_cuda.mish_(x.clone()),
    ):
        assert actual.placements == (Shard(1),)
        same(actual, expected)
    slope = torch.ops.aten.mish_backward(whole(g), plain)
    same(mish_cuda.mish_backward(x, g), slope)
    same(torch.ops.mish_cuda.mish_backward(g, x), slope)


@case
def pipeline() -> None:
    """One stage a process, four microbatches."""

    def layers(mish: type[nn.Module]) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), mish()) for _ in range(world())))

    x, target = torch.randn(2, 16, 8, dtype=torch.float64)
    single = layers(nn.Mish).double()
    functional.mse_loss(single(x), target).backward()
    rank, last = dist.get_rank(), world() - 1
    model = layers(Mish).double()[rank]
    stage = PipelineStage(model, rank, world(), torch.device(DEVICE))
    schedule = Schedule1F1B(stage, n_microbatches=4, loss_fn=functional.mse_loss)
    schedule.step(*([x] if rank == 0 else []), target=target if rank == last else None)
    same_gradients(model, single[rank])


def main(reports: Path) -> None:
    """Runs all cases up to one that fails, after which the processes may be out of step."""
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.set_default_device("cuda")
    dist.init_process_group({"cpu": "gloo", "cuda": "nccl"}[DEVICE], timeout=TIMEOUT)
    report: dict[str, str | None] = {}
    if TorchVersion(torch.__version__) < "2.11":  # see test_distributed.py
        del CASES["pipeline"]
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
