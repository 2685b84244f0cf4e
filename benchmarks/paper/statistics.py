"""Means, spreads and the paired test over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.paper.protocol import ACTIVATIONS, SUBJECT
from benchmarks.paper.records import Run

LEVEL = 0.05


@dataclass(frozen=True)
class Sample:
    """The accuracies of one activation in percent, with their seeds."""

    activation: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Their standard deviation as that of a sample (n - 1); NaN for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """Accuracy of `SUBJECT` minus that of another activation, in percentage points, over `seeds`.

    `low` and `high` bound the mean difference with 95 % confidence. `p` is that of the two-sided
    paired t-test, `p_holm` the same after Holm's correction for all comparisons with `SUBJECT`. All
    four are NaN where there is no test: with a single seed, or differences that are all the same.
    """

    other: str
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below 5 %."""
        return self.p_holm < LEVEL


def samples(runs: Iterable[Run]) -> list[Sample]:
    """One for each activation that has runs, in the order of `ACTIVATIONS`."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run.activation, {})[run.seed] = run.accuracy
    return [
        Sample(name, tuple(sorted(found[name])), tuple(found[name][s] for s in sorted(found[name])))
        for name in ACTIVATIONS
        if name in found
    ]


def comparisons(runs: Iterable[Run]) -> list[Comparison]:
    """`SUBJECT` against each other activation, over the seeds that both have."""
    by_name = {sample.activation: sample for sample in samples(runs)}
    if SUBJECT not in by_name:
        return []
    ours = dict(zip(by_name[SUBJECT].seeds, by_name[SUBJECT].accuracies, strict=True))
    found = []
    for name, sample in by_name.items():
        theirs = dict(zip(sample.seeds, sample.accuracies, strict=True))
        if name != SUBJECT and (seeds := sorted(ours.keys() & theirs.keys())):
            found.append(_compare(name, [ours[s] for s in seeds], [theirs[s] for s in seeds]))
    corrected = holm([comparison.p for comparison in found])
    return [replace(c, p_holm=p) for c, p in zip(found, corrected, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance of one false finding among all stays below the level.

    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    NaN stays NaN and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    corrected = [math.nan] * len(ps)
    greatest = 0.0
    for rank, (p, place) in enumerate(order):
        greatest = max(greatest, min(1.0, (len(order) - rank) * p))
        corrected[place] = greatest
    return corrected


def _compare(other: str, ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    differences = np.subtract(ours, theirs)
    low = high = p = math.nan
    if np.ptp(differences) > 0:  # else there is no spread to judge by
        test = stats.ttest_rel(ours, theirs)
        p = float(test.pvalue)
        low, high = map(float, test.confidence_interval(0.95))
    return Comparison(other, len(ours), float(differences.mean()), low, high, p, math.nan)
