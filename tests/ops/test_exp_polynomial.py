"""Derives the polynomials of csrc/mish_arithmetic.h, and checks those there.

For |r| <= ln(2) / 2 and q of a given number of coefficients, the relative error of
1 + r (1 + r q(r)) as e^r is made as small as possible by the Remez exchange, in 50 digits: solve
for coefficients whose error has equal size and alternating sign at some points, move the points to
where that error is largest, repeat. At 0 the error has a double zero: its sign does not change.
"""

from __future__ import annotations

import re
from itertools import groupby

import mpmath as mp
import pytest

from project import ROOT

mp.mp.dps = 50
HALF_WIDTH = mp.log(2) / 2 * mp.mpf("1.0001")  # rounding x / ln 2 may overshoot a little
STEP = HALF_WIDTH / 2000
GRID = [STEP * i for i in range(-2000, 2001) if i]
SOURCE = (ROOT / "csrc" / "mish_arithmetic.h").read_text(encoding="utf-8")


def minimax(count: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The `count` coefficients of q, lowest power first, and the largest relative error."""
    points = [
        -HALF_WIDTH * mp.cos(mp.pi * (2 * i + 1) / (2 * (count + 1))) for i in range(count + 1)
    ]
    while True:
        system = [
            [*(r ** (power + 2) * mp.exp(-r) for power in range(count)), (-1) ** i]
            for i, r in enumerate(points)
        ]
        wanted = [1 - (1 + r) * mp.exp(-r) for r in points]
        q = [*mp.lu_solve(mp.matrix(system), mp.matrix(wanted))][:count]
        error = [(1 + r * (1 + r * mp.polyval(q[::-1], r))) * mp.exp(-r) - 1 for r in GRID]
        of_one_sign = groupby(zip(GRID, error, strict=True), key=lambda pair: pair[1] > 0)
        moved = [max(pairs, key=lambda pair: abs(pair[1]))[0] for _, pairs in of_one_sign]
        if max(abs(a - b) for a, b in zip(moved, points, strict=True)) <= STEP:
            return q, max(map(abs, error))
        points = moved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("RefinedFloat", 5), ("PlainFloat", 4), ("RefinedDouble", 10)]
)
def test_the_source_has_what_the_script_derives(name: str, count: int) -> None:
    pattern = rf"struct {name} : .*?Error of the polynomial: (\S+?)[,;].*?assemble<L>\(x, (.*?)\);"
    body = re.search(pattern, SOURCE, re.DOTALL)
    assert body, f"no {name} with a polynomial in mish_arithmetic.h"
    derived, largest = minimax(count)
    assert [float(number) for number in body[2].split(",")] == [float(number) for number in derived]
    assert largest <= float(body[1]) <= 1.1 * largest  # written in two digits, rounded up
