"""``paper``: train the networks of the Mish paper with four activations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout  # a dependency of torch
from rich.console import Console

from benchmarks import environment, plots, views
from benchmarks.arguments import Refused, add_device, add_names, add_number, add_path, rate
from benchmarks.display import progress_bar
from benchmarks.paper import data, tables  # noqa: F401  # a missing scipy is told at once
from benchmarks.paper import plots as pictures
from benchmarks.paper.protocol import ACTIVATIONS, DEFAULTS, SEEDS
from benchmarks.paper.study import Study, read
from benchmarks.paper.training import train
from benchmarks.timing import threads

DESCRIPTION = """\
The comparison of the Mish paper, https://arxiv.org/abs/1908.08681. `run` trains SE-
ResNet-18 with each activation from several seeds; interrupted or killed, it goes on
after the last finished epoch when it is called again. `plot` makes its pictures and
its summary again. `pictures` draws the function with its derivatives, and what
random networks make of the plane.
"""
OPTIONS = {
    "seeds": "runs of each activation; more can be added later",
    "epochs": "passes over the training images",
    "width": "channels of the network's first stage",
    "batch_size": "images in a batch",
    "learning_rate": "of Adam",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("run", "plot", "pictures"), nargs="?", default="run")
    what = (
        "digits come with scikit-learn and take some minutes; the others are what the paper "
        "has, and want a GPU (default: %(default)s)"
    )
    parser.add_argument("--dataset", choices=DEFAULTS, default="digits", help=what)
    what = "where cifar-10-python.tar.gz or cifar-100-python.tar.gz is, or what it holds"
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=what)
    add_names(parser, ("--activations",), ACTIVATIONS)
    of_each = {dataset: vars(s) | {"seeds": SEEDS[dataset]} for dataset, s in DEFAULTS.items()}
    for name, what in OPTIONS.items():
        known = ", ".join(f"{values[name]:g} for {dataset}" for dataset, values in of_each.items())
        flag, kind = f"--{name.replace('_', '-')}", rate if name == "learning_rate" else None
        add_number(parser, flag, help=f"{what} (default: {known})", kind=kind)
    add_number(parser, "--threads", default=1, help="of the CPU")
    add_device(parser)
    add_path(parser, "--output", "mish_paper", "folder to write to", "FOLDER")


def run(args: argparse.Namespace) -> int:
    if args.what == "pictures":
        for picture in (pictures.function(), pictures.landscape()):
            plots.save(picture, args.output / f"{picture.name}.png")
            print(args.output / f"{picture.name}.png")
        return 0
    console = Console(highlight=False)
    if args.what == "run":
        with threads(args.threads):
            _train_all(args, console)
    _show(args.output, console)
    return 0


def _train_all(args: argparse.Namespace, console: Console) -> None:
    settings = DEFAULTS[args.dataset]
    chosen = {name: value for name in vars(settings) if (value := getattr(args, name)) is not None}
    settings = replace(settings, **chosen)
    dataset = data.load(args.dataset, args.data)
    if len(dataset.train_labels) % settings.batch_size == 1:
        raise Refused(
            f"--batch-size {settings.batch_size} leaves a batch of one image, of which batch norm "
            "has no variance: choose another"
        )
    facts = environment.collect(args.device, args.command)
    if facts["backend"] == "eager":
        console.print(f"mish_cuda has no kernels for {args.device} here: Mish runs eagerly.")
    # Seed by seed, so that what is there early can be compared. In the paper's order.
    names = [name for name in ACTIVATIONS if name in (args.activations or ACTIVATIONS)]
    runs = [(name, seed) for seed in range(args.seeds or SEEDS[args.dataset]) for name in names]
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        # Of two processes in a folder each would lose what the other records.
        with FileLock(args.output / ".lock", timeout=0), progress_bar(console) as bar:
            study = Study(args.output, settings, facts)
            todo = [each for each in runs if each not in study.finished()]
            task = bar.add_task("", total=len(todo) * settings.epochs)
            for place, run in enumerate(todo):
                for epoch in train(run, study, dataset, args.device):
                    right = f"{run[0]}, seed {run[1]}: {epoch['test_accuracy']:.2f} % right"
                    done = place * settings.epochs + epoch["epoch"]
                    bar.update(task, completed=done, description=right)
                console.print(right)
    except Timeout as error:
        raise Refused(f"another process is training in {args.output}") from error


def _show(folder: Path, console: Console) -> None:
    """Prints the tables of the runs in a folder, writes them there and draws the pictures."""
    source = read(folder / "epochs.csv")
    views.show([source], console)
    (folder / "summary.md").write_text(views.markdown([source]) + "\n", encoding="utf-8")
    views.draw(source, folder)
    console.print(f"In {folder}: epochs.csv, summary.md, accuracy.png, curves.png")
