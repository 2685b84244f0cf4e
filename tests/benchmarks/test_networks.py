"""``networks``: what it times, and its command line."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rows import main, one_thread, read  # noqa: F401
from torch import Tensor, nn

from benchmarks import architectures, networks
from benchmarks.cases import Case, Group
from benchmarks.measure import measure
from mish_cuda import _before_mish

SMALL = {
    "se_resnet18": networks.Network(
        lambda a: architectures.se_resnet18(a, width=4), (4, 3, 8, 8), (1,)
    ),
    "mlp": networks.Network(lambda a: architectures.mlp(a, width=8), (16, 8), (1,)),
}
DEFAULTS = networks.NETWORKS


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "NETWORKS", SMALL)


def case(activation: str, direction: str = "training step", network: str = "se_resnet18") -> Case:
    return Case(activation, direction, "fp32", SMALL[network].cpu, network=network)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every training step from now on."""
    seen: list[float] = []
    cross_entropy = F.cross_entropy

    def spy(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(F, "cross_entropy", spy)
    return seen


@pytest.mark.parametrize("network", SMALL)
def test_a_step_gives_every_weight_to_the_optimizer_and_changes_none(
    network: str, losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no gradient behind, which the peak memory of the next would lack."""
    weights: list[Tensor] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            weights[:] = [w for group in self.param_groups for w in group["params"]]
            assert all(weight.grad is not None for weight in weights)
            super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    step = networks.statement(case("mish_cuda", network=network), "cpu")
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers
    for _ in range(3):
        step()
        assert all(weight.grad is None for weight in weights)
    assert len(weights) == sum(1 for _ in SMALL[network].build(nn.Mish).parameters())
    assert len(losses) == 3
    assert len(set(losses)) == 1


def test_fused_norms_learn_the_same_with_less_memory(
    losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_before_mish.FEWEST_ELEMENTS, "with gradients", 0)
    cases = tuple(map(case, ("mish_cuda", networks.FUSED)))
    rows = measure(Group("networks", cases), "cpu", 0, prepare=networks.by_network).rows
    assert max(losses) - min(losses) < 1e-5
    assert rows[1]["peak_bytes"] < rows[0]["peak_bytes"]


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("direction", networks.SECONDS)
def test_activations_get_the_dtype(
    direction: str, dtype: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
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


def test_success(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert main("networks", "--device", "cpu", "--seconds", "0", "--csv", path) == 0


class Greedy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("can't allocate so much memory")


def test_run_measures_and_names_what_fails_and_table_prints_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(networks.ACTIVATIONS, "SiLU", Greedy)
    path = tmp_path / "a.csv"
    options = ("--device", "cpu", "--seconds", "0", "--batch", "3", "--threads", "1", "--csv", path)
    assert main("networks", *options) == 1
    printed = capsys.readouterr().out
    assert "se_resnet18, input 3x3x8x8, fp32, CPU threads: 1" in printed
    assert "mlp, input 3x8, fp32, CPU threads: 1" in printed
    for network, direction in product(SMALL, networks.SECONDS):
        assert f"{network} SiLU {direction}" in printed
    assert "can't allocate so much memory" in printed
    rows = read(path)
    assert rows.command.iloc[0].startswith("python -m benchmarks networks --device cpu")
    measured = list(zip(rows.network, rows.direction, rows.provider, strict=True))
    others = [name for name in networks.ACTIVATIONS if name != "SiLU"]
    assert measured == list(product(SMALL, networks.SECONDS, others))
    assert set(rows.suite) == {"networks"}
    assert (rows.peak_bytes.isna() == (rows.direction == "inference")).all()
    peaks = rows[rows.network == "se_resnet18"].groupby("provider").peak_bytes.max()
    # Mish keeps its input, the naive one also softplus and tanh of it.
    assert peaks["naive"] > peaks["mish_cuda"] == peaks["F.mish"] > peaks["none"] > 0
    assert main("table", path) == 0
    assert capsys.readouterr().out.strip() in printed


@pytest.mark.parametrize("network", DEFAULTS)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_default_inputs_fit_their_networks(network: str, kind: str) -> None:
    """Without running anything."""
    shape = getattr(DEFAULTS[network], kind)
    with torch.device("meta"):
        result = DEFAULTS[network].build(nn.Mish)(torch.empty(shape))
    assert result.shape == (shape[0], networks.CLASSES)
