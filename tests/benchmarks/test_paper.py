"""The paper's comparison: data, protocol, resumption, statistics and what the command refuses."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from rows import FACTS, Capture, Patch, main, one_thread, printed, read, refusal, tables_of, write  # noqa: F401
from torch import Tensor

pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")
pytest.importorskip("sklearn", reason="no scikit-learn: pip install 'mish_cuda[test]'")

from benchmarks.environment import collect
from benchmarks.paper import data, tables, training
from benchmarks.paper.protocol import ACTIVATIONS, Settings
from benchmarks.paper.study import Study
from project import ROOT

SETTINGS = Settings("digits", width=2, epochs=3, batch_size=128, learning_rate=0.01)
# The same on the command line.
TINY = ("--width=2", "--epochs=3", "--batch-size=128", "--learning-rate=0.01", "--seeds=1")
BOTH = ("--activations", "ReLU", "Mish")


def command(folder: Path, *options: str) -> tuple[str, ...]:
    return ("paper", "run", "--device=cpu", "--output", str(folder), *TINY, *options)


def measured(folder: Path) -> list[dict[str, Any]]:
    """Rows without what differs from one measurement to the next."""
    rows = read(folder / "epochs.csv").drop(columns=["seconds", "command", "clock", "commit"])
    return rows.to_dict("records")  # type: ignore[no-any-return]


def test_digits_are_those_of_scikit_learn() -> None:
    digits = data.load("digits", None)
    shapes = digits.train_images.shape, digits.test_images.shape
    assert shapes == ((896, 1, 8, 8), (901, 1, 8, 8))
    assert int(digits.train_images.max()) == digits.white
    # The file's first ten are one of each.
    assert digits.train_labels[:10].tolist() == list(range(10))
    assert digits.train_images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_all_activations_start_alike_and_see_the_same_batches(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    centred = training._centred
    digits = dataclasses.replace(data.load("digits", None), augmented=True)

    def seen(name: str, seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Initial weights, and the batches of all epochs."""
        batches: list[Tensor] = []
        monkeypatch.setattr(training, "_centred", lambda x: batches.append(centred(x)) or x)
        study = Study(tmp_path, SETTINGS, collect("cpu", ""))
        list(training.train((name, seed), study, digits, "cpu"))
        return training.initial_network((name, seed), 2, digits).state_dict(), batches

    weights, batches = mish = seen("Mish")
    for name in set(ACTIVATIONS) - {"Mish"}:
        torch.testing.assert_close(seen(name), mish, rtol=0, atol=0)
    other_weights, other_batches = seen("Mish", 1)
    assert not all(map(torch.equal, weights.values(), other_weights.values()))
    assert not torch.equal(batches[0], other_batches[0])
    assert not torch.equal(batches[0], batches[896 // 128 + 1])  # of the second epoch
    assert batches[0].aminmax() == (-1, 1)


def test_augmentation_is_that_of_pillow() -> None:
    """The notebook flips and turns with torchvision, which has Pillow do it."""
    images = torch.rand(200, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    augmented = training.augment(images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    flips = torch.rand(200, generator=generator) < 0.4
    degrees = torch.rand(200, generator=generator) * 60 - 30
    same = 0
    for image, got, flip, angle in zip(images, augmented, flips, degrees, strict=True):
        picture = Image.fromarray(image[0].numpy())
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture
        expected = torch.from_numpy(np.array(picture.rotate(angle.item())))
        same += int((expected == got[0]).sum())
    assert same > 0.995 * images.numel()  # a pixel between two may go to either


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert main(*command(folder, *BOTH)) == 0
    return folder


def test_run_writes_what_it_measured_and_plot_makes_its_summary_again(
    uninterrupted: Path, capsys: Capture
) -> None:
    found = read(uninterrupted / "epochs.csv")
    assert list(found.activation) == ["Mish"] * 3 + ["ReLU"] * 3
    assert list(found.epoch) == [1, 2, 3] * 2
    for name, value in dataclasses.asdict(SETTINGS).items():
        assert set(found[name]) == {value}
    assert found.test_accuracy.iloc[2] > 10
    assert not list(uninterrupted.glob("checkpoints/*"))
    written = {name: uninterrupted / name for name in ("summary.md", "accuracy.png", "curves.png")}
    before = written["summary.md"].read_text()
    for path in written.values():
        path.unlink()
    assert "not tested" in printed(capsys, "paper", "plot", "--output", uninterrupted)
    assert written["summary.md"].read_text() == before
    assert all(path.exists() for path in written.values())


@pytest.mark.parametrize("call", [2, 3, 5])
def test_a_killed_process_loses_at_most_an_epoch(
    call: int, uninterrupted: Path, tmp_path: Path, capsys: Capture
) -> None:
    """By SIGKILL, while a file is on its way: of the second epoch, of a finished run, of the next
    run's second epoch. Other settings are refused, and the result is that without the kill."""
    program = f"""
import itertools, os, pathlib, signal, sys
from benchmarks import cli
replace, count = pathlib.Path.replace, itertools.count(1)
def fatal(self, target):
    return os.kill(os.getpid(), signal.SIGKILL) if next(count) == {call} else replace(self, target)
pathlib.Path.replace = fatal
cli.main(sys.argv[1:])
"""
    line = [sys.executable, "-c", program, *command(tmp_path, *BOTH)]
    killed = subprocess.run(line, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "epochs.csv").exists() == (call > 3)
    (checkpoint,) = tmp_path.glob("checkpoints/*.pt")
    assert len(torch.load(checkpoint)["curve"]) == (call - 1) % 3
    assert "width: 2 there, 3 now" in refusal(capsys, *command(tmp_path, "--width", "3"))
    assert main(*command(tmp_path, *BOTH)) == 0
    assert measured(tmp_path) == measured(uninterrupted)


def test_more_seeds_and_activations_can_be_added(uninterrupted: Path, tmp_path: Path) -> None:
    assert main(*command(tmp_path, "--activations", "ReLU")) == 0
    assert main(*command(tmp_path, "--activations", "Mish", "ReLU", "--seeds", "2")) == 0
    found = measured(tmp_path)
    runs = [(row["activation"], row["seed"]) for row in found[::3]]
    assert runs == [("ReLU", 0), ("Mish", 0), ("Mish", 1), ("ReLU", 1)]
    assert [*found[3:6], *found[:3]] == measured(uninterrupted)


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "checkpoints" / "Mish-0.pt"
    path.parent.mkdir()
    path.write_bytes(b"nothing of the kind")
    with FileLock(tmp_path / ".lock"):
        assert "another process is training" in refusal(capsys, *command(tmp_path))
    assert f"{path} is no checkpoint" in refusal(capsys, *command(tmp_path))
    assert "File exists" in refusal(capsys, *command(path))


def test_damage_is_told_before_the_training_and_before_plots(
    uninterrupted: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "epochs.csv"
    lines = (("paper", "plot", "--output", tmp_path), command(tmp_path, *BOTH))
    for place, column, value, message in (
        (1, "epoch", "1", "of Mish, seed 0, got 1, 1, 3"),
        (1, "width", "3", "runs of more than one width: 2, 3"),
        (1, "torch", "2.9.0", "runs of more than one torch"),
        (2, "test_accuracy", "nan", "line 4: expected a percentage"),
    ):
        rows = pd.read_csv(uninterrupted / "epochs.csv", dtype=str, keep_default_na=False)
        rows.loc[place, column] = value
        rows.to_csv(path, index=False)
        before = path.read_bytes()
        assert all(message in refusal(capsys, *line) for line in lines)
        assert path.read_bytes() == before


# Statistics


def finished(activation: str, *accuracies: float) -> list[dict[str, Any]]:
    """Rows of runs of two epochs, of which the first was the better."""
    fixed = {**FACTS, **dataclasses.asdict(dataclasses.replace(SETTINGS, epochs=2))}
    fixed |= {"activation": activation, "train_loss": 0.5, "seconds": 1.0}
    return [
        fixed | {"seed": seed, "epoch": epoch, "test_accuracy": accuracy + 5 * (epoch == 1)}
        for seed, accuracy in enumerate(accuracies)
        for epoch in (1, 2)
    ]


ABOVE = {"Mish": (80.0, 80.1, 80.2, 80.3), "Swish": (70.0, 70.2, 70.1, 70.3)}
BELOW = {"ReLU": (81.0, 81.1, 81.3, 81.4), "GELU": (80.1, 80.0, 80.3, 80.2)}


@pytest.mark.parametrize(
    ("runs", "column", "texts"),
    [
        # By hand: t = 2 / (1 / sqrt 3), of which p = 1 - t / sqrt(2 + t²) at n = 3. 97.5 % of the
        # distribution with 2 degrees of freedom are below 4.302653. ReLU's last has no partner.
        (
            {"Mish": (11, 32, 23), "ReLU": (10, 30, 20, 90)},
            slice(1, None),
            ["4", "37.50 ± 35.94", "+2.00", "-0.48 to +4.48", "0.074", "0.074", "not told apart"],
        ),
        # Without spread, or several seeds, there is no test.
        ({"Mish": (5, 6), "GELU": (4, 5)}, slice(3, None), ["+1.00", "", "", "", "not tested"]),
        ({"Mish": (5,), "GELU": (4,)}, slice(2, None), ["4.00", "+1.00", *3 * [""], "not tested"]),
        (ABOVE, -1, "better"),
        (ABOVE | {"ReLU": BELOW["ReLU"]}, -1, "worse"),
        (ABOVE | BELOW, -1, "not told apart"),
    ],
)
def test_statistics(
    runs: dict[str, tuple[float, ...]], column: Any, texts: Any, tmp_path: Path, capsys: Capture
) -> None:
    rows = [row for name, accuracies in runs.items() for row in finished(name, *accuracies)]
    measured, _ = tables_of(capsys, write(tmp_path / "a.csv", rows, "epochs")).values()
    assert measured[-1][column] == texts


@pytest.mark.parametrize(
    ("p", "corrected"),
    [([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, math.nan, 0.9], [1, math.nan, 1])],
)
def test_holm(p: list[float], corrected: list[float]) -> None:
    assert list(tables.holm(pd.Series(p))) == pytest.approx(corrected, nan_ok=True)


# CIFAR is read by torchvision, of which a stand-in is here

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


def lay(folder: Path, form: str, text: str) -> Path:
    """Puts the data set into a folder, and returns what to give as --data."""
    extracted = folder / Cifar10.base_folder
    extracted.mkdir()
    (extracted / "batch").write_text(text)
    if form == "archive":
        with tarfile.open(folder / Cifar10.filename, "w:gz") as tar:
            tar.add(extracted, Cifar10.base_folder)
        shutil.rmtree(extracted)
    return extracted if form == "itself" else folder


@pytest.fixture
def torchvision(monkeypatch: Patch) -> None:
    module, datasets = ModuleType("torchvision"), ModuleType("datasets")
    datasets.CIFAR10 = datasets.CIFAR100 = Cifar10  # type: ignore[attr-defined]
    module.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("form", ["archive", "folder", "itself"])
def test_cifar_is_read_from_its_archive_and_its_folder(form: str, tmp_path: Path) -> None:
    found = data.load("cifar10", lay(tmp_path, form, "as published"))
    assert (found.train_images.shape, found.train_images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 1, 2, 0], [2, 1])
    np.testing.assert_array_equal(found.test_images.permute(0, 2, 3, 1), IMAGES[4:])


@pytest.mark.usefixtures("torchvision")
def test_cifar_has_to_be_the_published_one(tmp_path: Path, capsys: Capture) -> None:
    folder = lay(tmp_path, "archive", "something else")
    line = ("paper", "--dataset", "cifar10", "--device", "cpu", "--output", tmp_path / "out")
    assert f"{folder} does not hold " in refusal(capsys, *line, "--data", folder)
    assert "needs --data FOLDER" in refusal(capsys, *line)
    assert not (tmp_path / "out").exists()
