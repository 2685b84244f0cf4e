"""The cases that can be timed: a case is one provider doing one thing to one kind of input."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.units import format_shape

Shape = tuple[int, ...]

KERNEL_DIRECTIONS = ("forward", "backward", "forward+backward")
GRIDS = ("kernels", "gpu")  # the suites of providers side by side; "gpu" has sizes up to 2^30
# The columns that together tell a row of a file from all others.
KEY = ["suite", "network", "provider", "direction", "dtype", "shape", "layout", "threads"]

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}

# Each layout is named by the expression that makes the input from a contiguous tensor x.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "x": lambda x: x,
    "x[:, ::2]": lambda x: x[:, ::2],
    "x[:, 1:-1]": lambda x: x[:, 1:-1],
    "x.t()": lambda x: x.t(),
    "x.transpose(1, 2)": lambda x: x.transpose(1, 2),
    "x.permute(0, 3, 1, 2)": lambda x: x.permute(0, 3, 1, 2),  # channels_last strides
}

# Tensors that must travel between memory and the processor, each as long as the input. A pass
# that reads x and the incoming gradient and writes the outgoing one moves three.
TENSORS_MOVED = {"forward": 2, "forward out=": 2, "backward": 3, "forward+backward": 5}

# In the order of tables. Those compiled are left out of the default grid: the "compiled" suite has
# them, and compiling takes a second for each dtype and direction.
PROVIDERS = (
    *("mish_cuda", "F.mish", "naive", "memory-efficient"),
    *("compiled F.mish", "compiled mish_cuda"),
    *("F.silu", "F.gelu", "relu", "triton", "copy"),
)
KERNEL_PROVIDERS = tuple(
    name for name in PROVIDERS if not name.startswith("compiled") and name != "triton"
)
KERNEL_SHAPES = tuple((size,) for size in (1, 16, 512, 4096, 65_536, 2**20, 2**24))

# torch.compile of each alone, and between neighbours that it can be fused with.
COMPILED = ("F.mish", "mish_cuda")
# As a file names it, and as Python.
SURROUNDINGS = {
    "f(x)": "f(x)",
    "f(2x) + 1": "f(2 * x) + 1",
    "relu(f(2x + 1) / 2 + x) x": "relu(f(2 * x + 1) / 2 + x) * x",
}

# A norm in training (forward+backward) or evaluation (forward) with Mish behind it: as one op, or
# as two layers with the Mish that is named.
NORMS = ("BatchNorm", "GroupNorm")
NORM_DIRECTIONS = ("forward", "forward+backward")
BLOCKS = ("one op", "mish_cuda", "F.mish")
NORM_SHAPES: dict[str, tuple[Shape, ...]] = {
    "BatchNorm": ((16, 64, 32, 32), (16, 256, 16, 16), (2, 64, 128, 128)),
    "GroupNorm": ((64, 512, 16),),
}

CHOSEN = "chosen"  # among variants of the CUDA kernels: as csrc/cuda/tuning.h says

# The grid for a GPU, the large sizes first: most claims are about them. Two are no multiple of a
# tile; 65,537 leaves a pack of one element.
GPU_SIZES = tuple(sorted((65_537, 173_056, *(2**n for n in range(10, 31, 2))), reverse=True))
GPU_PROVIDERS = (
    *("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton"),
    *("compiled F.mish", "naive"),
)


def shape_of(text: str) -> Shape:
    """Of 8x64x32x32."""
    return tuple(map(int, text.split("x")))


# Shapes of the activations of known networks, one input each; the first axis is the batch. Where
# no norm is measured with them, one of equally many elements stands for all.
with Path(__file__).with_name("presets.csv").open(encoding="utf-8") as file:
    _ROWS = list(csv.DictReader(file))
PRESETS = {row["preset"]: tuple(map(shape_of, row["shapes"].split())) for row in _ROWS}
PRESET_NORMS = {row["preset"]: row["norm"] for row in _ROWS if row["norm"]}


@dataclass(frozen=True)
class Case:
    """One thing to time. `shape` is that of the contiguous tensor that `layout` starts from.

    If `network` names a whole network, `provider` is the activation in it and `shape` its input's.
    """

    provider: str
    direction: str
    dtype: str
    shape: Shape
    layout: str = "x"
    threads: int = 1
    network: str = ""

    def __str__(self) -> str:
        words = (self.network, self.provider, self.direction, self.dtype, format_shape(self.shape))
        layout = "" if self.layout == "x" else f"as {self.layout}"
        threads = "" if self.threads == 1 else f"on {self.threads} threads"
        return " ".join(filter(None, (*words, layout, threads)))

    @property
    def numel(self) -> int:
        """Elements of the input, after the layout has been applied."""
        if self.layout == "x":
            return math.prod(self.shape)
        return LAYOUTS[self.layout](torch.empty(self.shape, device="meta")).numel()

    @property
    def input_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize * self.numel

    @property
    def bytes(self) -> int:
        """Bytes that one call has to read and write; 0 for a network, where that is not known."""
        return TENSORS_MOVED.get(self.direction, 0) * self.input_bytes

    def row(self) -> dict[str, Any]:
        """The columns that name it in a file of results."""
        derived = {"numel": self.numel, "bytes": self.bytes}
        return {**vars(self), **derived, "shape": "x".join(map(str, self.shape))}


@dataclass(frozen=True)
class Group:
    """Cases timed in turn, round after round, so that a slow spell of the machine hits them all."""

    suite: str
    cases: tuple[Case, ...]
    min_rounds: int = 3

    def __str__(self) -> str:
        case = self.cases[0]
        what = case.network or format_shape(case.shape)
        return f"{self.suite}: {case.direction}, {case.dtype}, {what}"


def preset_shapes(preset: str, batch: int) -> list[Shape]:
    """The shapes of a preset for so many inputs at a time."""
    return [(batch, *shape[1:]) for shape in PRESETS[preset]]


def compiled_provider(name: str, surrounding: str = "f(x)") -> str:
    """The provider that is torch.compile of `name` in a surrounding."""
    return f"compiled {name} in {surrounding}"


def norm_provider(norm: str, block: str) -> str:
    """The provider that is Mish behind a norm, computed as `block` says."""
    return f"{norm} and Mish by {block}"


def kernel_groups(
    shapes: Iterable[Shape] = KERNEL_SHAPES,
    dtypes: Iterable[str] = tuple(DTYPES),
    directions: Iterable[str] = KERNEL_DIRECTIONS,
    providers: Sequence[str] = KERNEL_PROVIDERS,
    threads: int = 1,
) -> list[Group]:
    """The grid behind the kernels table: providers side by side, on contiguous input."""
    return _grid("kernels", providers, shapes, dtypes, directions, threads=threads)


def compiled_groups() -> list[Group]:
    sizes, dtypes, both = ((2**20,), (2**24,)), ("fp32", "bf16"), ("forward+backward",)
    groups = []
    for surrounding in SURROUNDINGS:
        names = [compiled_provider(name, surrounding) for name in COMPILED]
        groups += _grid("compiled", names, sizes, dtypes, both)
    return groups


def norm_groups(
    shapes: Mapping[str, Iterable[Shape]] = NORM_SHAPES,
    dtypes: Iterable[str] = ("fp32",),
    directions: Iterable[str] = NORM_DIRECTIONS,
    threads: int = 1,
) -> list[Group]:
    known = [direction for direction in directions if direction in NORM_DIRECTIONS]
    groups = []
    for norm in shapes:
        names = [norm_provider(norm, block) for block in BLOCKS]
        groups += _grid("norms", names, shapes[norm], dtypes, known, 15, threads)
    return groups


def gpu_groups() -> list[Group]:
    """The groups that the claims for a GPU need: the cost of a call, and a grid of sizes."""
    sizes, apart = [(size,) for size in GPU_SIZES], ("forward", "backward")
    return [
        *_grid("launch", ("mish_cuda", "F.mish"), [(1,)], ("fp32",), apart, 21),
        *_grid("gpu", GPU_PROVIDERS, sizes, DTYPES, apart, 7),
    ]


def _grid(
    suite: str,
    providers: Sequence[str],
    shapes: Iterable[Shape],
    dtypes: Iterable[str],
    directions: Iterable[str],
    min_rounds: int = 3,
    threads: int = 1,
) -> list[Group]:
    """Providers side by side, without Triton's kernels where autograd has to know them."""
    groups = []
    for shape, dtype, direction in product(shapes, dtypes, directions):
        able = (n for n in providers if n != "triton" or direction != "forward+backward")
        cases = (Case(name, direction, dtype, shape, threads=threads) for name in able)
        groups.append(Group(suite, tuple(cases), min_rounds))
    return groups
