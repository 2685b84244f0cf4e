"""``variants``: choose the figures of csrc/cuda/tuning.h on the GPU that is here."""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import build_config
from benchmarks.arguments import FAILED, Refused, add_csv, add_number
from benchmarks.sass.kernels import find_toolkit, output_of
from benchmarks.timing import elapsed
from csrc.cuda.nvcc import Toolkit

DESCRIPTION = """\
Builds the dense CUDA kernels with other tiles, widths of access and cache hints, and
times each beside F.mish, torch.relu and a copy. Prints the fastest for each dtype,
operation and size, and the best for each operation over dtypes and sizes, small ones
apart; csrc/cuda/tuning.h is where they are chosen. Needs nvcc and a GPU.
Exit status 1: a variant gives other bits than the chosen ones.
"""

ROOT = Path(__file__).parents[1]
OPS = ("forward", "backward", "double backward")  # by the value of mish::Op
# By the value of mish::DType.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (2**16, 173_056, 2**20, 2**24, 2**28)
ODD_SIZE = 65_537  # for comparing bits: the last block has a part of a pack
LARGE = 2**20  # elements: smaller tensors have small tiles on some GPUs
REPEATS = 5
CHOSEN = "chosen"
COLUMNS = ("gpu", "dtype", "operation", "size", "kernel", "us")


Kernel = Callable[[int, list[Tensor]], None]


