"""The polynomials of csrc/cpu/arithmetic.h are those that their script derives."""

from __future__ import annotations

import re

import pytest

from project import ROOT
from tools import exp_polynomial

SOURCE = (ROOT / "csrc" / "cpu" / "arithmetic.h").read_text(encoding="utf-8")


def stated(name: str) -> tuple[list[float], float]:
    """The coefficients in the source, and the error that stands above them."""
    body = re.search(
        rf"struct {name} : .*?Error of the polynomial: (\S+?)[,;].*?\);\n", SOURCE, re.S
    )
    assert body, f"no {name} with a polynomial in arithmetic.h"
    call = body[0].partition("assemble<L>(reduce<L>(")[2].partition(")")[2]
    return [float(number) for number in re.findall(r"\d\.[\de.-]+", call)], float(body[1])


@pytest.mark.parametrize("name", exp_polynomial.COEFFICIENTS)
def test_the_source_has_what_the_script_derives(name: str) -> None:
    coefficients, error = stated(name)
    derived, largest = exp_polynomial.minimax(exp_polynomial.COEFFICIENTS[name])
    assert coefficients == [float(coefficient) for coefficient in derived]
    assert largest <= error <= 1.1 * largest  # stated in two digits, rounded up
