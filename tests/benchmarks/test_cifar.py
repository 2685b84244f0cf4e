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
from rows import main

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


def published(folder: Path, text: str = "as published") -> Path:
    extracted = folder / Cifar10.base_folder
    extracted.mkdir()
    (extracted / "batch").write_text(text)
    return extracted


def packed(folder: Path, text: str = "as published") -> Path:
    archive = folder / Cifar10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published(folder, text), Cifar10.base_folder)
    shutil.rmtree(folder / Cifar10.base_folder)
    return archive


@pytest.mark.parametrize("kind", ["archive", "beside", "itself"])
def test_cifar_is_read_from_its_archive_and_its_folder(kind: str, tmp_path: Path) -> None:
    folder = {"archive": packed, "beside": published, "itself": published}[kind](tmp_path)
    found = data.load("cifar10", folder if kind == "itself" else tmp_path)
    assert found.train_images.dtype == torch.uint8
    assert found.train_labels.tolist() == [0, 1, 2, 0]
    assert found.test_labels.tolist() == [2, 1]
    assert found.classes == 3
    np.testing.assert_array_equal(found.test_images.permute(0, 2, 3, 1), IMAGES[4:])
    assert found.train_images.shape == (4, 3, 32, 32)


def cut_off(folder: Path, _: str) -> None:
    archive = packed(folder)
    archive.write_bytes(archive.read_bytes()[:-40])


@pytest.mark.parametrize("make", [packed, published, cut_off, None])
def test_files_that_are_not_the_published_ones_are_refused(make: Any, tmp_path: Path) -> None:
    if make:
        make(tmp_path, "something else")
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
    assert main("paper", "--output", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cifar_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(tmp_path)
    options = ["--dataset", "cifar10", "--data", tmp_path, "--activations", "Mish", "--seeds", "1"]
    options += ["--width", "2", "--epochs", "1", "--device", "cpu", "--output", tmp_path / "out"]
    assert main("paper", *options) == 0
    assert "cifar10" in (tmp_path / "out" / "summary.md").read_text()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main("paper", *options) == 2
    assert "needs the Python package torchvision: pip install" in capsys.readouterr().err
