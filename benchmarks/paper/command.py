"""``paper``: train the networks of the Mish paper with four activations."""

from __future__ import annotations

import argparse
import itertools
from functools import partial

import pandas as pd
from filelock import FileLock, Timeout  # a dependency of torch
from rich.console import Console

from benchmarks import environment, plots, results, views
from benchmarks.arguments import Refused, add_device, add_names, add_number, add_path, number
from benchmarks.display import progress_bar
from benchmarks.paper import data, study, tables  # noqa: F401  # a missing scipy is told at once
from benchmarks.paper import plots as pictures
from benchmarks.paper.protocol import ACTIVATIONS, DEFAULTS
from benchmarks.paper.training import train
from benchmarks.timing import threads

DESCRIPTION = """\
The comparison of the Mish paper, https://arxiv.org/abs/1908.08681. `run` trains SE-
ResNet-18 with each activation from several seeds; interrupted or killed, it goes on
after the last finished epoch when it is called again. `plot` makes its pictures and
its summary again. `pictures` draws the function with its derivatives, and what
random networks make of the plane. docs/paper.md has the numbers of seeds, epochs and
so on that are the default for each data set.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("run", "plot", "pictures"), nargs="?", default="run")
    what = "digits come with scikit-learn and take minutes; the others want a GPU (default: digits)"
    parser.add_argument("--dataset", choices=DEFAULTS, default="digits", help=what)
    what = "where cifar-10-python.tar.gz or cifar-100-python.tar.gz is, or what it holds"
    add_path(parser, "--data", ".", what, "FOLDER")
    add_names(parser, ("--activations",), ACTIVATIONS)
    add_number(parser, "--seeds", help="runs of each activation; more can be added later")
    add_number(parser, "--epochs", help="passes over the training images")
    add_number(parser, "--width", help="channels of the network's first stage")
    add_number(parser, "--batch-size", help="images in a batch")
    add_number(parser, "--learning-rate", help="of Adam", kind=number)
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
    source = study.read(args.output / "epochs.csv")
    views.show([source], console)
    summary = args.output / "summary.md"
    summary.write_text(views.markdown([source]) + "\n", encoding="utf-8")
    print(source.path, summary, *views.draw(source, args.output), sep="\n")
    return 0


def _train_all(args: argparse.Namespace, console: Console) -> None:
    usual = DEFAULTS[args.dataset]
    settings = usual | {k: v for k, v in vars(args).items() if k in usual and v is not None}
    dataset = data.load(args.dataset, args.data)
    if len(dataset.train_labels) % settings["batch_size"] == 1:
        raise Refused("--batch-size leaves a batch of one image, of which there is no batch norm")
    facts = environment.collect(args.device, args.command)
    same = {**settings, "dataset": args.dataset, "threads": args.threads, **facts}
    # Seed by seed, so that what is there early can be compared. In the paper's order.
    names = [name for name in ACTIVATIONS if name in (args.activations or ACTIVATIONS)]
    runs = list(itertools.product(range(int(settings["seeds"])), names))
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        # Of two processes in a folder each would lose what the other records.
        with FileLock(args.output / ".lock", timeout=0), progress_bar(console) as bar:
            finished = study.begun(args.output, same)
            known = {(row["seed"], row["activation"]) for row in finished}
            for seed, name in bar.track([run for run in runs if run not in known]):
                run = {**same, "activation": name, "seed": seed}
                checkpoint = args.output / "checkpoints" / f"{name}-{seed}.pt"
                for rows in train(run, dataset, args.device, checkpoint):
                    where = f"{name}, seed {seed}, epoch {len(rows)}"
                    bar.update(bar.task_ids[0], description=where)
                finished += rows
                table = pd.DataFrame(finished, columns=results.columns("epochs"))
                write = partial(table.to_csv, index=False, na_rep="nan")
                study.replace(args.output / "epochs.csv", write)
                checkpoint.unlink()
                console.print(f"{name}, seed {seed}: {rows[-1]['test_accuracy']:.2f} % right")
    except Timeout as error:
        raise Refused(f"another process is training in {args.output}") from error
