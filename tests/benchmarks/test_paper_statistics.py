"""The paper's comparison: its statistics by hand, and its pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rows import FACTS, frame, main

pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")

from scipy import stats

from benchmarks.paper import plots, tables
from benchmarks.paper.protocol import DEFAULTS, PUBLISHED, PUBLISHED_P


def finished(activation: str, *accuracies: float) -> list[dict[str, Any]]:
    """Rows of runs of two epochs."""
    settings = dataclasses.asdict(dataclasses.replace(DEFAULTS["digits"], epochs=2))
    fixed = {**FACTS, **settings, "activation": activation, "train_loss": 0.5, "seconds": 1.0}
    return [
        fixed | {"seed": seed, "epoch": epoch, "test_accuracy": accuracy if epoch == 2 else 0}
        for seed, accuracy in enumerate(accuracies)
        for epoch in (1, 2)
    ]


def compared(**accuracies: Sequence[float]) -> pd.DataFrame:
    runs = (row for name, values in accuracies.items() for row in finished(name, *values))
    return tables.comparisons(frame(runs, "epochs"))


def test_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3), of which p = 1 - t / sqrt(2 + t²) at n = 3."""
    found = compared(Swish=(10, 30, 20), Mish=(11, 32, 23))
    assert list(found.index) == ["Swish"]
    swish = found.loc["Swish"]
    t = 2 * math.sqrt(3)
    p = pytest.approx(1 - t / math.sqrt(2 + t * t))
    # 97.5 % of the distribution with 2 degrees of freedom are below 4.302653.
    ends = [pytest.approx(2 + side * 4.302653 / math.sqrt(3), rel=1e-6) for side in (-1, 1)]
    assert list(swish[["seeds", "difference", "low", "high", "p", "holm"]]) == [3, 2, *ends, p, p]


def test_only_seeds_of_both_are_compared() -> None:
    relu = compared(Mish=(1, 2, 4), ReLU=(1, 1, 1, 50)).loc["ReLU"]
    assert relu.seeds == 3
    assert relu.p == pytest.approx(stats.ttest_rel([1, 2, 4], [1, 1, 1]).pvalue)
    assert compared(ReLU=(1, 2)).empty


@pytest.mark.parametrize(("mish", "gelu"), [((5,), (4,)), ((5, 6, 7), (4, 5, 6))])
def test_without_spread_there_is_no_test(mish: Sequence[float], gelu: Sequence[float]) -> None:
    found = compared(Mish=mish, GELU=gelu).loc["GELU"]
    assert (found.difference, found.finding) == (1, "not tested")
    assert found[["p", "holm", "low", "high"]].isna().all()


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1, 1]),
        ([math.nan, 0.02], [math.nan, 0.02]),
        ([], []),
    ],
)
def test_holm(p: list[float], corrected: list[float]) -> None:
    assert list(tables.holm(pd.Series(p, dtype=float))) == pytest.approx(corrected, nan_ok=True)


def test_tables_say_where_mish_is_better_and_worse() -> None:
    runs = [
        *finished("Mish", 90.0, 90.1, 90.2, 90.3),
        *finished("ReLU", 91.0, 91.1, 91.3, 91.4),
        *finished("Swish", 80.0, 80.2, 80.1, 80.3),
        *finished("GELU", 90.1, 90.0, 90.3, 90.2),
    ]
    measured, published = tables.tables(frame(runs, "epochs"))
    assert list(measured.frame["Mish is"]) == ["", "better", "worse", "not told apart"]
    # Of ReLU 91.2 and sqrt((0.04 + 0.01 + 0.01 + 0.04) / 3).
    assert list(measured.frame.iloc[2])[2:4] == ["91.20 ± 0.18", "-1.05"]
    assert {"90.526", "87.48 ± 0.397"} < set(published.frame.iloc[0])


def test_published_ps_are_those_of_an_unpaired_test() -> None:
    for name in ("Swish", "GELU"):
        runs = PUBLISHED["CIFAR-10, Squeeze Net, 23 runs"]
        test = stats.ttest_ind_from_stats(*runs["Mish"], 23, *runs[name], 23)
        assert test.pvalue == pytest.approx(float(PUBLISHED_P[name]), abs=0.01)  # of rounded means


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("paper", "pictures", "--output", tmp_path / "new") == 0
    assert "landscape.png" in capsys.readouterr().out
    for name in ("function", "landscape"):
        with Image.open(tmp_path / "new" / f"{name}.png") as image:
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10  # not blank


def test_the_derivatives_drawn_are_derivatives() -> None:
    axes = plots.function().figure.axes[0]
    f, slope, curvature = (np.array(line.get_xydata()) for line in axes.lines[:3])
    assert axes.lines[3].get_xydata()[0] == pytest.approx((-1.1924, -0.30884), abs=5e-3)
    for y, derivative in ((f, slope), (slope, curvature)):
        numeric = np.gradient(y[:, 1], y[:, 0])
        np.testing.assert_allclose(derivative[1:-1, 1], numeric[1:-1], atol=2e-5)


def test_random_networks_differ_in_the_activation_alone() -> None:
    relu, mish = (plots.random_network(name, 1) for name in ("ReLU", "Mish"))
    torch.testing.assert_close(relu.state_dict(), mish.state_dict(), rtol=0, atol=0)
    points = torch.randn(5, 2)
    assert not torch.equal(relu(points), mish(points))
