"""The proof of the error bounds, on few numbers of each interval, and its own machinery."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from rows import frame, main, read, refusal, write
from torch import Tensor

from benchmarks.accuracy import command, implementations, norms, proof, reference, tables
from benchmarks.accuracy.errors import (
    LIMITS,
    NATIVE,
    Errors,
    covers,
    distance,
    errors,
    keep,
    required,
    row,
    together,
)
from benchmarks.accuracy.implementations import Implementations
from benchmarks.accuracy.numbers import BF16, FORMATS, FP16, FP32, FP64, Format, intervals
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
def test_numbers_are_in_order(number_format: Format) -> None:
    info, infinity = torch.finfo(number_format.dtype), number_format.ordinal(math.inf)
    for start, step in ((-infinity - 1, infinity // 500 | 1), (-100, 1), (infinity - 9, 1)):
        ordinals = range(start, min(start + 1001 * step, infinity + 1), step)
        values = number_format.widen(number_format.numbers(start, ordinals.stop, step))
        assert (np.diff(values) >= 0).all()
        assert [number_format.ordinal(value) for value in values] == list(ordinals)
    assert values[-2:].tolist() == [info.max, math.inf]
    for value in (-87.3, 87.3):
        place = number_format.ordinal(value)
        below, above = number_format.widen(number_format.numbers(place, place + 2))
        assert below <= value < above


@EACH_FORMAT
def test_units_in_the_last_place(number_format: Format) -> None:
    info = torch.finfo(number_format.dtype)
    smallest = info.smallest_normal * info.eps
    x = np.array([1, -1.5, 2, info.smallest_normal, smallest, 0], dtype=number_format.wide)
    units = np.array([info.eps, info.eps, 2 * info.eps, smallest, smallest, smallest])
    assert (number_format.ulps(x) * units == 1).all()


@EACH_FORMAT
def test_intervals_hold_every_number_once(number_format: Format) -> None:
    spans = sorted(proof.cut("cpu", number_format), key=lambda span: span.first)
    assert spans[0].first == -number_format.largest - 1
    assert spans[-1].stop == number_format.largest + 1
    assert all(a.stop == b.first for a, b in itertools.pairwise(spans))
    for span in spans:
        ends = (number_format.numbers(n, n + 1) for n in (span.first, span.stop - 1))
        first, last = (number_format.widen(end)[0] for end in ends)
        assert np.isfinite(first) != math.isnan(span.low)
        if np.isfinite(first):
            assert span.low < first or (first == span.low == 0) or span.low == -math.inf
            assert last <= span.high


def test_steps_are_odd_and_keep_the_limit() -> None:
    (span, above, *_) = intervals(FP32, [0.0])
    assert span.ordinals(2**32).step == 1
    for limit in (1, 100, 12345):
        assert span.ordinals(limit).step % 2 == 1
        assert len(span.ordinals(limit)) <= limit
    assert (span.stop, above.first) == (0, 0)  # the zeros are on either side of the cut
    assert covers(Bound(-3, 0, 1, 0, 0), -1, 0)
    assert not covers(Bound(-3, 0, 1, 0, 0), 0, 1)
    assert covers(LIMITS, math.nan, math.nan)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_definition_is_that_of_mish(order: int) -> None:
    expected = (math.tanh(math.log1p(math.e)), 0.6, 0.64)[order]  # f(1), f'(0), f''(0)
    value = float(reference.definition(float(not order), order))
    assert value == pytest.approx(expected, abs=1e-15)
    off = np.longdouble(expected) + np.longdouble(1e-17)
    assert reference.error(float(not order), off, order) < 1e-15


def found(
    x: list[float], true: list[float], result: list[float], sign: bool = False, allowance: float = 0
) -> Errors:
    """The errors of float32 results."""
    wide, exact = np.array(x), np.array(true)
    rounded = FP32.widen(FP32.round(np.array(result)))
    return errors(wide, distance(wide, rounded, exact, sign), FP32.ulps(exact), allowance)


UNIT = 2.0**-23


@pytest.mark.parametrize(
    ("allowance", "expected"),
    [
        (0, Errors(3, 3.0, 1.0, 3 * UNIT, 1.0, 2)),
        (UNIT, Errors(3, 2.0, 1.0, 3 * UNIT, 1.0, 2)),
        (4 * UNIT, Errors(3, 0.0, 1.0, 3 * UNIT, 1.0, 2)),
    ],
)
def test_errors_count_in_units_of_the_true_value(allowance: float, expected: Errors) -> None:
    true, result = [1.0, 2.0, 4.0 - UNIT], [1 + 3 * UNIT, 2.0, 4.0]
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


def test_errors_of_both() -> None:
    a, b = Errors(2, 3.0, 1.0, 0.5, -1.0, 1), Errors(5, 2.0, 7.0, 0.75, -7.0, 4)
    assert together([a, b]) == together([b, a]) == Errors(7, 3.0, 1.0, 0.75, -7.0, 5)


@needs_extension
@needs_kernels
@EACH_FORMAT
def test_bounds_are_kept(number_format: Format) -> None:
    """Every instruction set, function and layout, on a few numbers of each interval."""
    rows = proof.prove("cpu", number_format, NO_BAR, limit=200)
    verdicts = judge(rows)
    assert [str(verdict) for verdict in verdicts if not verdict.ok] == []
    subjects = [v.subject for v in verdicts]
    for function, kernel in itertools.product(FUNCTIONS, implementations.kernels()):
        for bound in required("cpu", number_format.name, function):
            region = f"x {tables.region(bound)}"
            assert f"{function}, {number_format.name}, {region}, {kernel}" in subjects
    tried = {row["implementation"] for row in rows if row["reference"] == "mpmath"}
    assert tried == {number_format.reference}
    # Products, and implementations that give the same bits.
    assert {subject.split(",")[0] for subject in subjects} == {*FUNCTIONS, *proof.OPS}
    assert any("strided" in subject for subject in subjects)
    # Nothing is required of F.mish, which is tried, too.
    assert {r["function"] for r in rows if r["implementation"] == NATIVE} >= set(FUNCTIONS)
    assert not any(NATIVE in subject for subject in subjects)


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
@pytest.mark.parametrize(("number_format", "functions"), [(FP32, FUNCTIONS), (FP16, proof.OPS)])
def test_the_kernels_of_a_gpu_are_judged_by_their_own_bounds(
    number_format: Format, functions: tuple[str, ...]
) -> None:
    """The same run, with the ops of the CPU in their place."""
    on_gpu: Implementations = {"cuda": implementations.registered}
    verdicts = judge(sweep("cuda", number_format, on_gpu, 100))
    assert all(verdict.ok for verdict in verdicts)
    name = number_format.name
    for function in functions:
        used = {v.required for v in verdicts if v.subject.startswith(f"{function}, {name}")}
        assert used == {str(bound) or "exact" for bound in required("cuda", name, function)}


@pytest.mark.parametrize(
    ("figures", "text", "column", "kept", "broken"),
    [
        ((2.5, 0, 0), "2.5 ULP", "ulp", 2.5, 2.6),
        ((0, 4e-7, 0), "4e-07", "absolute", 4e-7, 5e-7),
        ((1, 4e-7, 0), "1 ULP + 4e-07", "ulp", 1, 1.1),
        ((0, 0, 0.99), "99.0% right", "correct", 99, 98),
        ((0, 0, 0), "", "absolute", 0, 1e-300),
    ],
)
def test_bounds(
    figures: tuple[float, ...], text: str, column: str, kept: float, broken: float
) -> None:
    bound, found = Bound(0, 1, *figures), Errors(100, 0, 0, 0, 0, 100)
    assert str(bound) == text
    assert keep(found._replace(**{column: kept}), bound)  # type: ignore[arg-type]
    assert not keep(found._replace(**{column: broken}), bound)  # type: ignore[arg-type]


def test_gradients_scale_absolute_bounds_alone() -> None:
    (once,) = (b for b in required("cpu", "fp16", "f'") if b.high == 0)
    (twice,) = (b for b in required("cpu", "fp16", "g f'") if b.high == 0)
    assert (twice.ulp, twice.absolute) == (once.ulp, 4 * once.absolute)


def test_the_reference_has_to_keep_a_hundredth_of_the_bound() -> None:
    worst = Errors(100, 0.03, 1.0, 0, 1.0, 100)  # the bound is 2.5 ULP
    (verdict,) = judge([row("f", FP32.reference, "fp32", "mpmath", found=worst, low=-87.3)])
    assert not verdict.ok


def test_tables_show_the_figure_that_the_bound_is_about(tmp_path: Path) -> None:
    measured = Errors(1000, 2.25, -3.5, 7e-37, -88.0, 900)
    rows = [
        row("f", name, "fp32", FP32.reference, found=measured, low=low, high=high)
        for low, high in ((-math.inf, -87.3), (-87.3, -1.0), (-1.0, math.inf))
        for name in ("AVX2", "AVX-512", NATIVE)
    ]
    path = write(tmp_path / "a.csv", rows, "errors")
    assert (read(path).absolute == 7e-37).all()
    (table,) = tables.tables(read(path))
    assert ["|".join(line) for line in table.frame.to_numpy()] == [
        "f, fp32|<= -87.3|1.1e-36|7e-37|-88|90.00%|yes|7e-37|-88|90.00%|",
        "f, fp32|> -87.3|2.5 ULP|2.25 ULP|-3.5|90.00%|yes|2.25 ULP|-3.5|90.00%|",
    ]


@needs_extension
@needs_kernels
def test_the_command_measures_and_table_prints_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FORMATS", (BF16, FP32))
    path = tmp_path / "a.csv"
    assert main("accuracy", "--device", "cpu", "--limit", "300", "--csv", path) == 0
    first = capsys.readouterr().out
    assert "All bounds are kept." in first
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert main("table", path) == 0
    assert capsys.readouterr().out.strip() in first


def test_without_the_kernels_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(implementations, "LIBRARY", Path("nowhere.so"))
    assert "Run: make accuracy" in refusal(capsys, "accuracy", "--device", "cpu")


@needs_extension
def test_norms_are_held_to_the_errors_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "SHAPES", norms.SHAPES[:2])
    rows = list(norms.rows("cpu"))
    judged = judge(rows)
    assert len(judged) == (6 + 4) * 4  # BatchNorm and GroupNorm; fp32 with two means, bf16, fp16
    assert [str(verdict) for verdict in judged if not verdict.ok] == []
    of_torch = [r for r in rows if (r["implementation"], r["low"]) == (NATIVE, 1e4)]
    by_torch = {r["function"]: r["ulp"] for r in of_torch}
    assert by_torch["dx of BatchNorm and Mish"] > 2  # which loses digits to so large a mean
    of_ours = next(row for row in rows if row["implementation"] == norms.OURS)
    of_ours["ulp"] += 10
    assert [verdict.ok for verdict in judge(rows)].count(False) == 1
    (table,) = tables.tables(frame(rows, "errors"))
    assert len(table.frame) == len(judged)
    assert list(table.frame.ok).count("NO") == 1
    lost = norms._errors(torch.tensor([1.0, math.nan]), torch.ones(2).double())
    assert lost.ulp == lost.absolute == math.inf
