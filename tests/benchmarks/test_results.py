"""The format of results: what is written is read, and what is damaged is refused by its line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rows import BOTH, FACTS, RESULTS, Capture, Patch, network, printed, read, refusal, row, write

from benchmarks import environment, results

ROWS = [
    row("mish_cuda", 1.5e-6, "forward out=", 4, 8, 6, layout="x.transpose(1, 2)", threads=2),
    row("relu", 1e-6, BOTH, peak=2**20),
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


def test_a_file_that_cannot_be_written_is_named_before_measuring(
    tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "a.csv"
    file.touch()
    for path, reason in ((tmp_path, "Is a directory"), (file / "b.csv", "Not a directory")):
        told = refusal(capsys, "run", "--device", "cpu", "--sizes", 8, "--csv", path)
        assert f"expected a file that can be written, got {path}: {reason}" in told


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.csv")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_committed_results_are_read(path: Path, capsys: Capture) -> None:
    assert len(read(path)) == len(pd.read_csv(path)) > 0
    assert "No table" not in printed(capsys, "table", path, "--markdown")


def test_files_that_are_none_of_ours_are_refused_together(tmp_path: Path, capsys: Capture) -> None:
    good = write(tmp_path / "good.csv", ROWS)
    text = good.read_text()
    contents = {
        "table": ("a,b\n1,2\n", "is no file of results, or a damaged one: it lacks "),
        "binary": ("\xff\xfe", "is no file of results, or a damaged one: "),
        "header": (text.partition("\n")[0], "holds no rows: nothing was measured"),
        "cut": (text[:-150], "is damaged: line 4: expected a text for each column"),
        "long": (f"{text.rstrip()},more\n", "is damaged: line 4: expected a text for each"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    told = refusal(capsys, "table", good, *(tmp_path / name for name in contents)).splitlines()
    for line, (name, (_, reason)) in zip(told, contents.items(), strict=True):
        assert f"{tmp_path / name} {reason}" in line


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        *(("suite", ["speed"]), ("dtype", ["int8"]), ("direction", ["sideways"])),
        *(("layout", ["x[0]"]), ("shape", ["0", "2x-3", ""]), ("rounds", ["many", "0", "1.5"])),
        ("p80_s", ["nan", "inf", "0", "-1", "fast", ""]),
        *(("median_s", ["9"]), ("peak_bytes", ["-1", "1.5", "many"])),  # 9: above p80
    ],
)
def test_a_damaged_row_is_refused(
    column: str, texts: list[str], tmp_path: Path, capsys: Capture
) -> None:
    path = write(tmp_path / "a.csv", [row("copy", 1.0, peak=0)] * 3)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    for text in texts:
        rows.loc[1, column] = text
        rows.to_csv(path, index=False)
        told = refusal(capsys, "table", path)
        assert "a.csv is damaged: line 3: expected " in told
        assert column in told


def test_the_commit_is_that_of_this_project(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv(environment.COMMIT, "abc1234-dirty")
    assert environment.collect("cpu", "a command")["commit"] == "abc1234-dirty"
    # Not that of another one in which an archive lies.
    monkeypatch.delenv(environment.COMMIT)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmarks" / "environment.py"))
    assert environment.collect("cpu", "")["commit"] == ""
