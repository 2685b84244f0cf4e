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
    frame,
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
from benchmarks.compare import judge

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
    """Beside the fastest stream of each size, which naive Mish is not."""
    times = {
        2**20: {"F.mish": 0.1e-3},
        2**24: {"F.mish": 1.9e-3, "naive": 1e-6, "triton": 0.98e-3, "copy": 1.2e-3},
        2**26: {"F.mish": 1.5e-3, "copy": 1.1e-3},
    }
    rows = [
        row(name, seconds, "forward", size, dtype="bf16", suite="gpu")
        for size, others in times.items()
        for name, seconds in {"mish_cuda": 1e-3, **others}.items()
    ]
    for gpu, ending in (("H100", ">= 1.25|1.500|yes"), ("GB200", ">= 1.8|1.500|NO")):
        title = "forward bf16, 16 M and more"
        assert claims_of(tmp_path, rows, device=f"NVIDIA {gpu}") == [
            f"{title}|2: forward bf16 16 M|fastest stream / ours >= 0.95|0.980|yes",
            f"{title}|2: forward bf16 64 M|F.mish / ours {ending}",
        ]


def test_a_change_needs_the_threshold_and_spreads_apart() -> None:
    """The new time over the old one, the spread of both, and what is said of it."""
    known = [(1.1, 0.01, "same"), (1.11, 0.01, "slower"), (1 / 1.11, 0.01, "faster")]
    known += [(1.3, 0.1, "slower"), (1.2, 0.1, "unclear"), (1 / 1.2, 0.1, "unclear")]
    known += [(100.0, 0.999, "unclear")]
    old = [row("copy", 1.0, "forward", n, spread=known[n - 1][1]) for n in range(1, 8)]
    new = [row("copy", r, "forward", n, spread=s) for n, (r, s, _) in enumerate(known, 1)]
    assert list(judge(frame(old), frame(new), 0.1).change) == [change for *_, change in known]


def test_a_row_is_compared_with_its_own_case_alone() -> None:
    """Rows that differ in one of the columns, and one that only one of the files has."""
    kinds = [{}, {"suite": "claims"}, {"dtype": "bf16"}, {"layout": "x.t()"}, {"threads": 2}]
    rows = [row("relu", n, "forward", 8, 128, **kind) for n, kind in enumerate(kinds, 1)]
    rows += [row("relu", 6.0, "forward", 1024), row("relu", 7.0, "backward", 1024)]
    rows += [row("F.mish", 8.0, "forward", 1024), network("F.mish", "inference", 9.0)]
    found = judge(frame([*rows, row("naive", 1.0)]), frame([*rows, row("copy", 1.0)]), 0)
    expected = {"same": 9, "only in the old file": 1, "only in the new file": 1}
    assert found.change.value_counts().to_dict() == expected


def timed(**seconds: float) -> list[Row]:
    """A row of each provider."""
    return [row(name, each, "forward", 1024) for name, each in seconds.items()]


def test_exit_status_of_compare(tmp_path: Path) -> None:
    both = timed(relu=1, copy=1)
    for old, new, options, status in (
        (both, timed(relu=0.5, copy=1), "", 0),
        (both, timed(relu=1, copy=1.3), "--threshold 35", 0),
        (both, timed(relu=1, copy=1.3), "--providers relu", 0),
        (both, timed(copy=1.3), "", 1),
        # No row of a provider can be judged, as where it could not be measured.
        (both, timed(copy=1), "", 3),
        (both, [row("relu", 1, "forward", 1), *timed(copy=1)], "", 3),
        ([row("relu", 1, "forward", 1), *both], both, "", 0),  # a part is enough
        (timed(relu=1), timed(copy=1), "", 2),
    ):
        files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new)
        printed("compare", *files, *options.split(), status=status)


def test_what_compare_prints(tmp_path: Path) -> None:
    """The slowest and the fastest first."""
    old = write(tmp_path / "old.csv", timed(relu=1, copy=1, naive=1, triton=1))
    rows = [*timed(relu=1.2, copy=1.3, naive=0.5), row("F.silu", 1)]
    new = write(tmp_path / "new.csv", rows, device="another")
    output = printed("compare", old, new, "--markdown", status=1)
    found = ((title, line) for title, (_, *lines) in tables_in(output) for line in lines)
    assert [f"{title}: {'|'.join(line)}" for title, line in found] == [
        "what differs: device|a device|another",
        "slower: kernels: copy forward fp32 1,024|1.00 s|1.30 s|1.30",
        "slower: kernels: relu forward fp32 1,024|1.00 s|1.20 s|1.20",
        "faster: kernels: naive forward fp32 1,024|1.00 s|500 ms|0.50",
        "medians of all rows, by provider: copy|1|1|0|1.30",
        "medians of all rows, by provider: naive|1|0|1|0.50",
        "medians of all rows, by provider: relu|1|1|0|1.20",
        "only in the old file: kernels: triton forward fp32 1,024|1.00 s||",
        "only in the new file: kernels: F.silu forward fp32 65,536||1.00 s|",
    ]
    assert "3 rows in both files: 2 slower and 1 faster by more than 10 %; 0 changed" in output
    assert "Not judged: triton." in output
