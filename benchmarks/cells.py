"""What can be measured: one cell is one provider doing one thing to one kind of input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.units import format_shape

Direction = Literal[
    "forward",
    "forward out=",
    "backward",
    "forward+backward",
    "training step",  # of a whole network
    "inference",
]

Suite = Literal["kernels", "compiled", "claims", "gpu", "models"]
# Providers side by side, by `run` and by `python -m gpu`.
GRIDS: tuple[Suite, ...] = ("kernels", "gpu")

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
TENSORS_MOVED: dict[Direction, int] = {
    "forward": 2,
    "forward out=": 2,
    "backward": 3,
    "forward+backward": 5,
}

KERNEL_DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "forward+backward")
# In the order of tables. Those compiled are left out of the default grid: the "compiled" suite has
# them, and compiling takes a second for each dtype and direction.
PROVIDERS = (
    "mish_cuda",
    "F.mish",
    "naive",
    "memory-efficient",
    "compiled F.mish",
    "compiled mish_cuda",
    "F.silu",
    "F.gelu",
    "relu",
    "copy",
)
KERNEL_PROVIDERS = tuple(name for name in PROVIDERS if not name.startswith("compiled"))
KERNEL_SHAPES = tuple((size,) for size in (1, 16, 512, 4096, 65_536, 2**20, 2**24))

# torch.compile of each alone, and between neighbours that it can be fused with.
COMPILED = ("F.mish", "decomposition", "kernel")
SURROUNDINGS = ("f(x)", "f(2x) + 1", "relu(f(2x + 1) / 2 + x) x")
COMPILED_SIZES = (2**20, 2**24)
COMPILED_DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Cell:
    """One thing to time. `shape` is that of the contiguous tensor that `layout` starts from.

    If `network` names a whole network, `provider` is the activation in it and `shape` its input's.
    """

    provider: str
    direction: Direction
    dtype: str
    shape: tuple[int, ...]
    layout: str = "x"
    threads: int = 1
    network: str = ""

    def __str__(self) -> str:
        words = (self.network, self.provider, self.direction, self.dtype, format_shape(self.shape))
        layout = "" if self.layout == "x" else f"as {self.layout}"
        threads = "" if self.threads == 1 else f"on {self.threads} threads"
        return " ".join(word for word in (*words, layout, threads) if word)

    @property
    def numel(self) -> int:
        """Elements of the input, after the layout has been applied."""
        if self.layout == "x":
            return math.prod(self.shape)
        return LAYOUTS[self.layout](torch.empty(self.shape, device="meta")).numel()

    @property
    def input_bytes(self) -> int:
        """Bytes of the input's elements."""
        return DTYPES[self.dtype].itemsize * self.numel

    @property
    def bytes(self) -> int:
        """Bytes that one call has to read and write; 0 for a network, where that is not known."""
        return TENSORS_MOVED.get(self.direction, 0) * self.input_bytes


@dataclass(frozen=True)
class Group:
    """Cells timed in turn, round after round, so that a slow spell of the machine hits them all."""

    suite: Suite
    cells: tuple[Cell, ...]
    min_rounds: int = 3

    @property
    def title(self) -> str:
        """What it measures, for the progress bar."""
        cell = self.cells[0]
        return f"{self.suite}: {cell.direction}, {cell.dtype}, {format_shape(cell.shape)}"


def kernel_groups(
    shapes: Sequence[tuple[int, ...]] = KERNEL_SHAPES,
    dtypes: Sequence[str] = tuple(DTYPES),
    directions: Sequence[Direction] = KERNEL_DIRECTIONS,
    providers: Sequence[str] = KERNEL_PROVIDERS,
    threads: int = 1,
) -> list[Group]:
    """The grid behind the kernels table: providers side by side, on contiguous input."""
    return [
        Group(
            "kernels",
            tuple(Cell(name, direction, dtype, shape, threads=threads) for name in providers),
        )
        for shape in shapes
        for dtype in dtypes
        for direction in directions
    ]


def compiled_provider(name: str, surrounding: str = SURROUNDINGS[0]) -> str:
    """The provider that is torch.compile of `name` in a surrounding."""
    return f"compiled {name} in {surrounding}"


def compiled_groups(names: Sequence[str] = COMPILED) -> list[Group]:
    """What torch.compile makes of F.mish and of ours, by either way of ``compile_with``."""
    return [
        Group(
            "compiled",
            tuple(
                Cell(compiled_provider(name, surrounding), "forward+backward", dtype, (size,))
                for name in names
            ),
        )
        for size in COMPILED_SIZES
        for dtype in COMPILED_DTYPES
        for surrounding in SURROUNDINGS
    ]
