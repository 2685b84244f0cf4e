"""Derives the polynomials of csrc/mish_arithmetic.h, and checks those there.

For |r| <= ln(2) / 2 and q of a given number of coefficients, the relative error of
1 + r (1 + r q(r)) as e^r is made as small as possible by the Remez exchange, in 50 digits: solve
for coefficients whose error has equal size and alternating sign at some points, move the points to
where that error is largest, repeat. At 0 the error has a double zero: its sign does not change.
"""

from __future__ import annotations

import re

import mpmath as mp
import pytest

from project import ROOT

mp.mp.dps = 50
HALF_WIDTH = mp.log(2) / 2 * mp.mpf("1.0001")  # rounding x / ln 2 may overshoot a little
GRID = 4000
COEFFICIENTS = {"RefinedFloat": 5, "PlainFloat": 4, "RefinedDouble": 10}


def minimax(count: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The `count` coefficients of q, lowest power first, and the largest relative error."""

    def error(r: mp.mpf, q: list[mp.mpf]) -> mp.mpf:
        return (1 + r * (1 + r * mp.polyval(q[::-1], r))) * mp.exp(-r) - 1

    points = [
        -HALF_WIDTH * mp.cos(mp.pi * (2 * i + 1) / (2 * (count + 1))) for i in range(count + 1)
    ]
    grid = [HALF_WIDTH * (mp.mpf(2 * i) / GRID - 1) for i in range(GRID + 1)]
    while True:
        system = mp.matrix(
            [
                [*(r ** (power + 2) * mp.exp(-r) for power in range(count)), (-1) ** i]
                for i, r in enumerate(points)
            ]
        )
        q = list(mp.lu_solve(system, mp.matrix([-error(r, []) for r in points])))[:count]
        errors = [abs(error(r, q)) for r in grid]
        walled = [mp.mpf(0), *errors, mp.mpf(0)]
        peaks = [i for i in range(GRID + 1) if walled[i] <= errors[i] >= walled[i + 2]]
        highest = sorted(sorted(peaks, key=lambda i: -errors[i])[: count + 1])
        moved = [grid[i] for i in highest]
        if max(abs(a - b) for a, b in zip(moved, points, strict=True)) <= 2 * HALF_WIDTH / GRID:
            return q, max(errors)
        points = moved


SOURCE = (ROOT / "csrc" / "mish_arithmetic.h").read_text(encoding="utf-8")


def read_coefficients(name: str) -> tuple[list[float], float]:
    """The coefficients in the source, and the error in the comment above them."""
    body = re.search(
        rf"struct {name} : .*?Error of the polynomial: (\S+?)[,;].*?\);\n", SOURCE, re.S
    )
    assert body, f"no {name} with a polynomial in mish_arithmetic.h"
    call = body[0].partition("assemble<L>(x, ")[2].partition(")")[0]
    return [float(number) for number in re.findall(r"\d\.[\de.-]+", call)], float(body[1])


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_the_source_has_what_the_script_derives(name: str) -> None:
    coefficients, error = read_coefficients(name)
    derived, largest = minimax(COEFFICIENTS[name])
    assert coefficients == [float(coefficient) for coefficient in derived]
    assert largest <= error <= 1.1 * largest  # read_coefficients in two digits, rounded up
