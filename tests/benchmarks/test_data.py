"""The data of the paper's comparison: CIFAR by torchvision, with a stand-in here; augmentation."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rows import Patch

from benchmarks.arguments import Refused
from benchmarks.paper import data, training

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


class Cifar10:
    """What of torchvision.datasets.CIFAR10 is used. It holds the file to be what was published."""

    filename, base_folder, classes = "cifar-10-python.tar.gz", "cifar-10-batches-py", ("a", "b")

    def __init__(self, root: str, train: bool) -> None:
        if Path(root, self.base_folder, "batch").read_bytes() != IMAGES.tobytes():
            raise RuntimeError("Dataset not found or corrupted. You can use download=True")
        self.data, self.targets = (IMAGES[:4], [0, 1, 1, 0]) if train else (IMAGES[4:], [1, 0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The extracted data set, beside its archive."""
    datasets = SimpleNamespace(CIFAR10=Cifar10, CIFAR100=Cifar10)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))
    folder = tmp_path / Cifar10.base_folder
    folder.mkdir()
    (folder / "batch").write_bytes(IMAGES.tobytes())
    with tarfile.open(tmp_path / Cifar10.filename, "w:gz") as tar:
        tar.add(folder, Cifar10.base_folder)
    return folder


def test_cifar_from_its_folder_and_its_archive(folder: Path) -> None:
    for given in (folder, folder.parent, folder.parent):  # at last from the archive
        found = data.load("cifar10", given)
        assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 1, 1, 0], [1, 0])
        assert (found.classes, found.train_images.dtype) == (2, torch.uint8)
        np.testing.assert_array_equal(found.train_images.permute(0, 2, 3, 1), IMAGES[:4])
        if given == folder.parent:
            shutil.rmtree(folder, ignore_errors=True)


def test_cifar_that_is_not_as_published_is_refused(folder: Path) -> None:
    (folder / "batch").write_bytes(b"something else")
    archive = folder.parent / Cifar10.filename
    whole = archive.read_bytes()
    for content in (whole, whole[:9000], whole[:500] + bytes(20) + whole[520:], b""):
        archive.write_bytes(content)
        with pytest.raises(Refused, match=f"does not hold .*as published.*{data.URL}"):
            data.load("cifar10", folder.parent)
        shutil.rmtree(folder, ignore_errors=True)


def test_augmentation_is_that_of_pillow() -> None:
    """The notebook flips and turns with torchvision, which has Pillow do it."""
    images = torch.rand(200, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    augmented = training.augment(images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    flips = torch.rand(200, generator=generator) < 0.4
    degrees = torch.rand(200, generator=generator) * 60 - 30
    same = 0
    for image, got, flip, angle in zip(images, augmented, flips, degrees, strict=True):
        expected = Image.fromarray((image[0].fliplr() if flip else image[0]).numpy())
        same += int((torch.from_numpy(np.array(expected.rotate(angle.item()))) == got[0]).sum())
    assert same > 0.995 * images.numel()  # a pixel between two may go to either
