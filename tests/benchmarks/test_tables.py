"""Tables of times and claims, in the terminal and in Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rows import FACTS, Row, frame, main, network, pair, row, write

from benchmarks import claims, display, speeds
from benchmarks.cases import (
    KERNEL_DIRECTIONS,
    KERNEL_PROVIDERS,
    PROVIDERS,
    Case,
    compiled_provider,
    norm_provider,
)
from benchmarks.display import Table
from benchmarks.units import format_bytes, format_seconds

MEDIANS = dict(
    zip(PROVIDERS, (20e-6, 250e-6, 140e-6, 180e-6, 100e-6, 30e-6, 25e-6, 50e-6), strict=False)
) | {"relu": 15e-6, "triton": 16e-6, "copy": 10e-6}


def kernels(
    direction: str = "forward", *shape: int, names: tuple[str, ...] = PROVIDERS
) -> list[Row]:
    return [row(name, MEDIANS[name], direction, *shape) for name in names]


def tables(rows: list[Row]) -> list[tuple[str, list[list[str]]]]:
    """Title and lines of each table."""
    return [(t.title, t.frame.to_numpy().tolist()) for t in speeds.tables(frame(rows))]


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
    assert format_seconds(seconds) == text
    assert format_bytes(1000) == "0.98 KiB"


def test_kernels_show_the_time_of_ours_and_multiples_of_it() -> None:
    ((title, lines),) = tables([*kernels(), *kernels("forward", 2, 64, 112, 112)])
    assert title == "forward, CPU threads: 1"
    # 2 * 4 * 65,536 bytes in 20 us; then the medians above over 20 us.
    ratios = ["12.5", "7.00", "9.00", "5.00", "1.50", "1.25", "2.50", "0.75", "0.80", "0.50"]
    assert lines[0] == ["fp32", "65,536", "20.0 µs", "26.2", *ratios]
    assert lines[1][:3] == ["fp32", "2x64x112x112", "20.0 µs"]


def test_without_ours_times_are_relative_to_the_first() -> None:
    (table,) = speeds.tables(frame(kernels(names=("F.silu", "copy", "naive"))))
    assert list(table.frame) == ["dtype", "input", "naive", "GB/s", "silu", "copy"]
    assert table.frame.to_numpy().tolist() == [["fp32", "65,536", "140 µs", "3.74", "0.18", "0.07"]]


def test_what_failed_is_empty_and_unknown_providers_are_last() -> None:
    rows = [*kernels(names=("mish_cuda", "copy")), row("[/]", 1e-6, "forward", 512, suite="gpu")]
    (table,) = speeds.tables(frame(rows))
    assert list(table.frame)[2:] == ["ours", "GB/s", "copy", "[/]"]
    assert table.frame.to_numpy().tolist() == [
        ["fp32", "512", "", "", "", ""],
        ["fp32", "65,536", "20.0 µs", "26.2", "0.50", ""],
    ]


def test_memory_is_in_sizes_of_the_largest_input() -> None:
    both = "forward+backward"
    rows = [
        row("mish_cuda", 1.0, both, 512, peak=1),
        row("mish_cuda", 1.0, both, 1024, peak=2 * 4096),
        row("naive", 1.0, both, 1024, peak=5 * 4096),
    ]
    assert tables(rows)[-1] == (
        "peak memory of forward+backward",
        [["fp32", "1,024", "2.0", "5.0"]],
    )


def test_speed_up_under_torch_compile() -> None:
    seconds = {"F.mish": 6.0, "mish_cuda": 2.0}
    rows = [
        row(compiled_provider(name), time, "forward+backward", 2**20, suite="compiled")
        for name, time in seconds.items()
    ]
    (_, lines), (_, judged) = tables(rows)
    assert lines == [["fp32", "1 M", "f(x)", "2.00 s", "6.00 s", "3.00x"]]
    assert [cells[-2:] for cells in judged] == [["3.00", "NO"]]
    ((_, lines),) = tables(rows[:1])
    assert lines == [["fp32", "1 M", "f(x)", "", "6.00 s", ""]]


def test_norms_with_mish_are_compared_with_two_layers() -> None:
    times = {"one op": 1.0, "mish_cuda": 4.0, "F.mish": 10.0}
    rows = [
        row(
            norm_provider("BatchNorm", block),
            time,
            "forward+backward",
            16,
            64,
            32,
            32,
            suite="norms",
        )
        for block, time in times.items()
    ]
    (title, lines), (_, judged) = tables(rows)
    assert title == "norm and Mish, forward+backward, CPU threads: 1"
    line = "fp32|16x64x32x32|BatchNorm|1.00 s|4.00 s|10.0 s|4.00x|10.00x"
    assert ["|".join(cells) for cells in lines] == [line]
    assert [cells[-2:] for cells in judged] == [["4.00", "yes"], ["10.00", "yes"]]


def test_networks_show_what_the_activations_take() -> None:
    rows = [
        network("mish_cuda", "training step", 0.8, 3 * 2**20),
        network("F.mish", "training step", 1.0, 2**30),
        network("none", "training step", 0.6, 1024),
        network("mish_cuda", "inference", 0.02),
        network("F.mish", "inference", 0.03),
        network("ReLU", "inference", 0.5),
    ]
    ((title, lines),) = tables(rows)
    assert title == "se_resnet18, input 8x3x32x32, fp32, CPU threads: 2"
    assert ["|".join(line) for line in lines] == [
        "mish_cuda|800 ms|792 ms to 808 ms|1.25x|25%|3.00 MiB|20.0 ms|1.50x",
        "F.mish|1.00 s|990 ms to 1.01 s|1.00x|40%|1.00 GiB|30.0 ms|1.00x",
        "none|600 ms|594 ms to 606 ms|1.67x|0%|1.00 KiB||",
        "ReLU||||||500 ms|0.06x",
    ]


def case_row(case: Case, seconds: float, suite: str = "claims") -> Row:
    return {**row("relu", seconds), **case.row(), "suite": suite}


def test_a_claim_is_as_good_as_its_worst_ratio_of_its_own_suite() -> None:
    claim = next(claim for claim in claims.CPU_CLAIMS if claim.at_most)
    first, second = claim.cases[:2]
    (rival,), (other,) = claim.rivals_of(first), claim.rivals_of(second)
    rows = [
        case_row(first, 9.0, "kernels"),  # timed beside others
        *(case_row(first, 1.0), case_row(rival, 1.0)),
        *(case_row(second, 2.0), case_row(other, 1.0)),
    ]
    (verdict,) = claims.judge(frame(rows))
    assert (verdict.subject, verdict.measured, verdict.ok) == (claim.title, "2.00", False)
    assert verdict.note == f"2: {replace(second, provider='')}"
    (verdict,) = claims.judge(frame(rows[1:3]))
    assert (verdict.measured, verdict.ok) == ("1.00", True)
    assert claims.judge(frame(rows[:2])) == []


def test_claims_on_a_gpu_take_the_worst_large_size() -> None:
    bf16 = {"dtype": "bf16", "suite": "gpu"}
    rows = [
        *pair(1.9, "forward", 2**24, **bf16),
        *pair(1.5, "forward", 2**26, **bf16),
        *pair(0.1, "forward", 2**20, **bf16),
        row("naive", 1e-6, "forward", 2**24, **bf16),
    ]
    for gpu, bound in {"NVIDIA H100": "1.25", "NVIDIA H200": "1.8", "NVIDIA GB200": "1.8"}.items():
        (verdict,) = claims.judge(frame(rows).assign(device=gpu))
        assert (verdict.required, verdict.measured) == (f"F.mish / ours >= {bound}", "1.500")
        assert verdict.ok == (bound == "1.25")
    # The stream to beat is the fastest at each size.
    rows += [
        row("triton", 0.98e-3, "forward", 2**24, **bf16),
        row("copy", 1.2e-3, "forward", 2**24, **bf16),
        row("copy", 1.1e-3, "forward", 2**26, **bf16),
    ]
    stream = next(v for v in claims.judge(frame(rows)) if "stream" in v.required)
    assert (stream.measured, stream.ok, stream.note) == ("0.980", True, "2: forward bf16 16 M")


@pytest.mark.parametrize(("ours", "ok"), [(5.4e-6, True), (5.5e-6, False)])
def test_a_call_may_cost_little_more_than_theirs(ours: float, ok: bool) -> None:
    times = {"mish_cuda": ours, "F.mish": 5e-6}
    rows = [row(name, s, "backward", 1, suite="launch") for name, s in times.items()]
    (verdict,) = claims.judge(frame(rows))
    assert (verdict.subject, verdict.ok) == ("cost of a call, backward", ok)


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_rows_that_no_table_has_are_counted(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = claims.CPU_CLAIMS[0]
    (rival,) = claim.rivals_of(claim.cases[0])
    over, under = case_row(rival, 12e-6), case_row(claim.cases[0], 1e-6)
    path = write(tmp_path / "a.csv", [over])
    assert main("table", path, *options) == 0
    assert "No table shows these rows: 1 of " in " ".join(capsys.readouterr().out.split())
    write(path, [over, under])
    assert main("table", path, *options) == 0
    output = capsys.readouterr().out
    assert "12.00" in output
    assert "No table" not in output
    assert FACTS["device"] in output


def test_markdown_has_the_same_rows_and_sizes_choose_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*kernels(), *kernels("forward", 512), *kernels("backward", 2**20)]
    path = write(tmp_path / "a.csv", rows)
    assert main("table", path, "--markdown", "--sizes", "65536") == 0
    text = capsys.readouterr().out
    assert "### forward, CPU threads: 1" in text
    assert "| fp32 | 65,536 | 20.0 µs | 26.2 | 12.5 |" in text
    assert "backward, CPU" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1


def test_tables_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        r for d in KERNEL_DIRECTIONS for r in kernels(d, 8, 512, 112, 112, names=KERNEL_PROVIDERS)
    ]
    display.show(speeds.tables(frame(rows)), display.Console(width=200, no_color=True))
    table = [line for line in capsys.readouterr().out.splitlines() if "8x512" in line]
    assert len(table) == 3
    assert max(map(len, table)) <= 80


def test_text_of_a_file_has_no_meaning() -> None:
    table = Table("[b]x[/]", display.frame(("", "x|y"), [("[/]", "<b>*&`")]), "a note")
    text = display.markdown([table, table])
    assert text.count("a note") == 1
    assert r"| \[/\] | \<b\>\*\&\` |" in text
    console = display.Console(width=80, no_color=True)
    with console.capture() as capture:
        display.show([table], console)
    for part in ("[b]x[/]", "[/]", "<b>*&`"):
        assert part in capture.get()
