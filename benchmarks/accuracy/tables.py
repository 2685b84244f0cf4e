"""Measured errors against the bounds: verdicts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from benchmarks.accuracy.errors import (
    DEFINITION,
    NATIVE,
    SAME_BITS,
    WIDER,
    WITH_FLOAT64,
    covers,
    keep,
    required,
)
from benchmarks.display import Table, Verdict, frame, yes_no
from mish_cuda._bounds import Bound

NOTE = """\
Ours: the worst of all instruction sets. error: the largest, and the x where it is; in units
in the last place of the true value or absolute, as the bound is; where it is a sum, the ULP
beyond its absolute part. right: share correctly rounded. reference: what the others are
judged by, itself judged by mpmath, at the worst x of every interval and at others; it has to
be within a hundredth of the bound. Norms: in ULP of the largest true value, of some inputs
with this mean and a deviation of 2; ours may be off by as much as torch's norm and F.mish,
and one ULP."""
JUDGES = (*WIDER, DEFINITION, WITH_FLOAT64)
_KEY = ["dtype", "function", "reference"]


def tables(rows: pd.DataFrame) -> list[Table]:
    """The errors in each region, and pairs that have to give the same bits."""
    header = (
        *("function", "x", "required", "error", "at", "right", "ok"),
        *("F.mish: error", "F.mish: at", "F.mish: right", "reference"),
    )
    found = [Table("errors, and what is required", frame(header, _lines(rows)), NOTE, names=3)]
    pairs = rows[~rows.reference.isin(JUDGES)].assign(differ=lambda r: r.tried - r.correct)
    if len(pairs):
        by_pair = pairs.groupby(["implementation", "reference", "dtype"], sort=False)
        same = by_pair.agg({"function": ", ".join, "tried": "sum", "differ": "sum"}).reset_index()
        same["ok"] = (same.differ == 0).map(yes_no)
        same[["tried", "differ"]] = same[["tried", "differ"]].map("{:,}".format)
        names = ("implementation", "the same bits as", "dtype", "of", "tried", "differ", "ok")
        found.append(Table("the same bits", same.set_axis(names, axis=1), "", 4))
    return found


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """One verdict for each bound and implementation, but F.mish, of which nothing is required."""
    judged = _with_bounds(rows)
    judged = judged[judged.implementation != NATIVE]
    verdicts = []
    for key, group in judged.groupby([*_KEY, "place", "implementation"], sort=False):
        dtype, function, *_, name = key
        bound = group.bound.iloc[0]
        measured = ", ".join(filter(None, _figures(group, bound)))
        subject = f"{function}, {dtype}, x {region(bound)}, {name}"
        verdicts.append(Verdict(subject, str(bound) or "exact", measured, keep(group, bound)))
    return verdicts


def region(bound: Bound) -> str:
    low, high = bound.low, bound.high
    if math.isnan(low):
        return "inf, NaN"
    if low == high:
        return f"of mean {low:g}"
    if math.isinf(low):
        return "finite" if math.isinf(high) else f"to {high:g}"
    return f"from {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _with_bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row beside the bound of the region that it lies in, and again for any other of these;
    `place` is the bound's among those of the function."""
    backend = "cuda" if (rows.implementation == "cuda").any() else "cpu"
    found = []
    for (dtype, function, reference), group in rows.groupby(_KEY, sort=False):
        for place, bound in enumerate(_bounds(backend, dtype, function, reference, group)):
            inside = [covers(bound, *ends) for ends in zip(group.low, group.high, strict=True)]
            found.append(group[inside].assign(place=place, bound=bound))
    return pd.concat(found)


def _bounds(
    backend: str, dtype: str, function: str, reference: str, rows: pd.DataFrame
) -> list[Bound]:
    """What is required of a function in a dtype beside a reference; `rows` are all such errors."""
    if reference == WITH_FLOAT64:
        means = rows[rows.implementation == NATIVE].groupby("low", sort=False).ulp.max()
        return [Bound(mean, mean, ulp + 1, 0, 0) for mean, ulp in means.items()]
    if reference not in JUDGES:
        return [SAME_BITS]
    share = 0.01 if reference == DEFINITION else 1
    return [
        replace(bound, ulp=bound.ulp * share, absolute=bound.absolute * share)
        for bound in required(backend, dtype, function)
    ]


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """One for each region, of ours, F.mish and the reference."""
    rows = _with_bounds(rows[rows.reference.isin(JUDGES)])
    for (dtype, function, _), group in rows.groupby(["dtype", "function", "place"], sort=False):
        known, native = group.reference == DEFINITION, group.implementation == NATIVE
        bound, ours = group.bound[~known].iloc[0], group[~known & ~native]
        worst, theirs, reference = (
            _figures(some, bound) if len(some) else ("", "", "")
            for some in (ours, group[native], group[known])
        )
        ok = yes_no(all(keep(one, bound) for _, one in ours.groupby("implementation")))
        names = (f"{function}, {dtype}", region(bound), str(bound) or "exact")
        yield (*names, *worst, ok, *theirs, reference[0])


def _figures(rows: pd.DataFrame, bound: Bound) -> tuple[str, str, str]:
    """The error that the bound is about, where it is, and the share that is correctly rounded."""
    # Never 100 % where one is missing.
    right = f"{math.floor(1e4 * rows.correct.sum() / rows.tried.sum()) / 1e4:.2%}"
    if bound.correct:
        return "", "", right
    name, unit = ("ulp", " ULP") if bound.ulp else ("absolute", "")
    worst = rows.loc[rows[name].idxmax()]
    at = worst[f"{name}_at"]
    return f"{worst[name]:.3g}{unit}", "" if math.isnan(at) else f"{at:.6g}", right
