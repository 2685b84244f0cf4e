"""The paper's comparison: data, protocol, resumption, statistics, files and command line."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from scipy import stats
from torch import Tensor

from benchmarks.environment import collect
from benchmarks.paper import cifar, cli, data, pictures, plots, published, tables, training
from benchmarks.paper.protocol import ACTIVATIONS, Settings
from benchmarks.paper.records import Checkpoint, Epoch, Journal, Run, read
from benchmarks.paper.statistics import Sample, comparisons, holm, samples
from project import ROOT

SETTINGS = Settings(
    dataset="digits", width=2, epochs=3, batch_size=128, learning_rate=0.01, threads=1
)
# The same on the command line.
TINY = ["--width", "2", "--epochs", "3", "--batch-size", "128", "--learning-rate", "0.01"]
TINY += ["--seeds", "1", "--device", "cpu"]
BOTH = ["--activations", "ReLU", "Mish"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


VARYING = ("seconds", "command", "clock", "commit")


def rows(path: Path) -> list[dict[str, str]]:
    """Of a CSV file, without what differs from one measurement to the next."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in VARYING} for row in found]


def run(folder: Path, *options: str) -> int:
    return cli.main(["run", "--output", str(folder), *TINY, *options])


# ------------------------------------------------------------------------------------------ CIFAR


