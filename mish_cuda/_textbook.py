"""The textbook formulas of Mish and its derivatives, the reference of all checks in Python.

They differ from the algebraic formulas of csrc/mish_math.h, so the two cannot share a fault.
"""

from __future__ import annotations

from typing import Any

FUNCTIONS = ("f", "f'", "f''")


def derivatives(x: Any, m: Any) -> tuple[Any, Any, Any]:
    """f, f' and f'' of finite x, by the chain rule from f(x) = x tanh(ln(1 + e^x)).

    `m` is the module with exp, log1p, tanh and cosh for x: torch, numpy or mpmath. If e^x overflows
    to infinity, the results are the limits, not NaN.
    """
    softplus = m.log1p(m.exp(x))
    t = m.tanh(softplus)
    sigmoid, rest = 1 / (1 + m.exp(-x)), 1 / (1 + m.exp(x))  # softplus', and 1 - softplus'
    t1 = sigmoid / m.cosh(softplus) ** 2
    return x * t, t + x * t1, 2 * t1 + x * t1 * (rest - 2 * t * sigmoid)
