"""``models``: training steps and inference of whole networks, by the activation in them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import environment, memory, networks
from benchmarks.cells import Cell, Direction
from benchmarks.networks import Activation
from benchmarks.results import Result
from benchmarks.run import device, positive
from benchmarks.timing import Statement, sampler, take_turns

DEFAULT_CSV = Path("mish_models.csv")
MIN_ROUNDS = 3
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
DIRECTIONS: tuple[Direction, ...] = ("training step", "inference")
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
        help="cpu, cuda or cuda:N (default: %(default)s)",
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
        type=float,
        default=30,
        metavar="S",
        help="time for the training steps of each network; inference takes a third of it "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )
    parser.set_defaults(function=_run)


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


def measure(
    cells: Sequence[Cell], device: str, seconds: float, failed: dict[Cell, str]
) -> list[Result]:
    """Time the cells in turn; those that raise, for lack of memory say, go to `failed`."""
    calls = {}

    def prepare(cell: Cell) -> Callable[[], float]:
        calls[cell] = statement(cell, device)
        return sampler(Statement("call()", {"call": calls[cell]}, cell.threads))

    timings, errors = take_turns(cells, prepare, seconds, MIN_ROUNDS)
    failed.update(errors)
    return [
        Result(
            "models",
            cell,
            timing,
            memory.peak(calls[cell], device) if cell.direction == "training step" else None,
        )
        for cell, timing in timings.items()
    ]


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from benchmarks import model_tables, results
    from benchmarks.recording import record

    console = Console(highlight=False)
    facts = environment.collect(args.device, args.command)
    failed: dict[Cell, str] = {}
    steps = []
    for name in args.networks:
        network = NETWORKS[name]
        shape = network.cpu if torch.device(args.device).type == "cpu" else network.gpu
        shape = (args.batch or shape[0], *shape[1:])
        for direction in DIRECTIONS:
            cells = [
                Cell(activation, direction, args.dtype, shape, threads=args.threads, network=name)
                for activation in args.activations
            ]
            seconds = args.seconds / (3 if direction == "inference" else 1)
            steps.append(
                (f"{name}: {direction}", partial(measure, cells, args.device, seconds, failed))
            )
    status = record(steps, args.csv, facts, console)
    _, rows = results.read(args.csv)
    for table in model_tables.model_tables(rows):
        console.print(table)
    console.print(model_tables.NOTES, style="dim")
    console.print(facts.summary())
    console.print(f"Data: {args.csv}")
    for cell, error in failed.items():
        print(
            f"python -m benchmarks models: {cell.network} with {cell.provider}, "
            f"{cell.direction}: {error}. If memory is short, choose a smaller --batch.",
            file=sys.stderr,
        )
    return status or bool(failed)
