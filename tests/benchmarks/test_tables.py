"""Files of results, tables of times, the verdicts on the claims, and ``compare``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rows import (
    FACTS,
    RESULTS,
    Row,
    everything,
    network,
    pair,
    printed,
    read,
    refusal,
    row,
    tables_in,
    tables_of,
    write,
)

from benchmarks import results
from benchmarks.units import format_bytes, format_seconds
from project import ROOT

ROWS = [
    row("mish_cuda", 1.5e-6, "forward out=", 4, 8, 6, layout="x.transpose(1, 2)", threads=2),
    row("relu", 1e-6, "forward+backward", peak=2**20),
    network("ReLU", "training step", 1.0, 2**30),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "new folder" / "a.csv", ROWS)
    (source,) = results.read([path, path])
    assert (source.kind, source.facts) == ("speed", FACTS)
    for (_, found), expected in zip(source.rows.iterrows(), ROWS, strict=True):
        for name, value in expected.items():
            if value != "":
                assert found[name] == (float(value) if name.endswith("_s") else value)
    assert source.rows.peak_bytes.isna().tolist() == [True, False, False]


def test_rows_reach_the_file_at_once_and_the_first_replace_an_older_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    with results.open_writer(path, "speed", FACTS) as add:
        add([])  # all failed
        assert len(read(path)) == 3
        add(ROWS[1:2])
        assert list(read(path).provider) == ["relu"]
        add(ROWS[:1])
        assert list(read(path).provider) == ["relu", "mish_cuda"]


def test_a_file_that_cannot_be_written_is_named_before_measuring(tmp_path: Path) -> None:
    told = refusal("run", "--device", "cpu", "--sizes", 8, "--csv", tmp_path)
    assert f"{tmp_path} cannot be written or read: Is a directory" in told


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.csv")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_committed_results_are_read(path: Path) -> None:
    assert len(read(path)) == len(pd.read_csv(path)) > 0
    assert "No table" not in printed("table", path, "--markdown")


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    path, damaged = write(tmp_path / "good.csv", ROWS), tmp_path / "damaged.csv"
    text, none = path.read_text(), "is no file of results, or a damaged one: "
    cut = "is damaged: line 4: expected a text for each column"
    header = {"a,b\n1,2\n": none, "\xff\xfe": none, text.partition("\n")[0]: "holds no rows"}
    for content, reason in (header | {text[:-150]: cut, f"{text[:-1]},more\n": cut}).items():
        damaged.write_text(content, encoding="latin-1")
        assert f"{damaged} {reason}" in refusal("table", path, damaged)


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        *(("suite", ["speed"]), ("dtype", ["int8"]), ("direction", ["sideways"])),
        *(("layout", ["x[0]"]), ("shape", ["0", "2x-3", ""]), ("rounds", ["many", "0", "1.5"])),
        ("p80_s", ["nan", "inf", "0", "-1", "fast", ""]),
        *(("median_s", ["9"]), ("peak_bytes", ["-1", "1.5", "inf"])),  # 9: above p80
    ],
)
def test_a_damaged_row_is_refused(column: str, texts: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row("copy", 1.0, peak=0)] * 3)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    for text in texts:
        rows.loc[1, column] = text
        rows.to_csv(path, index=False)
        told = refusal("table", path)
        assert "a.csv is damaged: line 3: expected " in told
        assert column in told


def test_tables_of_everything(tmp_path: Path) -> None:
    """Times of 20, 250, 140 and 10 us; 2, 3 or 5 tensors of 4 * 65,536 bytes in 20 us."""
    found = tables_of(write(tmp_path / "a.csv", everything()))
    del found["claims"]
    assert {title: ["|".join(line) for line in lines] for title, lines in found.items()} == {
        "forward, CPU threads: 1": ["fp32|65,536|20.0 µs|26.2|12.5|7.00|0.50"],
        "backward, CPU threads: 1": ["fp32|65,536|20.0 µs|39.3|12.5|7.00|0.50"],
        "forward+backward, CPU threads: 1": ["fp32|65,536|20.0 µs|65.5|12.5|7.00|0.50"],
        "peak memory of forward+backward": ["fp32|65,536|2.0|5.0"],
        "torch.compile, forward+backward, CPU threads: 1": [
            f"fp32|1 M|{surrounding}|2.00 s|6.00 s|3.00x"
            for surrounding in ("f(x)", "f(2x) + 1", "relu(f(2x + 1) / 2 + x) x")
        ],
        "norm and Mish, forward+backward, CPU threads: 1": [
            "fp32|2x8x4|BatchNorm|1.00 s|3.00 s|9.00 s|3.00x|9.00x"
        ],
        "se_resnet18, input 8x3x32x32, fp32, CPU threads: 2": [
            "mish_cuda|800 ms|792 ms to 808 ms|1.25x|25%|3.00 MiB|20.0 ms|1.50x",
            "F.mish|1.00 s|990 ms to 1.01 s|1.00x|40%|1.00 GiB|30.0 ms|1.00x",
            "none|600 ms|594 ms to 606 ms|1.67x|0%|1.00 KiB||",
            "ReLU||||||500 ms|0.06x",
        ],
    }


def test_providers_that_are_missing_or_unknown(tmp_path: Path) -> None:
    """Without ours relative to the first. Of memory the largest input counts."""
    both = "forward+backward"
    rows = [row("copy", 10e-6), row("naive", 140e-6), row("[/]", 1e-6, dtype="bf16", suite="gpu")]
    rows += [row("naive", 1.0, both, n, peak=p) for n, p in ((512, 1), (1024, 5 * 4096))]
    path = write(tmp_path / "a.csv", rows)
    found = tables_of(path)
    lines = [["fp32", "65,536", "140 µs", "3.74", "0.07", ""], ["bf16", "65,536", "", "", "", ""]]
    assert found["forward, CPU threads: 1"] == lines
    assert found["peak memory of forward+backward"][0][:3] == ["fp32", "1,024", "5.0"]
    assert "a device" in printed("table", path)  # in the terminal


def test_figures_show_three_digits() -> None:
    times = {3.14e-9: "3.14 ns", 9.996e-7: "1.00 µs", 99.96e-6: "100 µs", 12.345e-3: "12.3 ms"}
    assert list(map(format_seconds, [*times, 2])) == [*times.values(), "2.00 s"]
    assert format_bytes(1000) == "0.98 KiB"


def claims_of(folder: Path, rows: list[Row], **facts: str) -> list[str]:
    """Lines of the table: claim, worst of, required, measured, whether it holds."""
    found = tables_of(write(folder / "a.csv", rows, **facts))["claims"]
    return ["|".join(line) for line in found]


def test_claims_by_their_worst_ratio(tmp_path: Path) -> None:
    first = "65,536 fp32 forward||F.mish / ours >= 10"
    assert claims_of(tmp_path, pair(10, suite="claims")) == [f"{first}|10.00|yes"]
    on_gpu = write(tmp_path / "gpu.csv", pair(10, suite="claims"), device="a GPU")
    assert "claims" not in tables_of(on_gpu)  # this one is about CPUs
    # Only what was timed in turn is compared.
    rows = [*pair(9.9, suite="claims"), *pair(20, suite="kernels")]
    assert claims_of(tmp_path, rows) == [f"{first}|9.90|NO"]
    # Where ours may take longer, the largest is the worst.
    rows = [*pair(1, "forward", 1, suite="claims"), *pair(0.5, "forward", 16, suite="claims")]
    expected = "1 and 16, forward|2: forward fp32 16|ours / F.mish <= 1.4|2.00|NO"
    assert claims_of(tmp_path, rows) == [expected]
    # Of the cost of a call 0.2 us do not count: 5.2 / 5 and 5.3 / 5.
    for ours, ending in ((5.4e-6, "1.04|yes"), (5.5e-6, "1.06|NO")):
        times = {"mish_cuda": ours, "F.mish": 5e-6}
        rows = [row(name, time, "backward", 1, suite="launch") for name, time in times.items()]
        assert claims_of(tmp_path, rows)[0].endswith(ending)
    # Half a claim is none.
    ours = write(tmp_path / "a.csv", pair(10, suite="claims")[:1])
    assert "No table shows these rows: 1 of " in printed("table", ours)


def test_claims_on_a_gpu_take_the_worst_large_size(tmp_path: Path) -> None:
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
    for gpu, ending in (("H100", ">= 1.25|1.500|yes"), ("GB200", ">= 1.8|1.500|NO")):
        title = "forward bf16, 16 M and more"
        assert claims_of(tmp_path, rows, device=f"NVIDIA {gpu}") == [
            f"{title}|2: forward bf16 16 M|fastest stream / ours >= 0.95|0.980|yes",
            f"{title}|2: forward bf16 64 M|F.mish / ours {ending}",
        ]


def ours(seconds: float, *shape: int, **rest: object) -> Row:
    return row("mish_cuda", seconds, "forward", *(shape or (1024,)), **rest)


def theirs(seconds: float, **rest: object) -> Row:
    return row("F.mish", seconds, "forward", 1024, **rest)


BASE = [ours(1.0), theirs(1.0)]


def test_a_verdict_needs_the_threshold_and_spreads_apart(tmp_path: Path) -> None:
    """Each change in a row of its own, told by its size; the slowest and the fastest are first."""
    # The threshold itself; then slower, slower, faster; then spreads that overlap.
    changes = [(1.1, 0.01), (1.11, 0.01), (1.3, 0.1), (1 / 1.11, 0.01)]
    changes += [(1.2, 0.1), (1 / 1.2, 0.1), (100.0, 0.999)]
    old = [ours(1.0, n, spread=spread) for n, (_, spread) in enumerate(changes, 1)]
    new = [ours(ratio, n, spread=spread) for n, (ratio, spread) in enumerate(changes, 1)]
    files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new, device="another")
    output = printed("compare", *files, "--markdown", status=1)
    found = dict(tables_in(output))
    assert found["what differs"][1:] == [["device", "a device", "another"]]
    name = "kernels: mish_cuda forward fp32 "
    slower = [[f"{name}3", "1.00 s", "1.30 s", "1.30"], [f"{name}2", "1.00 s", "1.11 s", "1.11"]]
    assert found["slower"][1:] == slower
    assert found["faster"][1:] == [[f"{name}4", "1.00 s", "901 ms", "0.90"]]
    assert found["medians of all rows, by provider"][1:] == [["mish_cuda", "7", "2", "1", "1.11"]]
    assert "7 rows in both files: 2 slower and 1 faster by more than 10 %; 3 changed" in output


def test_a_row_is_compared_with_its_own_case_alone(tmp_path: Path) -> None:
    """Rows that differ in one of the columns, and what only one of the files has."""
    rows = [
        *(ours(1.0), ours(2.0, suite="claims"), ours(3.0, dtype="bf16"), theirs(4.0)),
        *(ours(5.0, 8, 128), ours(6.0, 8, 128, layout="x.t()"), ours(7.0, threads=2)),
        *(network("mish_cuda", "inference", 8.0), network("mish_cuda", "training step", 9.0)),
    ]
    old = write(tmp_path / "old.csv", [*rows, row("naive", 1.0, "backward", 64, dtype="fp16")])
    new = write(tmp_path / "new.csv", [*rows, row("copy", 1.0, "forward", 64)])
    output = printed("compare", old, new, "--markdown", "--threshold", 0, status=3)
    found = dict(tables_in(output))
    assert "9 rows in both files: 0 slower and 0 faster" in output
    assert found["only in the old file"][1:] == [["kernels: naive backward", "fp16 64"]]
    assert found["only in the new file"][1:] == [["kernels: copy forward", "fp32 64"]]
    assert "Not judged: naive." in output


@pytest.mark.parametrize(
    ("old", "new", "options", "status"),
    [
        (BASE, [ours(0.5), theirs(1.0)], "", 0),
        ([ours(1.0)], [ours(1.3)], "--threshold 35%", 0),
        (BASE, [ours(1.0), theirs(2.0)], "--providers mish_cuda", 0),
        # No row of a provider can be judged, as where ours could not be measured.
        (BASE, [theirs(1.0)], "", 3),
        (BASE, [theirs(2.0)], "", 1),
        (BASE, [theirs(1.0), ours(1.0, 1)], "", 3),  # ours, but at none of the old sizes
        ([*BASE, ours(1.0, 2048)], BASE, "", 0),  # a part is enough
    ],
)
def test_exit_status(
    old: list[Row], new: list[Row], options: str, status: int, tmp_path: Path
) -> None:
    files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new)
    printed("compare", *files, *options.split(), status=status)


def test_files_that_cannot_be_compared(tmp_path: Path) -> None:
    old = write(tmp_path / "old.csv", [ours(1.0)])
    other = write(tmp_path / "other.csv", [theirs(1.0)])
    for new, reason in (
        ([ROOT / "benchmarks/results/epyc-avx512/accuracy.csv"], "expected a file of speed"),
        ([other], "have no row in common"),
    ):
        assert reason in refusal("compare", old, *new)
