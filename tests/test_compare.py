"""``python -m benchmarks compare``: verdicts, what it names, and its exit status."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cli
from benchmarks.cells import Cell
from benchmarks.compare import Change, Incomparable, Verdict, compare, sections
from benchmarks.environment import Environment
from benchmarks.results import Result, Timing, open_writer
from project import ROOT

FACTS = Environment(
    device="a device",
    cpu_model="a processor",
    cpu_capability="AVX2",
    backend="cpu",
    mish_cuda="1.0",
    commit="aaa",
    torch="2.9",
    cuda="",
    driver="",
    python="3.10",
    date="2000-01-01",
    command="run",
)
OURS = Cell("mish_cuda", "forward", "fp32", (1024,))
THEIRS = dataclasses.replace(OURS, provider="F.mish")


def row(cell: Cell, median: float, spread: float = 0.01, suite: str = "kernels") -> Result:
    timing = Timing(7, median, p20=median * (1 - spread), p80=median * (1 + spread))
    return Result(suite, cell, timing)


def change(new: float, spread: float = 0.01) -> Change:
    """From 1 s to `new`."""
    return Change(row(OURS, 1.0, spread), row(OURS, new, spread))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Files:
    """An old and a new file, and the command on both."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = folder / "old.csv", folder / "new.csv"
        self.write([row(OURS, 1.0)], [row(OURS, 1.0)])

    def write(
        self,
        old: Iterable[Result],
        new: Iterable[Result],
        old_facts: Environment = FACTS,
        new_facts: Environment = FACTS,
    ) -> None:
        for path, facts, rows in ((self.old, old_facts, old), (self.new, new_facts, new)):
            with open_writer(path, facts) as write:
                write(rows)

    def compare(self, *options: str) -> int:
        return cli.main(["compare", str(self.old), str(self.new), *options])


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
    new: float, spread: float, verdict: Verdict
) -> None:
    assert change(new, spread).verdict(0.1) == verdict


@given(
    st.floats(1e-9, 10), st.floats(1e-9, 10), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0, 2)
)
def test_verdicts_are_symmetric(
    first: float, second: float, spread: float, other: float, threshold: float
) -> None:
    """What is slower one way is faster the other."""
    one, two = row(OURS, first, spread), row(OURS, second, other)
    opposite = {"slower": "faster", "faster": "slower"}
    there, back = Change(one, two).verdict(threshold), Change(two, one).verdict(threshold)
    assert back == opposite.get(there, there)


def test_slower_rows_come_first_and_fail(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [dataclasses.replace(OURS, shape=(n,)) for n in range(1, 6)]
    new = [1.5, 3.0, 0.5, 1.0, 1.05]
    files.write(
        [row(cell, 1e-6) for cell in cells],
        [row(cell, 1e-6 * ratio) for cell, ratio in zip(cells, new, strict=True)],
    )
    assert files.compare() == 1
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines() if "kernels: mish_cuda" in line]
    assert [line[-1] for line in lines] == ["3.00", "1.50", "0.50"]
    assert lines[0][-5:] == ["1.00", "µs", "3.00", "µs", "3.00"]
    assert output.index("slower") < output.index("faster")
    assert "5 rows in both files: 2 slower and 1 faster by more than 10 %; 0 changed" in output
    assert "what differs" not in output


