"""``compare``: what it calls slower, what it names, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import RESULTS, Capture, Row, main, network, printed, refusal, row, tables_in, write


def ours(seconds: float, *shape: int, **rest: object) -> Row:
    return row("mish_cuda", seconds, "forward", *(shape or (1024,)), **rest)


def theirs(seconds: float, **rest: object) -> Row:
    return row("F.mish", seconds, "forward", 1024, **rest)


BASE = [ours(1.0), theirs(1.0)]


def test_a_verdict_needs_the_threshold_and_spreads_apart(tmp_path: Path, capsys: Capture) -> None:
    """Each change in a row of its own, told by its size; the slowest and the fastest are first."""
    changes = [
        (1.1, 0.01, "same"),  # the threshold itself
        (1.11, 0.01, "slower"),
        (1.3, 0.1, "slower"),
        (1 / 1.11, 0.01, "faster"),
        (1.2, 0.1, "unclear"),  # old to 1.1, new from 1.08
        (1 / 1.2, 0.1, "unclear"),
        (100.0, 0.999, "unclear"),
    ]
    old = [ours(1.0, size, spread=each[1]) for size, each in enumerate(changes, 1)]
    new = [ours(each[0], size, spread=each[1]) for size, each in enumerate(changes, 1)]
    files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new, device="another")
    output = printed(capsys, "compare", *files, "--markdown", status=1)
    found = dict(tables_in(output))
    assert found["what differs"][1:] == [["device", "a device", "another"]]
    name = "kernels: mish_cuda forward fp32"
    assert found["slower"][1:] == [
        [f"{name} 3", "1.00 s", "1.30 s", "1.30"],
        [f"{name} 2", "1.00 s", "1.11 s", "1.11"],
    ]
    assert found["faster"][1:] == [[f"{name} 4", "1.00 s", "901 ms", "0.90"]]
    assert found["medians of all rows, by provider"][1:] == [["mish_cuda", "7", "2", "1", "1.11"]]
    assert "7 rows in both files: 2 slower and 1 faster by more than 10 %; 3 changed" in output


def test_a_row_is_compared_with_its_own_case_alone(tmp_path: Path, capsys: Capture) -> None:
    """Rows that differ in one of the columns, and what only one of the files has."""
    rows = [
        *(ours(1.0), ours(2.0, suite="claims"), ours(3.0, dtype="bf16"), theirs(4.0)),
        *(ours(5.0, 8, 128), ours(6.0, 8, 128, layout="x.t()"), ours(7.0, threads=2)),
        *(network("mish_cuda", "inference", 8.0), network("mish_cuda", "training step", 9.0)),
    ]
    old = write(tmp_path / "old.csv", [*rows, row("naive", 1.0, "backward", 64, dtype="fp16")])
    new = write(tmp_path / "new.csv", [*rows, row("copy", 1.0, "forward", 64)])
    output = printed(capsys, "compare", old, new, "--markdown", "--threshold", 0, status=3)
    found = dict(tables_in(output))
    assert "9 rows in both files: 0 slower and 0 faster" in output
    assert found["only in the old file"][1:] == [["kernels: naive backward", "fp16 64"]]
    assert found["only in the new file"][1:] == [["kernels: copy forward", "fp32 64"]]
    assert "Not judged: naive." in output


@pytest.mark.parametrize(
    ("old", "new", "options", "status"),
    [
        (BASE, [ours(0.5), theirs(1.0)], "", 0),
        ([theirs(1.0, spread=0.5)], [theirs(1.5, spread=0.5)], "", 0),  # unclear
        ([ours(1.0)], [ours(1.3)], "--threshold 25", 1),
        ([ours(1.0)], [ours(1.3)], "--threshold 35%", 0),
        (BASE, [ours(1.0), theirs(2.0)], "--providers mish_cuda", 0),
        # No row of a provider can be judged, as where ours could not be measured.
        (BASE, [theirs(1.0)], "", 3),
        (BASE, [theirs(1.0)], "--providers F.mish", 0),
        (BASE, [theirs(2.0)], "", 1),
        (BASE, [theirs(1.0), ours(1.0, 1)], "", 3),  # ours, but at none of the old sizes
        ([*BASE, ours(1.0, 2048)], BASE, "", 0),  # a part is enough
        ([theirs(1.0)], BASE, "--providers mish_cuda F.mish", 3),
    ],
)
def test_exit_status(
    old: list[Row], new: list[Row], options: str, status: int, tmp_path: Path
) -> None:
    files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new)
    assert main("compare", *files, *options.split()) == status


def test_files_that_cannot_be_compared(tmp_path: Path, capsys: Capture) -> None:
    old = write(tmp_path / "old.csv", [ours(1.0)])
    other = write(tmp_path / "other.csv", [theirs(1.0)])
    for new, reason in (
        ([RESULTS / "epyc-avx512" / "accuracy.csv"], "expected a file of speed"),
        ([other], "have no row in common"),
        ([other, "--providers", "nobody"], "got nobody"),
    ):
        assert reason in refusal(capsys, "compare", old, *new)
