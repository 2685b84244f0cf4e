"""``run``: time kernels into a CSV file and print its tables."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from benchmarks import cases, memory
from benchmarks.arguments import (
    Refused,
    add_csv,
    add_device,
    add_names,
    add_number,
    number,
    whole_number,
)
from benchmarks.cases import Group, Shape
from benchmarks.claims import claim_groups
from benchmarks.measure import measure, record
from benchmarks.units import format_shape
from mish_cuda._extension import REASON, REMEDY

TENSORS_AT_ONCE = 10  # of a case at most: inputs, and what naive Mish allocates beside them
_PRESETS = "\n".join(
    f"  {name}: {' '.join(map(format_shape, shapes))}" for name, shapes in cases.PRESETS.items()
)

DESCRIPTION = f"""\
Times mish_cuda beside F.mish, other ways to Mish, other activations and a copy;
takes the peak memory of forward and backward; writes a CSV file and prints its
tables. On the CPU by torch's benchmark clock, on CUDA by replaying graphs between
events; always in turns, medians with p20 and p80. Ctrl-C keeps what was measured.

Suites: "kernels", the grid that the options below choose from; "compiled",
torch.compile of Mish among its neighbours; "norms", BatchNorm and GroupNorm with Mish
behind them; and what this library promises of its speed, "claims" on a CPU, "gpu" on a
GPU (sizes up to 2^30, and the cost of a call). By default all but "gpu"; the kernels
alone where an option chooses from them; with --preset also the network's norms.

shapes of --preset, with a --batch of 1:
{_PRESETS}
"""

EPILOG = """\
-d -n -w -s -b -t and their long forms are those of the old mish-cuda package's
perftest.py, but a round of -n times a block of calls and tables show the median;
-w is at least 1; -s takes several shapes; without -b all providers are measured,
none with the softplus of the old -b; "-t all" includes bfloat16.

examples:
  python -m benchmarks run
  python -m benchmarks run --preset yolov4-csp --batch 4 --dtypes fp32 bf16
  python -m benchmarks run -d 0 -t float16 -s "(16,10,256,256)" -b -n 100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options]"
    add_device(parser, "-d")
    suites = ("kernels", "compiled", "norms", "claims", "gpu")
    parser.add_argument("--only", choices=suites, help="one of the suites")
    add_csv(parser, "mish_benchmark.csv")
    kernels = parser.add_argument_group("which kernels")
    kernels.add_argument(
        *("-s", "--size", "--sizes", "--shapes"),
        type=shape,
        nargs="+",
        dest="shapes",
        metavar="SHAPE",
        help="numbers of elements, or shapes as 8x64x32x32 or (8,64,32,32) "
        f"(default: {' '.join(str(numel) for (numel,) in cases.KERNEL_SHAPES)})",
    )
    what = "shapes of a network's activations"
    kernels.add_argument("--preset", choices=cases.PRESETS, help=what)
    add_number(kernels, "--batch", help="first axis of the shapes of --preset")
    usual = f"{', '.join(cases.DTYPES)}, torch's names of them, or all (default: all)"
    names = (*cases.DTYPES, "all")
    flags = ("-t", "--type", "--dtypes")
    add_names(kernels, flags, names, usual, dest="dtypes", type=dtype, default=())
    add_names(kernels, ("--directions",), cases.KERNEL_DIRECTIONS)
    usual = f"{', '.join(map(repr, cases.PROVIDERS))} (default: those neither compiled nor triton)"
    add_names(kernels, ("--providers",), cases.PROVIDERS, usual)
    kernels.add_argument(
        *("-b", "--baseline"),
        action="store_const",
        const=["mish_cuda", "naive", "relu"],
        dest="providers",
        help="short for --providers mish_cuda naive relu",
    )
    add_number(kernels, "--threads", help="CPU threads (default: 1)")
    pace = parser.add_argument_group("how long")
    what = "seconds for each group of cases timed in turn; large inputs take longer"
    add_number(pace, "--seconds", kind=number, default=0.3, help=what)
    add_number(pace, "--minutes", help="begin no group of cases after so many minutes")
    add_number(pace, "-n", "--n_repeat", "--rounds", help="rounds, in place of --seconds")
    add_number(pace, "-w", "--warmup", default=1, help="calls before the first round")


def shape(text: str) -> Shape:
    """An argument such as 4096, 8x64x32x32 or (8,64,32,32)."""
    return tuple(map(whole_number, text.strip("()[]").rstrip(",").replace(",", "x").split("x")))


def dtype(text: str) -> str:
    """Our name for torch's, which the old package's perftest.py took."""
    name = text.removeprefix("torch.")
    return {str(d).removeprefix("torch."): ours for ours, d in cases.DTYPES.items()}.get(name, name)


def run(args: argparse.Namespace) -> int:
    groups = choose(args)
    largest = max((c for group in groups for c in group.cases), key=lambda c: c.input_bytes)
    what = f"{format_shape(largest.shape)} in {largest.dtype}"
    needed = TENSORS_AT_ONCE * largest.input_bytes
    memory.require(args.device, what, needed, "size in --shapes")
    # The grid of a GPU has many cases: its rounds are enough.
    pace = 0 if args.n_repeat or args.only == "gpu" else args.seconds
    return record(
        groups,
        lambda group: measure(group, args.device, pace, args.warmup),
        args.device,
        args.command,
        args.csv,
        args.minutes,
        rivals_may_fail=args.only == "gpu",
    )


def choose(args: argparse.Namespace) -> list[Group]:
    if REMEDY:
        raise Refused(f"mish_cuda has no kernels to measure: {REASON}. {REMEDY}.")
    if args.batch and not args.preset:
        raise Refused("--batch: expected a --preset, whose shapes it scales")
    preset = [(args.batch or 1, *shape[1:]) for shape in cases.PRESETS.get(args.preset, ())]
    options = {
        "shapes": dict.fromkeys([*(args.shapes or ()), *preset]),
        "dtypes": cases.DTYPES if "all" in args.dtypes else dict.fromkeys(args.dtypes),
        "directions": args.directions,
        "providers": args.providers,
        "threads": args.threads,
    }
    chosen: dict[str, Any] = {name: choice for name, choice in options.items() if choice}
    if chosen and args.only not in (None, "kernels"):
        raise Refused(f"--only {args.only}: expected no options that choose kernels")
    needed = {"claims": "cpu", "gpu": "cuda"}.get(args.only, "")
    if not args.device.startswith(needed):
        raise Refused(f"--only {args.only}: expected --device {needed}")
    names = (args.only,) if args.only else ("kernels", "compiled", "norms")
    grids = [grid for name in names for grid in cases.SUITES.get(name, ())]
    if chosen:
        grids = [replace(grid, **chosen) for grid in cases.SUITES["kernels"]]
        norm = cases.PRESET_NORMS.get(args.preset)
        if norm and not (args.only or args.providers):
            behind = [grid for grid in cases.SUITES["norms"] if grid.providers[0].startswith(norm)]
            grids += [replace(grid, **chosen | {"shapes": preset}) for grid in behind]
    groups = [group for grid in grids for group in grid.groups()]
    if args.only == "claims" or not (args.only or chosen or args.device != "cpu"):
        groups += claim_groups()
    if not groups:
        raise Refused("expected a provider that has one of the --directions")
    return [replace(group, min_rounds=args.n_repeat or group.min_rounds) for group in groups]