def test_faster_and_unclear_rows_pass(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.write([row(OURS, 1.0), row(THEIRS, 1.0, 0.5)], [row(OURS, 0.5), row(THEIRS, 1.5, 0.5)])
    assert files.compare() == 0
    assert "0 slower and 1 faster by more than 10 %; 1 changed" in capsys.readouterr().out


def test_the_threshold_is_a_percentage(files: Files) -> None:
    files.write([row(OURS, 1.0)], [row(OURS, 1.3)])
    assert files.compare("--threshold", "25") == 1
    assert files.compare("--threshold", "35%") == 0


def test_providers_that_do_not_matter_are_left_out(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write([row(OURS, 1.0), row(THEIRS, 1.0)], [row(OURS, 1.0), row(THEIRS, 2.0)])
    assert files.compare() == 1
    assert files.compare("--providers", "mish_cuda") == 0
    capsys.readouterr()
    assert files.compare("--providers", "ours") == 2
    assert "(mish_cuda, F.mish), got ours" in capsys.readouterr().err
    assert files.compare("--providers", "mish_cuda", "nobody", "nothing") == 2
    assert "(mish_cuda, F.mish), got nobody, nothing" in capsys.readouterr().err


def test_the_same_cell_of_another_suite_or_network_is_another_row(files: Files) -> None:
    network = dataclasses.replace(OURS, direction="inference", network="mlp")
    files.write(
        [row(OURS, 1.0), row(OURS, 2.0, suite="claims"), row(network, 3.0, suite="models")],
        [row(OURS, 1.0), row(OURS, 2.0, suite="claims"), row(network, 3.0, suite="models")],
    )
    found = compare(files.old, files.new)
    assert [c.ratio for c in found.changes] == [1.0, 1.0, 1.0]
    assert not found.only_old
    assert not found.only_new


def test_cells_of_one_file_only_are_named(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    two = Cell("naive", "backward", "bf16", (8, 64), threads=2)
    strided = Cell("naive", "backward", "bf16", (8, 64), "x.t()")
    files.write([row(OURS, 1.0), row(two, 1.0), row(strided, 1.0)], [row(OURS, 1), row(THEIRS, 1)])
    assert files.compare("--markdown") == 3
    output = capsys.readouterr().out
    old, new = output.split("### Only in the old file")[1].split("### Only in the new file")
    assert "| kernels: naive backward | bf16 8x64 on 2 threads, bf16 8x64 as x.t() |" in old
    assert "| kernels: F.mish forward | fp32 1,024 |" in new


def test_a_provider_of_which_no_row_can_be_judged_fails(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where ours could not be measured, and nothing got slower."""
    other = dataclasses.replace(OURS, shape=(2048,))
    old = [row(OURS, 1.0), row(other, 1.0), row(THEIRS, 1.0)]
    files.write(old, [row(THEIRS, 1.0)])
    assert files.compare() == 3
    output = " ".join(capsys.readouterr().out.split())
    assert f"Not judged: mish_cuda. {files.old} and {files.new} have no row of theirs" in output
    assert files.compare("--providers", "mish_cuda", "F.mish") == 3
    assert files.compare("--providers", "F.mish") == 0
    files.write(old, [row(THEIRS, 2.0)])
    assert files.compare() == 1
    files.write(old, [row(THEIRS, 1.0), row(dataclasses.replace(OURS, shape=(1,)), 1.0)])
    assert files.compare() == 3  # ours, but at none of the old sizes
    files.write(old, [row(THEIRS, 1.0), row(other, 1.0)])
    assert files.compare() == 0  # a part is enough, and what is not there is listed
    files.write([row(THEIRS, 1.0)], old)
    assert files.compare() == 0
    assert files.compare("--providers", "mish_cuda", "F.mish") == 3  # asked for


@pytest.mark.parametrize("column", ["p20_s", "p80_s"])
def test_a_spread_that_is_no_number_is_no_pass(
    files: Files, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write([row(OURS, 1.0)], [row(OURS, 10.0)])
    text = {"p20_s": "9.9000e+00", "p80_s": "1.0100e+01"}[column]
    files.new.write_text(files.new.read_text().replace(text, "nan"))
    assert files.compare() == 2
    assert f"line 2: expected seconds above 0 as {column}, got nan" in capsys.readouterr().err


def test_another_device_and_other_versions_are_pointed_out(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(FACTS, device="another", torch="2.10", date="2001-01-01")
    files.write([row(OURS, 1.0)], [row(OURS, 1.0)], new_facts=other)
    assert files.compare("--markdown") == 0
    output = capsys.readouterr().out
    assert "### What differs" in output
    assert "| device | a device | another |" in output
    assert "| torch | 2.9 | 2.10 |" in output
    assert "2001" not in output


def test_the_median_change_of_each_provider_tells_of_the_machine(files: Files) -> None:
    sizes = [dataclasses.replace(OURS, shape=(n,)) for n in (1, 2, 3)]
    files.write(
        [row(cell, 1.0) for cell in sizes] + [row(THEIRS, 1.0)],
        [row(cell, new) for cell, new in zip(sizes, (1.0, 1.2, 2.0), strict=True)]
        + [row(THEIRS, 1.25)],
    )
    found = compare(files.old, files.new)
    verdicts = {c: c.verdict(0.1) for c in found.changes}
    (section,) = (s for s in sections(found, verdicts) if s.title.startswith("medians"))
    assert section.rows == [("mish_cuda", "3", "2", "0", "1.20"), ("F.mish", "1", "1", "0", "1.25")]


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_what_looks_like_markup_is_printed(
    files: Files, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sliced = dataclasses.replace(OURS, shape=(8, 8), layout="x[:, ::2]")
    files.write([row(sliced, 1.0)], [row(sliced, 2.0)])
    assert files.compare(*options) == 1
    assert "as x[:, ::2]" in capsys.readouterr().out


def test_files_that_cannot_be_compared(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, empty, absent = (tmp_path / name for name in ("other.csv", "empty.csv", "absent.csv"))
    accuracy = ROOT / "benchmarks/results/epyc-avx512/accuracy.csv"
    other.write_text("a,b\n1,2\n")
    with open_writer(empty, FACTS):
        pass
    for path, reason in (
        (other, "other.csv is no benchmark file, or a damaged one: it lacks backend"),
        (accuracy, "accuracy.csv is a file of `python -m accuracy`, expected one of `run`"),
        (empty, "empty.csv holds no rows"),
        (absent, "No such file"),
        (tmp_path, "Is a directory"),
    ):
        assert cli.main(["compare", str(files.old), str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("python -m benchmarks compare: ")
        assert reason in line
    files.write([row(OURS, 1.0)], [row(THEIRS, 1.0)])
    with pytest.raises(Incomparable, match="have no row in common"):
        compare(files.old, files.new)


@pytest.mark.parametrize("wrong", ["ten", "-1", "nan", "inf"])
def test_a_threshold_that_is_none(
    files: Files, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        files.compare(f"--threshold={wrong}")
    assert exit_.value.code == 2
    assert f"expected a percentage, as 10, got {wrong}" in capsys.readouterr().err


def test_a_file_of_an_older_version_is_compared_with_itself() -> None:
    path = str(ROOT / "benchmarks/results/xeon-avx512/cpu.csv")
    assert cli.main(["compare", path, path]) == 0
