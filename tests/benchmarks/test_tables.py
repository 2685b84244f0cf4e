"""Figures, ratios and units of the tables of times, and the verdicts on the claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import BOTH, FACTS, Capture, Row, network, pair, printed, row, tables_of, write

from benchmarks.cases import PROVIDERS, compiled_provider, norm_provider
from benchmarks.units import format_bytes, format_seconds

SECONDS = (20e-6, 250e-6, 140e-6, 180e-6, 100e-6, 30e-6, 25e-6, 50e-6, 15e-6, 16e-6, 10e-6)
MEDIANS = dict(zip(PROVIDERS, SECONDS, strict=True))
STEP = "training step"
Rows = list[Row]


def kernels(*shape: int, names: tuple[str, ...] = PROVIDERS, direction: str = "forward") -> Rows:
    return [row(name, MEDIANS[name], direction, *shape) for name in names]


TABLES: list[tuple[str, Rows, str]] = [
    # 2 * 4 * 65,536 bytes in 20 us; then the medians above over 20 us. The last one is unknown.
    (
        "forward, CPU threads: 1",
        [
            *kernels(),
            *kernels(2, 64, 112, 112, names=("mish_cuda",)),
            row("[/]", 1e-6, suite="gpu", dtype="bf16"),
        ],
        """\
fp32|65,536|20.0 µs|26.2|12.5|7.00|9.00|5.00|1.50|1.25|2.50|0.75|0.80|0.50|
fp32|2x64x112x112|20.0 µs|642|||||||||||
bf16|65,536|||||||||||||""",
    ),
    # Without ours relative to the first; three tensors are moved.
    (
        "backward, CPU threads: 1",
        kernels(names=("F.silu", "copy", "naive"), direction="backward"),
        "fp32|65,536|140 µs|5.62|0.18|0.07",
    ),
    # In sizes of the largest input.
    (
        "peak memory of forward+backward",
        [
            row("mish_cuda", 1.0, BOTH, 512, peak=1),
            row("mish_cuda", 1.0, BOTH, 1024, peak=2 * 4096),
            row("naive", 1.0, BOTH, 1024, peak=5 * 4096),
        ],
        "fp32|1,024|2.0|5.0",
    ),
    (
        "torch.compile, forward+backward, CPU threads: 1",
        [
            row(compiled_provider(name), seconds, BOTH, 2**20, suite="compiled")
            for name, seconds in {"F.mish": 6.0, "mish_cuda": 2.0}.items()
        ],
        "fp32|1 M|f(x)|2.00 s|6.00 s|3.00x",
    ),
    (
        "norm and Mish, forward+backward, CPU threads: 1",
        [
            row(norm_provider("BatchNorm", block), seconds, BOTH, 16, 64, 32, 32, suite="norms")
            for block, seconds in {"one op": 1.0, "mish_cuda": 4.0, "F.mish": 10.0}.items()
        ],
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
def test_tables(title: str, rows: Rows, lines: str, tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "a.csv", rows)
    assert ["|".join(line) for line in tables_of(capsys, path)[title]] == lines.splitlines()
    assert FACTS["device"] in printed(capsys, "table", path)  # in the terminal, with its "[/]"


def test_figures_show_three_digits() -> None:
    times = {3.14e-9: "3.14 ns", 9.996e-7: "1.00 µs", 99.96e-6: "100 µs", 12.345e-3: "12.3 ms"}
    assert list(map(format_seconds, [*times, 2])) == [*times.values(), "2.00 s"]
    assert format_bytes(1000) == "0.98 KiB"


def test_sizes_choose_from_the_rows(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "a.csv", [*kernels(), *kernels(512), *kernels(2**20)])
    ((_, lines),) = tables_of(capsys, path, "--sizes", 65_536).items()
    assert [line[:2] for line in lines] == [["fp32", "65,536"]]


CALL = "ours / F.mish <= 1.05, 0.2 µs not counted"


def call(ours: float) -> Rows:
    times = {"mish_cuda": ours, "F.mish": 5e-6}
    return [row(name, seconds, "backward", 1, suite="launch") for name, seconds in times.items()]


CPU_CLAIMS: list[tuple[Rows, list[str]]] = [
    # The bound itself is kept.
    (pair(10, suite="claims"), ["65,536 fp32 forward", "", "F.mish / ours >= 10", "10.00", "yes"]),
    # Only what was timed in turn is compared.
    (
        [*pair(9.9, suite="claims"), *pair(20, suite="kernels")],
        ["65,536 fp32 forward", "", "F.mish / ours >= 10", "9.90", "NO"],
    ),
    # The worst of several ratios; where ours may take longer, the largest.
    (
        [*pair(1, "forward", 1, suite="claims"), *pair(0.5, "forward", 16, suite="claims")],
        ["1 and 16, forward", "2: forward fp32 16", "ours / F.mish <= 1.4", "2.00", "NO"],
    ),
    # Of the cost of a call 0.2 us do not count: 5.2 / 5 and 5.3 / 5.
    (call(5.4e-6), ["cost of a call, backward", "", CALL, "1.04", "yes"]),
    (call(5.5e-6), ["cost of a call, backward", "", CALL, "1.06", "NO"]),
]


@pytest.mark.parametrize(("rows", "verdict"), CPU_CLAIMS)
def test_claims(rows: Rows, verdict: list[str], tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "a.csv", rows)
    assert tables_of(capsys, path)["claims"] == [verdict]


def test_half_a_claim_is_none(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "a.csv", pair(10, suite="claims")[:1])
    assert "No table shows these rows: 1 of " in printed(capsys, "table", path)


@pytest.mark.parametrize(
    ("gpu", "bound", "ok"),
    [("NVIDIA H100", "1.25", "yes"), ("NVIDIA H200", "1.8", "NO"), ("NVIDIA GB200", "1.8", "NO")],
)
def test_claims_on_a_gpu_take_the_worst_large_size(
    gpu: str, bound: str, ok: str, tmp_path: Path, capsys: Capture
) -> None:
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
    path = write(tmp_path / "a.csv", rows, device=gpu)
    title = "forward bf16, 16 M and more"
    assert tables_of(capsys, path)["claims"] == [
        [title, "2: forward bf16 16 M", "fastest stream / ours >= 0.95", "0.980", "yes"],
        [title, "2: forward bf16 64 M", f"F.mish / ours >= {bound}", "1.500", ok],
    ]
