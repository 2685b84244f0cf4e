"""Networks and their training: ``networks``, and the comparison of the paper."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from rows import FACTS, Patch, main, one_thread, printed, read, refusal, tables_of, write  # noqa: F401
from torch import Tensor, nn

pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")

from benchmarks import networks
from benchmarks.architectures import csp_darknet, mlp, se_resnet18
from benchmarks.cases import Case, Group
from benchmarks.environment import collect
from benchmarks.measure import measure
from benchmarks.paper import data, tables, training
from benchmarks.paper.protocol import ACTIVATIONS, Settings
from benchmarks.paper.study import Study
from mish_cuda import _before_mish
from project import ROOT

SMALL = {
    "se_resnet18": networks.Network(partial(se_resnet18, width=4), (4, 3, 8, 8), (1,)),
    "mlp": networks.Network(partial(mlp, width=8), (16, 8), (1,)),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> None:
    monkeypatch.setattr(networks, "NETWORKS", SMALL)


@pytest.mark.parametrize("network", SMALL)
def test_steps_with_any_mish_are_alike(network: str, monkeypatch: Patch) -> None:
    """They have the same loss, and change no weight."""
    losses: list[float] = []
    cross_entropy = F.cross_entropy

    def spy(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(F, "cross_entropy", spy)
    monkeypatch.setitem(_before_mish.FEWEST_ELEMENTS, "with gradients", 0)
    names = ("mish_cuda", networks.FUSED, "F.mish", "naive")
    case = Case("", "training step", "fp32", SMALL[network].cpu, network=network)
    cases = tuple(dataclasses.replace(case, provider=name) for name in names)
    rows = measure(Group("networks", cases), "cpu", 0, prepare=networks.by_network).rows
    assert len(losses) > 3 * len(names)
    assert max(losses) - min(losses) < 1e-5
    peaks = [row["peak_bytes"] for row in rows]
    # Norms that are fused save a tensor; the naive Mish keeps two more.
    assert peaks[1] < peaks[0] == peaks[2] < peaks[3] or network == "mlp"


@pytest.mark.parametrize("direction", networks.SECONDS)
def test_activations_get_the_dtype(direction: str, monkeypatch: Patch) -> None:
    seen = []

    def watched(layer: nn.Module, x: Tensor) -> Tensor:
        seen.append((x.dtype, layer.training, x.requires_grad))
        return F.mish(x)

    monkeypatch.setattr(nn.Mish, "forward", watched)
    training = direction == "training step"
    for dtype, expected in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        networks.statement(Case("F.mish", direction, dtype, (16, 8), network="mlp"), "cpu")()
        assert seen[-1] == (expected, training, training)


def test_the_command_measures_and_names_what_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "a.csv"
    command = ("networks", "--device", "cpu", "--seconds", "0", "--threads", "1", "--csv", path)
    assert main(*command, "--activations", "F.mish", "--networks", "mlp") == 0
    monkeypatch.setattr(nn.SiLU, "forward", MagicMock(side_effect=RuntimeError("can't allocate")))
    chosen = ("se_resnet18", "mlp")
    output = printed(*command, "--networks", *chosen, "--batch", "3", status=1)
    assert "se_resnet18 SiLU inference fp32 3x3x8x8: RuntimeError: can't allocate" in output
    rows = read(path)
    measured = list(zip(rows.network, rows.direction, rows.provider, strict=True))
    others = [name for name in networks.ACTIVATIONS if name != "SiLU"]
    assert measured == list(product(chosen, networks.SECONDS, others))
    steps = rows[rows.direction == "training step"]
    # In the peak of each step are the gradients of all weights.
    weights = sum(weight.numel() for weight in SMALL["mlp"].build(nn.ReLU).parameters())
    assert (steps.peak_bytes[steps.network == "mlp"] > 4 * weights).all()
    assert printed("table", path).strip() in output


# torchvision's ResNet-18 has 11,689,512 weights, of a 7x7 stem and 1000 classes:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
RESNET18 = 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - (1000 - 10) * (512 + 1)
GATES = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 128, 256, 512))


# With the 1000 classes of ImageNet: table 1 of arXiv 2004.10934.
CSP = partial(csp_darknet, classes=1000)
# 512 to 2048 and back, in 6 layers: section 3.3 and table 3 of arXiv 1706.03762.
MLP_WEIGHTS = 6 * (2 * 512 * 2048 + 2048 + 512 + 1024) + 1024 + 10 * (512 + 1)


@pytest.mark.parametrize(
    ("build", "weights", "activations"),
    [(se_resnet18, RESNET18 + 2 * GATES, 33), (CSP, 27.6e6, 72), (mlp, MLP_WEIGHTS, 6)],
)
def test_networks_have_the_published_size(build: Any, weights: float, activations: int) -> None:
    with torch.device("meta"):
        network = build(nn.Mish)
    found = sum(weight.numel() for weight in network.parameters())
    assert found == (pytest.approx(weights, rel=2e-3) if build is CSP else weights)
    assert sum(isinstance(module, nn.Mish) for module in network.modules()) == activations


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


def test_all_activations_start_and_go_alike(tmp_path: Path, monkeypatch: Patch) -> None:
    """From the same weights, through the same batches."""
    centred = training._centred
    digits = dataclasses.replace(data.load("digits", None), augmented=True)
    assert (len(digits.train_labels), len(digits.test_labels)) == (896, 901)

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


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert main(*command(folder, *BOTH)) == 0
    return folder


def test_run_writes_what_it_measured_and_plot_its_summary_again(uninterrupted: Path) -> None:
    found = read(uninterrupted / "epochs.csv")
    assert list(found.activation) == ["Mish"] * 3 + ["ReLU"] * 3
    assert list(found.epoch) == [1, 2, 3] * 2
    assert all(set(found[name]) == {value} for name, value in vars(SETTINGS).items())
    assert found.test_accuracy.iloc[2] > 10
    written = [uninterrupted / name for name in ("summary.md", "accuracy.png", "curves.png")]
    before = written[0].read_text()
    for path in written:
        path.unlink()
    assert "not tested" in printed("paper", "plot", "--output", uninterrupted)
    assert (written[0].read_text(), all(path.exists() for path in written)) == (before, True)


@pytest.mark.parametrize("call", [2, 3, 5])
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
    line = [sys.executable, "-c", program, *command(tmp_path, *BOTH)]
    killed = subprocess.run(line, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "epochs.csv").exists() == (call > 3)
    (checkpoint,) = tmp_path.glob("checkpoints/*.pt")
    assert len(torch.load(checkpoint)["curve"]) == (call - 1) % 3
    assert "width: 2 there, 3 now" in refusal(*command(tmp_path, "--width", "3"))
    assert main(*command(tmp_path, *BOTH)) == 0
    assert measured(tmp_path) == measured(uninterrupted)


def test_a_folder_of_another_process_or_with_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "Mish-0.pt"
    path.parent.mkdir()
    path.write_bytes(b"nothing of the kind")
    with FileLock(tmp_path / ".lock"):
        assert "another process is training" in refusal(*command(tmp_path))
    assert f"{path} is no checkpoint" in refusal(*command(tmp_path))


def test_damage_is_told_before_plots_and_training(uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    for column, value, message in (
        ("epoch", "1", "of Mish, seed 0, got 1, 1, 3"),
        ("width", "3", "runs of more than one width: 2, 3"),
        ("torch", "2.9.0", "runs of more than one torch"),
        ("test_accuracy", "nan", "line 3: expected a number"),
    ):
        rows = pd.read_csv(uninterrupted / "epochs.csv", dtype=str, keep_default_na=False)
        rows.loc[1, column] = value
        rows.to_csv(path, index=False)
        before = path.read_bytes()
        assert message in refusal("paper", "plot", "--output", tmp_path)
        assert message in refusal(*command(tmp_path, *BOTH))
        assert path.read_bytes() == before


def finished(activation: str, *accuracies: float) -> list[dict[str, Any]]:
    """Rows of runs of two epochs, of which the first was the better."""
    fixed = {**FACTS, **dataclasses.asdict(dataclasses.replace(SETTINGS, epochs=2))}
    fixed |= {"activation": activation, "train_loss": 0.5, "seconds": 1.0}
    return [
        fixed | {"seed": seed, "epoch": epoch, "test_accuracy": accuracy + 5 * (epoch == 1)}
        for seed, accuracy in enumerate(accuracies)
        for epoch in (1, 2)
    ]


def line_of_last(folder: Path, **accuracies: tuple[float, ...]) -> str:
    """What the table says of the last activation."""
    rows = [row for name, values in accuracies.items() for row in finished(name, *values)]
    measured, _ = tables_of(write(folder / "a.csv", rows, "epochs")).values()
    return "|".join(measured[-1])


def test_statistics_by_hand(tmp_path: Path) -> None:
    """t = 2 / (1 / sqrt 3), of which p = 1 - t / sqrt(2 + t²) at n = 3. 97.5 % of the distribution
    with 2 degrees of freedom are below 4.302653. The last of ReLU has no partner."""
    found = line_of_last(tmp_path, Mish=(11, 32, 23), ReLU=(10, 30, 20, 90))
    expected = "ReLU|4|37.50 ± 35.94|+2.00|-0.48 to +4.48|0.074|0.074|not told apart"
    assert found == expected
    # Without spread, or several seeds, there is no test.
    found = line_of_last(tmp_path, Mish=(5, 6), GELU=(4, 5))
    assert found == "GELU|2|4.50 ± 0.71|+1.00||||not tested"
    assert line_of_last(tmp_path, Mish=(5,), GELU=(4,)) == "GELU|1|4.00|+1.00||||not tested"
    p, corrected = [0.01, 0.04, math.nan, 0.03], [0.03, 0.06, math.nan, 0.06]
    assert list(tables.holm(pd.Series(p))) == pytest.approx(corrected, nan_ok=True)
    mish = (80.0, 80.1, 80.2, 80.3)
    assert line_of_last(tmp_path, Mish=mish, ReLU=(81.0, 81.1, 81.3, 81.4)).endswith("|worse")
    assert line_of_last(tmp_path, Mish=mish, Swish=(70.0, 70.2, 70.1, 70.3)).endswith("|better")
