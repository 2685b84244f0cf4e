"""The benchmark suite: its grid, statistics, file and tables. No time is asserted anywhere."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import arguments, cli, environment, memory, providers, run, tables, timing, units
from benchmarks.cells import (
    DTYPES,
    KERNEL_DIRECTIONS,
    KERNEL_PROVIDERS,
    LAYOUTS,
    PROVIDERS,
    Cell,
    Direction,
    Group,
    compiled_provider,
    kernel_groups,
)
from benchmarks.claims import CPU_CLAIMS, Claim, Ratio, Verdict, claim_groups, judge
from benchmarks.environment import Environment, collect
from benchmarks.exits import INTERRUPTED
from benchmarks.measure import measure
from benchmarks.presets import PRESETS, shapes_of
from benchmarks.providers import Inputs, call, make_inputs, statement
from benchmarks.results import Failure, Interrupted, Result, Timing, open_writer, read
from benchmarks.timing import Statement, quantiles, sampler, take_turns
from project import ROOT

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
    "memory-efficient": 180e-6,
    "compiled F.mish": 100e-6,
    "compiled mish_cuda": 30e-6,
    "F.silu": 25e-6,
    "F.gelu": 50e-6,
    "relu": 15e-6,
    "copy": 10e-6,
}


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet() -> None:
    """Else torch counts what earlier tests had it compile, and in 2.11 gives up at the eighth."""
    torch._dynamo.reset()


def result(cell: Cell, median: float, suite: str = "kernels") -> Result:
    return Result(suite, cell, Timing(rounds=3, median=median, p20=median / 2, p80=median * 2))


def kernel_results(
    direction: Direction = "forward",
    *shape: int,
    providers: Sequence[str] = PROVIDERS,
) -> list[Result]:
    return [
        result(Cell(provider, direction, "fp32", shape or (65_536,)), MEDIANS[provider])
        for provider in providers
    ]


def value_of(cell: Cell, inputs: Inputs) -> Any:
    """What the statement of a cell computes; the first of what autograd gives."""
    value = call(cell, inputs)
    return value[0] if isinstance(value, tuple) else value


def rendered(*parts: object) -> str:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


def test_grid_holds_every_provider_of_every_case_once() -> None:
    groups = kernel_groups([(1,), (8, 64)], ["fp32", "bf16"], threads=2)
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
        return value_of(dataclasses.replace(cell, direction=direction), inputs)

    if provider == "copy":
        torch.testing.assert_close(value("forward"), inputs.x)
        torch.testing.assert_close(value("backward"), inputs.x + inputs.g)
    else:
        assert torch.is_tensor(value("forward"))
        torch.testing.assert_close(value("backward"), value("forward+backward"))


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It takes seconds to compile; what it makes of Mish is tested in test_compile.py."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    providers._compiled.cache_clear()
    yield
    providers._compiled.cache_clear()


@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize("direction", KERNEL_DIRECTIONS)
@pytest.mark.parametrize("shape", [(100,), (1,), (3, 1, 5)], ids=str)
def test_mish_providers_agree(direction: Direction, shape: tuple[int, ...]) -> None:
    inputs = make_inputs(Cell("naive", direction, "fp64", shape), "cpu")
    expected = value_of(Cell("F.mish", direction, "fp64", shape), inputs)
    for provider in (
        "mish_cuda",
        "naive",
        "memory-efficient",
        "compiled F.mish",
        "compiled mish_cuda",
    ):
        torch.testing.assert_close(
            value_of(Cell(provider, direction, "fp64", shape), inputs), expected
        )


def test_the_memory_efficient_way_saves_its_input_alone() -> None:
    inputs = make_inputs(Cell("naive", "forward", "fp64", (100,)), "cpu")
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        providers._MemoryEfficient.apply(inputs.leaf)
    assert [tensor.data_ptr() for tensor in saved] == [inputs.leaf.data_ptr()]


def test_quantiles() -> None:
    timing = quantiles([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    assert timing == Timing(rounds=6, median=3.5, p20=2.0, p80=5.0)


def test_measure_gives_one_result_per_cell_and_restores_the_threads() -> None:
    before = torch.get_num_threads()
    cells = tuple(Cell(p, "forward", "fp32", (8,), threads=before + 1) for p in ("relu", "copy"))
    measured, failed = measure(Group("kernels", cells, min_rounds=2), "cpu", seconds=0)
    assert not failed
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
        dataclasses.replace(kernel_results("forward+backward")[0], peak_bytes=2**20),
        result(Cell("ReLU", "training step", "fp32", (2, 3), network="mlp"), 1.0, "models"),
    ]
    path = tmp_path / "new folder" / "a.csv"
    with open_writer(path, ENVIRONMENT) as write:
        write(rows)
    assert read(path) == (ENVIRONMENT, rows)


def test_a_file_that_is_no_benchmark_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, empty = tmp_path / "other.csv", tmp_path / "empty.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="median_s"):
        read(path)
    with open_writer(empty, ENVIRONMENT):
        pass
    accuracy = ROOT / "benchmarks/results/epyc-avx512/accuracy.csv"
    for wrong, reason in (
        (path, "is no benchmark file, or a damaged one: it lacks backend"),
        (tmp_path / "absent.csv", "cannot be read: No such file or directory"),
        (empty, "holds no rows: nothing was measured"),
        (accuracy, "is a file of `python -m accuracy`, expected one of `run` or `models`"),
    ):
        assert cli.main(["table", str(wrong)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"python -m benchmarks table: {wrong} {reason}")


def test_kernel_table_shows_the_time_of_ours_and_multiples_of_it() -> None:
    rows = [*kernel_results(), *kernel_results("forward", 2, 64, 112, 112)]
    text = rendered(*tables.kernel_tables(rows))
    assert text.split()[0] == "forward"
    # 2 * 4 * 65,536 bytes in 20 us; then the medians above over 20 us.
    line = next(line for line in text.splitlines() if "65,536" in line)
    ratios = ["12.5", "7.00", "9.00", "5.00", "1.50", "1.25", "2.50", "0.75", "0.50"]
    assert line.split() == ["65,536", "20.0", "µs", "26.2", *ratios]
    assert "2x64x112x112 20.0 µs" in text
    assert "backward" not in text


def test_kernel_table_without_ours_is_relative_to_the_first() -> None:
    rows = kernel_results(providers=("F.silu", "copy", "naive"))
    text = rendered(*tables.kernel_tables(rows))
    line = next(line for line in text.splitlines() if "65,536" in line)
    assert line.split() == ["65,536", "140", "µs", "3.74", "0.18", "0.07"]
    assert "naive: time of a call. " in tables.kernel_notes(rows)


def test_kernel_table_leaves_out_what_failed() -> None:
    rows = [
        *kernel_results(providers=("mish_cuda", "F.mish", "copy")),
        *kernel_results("forward", 512, providers=("F.mish", "copy")),
    ]
    text = rendered(*tables.kernel_tables(rows))
    assert next(line for line in text.splitlines() if "512" in line).split() == ["512"]
    assert "| forward | fp32 | 65,536 | 20.0 µs |" in tables.kernel_markdown(rows)


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_table_of_a_gpu_file_has_all_of_its_providers(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell(name, "forward", "fp16", (512,)) for name in ("triton", "[/]", "copy")]
    path = tmp_path / "a.csv"
    with open_writer(path, ENVIRONMENT) as write:
        write([result(cell, 1e-6, "gpu") for cell in cells])
    assert cli.main(["table", str(path), *options]) == 0
    output = capsys.readouterr().out
    assert all(cell.provider in output for cell in cells)
    assert "512" in output
    with open_writer(path, ENVIRONMENT) as write:
        write([result(cells[0], 1e-6)])
    assert cli.main(["table", str(path), *options]) == 0
    assert "triton" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_rows_that_no_table_has_are_counted(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ratio = CPU_CLAIMS[0].ratios[0]
    path = tmp_path / "a.csv"
    with open_writer(path, ENVIRONMENT) as write:
        write([result(ratio.over, 12e-6, "claims")])
    assert cli.main(["table", str(path), *options]) == 0
    assert "Rows that no table has: 1, of claims." in capsys.readouterr().out
    with open_writer(path, ENVIRONMENT) as write:
        write([result(ratio.over, 12e-6, "claims"), result(ratio.under, 1e-6, "claims")])
    assert cli.main(["table", str(path), *options]) == 0
    output = capsys.readouterr().out
    assert "12.00" in output
    assert "Rows" not in output


def test_memory_is_shown_at_the_largest_shape_in_sizes_of_the_input() -> None:
    rows = [
        dataclasses.replace(row, peak_bytes=tensors * row.cell.input_bytes)
        for size in (512, 4096)
        for row, tensors in zip(
            kernel_results("forward+backward", size, providers=("mish_cuda", "naive")),
            (2, 5),
            strict=True,
        )
    ]
    text = rendered(tables.kernel_tables(rows)[-1])
    assert text.splitlines()[-2].split() == ["fp32", "4,096", "2.0", "5.0"]


def test_tables_fit_80_columns() -> None:
    shape = (8, 512, 112, 112)
    rows = [r for d in KERNEL_DIRECTIONS for r in kernel_results(d, *shape)]
    rows = [dataclasses.replace(r, peak_bytes=12_345_678) for r in rows]
    wide = Console(width=200, no_color=True)
    with wide.capture() as capture:
        wide.print(*tables.kernel_tables(rows), tables.kernel_notes(rows))
    assert max(map(len, capture.get().splitlines())) <= 80


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
    assert lines[2].endswith("| 12.50x | 26.2 | 50% |")
    assert lines[3].startswith("| backward | fp32 | 1 M |")
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_of_other_shapes_has_all_of_them() -> None:
    rows = [*kernel_results("forward", 2, 3), *kernel_results("forward", 7)]
    assert len(tables.kernel_markdown(rows).splitlines()) == 2 + 2


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
    assert units.format_seconds(seconds) == text


@pytest.mark.usefixtures("without_inductor")
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


RUN = ["run", "--device", "cpu", "--seconds", "0", "--csv"]


def test_run_measures_and_prints_and_table_prints_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    assert cli.main([*RUN, str(path), "--sizes", "7", "2x3", "--dtypes", "bf16"]) == 0
    first = capsys.readouterr().out
    assert "forward+backward" in first
    environment, rows = read(path)
    assert {r.suite for r in rows} == {"kernels"}
    assert len(rows) == 2 * len(KERNEL_PROVIDERS) * len(KERNEL_DIRECTIONS)
    assert {r.cell.shape for r in rows} == {(7,), (2, 3)}
    peaks = {r.cell.provider: r.peak_bytes for r in rows if r.cell.shape == (7,) and r.peak_bytes}
    assert peaks["mish_cuda"] == 2 * 2 * 7  # result and gradient, in bf16
    assert peaks["naive"] == 5 * 2 * 7
    assert all((r.peak_bytes is None) == (r.cell.direction != "forward+backward") for r in rows)
    assert environment is not None
    assert environment.command.startswith("python -m benchmarks run --device cpu")
    assert environment.torch == torch.__version__

    assert cli.main(["table", str(path)]) == 0
    assert capsys.readouterr().out.strip() in first
    assert cli.main(["table", str(path), "--markdown"]) == 0
    assert "| forward | bf16 | 2x3 |" in capsys.readouterr().out


def chosen(*options: str) -> list[Group]:
    """The groups that `run` with these options measures."""
    groups: list[Group] = []

    def measure(group: Group, device: str, seconds: float, warmup: int) -> Any:
        groups.append(group)
        return [], []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(run, "measure", measure)
        assert cli.main([*RUN, f"{folder}/a.csv", *options]) == 0
    return groups


def test_everything_is_measured_by_default_and_the_kernels_alone_if_some_are_chosen() -> None:
    assert {group.suite for group in chosen()} == {"kernels", "compiled", "claims"}
    assert {group.suite for group in chosen("--only", "compiled")} == {"compiled"}
    for options in (["--sizes", "7"], ["--threads", "2"], ["-b"], ["--directions", "backward"]):
        groups = chosen(*options)
        assert {group.suite for group in groups} == {"kernels"}
    assert {group.cells[0].direction for group in groups} == {"backward"}


def test_without_kernels_none_is_compiled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mish_cuda.backend", lambda tensor: "eager")
    names = {cell.provider for group in chosen("--only", "compiled") for cell in group.cells}
    assert "compiled decomposition in f(x)" in names
    assert "compiled kernel in f(x)" not in names


def test_compiled_table_leaves_out_what_was_not_measured() -> None:
    cells = [
        Cell(compiled_provider(name), "forward+backward", "fp32", (2**20,))
        for name in ("F.mish", "decomposition")
    ]
    rows = [result(cell, time, "compiled") for cell, time in zip(cells, (9e-3, 2e-3), strict=True)]
    assert "| fp32 | 1 M | `f(x)` | 9.00 ms | 2.00 ms |  | 4.50x |" in tables.compiled_markdown(
        rows
    )
    assert "4.50x" in rendered(tables.compiled_table(rows))


def test_presets_come_in_batches() -> None:
    for preset in PRESETS:
        shapes = shapes_of(preset, 4)
        assert {shape[0] for shape in shapes} == {4}
        assert len({math.prod(shape) for shape in shapes}) == len(shapes)
    groups = chosen("--preset", "resnet50", "--batch", "2", "--sizes", "9", "--dtypes", "fp32")
    assert {group.cells[0].shape for group in groups} == {(9,), *shapes_of("resnet50", 2)}


def test_options_of_the_old_perftest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def measure(group: Group, device: str, seconds: float, warmup: int) -> Any:
        seen.append((group, device, seconds, warmup))
        return [], []

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "device", lambda text: "cpu")
    for options in (
        ["-d", "0", "-n", "50", "-w", "5", "-s", "(16, 10,8,8)", "-b", "-t", "float16"],
        [
            *("--device", "0", "--n_repeat", "50", "--warmup", "5"),
            *("--size", "[16,10,8,8]", "--baseline", "--type", "float16"),
        ],
    ):
        seen.clear()
        assert cli.main(["run", "--csv", str(tmp_path / "a.csv"), *options]) == 0
        assert len(seen) == len(KERNEL_DIRECTIONS)
        for group, device, seconds, warmup in seen:
            assert (device, group.min_rounds, seconds, warmup) == ("cpu", 50, 0, 5)
            assert [cell.provider for cell in group.cells] == ["mish_cuda", "naive", "relu"]
            assert {(cell.dtype, cell.shape) for cell in group.cells} == {("fp16", (16, 10, 8, 8))}


def test_warm_up_calls_come_before_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()
    monkeypatch.setattr(torch, "relu", lambda x: calls.update(["relu"]))

    def counted(warmup: int) -> int:
        calls.clear()
        cells = (Cell("custom", "forward", "fp32", (1,)),)
        recipe = {"forward": providers._forward(torch.relu)}
        monkeypatch.setitem(providers._RECIPES, "custom", recipe)
        monkeypatch.setattr(timing, "_calls_per_block", lambda timer: 1)
        measure(Group("kernels", cells, min_rounds=2), "cpu", 0, warmup)
        return calls["relu"]

    assert counted(5) - counted(1) == 4


def test_a_provider_that_fails_leaves_the_others_be_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def broken(inputs: Inputs) -> Statement:
        tried.append(inputs)
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setitem(providers._RECIPES, "relu", dict.fromkeys(KERNEL_DIRECTIONS, broken))
    path = tmp_path / "a.csv"
    options = ["--sizes", "7", "8", "--dtypes", "fp32", "--providers", "mish_cuda", "relu"]
    assert cli.main([*RUN, str(path), *options]) == 1
    assert len(tried) == len(KERNEL_DIRECTIONS)  # at 8 not again
    assert Counter(r.cell.provider for r in read(path)[1]) == {"mish_cuda": 6}
    output = capsys.readouterr().out
    assert "relu backward fp32 7: RuntimeError: no compiler\n" in output


def test_want_of_memory_is_no_reason_to_give_up() -> None:
    def failure(reason: str) -> Failure:
        return Failure(Cell("relu", "forward", "fp32", (1,)), reason)

    assert failure("OutOfMemoryError: CUDA out of memory").out_of_memory
    assert failure("RuntimeError: DefaultCPUAllocator: can't allocate memory").out_of_memory
    assert not failure("RuntimeError: no compiler").out_of_memory


def test_without_memory_for_inputs_every_cell_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tuple(Cell(name, "forward", "fp32", (2**60,)) for name in ("relu", "copy"))
    results, failures = measure(Group("kernels", cells), "cpu", seconds=0)
    assert not results
    assert [failure.cell for failure in failures] == list(cells)


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Group] = []

    def measure_two(
        group: Group, device: str, seconds: float, warmup: int
    ) -> tuple[list[Result], list[Failure]]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(group)
        return [result(cell, 1e-6) for cell in group.cells], []

    monkeypatch.setattr(run, "measure", measure_two)
    path = tmp_path / "a.csv"
    assert cli.main(["run", "--device", "cpu", "--csv", str(path)]) == INTERRUPTED
    assert [r.cell for r in read(path)[1]] == [cell for group in done for cell in group.cells]
    assert "Interrupted" in capsys.readouterr().out


def test_ctrl_c_before_the_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupted)
    path = tmp_path / "a.csv"
    assert cli.main([*RUN, str(path), "--sizes", "7"]) == INTERRUPTED
    assert "Nothing was measured" in capsys.readouterr().out
    with open_writer(path, ENVIRONMENT) as write:
        write(kernel_results())
    assert cli.main([*RUN, str(path), "--sizes", "7"]) == INTERRUPTED
    output = capsys.readouterr().out
    assert "Nothing was measured" in output
    assert ENVIRONMENT.device not in output  # the older file is no result of this run
    assert read(path) == (ENVIRONMENT, kernel_results())


def test_an_older_file_is_there_until_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    older, newer = kernel_results("forward"), kernel_results("backward", 7)
    with open_writer(path, ENVIRONMENT) as write:
        write(older)
    with open_writer(path, ENVIRONMENT) as write:
        write([])  # all failed
        assert read(path)[1] == older
        write(newer[:1])
        assert read(path)[1] == newer[:1]
        write(newer[1:])
        assert read(path)[1] == newer


def test_ctrl_c_after_enough_rounds_keeps_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of its cells that did not fail, and why the others did; nothing after it."""
    samples = Counter[Any]()

    def interrupted(statement: Statement) -> timing.Sampler:
        key = object()

        def sample() -> float:
            samples[key] += 1
            if samples[key] > 3:  # of a Group's min_rounds
                raise KeyboardInterrupt
            return 1e-6

        return sample

    def broken(inputs: Inputs) -> Statement:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("benchmarks.measure.sampler", interrupted)
    monkeypatch.setitem(providers._RECIPES, "relu", {"forward": broken})
    path = tmp_path / "a.csv"
    options = ["--directions", "forward", "--dtypes", "fp32", "--sizes", "7", "8"]
    names = ["--providers", "mish_cuda", "relu", "copy"]
    command = ["run", "--device", "cpu", "--seconds", "60", "--csv", str(path), *options, *names]
    assert cli.main(command) == INTERRUPTED
    rows = read(path)[1]
    assert [(r.cell.provider, r.cell.shape) for r in rows] == [("mish_cuda", (7,)), ("copy", (7,))]
    assert {r.timing for r in rows} == {Timing(3, 1e-6, 1e-6, 1e-6)}
    assert "relu forward fp32 7: RuntimeError: no compiler" in capsys.readouterr().out


