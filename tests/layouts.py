"""Tensors of every layout, as views of memory that tests can check as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import reference

Data = Callable[..., Tensor]  # a contiguous tensor of the given sizes, filled

# CPU kernels change their loop at rows of 512 elements; threads start at 32,768 elements.
LAYOUTS: dict[str, Callable[[Data], Tensor]] = {
    "contiguous": lambda data: data(7, 33),
    "0-d": lambda data: data(),
    "empty": lambda data: data(0),
    "zero-sized": lambda data: data(3, 0, 5),
    "zero-sized slice": lambda data: data(3, 4)[:, 4:],
    "channels_last": lambda data: data(2, 3, 5, 7).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda data: data(2, 3, 4, 5, 7).to(memory_format=torch.channels_last_3d),
    "transposed": lambda data: data(17, 40).t(),
    "permuted": lambda data: data(3, 4, 5, 6).permute(2, 0, 3, 1),
    "sizes of one": lambda data: data(1, 5, 1, 7).transpose(0, 2),
    "ten dimensions": lambda data: data(*[2] * 10).permute(7, 2, 9, 0, 4, 1, 8, 3, 6, 5),
    "step 2": lambda data: data(5, 81)[:, ::2],
    "steps in two dimensions": lambda data: data(9, 31)[::2, ::3],
    "permuted, cropped, steps": lambda data: data(9, 14, 11).permute(2, 0, 1)[1:-1:3, 2:, :-3:2],
    "inner crop": lambda data: data(3, 20, 30)[:, 2:-3, 5:-6],
    "short rows": lambda data: data(2000, 8)[..., :3],
    "long rows": lambda data: data(4, 700)[:, :613],
    "column": lambda data: data(1000, 5)[:, 2],
    "offset by one element": lambda data: data(102)[1:],
    "offset by three elements": lambda data: data(70_005)[3:-1],
    "offset by seven elements": lambda data: data(70_009)[7:-1],
    "several threads": lambda data: data(40_001),
    "several threads, transposed": lambda data: data(201, 200).t(),
}
OVERLAPPING: dict[str, Callable[[Data], Tensor]] = {
    "expanded rows": lambda data: data(1, 33).expand(9, 33),
    "expanded columns": lambda data: data(33, 1).expand(33, 9),
    "expanded 0-d": lambda data: data().expand(40, 5),
    "windows": lambda data: data(150).as_strided((40, 30), (3, 1)),
    # Every other stride is 0, so no two dimensions are one: more of them than a CUDA launch takes.
    "seventeen dimensions": lambda data: data(*[1, 2] * 8, 1).expand(*[2] * 17),
}


def filled(sizes: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Numbers that differ from their neighbours, special values among them."""
    count = torch.Size(sizes).numel()
    values = reference.samples(dtype)
    order = torch.randperm(max(count, 1), generator=torch.Generator().manual_seed(seed))
    return values[order[:count] % values.numel()].reshape(sizes).to(device)


def normal(sizes: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Normally distributed numbers."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(sizes, generator=generator, dtype=torch.float64)).to(device, dtype)


def make(
    layout: str, dtype: torch.dtype, device: str, seed: int = 0, fill: Data = filled
) -> Tensor:
    """A tensor of that layout."""
    return {**LAYOUTS, **OVERLAPPING}[layout](lambda *sizes: fill(sizes, dtype, device, seed))


def memory(x: Tensor) -> Tensor:
    """All of the memory that x is a view of."""
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())


def like(x: Tensor) -> Tensor:
    """A copy of x with its strides, in a copy of the memory around it."""
    return memory(x).clone().as_strided(x.shape, x.stride(), x.storage_offset())


def surroundings(x: Tensor) -> Tensor:
    """The part of x's memory that is not in x."""
    inside = torch.zeros_like(memory(x), dtype=torch.bool)
    inside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    return memory(x)[~inside]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch compute with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
