"""``models``: training steps and inference of whole networks, by the activation in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.arguments import device, positive, require_memory, seconds
from benchmarks.cells import Cell, Direction, Group
from benchmarks.measure import Timed, measure
from benchmarks.networks import Activation
from benchmarks.recording import attempt, carry_out
from benchmarks.results import Failure
from benchmarks.timing import Statement, sampler

DEFAULT_CSV = Path("mish_models.csv")
CLASSES = 10


@dataclass(frozen=True)
class Network:
    """How to build a network, and shapes of its input that keep a CPU or a GPU busy."""

    build: Callable[[Activation], nn.Module]
    cpu: tuple[int, ...]
    gpu: tuple[int, ...]


NETWORKS = {
    # CIFAR images; on a GPU in batches of the Mish paper.
    "se_resnet18": Network(networks.se_resnet18, cpu=(16, 3, 32, 32), gpu=(128, 3, 32, 32)),
    "csp_darknet": Network(networks.csp_darknet, cpu=(2, 3, 128, 128), gpu=(8, 3, 512, 512)),
    "mlp": Network(networks.mlp, cpu=(512, 512), gpu=(16_384, 512)),
}
# What is timed, and for which share of --seconds: inference takes about a third of a step.
SECONDS: dict[Direction, float] = {"training step": 1, "inference": 1 / 3}
NONE = "none"  # nothing in the activation's place: what a network takes without it
ACTIVATIONS: dict[str, Activation] = {
    **{name: networks.ACTIVATIONS[name] for name in ("mish_cuda", "F.mish", "naive")},
    **{name: networks.ACTIVATIONS[name] for name in ("SiLU", "ReLU")},
    NONE: nn.Identity,
}


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "models",
        help="measure whole networks",
        description="Times training steps (forward, loss, backward, optimizer) and inference of "
        "whole networks, and takes the peak memory of a step, with Mish by mish_cuda, by F.mish "
        "and by three torch calls, and with other activations. `none` leaves the activation out.",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:N or N, the number of a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--networks",
        choices=NETWORKS,
        nargs="+",
        default=tuple(NETWORKS),
        metavar="NETWORK",
        help=f"default: {' '.join(NETWORKS)}",
    )
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        nargs="+",
        default=tuple(ACTIVATIONS),
        metavar="ACTIVATION",
        help=f"default: {' '.join(ACTIVATIONS)}",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="images, of the mlp tokens; default: "
        + ", ".join(f"{name} {network.cpu[0]}" for name, network in NETWORKS.items())
        + "; on a GPU "
        + ", ".join(str(network.gpu[0]) for network in NETWORKS.values()),
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16: weights in fp32 under torch.autocast (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=torch.get_num_threads(),
        metavar="N",
        help="CPU threads (default: %(default)s, as torch has it here)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=25,
        metavar="S",
        help="time for the training steps of each network; their inference gets a third of it "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )
    parser.set_defaults(function=partial(_run, parser))


def statement(cell: Cell, device: str) -> Callable[[], object]:
    """The training step or the inference that `cell` names.

    Weights, input and labels are the same for all activations.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = NETWORKS[cell.network].build(ACTIVATIONS[cell.provider]).to(device)
        x = torch.randn(cell.shape).to(device)
        labels = torch.randint(CLASSES, cell.shape[:1]).to(device)
    kind = torch.device(device).type

    def logits() -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=cell.dtype == "bf16"):
            result: Tensor = network(x)
        return result.float()

    def infer() -> Tensor:
        with torch.inference_mode():
            return logits()

    if cell.direction == "inference":
        network.eval()
        return infer

    # A learning rate of 0 costs what any other does, and every step starts from the same weights.
    optimizer = torch.optim.SGD(network.parameters(), lr=0, momentum=0.9)

    def train() -> None:
        F.cross_entropy(logits(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end: the peak of the next step has its gradients in it

    return train


def by_network(cells: Sequence[Cell], device: str) -> Callable[[Cell], Timed]:
    """The way of `measure` with whole networks: blocks of calls of each."""

    def timed(cell: Cell) -> Timed:
        call = statement(cell, device)
        block = Statement("call()", {"call": call}, cell.threads)
        return Timed(call, lambda: sampler(block))

    return timed


def needed_memory(cell: Cell) -> int:
    """Bytes of what all layers give, in float32: about what they keep for backward."""
    outputs = []
    with torch.device("meta"):
        network = NETWORKS[cell.network].build(ACTIVATIONS[NONE])
        for layer in network.modules():
            if not any(layer.children()):
                layer.register_forward_hook(lambda layer, x, y: outputs.append(y.nbytes))
        network(torch.empty(cell.shape))
    return sum(outputs)


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    failures: list[Failure] = []
    steps = []
    for name in dict.fromkeys(args.networks):
        for direction, share in SECONDS.items():
            group = _group(name, direction, args)
            cell = group.cells[0]
            what = f"{name} with a batch of {cell.shape[0]}"
            require_memory(parser, args.device, what, needed_memory(cell), "--batch")
            timed = partial(
                measure, device=args.device, seconds=share * args.seconds, way=by_network
            )
            steps.append((f"{name}: {direction}", partial(attempt, group, timed, failures)))
    return carry_out(steps, failures, args)


def _group(network: str, direction: Direction, args: argparse.Namespace) -> Group:
    known = NETWORKS[network]
    batch, *rest = known.cpu if args.device == "cpu" else known.gpu
    shape = (args.batch or batch, *rest)
    cells = (
        Cell(name, direction, args.dtype, shape, threads=args.threads, network=network)
        for name in dict.fromkeys(args.activations)
    )
    return Group("models", tuple(cells))
