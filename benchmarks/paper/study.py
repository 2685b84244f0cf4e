"""The folder of a comparison: the runs that are finished, and checkpoints of the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.arguments import Refused

Row = dict[str, Any]  # of epochs.csv: an epoch of a run

# Runs must have these in common to be compared.
SAME = (
    *("dataset", "epochs", "width", "batch_size", "learning_rate", "threads"),
    *("device", "cpu_capability", "backend", "mish_cuda", "torch"),
)


def read(path: Path) -> results.Results:
    """The finished runs.

    Raises:
        Refused: runs lack epochs, or differ in more than activation and seed.
    """
    (source,) = results.read([path], "epochs")
    require_alike(path, source.rows.to_dict("records"))
    for (activation, seed), run in source.rows.groupby(["activation", "seed"]):
        if list(run.epoch) != list(range(1, run.epochs.iloc[0] + 1)):
            raise Refused(
                f"{path}: expected the epochs 1 to {run.epochs.iloc[0]} of {activation}, seed "
                f"{seed}, got {', '.join(map(str, run.epoch))}. Restore the file, or take the "
                "lines of this run out of it: `paper run` then trains it again."
            )
    return source


def begun(folder: Path, now: Mapping[str, Any]) -> list[Row]:
    """The rows of the finished runs of a folder.

    Raises:
        Refused: runs in it, finished or not, are damaged or not comparable with those of `now`.
    """
    path = folder / "epochs.csv"
    rows: list[Row] = read(path).rows.to_dict("records") if path.exists() else []
    try:
        others = [torch.load(path, "cpu")["rows"][0] for path in folder.glob("checkpoints/*.pt")]
    except Exception as error:  # of many kinds
        raise Refused(f"a file in {folder / 'checkpoints'} is damaged: remove it") from error
    require_alike(folder, [*rows, *others, now])
    return rows


def require_alike(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for name in SAME:
        found = dict.fromkeys(str(row[name]) for row in rows)
        if len(found) > 1:
            raise Refused(
                f"{path} has runs of more than one {name}, which are not comparable: "
                f"{', '.join(found)}. Repeat those settings, choose another --output folder, or "
                "take the lines and checkpoints of other runs out of this one."
            )


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file: wherever process or machine stop, the old or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
