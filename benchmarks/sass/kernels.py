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
from typing import Any, NamedTuple

import build_config
from benchmarks.arguments import Refused
from benchmarks.sass.listing import WIDE, Body, analyse, parse
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE, NORM_SOURCE = CSRC / "cuda/mish_kernels.cu", CSRC / "cuda/norm_kernels.cu"
PLAIN_HEADERS = Path(__file__).with_name("plain")

Row = dict[str, Any]
_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.S,
)
# By the mangled name of the type.
_DTYPES = {"f": "fp32", "13__nv_bfloat16": "bf16", "6__half": "fp16", "d": "fp64"}
ITEM_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp64": 64}
FORMULAS = ("ours", "plain")  # csrc/mish_math.h and plain/mish_math.h

# With N = 1, for unaligned tensors, a kernel has no vector body. First
# mish::cuda::dense<Op, T, Kind, N>: large tiles and small ones.
_DENSE = re.compile(rf"5denseILNS_2OpE(\d)E({'|'.join(_DTYPES)})LNS0_4KindE(\d)ELi(?!1E)\d+E")
_LARGE = "0"
# mish::cuda::apply<T, N> and others. The sums of reduce are doubles, not packs.
_NORM = re.compile(rf"cuda\d(apply|reduce|finish)I({'|'.join(_DTYPES)})Li(?!1E)\d+E")
# By the value of mish::Op, or the name of the kernel.
DIRECTIONS = {
    "0": "forward",
    "1": "backward",
    "2": "double backward",
    "apply": "norm forward",
    "reduce": "norm sums",
    "finish": "norm backward",
}
INPUTS = dict(zip(DIRECTIONS.values(), (1, 2, 3, 1, 2, 2), strict=True))  # tensors that it reads


class Resources(NamedTuple):
    """What ptxas reports of a kernel."""

    registers: int
    spill_bytes: int


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
        plain = formula == "plain"
        # PyTorch lets nvcc fuse, and knows no pairs of floats.
        flags = ["-O3", "-DMISH_PAIRS=0"] if plain else build_config.NVCC_FLAGS
        # The first mish_math.h that is found is taken.
        includes = [*([PLAIN_HEADERS] if plain else []), CSRC, *toolkit.include_dirs]
        with tempfile.TemporaryDirectory() as scratch:
            cubin = str(Path(scratch, "kernels.cubin"))
            arguments = [*flags, *(f"-I{folder}" for folder in includes), "-o", cubin]
            arguments += ["-cubin", f"-arch=sm_{arch}", "-Xptxas=-v", str(source)]
            report = output_of(str(toolkit.root / "bin/nvcc"), *arguments)
            return rows(arch, formula, output_of(cuobjdump, "-sass", cubin), read_report(report))

    jobs = [*product(archs, FORMULAS, [SOURCE]), *product(archs, ["ours"], [NORM_SOURCE])]
    with ThreadPoolExecutor() as pool:
        return list(chain.from_iterable(pool.map(count, *zip(*jobs, strict=True))))


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr  # ptxas reports to stderr


def read_report(report: str) -> dict[str, Resources]:
    """The resources that `ptxas -v` reports of each kernel, by its mangled name."""
    return {
        name: Resources(int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in _REPORT.findall(report)
    }


def rows(arch: str, formula: str, listing: str, report: Mapping[str, Resources]) -> list[Row]:
    """The rows of the kernels with a vector body in a disassembly; `report` is by mangled name.

    Of dense kernels the counts are those of large tiles, the late loads those of both tiles. Of
    norms there are no rows in fp64: branches in their maths, which one path says nothing of.

    Raises:
        Refused: a kernel has no vector body.
    """
    found, late = {}, Counter[tuple[str, str]]()
    for name, instructions in parse(listing).items():
        dense = _DENSE.search(name)
        match = dense or _NORM.search(name)
        if not match or (not dense and match[2] == "d"):
            continue
        key = direction, dtype = DIRECTIONS[match[1]], _DTYPES[match[2]]
        try:
            body = analyse(instructions, 64 if match[1] == "reduce" else WIDE, one_path=not dense)
        except ValueError as error:
            raise Refused(f"sm_{arch} {dtype} {direction}, {formula}: {error}") from error
        late[key] += body.late_loads
        if not dense or dense[3] == _LARGE:
            found[key] = row(arch, direction, dtype, formula, body, report[name])
    order = product(INPUTS, ITEM_BITS)
    return [{**found[key], "late_loads": late[key]} for key in order if key in found]


def row(
    arch: str, direction: str, dtype: str, formula: str, body: Body, resources: Resources
) -> Row:
    """A row of a file of results; instructions and MUFU are for each element."""
    bits = ITEM_BITS[dtype]
    elements = sum(body.load_bits) // (bits * INPUTS[direction])
    counts = {
        f"{name}_{end}": count / elements
        for name in ("instructions", "mufu")
        for end, count in zip(("least", "most"), getattr(body, name), strict=True)
    }
    return {
        "arch": f"sm_{arch}",
        "direction": direction,
        "dtype": dtype,
        "formula": formula,
        "elements": elements,
        **resources._asdict(),
        "checks": body.checks,
        "branches": body.branches,
        "local_accesses": body.local,
        "late_loads": body.late_loads,
        "stored_elements": sum(body.store_bits) // bits,
        "access_bits": " ".join(map(str, sorted({*body.load_bits, *body.store_bits}))),
        **counts,
    }
