"""The images that networks are trained and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper import cifar


@dataclass(frozen=True)
class Dataset:
    """A fixed split of labelled images; `white` is the greatest value of a pixel.

    Images are uint8 of shape (N, channels, height, width), labels int64 of shape (N,) in the range
    0 to `classes` - 1.
    """

    classes: int
    white: int
    augmented: bool  # whether training images are flipped and turned at random
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(name: str, folder: Path | None) -> Dataset:
    """The data set `name`; "cifar10" and "cifar100" are read from `folder`.

    Raises:
        ValueError: there is no data set in `folder`, or not the published one, or no folder is
            given where one is needed, or one is given where none is.
    """
    if name == "digits":
        if folder is not None:
            raise ValueError("digits come with scikit-learn: --data is for cifar10 and cifar100")
        return _digits()
    published = cifar.PUBLISHED[name]
    if folder is None:
        raise ValueError(
            f"{name} needs --data FOLDER, a folder with {published.archive} from {cifar.URL} "
            f"or with what it holds, {published.folder}; nothing is downloaded"
        )
    train, test = cifar.read(published, folder)
    return Dataset(published.classes, 255, True, *train, *test)


def _digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 grey pixels: https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html

    The first 896 train and the last 901 test, in the file's order, much as in
    https://scikit-learn.org/stable/auto_examples/classification/plot_digits_classification.html.
    They are not mirrored or turned: a turned 6 is a 9.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    half = 896  # divisible by 128, so that no batch is left with a few images
    return Dataset(10, 16, False, images[:half], labels[:half], images[half:], labels[half:])
