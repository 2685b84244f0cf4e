"""The benchmark of whole networks: what it times, its tables and its command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from benchmarks import cli, model_tables, models, networks
from benchmarks.cells import Cell, Direction, Group
from benchmarks.measure import measure
from benchmarks.results import Result, Timing, read
from benchmarks.timing import Sampler, Statement

SMALL = {
    "se_resnet18": models.Network(lambda a: networks.se_resnet18(a, width=4), (4, 3, 8, 8), (1,)),
    "mlp": models.Network(lambda a: networks.mlp(a, width=8), (16, 8), (1,)),
}
DEFAULTS = models.NETWORKS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "NETWORKS", SMALL)


def cell(
    activation: str,
    direction: Direction = "training step",
    network: str = "se_resnet18",
    dtype: str = "fp32",
) -> Cell:
    return Cell(activation, direction, dtype, SMALL[network].cpu, network=network)


def result(activation: str, direction: Direction, median: float, peak: int | None = None) -> Result:
    timing = Timing(rounds=5, median=median, p20=median / 2, p80=median * 2)
    return Result("models", cell(activation, direction), timing, peak)


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
    step = models.statement(cell("mish_cuda", network=network), "cpu")
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
    models.statement(cell("mish_cuda", network=network), "cpu")()
    ((weights, gradients),) = updated
    expected = sum(1 for _ in SMALL[network].build(nn.Mish).parameters())
    assert len(weights) == expected
    assert all(gradient is not None for gradient in gradients)
    assert all(weight.grad is None for weight in weights)


def test_mish_by_any_name_has_the_same_loss_and_logits(losses: list[float]) -> None:
    names = ("mish_cuda", "F.mish", "naive")
    for name in names:
        models.statement(cell(name), "cpu")()
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    logits = [models.statement(cell(name, "inference"), "cpu")() for name in names]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-4, atol=1e-6)


def test_other_activations_start_from_the_same_weights_and_images(
    losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.ACTIVATIONS, "ReLU", nn.Mish)
    for name in ("F.mish", "ReLU"):
        models.statement(cell(name), "cpu")()
    assert losses[0] == losses[1]


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    models.statement(cell("ReLU"), "cpu")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("direction", models.SECONDS)
def test_activations_get_the_dtype(
    direction: Direction, dtype: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add((x.dtype, self.training, x.requires_grad))
            return F.mish(x)

    monkeypatch.setitem(models.ACTIVATIONS, "F.mish", Spy)
    models.statement(cell("F.mish", direction, dtype=dtype), "cpu")()
    training = direction == "training step"
    assert seen == {(expected, training, training)}


def test_every_activation_is_measured_and_a_step_has_its_peak_memory() -> None:
    cells = tuple(cell(name) for name in models.ACTIVATIONS)
    rows, failures = measure(Group("models", cells), "cpu", 0, way=models.by_network)
    assert not failures
    assert tuple(row.cell for row in rows) == cells
    assert all(0 < row.timing.p20 <= row.timing.median <= row.timing.p80 for row in rows)
    peaks = {row.cell.provider: row.peak_bytes or 0 for row in rows}
    # Mish keeps its input, the naive one also softplus and tanh of it.
    assert peaks["naive"] > peaks["mish_cuda"] == peaks["F.mish"] > peaks["none"] > 0
    inference = Group("models", (cell("ReLU", "inference"),))
    ((row,), _) = measure(inference, "cpu", 0, way=models.by_network)
    assert row.peak_bytes is None


def test_a_line_compares_with_f_mish_and_with_no_activation() -> None:
    rows = [
        result("mish_cuda", "training step", 0.8, 3 * 2**20),
        result("F.mish", "training step", 1.0, 2**30),
        result("none", "training step", 0.6, 2**10),
        result("mish_cuda", "inference", 20e-3),
        result("F.mish", "inference", 30e-3),
    ]
    ((title, lines),) = model_tables.model_lines(rows).items()
    assert title == "se_resnet18, input 4x3x8x8, fp32, CPU threads: 1"
    assert ["|".join(line) for line in lines] == [
        "mish_cuda|800 ms|400 ms to 1.60 s|1.25x|25%|3.00 MiB|20.0 ms|1.50x",
        "F.mish|1.00 s|500 ms to 2.00 s|1.00x|40%|1.00 GiB|30.0 ms|1.00x",
        "none|600 ms|300 ms to 1.20 s|1.67x|0%|1.00 KiB||",
    ]


def test_what_is_not_measured_is_left_empty() -> None:
    ((_, lines),) = model_tables.model_lines([result("ReLU", "inference", 0.5)]).items()
    assert lines == [("ReLU", "", "", "", "", "", "500 ms", "")]
    assert model_tables.model_lines([]) == {}
    kernel = Result("kernels", Cell("relu", "forward", "fp32", (1,)), Timing(1, 1, 1, 1))
    assert model_tables.model_lines([kernel]) == {}


def test_tables_stand_within_80_columns_and_markdown_has_the_same_lines() -> None:
    rows = [result("mish_cuda", direction, 0.123, 999 * 2**20) for direction in models.SECONDS]
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        for table in model_tables.model_tables(rows):
            console.print(table)
        console.print(model_tables.NOTES)
    text = capture.get()
    assert "…" not in text
    assert "mish_cuda  123 ms 61.5 ms to 246 ms" in text
    lines = model_tables.model_markdown(rows).splitlines()
    assert len(lines) == 3
    assert lines[2].split(" | ")[1:4] == ["mish_cuda", "123 ms", "61.5 ms to 246 ms"]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("network", SMALL)
def test_needed_memory_is_near_the_peak(network: str) -> None:
    """A large batch, so that gradients count for little."""
    large = replace(cell("mish_cuda", network=network), shape=(500, *SMALL[network].cpu[1:]))
    ((row,), _) = measure(Group("models", (large,)), "cpu", 0, way=models.by_network)
    assert row.peak_bytes is not None
    assert 0.5 < models.needed_memory(large) / row.peak_bytes < 2


def run(*options: str, csv: Path) -> int:
    return cli.main(["models", "--device", "cpu", "--seconds", "0", "--csv", str(csv), *options])


def test_run_measures_and_prints_and_table_prints_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    options = ["--batch", "3", "--threads", "1", "--dtype", "bf16"]
    assert run(*options, csv=path) == 0
    printed = capsys.readouterr().out
    assert "se_resnet18, input 3x3x8x8, bf16, CPU threads: 1" in printed
    assert "mlp, input 3x8, bf16, CPU threads: 1" in printed
    environment, rows = read(path)
    assert environment is not None
    assert environment.command.startswith("python -m benchmarks models --device cpu")
    measured = [(r.cell.network, r.cell.direction, r.cell.provider) for r in rows]
    assert measured == list(product(SMALL, models.SECONDS, models.ACTIVATIONS))
    assert {r.suite for r in rows} == {"models"}
    assert all((r.peak_bytes is None) == (r.cell.direction == "inference") for r in rows)
    assert cli.main(["table", str(path)]) == 0
    assert capsys.readouterr().out.strip() in printed


def test_choices_are_taken_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    chosen = ["--networks", "mlp", "mlp", "--activations", "ReLU", "mish_cuda", "ReLU"]
    assert run(*chosen, csv=path) == 0
    rows = [(r.cell.network, r.cell.provider) for r in read(path)[1]]
    assert rows == [("mlp", "ReLU"), ("mlp", "mish_cuda")] * len(models.SECONDS)


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(nn.Mish):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise KeyboardInterrupt
            return super().forward(x)

    monkeypatch.setitem(models.ACTIVATIONS, "naive", Interrupted)
    path = tmp_path / "a.csv"
    assert run("--networks", "mlp", csv=path) == 130
    rows = read(path)[1]
    assert [r.cell.provider for r in rows] == list(models.ACTIVATIONS)
    assert {r.cell.direction for r in rows} == {"training step"}
    assert "Interrupted" in capsys.readouterr().out


def test_ctrl_c_in_a_round_keeps_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def interrupted(statement: Statement) -> Sampler:
        def sample() -> float:
            nonlocal calls
            calls += 1
            if calls > 3 * len(models.ACTIVATIONS):  # in the fourth round; three are enough
                raise KeyboardInterrupt
            return 1.0

        return sample

    monkeypatch.setattr(models, "sampler", interrupted)
    path = tmp_path / "a.csv"
    assert run("--networks", "mlp", "--seconds", "60", csv=path) == 130
    rows = read(path)[1]
    assert [r.cell.provider for r in rows] == list(models.ACTIVATIONS)
    assert {(r.cell.direction, r.timing.rounds) for r in rows} == {("training step", 3)}
    assert all(r.peak_bytes for r in rows)


def test_one_that_fails_leaves_the_others_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("can't allocate so much memory")

    monkeypatch.setitem(models.ACTIVATIONS, "naive", Greedy)
    path = tmp_path / "a.csv"
    assert run("--networks", "mlp", csv=path) == 1
    others = [name for name in models.ACTIVATIONS if name != "naive"]
    assert [r.cell.provider for r in read(path)[1]] == others * len(models.SECONDS)
    printed = capsys.readouterr().out
    for direction in models.SECONDS:
        assert f"mlp naive {direction}" in printed
    assert "can't allocate so much memory" in printed


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--networks", "resnet"], "invalid choice: 'resnet'"),
        (["--activations", "tanh"], "invalid choice: 'tanh'"),
        (["--dtype", "fp16"], "invalid choice: 'fp16'"),
        (["--batch", "0"], "expected a whole number above 0, got 0"),
        (["--threads", "-1"], "--threads"),
        (["--seconds", "nan"], "expected seconds, got nan"),
        (["--device", "nowhere"], "nowhere"),
        (["--batch", "1000000000000"], "give a smaller --batch"),
    ],
)
def test_wrong_options_are_refused_by_name(
    wrong: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*wrong, csv=tmp_path / "a.csv")
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(csv=tmp_path) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_default_inputs_fit_their_networks() -> None:
    """Those of both kinds of device, without running anything."""
    for known in DEFAULTS.values():
        for shape in (known.cpu, known.gpu):
            with torch.device("meta"):
                assert known.build(nn.Mish)(torch.empty(shape)).shape == (shape[0], models.CLASSES)
