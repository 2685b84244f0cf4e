"""``python -m benchmarks compare``: what it calls slower, what it names, and its exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rows import RESULTS, Row, frame, main, network, refusal, row, write

from benchmarks import compare as comparing

Compare = Callable[..., int]


def ours(seconds: float, *shape: int, **rest: object) -> Row:
    return row("mish_cuda", seconds, "forward", *(shape or (1024,)), **rest)


def theirs(seconds: float, *shape: int, **rest: object) -> Row:
    return row("F.mish", seconds, "forward", *(shape or (1024,)), **rest)


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """The exit status of the command on two files of these rows."""

    def run(old: list[Row], new: list[Row], *options: str, **facts: str) -> int:
        files = write(tmp_path / "old.csv", old), write(tmp_path / "new.csv", new, **facts)
        return main("compare", *files, *options)

    return run


def change(old: Row, new: Row, threshold: float = 0.1) -> str:
    rows = comparing.pair(frame([old]), frame([new]))
    return str(comparing.judge(rows, threshold).change.iloc[0])


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
    assert change(ours(1.0, spread=spread), ours(new, spread=spread)) == verdict


def test_the_same_case_of_another_suite_or_network_is_another_row() -> None:
    rows = [ours(1.0), ours(2.0, suite="claims"), network("mish_cuda", "inference", 3.0)]
    found = comparing.pair(frame(rows), frame(rows))
    assert list(found._merge) == ["both"] * 3
    assert list(comparing.judge(found, 0).ratio) == [1.0, 1.0, 1.0]


def test_slower_rows_come_first_and_fail(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = [1.5, 3.0, 0.5, 1.0, 1.05]
    old = [ours(1e-6, n) for n in range(1, 6)]
    new = [ours(1e-6 * ratio, n) for n, ratio in enumerate(ratios, 1)]
    assert compare(old, new) == 1
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines() if "kernels: mish_cuda" in line]
    assert [line[-1] for line in lines] == ["3.00", "1.50", "0.50"]
    assert output.index("slower") < output.index("faster")
    assert "5 rows in both files: 2 slower and 1 faster by more than 10 %; 0 changed" in output
    assert "what differs" not in output


def test_faster_and_unclear_rows_pass(compare: Compare) -> None:
    old, new = [ours(1.0), theirs(1.0, spread=0.5)], [ours(0.5), theirs(1.5, spread=0.5)]
    assert compare(old, new) == 0
    assert compare([ours(1.0)], [ours(1.3)], "--threshold", "25") == 1
    assert compare([ours(1.0)], [ours(1.3)], "--threshold", "35%") == 0


def test_providers_that_do_not_matter_are_left_out(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ours(1.0), theirs(1.0)], [ours(1.0), theirs(2.0)]
    assert compare(*rows) == 1
    assert compare(*rows, "--providers", "mish_cuda") == 0
    assert compare(*rows, "--providers", "mish_cuda", "nobody") == 2
    assert "(mish_cuda, F.mish), got nobody" in capsys.readouterr().err


def test_a_provider_of_which_no_row_can_be_judged_fails(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where ours could not be measured, and nothing got slower."""
    old = [ours(1.0), ours(1.0, 2048), theirs(1.0)]
    asked = ("--providers", "mish_cuda", "F.mish")
    assert compare(old, [theirs(1.0)]) == 3
    assert "Not judged: mish_cuda. " in capsys.readouterr().out
    assert compare(old, [theirs(1.0)], *asked) == 3
    assert compare(old, [theirs(1.0)], "--providers", "F.mish") == 0
    assert compare(old, [theirs(2.0)]) == 1
    assert compare(old, [theirs(1.0), ours(1.0, 1)]) == 3  # ours, but at none of the old sizes
    assert compare(old, [theirs(1.0), ours(1.0, 2048)]) == 0  # a part is enough
    assert compare([theirs(1.0)], old) == 0
    assert compare([theirs(1.0)], old, *asked) == 3


def test_what_is_told_beside_the_verdicts(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environments' differences, the median change of each provider, rows of one file only."""
    two = row("naive", 1.0, "backward", 8, 64, dtype="bf16", threads=2)
    strided = row("naive", 1.0, "backward", 8, 64, dtype="bf16", layout="x[:, ::2]")
    old = [*(ours(1.0, n) for n in (1, 2, 3)), two, strided]
    new = [*(ours(r, n) for n, r in ((1, 1.0), (2, 1.2), (3, 2.0))), theirs(1.0)]
    assert compare(old, new, "--markdown", device="another", date="2001-01-01") == 1
    output = capsys.readouterr().out.replace("\\", "")
    assert "| device | a device | another |" in output
    assert "2001" not in output
    assert "| mish_cuda | 3 | 2 | 0 | 1.20 |" in output
    only_old, only_new = output.split("### only in the old file")[1].split("### only in the new")
    assert "bf16 8x64 on 2 threads, bf16 8x64 as x[:, ::2] |" in only_old
    assert "| kernels: F.mish forward | fp32 1,024 |" in only_new


def test_files_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path / "old.csv", [ours(1.0)])
    for path, reason in (
        (RESULTS / "epyc-avx512" / "accuracy.csv", "holds errors, expected a file of speed"),
        (write(tmp_path / "empty.csv", []), "holds no rows"),
        (tmp_path / "absent.csv", "No such file"),
        (write(tmp_path / "other.csv", [theirs(1.0)]), "have no row in common"),
    ):
        (line,) = refusal(capsys, "compare", old, path).splitlines()
        assert str(path) in line
        assert reason in line
