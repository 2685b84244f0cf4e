"""The command line: run the comparison, plot it again, draw the paper's pictures."""

from __future__ import annotations

import argparse
import importlib
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import environment
from benchmarks.arguments import device, positive
from benchmarks.exits import watch
from benchmarks.paper.protocol import ACTIVATIONS, DEFAULTS, Settings

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console

    from benchmarks.paper.data import Dataset
    from benchmarks.paper.records import Journal

DEFAULT_OUTPUT = Path("mish_paper")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "-m", "benchmarks.paper", *argv])
    try:
        return watch(
            lambda: args.function(args),
            parser.prog,
            ("matplotlib", "numpy", "rich", "scipy", "sklearn"),
            "paper",
            "Interrupted. `run` goes on after the last finished epoch when it is called again.",
        )
    except (OSError, ValueError, torch.OutOfMemoryError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="The comparison of the Mish paper, https://arxiv.org/abs/1908.08681.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="train the networks, write CSV files, plots and a summary",
        description="Trains SE-ResNet-18 with each activation from several seeds. Started again "
        "after it was interrupted or killed, it goes on after the last epoch that was finished.",
    )
    run.add_argument(
        "--dataset",
        choices=DEFAULTS,
        default="digits",
        help="digits come with scikit-learn and take some minutes; the others are what the paper "
        "has, and want a GPU (default: %(default)s)",
    )
    run.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="where cifar-10-python.tar.gz or cifar-100-python.tar.gz is, or what it holds",
    )
    run.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        nargs="+",
        default=tuple(ACTIVATIONS),
        metavar="NAME",
        help=f"(default: {' '.join(ACTIVATIONS)})",
    )
    for name, kind, what in (
        ("seeds", positive, "so many runs of each activation; more can be added later"),
        ("epochs", positive, "passes over the training images"),
        ("width", positive, "channels of the network's first stage"),
        ("batch-size", positive, "images in a batch"),
        ("learning-rate", _rate, "of Adam"),
    ):
        values = ", ".join(
            f"{getattr(default, name.replace('-', '_')):g} for {dataset}"
            for dataset, default in DEFAULTS.items()
        )
        run.add_argument(f"--{name}", type=kind, metavar="N", help=f"{what} (default: {values})")
    run.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="of the CPU (default: %(default)s)"
    )
    run.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default: %(default)s)",
    )
    _add_output(run)
    run.set_defaults(function=_run)

    plot = commands.add_parser(
        "plot",
        help="make plots and summary again from the CSV files",
        description="Makes accuracy.png, curves.png and summary.md from what `run` measured.",
    )
    plot.add_argument("folder", type=Path, metavar="FOLDER")
    plot.set_defaults(function=_plot)

    pictures = commands.add_parser(
        "pictures",
        help="draw the paper's pictures of the function itself",
        description="Draws Mish with its first and second derivative, function.png, and what a "
        "random network makes of the plane with ReLU, Swish and Mish, landscape.png.",
    )
    _add_output(pictures)
    pictures.set_defaults(function=_pictures)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help="folder to write to (default: %(default)s)",
    )


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _settings(args: argparse.Namespace) -> tuple[Settings, int]:
    """The settings, and the number of seeds."""
    chosen = {
        name: value if getattr(args, name) is None else getattr(args, name)
        for name, value in asdict(DEFAULTS[args.dataset]).items()
    }
    seeds = chosen.pop("seeds")
    return Settings(dataset=args.dataset, threads=args.threads, **chosen), seeds


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    importlib.import_module("benchmarks.paper.plots")  # what it lacks is told before the training
    console = Console(highlight=False)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        _run_all(args, console)
    finally:
        torch.set_num_threads(before)
    _show(args.output, console)
    return 0


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder: each would lose what the other records."""
    from filelock import FileLock, Timeout  # a dependency of torch

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training in {folder}: wait for it, or choose another folder with "
            "--output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run_all(args: argparse.Namespace, console: Console) -> None:
    from benchmarks.paper import data
    from benchmarks.paper.records import Journal

    settings, seeds = _settings(args)
    dataset = data.load(args.dataset, args.data)
    if len(dataset.train_labels) % settings.batch_size == 1:
        raise ValueError(
            f"--batch-size {settings.batch_size} leaves a batch of one image, of which batch norm "
            "has no variance: choose another"
        )
    facts = environment.collect(args.device, args.command)
    if facts.backend == "eager":
        console.print(f"mish_cuda has no kernels for {args.device} here: Mish runs eagerly.")
    # Seed by seed, so that what is there early can be compared. In the paper's order.
    names = [name for name in ACTIVATIONS if name in args.activations]
    runs = [(name, seed) for seed in range(seeds) for name in names]
    with _alone_in(args.output):
        journal = Journal(args.output, settings, facts)
        _train_all(runs, settings, dataset, args.device, journal, console)


def _train_all(
    runs: Sequence[tuple[str, int]],
    settings: Settings,
    dataset: Dataset,
    device: str,
    journal: Journal,
    console: Console,
) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from benchmarks.paper.records import Epoch
    from benchmarks.paper.training import train

    finished = journal.finished()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn("epochs"), TimeElapsedColumn(), TimeRemainingColumn()),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(runs) * settings.epochs)
        for place, (name, seed) in enumerate(runs):
            if (name, seed) in finished:
                continue
            text = f"{name}, seed {seed}"
            progress.update(task, completed=place * settings.epochs, description=text)

            def show(epoch: Epoch, place: int = place, text: str = text) -> None:
                progress.update(
                    task,
                    completed=place * settings.epochs + epoch.epoch,
                    description=f"{text}: {epoch.test_accuracy:.2f} % right",
                )

            checkpoint = journal.checkpoint(name, seed)
            run = train(name, seed, settings, dataset, device, checkpoint, show)
            journal.add(run)
            console.print(f"{text}: {run.accuracy:.2f} % of the test images right")


def _plot(args: argparse.Namespace) -> int:
    from rich.console import Console

    _show(args.folder, Console(highlight=False))
    return 0


def _show(folder: Path, console: Console) -> None:
    """Prints the summary of the runs in a folder, writes it there and draws the plots."""
    from benchmarks.paper import plots, tables
    from benchmarks.paper.records import read
    from benchmarks.plots import save, sign

    study = read(folder)
    (folder / "summary.md").write_text(tables.markdown(study), encoding="utf-8")
    for picture in (plots.accuracies(study), plots.curves(study)):
        sign(picture, study.environment.summary())
        save(picture, folder / f"{picture.name}.png")
    console.print(tables.rich_table(tables.results(study.runs), tables.title(study)))
    console.print(f"{tables.training(study)}.", tables.verdict(study.runs), sep="\n")
    console.print(tables.NOTES, style="dim")
    console.print(tables.SHOWS[study.settings.dataset], style="dim")
    console.print(tables.rich_table(tables.paper()))
    console.print(study.environment.summary())
    files = "runs.csv, curves.csv, summary.md, accuracy.png, curves.png"
    console.print(f"In {folder}: {files}")


def _pictures(args: argparse.Namespace) -> int:
    from benchmarks.paper import pictures
    from benchmarks.plots import save

    args.output.mkdir(parents=True, exist_ok=True)
    for picture in (pictures.function(), pictures.landscape()):
        path = args.output / f"{picture.name}.png"
        save(picture, path)
        print(path)
    return 0
