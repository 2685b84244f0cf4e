"""Figures as text."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{three_digits(seconds * scale)} {unit}"
    return f"{three_digits(seconds)} s"


def format_size(numel: int) -> str:
    """A count of elements, in M = 2^20 where it is a whole number of them."""
    return f"{numel >> 20} M" if numel and numel % 2**20 == 0 else f"{numel:,}"


def format_shape(shape: tuple[int, ...]) -> str:
    """A count of elements, or 8x64x32x32 where there are several axes."""
    return format_size(*shape) if len(shape) == 1 else "x".join(map(str, shape))


def format_bytes(count: float) -> str:
    for unit, scale in (("B", 1), ("KiB", 2**10), ("MiB", 2**20)):
        if count / scale < 999.5:
            return f"{count:.0f} B" if scale == 1 else f"{three_digits(count / scale)} {unit}"
    return f"{three_digits(count / 2**30)} GiB"


def three_digits(value: float) -> str:
    """A number from 0 on: 1.23, 12.3, 123."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
