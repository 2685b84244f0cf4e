"""The steps of a run: what each does, leaves in the folder, and requires."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.cells import Cell, Group
from benchmarks.environment import Environment
from benchmarks.measure import by_graphs, measure
from benchmarks.results import Failure, Result
from gpu import claims, commands, grid, launch, providers, report
from gpu.steps import Deadline, Missing, Outcome, Step, Word

FLOAT_PATTERNS = 2**28
PLOT_SECONDS = 15
ROUNDS = 7


def steps(folder: Path, facts: Environment) -> dict[str, Step]:
    """In their order. The benchmarks take what time the others leave."""
    found = grid.Found()
    return {
        "tests": Step(partial(commands.run_tests, folder), 200),
        "accuracy": Step(partial(run_accuracy, folder, facts, "cuda", FLOAT_PATTERNS), 60),
        "launch cost": Step(partial(run_launch_cost, folder), 20),
        "memcheck": Step(partial(commands.run_sanitizer, "memcheck", folder), 50),
        "racecheck": Step(partial(commands.run_sanitizer, "racecheck", folder), 50),
        "benchmarks": Step(partial(run_benchmarks, folder, facts, found), spare=PLOT_SECONDS),
        "plots": Step(partial(run_plots, folder, facts, found)),
    }


def run_accuracy(
    folder: Path, facts: Environment, device: str, count: int, deadline: Deadline
) -> Outcome:
    """All 16-bit numbers, and `count` floats, against the bounds."""
    # Not above: they need numpy and mpmath, without which all other steps run.
    from accuracy.results import write
    from gpu import accuracy

    rows = []
    tasks = [(f, order) for f in accuracy.FORMATS for order in range(3)]
    while tasks and deadline.left() > 0:
        rows += accuracy.measure(*tasks.pop(0), count, device)
    torch.cuda.empty_cache()  # the next steps are other processes
    write(folder / "accuracy.csv", facts, rows)
    verdicts = accuracy.judge(rows)
    required = [v for v in verdicts if v.required]
    broken = [f"{v.function} {v.dtype}, {v.region.bound}" for v in required if not v.ok]
    return _outcome(
        f"{len(required)} bounds, {sum(row.errors.tried for row in rows):,} results",
        [f"not kept: {'; '.join(broken)}"] if broken else [],
        [f"{len(tasks)} of 9 functions and dtypes not reached"] if tasks else [],
        report.errors(verdicts),
    )


def run_launch_cost(folder: Path, deadline: Deadline) -> Outcome:
    """What a call costs where the kernel is nothing; less than a second in all."""
    times = launch.measure("cuda")
    data = {" ".join(key): asdict(timing) for key, timing in times.items()}
    (folder / "launch.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    dearer = launch.dearer(times)
    return _outcome(
        ", ".join(f"{' '.join(key)} {t.median * 1e6:.2f} µs" for key, t in times.items()),
        [f"dearer than F.mish: {', '.join(dearer)}"] if dearer else [],
        [],
        report.launch(times),
    )


def run_benchmarks(
    folder: Path, facts: Environment, found: grid.Found, deadline: Deadline
) -> Outcome:
    """Every provider, size and dtype by graph replay."""
    with results.open_writer(folder / "kernels.csv", facts) as write:
        grid.walk(found, partial(measure_cells, device="cuda"), write, deadline)
    verdicts = claims.judge(found.results)
    lost = [str(v.claim) for v in verdicts if v.broken]
    broken = [f"{f.cell.direction} {f.cell.dtype}: {f.reason}" for f in found.broken]
    return _outcome(
        f"{len(found.results)} cells, {len(found.failures)} failed",
        [
            *([f"mish_cuda failed: {'; '.join(broken)}"] if broken else []),
            *([f"not kept: {'; '.join(lost)}"] if lost else []),
        ],
        [f"{len(found.unreached)} inputs not reached"] if found.unreached else [],
        report.speed(found, verdicts),
    )


def measure_cells(cells: Sequence[Cell], device: str) -> tuple[list[Result], list[Failure]]:
    """Times by graph replay, of cells of one dtype, shape and direction."""
    way = partial(by_graphs, call=providers.call)
    return measure(Group("gpu", tuple(cells), ROUNDS), device, seconds=0, way=way)


def run_plots(folder: Path, facts: Environment, found: grid.Found, deadline: Deadline) -> Outcome:
    """A picture for each direction and dtype."""
    if not found.results:
        raise Missing("nothing was measured")
    from gpu import plots  # not above: it needs matplotlib

    names = plots.draw(found.results, facts.summary(), folder)
    return Outcome("ok", ", ".join(names), "\n".join(f"![{name}]({name})" for name in names))


def _outcome(
    detail: str, broken: Sequence[str], unfinished: Sequence[str], section: str
) -> Outcome:
    """FAILED if anything is broken; else, out of time if anything was left out."""
    word: Word = "FAILED" if broken else "out of time" if unfinished else "ok"
    return Outcome(word, "; ".join([*broken, *unfinished, detail]), section)
