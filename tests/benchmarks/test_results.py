"""The format of results: what is written is read, and what is damaged is refused by its line."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from rows import FACTS, RESULTS, network, read, row, write

from benchmarks import environment, results
from benchmarks.arguments import Refused

ROWS = [
    row("mish_cuda", 1.5e-6, "forward out=", 4, 8, 6, layout="x.transpose(1, 2)", threads=2),
    row("relu", 1e-6, "forward+backward", peak=2**20),
    network("ReLU", "training step", 1.0, 2**30),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "new folder" / "a.csv", ROWS)
    (source,) = results.read([path, path])
    assert (source.name, source.kind, source.facts) == ("a", "speed", FACTS)
    for (_, found), expected in zip(source.rows.iterrows(), ROWS, strict=True):
        for name, value in expected.items():
            if value != "":
                assert found[name] == (float(value) if name.endswith("_s") else value)
    assert source.rows.peak_bytes.isna().tolist() == [True, False, False]


def test_an_older_file_is_there_until_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    with results.open_writer(path, "speed", FACTS) as add:
        add([])  # all failed
        assert len(read(path)) == 3
        add(ROWS[1:2])
        assert list(read(path).provider) == ["relu"]
        add(ROWS[:1])
        assert list(read(path).provider) == ["relu", "mish_cuda"]


def test_a_file_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.touch()
    for path in (tmp_path, file / "b.csv"):
        with (
            pytest.raises(OSError, match=r"a\.csv|directory"),
            results.open_writer(path, "speed", FACTS),
        ):
            pass


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.csv")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_committed_results_are_read(path: Path) -> None:
    (source,) = results.read([path])
    assert len(source.rows) == len(pd.read_csv(path)) > 0
    assert source.facts["mish_cuda"]


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good.csv", ROWS)
    text = good.read_text()
    contents = {
        "table": ("a,b\n1,2\n", "is no file of results, or a damaged one: "),
        "binary": ("\xff\xfe", "is no file of results, or a damaged one: "),
        "empty": ("", "is no file of results, or a damaged one: "),
        "header": (text.partition("\n")[0], "holds no rows: nothing was measured"),
        "long": (f"{text.rstrip()},more\n", "line 4, saw 29"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_text(content, encoding="latin-1")
        with pytest.raises(Refused, match=f"^{re.escape(str(path))} .*{reason}"):
            results.read([good, path])
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            results.read([path])


def test_a_text_in_the_place_of_a_number_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row("copy", 1.0, peak=0)] * 3)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows.loc[1, "p80_s"] = "fast"
    rows.to_csv(path, index=False)
    with pytest.raises(Refused, match=r"a\.csv is .* damaged one: p80_s: .*fast.* at position 1"):
        results.read([path])


def test_names_tell_files_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one/cpu.csv", "two/cpu.csv", "two/b.csv")]
    for path in paths:
        write(path, ROWS)
    assert [source.name for source in results.read([paths[0], paths[2]])] == ["cpu", "b"]
    assert [source.name for source in results.read(paths[:2])] == ["one-cpu", "two-cpu"]


def test_the_environment_names_what_was_measured() -> None:
    facts = environment.collect("cpu", "a command")
    assert tuple(facts) == environment.NAMES
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["torch"] in environment.summary(facts)
    assert re.fullmatch(r"(\d+( of \d+)? MHz)?", facts["clock"])


def test_the_environment_of_a_gpu_has_driver_and_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"--id=GPU-1-2": "580.1, 345, 1980, 2619, 2619", "--id=GPU-3": ""}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda uuid: SimpleNamespace(uuid=uuid)
    )
    monkeypatch.setattr(environment, "_output_of", lambda program, gpu, *query: outputs[gpu])
    expected = "580.1", "SM 345 of 1980 MHz, memory 2619 of 2619 MHz"
    assert environment._driver_and_clocks("1-2") == expected
    assert environment._driver_and_clocks("3") == ("", "")
