"""Derives the polynomials of csrc/cpu/arithmetic.h: ``python tools/exp_polynomial.py``.

For |r| <= ln(2) / 2 and q of a given number of coefficients, the relative error of
1 + r (1 + r q(r)) as e^r is made as small as possible by the Remez exchange, in 50 digits: solve
for coefficients whose error has equal size and alternating sign at some points, move the points to
where that error is largest, repeat. At 0 the error has a double zero: its sign does not change.
"""

from __future__ import annotations

import mpmath as mp

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
        system, target = mp.matrix(count + 1, count + 1), mp.matrix(count + 1, 1)
        for i, r in enumerate(points):
            for power in range(count):
                system[i, power] = r ** (power + 2) * mp.exp(-r)
            system[i, count] = (-1) ** i
            target[i] = -error(r, [])
        q = list(mp.lu_solve(system, target))[:count]
        errors = [abs(error(r, q)) for r in grid]
        peaks = [
            i
            for i in range(GRID + 1)
            if (i == 0 or errors[i - 1] <= errors[i]) and (i == GRID or errors[i + 1] <= errors[i])
        ]
        highest = sorted(sorted(peaks, key=lambda i: -errors[i])[: count + 1])
        moved = [grid[i] for i in highest]
        if max(abs(a - b) for a, b in zip(moved, points, strict=True)) <= 2 * HALF_WIDTH / GRID:
            return q, max(errors)
        points = moved


def main() -> None:
    for name, count in COEFFICIENTS.items():
        q, error = minimax(count)
        print(f"{name}: relative error {mp.nstr(error, 3)}")
        for coefficient in q:
            print(f"  {mp.nstr(coefficient, 20)}")


if __name__ == "__main__":
    main()
