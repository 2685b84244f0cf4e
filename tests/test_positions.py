"""An element's bits do not depend on where it stands, on how many others there are, or on threads.

Strides are the business of test_layouts.py. `eager` is left out: torch's own maths has loops for
the last few elements that round differently.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import layouts
import reference
from conftest import ORDERS, Path


def operands(count: int, dtype: torch.dtype, device: str, order: int) -> list[Tensor]:
    """The arguments of mish, mish_backward or mish_double_backward."""
    return [layouts.filled((count,), dtype, device, seed) for seed in range(order + 1)]


def apply(path: Path, arguments: list[Tensor]) -> Tensor:
    """Of one argument mish, of two mish_backward, of three mish_double_backward."""
    ops = (path.mish, path.mish_backward, path.mish_double_backward)
    return ops[len(arguments) - 1](*arguments)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_kernels(compiled: Path, device: str) -> Path:
    if compiled.backend(torch.empty(0, device=device)) == "eager":
        pytest.skip(f"the extension was built without {device} kernels")
    return compiled


@ORDERS
def test_any_size(in_kernels: Path, device: str, dtype: torch.dtype, order: int) -> None:
    arguments = operands(4200, dtype, device, order)
    whole = apply(in_kernels, arguments)
    for size in [*range(201), *range(505, 520), *range(1020, 1030), *range(4090, 4100)]:
        part = apply(in_kernels, [argument[:size] for argument in arguments])
        assert reference.same_bits(part, whole[:size]), size


@ORDERS
def test_any_offset(in_kernels: Path, device: str, dtype: torch.dtype, order: int) -> None:
    """Pointers aligned to one element only, and alike or unlike those of other operands."""
    arguments = operands(700, dtype, device, order)
    whole = apply(in_kernels, arguments)
    for start in range(70):
        part = [argument[start:] for argument in arguments]
        assert reference.same_bits(apply(in_kernels, part), whole[start:]), start
        part[0] = part[0].clone()
        assert reference.same_bits(apply(in_kernels, part), whole[start:]), start


@ORDERS
def test_alone(in_kernels: Path, device: str, dtype: torch.dtype, order: int) -> None:
    arguments = operands(300, dtype, device, order)
    alone = [apply(in_kernels, list(elements)) for elements in zip(*arguments, strict=True)]
    assert reference.same_bits(apply(in_kernels, arguments), torch.stack(alone))


def test_in_place_and_out(in_kernels: Path, device: str, dtype: torch.dtype) -> None:
    for size in (1, 15, 16, 17, 33, 200, 4099):
        (x,) = operands(size, dtype, device, 0)
        expected = in_kernels.mish(x)
        assert reference.same_bits(in_kernels.mish_out(x, torch.empty_like(x)), expected)
        assert reference.same_bits(in_kernels.mish_(x), expected)


@ORDERS
def test_any_number_of_threads(
    in_kernels: Path, threads: None, device: str, dtype: torch.dtype, order: int
) -> None:
    arguments = operands(100_003, dtype, device, order)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(apply(in_kernels, arguments))
    assert reference.same_bits(results[0], results[1])
    assert reference.same_bits(results[0], results[2])
