"""Compiles the dense kernels of csrc/cuda and those of norms with nvcc, and reads their counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import build_config
from benchmarks.sass.listing import Body, analyse, parse, shortest_path, summary
from build_config import BuildError
from csrc.cuda import nvcc
from csrc.cuda.nvcc import Toolkit

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc/cuda/mish_kernels.cu"
NORM_SOURCE = ROOT / "csrc/cuda/norm_kernels.cu"
HEADERS = ROOT / "csrc"
PLAIN_HEADERS = Path(__file__).with_name("plain")

Row = dict[str, Any]
_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.S,
)


class Toolchain(NamedTuple):
    """The programs of a CUDA toolkit that this package needs."""

    toolkit: Toolkit
    cuobjdump: str

    @property
    def nvcc(self) -> str:
        return str(self.toolkit.root / "bin/nvcc")


class Resources(NamedTuple):
    """The resources of a kernel that ptxas reports."""

    registers: int
    spill_bytes: int


def find(archs: Sequence[str]) -> Toolchain:
    """The first toolkit that compiles for all of `archs` ("90"), and a disassembler."""
    wanted = {f"{arch[:-1]}.{arch[-1]}" for arch in archs}
    toolkits, rejected = nvcc.find(os.environ, [Path(p) for p in sys.path])
    toolkit = next((t for t in toolkits if wanted <= set(t.archs)), None)
    if toolkit is None:
        found = "; ".join([*map(str, toolkits), *rejected]) or "no nvcc was found"
        raise BuildError(
            f"an nvcc that compiles for {', '.join(sorted(wanted))} is needed, but {found}. "
            "`make sass` installs one; or set CUDA_HOME to a toolkit of CUDA 13."
        )
    folders = [str(toolkit.root / "bin"), os.environ.get("PATH", "")]
    # pip's CUDA packages have no cuobjdump, but Triton, which torch installs, brings its own.
    triton = find_spec("triton")
    if triton and triton.origin:
        folders.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(folders))
    if cuobjdump is None:
        raise BuildError(
            f"{toolkit} has no cuobjdump, and there is none on PATH or in a triton package. "
            "Install a whole CUDA toolkit, or `pip install triton`."
        )
    return Toolchain(toolkit, cuobjdump)


def compile_kernels(
    tools: Toolchain, arch: str, formula: str, source: Path = SOURCE
) -> tuple[str, dict[str, Resources]]:
    """Compiles the kernels and returns their disassembly and what ptxas says of them.

    The formula "plain" takes mish_math.h from the headers of PyTorch's.
    """
    plain = formula == "plain"
    includes = [PLAIN_HEADERS, HEADERS] if plain else [HEADERS]
    with tempfile.TemporaryDirectory() as scratch:
        cubin = str(Path(scratch, "kernels.cubin"))
        # PyTorch lets nvcc fuse, and knows no pairs of floats.
        flags = ["-O3", "-DMISH_PAIRS=0"] if plain else build_config.NVCC_FLAGS
        arguments = [*flags, "-cubin", f"-arch=sm_{arch}", "-Xptxas=-v", "-o", cubin]
        arguments += [f"-I{folder}" for folder in [*includes, *tools.toolkit.include_dirs]]
        report = _run(tools.nvcc, *arguments, str(source))
        listing = _run(tools.cuobjdump, "-sass", cubin)
    return listing, read_report(report)


def read_report(report: str) -> dict[str, Resources]:
    """The resources that `ptxas -v` reports of each kernel, by its mangled name."""
    return {
        name: Resources(int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in _REPORT.findall(report)
    }


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr  # ptxas reports to stderr


# By the value of mish::Op; an operation reads one tensor more than the one before.
DIRECTIONS = ("forward", "backward", "double backward")
# By the mangled name of the type.
_DTYPES = {"f": "fp32", "13__nv_bfloat16": "bf16", "6__half": "fp16", "d": "fp64"}
ITEM_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp64": 64}
FORMULAS = ("ours", "plain")  # csrc/mish_math.h and plain/mish_math.h

# mish::cuda::dense<Op, T, Kind, N>: large tiles and small ones. With N = 1, for unaligned tensors,
# it has no vector body.
_DENSE = re.compile(
    r"5denseILNS_2OpE(\d)E(f|d|6__half|13__nv_bfloat16)LNS0_4KindE(\d)ELi(?!1E)\d+E"
)
_LARGE = "0"
# mish::cuda::apply<T, N> and others. The sums of reduce are doubles, not packs.
_NORM = re.compile(r"cuda\d(apply|reduce|finish)I(f|d|6__half|13__nv_bfloat16)Li(?!1E)\d+E")
NORMS = {"apply": "norm forward", "reduce": "norm sums", "finish": "norm backward"}
# The tensors that a kernel reads.
INPUTS = dict(zip((*DIRECTIONS, *NORMS.values()), (1, 2, 3, 1, 2, 2), strict=True))


def count_all(tools: Toolchain, archs: Sequence[str]) -> list[Row]:
    """The rows of all kernels, compiled for all `archs` from both formulas, several at a time."""
    jobs = list(product(archs, FORMULAS))
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda job: compile_kernels(tools, *job), jobs)
        norms = pool.map(lambda arch: compile_kernels(tools, arch, "ours", NORM_SOURCE), archs)
        return [
            *(r for job, output in zip(jobs, compiled, strict=True) for r in rows(*job, *output)),
            *(
                r
                for arch, output in zip(archs, norms, strict=True)
                for r in norm_rows(arch, *output)
            ),
        ]


def rows(arch: str, formula: str, listing: str, report: Mapping[str, Resources]) -> list[Row]:
    """The rows of the kernels with a vector body in a disassembly; `report` is by mangled name.

    The counts are those of large tiles, the late loads those of both tiles.
    """
    bodies: dict[tuple[int, str], dict[str, tuple[str, Body]]] = {}
    for name, instructions in parse(listing).items():
        if match := _DENSE.search(name):
            operation, dtype = int(match[1]), _DTYPES[match[2]]
            try:
                body = analyse(instructions)
            except ValueError as error:
                what = f"sm_{arch} {dtype} {DIRECTIONS[operation]}, {formula}"
                raise ValueError(f"{what}: {error}") from error
            bodies.setdefault((operation, dtype), {})[match[3]] = name, body
    found = []
    for operation, dtype in sorted(bodies, key=lambda k: (k[0], list(ITEM_BITS).index(k[1]))):
        tiles = bodies[operation, dtype]
        name, body = tiles[_LARGE]
        body = replace(body, late_loads=sum(tile.late_loads for _, tile in tiles.values()))
        found.append(row(arch, DIRECTIONS[operation], dtype, formula, body, report[name]))
    return found


def norm_rows(arch: str, listing: str, report: Mapping[str, Resources]) -> list[Row]:
    """The rows of the kernels of norms that work on packs, in a disassembly. Those of fp64 have
    branches in their maths, which one path says nothing of."""
    found = []
    for name, instructions in parse(listing).items():
        match = _NORM.search(name)
        if match and match[2] != "d":
            path = shortest_path(instructions, store_bits=64 if match[1] == "reduce" else 128)
            body = summary(instructions, path)
            direction, dtype = NORMS[match[1]], _DTYPES[match[2]]
            found.append(row(arch, direction, dtype, "ours", body, report[name]))
    order = list(NORMS.values()), list(ITEM_BITS)
    return sorted(found, key=lambda r: (order[0].index(r["direction"]), order[1].index(r["dtype"])))


def row(
    arch: str, direction: str, dtype: str, formula: str, body: Body, resources: Resources
) -> Row:
    """A row of a file of results; instructions and MUFU are for each element."""
    bits = ITEM_BITS[dtype]
    elements = sum(body.load_bits) // (bits * INPUTS[direction])
    least, most = (count / elements for count in body.instructions)
    mufu_least, mufu_most = (count / elements for count in body.mufu)
    return {
        "arch": f"sm_{arch}",
        "direction": direction,
        "dtype": dtype,
        "formula": formula,
        "elements": elements,
        "registers": resources.registers,
        "spill_bytes": resources.spill_bytes,
        "checks": body.checks,
        "branches": body.branches,
        "local_accesses": body.local,
        "late_loads": body.late_loads,
        "stored_elements": sum(body.store_bits) // bits,
        "access_bits": " ".join(map(str, sorted({*body.load_bits, *body.store_bits}))),
        "instructions_least": least,
        "instructions_most": most,
        "mufu_least": mufu_least,
        "mufu_most": mufu_most,
    }
