"""Networks and their training: ``networks``, and the comparison of the paper."""

from __future__ import annotations

import math
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from rows import Patch, main, printed, read, refusal
from torch import Tensor, nn

pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")

from benchmarks import memory, networks
from benchmarks.architectures import csp_darknet, mlp, se_resnet18
from benchmarks.arguments import Refused
from benchmarks.cases import Case
from benchmarks.paper import data, tables, training
from benchmarks.paper.protocol import ACTIVATIONS
from benchmarks.timing import threads
from mish_cuda import _before_mish
from project import ROOT, run_python

SMALL = {
    "se_resnet18": networks.Network(partial(se_resnet18, width=4), (4, 3, 8, 8), (1,)),
    "mlp": networks.Network(partial(mlp, width=8), (3, 8), (1,)),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> Iterator[None]:
    monkeypatch.setattr(networks, "NETWORKS", SMALL)
    with threads(1):  # faster than several here
        yield


@pytest.mark.parametrize("network", SMALL)
def test_steps_with_any_mish_are_alike(network: str, monkeypatch: Patch) -> None:
    """They have the same loss, which is another in bf16, and change no weight."""
    monkeypatch.setitem(_before_mish.FEWEST_ELEMENTS, "with gradients", 0)
    losses, peaks = [], []
    for name in ("mish_cuda", networks.FUSED, "F.mish", "naive"):
        case = Case(name, "training step", "fp32", SMALL[network].cpu, network=network)
        step, _ = networks.prepared(case, "cpu")
        losses += [step().item(), step().item()]
        peaks.append(memory.peak(step, "cpu"))
    assert max(losses) - min(losses) < 1e-5
    # Gradients of all weights are in the peak of each.
    assert min(peaks) > 4 * sum(w.numel() for w in SMALL[network].build(nn.ReLU).parameters())
    # Norms that are fused save a tensor; the naive Mish keeps two more.
    assert peaks[1] < peaks[0] == peaks[2] < peaks[3] or network == "mlp"
    in_bf16, _ = networks.prepared(replace(case, dtype="bf16"), "cpu")
    assert abs(in_bf16().item() - losses[0]) > 1e-4
    assert networks.prepared(replace(case, direction="inference"), "cpu")[0]().is_inference()


@pytest.mark.slow
def test_the_command_measures_and_names_what_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "a.csv"
    command = ("networks", "--device", "cpu", "--seconds", "0", "--threads", "1", "--csv", path)
    assert main(*command, "--activations", "F.mish", "--networks", "mlp") == 0
    monkeypatch.delattr(nn.SiLU, "forward")
    chosen = ("se_resnet18", "mlp")
    output = printed(*command, "--networks", *chosen, "--batch", "3", status=1)
    assert "se_resnet18 SiLU inference fp32 3x3x8x8: NotImplementedError: " in output
    rows = read(path)
    others = [name for name in networks.ACTIVATIONS if name != "SiLU"]
    expected = [list(case) for case in product(chosen, ("training step", "inference"), others)]
    assert rows[["network", "direction", "provider"]].to_numpy().tolist() == expected
    assert printed("table", path).strip() in output


GATES = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 128, 256, 512))  # of two blocks each
SIZES: list[Any] = [
    # torchvision's ResNet-18 has 11,689,512 weights, of a 7x7 stem and 1000 classes:
    # https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
    (se_resnet18, 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - 990 * (512 + 1) + 2 * GATES, 33),
    # With the 1000 classes of ImageNet: table 1 of arXiv 2004.10934.
    (partial(csp_darknet, classes=1000), pytest.approx(27.6e6, rel=2e-3), 72),
    # 512 to 2048 and back, in 6 layers: section 3.3 and table 3 of arXiv 1706.03762.
    (mlp, 6 * (2 * 512 * 2048 + 2048 + 512 + 1024) + 1024 + 10 * (512 + 1), 6),
]


@pytest.mark.parametrize(("build", "weights", "activations"), SIZES)
def test_networks_have_the_published_size(build: Any, weights: float, activations: int) -> None:
    with torch.device("meta"):
        network = build(nn.Mish)
    assert sum(weight.numel() for weight in network.parameters()) == weights
    assert sum(isinstance(module, nn.Mish) for module in network.modules()) == activations


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


class Cifar10:
    """What of torchvision.datasets.CIFAR10 is used. It holds the file to be what was published."""

    filename, base_folder, classes = "cifar-10-python.tar.gz", "cifar-10-batches-py", ("a", "b")

    def __init__(self, root: str, train: bool) -> None:
        if Path(root, self.base_folder, "batch").read_bytes() != IMAGES.tobytes():
            raise RuntimeError("Dataset not found or corrupted. You can use download=True")
        self.data, self.targets = (IMAGES[:4], [0, 1, 1, 0]) if train else (IMAGES[4:], [1, 0])


