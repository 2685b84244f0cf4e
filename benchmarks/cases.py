"""The cases that can be timed: a case is one provider doing one thing to one kind of input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
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
KERNEL_PROVIDERS = [n for n in PROVIDERS if n != "triton" and not n.startswith("compiled")]
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
BLOCKS = ("one op", "mish_cuda", "F.mish")
NORM_SHAPES: dict[str, tuple[Shape, ...]] = {
    "BatchNorm": ((16, 64, 32, 32), (16, 256, 16, 16), (2, 64, 128, 128)),
    "GroupNorm": ((64, 512, 16),),
}

CHOSEN = "chosen"  # among variants of the CUDA kernels: as csrc/cuda/tuning.h says
GPU_PROVIDERS = (
    *("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton"),
    *("compiled F.mish", "naive"),
)
# The large ones first: most claims are about them. Two are no multiple of a tile; 65,537 leaves a
# pack of one element.
GPU_SIZES = sorted((65_537, 173_056, *(2**n for n in range(10, 31, 2))), reverse=True)


def laid_out(layout: str, x: Tensor) -> Tensor:
    """The input that a layout, such as x[:, ::2], makes from a contiguous tensor."""
    result: Tensor = eval(layout, {"x": x})
    return result


def shape_of(text: str) -> Shape:
    """Of 8x64x32x32."""
    return tuple(map(int, text.split("x")))


# Shapes of the activations of known networks, one input each; the first axis is the batch. Where
# no norm is measured with them, one of equally many elements stands for all.
_TABLE = pd.read_csv(Path(__file__).with_name("presets.csv"), index_col=0, keep_default_na=False)
PRESETS = {name: tuple(map(shape_of, text.split())) for name, text in _TABLE["shapes"].items()}
PRESET_NORMS = _TABLE["norm"].to_dict()  # empty for some


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
    def trains(self) -> bool:
        return self.direction in ("forward+backward", "training step")

    @property
    def numel(self) -> int:
        """Elements of the input, after the layout has been applied."""
        return laid_out(self.layout, torch.empty(self.shape, device="meta")).numel()

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


def case_of(row: Any) -> Case:
    """What a row of a file of speed names, by the attributes of KEY."""
    kind = (row.provider, row.direction, row.dtype, shape_of(row.shape), row.layout)
    return Case(*kind, int(row.threads), row.network)


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


@dataclass(frozen=True)
class Grid:
    """Providers side by side: a group for each shape, dtype and direction that some can do."""

    suite: str
    providers: Sequence[str]
    shapes: Iterable[Shape]
    dtypes: Iterable[str] = ("fp32",)
    directions: Iterable[str] = ("forward", "forward+backward")
    min_rounds: int = 3
    threads: int = 1

    def groups(self) -> list[Group]:
        found = []
        for shape, dtype, direction in product(self.shapes, self.dtypes, self.directions):
            able = [name for name in self.providers if can_do(name, direction)]
            cases = tuple(Case(n, direction, dtype, shape, threads=self.threads) for n in able)
            if cases:
                found.append(Group(self.suite, cases, self.min_rounds))
        return found


def can_do(provider: str, direction: str) -> bool:
    """Autograd does not know Triton's kernels; a norm has no backward of its own."""
    if provider == "triton":
        return direction != "forward+backward"
    return direction != "backward" or " and Mish by " not in provider


# What `run` can time, but for the claims.
SUITES = {
    "kernels": [Grid("kernels", KERNEL_PROVIDERS, KERNEL_SHAPES, DTYPES, KERNEL_DIRECTIONS)],
    "compiled": [
        Grid(
            "compiled",
            [f"compiled {name} in {surrounding}" for name in COMPILED],
            ((2**20,), (2**24,)),
            ("fp32", "bf16"),
            ("forward+backward",),
        )
        for surrounding in SURROUNDINGS
    ],
    "norms": [
        Grid("norms", [f"{norm} and Mish by {block}" for block in BLOCKS], shapes, min_rounds=15)
        for norm, shapes in NORM_SHAPES.items()
    ],
    # What the claims for a GPU need: the cost of a call, and a grid of sizes.
    "gpu": [
        Grid("launch", ("mish_cuda", "F.mish"), [(1,)], ("fp32",), ("forward", "backward"), 21),
        Grid("gpu", GPU_PROVIDERS, [(n,) for n in GPU_SIZES], DTYPES, ("forward", "backward"), 7),
    ],
}
