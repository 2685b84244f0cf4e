"""``run``: measure into a CSV file and print its tables."""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import mish_cuda
from benchmarks.arguments import device, positive, require_memory, seconds
from benchmarks.cells import (
    COMPILED,
    DTYPES,
    KERNEL_DIRECTIONS,
    KERNEL_SHAPES,
    PROVIDERS,
    Group,
    compiled_groups,
    kernel_groups,
)
from benchmarks.claims import claim_groups
from benchmarks.measure import measure
from benchmarks.presets import PRESETS, Shape, shapes_of
from benchmarks.recording import attempt, carry_out
from benchmarks.results import Failure, Measured
from benchmarks.units import format_shape

DEFAULT_CSV = Path("mish_benchmark.csv")
TENSORS_AT_ONCE = 10  # of a cell at most: inputs, and what naive Mish allocates beside them


def _presets() -> str:
    lines = (f"{name}: {' '.join(map(format_shape, shapes_of(name, 1)))}" for name in PRESETS)
    return "\n".join(
        textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ") for line in lines
    )


DESCRIPTION = f"""\
Times mish_cuda beside F.mish, other ways to Mish, other activations and a copy;
takes the peak memory of forward and backward; writes a CSV file and prints its
tables. On the CPU by torch's benchmark clock, on CUDA by replaying graphs between
events; always in turns, medians with p20 and p80. Ctrl-C keeps what was measured.

Three suites: "kernels", the grid that the options below choose from;
"compiled", torch.compile of Mish among its neighbours; and "claims", what this
library promises of its speed on a CPU. All of them by default; the kernels alone
where any of the options is given that choose from them.

shapes of --preset, with a --batch of 1:
{_presets()}
"""

EPILOG = """\
-d -n -w -s -b -t and their long forms are those of the old mish-cuda package's
perftest.py, and mean what they meant, but:
  -n  counts rounds, and a round times a block of calls (2 ms; on CUDA a graph of
      calls), not one; the median of the rounds is shown, not the mean
  -w  is 1 by default, and at least; calibrating calls each a few times more
  -s  takes several shapes, and has no default of (16,10,256,256)
  -b  is without softplus, which is no activation of this suite; without -b all
      providers are measured, not mish_cuda alone
  -t  all includes bfloat16, which the old package did not have
Backward is timed without the mean of the result that perftest.py took for a loss.

examples:
  python -m benchmarks run
  python -m benchmarks run --preset yolov4-csp --batch 4 --dtypes fp32 bf16
  python -m benchmarks run -d 0 -t float16 -s "(16,10,256,256)" -b -n 100
"""


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "run",
        help="measure kernels, write a CSV file, print tables",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options]",
    )
    parser.add_argument(
        "-d",
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:N or N, the number of a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--only", choices=("kernels", "compiled", "claims"), help="one of the suites"
    )
    parser.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE",
        help="file to write, over an older one (default: %(default)s)",
    )
    _add_choices(parser.add_argument_group("which kernels"))
    pace = parser.add_argument_group("how long")
    pace.add_argument(
        "--seconds",
        type=seconds,
        default=0.4,
        metavar="S",
        help="for each group of cells timed in turn; large inputs take longer "
        "(default: %(default)s)",
    )
    pace.add_argument(
        "-n",
        "--n_repeat",
        "--rounds",
        type=positive,
        dest="rounds",
        metavar="N",
        help="rounds, in place of --seconds",
    )
    pace.add_argument(
        "-w",
        "--warmup",
        type=positive,
        default=1,
        metavar="N",
        help="calls before the first round (default: %(default)s)",
    )
    parser.set_defaults(function=partial(_run, parser))


