"""Measured errors against the bounds: verdicts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks.accuracy.errors import (
    DEFINITION,
    NATIVE,
    SAME_BITS,
    WIDER,
    WITH_FLOAT64,
    Errors,
    covers,
    keep,
    required,
    together,
)
from benchmarks.display import Table, Verdict, frame, yes_no
from mish_cuda._bounds import Bound

NOTE = """\
Ours: the worst of all instruction sets. error: the largest, and the x where it is; in units
in the last place of the true value or absolute, as the bound is; where it is a sum, the ULP
beyond its absolute part. right: share correctly rounded. reference: what the others are
judged by, itself judged by mpmath, at the worst x of every interval and at others; it has to
be within a hundredth of the bound."""


NORMS_NOTE = """\
The largest errors, in ULP of the largest true value, of some inputs with this mean and a
deviation of 2. Ours may be off by as much as torch's norm and F.mish, and one ULP."""


def tables(rows: pd.DataFrame) -> list[Table]:
    """The errors in each region, of norms, and pairs that have to give the same bits."""
    of_norms = list(_norms(rows))
    rows = rows[rows.reference != WITH_FLOAT64]
    header = (
        *("function", "x", "required", "error", "at", "right", "ok"),
        *("F.mish: error", "F.mish: at", "F.mish: right", "reference"),
    )
    found = [Table("errors, and what is required", frame(header, _lines(rows)), NOTE, names=3)]
    pairs = rows[~rows.reference.isin((*WIDER, DEFINITION))]
    lines = []
    for pair, group in pairs.groupby(["implementation", "reference", "dtype"], sort=False):
        tried, differ = group.tried.sum(), (group.tried - group.correct).sum()
        functions = ", ".join(group.function)
        lines.append((*pair, functions, f"{tried:,}", f"{differ:,}", yes_no(not differ)))
    if lines:
        names = ("implementation", "the same bits as", "dtype", "of")
        found.append(Table("the same bits", frame((*names, "tried", "differ", "ok"), lines), "", 4))
    if of_norms:
        columns = ("", "dtype", "mean", "error", "F.mish: error", "ok")
        texts = ((*what, f"{o:.3g}", f"{t:.3g}", yes_no(ok)) for *what, o, t, ok in of_norms)
        found.append(Table("norms with Mish", frame(columns, texts), NORMS_NOTE, 3))
    return found


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """One verdict for each bound and implementation, but F.mish, of which nothing is required."""
    of_norms = [
        Verdict(f"{what}, {dtype}, mean {mean}", f"<= {t + 1:.3g} ULP", f"{o:.3g} ULP", ok)
        for what, dtype, mean, o, t, ok in _norms(rows)
    ]
    return of_norms + [
        Verdict(
            f"{r.function}, {r.dtype}, x {region(r.bound)}, {r.implementation}",
            str(r.bound) or "exact",
            ", ".join(filter(None, _figures(r, r.bound))),
            keep(r, r.bound),
        )
        for r in _judged(rows[rows.reference != WITH_FLOAT64]).itertuples()
        if r.implementation != NATIVE
    ]


def region(bound: Bound) -> str:
    """The x that a bound is about."""
    low, high = bound.low, bound.high
    if math.isnan(low):
        return "inf, NaN"
    if math.isinf(low):
        return "finite" if math.isinf(high) else f"<= {high:g}"
    if math.isinf(high):
        return f"> {low:g}" if low else ">= 0"
    return f"{low:g} to {high:g}"


def _norms(rows: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """What, dtype and mean, the errors of ours and of torch's norm with F.mish, and a verdict."""
    rows = rows[rows.reference == WITH_FLOAT64]
    for (what, dtype, mean), group in rows.groupby(["function", "dtype", "low"], sort=False):
        native = group.implementation == NATIVE
        ours, theirs = group.ulp[~native].max(), group.ulp[native].max()
        yield what, dtype, f"{mean:g}", ours, theirs, bool(ours <= theirs + 1)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The errors of each implementation in the region of each bound, beside the bound that it is
    held to. `place` is that of the bound among those of the function.
    """
    backend = "cuda" if (rows.implementation == "cuda").any() else "cpu"
    keys = ["dtype", "function", "reference", "implementation"]
    found = []
    for key, group in rows.groupby(keys, sort=False):
        dtype, function, reference, _ = key
        exact = reference not in (*WIDER, DEFINITION)
        bounds = [SAME_BITS] if exact else required(backend, dtype, function)
        for place, bound in enumerate(bounds):
            inside = [r for r in group.itertuples() if covers(bound, r.low, r.high)]
            if reference == DEFINITION:
                bound = replace(bound, ulp=bound.ulp / 100, absolute=bound.absolute / 100)
            if inside:
                found.append((*key, place, bound, *together(inside)))
    return pd.DataFrame(found, columns=[*keys, "place", "bound", *Errors._fields])


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One for each region, of ours, F.mish and the reference."""
    judged = _judged(rows[rows.reference.isin((*WIDER, DEFINITION))])
    for (dtype, function, _), group in judged.groupby(["dtype", "function", "place"], sort=False):
        each = list(group.itertuples())
        known = [r for r in each if r.reference == DEFINITION]
        native = [r for r in each if r.implementation == NATIVE]
        ours = [r for r in each if r.reference != DEFINITION and r.implementation != NATIVE]
        if not ours + native:
            continue
        bound = (ours + native)[0].bound
        worst, theirs, reference = (
            _figures(together(some), bound) if some else ("", "", "")
            for some in (ours, native, known)
        )
        ok = yes_no(all(keep(r, bound) for r in ours)) if ours else ""
        names = (f"{function}, {dtype}", region(bound), str(bound) or "exact")
        yield (*names, *worst, ok, *theirs, reference[0])


def _figures(errors: Errors, bound: Bound) -> tuple[str, str, str]:
    """The error that the bound is about, where it is, and the share that is correctly rounded."""
    # Never 100 % where one is missing.
    right = f"{math.floor(1e4 * errors.correct / errors.tried) / 1e4:.2%}"
    if bound.correct:
        return "", "", right
    error, at = (errors.ulp, errors.ulp_at) if bound.ulp else (errors.absolute, errors.absolute_at)
    unit = " ULP" if bound.ulp else ""
    return f"{error:.3g}{unit}", "" if math.isnan(at) else f"{at:.6g}", right
