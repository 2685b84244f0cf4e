"""Trains one network.

Whatever is random follows from the seed and the number of the epoch alone: all activations start
from the same weights and see the same batches, and a run that was cut off goes on as if it had not
been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.architectures import ACTIVATIONS as MODULES
from benchmarks.architectures import se_resnet18
from benchmarks.paper import study
from benchmarks.paper.data import Dataset
from benchmarks.paper.protocol import ACTIVATIONS
from benchmarks.paper.study import Row


def train(run: Row, dataset: Dataset, device: str, checkpoint: Path) -> Iterator[list[Row]]:
    """Trains a run from its checkpoint, if there is one, and keeps that up to date.

    `run` is what its rows have in common. Yields the rows of all epochs, at first those in the
    checkpoint, and again after each epoch.

    Bit for bit the same on a CPU with the same number of threads, interrupted or not. On CUDA the
    weights and batches are the same, but not the order of every sum.
    """
    network = initial_network(run, dataset).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=run["learning_rate"])
    rows: list[Row] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, "cpu")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        rows = state["rows"]
    yield rows
    while len(rows) < run["epochs"]:
        start = time.perf_counter()
        seen = batches(dataset, run, len(rows), device)
        loss, accuracy = _train_epoch(network, optimizer, seen), _test(network, dataset, device)
        epoch = {"epoch": len(rows) + 1, "train_loss": loss, "test_accuracy": accuracy}
        rows.append({**run, **epoch, "seconds": time.perf_counter() - start})
        states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        study.replace(checkpoint, partial(torch.save, {"rows": rows, **states}))
        yield rows


def initial_network(run: Row, dataset: Dataset) -> nn.Module:
    """The untrained network: the same weights for every activation."""
    activation = MODULES[ACTIVATIONS[run["activation"]]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run["seed"])
        channels = dataset.train_images.shape[1]
        return se_resnet18(activation, dataset.classes, channels, run["width"])


def batches(dataset: Dataset, run: Row, epoch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The training images in the order of an epoch, from -1 to 1, and their labels."""
    generator = Generator().manual_seed(1_000_000 * run["seed"] + epoch)
    order = torch.randperm(len(dataset.train_labels), generator=generator)
    for batch in order.split(run["batch_size"]):
        images = dataset.train_images[batch].to(device)
        if dataset.augmented:
            images = augment(images, generator)
        yield 2 * images - 1, dataset.train_labels[batch].to(device)


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
    network: nn.Module, optimizer: torch.optim.Optimizer, seen: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """The mean loss over the images."""
    network.train()
    losses, count = [], 0
    for images, labels in seen:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach() * len(labels))
        count += len(labels)
    return sum(loss.item() for loss in losses) / count


@torch.no_grad()
def _test(network: nn.Module, dataset: Dataset, device: str) -> float:
    """Percent of the test images that are classified right."""
    network.eval()
    images = dataset.test_images.split(1000)
    found = torch.cat([network(2 * batch.to(device) - 1).argmax(1).cpu() for batch in images])
    return 100 * int((found == dataset.test_labels).sum()) / len(found)
