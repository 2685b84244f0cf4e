"""Trains one network.

Whatever is random follows from the seed and the number of the epoch alone: all activations start
from the same weights and see the same batches, and a run that was cut off goes on as if it had not
been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.architectures import ACTIVATIONS as MODULES
from benchmarks.architectures import se_resnet18
from benchmarks.paper.data import Dataset
from benchmarks.paper.protocol import ACTIVATIONS, Settings
from benchmarks.paper.study import Epoch, Run, Study

TEST_BATCH = 1000


def train(run: Run, study: Study, dataset: Dataset, device: str) -> Iterator[Epoch]:
    """Trains and records a run, from its checkpoint if there is one; yields each new epoch.

    Bit for bit the same on a CPU with the same number of threads, interrupted or not. On CUDA the
    weights and batches are the same, but not the order of every sum.
    """
    settings = study.settings
    network = initial_network(run, settings.width, dataset).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    curve = study.load(run, network, optimizer)
    while len(curve) < settings.epochs:
        start = time.perf_counter()
        generator = Generator().manual_seed(1_000_000 * run[1] + len(curve))
        epoch: Epoch = {
            "epoch": len(curve) + 1,
            "train_loss": _train_epoch(network, optimizer, settings, dataset, device, generator),
            "test_accuracy": _test(network, dataset, device),
        }
        curve.append(epoch | {"seconds": time.perf_counter() - start})
        study.save(run, network, optimizer, curve)
        yield curve[-1]


def initial_network(run: Run, width: int, dataset: Dataset) -> nn.Module:
    """The untrained network: the same weights for every activation."""
    activation, seed = run
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = dataset.train_images.shape[1]
        return se_resnet18(MODULES[ACTIVATIONS[activation]], dataset.classes, channels, width)


def augment(images: Tensor, generator: Generator) -> Tensor:
    """Flips images of shape (N, C, H, W) with probability 0.4, then turns them by up to 30 degrees.

    As the author's notebook does (protocol.py): the angle is uniform, each pixel is that nearest
    to where it comes from, and 0 comes from outside.
    """
    count = len(images)
    flip = torch.where(torch.rand(count, generator=generator) < 0.4, -1.0, 1.0)
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(30)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    where = torch.stack([flip * cos, -flip * sin, zero, sin, cos, zero], dim=1).view(count, 2, 3)
    grid = F.affine_grid(where.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    dataset: Dataset,
    device: str,
    generator: Generator,
) -> float:
    """The mean loss over the images."""
    network.train()
    total = torch.zeros((), dtype=torch.float64, device=device)
    order = torch.randperm(len(dataset.train_labels), generator=generator)
    for batch in order.split(settings.batch_size):
        images = dataset.train_images[batch].to(device) / dataset.white
        labels = dataset.train_labels[batch].to(device)
        if dataset.augmented:
            images = augment(images, generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(_centred(images)), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch)
    return total.item() / len(order)


@torch.no_grad()
def _test(network: nn.Module, dataset: Dataset, device: str) -> float:
    """Percent of the test images that are classified right."""
    network.eval()
    batches = dataset.test_images.split(TEST_BATCH)
    logits = torch.cat([network(_centred(x.to(device) / dataset.white)) for x in batches])
    right = int((logits.argmax(1).cpu() == dataset.test_labels).sum())
    return 100 * right / len(dataset.test_labels)


def _centred(images: Tensor) -> Tensor:
    return 2 * images - 1
