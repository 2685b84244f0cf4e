"""The folder of a comparison: the runs that are finished, and how far the others have come."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from benchmarks import results
from benchmarks.arguments import Refused
from benchmarks.paper.protocol import Settings

Epoch = dict[str, Any]  # the columns of a row that differ from epoch to epoch
Run = tuple[str, int]  # activation and seed

# Runs must have these in common to be compared.
SAME = (
    *("dataset", "epochs", "width", "batch_size", "learning_rate", "threads"),
    *("device", "cpu_capability", "backend", "mish_cuda", "torch"),
)


class Study:
    """Records runs in a folder, where they may have begun earlier.

    Every file is replaced as a whole: wherever a process is killed, it leaves the old or the new.

    Raises:
        Refused: the folder has runs, finished or not, of other settings, or damaged ones.
    """

    def __init__(self, folder: Path, settings: Settings, facts: Mapping[str, str]) -> None:
        self.settings = settings
        self.path = folder / "epochs.csv"  # a row for each epoch of each finished run
        self._checkpoints = folder / "checkpoints"  # of the others, after the last epoch
        self._fixed = {**asdict(settings), **facts}
        self._rows = pd.DataFrame(columns=results.columns("epochs"), dtype=str)
        if self.path.exists():
            self._rows = read(self.path).rows
            self._refuse_other(self.path, self._rows.iloc[0])
        for run in self.finished():
            # There still if the process was killed right after the run was recorded.
            self._checkpoint(run).unlink(missing_ok=True)
        for path in sorted(self._checkpoints.glob("*.pt")):
            self._refuse_other(path, _state(path)["of"])

    def finished(self) -> set[Run]:
        return set(zip(self._rows.activation, map(int, self._rows.seed), strict=True))

    def save(
        self, run: Run, network: nn.Module, optimizer: torch.optim.Optimizer, curve: Sequence[Epoch]
    ) -> None:
        """Records the epochs of a run: in a checkpoint, or finished ones among the rows."""
        if len(curve) < self.settings.epochs:
            state = {
                "of": {name: str(self._fixed[name]) for name in SAME},
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "curve": curve,
            }
            _replace(self._checkpoint(run), lambda part: torch.save(state, part))
            return
        fixed = {**self._fixed, "activation": run[0], "seed": run[1]}
        new = pd.DataFrame([{**fixed, **epoch} for epoch in curve])
        rows = pd.concat([self._rows, new]) if len(self._rows) else new
        self._rows = rows[results.columns("epochs")]
        _replace(self.path, lambda part: self._rows.to_csv(part, index=False, na_rep="nan"))
        self._checkpoint(run).unlink(missing_ok=True)

    def load(self, run: Run, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
        """Puts back what was saved and returns the epochs up to then: none if nothing was saved."""
        path = self._checkpoint(run)
        if not path.exists():
            return []
        state = _state(path)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        curve: list[Epoch] = state["curve"]
        return curve

    def _checkpoint(self, run: Run) -> Path:
        return self._checkpoints / "{}-{}.pt".format(*run)

    def _refuse_other(self, path: Path, there: Mapping[str, Any]) -> None:
        different = [
            f"{name}: {there[name]} there, {self._fixed[name]} now"
            for name in SAME
            if str(there[name]) != str(self._fixed[name])
        ]
        if different:
            raise Refused(
                f"{path} comes from other settings, and would not be comparable: "
                f"{'; '.join(different)}. Repeat those settings, or choose another --output folder."
            )


def read(path: Path) -> results.Results:
    """The finished runs.

    Raises:
        Refused: runs lack epochs, or differ in more than activation and seed.
    """
    (source,) = results.read([path], "epochs")
    rows = source.rows
    problems = [
        f"runs of more than one {name}: {', '.join(map(str, found))}"
        for name in SAME
        if len(found := rows[name].unique()) > 1
    ]
    for (activation, seed), run in rows.groupby(["activation", "seed"]):
        if list(run.epoch) != list(range(1, int(run.epochs.iloc[0]) + 1)):
            problems.append(
                f"expected the epochs 1 to {run.epochs.iloc[0]} of {activation}, seed {seed}, "
                f"got {', '.join(map(str, run.epoch))}"
            )
    if problems:
        raise Refused(
            f"{path}: {problems[0]}. Restore the file, or take the lines of damaged runs out of "
            "it: `paper run` then trains these runs again."
        )
    return source


def _state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: state[name] for name in ("of", "network", "optimizer", "curve")}
    except Exception as error:  # torch raises errors of many kinds
        raise Refused(
            f"{path} is no checkpoint; without it that run starts from its beginning"
        ) from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file that is there completely or not at all, also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
