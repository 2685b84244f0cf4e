"""``networks``: training steps and inference of whole networks, by the activation in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mish_cuda
from benchmarks import architectures
from benchmarks.architectures import Activation
from benchmarks.arguments import add_csv, add_device, add_names, add_number, number
from benchmarks.cases import Case, Group
from benchmarks.measure import Prepared, measure, record
from benchmarks.speeds import NONE
from benchmarks.timing import Statement, sampler

FUSED = "mish_cuda, norms fused"  # by convert(fuse_norms=True), where there are any to fuse


class Network(NamedTuple):
    """How to build a network, and shapes of its input that keep a CPU or a GPU busy."""

    build: Callable[[Activation], nn.Module]
    cpu: tuple[int, ...]
    gpu: tuple[int, ...]


NETWORKS = {
    # CIFAR images; on a GPU in batches of the Mish paper.
    "se_resnet18": Network(architectures.se_resnet18, (16, 3, 32, 32), (128, 3, 32, 32)),
    "csp_darknet": Network(architectures.csp_darknet, (2, 3, 128, 128), (8, 3, 512, 512)),
    "mlp": Network(architectures.mlp, (512, 512), (16_384, 512)),
}
ACTIVATIONS: dict[str, Activation] = {
    **{name: layer for name, layer in architectures.ACTIVATIONS.items() if name != "GELU"},
    FUSED: mish_cuda.Mish,
    NONE: nn.Identity,
}

DESCRIPTION = """\
Times training steps (forward, loss, backward, optimizer) and inference of whole
networks, and takes the peak memory of a step, with Mish by mish_cuda, by F.mish and
by three torch calls, and with other activations. `norms fused`: BatchNorm and Mish as
one op. `none` leaves the activation out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    add_csv(parser, "mish_networks.csv")
    add_names(parser, ("--networks",), NETWORKS)
    add_names(parser, ("--activations",), ACTIVATIONS)
    add_number(parser, "--batch", help="images, of the mlp tokens (default: as suits the device)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16: weights in fp32 under torch.autocast (default: %(default)s)",
    )
    add_number(parser, "--threads", default=torch.get_num_threads(), help="CPU threads")
    add_number(parser, "--seconds", kind=number, default=16, help="for each network and direction")


def prepared(case: Case, device: str) -> Prepared:
    """The training step or the inference that `case` names, timed in blocks of calls.

    Weights, input and labels are the same for all activations.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = NETWORKS[case.network].build(ACTIVATIONS[case.provider]).to(device)
        if case.provider == FUSED:
            mish_cuda.convert(network, fuse_norms=True)
        x = torch.randn(case.shape).to(device)
        labels = torch.randint(10, case.shape[:1]).to(device)
    network.train(case.direction == "training step")
    # A learning rate of 0 costs what any other does, and every step starts from the same weights.
    optimizer = torch.optim.SGD(network.parameters(), lr=0, momentum=0.9)

    def logits() -> Tensor:
        kind = torch.device(device).type
        with torch.autocast(kind, torch.bfloat16, enabled=case.dtype == "bf16"):
            result: Tensor = network(x)
        return result.float()

    def train() -> Tensor:
        loss = F.cross_entropy(logits(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end: the peak of the next step has its gradients in it
        return loss

    call = train if network.training else torch.inference_mode()(logits)
    timed = Statement("call()", {"call": call}, case.threads)
    return call, partial(sampler, timed)


def run(args: argparse.Namespace) -> int:
    groups = []
    for name in dict.fromkeys(args.networks or NETWORKS):
        batch, *rest = NETWORKS[name].cpu if args.device == "cpu" else NETWORKS[name].gpu
        case = Case(NONE, "", args.dtype, (args.batch or batch, *rest), "x", args.threads, name)
        activations = dict.fromkeys(args.activations or ACTIVATIONS)
        for direction in ("training step", "inference"):
            cases = (replace(case, provider=a, direction=direction) for a in activations)
            groups.append(Group("networks", tuple(cases)))

    prepare = partial(prepared, device=args.device)
    return record(
        groups,
        lambda group: measure(group, args.device, args.seconds, prepare=lambda *_: prepare),
        args.device,
        args.command,
        args.csv,
    )
