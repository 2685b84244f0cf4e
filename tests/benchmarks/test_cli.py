"""The command line: help, refusals, missing packages, streams, and a layering without circles."""

from __future__ import annotations

import ast
import graphlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from rows import RESULTS, main, refusal

from benchmarks.arguments import INTERRUPTED, device
from benchmarks.cli import COMMANDS
from project import ROOT

SPEED, NETWORKS = (str(RESULTS / "epyc-avx512" / name) for name in ("cpu.csv", "networks.csv"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's devices")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*command.split(), "--help") == 0
    output = capsys.readouterr().out
    assert f"usage: python -m benchmarks {command}".strip() in output
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("mesure", "choose from"),
        ("run --device nowhere", "expected cpu, cuda, cuda:N or N, got nowhere"),
        ("run --sizes 0", "invalid shape value: '0'"),
        ("run --shapes 8x", "invalid shape value: '8x'"),
        ("run --dtypes int8", "invalid choice: 'int8'"),
        ("run --providers mish", "invalid choice: 'mish'"),
        ("run --threads two", "invalid whole_number value: 'two'"),
        ("run --seconds nan", "invalid seconds value: 'nan'"),
        ("run --device cpu --batch 2", "--batch: expected a --preset"),
        ("run --device cpu --only claims --sizes 8", "--only claims: expected no options"),
        ("run --device cpu --only gpu", "--only gpu: expected --device cuda"),
        ("run --device cpu --providers triton --directions forward+backward", "a provider"),
        ("paper --learning-rate 0", "invalid rate value: '0'"),
        *(
            (f"compare a b --threshold={t}", "invalid percentage value: ")
            for t in ("ten", "-1", "inf")
        ),
        ("gpu bench", "sanitizer, got bench"),
    ],
)
def test_a_wrong_option_is_refused_in_a_line_and_nothing_written(
    line: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    last = refusal(capsys, *line.split()).splitlines()[-1]
    assert last.startswith("python -m benchmarks")
    assert named in last
    assert not list(tmp_path.iterdir())


def test_only_gpus_that_are_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device(name) for name in ("1", "cuda", "cpu")] == ["cuda:1", "cuda", "cpu"]
    assert "expected a GPU for cuda:2, but torch" in refusal(capsys, "run", "--device", "cuda:2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "expected a GPU for cuda, but torch" in refusal(capsys, "run", "--device", "cuda")


@pytest.mark.parametrize(
    ("command", "package", "pip"),
    [
        ("run --sizes 7", "rich", "rich"),
        ("table a.csv", "pandas", "pandas"),
        ("plot a.csv", "matplotlib", "matplotlib"),
        ("paper --epochs 1", "scipy", "scipy"),
        ("paper --epochs 1", "sklearn", "scikit-learn"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(
    command: str, package: str, pip: str, tmp_path: Path
) -> None:
    """Before anything is measured."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules[{package!r}] = None; "
        f"from benchmarks.cli import main; sys.exit(main())"
    )
    arguments = [sys.executable, "-c", program, *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]  # torch may have said something before
    expected = f"needs the Python package {package}: pip install {pip}"
    assert line == f"python -m benchmarks {command.split()[0]}: {expected}"
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_ctrl_c_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.plots.save", MagicMock(side_effect=KeyboardInterrupt))
    assert main("plot", NETWORKS, "--output", tmp_path) == INTERRUPTED
    assert capsys.readouterr().err.startswith("Interrupted")


def test_modules_import_each_other_in_one_direction() -> None:
    """But for those that `cli` and `views` look up by name when they are called."""
    folder = ROOT / "benchmarks"
    imports: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found = imports.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks"):
                found |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
    graphlib.TopologicalSorter(
        {name: uses & imports.keys() - {name} for name, uses in imports.items()}
    ).prepare()  # raises where there is a circle


def shell(line: str, folder: Path, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Bash on a line, with `benchmarks` for the program; no traceback may come of it."""
    program = f"{shlex.quote(sys.executable)} -m benchmarks"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'benchmarks() {{ {program} "$@"; }}; {line}'],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    return done


@linux
@pytest.mark.parametrize(
    "command",
    [f"table {SPEED}", f"table --markdown {NETWORKS}", f"compare {SPEED} {SPEED}", "--help"],
    ids=["table", "markdown", "compare", "help"],
)
def test_a_reader_that_goes_away_and_an_encoding_that_lacks_characters(
    command: str, tmp_path: Path
) -> None:
    # A reader that goes away: status 1 would mean "slower".
    closed = shell(f"benchmarks {command} | (exec <&-; sleep 1)", tmp_path, 128 + signal.SIGPIPE)
    assert closed.stderr == ""
    shell(f"benchmarks {command} > out", tmp_path, PYTHONIOENCODING="ascii")
    (tmp_path / "out").read_text(encoding="ascii")


@linux
def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    shell(f"benchmarks table {SPEED} >&-", tmp_path)
    for line in (f"table --markdown {SPEED}", f"compare --markdown {SPEED} {SPEED}"):
        expected = shell(f"benchmarks {line}", tmp_path)
        piped = shell(f"benchmarks {line.replace(SPEED, f'<(cat {SPEED})')}", tmp_path)
        assert piped.stdout == expected.stdout
    shell(f"benchmarks plot <(cat {SPEED}) --output pictures", tmp_path)
    assert any((tmp_path / "pictures").iterdir())
    shell(f"benchmarks report <(cat {SPEED}) --output page.html", tmp_path)
    nowhere = shell(f"benchmarks report <(cat {SPEED})", tmp_path, status=2)
    assert nowhere.stderr.count("\n") == 1


@linux
def test_what_is_no_file_of_results_and_a_folder_called_torch(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b"\xff\xfe")
    for file in ("<(cat f.csv)", "/dev/null"):
        assert shell(f"benchmarks table {file}", tmp_path, status=2).stderr.count("\n") == 1
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    done = shell(f"benchmarks table {SPEED}", tmp_path, status=2)
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "torch" / "__init__.py") in done.stderr
