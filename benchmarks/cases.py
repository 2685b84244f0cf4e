"""The cases that can be timed: a case is one provider doing one thing to one kind of input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.units import format_shape

Shape = tuple[int, ...]

# Those of a kernel, and those of a whole network.
KERNEL_DIRECTIONS = ("forward", "backward", "forward+backward")
DIRECTIONS = (*KERNEL_DIRECTIONS, "forward out=", "training step", "inference")
# Grids of providers side by side ("kernels", and "gpu" with sizes up to 2^30); pairs for claims;
# the cost of a call on a GPU.
SUITES = ("kernels", "compiled", "norms", "claims", "gpu", "launch", "networks")
GRIDS = ("kernels", "gpu")
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
COMPILED_SIZES = (2**20, 2**24)
COMPILED_DTYPES = ("fp32", "bf16")

# A norm in training (forward+backward) or evaluation (forward) with Mish behind it: as one op, or
# as two layers with the Mish that is named.
NORMS = ("BatchNorm", "GroupNorm")
NORM_DIRECTIONS = ("forward", "forward+backward")
BLOCKS = ("one op", "mish_cuda", "F.mish")
NORM_SHAPES: dict[str, tuple[Shape, ...]] = {
    "BatchNorm": ((16, 64, 32, 32), (16, 256, 16, 16), (2, 64, 128, 128)),
    "GroupNorm": ((64, 512, 16),),
}

# The grid for a GPU, the large sizes first: most claims are about them. Two are no multiple of a
# tile; 65,537 leaves a pack of one element.
GPU_SIZES = tuple(sorted((65_537, 173_056, *(2**n for n in range(10, 31, 2))), reverse=True))
GPU_PROVIDERS = (
    *("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton"),
    *("compiled F.mish", "naive"),
)

# Shapes of the activations of known networks, one input each; the first axis is the batch. Where
# no norm is measured with them, one of equally many elements stands for all.
PRESETS: dict[str, tuple[Shape, ...]] = {
    # All Mish, input 3x512x512: the outputs of the convolutions in
    # https://github.com/pjreddie/darknet/blob/master/cfg/yolov4-csp.cfg
    "yolov4-csp": (
        *((1, 32, 512, 512), (1, 64, 256, 256), (1, 32, 256, 256), (1, 64, 128, 128)),
        *((1, 128, 64, 64), (1, 256, 32, 32), (1, 512, 16, 16)),
    ),
    # Mish, 16 steps, down_dims of 512 and more as in its configurations for images: the blocks in
    # https://github.com/real-stanford/diffusion_policy/blob/main/diffusion_policy/model/diffusion/conditional_unet1d.py
    "diffusion-policy": ((1, 512, 16), (1, 1024, 8), (1, 2048, 4)),
    # Mish, 2 seconds of speech, 80 mel bands: the blocks in
    # https://github.com/huawei-noah/Speech-Backbones/blob/main/Grad-TTS/model/diffusion.py
    "grad-tts": ((1, 64, 80, 172), (1, 128, 40, 86), (1, 256, 20, 43)),
    # ReLU, input 3x224x224: table 1 of https://arxiv.org/abs/1512.03385, strides as in
    # https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
    "resnet50": (
        *((1, 64, 112, 112), (1, 128, 56, 56), (1, 64, 56, 56)),
        *((1, 128, 28, 28), (1, 256, 14, 14), (1, 512, 7, 7)),
    ),
    # GELU, between the two linear layers, tokens x 4 times the width: ViT-B/16 at 224x224 (table 1
    # of https://arxiv.org/abs/2010.11929), BERT-base (section 3 of https://arxiv.org/abs/1810.04805)
    # and GPT-2 XL (https://huggingface.co/openai-community/gpt2-xl/blob/main/config.json)
    "transformer-mlp": ((1, 197, 4 * 768), (1, 512, 4 * 768), (1, 1024, 4 * 1600)),
}

# The norm before Mish in the networks of PRESETS.
PRESET_NORMS = {
    "yolov4-csp": "BatchNorm",
    "diffusion-policy": "GroupNorm",
    "grad-tts": "GroupNorm",
}


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

    @property
    def title(self) -> str:
        """The group in words, for the progress bar."""
        case = self.cases[0]
        what = case.network or format_shape(case.shape)
        return f"{self.suite}: {case.direction}, {case.dtype}, {what}"


def key(suite: str, case: Case) -> tuple[Any, ...]:
    """The values of KEY in the row of a case."""
    row = {"suite": suite, **case.row()}
    return tuple(row[name] for name in KEY)


def preset_shapes(preset: str, batch: int) -> list[Shape]:
    """The shapes of a preset for so many inputs at a time."""
    return [(batch, *shape[1:]) for shape in PRESETS[preset]]


def kernel_groups(
    shapes: Iterable[Shape] = KERNEL_SHAPES,
    dtypes: Iterable[str] = tuple(DTYPES),
    directions: Iterable[str] = KERNEL_DIRECTIONS,
    providers: Sequence[str] = KERNEL_PROVIDERS,
    threads: int = 1,
) -> list[Group]:
    """The grid behind the kernels table: providers side by side, on contiguous input."""
    return _grid("kernels", providers, shapes, dtypes, directions, threads=threads)


def compiled_provider(name: str, surrounding: str = "f(x)") -> str:
    """The provider that is torch.compile of `name` in a surrounding."""
    return f"compiled {name} in {surrounding}"


def compiled_groups() -> list[Group]:
    """torch.compile of F.mish and of ours."""
    sizes = [(size,) for size in COMPILED_SIZES]
    both = ("forward+backward",)
    return [
        group
        for surrounding in SURROUNDINGS
        for names in [[compiled_provider(name, surrounding) for name in COMPILED]]
        for group in _grid("compiled", names, sizes, COMPILED_DTYPES, both)
    ]


def norm_provider(norm: str, block: str) -> str:
    """The provider that is Mish behind a norm, computed as `block` says."""
    return f"{norm} and Mish by {block}"


def norm_groups(
    shapes: Mapping[str, Iterable[Shape]] = NORM_SHAPES,
    dtypes: Iterable[str] = ("fp32",),
    directions: Iterable[str] = NORM_DIRECTIONS,
    threads: int = 1,
) -> list[Group]:
    """Norms with Mish behind them; `shapes` by the norm."""
    known = [direction for direction in directions if direction in NORM_DIRECTIONS]
    return [
        group
        for norm in shapes
        for names in [[norm_provider(norm, block) for block in BLOCKS]]
        for group in _grid("norms", names, shapes[norm], dtypes, known, 15, threads)
    ]


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
