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


def case(
    activation: str,
    direction: str = "training step",
    network: str = "se_resnet18",
    dtype: str = "fp32",
) -> Case:
    return Case(activation, direction, dtype, SMALL[network].cpu, network=network)


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
def test_a_step_starts_from_the_same_weights_as_the_one_before(
    network: str, losses: list[float]
) -> None:
    step = networks.statement(case("mish_cuda", network=network), "cpu")
    for _ in range(3):
        step()
    assert len(set(losses)) == 1


@pytest.mark.parametrize("network", SMALL)
def test_a_step_gives_every_weight_to_the_optimizer(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no gradient behind, which the peak memory of the next would lack."""
    updated = []

    class Spy(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            weights = [w for group in self.param_groups for w in group["params"]]
            updated.append((weights, [w.grad for w in weights]))
            super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    networks.statement(case("mish_cuda", network=network), "cpu")()
    ((weights, gradients),) = updated
    expected = sum(1 for _ in SMALL[network].build(nn.Mish).parameters())
    assert len(weights) == expected
    assert all(gradient is not None for gradient in gradients)
    assert all(weight.grad is None for weight in weights)


def test_fused_norms_learn_the_same_with_less_memory(
    losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_before_mish.FEWEST_ELEMENTS, "with gradients", 0)
    cases = tuple(map(case, ("mish_cuda", networks.FUSED)))
    rows = measure(Group("networks", cases), "cpu", 0, prepare=networks.by_network).rows
    assert max(losses) - min(losses) < 1e-5
    assert rows[1]["peak_bytes"] < rows[0]["peak_bytes"]


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    networks.statement(case("ReLU"), "cpu")
    assert torch.equal(torch.rand(1), expected)


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
    networks.statement(case("F.mish", direction, dtype=dtype), "cpu")()
    training = direction == "training step"
    assert seen == {(expected, training, training)}


@pytest.mark.parametrize("network", SMALL)
def test_needed_memory_is_near_the_peak(network: str) -> None:
    """A large batch, so that gradients count for little."""
    large = replace(case("mish_cuda", network=network), shape=(500, *SMALL[network].cpu[1:]))
    group = Group("networks", (large,))
    (row,) = measure(group, "cpu", 0, prepare=networks.by_network).rows
    assert 0.5 < networks.needed_memory(large) / row["peak_bytes"] < 2


def run(*options: str, csv: Path) -> int:
    return main("networks", "--device", "cpu", "--seconds", "0", "--csv", csv, *options)


def test_run_measures_and_prints_and_table_prints_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    options = ["--batch", "3", "--threads", "1"]
    assert run(*options, csv=path) == 0
    printed = capsys.readouterr().out
    assert "se_resnet18, input 3x3x8x8, fp32, CPU threads: 1" in printed
    assert "mlp, input 3x8, fp32, CPU threads: 1" in printed
    rows = read(path)
    assert rows.command.iloc[0].startswith("python -m benchmarks networks --device cpu")
    measured = list(zip(rows.network, rows.direction, rows.provider, strict=True))
    assert measured == list(product(SMALL, networks.SECONDS, networks.ACTIVATIONS))
    assert set(rows.suite) == {"networks"}
    assert (rows.peak_bytes.isna() == (rows.direction == "inference")).all()
    peaks = rows[rows.network == "se_resnet18"].groupby("provider").peak_bytes.max()
    # Mish keeps its input, the naive one also softplus and tanh of it.
    assert peaks["naive"] > peaks["mish_cuda"] == peaks["F.mish"] > peaks["none"] > 0
    assert main("table", path) == 0
    assert capsys.readouterr().out.strip() in printed


def test_one_that_fails_leaves_the_others_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("can't allocate so much memory")

    monkeypatch.setitem(networks.ACTIVATIONS, "naive", Greedy)
    path = tmp_path / "a.csv"
    assert run("--networks", "mlp", csv=path) == 1
    others = [name for name in networks.ACTIVATIONS if name != "naive"]
    assert list(read(path).provider) == others * len(networks.SECONDS)
    printed = capsys.readouterr().out
    for direction in networks.SECONDS:
        assert f"mlp naive {direction}" in printed
    assert "can't allocate so much memory" in printed


def test_default_inputs_fit_their_networks() -> None:
    """Those of both kinds of device, without running anything."""
    for known in DEFAULTS.values():
        for shape in (known.cpu, known.gpu):
            with torch.device("meta"):
                assert known.build(nn.Mish)(torch.empty(shape)).shape == (
                    shape[0],
                    networks.CLASSES,
                )