def _add_choices(kernels: Any) -> None:
    """Options that choose from the kernels; None where nothing is chosen."""
    kernels.add_argument(
        "-s",
        "--size",
        "--sizes",
        "--shapes",
        type=_shape,
        nargs="+",
        dest="shapes",
        metavar="SHAPE",
        help="numbers of elements, or shapes as 8x64x32x32 or (8,64,32,32) "
        f"(default: {' '.join(str(numel) for (numel,) in KERNEL_SHAPES)})",
    )
    kernels.add_argument("--preset", choices=PRESETS, help="shapes of the activations of a network")
    kernels.add_argument(
        "--batch", type=positive, metavar="N", help="first axis of the shapes of --preset"
    )
    kernels.add_argument(
        "-t",
        "--type",
        "--dtypes",
        type=_dtype,
        nargs="+",
        dest="dtypes",
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)}, torch's names of them, or all (default: all)",
    )
    kernels.add_argument(
        "--directions",
        choices=KERNEL_DIRECTIONS,
        nargs="+",
        metavar="DIRECTION",
        help=f"{', '.join(KERNEL_DIRECTIONS)} (default: all)",
    )
    kernels.add_argument(
        "--providers",
        choices=PROVIDERS,
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(map(repr, PROVIDERS))} (default: those not compiled)",
    )
    kernels.add_argument(
        "-b",
        "--baseline",
        action="store_const",
        const=["mish_cuda", "naive", "relu"],
        dest="providers",
        help="short for --providers mish_cuda naive relu",
    )
    kernels.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: 1)")


def _shape(text: str) -> Shape:
    if not re.fullmatch(r"\d+(x\d+)*|\(\d+(,\d+)*,?\)|\[\d+(,\d+)*\]", text.replace(" ", "")):
        raise argparse.ArgumentTypeError(
            f"expected elements or a shape, as 4096, 8x64x32x32 or (8,64,32,32), got {text}"
        )
    shape = tuple(map(int, re.findall(r"\d+", text)))
    if not all(shape):
        raise argparse.ArgumentTypeError(f"expected axes of 1 and more, got {text}")
    return shape


def _dtype(text: str) -> str:
    names = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
    name = names.get(text.removeprefix("torch."), text)
    if name not in (*DTYPES, "all"):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(DTYPES)}, got {text}")
    return name


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    groups = _groups(parser, args)
    largest = max((c for group in groups for c in group.cells), key=lambda c: c.input_bytes)
    what = f"{format_shape(largest.shape)} in {largest.dtype}"
    require_memory(
        parser, args.device, what, TENSORS_AT_ONCE * largest.input_bytes, "size in --shapes"
    )
    failures: list[Failure] = []

    def timed(group: Group) -> Measured:
        return measure(group, args.device, 0 if args.rounds else args.seconds, args.warmup)

    steps = [(group.title, partial(attempt, group, timed, failures)) for group in groups]
    return carry_out(steps, failures, args)


def _groups(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Group]:
    """What the options ask for."""
    if args.batch and not args.preset:
        parser.error("--batch: expected a --preset, whose shapes it scales")
    preset = shapes_of(args.preset, args.batch or 1) if args.preset else ()
    chosen = {
        "shapes": list(dict.fromkeys([*(args.shapes or ()), *preset])),
        "dtypes": tuple(DTYPES) if "all" in (args.dtypes or ()) else args.dtypes,
        "directions": args.directions,
        "providers": args.providers,
        "threads": args.threads,
    }
    chosen = {name: choice for name, choice in chosen.items() if choice}
    on_cpu = args.device == "cpu"
    if chosen and args.only not in (None, "kernels"):
        parser.error(f"--only {args.only}: expected no options that choose kernels")
    if args.only == "claims" and not on_cpu:
        parser.error("--only claims: expected --device cpu, which the claims are about")
    only = args.only or ("kernels" if chosen else None)
    groups = []
    if only in (None, "kernels"):
        groups += kernel_groups(**chosen)
    if only in (None, "compiled"):
        with_kernel = mish_cuda.backend(torch.empty(0, device=args.device)) != "eager"
        groups += compiled_groups([name for name in COMPILED if with_kernel or name != "kernel"])
    if only in (None, "claims") and on_cpu:
        groups += claim_groups()
    if args.rounds:
        groups = [replace(group, min_rounds=args.rounds) for group in groups]
    return groups
