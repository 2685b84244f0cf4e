"""Figures as text."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    return _in_units(seconds, {"ns": 1e9, "µs": 1e6, "ms": 1e3, "s": 1})


def format_bytes(count: float) -> str:
    return _in_units(count, {"B": 1, "KiB": 2**-10, "MiB": 2**-20, "GiB": 2**-30})


def format_size(numel: int) -> str:
    """A count of elements, in M = 2^20 where it is a whole number of them."""
    return f"{numel >> 20} M" if numel and numel % 2**20 == 0 else f"{numel:,}"


def format_shape(shape: tuple[int, ...]) -> str:
    """A count of elements, or 8x64x32x32 where there are several axes."""
    return format_size(*shape) if len(shape) == 1 else "x".join(map(str, shape))


def three_digits(value: float) -> str:
    """A number from 0 on: 1.23, 12.3, 123."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _in_units(value: float, factors: dict[str, float]) -> str:
    """In the first unit that takes three digits before the point at most, else in the last."""
    scaled = {name: value * factor for name, factor in factors.items()}
    name = next((name for name, number in scaled.items() if number < 999.5), [*factors][-1])
    return f"{three_digits(scaled[name])} {name}"
