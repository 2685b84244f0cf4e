"""Tables of times and claims, in the terminal and in Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rows import FACTS, Row, frame, main, network, pair, row, write

from benchmarks import claims, display, speeds
from benchmarks.cases import PROVIDERS, Case, compiled_provider, norm_provider
from benchmarks.display import Table
from benchmarks.units import format_bytes, format_seconds

SECONDS = (20e-6, 250e-6, 140e-6, 180e-6, 100e-6, 30e-6, 25e-6, 50e-6, 15e-6, 16e-6, 10e-6)
MEDIANS = dict(zip(PROVIDERS, SECONDS, strict=True))
OURS_AND_THEIRS = {"F.mish": 6.0, "mish_cuda": 2.0}
BLOCK_TIMES = {"one op": 1.0, "mish_cuda": 4.0, "F.mish": 10.0}


def kernels(
    direction: str = "forward", *shape: int, names: tuple[str, ...] = PROVIDERS
) -> list[Row]:
    return [row(name, MEDIANS[name], direction, *shape) for name in names]


def test_figures_show_three_digits() -> None:
    times = {3.14e-9: "3.14 ns", 9.996e-7: "1.00 µs", 99.96e-6: "100 µs", 12.345e-3: "12.3 ms"}
    assert list(map(format_seconds, [*times, 2])) == [*times.values(), "2.00 s"]
    assert format_bytes(1000) == "0.98 KiB"


def under(name: str, seconds: float, suite: str) -> Row:
    shape = (16, 64, 32, 32) if suite == "norms" else (2**20,)
    return row(name, seconds, "forward+backward", *shape, suite=suite)


STEP, BOTH = "training step", "forward+backward"


FORWARD = "forward, CPU threads: 1"
TABLES: list[tuple[str, list[Row], str]] = [
    # 2 * 4 * 65,536 bytes in 20 us; then the medians above over 20 us.
    (
        FORWARD,
        [*kernels(), *kernels("forward", 2, 64, 112, 112, names=("mish_cuda",))],
        """\
fp32|65,536|20.0 µs|26.2|12.5|7.00|9.00|5.00|1.50|1.25|2.50|0.75|0.80|0.50
fp32|2x64x112x112|20.0 µs|642||||||||||""",
    ),
    # Without ours relative to the first.
    (
        FORWARD,
        kernels(names=("F.silu", "copy", "naive")),
        "dtype|input|naive|GB/s|silu|copy\nfp32|65,536|140 µs|3.74|0.18|0.07",
    ),
    # What failed is empty, and unknown providers are last.
    (
        FORWARD,
        [*kernels(names=("mish_cuda", "copy")), row("[/]", 1e-6, "forward", 512, suite="gpu")],
        "dtype|input|ours|GB/s|copy|[/]\nfp32|512||||\nfp32|65,536|20.0 µs|26.2|0.50|",
    ),
    # In sizes of the largest input.
    (
        "peak memory of forward+backward",
        [
            row("mish_cuda", 1.0, BOTH, 512, peak=1),
            row("mish_cuda", 1.0, BOTH, 1024, peak=2 * 4096),
            row("naive", 1.0, BOTH, 1024, peak=5 * 4096),
        ],
        "dtype|input|ours|naive\nfp32|1,024|2.0|5.0",
    ),
    (
        "torch.compile, forward+backward, CPU threads: 1",
        [under(compiled_provider(n), s, "compiled") for n, s in OURS_AND_THEIRS.items()],
        "fp32|1 M|f(x)|2.00 s|6.00 s|3.00x",
    ),
    (
        "torch.compile, forward+backward, CPU threads: 1",
        [under(compiled_provider("F.mish"), 6.0, "compiled")],
        "fp32|1 M|f(x)||6.00 s|",
    ),
    (
        "norm and Mish, forward+backward, CPU threads: 1",
        [under(norm_provider("BatchNorm", block), s, "norms") for block, s in BLOCK_TIMES.items()],
        "fp32|16x64x32x32|BatchNorm|1.00 s|4.00 s|10.0 s|4.00x|10.00x",
    ),
    (
        "se_resnet18, input 8x3x32x32, fp32, CPU threads: 2",
        [
            network("mish_cuda", STEP, 0.8, 3 * 2**20),
            network("F.mish", STEP, 1.0, 2**30),
            network("none", STEP, 0.6, 1024),
            network("mish_cuda", "inference", 0.02),
            network("F.mish", "inference", 0.03),
            network("ReLU", "inference", 0.5),
        ],
        """\
mish_cuda|800 ms|792 ms to 808 ms|1.25x|25%|3.00 MiB|20.0 ms|1.50x
F.mish|1.00 s|990 ms to 1.01 s|1.00x|40%|1.00 GiB|30.0 ms|1.00x
none|600 ms|594 ms to 606 ms|1.67x|0%|1.00 KiB||
ReLU||||||500 ms|0.06x""",
    ),
]


@pytest.mark.parametrize(("title", "rows", "lines"), TABLES)
def test_tables(title: str, rows: list[Row], lines: str) -> None:
    found = speeds.tables(frame(rows))
    table = next(table.frame for table in found if table.title == title)
    header, *body = map("|".join, (table.columns, *table.to_numpy()))
    assert lines.splitlines() in (body, [header, *body])


def case_row(case: Case, seconds: float, suite: str = "claims") -> Row:
    return {**row("relu", seconds), **case.row(), "suite": suite}


def test_a_claim_is_as_good_as_its_worst_ratio_of_its_own_suite() -> None:
    claim = next(claim for claim in claims.CLAIMS if claim.at_most)
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
        row("naive", 1e-6, "forward", 2**24, **bf16),  # no rival of a claim
        # The stream to beat is the fastest at each size.
        row("triton", 0.98e-3, "forward", 2**24, **bf16),
        row("copy", 1.2e-3, "forward", 2**24, **bf16),
        row("copy", 1.1e-3, "forward", 2**26, **bf16),
    ]
    for gpu, bound in {"NVIDIA H100": "1.25", "NVIDIA H200": "1.8", "NVIDIA GB200": "1.8"}.items():
        stream, verdict = claims.judge(frame(rows).assign(device=gpu))
        assert (verdict.required, verdict.measured) == (f"F.mish / ours >= {bound}", "1.500")
        assert verdict.ok == (bound == "1.25")
        assert stream.required == "fastest stream / ours >= 0.95"
        assert (stream.measured, stream.ok, stream.note) == ("0.980", True, "2: forward bf16 16 M")


@pytest.mark.parametrize(("ours", "ok"), [(5.4e-6, True), (5.5e-6, False)])
def test_a_call_may_cost_little_more_than_theirs(ours: float, ok: bool) -> None:
    times = {"mish_cuda": ours, "F.mish": 5e-6}
    rows = [row(name, s, "backward", 1, suite="launch") for name, s in times.items()]
    (verdict,) = claims.judge(frame(rows))
    assert (verdict.subject, verdict.ok) == ("cost of a call, backward", ok)


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_table_prints_claims_or_counts_rows_that_no_table_has(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = claims.CLAIMS[0]
    (rival,) = claim.rivals_of(claim.cases[0])
    rows = [case_row(rival, 12e-6), case_row(claim.cases[0], 1e-6)]
    for count, found in ((1, "No table shows these rows: 1 of "), (2, "12.00")):
        path = write(tmp_path / "a.csv", rows[:count])
        assert main("table", path, *options) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert found in output
        assert ("No table" in output) == (count == 1)
        assert FACTS["device"] in output


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
