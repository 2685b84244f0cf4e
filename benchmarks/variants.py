"""``variants``: choose the figures of csrc/cuda/tuning.h on the GPU that is here."""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import build_config
from benchmarks import timing
from benchmarks.arguments import Refused, add_csv, add_number, number
from benchmarks.cases import CHOSEN, Case, Group
from benchmarks.measure import Prepared, measure, record
from benchmarks.sass.kernels import find_toolkit, run_nvcc
from csrc.cuda.nvcc import Toolkit
from mish_cuda._bounds import DTYPES

DESCRIPTION = """\
Builds the dense CUDA kernels with other tiles, widths of access and cache hints, and
times each. Prints the fastest for each dtype, operation and size, and the best for
each operation over dtypes and sizes, small ones apart; csrc/cuda/tuning.h is where
they are chosen. Needs nvcc and a GPU. Exit status 1: a variant failed, or gives other
bits than the chosen ones.
"""

OPS = ("forward", "backward", "double backward")  # by the value of mish::Op
SIZES = (2**16, 173_056, 2**20, 2**24, 2**28)
ODD_SIZE = 65_537  # for comparing bits: the last block has a part of a pack
REPEATS = 5

Kernel = Callable[[int, Sequence[Tensor]], object]  # from an op, and its output and inputs


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
    add_number(parser, "--minutes", help="stop after so many minutes", kind=number, default=8)


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise Refused(f"expected a GPU, but torch {torch.__version__} sees none")
    start = time.monotonic()
    gpu = torch.cuda.get_device_properties()
    toolkit = find_toolkit([f"{gpu.major}.{gpu.minor}"], str(torch.version.cuda).split(".")[0])
    tried = variants((gpu.major, gpu.minor), gpu.max_threads_per_multi_processor)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        libraries = [Path(folder, f"{place}.so") for place in range(len(tried))]
        compiled = partial(build, toolkit, f"{gpu.major}{gpu.minor}")
        kernels = dict(zip(tried, pool.map(compiled, tried.values(), libraries), strict=True))
    groups = [
        Group("variants", tuple(Case(name, op, dtype, (size,)) for name in kernels), REPEATS)
        for dtype, op, size in product(DTYPES, OPS, SIZES)
        # At least two sets of operands take turns.
        if 2 * (OPS.index(op) + 2) * size * DTYPES[dtype].itemsize < torch.cuda.mem_get_info()[0]
    ]
    timed = partial(measure, device="cuda", seconds=0, prepare=partial(prepare, kernels))
    left = round(args.minutes - (time.monotonic() - start) / 60, 1)
    return record(groups, timed, "cuda", args.command, args.csv, max(left, 0.1))


def build(toolkit: Toolkit, arch: str, flags: list[str], library: Path) -> Kernel:
    """Compiles a variant, for GPUs of that architecture."""
    flags = [*build_config.NVCC_FLAGS, *flags, "-shared", "-Xcompiler=-fPIC", "-cudart=none"]
    flags += [f"-L{folder}" for folder in toolkit.library_dirs]
    flags += [f"-l:libcudart.so.{toolkit.major}"]
    run_nvcc(toolkit, arch, Path(__file__).with_suffix(".cu"), library, *flags)
    function = ctypes.CDLL(str(library)).run

    def launch(op: int, operands: Sequence[Tensor]) -> None:
        x = operands[0]
        pointers = (ctypes.c_void_p * len(operands))(*(t.data_ptr() for t in operands))
        sizes = ctypes.c_int64(x.numel()), ctypes.c_int64(x.element_size())
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        dtype = list(DTYPES.values()).index(x.dtype)  # in the order of mish::DType
        if error := function(op, dtype, pointers, *sizes, stream):
            raise RuntimeError(f"CUDA error {error}")

    return launch


def prepare(
    kernels: Mapping[str, Kernel], cases: Sequence[Case], device: str
) -> Callable[[Case], Prepared]:
    """As `measure.by_graphs`, of variants; refuses one that gives other bits than the chosen."""
    op, dtype = OPS.index(cases[0].direction), DTYPES[cases[0].dtype]

    def operands(size: int) -> list[Tensor]:
        return [torch.randn(size, dtype=dtype, device=device) for _ in range(op + 2)]

    moved = (op + 2) * cases[0].input_bytes
    sets = timing.buffer_sets(moved, torch.cuda.get_device_properties(device).L2_cache_size)
    inputs = [operands(cases[0].numel) for _ in range(sets)]
    pool = torch.cuda.graph_pool_handle()
    calls = timing.calls_per_graph(moved, sets)
    out, *odd = operands(ODD_SIZE)
    kernels[CHOSEN](op, [out, *odd])

    def prepared(case: Case) -> Prepared:
        call, result = partial(kernels[case.provider], op), torch.zeros_like(out)
        call([result, *odd])
        if not torch.equal(result, out):
            raise ValueError("other bits than those of the chosen figures")
        return partial(call, inputs[0]), partial(
            timing.graph_sampler, call, inputs, calls, device, pool
        )

    return prepared
