"""The benchmark suite: its grid, statistics, file and tables. No time is asserted anywhere."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import cli, run, tables
from benchmarks.cells import (
    DTYPES,
    KERNEL_DIRECTIONS,
    KERNEL_PROVIDERS,
    LAYOUTS,
    Cell,
    Direction,
    Group,
    kernel_groups,
)
from benchmarks.claims import CPU_CLAIMS, Claim, Ratio, Verdict, claim_groups, judge
from benchmarks.environment import Environment, collect
from benchmarks.measure import measure
from benchmarks.providers import make_inputs, statement
from benchmarks.recording import INTERRUPTED
from benchmarks.results import Result, Timing, open_writer, read
from benchmarks.timing import quantiles

ENVIRONMENT = Environment(
    device="a device",
    cpu_model="a processor, 2 cores",
    cpu_capability="AVX2",
    backend="cpu",
    mish_cuda="1.2.3",
    commit="",
    torch="2.9",
    cuda="",
    driver="",
    python="3.10",
    date="2000-01-01",
    command='run --csv "a file.csv"',
)
MEDIANS = {  # seconds
    "mish_cuda": 20e-6,
    "F.mish": 250e-6,
    "naive": 140e-6,
    "F.silu": 25e-6,
    "relu": 15e-6,
    "copy": 10e-6,
}


def result(cell: Cell, median: float, suite: str = "kernels") -> Result:
    return Result(suite, cell, Timing(rounds=3, median=median, p20=median / 2, p80=median * 2))


def kernel_results(direction: Direction = "forward", size: int = 65_536) -> list[Result]:
    return [
        result(Cell(provider, direction, "fp32", (size,)), MEDIANS[provider])
        for provider in KERNEL_PROVIDERS
    ]


def rendered(*parts: object) -> str:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


def test_grid_holds_every_provider_of_every_case_once() -> None:
    groups = kernel_groups((1, 512), ("fp32", "bf16"), threads=2)
    cells = [cell for group in groups for cell in group.cells]
    assert len(groups) == 2 * 2 * len(KERNEL_DIRECTIONS)
    assert max(Counter(cells).values()) == 1
    assert {cell.provider for cell in cells} == set(KERNEL_PROVIDERS)
    assert {cell.threads for cell in cells} == {2}
    for group in groups:
        assert len({dataclasses.replace(cell, provider="") for cell in group.cells}) == 1


@pytest.mark.parametrize(
    ("direction", "dtype", "expected"),
    [
        ("forward", "fp32", 2 * 4 * 100),
        ("forward out=", "fp64", 2 * 8 * 100),
        ("backward", "bf16", 3 * 2 * 100),
        ("forward+backward", "fp16", 5 * 2 * 100),
    ],
)
def test_bytes_are_those_read_and_written(direction: Direction, dtype: str, expected: int) -> None:
    assert Cell("copy", direction, dtype, (100,)).bytes == expected


def test_bytes_of_a_slice_leave_out_what_it_skips() -> None:
    cell = Cell("F.mish", "forward", "fp32", (8, 10), "x[:, ::2]")
    assert cell.numel == 40
    assert cell.bytes == 2 * 4 * 40


def test_rates_are_in_1e9_bytes_per_second() -> None:
    cell = Cell("copy", "forward", "fp32", (1000,))
    assert result(cell, median=1e-6).gigabytes_per_second == pytest.approx(8)


def test_inputs_are_random_repeatable_and_laid_out_as_named() -> None:
    cell = Cell("mish_cuda", "forward", "fp32", (16, 32), "x.t()")
    inputs = make_inputs(cell, "cpu")
    assert inputs.x.shape == (32, 16)
    assert not inputs.x.is_contiguous()
    assert inputs.x.std() > 2
    assert torch.equal(inputs.x, make_inputs(cell, "cpu").x)
    assert inputs.leaf.is_leaf
    assert inputs.leaf.requires_grad
    assert inputs.leaf.stride() == inputs.x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("provider", KERNEL_PROVIDERS)
def test_statements_compute_what_the_direction_says(provider: str, layout: str) -> None:
    """Forward and backward apart give what autograd gives of both."""
    shapes = {1: (24,), 2: (6, 8), 3: (3, 4, 6), 4: (2, 3, 4, 5)}
    dims = {"x": 1, "x.transpose(1, 2)": 3, "x.permute(0, 3, 1, 2)": 4}.get(layout, 2)
    cell = Cell(provider, "forward", "fp64", shapes[dims], layout)
    inputs = make_inputs(cell, "cpu")

    def value(direction: Direction) -> object:
        call = statement(dataclasses.replace(cell, direction=direction), inputs)
        result = eval(call.text, dict(call.names))  # no statement of these holds a semicolon
        return result[0] if isinstance(result, tuple) else result

    if provider == "copy":
        torch.testing.assert_close(value("forward"), inputs.x)
        torch.testing.assert_close(value("backward"), inputs.x + inputs.g)
    else:
        assert torch.is_tensor(value("forward"))
        torch.testing.assert_close(value("backward"), value("forward+backward"))


def test_mish_providers_agree() -> None:
    inputs = make_inputs(Cell("naive", "forward", "fp64", (100,)), "cpu")
    for direction in ("forward", "backward"):
        values = []
        for provider in ("mish_cuda", "F.mish", "naive"):
            call = statement(Cell(provider, direction, "fp64", (100,)), inputs)
            value = eval(call.text, dict(call.names))
            values.append(value[0] if isinstance(value, tuple) else value)
        torch.testing.assert_close(values[0], values[1])
        torch.testing.assert_close(values[0], values[2])


def test_quantiles() -> None:
    timing = quantiles([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    assert timing == Timing(rounds=6, median=3.5, p20=2.0, p80=5.0)


def test_measure_gives_one_result_per_cell_and_restores_the_threads() -> None:
    before = torch.get_num_threads()
    cells = tuple(Cell(p, "forward", "fp32", (8,), threads=before + 1) for p in ("relu", "copy"))
    measured = measure(Group("kernels", cells, min_rounds=2), "cpu", seconds=0)
    assert tuple(r.cell for r in measured) == cells
    assert [r.timing.rounds for r in measured] == [2, 2]
    assert all(0 < r.timing.p20 <= r.timing.median <= r.timing.p80 for r in measured)
    assert torch.get_num_threads() == before


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        result(
            Cell("mish_cuda", "forward out=", "bf16", (4, 8, 6), "x.transpose(1, 2)", 2), 1.5e-6
        ),
        *kernel_results(),
    ]
    path = tmp_path / "new folder" / "a.csv"
    with open_writer(path, ENVIRONMENT) as write:
        write(rows)
    assert read(path) == (ENVIRONMENT, rows)


def test_a_file_that_is_no_benchmark_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="median_s"):
        read(path)
    assert cli.main(["table", str(path)]) == 1
    assert cli.main(["table", str(tmp_path / "absent.csv")]) == 1
    assert "absent.csv" in capsys.readouterr().err


def test_kernel_table_shows_speed_up_rate_and_share() -> None:
    text = rendered(*tables.kernel_tables(kernel_results()))
    line = next(line for line in text.splitlines() if "65,536" in line)
    # 250 us / 20 us; 2 * 4 * 65,536 bytes in 20 us; 10 us of copy / 20 us.
    assert line.split()[-3:] == ["12.50x", "26.2", "50%"]
    assert "20.0 µs" in line
    assert "forward" in text
    assert "backward" not in text


def test_markdown_has_the_two_sizes_and_the_kernels() -> None:
    rows = [
        *kernel_results("forward", 65_536),
        *kernel_results("backward", 2**20),
        *kernel_results("forward", 512),
        *kernel_results("forward+backward", 65_536),
    ]
    lines = tables.kernel_markdown(rows).splitlines()
    assert len(lines) == 2 + 2
    assert lines[2].startswith("| forward | fp32 | 65,536 | 20.0 µs | 250 µs |")
    assert lines[3].startswith("| backward | fp32 | 1 M |")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.14e-9, "3.14 ns"),
        (9.996e-7, "1.00 µs"),
        (99.96e-6, "100 µs"),
        (12.345e-3, "12.3 ms"),
        (2, "2.00 s"),
    ],
)
def test_times_show_three_digits(seconds: float, text: str) -> None:
    assert tables.format_seconds(seconds) == text


def test_claims_time_both_sides_of_each_ratio_in_turn() -> None:
    groups = claim_groups()
    cells = [cell for group in groups for cell in group.cells]
    assert max(Counter(cells).values()) == 1  # else one row would stand for two measurements
    assert all(len(group.cells) == 2 for group in groups)
    for cell in cells:
        assert cell.dtype in DTYPES
        assert cell.numel > 0
        statement(cell, make_inputs(dataclasses.replace(cell, shape=(2,) * len(cell.shape)), "cpu"))


@pytest.mark.parametrize("at_most", [False, True])
def test_a_claim_is_as_good_as_its_worst_ratio(at_most: bool) -> None:
    cell = Cell("mish_cuda", "forward", "fp32", (1,))
    ratios = tuple(Ratio(name, cell, cell) for name in ("low", "high"))
    claim = Claim("title", "a / b", ratios, bound=2, at_most=at_most)
    verdict = Verdict(claim, tuple(zip(ratios, (1.9, 2.1), strict=True)))
    assert verdict.worst[0].name == ("high" if at_most else "low")
    assert not verdict.ok
    assert Verdict(claim, ((ratios[0], 2.0),)).ok
    assert claim.required == ("a / b <= 2" if at_most else "a / b >= 2")


def test_claims_are_judged_by_their_own_measurements() -> None:
    claim = CPU_CLAIMS[0]
    (ratio,) = claim.ratios
    rows = [
        result(ratio.over, 1e-6),  # a row of the kernels table, timed beside others
        result(ratio.over, 12e-6, "claims"),
        result(ratio.under, 1e-6, "claims"),
    ]
    (verdict,) = judge(rows)
    assert verdict.claim is claim
    assert verdict.worst[1] == pytest.approx(12)
    assert verdict.ok
    assert judge(rows[:2]) == []
    text = rendered(tables.claims_table([verdict]))
    assert ">= 10" in text
    assert "12.00" in text


def test_run_measures_and_prints_and_table_prints_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    options = ["--device", "cpu", "--only", "kernels", "--sizes", "7", "--dtypes", "bf16"]
    assert cli.main(["run", *options, "--seconds", "0", "--csv", str(path)]) == 0
    first = capsys.readouterr().out
    assert "forward+backward" in first
    environment, rows = read(path)
    assert len(rows) == len(KERNEL_PROVIDERS) * len(KERNEL_DIRECTIONS)
    assert environment is not None
    assert environment.command.startswith("python -m benchmarks run --device cpu")
    assert environment.torch == torch.__version__

    assert cli.main(["table", str(path)]) == 0
    assert capsys.readouterr().out.strip() in first


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Group] = []

    def measure_two(group: Group, device: str, seconds: float) -> list[Result]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(group)
        return [result(cell, 1e-6) for cell in group.cells]

    monkeypatch.setattr(run, "measure", measure_two)
    path = tmp_path / "a.csv"
    assert cli.main(["run", "--device", "cpu", "--csv", str(path)]) == INTERRUPTED
    assert [r.cell for r in read(path)[1]] == [cell for group in done for cell in group.cells]
    assert "Interrupted" in capsys.readouterr().out


def test_environment_names_what_was_measured() -> None:
    environment = collect("cpu", "a command")
    assert environment.device
    assert environment.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert environment.torch in environment.summary()
    assert environment.driver == ""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["table", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 0
    assert "usage: python -m benchmarks" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--device", "nowhere"], ["--sizes", "0"], ["--dtypes", "int8"]])
def test_wrong_options_are_refused_by_name(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", *wrong])
    assert exit_.value.code == 2
    assert wrong[0] in capsys.readouterr().err
