"""``paper``: train the networks of the Mish paper with four activations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout  # a dependency of torch
from rich.console import Console

from benchmarks import environment, plots, views
from benchmarks.arguments import Refused, add_device, add_names, add_number, rate
from benchmarks.display import progress_bar
from benchmarks.paper import data
from benchmarks.paper import plots as pictures
from benchmarks.paper.protocol import ACTIVATIONS, DEFAULTS, SEEDS
from benchmarks.paper.study import Study, read
from benchmarks.paper.training import train
from benchmarks.plot import draw
from benchmarks.timing import threads

DESCRIPTION = """\
The comparison of the Mish paper, https://arxiv.org/abs/1908.08681. `run` trains SE-
ResNet-18 with each activation from several seeds; interrupted or killed, it goes on
after the last finished epoch when it is called again. `plot` makes its pictures and
its summary again. `pictures` draws the function with its derivatives, and what
random networks make of the plane.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("run", "plot", "pictures"), nargs="?", default="run")
    parser.add_argument(
        "--dataset",
        choices=DEFAULTS,
        default="digits",
        help="digits come with scikit-learn and take some minutes; the others are what the paper "
        "has, and want a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="where cifar-10-python.tar.gz or cifar-100-python.tar.gz is, or what it holds",
    )
    add_names(parser, "--activations", ACTIVATIONS)

    of_each = {dataset: vars(s) | {"seeds": SEEDS[dataset]} for dataset, s in DEFAULTS.items()}
    for name, what in {
        "seeds": "runs of each activation; more can be added later",
        "epochs": "passes over the training images",
        "width": "channels of the network's first stage",
        "batch_size": "images in a batch",
        "learning_rate": "of Adam",
    }.items():
        known = ", ".join(f"{values[name]:g} for {dataset}" for dataset, values in of_each.items())
        flag, kind = f"--{name.replace('_', '-')}", rate if name == "learning_rate" else None
        add_number(parser, flag, help=f"{what} (default: {known})", kind=kind)
    add_number(parser, "--threads", default=1, help="of the CPU")
    add_device(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("mish_paper"),
        metavar="FOLDER",
        help="folder to write to (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    if args.what == "pictures":
        for picture in (pictures.function(), pictures.landscape()):
            path = args.output / f"{picture.name}.png"
            plots.save(picture, path)
            print(path)
        return 0
    console = Console(highlight=False)
    if args.what == "run":
        with threads(args.threads):
            _train_all(args, console)
    _show(args.output, console)
    return 0


def _train_all(args: argparse.Namespace, console: Console) -> None:
    chosen = {name: value for name, value in vars(args).items() if value is not None}
    settings = DEFAULTS[args.dataset]
    settings = replace(settings, **{n: chosen[n] for n in vars(settings) if n in chosen})
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
        raise Refused(
            f"another process is training in {args.output}: wait for it, or choose another folder "
            "with --output"
        ) from error


def _show(folder: Path, console: Console) -> None:
    """Prints the tables of the runs in a folder, writes them there and draws the pictures."""
    source = read(folder / "epochs.csv")
    views.show([source], console)
    (folder / "summary.md").write_text(views.markdown([source]) + "\n", encoding="utf-8")
    draw(source, folder)
    console.print(f"In {folder}: epochs.csv, summary.md, accuracy.png, curves.png")
