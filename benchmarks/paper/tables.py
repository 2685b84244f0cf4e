"""The tables of a comparison, and its statistics: means, spreads, the paired test over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.display import Table
from benchmarks.paper.protocol import ACTIVATIONS, PUBLISHED, PUBLISHED_P, SUBJECT

LEVEL = 0.05

NOTE = f"""\
accuracy: percent of the test images right after the last epoch, mean and standard deviation
over the seeds, which stand for initial weights and order of the images. {SUBJECT} minus:
difference of the means in percentage points, with the 95 % confidence interval. p: two-sided
paired t-test over the seeds. p (Holm): corrected for the number of comparisons. {SUBJECT} is:
better or worse where p (Holm) is below {LEVEL:.0%}; not tested without several seeds of both, or
without spread. docs/paper.md says what this can show of other images and networks."""
PUBLISHED_NOTE = """\
Published by the author of the paper, https://arxiv.org/abs/1908.08681, with more digits and GELU in
https://github.com/digantamisra98/Mish/blob/01037846a44f15a3dc8588756eab81ef3400631f/Notebooks/Readme.md
and, for the Squeeze Net,
https://github.com/digantamisra98/Mish/blob/0004347eb34797b751ae81495933672d96e18d13/README.md.
The single runs have no spread to compare ours with."""


def tables(rows: pd.DataFrame) -> list[Table]:
    s = rows.iloc[0]
    settings = (
        f"{title(rows)}; {s.epochs} epochs, width {s.width}, batches of {s.batch_size}, Adam at "
        f"{s.learning_rate:g}, CPU threads: {s.threads}"
    )
    wide = accuracies(rows)
    spreads = {"runs": wide.count().map(str), "accuracy": _spreads(wide.agg(["mean", "std"]).T, 2)}
    measured = pd.DataFrame(spreads).join(_texts(comparisons(wide)))
    published = pd.DataFrame({networks: _spreads(of, 3) for networks, of in PUBLISHED.items()})
    published["p against Mish, not paired"] = pd.Series(PUBLISHED_P)
    return [
        Table(settings, measured.astype(object).fillna("").reset_index(names="activation"), NOTE),
        Table("published", published.reset_index(names="published"), PUBLISHED_NOTE),
    ]


def title(rows: pd.DataFrame) -> str:
    return f"SE-ResNet-18 on {rows.dataset.iloc[0]}: {', '.join(accuracies(rows))}"


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Percent of the test images right after the last epoch, not the best one, by seed and
    activation, in the paper's order."""
    last = rows[rows.epoch == rows.epochs]
    wide = last.pivot(index="seed", columns="activation", values="test_accuracy")
    return wide[[name for name in ACTIVATIONS if name in wide]]


def comparisons(wide: pd.DataFrame) -> pd.DataFrame:
    """`SUBJECT` against each other activation, over the seeds that both have: difference of the
    means in percentage points, its 95 % confidence interval, p of the two-sided paired t-test, and
    after Holm's correction. Where there is no test, with a single seed or without any spread, they
    are NaN."""
    found = {}
    for name in wide.columns.drop(SUBJECT) if SUBJECT in wide else ():
        pairs = wide[[SUBJECT, name]].dropna()
        differences = pairs[SUBJECT] - pairs[name]
        found[name] = {"difference": differences.mean()}
        if differences.nunique() > 1:
            test = stats.ttest_rel(pairs[SUBJECT], pairs[name])
            low, high = test.confidence_interval(0.95)
            found[name] |= {"low": low, "high": high, "p": test.pvalue}
    columns = ["difference", "low", "high", "p"]
    result = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    result = result.assign(holm=holm(result.p))
    conditions = (result.holm.isna(), result.holm >= LEVEL, result.difference > 0)
    findings = ("not tested", "not told apart", "better")
    return result.assign(finding=np.select(conditions, findings, "worse"))


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down correction: the chance of one false finding among all stays below the level.

    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    NaN stays NaN and does not count.
    """
    ranked = p.dropna().sort_values()
    factors = np.arange(len(ranked), 0, -1)
    return (ranked * factors).clip(upper=1).cummax().reindex(p.index)


def _spreads(of: pd.DataFrame, digits: int) -> pd.Series:
    """Means and standard deviations; of a single run only the accuracy."""
    mean, std = (of[name].map(f"{{:.{digits}f}}".format) for name in ("mean", "std"))
    return mean.where(of["std"].isna(), mean + " ± " + std)


def _texts(found: pd.DataFrame) -> pd.DataFrame:
    """NaN where there is no test."""
    forms = {"difference": "{:+.2f}", "low": "{:+.2f} to ", "high": "{:+.2f}"}
    forms |= dict.fromkeys(("p", "holm"), "{:.3f}")
    texts = {name: found[name].map(form.format, na_action="ignore") for name, form in forms.items()}
    columns = {
        f"{SUBJECT} minus": texts["difference"],
        "95 %": texts["low"] + texts["high"],
        "p": texts["p"],
        "p (Holm)": texts["holm"],
        f"{SUBJECT} is": found.finding,
    }
    return pd.DataFrame(columns).replace("0.000", "< 0.001")
