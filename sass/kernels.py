"""The dense kernels of csrc/cuda as compiled, and their counts for each element."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product

from sass import toolchain
from sass.body import Body, analyse
from sass.listing import parse
from sass.toolchain import Resources, Toolchain

# By the value of mish::Op; an operation reads one tensor more than the one before.
DIRECTIONS = ("forward", "backward", "double backward")
# By the mangled name of the type.
_DTYPES = {"f": "fp32", "13__nv_bfloat16": "bf16", "6__half": "fp16", "d": "fp64"}
DTYPES = tuple(_DTYPES.values())
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}
FORMULAS = ("ours", "plain")  # csrc/mish_math.h and plain/mish_math.h

# mish::cuda::dense<Op, T, N>. With N = 1, for unaligned tensors, it has no vector body.
_DENSE = re.compile(r"5denseILNS_2OpE(\d)E(f|d|6__half|13__nv_bfloat16)Li(?!1E)\d+E")


@dataclass(frozen=True)
class Kernel:
    """One kernel, compiled for one architecture from one of the formulas."""

    arch: str
    direction: str
    dtype: str
    formula: str
    body: Body
    resources: Resources

    @property
    def bytes_per_element(self) -> int:
        """Read and written."""
        return ITEM_BYTES[self.dtype] * (self._inputs + 1)

    @property
    def elements(self) -> int:
        """Elements for each thread, by what it loads."""
        return sum(self.body.load_bits) // (8 * ITEM_BYTES[self.dtype] * self._inputs)

    def per_element(self, count: int) -> float:
        """A count of the body, for each of the elements."""
        return count / self.elements

    @property
    def _inputs(self) -> int:
        return DIRECTIONS.index(self.direction) + 1

    @property
    def access_bits(self) -> tuple[int, ...]:
        """The widths that global accesses of the body have."""
        return tuple(sorted({*self.body.load_bits, *self.body.store_bits}))


def compile_all(tools: Toolchain, archs: Sequence[str]) -> list[Kernel]:
    """Compiles for all `archs` from both formulas, several at a time."""
    jobs = list(product(archs, FORMULAS))
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda job: _compile(tools, *job), jobs)
        return list(chain.from_iterable(compiled))


def _compile(tools: Toolchain, arch: str, formula: str) -> list[Kernel]:
    listing, report = toolchain.compile_kernels(tools, arch, plain=formula == "plain")
    return sorted(
        read(arch, formula, listing, report),
        key=lambda k: (DIRECTIONS.index(k.direction), DTYPES.index(k.dtype)),
    )


def read(
    arch: str, formula: str, listing: str, report: Mapping[str, Resources]
) -> Iterator[Kernel]:
    """The kernels with a vector body in a disassembly; `report` is by mangled name too."""
    for name, instructions in parse(listing).items():
        match = _DENSE.search(name)
        if match is None:
            continue
        direction, dtype = DIRECTIONS[int(match[1])], _DTYPES[match[2]]
        try:
            body = analyse(instructions)
        except ValueError as error:
            raise ValueError(f"sm_{arch} {dtype} {direction}, {formula}: {error}") from error
        yield Kernel(arch, direction, dtype, formula, body, report[name])
