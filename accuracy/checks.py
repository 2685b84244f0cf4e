"""What a sweep of f, f' and f'' leaves open: elements in odd places, gradients other than 1, and
how good the reference is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import mpmath  # type: ignore[import-untyped]
import numpy as np

from accuracy import reference
from accuracy.bounds import REGIONS
from accuracy.errors import Errors, Judge, difference
from accuracy.formats import Bits, Format
from accuracy.paths import Path
from accuracy.reference import FUNCTIONS
from accuracy.results import Row
from accuracy.sweep import Interval

OPS = ("f", "g f'", "h g f''")
DEFINITION = "mpmath"


def sample(number_format: Format, spans: Iterable[Interval], count: int) -> Bits:
    """About `count` numbers of each interval, evenly spread."""
    parts = []
    for span in spans:
        step = span.step(count)
        parts.append(number_format.numbers(span.first, span.stop, step))
    return np.concatenate(parts)


def gradients(number_format: Format, x: Bits, count: int) -> list[Bits]:
    """Random numbers of either sign, between 0.5 and 4 so that no product leaves the range."""
    random = np.random.default_rng(0)
    return [
        number_format.encode(random.uniform(0.5, 3.9, x.size) * random.choice([-1, 1], x.size))
        for _ in range(count)
    ]


def agreement(number_format: Format, path: Path, other: Path, x: Bits) -> Iterator[Row]:
    """Whether two paths give the same bits."""
    for order, op in enumerate(OPS):
        operands = [*gradients(number_format, x, order), x]
        pair = (p.run(number_format, operands) for p in (path, other))
        errors = difference(number_format, x, *pair)
        yield _row(op, path.name, number_format, other.name, errors)


def products(number_format: Format, path: Path, x: Bits) -> Iterator[Row]:
    """Whether g f' and h g f'' are f' and f'' times the gradients, rounded once for each; in 16-bit
    formats, which are computed in float, rounded once in all."""
    for order in (1, 2):
        factors = gradients(number_format, x, order)
        result = path.run(number_format, [*factors, x])
        if number_format.dtype.itemsize > 2:
            derivative = f"its own {FUNCTIONS[order]}"
            product = number_format.to_tensor(path.derivative(number_format, order, x))
            for factor in reversed(factors):
                product = number_format.to_tensor(factor) * product
            errors = difference(number_format, x, result, number_format.from_tensor(product))
            yield _row(OPS[order], path.name, number_format, derivative, errors)
        else:
            wide = number_format.widen(x)
            true = reference.evaluate(wide)[order]
            for factor in factors:
                true = true * number_format.widen(factor)
            for region in REGIONS[number_format.name][OPS[order]]:
                inside = (wide > region.low) & (wide <= region.high)
                judge = Judge(number_format, wide[inside], true[inside])
                errors = judge(result[inside], region.bound.allowance)
                yield Row(
                    *(OPS[order], path.name, number_format.name, number_format.judged_in),
                    *(region.low, region.high, errors.tried, errors),
                )


def against_definition(number_format: Format, order: int, points: Bits) -> Iterator[Row]:
    """The errors of the reference, in ULP of the format."""
    function = FUNCTIONS[order]
    x = number_format.widen(np.unique(points))
    x = x[np.abs(x) < 1000]  # so that mpmath's e^x stays small
    values = reference.evaluate(x)[order]
    ulps = number_format.ulps(values)
    for region in REGIONS[number_format.name][function]:
        if region.bound.correct is not None or math.isnan(region.low):
            continue
        errors = Errors()
        inside = (x > region.low) & (x <= region.high)
        for point, value, per_unit in zip(*(v[inside] for v in (x, values, ulps)), strict=True):
            with mpmath.workdps(40):
                high = float(value)
                known = mpmath.mpf(high) + float(value - high)
                absolute = float(abs(known - reference.definition(float(point), order)))
            at = float(point)
            ulp = float(absolute * per_unit)
            errors |= Errors(1, ulp, at, absolute, at, int(ulp <= 0.5))
        if errors.tried:
            yield Row(
                *(function, number_format.judged_in, number_format.name, DEFINITION),
                *(region.low, region.high, errors.tried, errors),
            )


def _row(op: str, path: str, number_format: Format, other: str, errors: Errors) -> Row:
    return Row(op, path, number_format.name, other, -math.inf, math.inf, errors.tried, errors)
