"""Compiles the dense kernels of csrc/cuda and those of norms with nvcc, and reads their counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from typing import Any

import build_config
from benchmarks.arguments import Refused
from benchmarks.cases import DTYPES
from benchmarks.sass.listing import WIDE, analyse, parse
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE, NORM_SOURCE = CSRC / "cuda/mish_kernels.cu", CSRC / "cuda/norm_kernels.cu"
# Of csrc/mish_math.h, and of plain/mish_math.h, which is found first: PyTorch lets nvcc fuse, and
# knows no pairs of floats.
FLAGS = {
    "ours": build_config.NVCC_FLAGS,
    "plain": [f"-I{Path(__file__).with_name('plain')}", "-O3", "-DMISH_PAIRS=0"],
}

Row = dict[str, Any]
_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.S,
)
# By the mangled name of the type.
_DTYPES = {"f": "fp32", "13__nv_bfloat16": "bf16", "6__half": "fp16", "d": "fp64"}
# The direction and the tensors that it reads, by the value of mish::Op or a norm's kernel.
KERNELS = {
    "0": ("forward", 1),
    "1": ("backward", 2),
    "2": ("double backward", 3),
    "apply": ("norm forward", 1),
    "reduce": ("norm sums", 2),
    "finish": ("norm backward", 2),
}
# mish::cuda::dense<Op, T, Kind, N>, for large tiles (Kind 0) and small ones, or apply<T, N> and
# others. With N = 1, for unaligned tensors, a kernel has no vector body.
_NAME = re.compile(
    r"(?:5denseILNS_2OpE(?P<op>\d)E|cuda\d(?P<norm>apply|reduce|finish)I)"
    rf"(?P<dtype>{'|'.join(_DTYPES)})(?:LNS0_4KindE(?P<kind>\d)E)?Li(?!1E)\d+E"
)


def find_toolkit(archs: Sequence[str], major: str = "") -> Toolkit:
    """The first toolkit that compiles for all of `archs` ("9.0"), of that major version if given;
    refuses where there is none."""
    toolkits, rejected = nvcc.find(os.environ, [Path(folder) for folder in sys.path])
    for toolkit in toolkits:
        if {*archs} <= {*toolkit.archs} and major in ("", toolkit.major):
            return toolkit
    found = "; ".join([*map(str, toolkits), *rejected]) or "no nvcc was found"
    raise Refused(
        f"expected an nvcc of CUDA {major or 13} that compiles for {', '.join(archs)}, but {found}."
        " Set CUDA_HOME to such a toolkit; `make sass` installs one for itself."
    )


def find_disassembler(toolkit: Toolkit) -> str:
    """The program cuobjdump; refuses where there is none."""
    folders = [str(toolkit.root / "bin"), os.environ.get("PATH", "")]
    # pip's CUDA packages have no cuobjdump, but Triton, which torch installs, brings its own.
    triton = find_spec("triton")
    if triton and triton.origin:
        folders.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(folders))
    if cuobjdump is None:
        raise Refused(
            f"{toolkit} has no cuobjdump, and there is none on PATH or in a triton package. "
            "Install a whole CUDA toolkit, or `pip install triton`."
        )
    return cuobjdump


def count_all(toolkit: Toolkit, cuobjdump: str, archs: Sequence[str]) -> list[Row]:
    """The rows of all kernels, compiled for all `archs` ("90"), several at a time: the dense ones
    from both formulas."""

    def count(arch: str, formula: str, source: Path) -> list[Row]:
        with tempfile.TemporaryDirectory() as scratch:
            cubin = Path(scratch, "kernels.cubin")
            report = run_nvcc(toolkit, arch, source, cubin, "-cubin", "-Xptxas=-v", *FLAGS[formula])
            listing = output_of(cuobjdump, "-sass", str(cubin))
            return rows(arch, formula, listing, read_report(report))

    jobs = [*product(archs, FLAGS, [SOURCE]), *product(archs, ["ours"], [NORM_SOURCE])]
    with ThreadPoolExecutor() as pool:
        return list(chain.from_iterable(pool.map(count, *zip(*jobs, strict=True))))


def run_nvcc(toolkit: Toolkit, arch: str, source: Path, output: Path, *flags: str) -> str:
    """Compiles a source of csrc; returns what nvcc prints."""
    folders = (f"-I{folder}" for folder in (CSRC, *toolkit.include_dirs))
    files = (str(source), "-o", str(output))
    return output_of(str(toolkit.root / "bin/nvcc"), *flags, *folders, f"-arch=sm_{arch}", *files)


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr  # ptxas reports to stderr


def read_report(report: str) -> dict[str, dict[str, int]]:
    """Two columns of each kernel that `ptxas -v` reports of, by its mangled name."""
    return {
        name: {"registers": int(registers), "spill_bytes": int(stores) + int(loads)}
        for name, stores, loads, registers in _REPORT.findall(report)
    }


def rows(
    arch: str, formula: str, listing: str, report: Mapping[str, Mapping[str, int]]
) -> list[Row]:
    """The rows of the kernels with a vector body in a disassembly; `report` is by mangled name.

    Of dense kernels the counts are those of large tiles, the late loads those of both tiles. Of
    norms there are no rows in fp64: branches in their maths, which one path says nothing of.

    Raises:
        Refused: a kernel has no vector body.
    """
    found, late = {}, Counter[tuple[str, str]]()
    for name, instructions in parse(listing).items():
        match = _NAME.search(name)
        if not match or (match["norm"] and match["dtype"] == "d"):
            continue
        direction, inputs = KERNELS[match["op"] or match["norm"]]
        key = direction, dtype = direction, _DTYPES[match["dtype"]]
        # The sums of reduce are doubles, not packs.
        store_bits = 64 if match["norm"] == "reduce" else WIDE
        item_bits = 8 * DTYPES[dtype].itemsize
        try:
            counts = analyse(instructions, item_bits, inputs, store_bits, bool(match["norm"]))
        except ValueError as error:
            raise Refused(f"sm_{arch} {dtype} {direction}, {formula}: {error}") from error
        late[key] += counts["late_loads"]
        if match["norm"] or match["kind"] == "0":
            names = {"arch": f"sm_{arch}", "direction": direction, "dtype": dtype}
            found[key] = {**names, "formula": formula, **report[name], **counts}
    order = product((direction for direction, _ in KERNELS.values()), _DTYPES.values())
    return [{**found[key], "late_loads": late[key]} for key in order if key in found]
