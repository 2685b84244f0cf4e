"""The networks themselves, and ``networks``: what it times and writes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rows import Capture, Patch, main, one_thread, printed, read  # noqa: F401
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.architectures import csp_darknet, mlp, se_resnet18
from benchmarks.cases import Case, Group
from benchmarks.measure import measure
from mish_cuda import _before_mish

DEFAULTS = networks.NETWORKS
SMALL = {
    "se_resnet18": networks.Network(partial(se_resnet18, width=4), (4, 3, 8, 8), (1,)),
    "mlp": networks.Network(partial(mlp, width=8), (16, 8), (1,)),
    "csp_darknet": networks.Network(partial(csp_darknet, width=4, depth=0.3), (3, 3, 64, 64), (1,)),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> None:
    monkeypatch.setattr(networks, "NETWORKS", SMALL)


def case(activation: str, direction: str = "training step", network: str = "se_resnet18") -> Case:
    return Case(activation, direction, "fp32", SMALL[network].cpu, network=network)


# torchvision's ResNet-18 has 11,689,512 weights, of a 7x7 stem and 1000 classes:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
RESNET18 = 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - (1000 - 10) * (512 + 1)
GATES = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 128, 256, 512))


@pytest.mark.parametrize(
    ("name", "weights", "tolerance"),
    [
        ("se_resnet18", RESNET18 + 2 * GATES, 0),
        # With the 1000 classes of ImageNet: table 1 of arXiv 2004.10934.
        ("csp_darknet", 27.6e6 - 990 * (1024 + 1), 0.05e6),
        # 512 to 2048 and back, in 6 layers: section 3.3 and table 3 of arXiv 1706.03762.
        ("mlp", 6 * (2 * 512 * 2048 + 2048 + 512 + 1024) + 1024 + 10 * (512 + 1), 0),
    ],
)
def test_networks_have_the_size_of_the_published_ones(
    name: str, weights: float, tolerance: float
) -> None:
    with torch.device("meta"):
        network = DEFAULTS[name].build(nn.Mish)
        for shape in (DEFAULTS[name].cpu, DEFAULTS[name].gpu):
            assert network(torch.empty(shape)).shape == (shape[0], networks.CLASSES)
    assert abs(sum(p.numel() for p in network.parameters()) - weights) <= tolerance


@pytest.mark.parametrize("network", SMALL)
def test_steps_with_any_mish_have_the_same_loss_and_change_no_weight(
    network: str, monkeypatch: Patch
) -> None:
    losses: list[float] = []
    cross_entropy = F.cross_entropy

    def spy(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(F, "cross_entropy", spy)
    monkeypatch.setitem(_before_mish.FEWEST_ELEMENTS, "with gradients", 0)
    names = ("mish_cuda", networks.FUSED, "F.mish", "naive")
    cases = tuple(case(name, network=network) for name in names)
    rows = measure(Group("networks", cases), "cpu", 0, prepare=networks.by_network).rows
    assert len(losses) > 3 * len(names)
    assert max(losses) - min(losses) < 1e-5
    peaks = [row["peak_bytes"] for row in rows]
    # Norms that are fused save a tensor; the naive Mish keeps two more.
    assert peaks[1] < peaks[0] == peaks[2] < peaks[3] or network == "mlp"


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("direction", networks.SECONDS)
def test_activations_get_the_dtype(
    direction: str, dtype: str, expected: torch.dtype, monkeypatch: Patch
) -> None:
    seen = set()

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add((x.dtype, self.training, x.requires_grad))
            return F.mish(x)

    monkeypatch.setitem(networks.ACTIVATIONS, "F.mish", Spy)
    networks.statement(replace(case("F.mish", direction), dtype=dtype), "cpu")()
    training = direction == "training step"
    assert seen == {(expected, training, training)}


class Greedy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("can't allocate so much memory")


def test_the_command_measures_and_names_what_fails(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    path = tmp_path / "a.csv"
    command = ("networks", "--device", "cpu", "--seconds", "0", "--threads", "1", "--csv", path)
    assert main(*command, "--activations", "F.mish", "--networks", "mlp") == 0
    monkeypatch.setitem(networks.ACTIVATIONS, "SiLU", Greedy)
    chosen = ("se_resnet18", "mlp")
    output = printed(capsys, *command, "--networks", *chosen, "--batch", "3", status=1)
    assert "se_resnet18 SiLU inference fp32 3x3x8x8: RuntimeError: can't allocate" in output
    rows = read(path)
    measured = list(zip(rows.network, rows.direction, rows.provider, strict=True))
    others = [name for name in networks.ACTIVATIONS if name != "SiLU"]
    assert measured == list(product(chosen, networks.SECONDS, others))
    steps = rows[rows.direction == "training step"]
    # In the peak of each step are the gradients of all weights.
    weights = sum(weight.numel() for weight in SMALL["mlp"].build(nn.ReLU).parameters())
    assert (steps.peak_bytes[steps.network == "mlp"] > 4 * weights).all()
    assert printed(capsys, "table", path).strip() in output
