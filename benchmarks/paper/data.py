"""The images that networks are trained and tested on: scikit-learn's digits, or CIFAR."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import Refused
from benchmarks.timing import describe

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Dataset:
    """A fixed split of labelled images.

    Images are float32 of shape (N, channels, height, width), from 0 to 1; labels int64 of shape
    (N,) in the range 0 to `classes` - 1.
    """

    classes: int
    augmented: bool  # whether training images are flipped and turned at random
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(name: str, folder: Path) -> Dataset:
    """The data set `name`; "cifar10" and "cifar100" are read from `folder`.

    Raises:
        Refused: what is in the folder is not the published data set.
    """
    return _digits() if name == "digits" else _cifar(name, folder)


def _digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 grey pixels: https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html

    The first 896 train and the last 901 test, in the file's order, much as in
    https://scikit-learn.org/stable/auto_examples/classification/plot_digits_classification.html.
    They are not mirrored or turned: a turned 6 is a 9.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    half = 896  # divisible by 128, so that no batch is left with a few images
    return Dataset(10, False, images[:half], labels[:half], images[half:], labels[half:])


def _cifar(name: str, folder: Path) -> Dataset:
    """As torchvision reads it, which compares the files with their published MD5 sums.

    `folder` may be the extracted one, or hold that or the archive.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = folder.parent if folder.name == kind.base_folder else folder
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if not (root / kind.base_folder).is_dir():
                shutil.unpack_archive(root / kind.filename, scratch, filter="data")
                root = Path(scratch)
            parts = [kind(str(root), train=train) for train in (True, False)]
        except Exception as error:  # of many kinds, where an archive is damaged
            raise Refused(
                f"--data {folder} holds no {kind.filename} or {kind.base_folder}, complete and as "
                f"published ({describe(error)}). Get it from {URL}"
            ) from error
    images = [torch.tensor(part.data).permute(0, 3, 1, 2) / 255 for part in parts]
    labels = [torch.tensor(part.targets) for part in parts]
    return Dataset(len(parts[0].classes), True, images[0], labels[0], images[1], labels[1])
