"""The proof of the error bounds, on few numbers of each interval, and its own machinery."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from rich.progress import Progress
from rows import Capture, Patch, frame, printed, refusal, tables_of, write
from torch import Tensor

from benchmarks.accuracy import command, implementations, norms, proof, reference, tables
from benchmarks.accuracy.errors import NATIVE, Errors, distance, errors, keep, required, row
from benchmarks.accuracy.implementations import Implementations
from benchmarks.accuracy.numbers import FORMATS, FP16, FP32, FP64, Format
from conftest import needs_extension
from mish_cuda._bounds import Bound
from mish_cuda._textbook import FUNCTIONS

# Signalling NaN are among the numbers, and raise it when they are converted.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:RuntimeWarning") for what in ("invalid", "overflow")
]
needs_kernels = pytest.mark.skipif(
    not implementations.LIBRARY.exists(), reason="no accuracy_kernels: CMakeLists.txt builds it"
)
EACH_FORMAT = pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f.name)
NO_BAR = Progress(disable=True)


def judge(rows: list[dict[str, Any]]) -> list[tables.Verdict]:
    return tables.judge(frame(rows, "errors"))


def sweep(backend: str, number_format: Format, alike: Implementations, limit: int) -> Any:
    spans = proof.cut(backend, number_format)
    return proof.sweep(backend, number_format, alike, spans, limit, NO_BAR)


@EACH_FORMAT
def test_intervals_hold_every_number_once_and_in_order(number_format: Format) -> None:
    info, spans = torch.finfo(number_format.dtype), proof.cut("cpu", number_format)
    spans.sort(key=lambda span: span.first)
    assert (spans[0].first, spans[-1].stop) == (
        -number_format.largest - 1,
        number_format.largest + 1,
    )
    assert all(a.stop == b.first for a, b in itertools.pairwise(spans))
    for span in spans:
        assert span.ordinals(2**64) == range(span.first, span.stop)
        tried = span.ordinals(100)
        values = number_format.widen(number_format.numbers(tried.start, tried.stop, tried.step))
        assert len(tried) == len(values) <= 100
        if not math.isnan(span.low):
            assert (np.diff(values) >= 0).all()
            assert span.low < values[0] or values[0] in (0, -info.max)
            assert values[-1] <= span.high
    x = np.array([1, -1.5, 2, info.smallest_normal, 0], dtype=number_format.wide)
    units = np.array([1, 1, 2, info.smallest_normal, info.smallest_normal]) * info.eps
    assert (number_format.ulps(x) * units == 1).all()


def found(
    x: list[float], true: list[float], result: list[float], sign: bool = False, allowance: float = 0
) -> Errors:
    """The errors of float32 results."""
    wide, exact = np.array(x), np.array(true)
    rounded = FP32.widen(FP32.round(np.array(result)))
    return errors(wide, distance(wide, rounded, exact, sign), FP32.ulps(exact), allowance)


UNIT = 2.0**-23


@pytest.mark.parametrize(("allowance", "ulp"), [(0, 3.0), (UNIT, 2.0), (4 * UNIT, 0.0)])
def test_errors_count_in_units_of_the_true_value(allowance: float, ulp: float) -> None:
    true, result = [1.0, 2.0, 4.0 - UNIT], [1 + 3 * UNIT, 2.0, 4.0]
    expected = Errors(3, ulp, 1.0, 3 * UNIT, 1.0, 2)
    assert found([1.0, 2.0, 3.0], true, result, allowance=allowance) == expected


@pytest.mark.parametrize(
    ("true", "result"),
    [(1.0, math.nan), (1.0, math.inf), (math.nan, 1.0), (math.inf, 3e38), (-0.0, 0.0)],
)
def test_nan_infinity_and_signs_have_to_be_right(true: float, result: float) -> None:
    x = [5.0, -1e-40 if true == 0 else 6.0]
    wrong = found(x, [1.0, true], [1.0, result], sign=True)
    assert (wrong.ulp, wrong.absolute, wrong.absolute_at) == (math.inf, math.inf, x[1])
    right = found(x, [1.0, true], [1.0, true], sign=True)
    assert (right.ulp, right.absolute, right.correct) == (0, 0, 2)


def test_any_difference_in_bits_counts() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    a, b = (torch.tensor([0.0, math.nan, zero], dtype=torch.float64) for zero in (0.0, -0.0))
    alike: Implementations = {"same": lambda x: a, "other": lambda x: b}
    same, other = proof.agreement(FP64, x, alike, "a", lambda x: a, ["f"])
    assert (same["absolute"], same["correct"]) == (0, 3)
    assert (other["absolute"], other["absolute_at"], other["correct"]) == (math.inf, 3.0, 2)


@needs_extension
@needs_kernels
@EACH_FORMAT
def test_bounds_are_kept(number_format: Format) -> None:
    """Every instruction set, function and layout, on a few numbers of each interval."""
    rows = proof.prove("cpu", number_format, NO_BAR, limit=200)
    verdicts = judge(rows)
    assert [str(verdict) for verdict in verdicts if not verdict.ok] == []
    subjects = " ".join(v.subject for v in verdicts)
    for function, kernel in itertools.product(FUNCTIONS, implementations.kernels()):
        for bound in required("cpu", number_format.name, function):
            region = f"x {tables.region(bound)}"
            assert f"{function}, {number_format.name}, {region}, {kernel}" in subjects
    assert all(what in subjects for what in ("h g f''", "strided", "tails"))
    # Nothing is required of F.mish, which is tried, too.
    assert {r["function"] for r in rows if r["implementation"] == NATIVE} >= set(FUNCTIONS)
    assert NATIVE not in subjects


@pytest.mark.parametrize("off", [0, -5])
def test_a_kernel_that_is_off_is_found(off: int) -> None:
    """In one number of 65,536, by so many units in the last place."""

    def run(*operands: Tensor) -> Tensor:
        *factors, x = operands
        true = reference.evaluate(FP16.widen(x))[len(factors)]
        result = FP16.round(math.prod(map(FP16.widen, factors), start=true))
        result.view(torch.int16)[x == 2.5] += off
        return result

    rows = sweep("cpu", FP16, {"mine": run}, 2**16)
    broken = [v.subject for v in judge(rows) if not v.ok]
    regions = {"f": "finite", "f'": ">= 0", "f''": "-3 to 3", "g f'": ">= 0", "h g f''": "-3 to 3"}
    wrong = [f"{name}, fp16, x {region}, mine" for name, region in regions.items()]
    assert broken == (wrong if off else [])
    for function in regions:
        assert sum(row["tried"] for row in rows if row["function"] == function) == 65536


def test_a_kernel_has_to_keep_the_sign_of_zero() -> None:
    (span,) = (span for span in proof.cut("cpu", FP16) if span.stop == 0)
    lost: Implementations = {"mine": lambda *x: implementations.native(*x).detach() + 0}
    assert proof.measure("cpu", FP16, lost, span, range(-1, 0))["f", "mine"].ulp == math.inf


@needs_extension
def test_the_kernels_of_a_gpu_are_judged_by_their_own_bounds() -> None:
    """The same run, with the ops of the CPU in their place."""
    verdicts = judge(sweep("cuda", FP16, {"cuda": implementations.registered}, 100))
    assert all(verdict.ok for verdict in verdicts)
    for function in proof.OPS:
        used = {v.required for v in verdicts if v.subject.startswith(f"{function}, fp16")}
        assert used == {str(bound) or "exact" for bound in required("cuda", "fp16", function)}


def test_bounds() -> None:
    """The largest error that is kept, and one that is not."""
    for figures, column, kept, broken in (
        ((2.5, 0, 0), "ulp", 2.5, 2.6),
        ((0, 4e-7, 0), "absolute", 4e-7, 5e-7),
        ((1, 4e-7, 0), "ulp", 1, 1.1),
        ((0, 0, 0.99), "correct", 99, 98),
        ((0, 0, 0), "absolute", 0, 1e-300),
    ):
        bound, found = Bound(0, 1, *figures), Errors(100, 0, 0, 0, 0, 100)
        assert keep(found._replace(**{column: kept}), bound)
        assert not keep(found._replace(**{column: broken}), bound)


def test_gradients_scale_absolute_bounds_alone() -> None:
    (once,) = (b for b in required("cpu", "fp16", "f'") if b.high == 0)
    (twice,) = (b for b in required("cpu", "fp16", "g f'") if b.high == 0)
    assert (twice.ulp, twice.absolute) == (once.ulp, 4 * once.absolute)


def test_the_table_has_the_worst_of_ours_and_the_reference(tmp_path: Path, capsys: Capture) -> None:
    """Where the bound is in ULP and where it is absolute; the reference may take a hundredth."""
    best, worse = Errors(1000, 1, 1, 0, 1, 900), Errors(1000, 2.25, -3.5, 7e-37, -88.0, 900)
    low, high = (-math.inf, -87.3), (-87.3, math.inf)
    rows = [
        row("f", name, "fp32", FP32.reference, found, *ends)
        for ends in (low, (-87.3, -1.0), (-1.0, math.inf))
        for name, found in (("AVX2", best), ("AVX-512", worse), (NATIVE, worse))
    ]
    for ulp, ends in ((0, low), (0.03, high)):
        off = Errors(9, ulp, 1.0, 0, 1.0, 9)
        rows.append(row("f", "double", "fp32", "mpmath", off, *ends))
    found = tables_of(capsys, write(tmp_path / "a.csv", rows, "errors"))
    assert ["|".join(line) for line in found["errors, and what is required"]] == [
        "f, fp32|<= -87.3|1.1e-36|7e-37|-88|90.00%|yes|7e-37|-88|90.00%|0",
        "f, fp32|> -87.3|2.5 ULP|2.25 ULP|-3.5|90.00%|yes|2.25 ULP|-3.5|90.00%|0.03 ULP",
    ]
    (broken,) = (str(v) for v in judge(rows) if not v.ok)
    assert broken.startswith("f, fp32, x > -87.3, double: required 0.025 ULP, measured 0.03 ULP")


@needs_extension
def test_the_command_fails_where_a_bound_is_broken(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Without the kernels, whose errors are given here, and refused where these are not built."""
    line = ("accuracy", "--device", "cpu", "--csv", tmp_path / "a.csv")
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path)
    monkeypatch.setattr(norms, "SHAPES", norms.SHAPES[:1])
    for ulp, status, told in ((2.5, 0, "All bounds are kept."), (2.6, 1, "1 bounds are not kept.")):
        ours = [row("f", "AVX2", "fp32", "double", Errors(9, ulp, 1.0, 1e-7, 1.0, 9), -87.3, 20)]
        monkeypatch.setattr(command, "prove", MagicMock(side_effect=[ours, [], [], []]))
        output = printed(capsys, *line, status=status)
        assert told in output
        assert printed(capsys, "table", tmp_path / "a.csv").strip() in output
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path / "nowhere.so")
    assert "Run: make accuracy" in refusal(capsys, *line)


@needs_extension
def test_norms_are_held_to_the_errors_of_torch(monkeypatch: Patch) -> None:
    monkeypatch.setattr(norms, "SHAPES", norms.SHAPES[:2])
    rows = list(norms.rows("cpu"))
    judged = judge(rows)
    assert len(judged) == (6 + 4) * 4  # BatchNorm and GroupNorm; fp32 with two means, bf16, fp16
    assert [str(verdict) for verdict in judged if not verdict.ok] == []
    of_ours = next(row for row in rows if row["implementation"] == norms.OURS)
    of_ours["ulp"] += 10
    assert [verdict.ok for verdict in judge(rows)].count(False) == 1