def variants(capability: tuple[int, int], threads_of_processor: int) -> dict[str, list[str]]:
    """The figures that were chosen, and all others that a GPU can run: by their names, the macros
    of csrc/cuda/tuning.h as arguments of the compiler."""
    found: dict[str, list[str]] = {CHOSEN: []}
    accesses = [(16, 0), (16, 1)] + ([(32, 0)] if capability >= (10, 0) else [])
    for packs, threads, blocks, access in product((1, 2, 4), (128, 256, 512), (4, 5, 6), accesses):
        if threads * blocks <= threads_of_processor:
            macros = [f"threads={threads}", f"packs={packs}", f"min_blocks={blocks}"]
            macros += [f"pack_bytes={access[0]}", f"streaming={access[1]}"]
            found[" ".join(macros)] = [f"-DMISH_{macro.upper()}" for macro in macros]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_csv(parser, "mish_variants.csv")
    add_number(parser, "--minutes", help="stop after so many minutes", kind=float, default=8)


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise Refused(f"expected a GPU, but torch {torch.__version__} sees none")
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    gpu = torch.cuda.get_device_properties()
    toolkit = find_toolkit([f"{gpu.major}.{gpu.minor}"], str(torch.version.cuda).split(".")[0])
    tried = variants((gpu.major, gpu.minor), gpu.max_threads_per_multi_processor)
    wrong: set[str] = set()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        libraries = [Path(folder, f"{place}.so") for place in range(len(tried))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = partial(build, toolkit, f"{gpu.major}{gpu.minor}")
            built = pool.map(compiled, tried.values(), libraries)
            kernels = dict(zip(tried, built, strict=True))
        print(f"{len(kernels)} variants on {gpu.name}", flush=True)
        found: dict[tuple[str, bool], list[dict[str, float]]] = {}
        for dtype, op, size in product(DTYPES, range(len(OPS)), SIZES):
            if time.monotonic() > end:
                print(f"Stopped after {args.minutes:g} minutes.")
                break
            if (op + 2) * size * dtype.itemsize > 0.5 * torch.cuda.mem_get_info()[0]:
                print(f"{dtype}, {OPS[op]}, {size:,} elements: not enough memory")
                continue
            wrong |= other_bits(kernels, dtype, op)
            times = measure(calls(kernels, dtype, op, size), launches=3 if size >= 2**24 else 50)
            case = (gpu.name, str(dtype).removeprefix("torch."), OPS[op], size)
            rows += [(*case, name, f"{us:.3f}") for name, us in times.items()]
            pd.DataFrame(rows, columns=COLUMNS).to_csv(args.csv, index=False)
            # The fastest variant, the chosen one and the rivals.
            best = min(kernels, key=times.__getitem__)
            told = [f"best {times[best]:.2f} us ({best})", f"chosen {times[CHOSEN]:.2f}"]
            told += [f"{name} {us:.2f}" for name, us in times.items() if name not in kernels]
            print(f"{' '.join(map(str, case[1:]))}: {', '.join(told)}", flush=True)
            found.setdefault((OPS[op], size >= LARGE), []).append(times)
    for (operation, large), cases in found.items():
        print(f"{operation}, {'large' if large else 'small'}: {overall(cases, kernels)}")
    for name in sorted(wrong):
        print(f"Other bits: {name}")
    print(f"Data: {args.csv}")
    return FAILED if wrong else 0


def build(toolkit: Toolkit, arch: str, flags: list[str], library: Path) -> Kernel:
    """Compiles a variant; the result takes an op, and the output and inputs of it."""
    command = [str(toolkit.root / "bin/nvcc"), *build_config.NVCC_FLAGS, *flags]
    command += ["-shared", "-Xcompiler=-fPIC", f"-arch=sm_{arch}", "-cudart=none"]
    command += [f"-I{folder}" for folder in [ROOT / "csrc", *toolkit.include_dirs]]
    command += [f"-L{folder}" for folder in toolkit.library_dirs]
    command += [f"-l:libcudart.so.{toolkit.major}", "-o", str(library)]
    output_of(*command, str(ROOT / "benchmarks/variants.cu"))
    function = ctypes.CDLL(str(library)).run

    def launch(op: int, operands: list[Tensor]) -> None:
        x = operands[0]
        pointers = (ctypes.c_void_p * len(operands))(*(t.data_ptr() for t in operands))
        sizes = ctypes.c_int64(x.numel()), ctypes.c_int64(x.element_size())
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if error := function(op, DTYPES.index(x.dtype), pointers, *sizes, stream):
            raise RuntimeError(f"{' '.join(flags)}: CUDA error {error}")

    return launch


def operands_of(dtype: torch.dtype, op: int, size: int) -> list[Tensor]:
    return [torch.randn(size, dtype=dtype, device="cuda") for _ in range(op + 2)]


def other_bits(kernels: dict[str, Kernel], dtype: torch.dtype, op: int) -> set[str]:
    """The variants that differ from the first. One that the GPU refuses to launch is dropped."""
    out, *inputs = operands_of(dtype, op, ODD_SIZE)
    results = {}
    for name, kernel in list(kernels.items()):
        try:
            kernel(op, [out.zero_(), *inputs])
        except RuntimeError as error:
            print(f"Dropped: {error}")
            del kernels[name]
            continue
        results[name] = out.clone()
    first = next(iter(results.values()))
    return {name for name, result in results.items() if not torch.equal(result, first)}


def calls(
    kernels: dict[str, Kernel], dtype: torch.dtype, op: int, size: int
) -> dict[str, Callable[[], object]]:
    """The variants and their rivals on the same memory; PyTorch has no op for double backward."""
    out, *inputs = operands = operands_of(dtype, op, size)
    aten = torch.ops.aten
    native = {0: lambda: aten.mish.out(*inputs, out=out), 1: lambda: aten.mish_backward(*inputs)}
    return {
        **{name: partial(kernel, op, operands) for name, kernel in kernels.items()},
        **({"F.mish": native[op]} if op in native else {}),
        "torch.relu": lambda: aten.relu.out(inputs[0], out=out),
        "copy": lambda: out.copy_(inputs[0]),
    }


def measure(calls: dict[str, Callable[[], object]], launches: int) -> dict[str, float]:
    """Microseconds of each call, the median of some rounds of all of them. Each is replayed from a
    CUDA graph, so that the time of a launch from Python does not count."""
    graphs = {}
    for name, call in calls.items():
        call()
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            for _ in range(launches):
                call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, graph in graphs.items():
            times[name].append(1e6 * elapsed(graph.replay, 1) / launches)
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def overall(cases: Sequence[dict[str, float]], names: Iterable[str]) -> str:
    """The variant that is fastest over these cases, by the geometric mean of its times over those
    of the chosen one."""
    means = {
        name: statistics.geometric_mean(times[name] / times[CHOSEN] for times in cases)
        for name in names
    }
    best = min(means, key=means.__getitem__)
    return f"best {best}, {means[best]:.3f} of the chosen one's time"
