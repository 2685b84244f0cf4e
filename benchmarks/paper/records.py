"""The folder of a comparison: the runs that are finished, and how far the others have come."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks.environment import REQUIRED, Environment
from benchmarks.paper.protocol import ACTIVATIONS, DEFAULTS, Settings, identity


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: the mean loss in training, percent of the test images right, seconds."""

    epoch: int
    train_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A network trained to the end; `curve` has all epochs in order."""

    activation: str
    seed: int
    curve: tuple[Epoch, ...]

    @property
    def accuracy(self) -> float:
        """Percent of the test images right after the last epoch; the best one is not looked for."""
        return self.curve[-1].test_accuracy


@dataclass(frozen=True)
class Study:
    """The finished runs of a folder; `environment` is that of the first."""

    settings: Settings
    environment: Environment
    runs: tuple[Run, ...]


def read(folder: Path) -> Study:
    """The finished runs in `folder`.

    Raises:
        ValueError: there are none, or a file is not one of ours, or it is damaged.
    """
    rows = _read_csv(folder / RUNS, (*_MEASURED_COLUMNS, *REQUIRED))
    if not rows:
        raise ValueError(f"{folder / RUNS}: there is no finished run")
    curves: dict[tuple[str, ...], list[Epoch]] = {}
    for row in _read_csv(folder / CURVES, _CURVE_COLUMNS):
        curves.setdefault(_key(row), []).append(_from_text(Epoch, row))
    settings, environment = _origin(rows[0])
    same = identity(settings, environment)
    runs = []
    for row in rows:
        other = identity(*_origin(row))
        if different := [name for name in same if same[name] != other[name]]:
            raise _damaged(
                folder / RUNS, f"{_name(row)} has another {different[0]} than {_name(rows[0])}"
            )
        curve = tuple(curves.get(_key(row), ()))
        epochs = [epoch.epoch for epoch in curve]
        if epochs != list(range(1, settings.epochs + 1)):
            got = ", ".join(map(str, epochs)) or "none"
            raise _damaged(
                folder / CURVES,
                f"expected the epochs 1 to {settings.epochs} of {_name(row)}, got {got}",
            )
        runs.append(Run(row["activation"], int(row["seed"]), curve))
    return Study(settings, environment, tuple(runs))


class Checkpoint:
    """One run as it was after its last epoch, in a file; `of` is the `identity` of the run."""

    def __init__(self, path: Path, of: Mapping[str, str]) -> None:
        self.path = path
        self._of = of

    def save(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, curve: Sequence[Epoch]
    ) -> None:
        """Replaces what was saved before."""
        buffer = io.BytesIO()
        state = {
            "identity": dict(self._of),
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "curve": [asdict(epoch) for epoch in curve],
        }
        torch.save(state, buffer)
        _replace(self.path, buffer.getvalue())

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
        """Puts back what was saved and returns the epochs up to then: none if nothing was saved."""
        if not self.path.exists():
            return []
        state = _load(self.path)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return [Epoch(**epoch) for epoch in state["curve"]]


class Journal:
    """Records runs in a folder, where they may have begun earlier.

    Every file is replaced as a whole: wherever a process is killed, it leaves the old or the new.

    Raises:
        OSError: there cannot be such a folder.
        ValueError: it has runs, finished or not, of another `identity`, or damaged ones.
    """

    def __init__(self, folder: Path, settings: Settings, environment: Environment) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = settings
        self._environment = environment
        self._identity = identity(settings, environment)
        self._rows: list[dict[str, Any]] = list(
            _read_csv(folder / RUNS, (*_MEASURED_COLUMNS, *REQUIRED))
        )
        for row in self._rows:
            self._refuse_other(folder / RUNS, row)
        if self._rows:
            read(folder)  # what is damaged is told now, not after the training
        for row in self._rows:
            # There still if the process was killed right after the run was recorded.
            self.checkpoint(row["activation"], int(row["seed"])).path.unlink(missing_ok=True)
        for path in sorted((folder / CHECKPOINTS).glob("*.pt")):
            self._refuse_other(path, _load(path)["identity"])

    def finished(self) -> set[tuple[str, int]]:
        """Activation and seed of the runs that are recorded."""
        return {(row["activation"], int(row["seed"])) for row in self._rows}

    def checkpoint(self, activation: str, seed: int) -> Checkpoint:
        """That of a run."""
        path = self._folder / CHECKPOINTS / f"{activation}-{seed}.pt"
        return Checkpoint(path, self._identity)

    def add(self, run: Run) -> None:
        """Records a finished run, in place of its checkpoint."""
        key = {"dataset": self._settings.dataset, "activation": run.activation, "seed": run.seed}
        curves = [key | asdict(epoch) for epoch in run.curve]
        # The curve first: a run is finished once it is in RUNS. A process killed between the two
        # leaves a curve without a run, which this replaces.
        finished = self.finished()
        others = [
            row
            for row in _read_csv(self._folder / CURVES, _CURVE_COLUMNS)
            if (row["activation"], int(row["seed"])) in finished
        ]
        _write_csv(self._folder / CURVES, _CURVE_COLUMNS, [*others, *curves])
        row = {
            **asdict(self._settings),
            **key,
            "test_accuracy": run.accuracy,
            "train_loss": run.curve[-1].train_loss,
            "seconds": sum(epoch.seconds for epoch in run.curve),
            **asdict(self._environment),
        }
        self._rows.append(row)
        _write_csv(self._folder / RUNS, _RUN_COLUMNS, self._rows)
        self.checkpoint(run.activation, run.seed).path.unlink(missing_ok=True)

    def _refuse_other(self, path: Path, other: Mapping[str, str]) -> None:
        different = [
            f"  {name}: {other.get(name)} there, {value} now"
            for name, value in self._identity.items()
            if other.get(name) != value
        ]
        if different:
            raise ValueError(
                f"{path} comes from other settings, and would not be comparable:\n"
                + "\n".join(different)
                + "\nRepeat those settings, or choose another folder with --output."
            )


RUNS = "runs.csv"
CURVES = "curves.csv"
CHECKPOINTS = "checkpoints"

_CURVE_COLUMNS = ("dataset", "activation", "seed", *(field.name for field in fields(Epoch)))
_MEASURED_COLUMNS = (
    "dataset",
    "activation",
    "seed",
    "epochs",
    "test_accuracy",
    "train_loss",
    "seconds",
    "width",
    "batch_size",
    "learning_rate",
    "threads",
)
_RUN_COLUMNS = (*_MEASURED_COLUMNS, *(field.name for field in fields(Environment)))

_Record = TypeVar("_Record", Epoch, Settings)
_PARSERS = {"int": int, "float": float, "str": str}


def _from_text(kind: type[_Record], row: Mapping[str, str]) -> _Record:
    """A record from the columns of its fields' names."""
    return kind(
        **{field.name: _PARSERS[str(field.type)](row[field.name]) for field in fields(kind)}
    )


