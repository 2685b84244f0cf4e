"""The paper's comparison: data, protocol, resumption, files and command line."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from rows import main, one_thread, read, refusal  # noqa: F401
from torch import Tensor

pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")
pytest.importorskip("sklearn", reason="no scikit-learn: pip install 'mish_cuda[test]'")

from benchmarks import results
from benchmarks.environment import collect
from benchmarks.paper import command, data, training
from benchmarks.paper.protocol import ACTIVATIONS, Settings
from benchmarks.paper.study import Study
from project import ROOT

SETTINGS = Settings(
    dataset="digits", width=2, epochs=3, batch_size=128, learning_rate=0.01, threads=1
)
# The same on the command line.
TINY = ["--width=2", "--epochs=3", "--batch-size=128", "--learning-rate=0.01", "--seeds=1"]
TINY += ["--device", "cpu"]
BOTH = ["--activations", "ReLU", "Mish"]


def measured(folder: Path) -> list[dict[str, Any]]:
    """Rows without what differs from one measurement to the next."""
    rows = read(folder / "epochs.csv").drop(columns=["seconds", "command", "clock", "commit"])
    return rows.to_dict("records")  # type: ignore[no-any-return]


def arguments(folder: Path, *options: str) -> tuple[str, ...]:
    return ("paper", "run", "--output", str(folder), *TINY, *options)


def run(folder: Path, *options: str) -> int:
    return main(*arguments(folder, *options))


def test_digits_are_those_of_scikit_learn() -> None:
    digits = data.load("digits", None)
    shapes = digits.train_images.shape, digits.test_images.shape
    assert shapes == ((896, 1, 8, 8), (901, 1, 8, 8))
    assert int(digits.train_images.max()) == digits.white
    # The file's first ten are one of each.
    assert digits.train_labels[:10].tolist() == list(range(10))
    assert digits.train_images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_all_activations_start_from_the_same_weights() -> None:
    digits = data.load("digits", None)

    def weights(name: str, seed: int = 0) -> dict[str, Tensor]:
        return training.initial_network((name, seed), 2, digits).state_dict()

    for name in ACTIVATIONS:
        torch.testing.assert_close(weights(name), weights("Mish"), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(weights("Mish", 1), weights("Mish"))


def test_all_activations_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    centred = training._centred
    digits = dataclasses.replace(data.load("digits", None), augmented=True)

    def batches(name: str, seed: int) -> list[Tensor]:
        seen: list[Tensor] = []
        monkeypatch.setattr(training, "_centred", lambda x: seen.append(centred(x)) or seen[-1])
        study = Study(tmp_path, SETTINGS, collect("cpu", ""))
        list(training.train((name, seed), study, digits, "cpu"))
        return seen

    mish, relu, other = batches("Mish", 0), batches("ReLU", 0), batches("Mish", 1)
    assert len(mish) == SETTINGS.epochs * (896 // 128 + 1)
    torch.testing.assert_close(mish, relu, rtol=0, atol=0)
    assert not torch.equal(mish[0], other[0])
    assert not torch.equal(mish[0], mish[896 // 128 + 1])  # of the second epoch
    assert mish[0].aminmax() == (-1, 1)


def test_augmentation_is_that_of_pillow() -> None:
    """The notebook flips and turns with torchvision, which has Pillow do it."""
    count = 200
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    augmented = training.augment(images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    flips = torch.rand(count, generator=generator) < 0.4
    degrees = torch.rand(count, generator=generator) * 60 - 30
    same = 0
    for image, got, flip, angle in zip(images, augmented, flips, degrees, strict=True):
        expected = Image.fromarray(image[0].numpy())
        if flip:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = expected.rotate(angle.item())
        same += int((torch.from_numpy(np.array(expected)) == got[0]).sum())
    assert 0.3 < flips.float().mean() < 0.5
    assert same > 0.995 * images.numel()  # a pixel between two may go to either


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert run(folder, *BOTH) == 0
    return folder


def test_run_writes_what_it_measured(uninterrupted: Path) -> None:
    (source,) = results.read([uninterrupted / "epochs.csv"])
    found = source.rows
    assert list(found.activation) == ["Mish"] * 3 + ["ReLU"] * 3
    assert list(found.epoch) == [1, 2, 3] * 2
    for name, value in dataclasses.asdict(SETTINGS).items():
        assert set(found[name]) == {value}
    assert source.facts["torch"] == torch.__version__
    assert source.facts["command"].startswith("python -m benchmarks paper run --output")
    assert found.test_accuracy.iloc[2] > 10
    assert not list(uninterrupted.glob("checkpoints/*"))


def test_plot_makes_pictures_and_summary_again(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uninterrupted / "summary.md").read_text()
    written = [uninterrupted / name for name in ("summary.md", "accuracy.png", "curves.png")]
    for path in written:
        path.unlink()
    assert main("paper", "plot", "--output", uninterrupted) == 0
    assert written[0].read_text() == before
    assert all(path.exists() for path in written)
    assert "not tested" in capsys.readouterr().out


def test_a_killed_process_loses_at_most_an_epoch(uninterrupted: Path, tmp_path: Path) -> None:
    """By SIGKILL, while the checkpoint of the second epoch is on its way."""
    program = """