def binstring(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(images: np.ndarray) -> bytes:
    """Opcodes of a uint8 array, as Python 2 and the numpy of 2009 wrote them."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85"
    dtype = b"cnumpy\ndtype\n" + binstring(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + binstring(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    shape = b"".join(map(number, images.shape)) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + binstring(images.tobytes()) + b"t"
    return empty + binstring(b"b") + b"\x87R" + state + b"b"


def batch(images: np.ndarray, labels: list[int], key: bytes) -> bytes:
    """A file of CIFAR: a dictionary with text, labels, images and names, pickled by Python 2."""
    items = (
        binstring(b"batch_label") + binstring(b"training batch 1 of 5"),
        binstring(key) + b"](" + b"".join(map(number, labels)) + b"e",
        binstring(b"data") + array(images),
        binstring(b"filenames")
        + b"]("
        + binstring(b"leptodactylus_pentadactylus_s_000004.png")
        + b"e",
    )
    return b"\x80\x02}(" + b"".join(items) + b"u."


def published_files(
    name: str, files: dict[str, bytes], folder: Path, extracted: bool = False
) -> cifar.Published:
    """Writes files as an archive, or extracted, and gives the data set with their sums."""
    known = cifar.PUBLISHED[name]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{known.folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    if extracted:
        (folder / known.folder).mkdir()
        for file, content in files.items():
            (folder / known.folder / file).write_bytes(content)
    else:
        (folder / known.archive).write_bytes(buffer.getvalue())
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    return dataclasses.replace(
        known,
        md5=hashlib.md5(buffer.getvalue()).hexdigest(),
        train={file: sums.get(file, "") for file in known.train},
        test={file: sums.get(file, "") for file in known.test},
    )


def small_cifar(name: str) -> tuple[dict[str, bytes], dict[str, np.ndarray], dict[str, list[int]]]:
    known = cifar.PUBLISHED[name]
    random = np.random.default_rng(0)
    names = [*known.train, *known.test]
    images = {n: random.integers(0, 256, (4, 3072), dtype=np.uint8) for n in names}
    labels = {n: random.integers(0, known.classes, 4).tolist() for n in names}
    files = {n: batch(images[n], labels[n], known.labels) for n in names}
    return files, images, labels


@pytest.mark.parametrize("extracted", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_archive_and_its_folder(
    name: str, extracted: bool, tmp_path: Path
) -> None:
    files, images, labels = small_cifar(name)
    known = published_files(name, files, tmp_path, extracted)
    (train, train_labels), (test, test_labels) = cifar.read(known, tmp_path)
    assert train.dtype == torch.uint8
    assert train_labels.tolist() == [k for n in known.train for k in labels[n]]
    assert test_labels.tolist() == [k for n in known.test for k in labels[n]]
    first = images[next(iter(known.train))][1]
    # Byte 1024 c + 32 y + x of a row is colour c of pixel (x, y).
    for c, y, x in ((0, 0, 0), (0, 0, 31), (1, 2, 3), (2, 31, 31)):
        assert train[1, c, y, x] == first[1024 * c + 32 * y + x]
    np.testing.assert_array_equal(test.flatten(1), images[next(iter(known.test))])
    if extracted:  # that folder itself will do as well
        (again, _), _ = cifar.read(known, tmp_path / known.folder)
        assert torch.equal(again, train)


@pytest.mark.parametrize("extracted", [False, True])
def test_files_that_are_not_the_published_ones_are_refused(extracted: bool, tmp_path: Path) -> None:
    files, _, _ = small_cifar("cifar10")
    known = published_files("cifar10", files, tmp_path, extracted)
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])  # a download that broke off
    with pytest.raises(ValueError, match=f"{path.name}.*is not the published file.*{cifar.URL}"):
        cifar.read(known, tmp_path)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither cifar-10-python.tar.gz nor a folder cifar-10"):
        cifar.read(cifar.PUBLISHED["cifar10"], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cposix\nsystem\n" + binstring(b"touch evil") + b"\x85R.", "posix.system"),
        (b"\x80\x02cbuiltins\neval\n" + binstring(b"1") + b"\x85R.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (batch(np.zeros((2, 3072), np.uint8), [0, 1], b"labels")[:-100], "test_batch"),
        (b"", "test_batch"),
        (b"\x80\x02](K\x01e.", "test_batch"),
        (batch(np.zeros((2, 3072), np.uint8), [0, 1, 1], b"labels"), "as many labels"),
        (batch(np.zeros((2, 3071), np.uint8), [0, 1], b"labels"), "3,072 bytes"),
        (batch(np.zeros((2, 3072), np.uint8), [0, 10], b"labels"), "labels from 0 to 9"),
        (batch(np.zeros((2, 3072), np.uint8), [-1, 0], b"labels"), "labels from 0 to 9"),
        (batch(np.zeros((2, 3072), np.uint8), [0, 1], b"fine_labels"), "labels"),
    ],
)
def test_a_file_of_other_content_is_refused_without_running_it(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files, _, _ = small_cifar("cifar10")
    known = published_files("cifar10", {**files, "test_batch": content}, tmp_path)
    with pytest.raises(ValueError, match=message):
        cifar.read(known, tmp_path)
    assert not Path("evil").exists()


def test_cifar_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, _, _ = small_cifar("cifar10")
    known = published_files("cifar10", files, tmp_path)
    output = tmp_path / "out"
    options = ["--dataset", "cifar10", "--data", str(tmp_path), "--activations", "Mish"]
    assert run(output, *options) == 1  # 4 images a file are not the published ones
    assert "MD5" in capsys.readouterr().err
    monkeypatch.setitem(cifar.PUBLISHED, "cifar10", known)
    assert run(output, *options) == 0
    assert {row["dataset"] for row in rows(output / "runs.csv")} == {"cifar10"}
    assert "cifar10" in (output / "summary.md").read_text()


# ------------------------------------------------------------------------------------- Protocol


def test_digits_are_those_of_scikit_learn() -> None:
    digits = data.load("digits", None)
    assert digits.train_images.shape == (896, 1, 8, 8)
    assert digits.test_images.shape == (901, 1, 8, 8)
    assert int(digits.train_images.max()) == digits.white
    # The file's first ten are one of each.
    assert digits.train_labels[:10].tolist() == list(range(10))
    assert digits.train_images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_all_activations_start_from_the_same_weights(seed: int) -> None:
    digits = data.load("digits", None)
    states = [
        training.initial_network(name, seed, SETTINGS, digits).state_dict() for name in ACTIVATIONS
    ]
    other = training.initial_network("Mish", seed + 1, SETTINGS, digits).state_dict()
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)
    assert not torch.equal(next(iter(other.values())), next(iter(states[0].values())))


def test_all_activations_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    network = training.se_resnet18

    def watched(*arguments: object) -> torch.nn.Module:
        module = network(*arguments)
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return module

    monkeypatch.setattr(training, "se_resnet18", watched)
    digits = dataclasses.replace(data.load("digits", None), augmented=True)

    def batches(name: str, seed: int) -> list[Tensor]:
        seen.clear()
        checkpoint = Checkpoint(tmp_path / f"{name}-{seed}.pt", {})
        training.train(name, seed, SETTINGS, digits, "cpu", checkpoint, lambda _: None)
        return list(seen)

    mish, relu, other = batches("Mish", 0), batches("ReLU", 0), batches("Mish", 1)
    assert len(mish) == SETTINGS.epochs * (896 // 128 + 1)
    assert all(torch.equal(a, b) for a, b in zip(mish, relu, strict=True))
    assert not torch.equal(mish[0], other[0])
    assert not torch.equal(mish[0], mish[896 // 128 + 1])  # of the second epoch
    assert mish[0].min() == -1
    assert mish[0].max() == 1


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


# --------------------------------------------------------------------------- Records, resumption


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert run(folder, *BOTH) == 0
    return folder


def test_run_writes_what_it_measured(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, curves = rows(uninterrupted / "runs.csv"), rows(uninterrupted / "curves.csv")
    assert [(row["activation"], row["seed"]) for row in runs] == [("Mish", "0"), ("ReLU", "0")]
    assert [int(row["epoch"]) for row in curves] == [1, 2, 3] * 2
    for row, last in zip(runs, curves[2::3], strict=True):
        assert row["test_accuracy"] == last["test_accuracy"]
        assert row["train_loss"] == last["train_loss"]
        assert row["torch"] == torch.__version__
        assert row["epochs"] == "3"
    study = read(uninterrupted)
    assert study.settings == SETTINGS
    assert study.environment.command.startswith("python -m benchmarks.paper run --output")
    assert 10 < study.runs[0].accuracy <= 100
    assert not list(uninterrupted.glob("checkpoints/*"))
    for name in ("accuracy.png", "curves.png"):
        with Image.open(uninterrupted / name) as image:
            assert image.width > 1000

    summary = (uninterrupted / "summary.md").read_text()
    (uninterrupted / "summary.md").unlink()
    assert cli.main(["plot", str(uninterrupted)]) == 0
    assert (uninterrupted / "summary.md").read_text() == summary
    out = capsys.readouterr().out
    assert "There is no test" in out
    assert "90.526" in out


def test_a_killed_process_loses_at_most_an_epoch(uninterrupted: Path, tmp_path: Path) -> None:
    """By SIGKILL, while the checkpoint of the second epoch is on its way."""
    program = (
        "import os, pathlib, sys; from benchmarks.paper import cli; calls = []\n"
        "replace = pathlib.Path.replace\n"
        "def fatal(self, target):\n"
        "    calls.append(target)\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)}) if len(calls) == 2 else None\n"
        "    return replace(self, target)\n"
        "pathlib.Path.replace = fatal\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "run", "--output", str(tmp_path), *TINY, *BOTH]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "runs.csv").exists()
    epochs: list[Epoch] = torch.load(tmp_path / "checkpoints" / "Mish-0.pt")["curve"]
    assert len(epochs) == 1

    assert run(tmp_path, *BOTH) == 0
    for name in ("runs.csv", "curves.csv"):
        assert rows(tmp_path / name) == rows(uninterrupted / name)


def test_two_processes_do_not_share_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(tmp_path / ".lock"):
        assert run(tmp_path, *BOTH) == 1
    assert f"another process is training in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("call", range(1, 11))
def test_wherever_it_stops_the_result_is_the_same(
    call: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of the ten times that a file is replaced: 2 runs of 3 epochs and 2 files each."""
    calls, epochs = 0, 0
    replace, train_epoch = Path.replace, training._train_epoch

    def stop(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return replace(self, target)

    def count(*arguments: Any) -> float:
        nonlocal epochs
        epochs += 1
        return train_epoch(*arguments)

    monkeypatch.setattr(Path, "replace", stop)
    monkeypatch.setattr(training, "_train_epoch", count)
    monkeypatch.setattr(cli, "_show", lambda *_: None)
    assert run(tmp_path, *BOTH) == 130
    assert run(tmp_path, *BOTH) == 0
    assert epochs <= 2 * 3 + 1
    for name in ("runs.csv", "curves.csv"):
        assert rows(tmp_path / name) == rows(uninterrupted / name)


def test_more_seeds_and_activations_can_be_added(uninterrupted: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--activations", "ReLU") == 0
    assert run(tmp_path, "--activations", "Mish", "ReLU", "--seeds", "2") == 0
    found = {(row["activation"], row["seed"]): row for row in rows(tmp_path / "runs.csv")}
    assert list(found) == [("ReLU", "0"), ("Mish", "0"), ("Mish", "1"), ("ReLU", "1")]
    for row in rows(uninterrupted / "runs.csv"):
        assert found[row["activation"], "0"] == row


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_not_mixed_in(
    finished: bool, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if finished:
        (tmp_path / "runs.csv").write_bytes((uninterrupted / "runs.csv").read_bytes())
    else:
        journal = Journal(tmp_path, SETTINGS, collect("cpu", ""))
        network = torch.nn.Linear(1, 1)
        optimizer = torch.optim.Adam(network.parameters())
        journal.checkpoint("Swish", 0).save(network, optimizer, [Epoch(1, 1.0, 1.0, 1.0)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(tmp_path, "--width", "3", "--learning-rate", "0.1") == 1
    message = capsys.readouterr().err
    assert "width: 2 there, 3 now" in message
    assert "learning_rate: 0.01 there, 0.1 now" in message
    assert "epochs" not in message
    assert "--output" in message
    (tmp_path / ".lock").unlink(missing_ok=True)  # the only thing that may be new
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoints" / "Mish-0.pt"
    path.parent.mkdir()
    path.write_bytes(b"nothing of the kind")
    assert run(tmp_path) == 1
    assert str(path) in capsys.readouterr().err
    assert path.exists()


def test_ctrl_c_keeps_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = Journal.add

    def interrupted(self: Journal, run: Run) -> None:
        add(self, run)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", interrupted)
    assert run(tmp_path) == 130
    assert "goes on" in capsys.readouterr().err
    assert len(rows(tmp_path / "runs.csv")) == 1


# ------------------------------------------------------------------------------------- Statistics


def finished(activation: str, *accuracies: float) -> list[Run]:
    return [
        Run(activation, seed, (Epoch(1, 1.0, 0.0, 1.0), Epoch(2, 0.5, accuracy, 1.0)))
        for seed, accuracy in enumerate(accuracies)
    ]


def test_mean_and_deviation() -> None:
    (sample,) = samples(finished("Mish", 1, 2, 6))
    assert sample == Sample("Mish", (0, 1, 2), (1, 2, 6))
    assert sample.mean == 3
    assert sample.std == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / (3 - 1)
    assert math.isnan(Sample("Mish", (0,), (1.0,)).std)


def test_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3), of which p = 1 - t / sqrt(2 + t²) at n = 3."""
    (found,) = comparisons([*finished("Swish", 10, 30, 20), *finished("Mish", 11, 32, 23)])
    t = 2 * math.sqrt(3)
    assert (found.other, found.seeds, found.difference) == ("Swish", 3, 2)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert found.p_holm == found.p
    # 97.5 % of the distribution with 2 degrees of freedom are below 4.302653.
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)


def test_only_seeds_of_both_are_compared() -> None:
    runs = [*finished("Mish", 1, 2, 4), *finished("ReLU", 1, 1, 1, 50)]
    (found,) = comparisons(runs)
    assert found.seeds == 3
    assert found.p == pytest.approx(stats.ttest_rel([1, 2, 4], [1, 1, 1]).pvalue)
    assert comparisons(finished("ReLU", 1, 2)) == []


@pytest.mark.parametrize("accuracies", [(5,), (5, 6, 7)])
def test_without_spread_there_is_no_test(accuracies: tuple[float, ...]) -> None:
    (found,) = comparisons(
        [*finished("Mish", *accuracies), *finished("GELU", *(a - 1 for a in accuracies))]
    )
    assert found.difference == 1
    assert all(map(math.isnan, (found.p, found.p_holm, found.low, found.high)))
    assert not found.significant


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([math.nan, 0.02])[1] == 0.02
    assert holm([]) == []


def test_the_verdict_says_also_where_mish_is_worse() -> None:
    runs = [
        *finished("Mish", 90.0, 90.1, 90.2, 90.3),
        *finished("ReLU", 91.0, 91.1, 91.3, 91.4),
        *finished("Swish", 80.0, 80.2, 80.1, 80.3),
        *finished("GELU", 90.1, 90.0, 90.3, 90.2),
    ]
    text = (
        "By p (Holm) at 5%, Mish is better than Swish, worse than ReLU, not told apart from GELU."
    )
    assert tables.verdict(runs) == text
    header, *lines = tables.results(runs)
    assert [line[0] for line in lines] == ["Mish", "Swish", "ReLU", "GELU"]
    assert lines[2][2:4] == ["91.20 ± 0.18", "-1.05"]
    assert all(len(line) == len(header) for line in lines)


def test_published_ps_are_those_of_an_unpaired_test() -> None:
    mish = published.SQUEEZENET["Mish"]
    for name in ("Swish", "GELU"):
        runs = published.SQUEEZENET[name]
        test = stats.ttest_ind_from_stats(mish.mean, mish.std, 23, runs.mean, runs.std, 23)
        assert test.pvalue == pytest.approx(float(runs.p), abs=0.01)  # of rounded means


# ------------------------------------------------------------------------- Pictures, command line


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pictures", "--output", str(tmp_path / "new")]) == 0
    assert "landscape.png" in capsys.readouterr().out
    for name in ("function", "landscape"):
        with Image.open(tmp_path / "new" / f"{name}.png") as image:
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10  # not blank


def test_the_derivatives_drawn_are_derivatives() -> None:
    axes = pictures.function().figure.axes[0]
    f, slope, curvature = (np.array(line.get_xydata()) for line in axes.lines[:3])
    assert axes.lines[3].get_xydata()[0] == pytest.approx((-1.1924, -0.30884), abs=5e-3)
    for y, derivative in ((f, slope), (slope, curvature)):
        numeric = np.gradient(y[:, 1], y[:, 0])
        np.testing.assert_allclose(derivative[1:-1, 1], numeric[1:-1], atol=2e-5)


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (-0.06, "-0.1"), (7.0, "7.0")])
def test_ends_of_a_landscape_have_no_negative_zero(value: float, text: str) -> None:
    assert pictures._one_digit(value) == text


def test_plots_of_a_comparison_have_titles(uninterrupted: Path) -> None:
    study = read(uninterrupted)
    for picture in (plots.accuracies(study), plots.curves(study)):
        assert picture.figure.get_suptitle().replace("\n", " ") == picture.title


def test_random_networks_differ_in_the_activation_alone() -> None:
    relu, mish = (pictures.random_network(name, 1) for name in ("ReLU", "Mish"))
    for a, b in zip(relu.parameters(), mish.parameters(), strict=True):
        assert torch.equal(a, b)
    points = torch.randn(5, 2)
    assert not torch.equal(relu(points), mish(points))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10"], "--data FOLDER"),
        (["--dataset", "cifar100", "--data", "nowhere"], "cifar-100-python.tar.gz"),
        (["--data", "somewhere"], "digits come with scikit-learn"),
        (["--batch-size", "895"], "leaves a batch of one image"),
    ],
)
def test_wrong_input_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--dataset", "mnist"],
        ["--activations", "Tanh"],
        ["--epochs", "0"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "-1"],
        ["--device", "nowhere"],
    ],
)
def test_wrong_options_are_refused_by_name(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", *options])
    assert exit_.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_output_that_is_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == 1
    assert cli.main(["pictures", "--output", str(tmp_path / "file")]) == 1
    assert "File exists" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", "cut off"])
def test_plot_refuses_what_is_not_there(
    content: str | None, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content == "cut off":
        content = (uninterrupted / "runs.csv").read_text()[:-200]
    if content:
        (tmp_path / "runs.csv").write_text(content)
    assert cli.main(["plot", str(tmp_path)]) == 1
    assert str(tmp_path / "runs.csv") in capsys.readouterr().err


def edited(line: int, column: str, value: str) -> Callable[[str], str]:
    """Puts another value into a cell of a CSV file; line 1 is the header."""

    def edit(text: str) -> str:
        lines = text.splitlines()
        cells = lines[line - 1].split(",")
        cells[lines[0].split(",").index(column)] = value
        lines[line - 1] = ",".join(cells)
        return "\n".join(lines) + "\n"

    return edit


def without(line: int) -> Callable[[str], str]:
    return lambda text: "".join(
        row for n, row in enumerate(text.splitlines(keepends=True), 1) if n != line
    )


# Each was once a traceback, a message without the file, or a summary that lacked something.
DAMAGE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "epoch lost": ("curves.csv", without(3), "epochs 1 to 3 of Mish, seed 0, got 1, 3"),
    "epoch twice": ("curves.csv", edited(3, "epoch", "1"), "of Mish, seed 0, got 1, 1, 3"),
    "no curve": ("curves.csv", lambda text: text.partition("\n")[0], "got none"),
    "dataset": ("runs.csv", edited(2, "dataset", "mnist"), "line 2: expected one of digits, "),
    "activation": ("runs.csv", edited(3, "activation", "Foo"), "line 3: expected one of Mish, "),
    "epochs": ("runs.csv", edited(3, "epochs", "twenty"), "as epochs, got 'twenty'"),
    "other settings": ("runs.csv", edited(3, "width", "3"), "ReLU, seed 0 has another width than"),
    "other torch": ("runs.csv", edited(3, "torch", "2.9.0"), "has another torch than Mish, seed 0"),
    "accuracy": ("curves.csv", edited(4, "test_accuracy", "nan"), "line 4: expected a percentage"),
    "loss": ("curves.csv", edited(2, "train_loss", "-1"), "line 2: expected a number from 0"),
    "seed": ("curves.csv", edited(7, "seed", "-1"), "line 7: expected a whole number as seed"),
    "cells": (
        "curves.csv",
        lambda text: text + "digits,Mish\n",
        "line 8: expected a cell for each",
    ),
    "too many": (
        "runs.csv",
        lambda text: text.rstrip() + ",1\n",
        "line 3: expected a cell for each",
    ),
}


@pytest.fixture
def folder(uninterrupted: Path, tmp_path: Path) -> Path:
    """Its own copy of what was measured."""
    for name in ("runs.csv", "curves.csv"):
        (tmp_path / name).write_bytes((uninterrupted / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_by_file_and_line(
    name: str,
    damage: Callable[[str], str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, summary = folder / name, folder / "summary.md"
    path.write_text(damage(path.read_text()))
    summary.write_text("of what was there before")
    assert cli.main(["plot", str(folder)]) == 1
    told = capsys.readouterr().err
    assert str(path) in told
    assert message in told
    assert "Restore the file" in told
    assert summary.read_text() == "of what was there before"


def test_bytes_that_are_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "curves.csv").write_bytes(b"\x80\xff\x00")
    assert cli.main(["plot", str(folder)]) == 1
    assert f"{folder / 'curves.csv'}: expected text in UTF-8" in capsys.readouterr().err


def test_damage_is_told_before_the_training(
    folder: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And when that run is taken out, as the message says, it is trained again."""
    runs, curves = folder / "runs.csv", folder / "curves.csv"
    curves.write_text(without(6)(curves.read_text()))
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", None)
        assert run(folder, *BOTH, "--seeds", "2") == 1
    assert "epochs 1 to 3 of ReLU, seed 0, got 1, 3" in capsys.readouterr().err
    runs.write_text(without(3)(runs.read_text()))
    assert run(folder, *BOTH) == 0
    for name in ("runs.csv", "curves.csv"):
        assert rows(folder / name) == rows(uninterrupted / name)


def test_a_run_that_diverged_is_drawn(folder: Path) -> None:
    curves = folder / "curves.csv"
    curves.write_text(edited(4, "train_loss", "nan")(curves.read_text()))
    assert cli.main(["plot", str(folder)]) == 0


def without_package(name: str, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process that cannot import a package."""
    program = f"import sys; sys.modules[{name!r}] = None; {program}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_the_plots_need_is_missed_before_the_training(tmp_path: Path) -> None:
    arguments = ["run", "--output", str(tmp_path), *TINY]
    program = f"from benchmarks.paper import cli; sys.exit(cli.main({arguments}))"
    done = without_package("matplotlib", program)
    assert done.returncode == 2
    assert "matplotlib, which is not installed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_cifar_needs_no_scikit_learn() -> None:
    done = without_package("sklearn", "import benchmarks.paper.training")
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert cli.main(["plot", "folder"]) == 2
    assert "rich, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "run", "plot", "pictures"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command.split(), "--help"])
    assert exit_.value.code == 0
    assert "usage: python -m benchmarks.paper" in capsys.readouterr().out
