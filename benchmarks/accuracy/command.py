"""``accuracy``: try the kernels on all numbers, and hold their errors to the bounds."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import torch
from rich.console import Console

from benchmarks import environment, plots, results, views
from benchmarks.accuracy import implementations, norms
from benchmarks.accuracy.numbers import FORMATS
from benchmarks.accuracy.proof import LIMIT_FP64, LIMIT_NATIVE, prove
from benchmarks.accuracy.tables import judge
from benchmarks.arguments import Refused, add_csv, add_device, add_number
from benchmarks.display import conclude, progress_bar

DESCRIPTION = """\
Tries every number of fp32, fp16 and bf16 and a sample of fp64: on the CPU in the
kernels of each instruction set, on a GPU in the CUDA kernels; also norms with Mish
behind them, on some inputs. Compares with true values, writes a CSV file and a plot,
and prints the errors beside the bounds. The exit status is 1 if a bound is not kept.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    add_csv(parser, "mish_accuracy.csv")
    usual = f"all; of fp64 {LIMIT_FP64:,}; of fp32 in F.mish {LIMIT_NATIVE:,}"
    what = f"try at most N numbers of each interval of x (default: {usual})"
    add_number(parser, "--limit", help=what)


def run(args: argparse.Namespace) -> int:
    on_cpu = args.device == "cpu"
    facts = environment.collect(args.device, args.command)
    if on_cpu and not implementations.LIBRARY.exists():
        raise Refused(f"{implementations.LIBRARY} is not built. Run: make accuracy")
    if not on_cpu and facts["backend"] != "cuda":
        raise Refused(f"expected CUDA kernels, but {facts['backend']} is what runs there")
    console = Console(highlight=False)
    bar = progress_bar(console)
    cores = os.cpu_count() or 1
    workers = ProcessPoolExecutor(
        cores if on_cpu else min(cores, 8),  # each takes some memory of the GPU
        # A forked process would inherit torch's threads, which do not survive that.
        multiprocessing.get_context("spawn"),
        *(torch.set_num_threads, (1,)),
    )
    with results.open_writer(args.csv, "errors", facts) as write, bar, workers as pool:
        for number_format in FORMATS:
            write(prove(args.device, number_format, bar, args.limit, pool.map))
        write(norms.rows(args.device))
    (source,) = found = results.read([args.csv])
    views.show(found, console)
    picture = args.csv.with_suffix(".png")
    for drawn in views.pictures(source):
        plots.save(drawn, picture, environment.summary(facts))
    return conclude(judge(source.rows), "bounds", f"{args.csv}, {picture}", console)