def _origin(row: Mapping[str, str]) -> tuple[Settings, Environment]:
    return _from_text(Settings, row), Environment.from_row(row)


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["dataset"], row["activation"], row["seed"]


def _name(row: Mapping[str, str]) -> str:
    return f"{row['activation']}, seed {row['seed']}"


def _one_of(names: Container[str]) -> Callable[[str], bool]:
    return lambda text: text in names


def _whole_from(least: int) -> Callable[[str], bool]:
    return lambda text: text.isdecimal() and int(text) >= least


# What a cell holds, by column: in words, and whether a text is that.
_CELLS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "dataset": (f"one of {', '.join(DEFAULTS)}", _one_of(DEFAULTS)),
    "activation": (f"one of {', '.join(ACTIVATIONS)}", _one_of(ACTIVATIONS)),
    "seed": ("a whole number", _whole_from(0)),
    **dict.fromkeys(
        ("epoch", "epochs", "width", "batch_size", "threads"),
        ("a whole number above 0", _whole_from(1)),
    ),
    "learning_rate": ("a number above 0", lambda text: 0 < float(text) < math.inf),
    "test_accuracy": ("a percentage", lambda text: 0 <= float(text) <= 100),
    "train_loss": ("a number from 0", lambda text: not float(text) < 0),  # NaN where it diverged
    "seconds": ("a number from 0", lambda text: 0 <= float(text) < math.inf),
}


def _check(row: Mapping[str | None, str | None]) -> None:
    """Raises ValueError if it has more or fewer cells than there are columns, or a wrong one."""
    if None in row or None in row.values():
        raise ValueError("expected a cell for each column")
    for column, (expected, fits) in _CELLS.items():
        text = row.get(column)
        if text is None:
            continue
        try:
            right = fits(text)
        except ValueError:  # no number
            right = False
        if not right:
            raise ValueError(f"expected {expected} as {column}, got {text!r}")


def _damaged(place: Path | str, what: object) -> ValueError:
    return ValueError(
        f"{place}: {what}. Restore the file, or take the lines of damaged runs out of {RUNS} and "
        f"{CURVES}: `run` then trains these runs again."
    )


def _read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a file, each checked by itself; none if there is no file."""
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, "expected text in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    try:
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise ValueError(f"the columns {', '.join(sorted(missing))} are missing")
        for row in reader:
            _check(row)
            rows.append(row)
    except (ValueError, csv.Error) as error:
        raise _damaged(f"{path}, line {reader.line_num}", error) from error
    return rows


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    _replace(path, text.getvalue().encode())


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: state[name] for name in ("identity", "network", "optimizer", "curve")}
    except Exception as error:  # torch raises errors of many kinds
        raise ValueError(
            f"{path} is no checkpoint; without it that run starts from its beginning"
        ) from error


def _replace(path: Path, data: bytes) -> None:
    """Writes a file that is there completely or not at all, also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
