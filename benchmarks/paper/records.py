"""The folder of a comparison: the runs that are finished, and how far the others have come."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks.environment import REQUIRED, Environment
from benchmarks.paper.protocol import Settings, identity


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
        ValueError: there are none, or a file is not one of ours.
    """
    rows = _read_csv(folder / RUNS, (*_MEASURED_COLUMNS, *REQUIRED))
    if not rows:
        raise ValueError(f"{folder / RUNS}: there is no finished run")
    curves: dict[tuple[str, str], list[Epoch]] = {}
    for row in _read_csv(folder / CURVES, _CURVE_COLUMNS):
        curves.setdefault((row["activation"], row["seed"]), []).append(_from_text(Epoch, row))
    runs = []
    for row in rows:
        key = row["activation"], row["seed"]
        if key not in curves:
            raise ValueError(f"{folder / CURVES} lacks {' '.join(key)}, which {RUNS} has")
        runs.append(Run(key[0], int(key[1]), tuple(curves[key])))
    return Study(_from_text(Settings, rows[0]), Environment.from_row(rows[0]), tuple(runs))


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
        ValueError: it has runs, finished or not, of another `identity`.
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


def _read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        rows = list(reader)
    if any(None in row.values() for row in rows):
        raise ValueError(f"{path} has a line with too few cells")
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
