"""CIFAR is read by torchvision, of which a stand-in is here, from an archive or a folder."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rows import main, refusal

from benchmarks.arguments import Refused
from benchmarks.paper import data

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


class Cifar10:
    """What of torchvision.datasets.CIFAR10 is used. It holds the file to be what was published."""

    filename, base_folder = "cifar-10-python.tar.gz", "cifar-10-batches-py"
    classes = ("a", "b", "c")

    def __init__(self, root: str, train: bool) -> None:
        file = Path(root, self.base_folder, "batch")
        if not file.exists() or file.read_text() != "as published":
            raise RuntimeError("Dataset not found or corrupted. You can use download=True")
        self.data: Any = IMAGES[:4] if train else IMAGES[4:]
        self.targets = [0, 1, 2, 0] if train else [2, 1]


@pytest.fixture(autouse=True)
def _torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torchvision")
    module.datasets = ModuleType("datasets")  # type: ignore[attr-defined]
    module.datasets.CIFAR10 = module.datasets.CIFAR100 = Cifar10  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)


def lay(folder: Path, form: str, text: str = "as published") -> Path:
    """Puts the data set into a folder, and returns what to give as --data."""
    extracted = folder / Cifar10.base_folder
    extracted.mkdir()
    (extracted / "batch").write_text(text)
    if form in ("archive", "cut off"):
        archive = folder / Cifar10.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(extracted, Cifar10.base_folder)
        shutil.rmtree(extracted)
        if form == "cut off":
            archive.write_bytes(archive.read_bytes()[:-40])
    return extracted if form == "itself" else folder


@pytest.mark.parametrize("form", ["archive", "folder", "itself"])
def test_cifar_is_read_from_its_archive_and_its_folder(form: str, tmp_path: Path) -> None:
    found = data.load("cifar10", lay(tmp_path, form))
    assert (found.train_images.shape, found.train_images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert found.train_labels.tolist() == [0, 1, 2, 0]
    assert found.test_labels.tolist() == [2, 1]
    assert found.classes == 3
    np.testing.assert_array_equal(found.test_images.permute(0, 2, 3, 1), IMAGES[4:])


@pytest.mark.parametrize("form", ["archive", "folder", "cut off", ""])
def test_files_that_are_not_the_published_ones_are_refused(form: str, tmp_path: Path) -> None:
    if form:
        lay(tmp_path, form, "something else")
    with pytest.raises(Refused, match=f"{tmp_path} does not hold .*as published.*{data.URL}"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10"], "--data FOLDER"),
        (["--dataset", "cifar100", "--data", "nowhere"], "nowhere does not hold"),
        (["--data", "somewhere"], "digits come with scikit-learn"),
    ],
)
def test_what_is_missing_is_named(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "paper", "--output", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_cifar_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path, "archive")
    options = ["--dataset", "cifar10", "--data", tmp_path, "--activations", "Mish", "--seeds", "1"]
    options += ["--width", "2", "--epochs", "1", "--device", "cpu", "--output", tmp_path / "out"]
    assert main("paper", *options) == 0
    assert "cifar10" in (tmp_path / "out" / "summary.md").read_text()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "needs the Python package torchvision" in refusal(capsys, "paper", *options)
