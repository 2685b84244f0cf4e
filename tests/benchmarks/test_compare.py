"""``python -m benchmarks compare``: what it calls slower, what it names, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import RESULTS, Row, frame, main, network, refusal, row, write

from benchmarks import compare as comparing


def ours(seconds: float, *shape: int, **rest: object) -> Row:
    return row("mish_cuda", seconds, "forward", *(shape or (1024,)), **rest)


def theirs(seconds: float, **rest: object) -> Row:
    return row("F.mish", seconds, "forward", 1024, **rest)


def compare(folder: Path, old: list[Row], new: list[Row], *options: str, **facts: str) -> int:
    """The exit status of the command on two files of these rows."""
    files = write(folder / "old.csv", old), write(folder / "new.csv", new, **facts)
    return main("compare", *files, *options)


@pytest.mark.parametrize(
    ("new", "spread", "verdict"),
    [
        (1.0, 0.01, "same"),
        (1.1, 0.01, "same"),  # the threshold itself
        (1.11, 0.01, "slower"),
        (1 / 1.11, 0.01, "faster"),
        (1.2, 0.1, "unclear"),  # old to 1.1, new from 1.08
        (1 / 1.2, 0.1, "unclear"),
        (1.3, 0.1, "slower"),
        (100.0, 0.999, "unclear"),
    ],
)
def test_a_verdict_needs_the_threshold_and_spreads_apart(
    new: float, spread: float, verdict: str
) -> None:
    rows = comparing.pair(frame([ours(1.0, spread=spread)]), frame([ours(new, spread=spread)]))
    assert list(comparing.judge(rows, 0.1).change) == [verdict]


def test_the_same_case_of_another_suite_or_network_is_another_row() -> None:
    rows = frame([ours(1.0), ours(2.0, suite="claims"), network("mish_cuda", "inference", 3.0)])
    found = comparing.pair(rows, rows)
    assert list(found._merge) == ["both"] * 3
    assert list(comparing.judge(found, 0).ratio) == [1.0, 1.0, 1.0]


BOTH = [ours(1.0), theirs(1.0)]


@pytest.mark.parametrize(
    ("old", "new", "options", "status"),
    [
        (BOTH, [ours(0.5), theirs(1.0)], "", 0),
        ([theirs(1.0, spread=0.5)], [theirs(1.5, spread=0.5)], "", 0),  # unclear
        ([ours(1.0)], [ours(1.3)], "--threshold 25", 1),
        ([ours(1.0)], [ours(1.3)], "--threshold 35%", 0),
        (BOTH, [ours(1.0), theirs(2.0)], "", 1),
        (BOTH, [ours(1.0), theirs(2.0)], "--providers mish_cuda", 0),
        (BOTH, BOTH, "--providers mish_cuda nobody", 3),
        # No row of a provider can be judged, as where ours could not be measured.
        (BOTH, [theirs(1.0)], "", 3),
        (BOTH, [theirs(1.0)], "--providers mish_cuda F.mish", 3),
        (BOTH, [theirs(1.0)], "--providers F.mish", 0),
        (BOTH, [theirs(2.0)], "", 1),
        (BOTH, [theirs(1.0), ours(1.0, 1)], "", 3),  # ours, but at none of the old sizes
        ([*BOTH, ours(1.0, 2048)], BOTH, "", 0),  # a part is enough
        ([theirs(1.0)], BOTH, "", 0),
        ([theirs(1.0)], BOTH, "--providers mish_cuda F.mish", 3),
    ],
)
def test_exit_status(
    old: list[Row], new: list[Row], options: str, status: int, tmp_path: Path
) -> None:
    assert compare(tmp_path, old, new, *options.split()) == status


def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What differs, the slower rows first, the median change of each provider, rows of one file."""
    two = row("naive", 1.0, "backward", 8, 64, dtype="bf16", threads=2)
    strided = row("naive", 1.0, "backward", 8, 64, dtype="bf16", layout="x[:, ::2]")
    old = [*(ours(1.0, n) for n in (1, 2, 3, 4)), two, strided]
    new = [*(ours(r, n) for n, r in ((1, 1.0), (2, 1.5), (3, 3.0), (4, 0.5))), theirs(1.0)]
    assert compare(tmp_path, old, new, "--markdown", device="another", date="2001-01-01") == 1
    output = capsys.readouterr().out.replace("\\", "")
    assert "| device | a device | another |" in output
    assert "2001" not in output
    lines = [line.split() for line in output.splitlines() if "kernels: mish_cuda" in line]
    assert [line[-2] for line in lines] == ["3.00", "1.50", "0.50"]
    assert "| mish_cuda | 4 | 2 | 1 | 1.25 |" in output
    assert "4 rows in both files: 2 slower and 1 faster" in output
    assert "2 rows are only in the old file, 1 in the new one." in output
    assert "Not judged: naive." in output


def test_files_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path / "old.csv", [ours(1.0)])
    for path, reason in (
        (RESULTS / "epyc-avx512" / "accuracy.csv", "holds errors, expected a file of speed"),
        (write(tmp_path / "other.csv", [theirs(1.0)]), "have no row in common"),
    ):
        assert reason in refusal(capsys, "compare", old, path)
