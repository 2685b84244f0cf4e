"""The tables of a comparison, and its statistics: means, spreads, the paired test over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.display import Table, frame
from benchmarks.paper import protocol
from benchmarks.paper.protocol import ACTIVATIONS, SUBJECT

LEVEL = 0.05

NOTE = f"""\
accuracy: percent of the test images right after the last epoch, mean and standard deviation
over the seeds. These stand for initial weights and order of the images; the images are always
the same. {SUBJECT} minus: difference of the means in percentage points, with the 95 %
confidence interval: what so many seeds cannot exclude. p: two-sided paired t-test over the
seeds. Within a seed all activations start from the same weights and see the same batches. p
(Holm): corrected for the number of comparisons, as p alone is not. {SUBJECT} is: better or worse
where p (Holm) is below {LEVEL:.0%}; not tested without several seeds of both, or without spread."""
DIGITS = """\
Digits can show that the networks train, and differences well above the spread over seeds.
They cannot show which function is better for other images, networks, learning rates or longer
training. There are 896 images of 8 x 8 pixels to train with and 901 to test, so one image is
0.11 points."""
PUBLISHED = f"""\
Published by the author of the paper, https://arxiv.org/abs/1908.08681:
{", ".join(protocol.PUBLISHED_URLS)}. The single runs have no spread to compare ours with."""


def tables(rows: pd.DataFrame) -> list[Table]:
    s = rows.iloc[0]
    settings = (
        f"{title(rows)}; {s.epochs} epochs, width {s.width}, batches of {s.batch_size}, Adam at "
        f"{s.learning_rate:g}, CPU threads: {s.threads}"
    )
    note = f"{NOTE} {DIGITS}" if s.dataset == "digits" else NOTE
    published = [
        (name, *(_spread(*runs[name], 3) for runs in protocol.PUBLISHED.values()), p)
        for name, p in protocol.PUBLISHED_P.items()
    ]
    header = ("published", *protocol.PUBLISHED, "p against Mish, not paired")
    return [
        Table(settings, _measured(rows), note),
        Table("published", frame(header, published), PUBLISHED),
    ]


def title(rows: pd.DataFrame) -> str:
    return f"SE-ResNet-18 on {rows.dataset.iloc[0]}: {', '.join(accuracies(rows))}"


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Percent of the test images right after the last epoch, not the best one, by seed and
    activation, in the paper's order."""
    last = rows[rows.epoch == rows.epochs]
    wide = last.pivot(index="seed", columns="activation", values="test_accuracy")
    return wide[[name for name in ACTIVATIONS if name in wide]]


def comparisons(rows: pd.DataFrame) -> pd.DataFrame:
    """`SUBJECT` against each other activation, over the seeds that both have: difference of the
    means in percentage points, its 95 % confidence interval, p of the two-sided paired t-test, and
    after Holm's correction. Where there is no test, with a single seed or without any spread, they
    are NaN."""
    wide = accuracies(rows)
    found = {}
    for name in wide.columns.drop(SUBJECT) if SUBJECT in wide else ():
        ours, theirs = wide[[SUBJECT, name]].dropna().to_numpy().T
        if not len(ours):
            continue
        low = high = p = math.nan
        if len(ours) > 1 and np.ptp(ours - theirs) > 0:
            test = stats.ttest_rel(ours, theirs)
            p, (low, high) = test.pvalue, test.confidence_interval(0.95)
        found[name] = (len(ours), (ours - theirs).mean(), low, high, p)
    columns = ["seeds", "difference", "low", "high", "p"]
    result = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    result = result.assign(holm=holm(result.p))
    better = np.where(result.difference > 0, "better", "worse")
    found_out = np.where(result.holm < LEVEL, better, "not told apart")
    return result.assign(finding=np.where(result.holm.isna(), "not tested", found_out))


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down correction: the chance of one false finding among all stays below the level.

    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    NaN stays NaN and does not count.
    """
    ranked = p.dropna().sort_values()
    factors = np.arange(len(ranked), 0, -1)
    return (ranked * factors).clip(upper=1).cummax().reindex(p.index)


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    against = comparisons(rows)
    lines = []
    for name, values in accuracies(rows).items():
        tested = [""] * 5
        if name in against.index:
            c = against.loc[name]
            interval = "" if math.isnan(c.low) else f"{c.low:+.2f} to {c.high:+.2f}"
            tested = [f"{c.difference:+.2f}", interval, _p(c.p), _p(c.holm), c.finding]
        spread = _spread(values.mean(), values.std(), 2)
        lines.append([name, str(values.count()), spread, *tested])
    tests = (f"{SUBJECT} minus", "95 %", "p", "p (Holm)", f"{SUBJECT} is")
    return frame(("activation", "runs", "accuracy", *tests), lines)


def _spread(mean: float, std: float, digits: int) -> str:
    """Mean and standard deviation; of a single run only the accuracy."""
    return f"{mean:.{digits}f}" if math.isnan(std) else f"{mean:.2f} ± {std:.{digits}f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