import itertools, os, pathlib, signal, sys
from benchmarks import cli
replace, count = pathlib.Path.replace, itertools.count(1)
def fatal(self, target):
    return os.kill(os.getpid(), signal.SIGKILL) if next(count) == 2 else replace(self, target)
pathlib.Path.replace = fatal
cli.main(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, *arguments(tmp_path, *BOTH)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "epochs.csv").exists()
    assert len(torch.load(tmp_path / "checkpoints" / "Mish-0.pt")["curve"]) == 1

    assert run(tmp_path, *BOTH) == 0
    assert measured(tmp_path) == measured(uninterrupted)


@pytest.mark.parametrize("call", range(1, 7))
def test_wherever_it_stops_the_result_is_the_same(
    call: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of the six times that a file is replaced: after each of 3 epochs of 2 runs."""
    replace, calls = Path.replace, itertools.count(1)
    train_epoch = Mock(wraps=training._train_epoch)

    def stop(self: Path, target: Path) -> Path:
        if next(calls) == call:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    monkeypatch.setattr(training, "_train_epoch", train_epoch)
    monkeypatch.setattr(command, "_show", lambda *_: None)
    assert run(tmp_path, *BOTH) == 130
    assert run(tmp_path, *BOTH) == 0
    assert train_epoch.call_count <= 2 * 3 + 1
    assert measured(tmp_path) == measured(uninterrupted)


def test_more_seeds_and_activations_can_be_added(uninterrupted: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--activations", "ReLU") == 0
    assert run(tmp_path, "--activations", "Mish", "ReLU", "--seeds", "2") == 0
    found = measured(tmp_path)
    runs = [(row["activation"], row["seed"]) for row in found[::3]]
    assert runs == [("ReLU", 0), ("Mish", 0), ("Mish", 1), ("ReLU", 1)]
    assert [*found[3:6], *found[:3]] == measured(uninterrupted)


@pytest.fixture
def folder(uninterrupted: Path, tmp_path: Path) -> Path:
    """Its own copy of what was measured."""
    (tmp_path / "epochs.csv").write_bytes((uninterrupted / "epochs.csv").read_bytes())
    return tmp_path


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_not_mixed_in(
    finished: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not finished:
        (folder / "epochs.csv").unlink()
        study = Study(folder, SETTINGS, collect("cpu", ""))
        network = torch.nn.Linear(1, 1)
        study.save(("Swish", 0), network, torch.optim.Adam(network.parameters()), [{"epoch": 1}])

    def contents() -> dict[Path, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.read_bytes() for path in files}

    before = contents()
    message = refusal(capsys, *arguments(folder, "--width", "3", "--learning-rate", "0.1"))
    assert "width: 2 there, 3 now" in message
    assert "learning_rate: 0.01 there, 0.1 now" in message
    assert "epochs:" not in message
    assert before == contents()


def test_what_cannot_be_read_or_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoints" / "Mish-0.pt"
    path.parent.mkdir()
    path.write_bytes(b"nothing of the kind")
    with FileLock(tmp_path / ".lock"):
        assert "another process is training" in refusal(capsys, *arguments(tmp_path))
    assert "File exists" in refusal(capsys, *arguments(path))
    assert "File exists" in refusal(capsys, "paper", "pictures", "--output", path)
    missing = refusal(capsys, "paper", "plot", "--output", tmp_path)
    assert f"{tmp_path / 'epochs.csv'} cannot be written or read" in missing
    assert path.exists()


def edit(path: Path, line: int, column: str, value: str) -> None:
    """Puts another value into a cell of a CSV file; line 2 is the first below the header."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[line - 2, column] = value
    frame.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            (4, "test_accuracy", "many"),
            "test_accuracy: Unable to parse string",
        ),
    ],
)
def test_damage_is_told_before_the_training_and_before_plots(
    cell: tuple[int, str, str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "epochs.csv"
    edit(path, *cell)
    before = path.read_bytes()
    for command_line in (("paper", "plot", "--output", folder), arguments(folder, *BOTH)):
        told = refusal(capsys, *command_line)
        assert str(path) in told
        assert message in told
    assert path.read_bytes() == before
    assert not (folder / "summary.md").exists()


def test_a_run_that_diverged_is_drawn(folder: Path) -> None:
    edit(folder / "epochs.csv", 4, "train_loss", "nan")
    assert main("paper", "plot", "--output", folder) == 0
