"""Reads CIFAR-10 and CIFAR-100 from the published files, or refuses them.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. Each file is a dictionary pickled by Python 2:
images as rows of 3,072 bytes, 1,024 each of red, green and blue; labels as a list of numbers.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
LabelledImages = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Published:
    """A data set as published: its archive, the folder in it, and MD5 sums.

    `train` and `test` give the sum of each file; `labels` is the key of the labels in them.
    """

    archive: str
    md5: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    labels: bytes
    classes: int


# Sums of the archives from URL, those of the files from
# https://github.com/pytorch/vision/blob/main/torchvision/datasets/cifar.py.
PUBLISHED = {
    "cifar10": Published(
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        labels=b"labels",
        classes=10,
    ),
    "cifar100": Published(
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels=b"fine_labels",
        classes=100,
    ),
}


def read(published: Published, folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Images and labels for training, and for testing, as `Dataset` wants them.

    `folder` holds the archive, which is read as it is, or the folder that was extracted from it,
    or is that folder.

    Raises:
        ValueError: nothing of this is there, a checksum is wrong, or a file holds anything else.
    """
    files = _files(published, folder)
    return (
        _join([_unpickle(files[name], name, published) for name in published.train]),
        _join([_unpickle(files[name], name, published) for name in published.test]),
    )


def _files(published: Published, folder: Path) -> dict[str, bytes]:
    """What each file holds, once its checksum or that of the archive is found right."""
    sums = {**published.train, **published.test}
    for extracted in (folder, folder / published.folder):
        if all((extracted / name).is_file() for name in sums):
            return {name: _checked(extracted / name, md5) for name, md5 in sums.items()}
    archive = folder / published.archive
    if not archive.is_file():
        raise ValueError(
            f"{folder} holds neither {published.archive} nor a folder {published.folder} with "
            f"{', '.join(sums)}"
        )
    with tarfile.open(fileobj=io.BytesIO(_checked(archive, published.md5))) as tar:
        return {name: _member(tar, f"{published.folder}/{name}") for name in sums}


def _checked(path: Path, md5: str) -> bytes:
    data = path.read_bytes()
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} ({len(data):,} bytes) is not the published file, or not all of it: its MD5 "
            f"sum is {found} in place of {md5}. Get it again from {URL}"
        )
    return data


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None  # the sum of the archive tells that it is there
    return file.read()


class _Unpickler(pickle.Unpickler):
    """Loads numbers, text, lists, dictionaries and arrays; calls nothing else."""

    # numpy.core is numpy._core today: the function is taken from where any numpy keeps it.
    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _unpickle(data: bytes, name: str, published: Published) -> LabelledImages:
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.array(batch[published.labels])
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise ValueError(f"{name} is no file of {published.folder}: {error}") from error
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape == (len(labels), 3 * 32 * 32)
        and labels.dtype.kind == "i"
        and np.all((labels >= 0) & (labels < published.classes))
    ):
        raise ValueError(
            f"{name} is no file of {published.folder}: it should hold rows of 3,072 bytes, and as "
            f"many labels from 0 to {published.classes - 1}"
        )
    # A copy, for torch takes no array that cannot be written.
    return torch.tensor(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels).long()


def _join(batches: list[LabelledImages]) -> LabelledImages:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)