def test_without_kernels_run_says_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mish_cuda.backend", lambda tensor: "eager")
    options = ["--sizes", "7", "-t", "fp32", "--providers", "mish_cuda"]
    assert cli.main([*RUN, str(tmp_path / "a.csv"), *options]) == 0
    assert "measuring its eager fallback" in " ".join(capsys.readouterr().out.split())


def test_environment_names_what_was_measured() -> None:
    environment = collect("cpu", "a command")
    assert environment.device
    assert environment.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert environment.torch in environment.summary()
    assert environment.driver == ""
    assert re.fullmatch(r"(\d+( of \d+)? MHz)?", environment.clock)


def test_environment_of_a_gpu_has_driver_and_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(uuid="1-2")
    asked = []

    def output(*command: str) -> str:
        asked.append(command)
        return "580.1, 345, 1980, 2619, 2619"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(environment, "_output_of", output)
    found = environment._driver_and_clocks("cuda")
    assert found == ("580.1", "SM 345 of 1980 MHz, memory 2619 of 2619 MHz")
    assert "--id=GPU-1-2" in asked[0]
    monkeypatch.setattr(environment, "_output_of", lambda *command: "")
    assert environment._driver_and_clocks("cuda") == ("", "")


@pytest.mark.parametrize(
    "command", [[], ["run"], ["models"], ["table"], ["compare"], ["plot"], ["report"]]
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command, "--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert "usage: python -m benchmarks" in output
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--device", "nowhere"], "expected cpu, cuda, cuda:N or N, got nowhere"),
        (["--device", "meta"], "expected cpu, cuda"),
        (["--sizes", "0"], "expected axes of 1 and more, got 0"),
        (["--shapes", "8x"], "expected elements or a shape"),
        (["--size", "(8;9)"], "expected elements or a shape"),
        (["--dtypes", "int8"], "expected one of fp32, bf16, fp16, fp64, got int8"),
        (["--providers", "mish"], "invalid choice: 'mish'"),
        (["--directions", "up"], "invalid choice: 'up'"),
        (["--preset", "vgg"], "invalid choice: 'vgg'"),
        (["--batch", "2"], "--batch: expected a --preset"),
        (["--threads", "two"], "expected a whole number above 0, got two"),
        (["--n_repeat", "0"], "expected a whole number above 0, got 0"),
        (["--seconds", "nan"], "expected seconds, got nan"),
        (["--only", "claims", "--sizes", "8"], "--only claims: expected no options"),
        (["--sizes", "8x1000000000000"], "8x1000000000000 in fp64 takes about"),
    ],
)
def test_wrong_options_are_refused_in_a_line(
    wrong: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", *wrong])
    assert exit_.value.code == 2
    usage, message = capsys.readouterr().err.splitlines()
    assert usage == "usage: python -m benchmarks run [options]"
    assert reason in message


@pytest.mark.parametrize(
    ("gpus", "text", "reason"),
    [
        (0, "cuda", "expected a GPU for cuda, but torch"),
        (0, "0", "expected a GPU for 0, but torch"),
        (2, "cuda:2", "expected one of 2 GPUs, got cuda:2"),
        (2, "1", None),
        (2, "cuda", None),
    ],
)
def test_gpus_that_are_not_here_are_refused(
    gpus: int, text: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if reason is None:
        assert arguments.device(text) == {"1": "cuda:1"}.get(text, text)
        return
    with pytest.raises(argparse.ArgumentTypeError, match=reason):
        arguments.device(text)


def test_claims_are_about_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit):
        cli.main(["run", "-d", "0", "--only", "claims"])
    assert "expected --device cpu" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(run, "measure")
    file = tmp_path / "a.csv"
    file.touch()
    for path, reason in (
        (tmp_path, "Is a directory"),
        (file / "b.csv", "Not a directory"),
    ):
        assert cli.main([*RUN, str(path), "--sizes", "7"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        expected = f"expected a file that can be written, got {path}: {reason}"
        assert line == f"python -m benchmarks: {expected}"


def test_a_missing_package_is_named_when_it_is_needed() -> None:
    """The command line itself loads none of them."""
    missing = dict.fromkeys(["rich", "matplotlib", "sklearn", "scipy", "jinja2", "numpy"])
    program = (
        f"import torch, sys; sys.modules.update({missing}); from benchmarks.cli import main; "
        f"sys.exit(main({[*RUN, 'x.csv', '--sizes', '7']}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # torch 2.11 says before it that it sees no CUDA, no numpy
    assert "expected the Python package rich" in line
    assert "[bench]" in line


# Timing and memory


def test_statements_are_timed_in_turn_with_their_threads() -> None:
    before = torch.get_num_threads()
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        seen.append((name, torch.get_num_threads()))

    names = {"note": note}
    statements = {
        "a": Statement("note('a')", names, threads=before + 1),
        "b": Statement("note('b')", names, threads=before + 2),
    }
    times, failed = take_turns(
        list(statements), lambda name: sampler(statements[name]), seconds=0, min_rounds=3
    )
    assert not failed
    assert [timing.rounds for timing in times.values()] == [3, 3]
    assert set(seen) == {("a", before + 1), ("b", before + 2)}
    assert torch.get_num_threads() == before


def test_an_interruption_keeps_complete_rounds_or_is_a_plain_one() -> None:
    def interrupted_in(last: int) -> tuple[Any, Any]:
        """Ctrl-C in that round of two keys; the third fails at once, the fourth in the second."""
        rounds = Counter[str]()

        def prepare(key: str) -> timing.Sampler:
            def sample() -> float:
                rounds[key] += 1
                if key == "d" and rounds[key] == 2:
                    raise RuntimeError("late")
                if rounds[key] == last:
                    raise KeyboardInterrupt
                return rounds[key]

            if key == "c":
                raise RuntimeError("early")
            return sample

        with pytest.raises(KeyboardInterrupt) as raised:
            take_turns("abcd", prepare, seconds=60, min_rounds=3)
        return getattr(raised.value, "kept", None)

    assert interrupted_in(3) is None
    times, failed = interrupted_in(4)
    assert times == dict.fromkeys("ab", quantiles([1, 2, 3]))
    assert failed == {"c": "RuntimeError: early", "d": "RuntimeError: late"}
    assert issubclass(Interrupted, KeyboardInterrupt)  # for those who do not catch it


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    x = torch.zeros(1000)

    def function() -> torch.Tensor:
        y = x + 1  # 4000 bytes, then 8000, then 4000, then 12,000
        z = y + 1
        del y
        return torch.cat([z, z])

    assert memory.peak(function, "cpu") == 12_000
    assert memory.peak(lambda: None, "cpu") == 0


def test_peak_memory_on_cuda_is_above_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: steps.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5000)
    assert memory.peak(lambda: steps.append("call"), "cuda") == 4000
    assert steps == ["synchronize", "reset", "call"]


def test_the_profiler_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    memory.peak(lambda: None, "cpu")
    assert capfd.readouterr() == ("", "")


def test_older_files_are_read(tmp_path: Path) -> None:
    """Without the columns that came later."""
    for path in (ROOT / "benchmarks/results").glob("*/*.csv"):
        if path.stem != "accuracy":
            facts, rows = read(path)
            assert rows
            assert facts is not None
    path = tmp_path / "a.csv"
    with open_writer(path, ENVIRONMENT) as write:
        write(kernel_results())
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    added = [lines[0].index(name) for name in ("network", "peak_bytes", "clock")]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [text for i, text in enumerate(line) if i not in added] for line in lines
        )
    assert read(path) == (dataclasses.replace(ENVIRONMENT, clock=""), kernel_results())


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("suite", "speed", "expected one of kernels, compiled, claims, gpu, models as suite"),
        ("direction", "sideways", "expected one of forward, .* as direction, got sideways"),
        ("dtype", "int8", "expected one of fp32, .* as dtype, got int8"),
        ("layout", "x[0]", "expected one of .* as layout, got x"),
        ("layout", "x.t()", "expected a shape and its numel in the layout x.t.., got 2x3x4 and 24"),
        ("layout", "x[:, 1:-1]", "got 2x3x4 and 24"),
        ("shape", "0", "expected a whole number from 1 on as an axis of shape, got 0"),
        ("shape", "2x-3", "as an axis of shape, got -3"),
        ("shape", "", "as an axis of shape, got "),
        ("shape", "2x3x5", "got 2x3x5 and 24"),
        ("threads", "0", "expected a whole number from 1 on as threads, got 0"),
        ("rounds", "many", "expected a whole number from 1 on as rounds, got many"),
        ("rounds", "0", "as rounds, got 0"),
        *(
            (column, text, f"expected seconds above 0 as {column}, got {text}")
            for column in ("median_s", "p20_s", "p80_s")
            for text in ("nan", "inf", "0", "-1", "fast", "")
        ),
        ("median_s", "9", "expected p20_s <= median_s <= p80_s, got 0.5, 9.0, 2.0"),
        ("p20_s", "1.5", "expected p20_s <= median_s <= p80_s, got 1.5, 1.0, 2.0"),
        ("peak_bytes", "-1", "expected a whole number from 0 on as peak_bytes, got -1"),
        ("peak_bytes", "1.5", "as peak_bytes, got 1.5"),
    ],
)
def test_a_damaged_row_is_refused(tmp_path: Path, column: str, text: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    cell = Cell("copy", "forward+backward", "fp32", (2, 3, 4))
    with open_writer(path, ENVIRONMENT) as write:
        write([dataclasses.replace(result(cell, 1.0), peak_bytes=0)] * 3)
    assert len(read(path)[1]) == 3
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1][column] = text
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(ValueError, match=rf"a\.csv is no benchmark file.*: line 3: .*{reason}"):
        read(path)


@pytest.mark.parametrize("end", [",more\n", "\n"])
def test_a_row_of_another_length_is_refused(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.csv"
    with open_writer(path, dataclasses.replace(ENVIRONMENT, clock="")) as write:
        write(kernel_results())
    text = path.read_text().removesuffix(",\n")
    path.write_text(text + ("," if "more" in end else "") + end)
    with pytest.raises(ValueError, match="line 11: expected a text for each column"):
        read(path)
