"""Derives the polynomials of csrc/cpu/arithmetic.h: ``python tools/exp_polynomial.py``.

For |r| <= ln(2) / 2 and q of a given degree, the relative error of 1 + r q(r) as e^r is made as
small as possible by the Remez exchange, in 50 digits: solve for coefficients whose error has equal
size and alternating sign at some points, move the points to where that error is largest, repeat.
"""

from __future__ import annotations

import mpmath as mp

mp.mp.dps = 50
HALF_WIDTH = mp.log(2) / 2 * mp.mpf("1.0001")  # rounding x / ln 2 may overshoot a little
GRID = 4000


def minimax(degree: int, fixed: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients of q, the first `fixed` of them equal to 1, and the largest relative error."""
    free = range(fixed, degree + 1)

    def residual(r: mp.mpf, coefficients: list[mp.mpf]) -> mp.mpf:
        return (1 + r * mp.polyval(coefficients[::-1], r)) * mp.exp(-r) - 1

    # The error vanishes at 0 to the order of the fixed terms; an even order does not change sign.
    def sign(point: mp.mpf, index: int) -> int:
        flip = point < 0 and (fixed + 1) % 2 == 1
        return (-1) ** (index + flip)

    count = len(free) + 1
    points = [-HALF_WIDTH * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    grid = [HALF_WIDTH * (mp.mpf(2 * i) / GRID - 1) for i in range(GRID + 1)]
    while True:
        system, target = mp.matrix(count, count), mp.matrix(count, 1)
        for i, r in enumerate(points):
            for j, power in enumerate(free):
                system[i, j] = r ** (power + 1) * mp.exp(-r)
            system[i, count - 1] = sign(r, i)
            target[i] = -residual(r, [mp.mpf(1)] * fixed)
        solution = mp.lu_solve(system, target)
        coefficients = [mp.mpf(1)] * fixed + [solution[j] for j in range(count - 1)]
        errors = [abs(residual(r, coefficients)) for r in grid]
        peaks = [
            i
            for i in range(GRID + 1)
            if (i == 0 or errors[i - 1] <= errors[i]) and (i == GRID or errors[i + 1] <= errors[i])
        ]
        highest = sorted(sorted(peaks, key=lambda i: -errors[i])[:count])
        moved = [grid[i] for i in highest]
        if max(abs(a - b) for a, b in zip(moved, points, strict=True)) <= 2 * HALF_WIDTH / GRID:
            return coefficients, max(errors)
        points = moved


def main() -> None:
    for name, degree, fixed in (
        ("RefinedFloat", 5, 1),
        ("PlainFloat", 4, 1),
        ("RefinedDouble", 10, 1),
    ):
        coefficients, error = minimax(degree, fixed)
        print(f"{name}: relative error {mp.nstr(error, 3)}")
        for coefficient in coefficients:
            print(f"  {mp.nstr(coefficient, 20)}")


if __name__ == "__main__":
    main()
