"""Files of results, tables of times, the verdicts on the claims, and ``compare``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rows import (
    BOTH,
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

ROWS = [
    row("mish_cuda", 1.5e-6, "forward out=", 4, 8, 6, layout="x.transpose(1, 2)", threads=2),
    row("relu", 1e-6, BOTH, peak=2**20),
    network("ReLU", "training step", 1.0, 2**30),
]


def test_rows_that_are_written_are_read_and_the_first_replace_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.csv"
    with results.open_writer(write(path, ROWS[:1]), "speed", FACTS) as add:
        add([])  # all failed
        assert list(read(path).provider) == ["mish_cuda"]
        add(ROWS[1:2])
        assert list(read(path).provider) == ["relu"]  # at once
        add([ROWS[2], ROWS[0]])
    (source,) = results.read([path, path])
    assert (source.kind, source.facts) == ("speed", FACTS)
    for (_, found), expected in zip(source.rows.iterrows(), ROWS[1:] + ROWS[:1], strict=True):
        for name, value in expected.items():
            if value != "":
                assert found[name] == (float(value) if name.endswith("_s") else value)
    assert source.rows.peak_bytes.isna().tolist() == [False, False, True]


def test_a_file_that_cannot_be_written_is_named_before_measuring(tmp_path: Path) -> None:
    told = refusal("run", "--device", "cpu", "--sizes", 8, "--csv", tmp_path)
    assert f"{tmp_path} cannot be written or read: Is a directory" in told


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.csv")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_committed_results_are_read(path: Path) -> None:
    assert len(read(path)) == len(pd.read_csv(path)) > 0
    assert "No table" not in printed("table", path, "--markdown")


def test_files_that_are_not_ours_or_damaged(tmp_path: Path) -> None:
    path, damaged = write(tmp_path / "good.csv", ROWS), tmp_path / "damaged.csv"
    text = path.read_text()
    for content, reason in {
        "a,b\n1,2\n": "it lacks the columns ",
        text.replace(",clock", ",o'clock"): "it lacks the columns clock\n",
        "\xff\xfe": "codec can't decode",
        text.partition("\n")[0]: "holds no rows",
        text[:-45]: "a line is cut off",
        f"{text[:-1]},more\n": "Expected 28 fields in line 4, saw 29",
        text.replace(",2,3,", ",2,many,"): "line 2: expected a number as rounds, got 'many'",
        text.replace(",9.9000e-07,", ",,"): "line 3: expected a number as p20_s, got ''",
    }.items():
        damaged.write_text(content, encoding="latin-1")
        told = refusal("table", path, damaged)
        assert told.startswith(f"python -m benchmarks table: {damaged} ")
        assert reason in told


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
    rows = [row("copy", 10e-6), row("naive", 140e-6), row("[/]", 1e-6, dtype="bf16", suite="gpu")]
    rows += [row("naive", 1.0, BOTH, n, peak=p) for n, p in ((512, 1), (1024, 5 * 4096))]
    path = write(tmp_path / "a.csv", rows)
    found = tables_of(path)
    lines = [["fp32", "65,536", "140 µs", "3.74", "0.07", ""], ["bf16", "65,536", "", "", "", ""]]
    assert found["forward, CPU threads: 1"] == lines
    assert found["peak memory of forward+backward"][0][:3] == ["fp32", "1,024", "5.0"]
    assert "a device" in printed("table", path)  # in the terminal


def claims_of(folder: Path, rows: list[Row], **facts: str) -> list[str]:
    """Lines of the table: claim, worst of, required, measured, whether it holds."""
    found = tables_of(write(folder / "a.csv", rows, **facts)).get("claims", [])
    return ["|".join(line) for line in found]


def test_claims_by_their_worst_ratio(tmp_path: Path) -> None:
    first = "65,536 fp32 forward||F.mish / ours >= 10"
    assert claims_of(tmp_path, pair(10, suite="claims")) == [f"{first}|10.000|yes"]
    assert claims_of(tmp_path, pair(10, suite="claims"), device="a GPU") == []  # it is about CPUs
    assert claims_of(tmp_path, pair(10, suite="claims")[:1]) == []
    # Only what was timed in turn is compared.
    rows = [*pair(9.9, suite="claims"), *pair(20, suite="kernels")]
    assert claims_of(tmp_path, rows) == [f"{first}|9.900|NO"]
    # Where ours may take longer, the largest is the worst.
    rows = [*pair(1, "forward", 1, suite="claims"), *pair(0.5, "forward", 16, suite="claims")]
    expected = "1 and 16, forward|2: forward fp32 16|ours / F.mish <= 1.4|2.000|NO"
    assert claims_of(tmp_path, rows) == [expected]
    # Of the cost of a call 0.2 us do not count: 5.2 / 5 and 5.3 / 5.
    for ours, ending in ((5.4e-6, "1.040|yes"), (5.5e-6, "1.060|NO")):
        times = {"mish_cuda": ours, "F.mish": 5e-6}
        rows = [row(name, time, "backward", 1, suite="launch") for name, time in times.items()]
        assert claims_of(tmp_path, rows, device="a GPU")[0].endswith(ending)


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


def compared(folder: Path, old: list[Row], new: list[Row], *options: str, status: int) -> str:
    files = write(folder / "old.csv", old), write(folder / "new.csv", new, device="another")
    return printed("compare", *files, "--markdown", *options, status=status)


def test_a_verdict_needs_the_threshold_and_spreads_apart(tmp_path: Path) -> None:
    """Each change in a row of its own, told by its size; the slowest and the fastest are first."""
    # The threshold itself; then slower, slower, faster; then spreads that overlap.
    changes = [(1.1, 0.01), (1.11, 0.01), (1.3, 0.1), (1 / 1.11, 0.01)]
    changes += [(1.2, 0.1), (1 / 1.2, 0.1), (100.0, 0.999)]
    spreads = [spread for _, spread in changes]
    old = [row("copy", 1.0, "forward", n, spread=s) for n, s in enumerate(spreads, 1)]
    new = [row("copy", r, "forward", n, spread=s) for n, (r, s) in enumerate(changes, 1)]
    output = compared(tmp_path, old, new, status=1)
    found = {title: lines for title, (_, *lines) in tables_in(output)}
    name = "kernels: copy forward fp32 "
    assert found == {
        "what differs": [["device", "a device", "another"]],
        "slower": [
            [f"{name}3", "1.00 s", "1.30 s", "1.30"],
            [f"{name}2", "1.00 s", "1.11 s", "1.11"],
        ],
        "faster": [[f"{name}4", "1.00 s", "901 ms", "0.90"]],
        "medians of all rows, by provider": [["copy", "7", "2", "1", "1.11"]],
    }
    assert "7 rows in both files: 2 slower and 1 faster by more than 10 %; 3 changed" in output


def test_a_row_is_compared_with_its_own_case_alone(tmp_path: Path) -> None:
    """Rows that differ in one of the columns, and what only one of the files has."""
    kinds = [{}, {"suite": "claims"}, {"dtype": "bf16"}, {"layout": "x.t()"}, {"threads": 2}]
    rows = [row("relu", n, "forward", 8, 128, **kind) for n, kind in enumerate(kinds, 1)]
    rows += [row("relu", 6.0, "forward", 1024), row("relu", 7.0, "backward", 1024)]
    rows += [row("F.mish", 8.0, "forward", 1024), network("F.mish", "inference", 9.0)]
    old, new = (row(name, 1.0, "backward", 64, dtype="fp16") for name in ("naive", "copy"))
    output = compared(tmp_path, [*rows, old], [*rows, new], "--threshold", "0", status=3)
    found = dict(tables_in(output))
    assert "9 rows in both files: 0 slower and 0 faster" in output
    assert found["only in the old file"][1:] == [
        ["kernels: naive backward fp16 64", "1.00 s", "", ""]
    ]
    assert found["only in the new file"][1:] == [
        ["kernels: copy backward fp16 64", "", "1.00 s", ""]
    ]
    assert "Not judged: naive." in output


def ours(seconds: float, size: int = 1024) -> Row:
    return row("mish_cuda", seconds, "forward", size)


def theirs(seconds: float) -> Row:
    return row("F.mish", seconds, "forward", 1024)


BASE = [ours(1.0), theirs(1.0)]


@pytest.mark.parametrize(
    ("old", "new", "options", "status"),
    [
        (BASE, [ours(0.5), theirs(1.0)], (), 0),
        ([ours(1.0)], [ours(1.3)], ("--threshold", "35"), 0),
        (BASE, [ours(1.0), theirs(2.0)], ("--providers", "mish_cuda"), 0),
        # No row of a provider can be judged, as where ours could not be measured.
        (BASE, [theirs(1.0)], (), 3),
        (BASE, [theirs(2.0)], (), 1),
        (BASE, [theirs(1.0), ours(1.0, 1)], (), 3),  # ours, but at none of the old sizes
        ([*BASE, ours(1.0, 2048)], BASE, (), 0),  # a part is enough
        ([ours(1.0)], [theirs(1.0)], (), 2),
    ],
)
def test_exit_status(
    old: list[Row], new: list[Row], options: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    output = compared(tmp_path, old, new, *options, status=status)
    assert ("none of these rows in common" in output) == (status == 2)


def test_a_file_of_another_kind_is_not_compared(tmp_path: Path) -> None:
    other = RESULTS / "epyc-avx512" / "accuracy.csv"
    assert "expected a file of speed" in refusal("compare", write(tmp_path / "a.csv", BASE), other)