def test_cifar_from_its_folder_and_its_archive(tmp_path: Path, monkeypatch: Patch) -> None:
    datasets = SimpleNamespace(CIFAR10=Cifar10, CIFAR100=Cifar10)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))
    folder, archive = tmp_path / Cifar10.base_folder, tmp_path / Cifar10.filename
    folder.mkdir()
    (folder / "batch").write_bytes(IMAGES.tobytes())
    shutil.make_archive(str(tmp_path / "cifar-10-python"), "gztar", tmp_path, folder.name)
    for given in (folder, tmp_path, tmp_path):  # at last from the archive
        found = data.load("cifar10", given)
        assert found.train_labels.tolist() + found.test_labels.tolist() == [0, 1, 1, 0, 1, 0]
        images = 255 * torch.cat([found.train_images, found.test_images]).permute(0, 2, 3, 1)
        np.testing.assert_allclose(images, IMAGES, atol=1e-4)
        if given == tmp_path:
            shutil.rmtree(folder, ignore_errors=True)
    # A damaged archive, and other files than those that were published.
    for path, content in ((archive, archive.read_bytes()[:9000]), (folder / "batch", b"else")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(Refused, match=f"holds no .*as published.*{data.URL}"):
            data.load("cifar10", tmp_path)


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


SETTINGS = {"width": 2, "epochs": 3, "batch_size": 128, "learning_rate": 0.01}
BOTH = ("--activations", "ReLU", "Mish")


def command(folder: Path, *options: str) -> tuple[str, ...]:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    return ("paper", "--seeds=1", "--device=cpu", "--output", str(folder), *settings, *options)


def test_all_activations_start_and_go_alike(tmp_path: Path, monkeypatch: Patch) -> None:
    """From the same weights, through the same batches."""
    digits = data.load("digits", tmp_path)
    assert (len(digits.train_labels), len(digits.test_labels)) == (896, 901)

    def seen(name: str, seed: int = 0) -> tuple[dict[str, Tensor], Any]:
        """Initial weights, and the batches of two epochs: images and labels."""
        epochs: Any = []
        monkeypatch.setattr(training, "_train_epoch", lambda *x: epochs.append([*x[2]]) or 0.5)
        run = {**SETTINGS, "epochs": 2, "activation": name, "seed": seed}
        list(training.train(run, digits, "cpu", tmp_path / f"{name}-{seed}.pt"))
        return training.initial_network(run, digits).state_dict(), epochs

    weights, (first, second) = mish = seen("Mish")
    for name in set(ACTIVATIONS) - {"Mish"}:
        torch.testing.assert_close(seen(name), mish, rtol=0, atol=0)
    other_weights, (other_first, _) = seen("Mish", 1)
    assert not all(map(torch.equal, weights.values(), other_weights.values()))
    assert not torch.equal(first[0][0], other_first[0][0])
    assert not torch.equal(first[0][0], second[0][0])
    assert first[0][0].aminmax() == (-1, 1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(*command(folder, *BOTH)) == 0
    return folder


def test_it_learns_and_plot_makes_its_summary_again(uninterrupted: Path) -> None:
    assert read(uninterrupted / "epochs.csv").test_accuracy.iloc[2] > 10
    written = [uninterrupted / name for name in ("accuracy.png", "curves.png", "summary.md")]
    before = written[-1].read_text()
    for path in written:
        path.unlink()
    assert "not tested" in printed("paper", "plot", "--output", uninterrupted)
    assert all(path.exists() for path in written)
    assert written[-1].read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 4, 6])
def test_a_killed_process_loses_at_most_an_epoch(
    call: int, uninterrupted: Path, tmp_path: Path
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
    killed = run_python("-c", program, *command(tmp_path, *BOTH), cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "epochs.csv").exists() == (call > 4)
    (checkpoint,) = tmp_path.glob("checkpoints/*.pt")
    assert len(torch.load(checkpoint)["rows"]) == (call - 1) % 4
    assert "more than one width" in refusal(*command(tmp_path, "--width", "3"))
    assert main(*command(tmp_path, *BOTH)) == 0
    rows = [read(folder / "epochs.csv") for folder in (tmp_path, uninterrupted)]
    found, expected = (each.drop(columns=["seconds", "command", "clock"]) for each in rows)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_a_folder_in_use_or_damaged_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    """Before plots and training."""
    with FileLock(tmp_path / ".lock"):
        assert "another process is training" in refusal(*command(tmp_path))
    path = tmp_path / "epochs.csv"
    for column, value, message in (
        ("epoch", "1", "of Mish, seed 0, got 1, 1, 3"),
        ("width", "3", "runs of more than one width, which are not comparable: 2, 3"),
    ):
        rows = pd.read_csv(uninterrupted / "epochs.csv", dtype=str, keep_default_na=False)
        rows.loc[1, column] = value
        rows.to_csv(path, index=False)
        assert message in refusal("paper", "plot", "--output", tmp_path)
        assert message in refusal(*command(tmp_path, *BOTH))


def test_statistics_by_hand() -> None:
    """With two degrees of freedom p is 1 - t / sqrt(2 + t²), and 97.5 % of the distribution are
    below 4.302653. The last of ReLU has no partner."""
    wide = pd.DataFrame({"Mish": [11, 32, 23, math.nan], "ReLU": [10, 30, 20, 90]})
    ours, t, half = tables.comparisons(wide).loc["ReLU"], 2 / 3**-0.5, 4.302653 * 3**-0.5
    p = 1 - t / (2 + t**2) ** 0.5
    assert list(ours[:5]) == pytest.approx([2, 2 - half, 2 + half, p, p], rel=1e-6)
    assert ours.finding == "not told apart"
    for theirs, expected in (
        ((81, 82, 84, 85), "worse"),
        ((70, 72, 71, 73), "better"),
        ((79, 80, 81, 82), "not tested"),  # without spread
        ((79, math.nan, math.nan, math.nan), "not tested"),
    ):
        wide = pd.DataFrame({"Mish": (80, 81, 82, 83), "GELU": theirs})
        assert tables.comparisons(wide).finding.item() == expected
    corrected = tables.holm(pd.Series([0.01, 0.04, math.nan, 0.03]))
    assert list(corrected) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    # Not the best epoch but the last.
    epochs = {"epoch": [1, 2], "epochs": 2, "test_accuracy": [9.0, 4.0], "seed": 0}
    assert tables.accuracies(pd.DataFrame({**epochs, "activation": "Mish"})).Mish.item() == 4
