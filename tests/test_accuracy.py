"""The proof of the error bounds, on few numbers of each interval, and its own machinery."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from accuracy import bounds, checks, cli, paths, plan, plots, reference, results, tables
from accuracy.bounds import Bound, Region
from accuracy.errors import Errors, Judge, difference
from accuracy.formats import BF16, FORMATS, FP16, FP32, FP64, Bits, Format
from accuracy.results import Row
from accuracy.sweep import intervals, sweep
from accuracy.verdicts import judge
from benchmarks.environment import Environment
from conftest import needs_extension

# Signalling NaN are among the numbers, and raise it when they are converted.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
needs_kernels = pytest.mark.skipif(
    not paths.LIBRARY.exists(), reason="no accuracy_kernels: CMakeLists.txt builds it"
)
ENVIRONMENT = Environment(*(str(i) for i in range(len(Environment.__dataclass_fields__))))
EACH_FORMAT = pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f.name)


def rendered(*parts: object) -> str:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


def sample(number_format: Format, count: int) -> Bits:
    return checks.sample(number_format, plan.spans(number_format), count)


@needs_extension
@needs_kernels
def test_bounds_are_kept() -> None:
    """Every instruction set, format, function and place, on a few numbers of each interval."""
    rows = plan.Run(Progress(disable=True), limit=200).rows()
    verdicts = [verdict for verdict in judge(rows) if verdict.required]
    assert [verdict for verdict in verdicts if not verdict.ok] == []
    isas = {path.name for path in paths.kernels()}
    for number_format in FORMATS:
        for function, regions in bounds.REGIONS[number_format.name].items():
            for region in regions:
                found = {
                    v.path
                    for v in verdicts
                    if (v.dtype, v.function, v.region) == (number_format.name, function, region)
                }
                assert found == isas


@EACH_FORMAT
def test_numbers_are_in_order(number_format: Format) -> None:
    infinity = number_format.infinity
    near = [number_format.numbers(start, start + 3) for start in (-infinity - 1, -2, infinity - 2)]
    info = torch.finfo(number_format.dtype)
    largest, smallest = np.longdouble(info.max), np.longdouble(info.smallest_normal * info.eps)
    values = [number_format.widen(bits) for bits in near]
    assert values[0][0] == -math.inf
    assert values[0][1] == -largest
    assert values[1].tolist() == [-smallest, 0, 0]
    assert np.signbit(values[1]).tolist() == [True, True, False]
    assert values[2][1:].tolist() == [largest, math.inf]
    assert values[2][0] < largest
    for value in (-math.inf, -3.0, -0.0, 0.0, 0.5, math.inf):
        at = number_format.ordinal(value)
        assert number_format.widen(number_format.numbers(at, at + 1))[0] == value
    assert number_format.ordinal(-0.0) == -1
    assert number_format.ordinal(0.0) == 0
    assert number_format.ordinal(1e-300 if number_format is not FP64 else 1e-330) == 0
    for value in (-87.3, 87.3):
        at = number_format.ordinal(value)
        below, above = number_format.widen(number_format.numbers(at, at + 2))
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
    spans = sorted(plan.spans(number_format), key=lambda span: span.first)
    assert spans[0].first == -number_format.largest - 1
    assert spans[-1].stop == number_format.largest + 1
    assert all(a.stop == b.first for a, b in itertools.pairwise(spans))
    for span in spans:
        x = number_format.widen(number_format.numbers(span.first, span.first + 1))[0]
        assert np.isfinite(x) != math.isnan(span.low)
        if np.isfinite(x):
            assert span.low < x or (x == span.low == 0) or span.low == -math.inf
            last = number_format.widen(number_format.numbers(span.stop - 1, span.stop))[0]
            assert last <= span.high


def test_steps_are_odd_and_keep_the_limit() -> None:
    (span, *_) = intervals(FP32, [0.0])
    assert span.step(2**32) == 1
    for limit in (1, 100, 12345):
        step = span.step(limit)
        assert step % 2 == 1
        assert len(range(span.first, span.stop, step)) <= limit


@EACH_FORMAT
@pytest.mark.parametrize("order", [0, 1, 2])
def test_reference_is_the_definition(number_format: Format, order: int) -> None:
    rows = list(checks.against_definition(number_format, order, sample(number_format, 3)))
    assert sum(row.errors.tried for row in rows) > 10
    verdicts = judge(rows)
    assert len(verdicts) == len(rows)
    assert all(verdict.ok for verdict in verdicts)


def test_definition_is_that_of_mish() -> None:
    assert float(reference.definition(1.0, 0)) == pytest.approx(math.tanh(math.log1p(math.e)))
    assert float(reference.definition(0.0, 1)) == pytest.approx(0.6, abs=1e-15)
    assert float(reference.definition(0.0, 2)) == pytest.approx(0.64, abs=1e-15)
    assert isinstance(reference.definition(0.0, 0), mpmath.mpf)


def test_judge_counts_in_units_of_the_true_value() -> None:
    x = np.array([1.0, 2.0, 3.0])
    true = np.array([1.0, 2.0, 4.0 - 2.0**-23])
    result = FP32.encode(np.array([1 + 3 * 2.0**-23, 2.0, 4.0]))
    errors = Judge(FP32, x, true)(result)
    assert errors == Errors(3, 3.0, 1.0, 3 * 2.0**-23, 1.0, 2)
    allowed = Judge(FP32, x, true)(result, allowance=4 * 2.0**-23)
    assert (allowed.ulp, allowed.absolute, allowed.correct) == (0, errors.absolute, 2)
    in_part = Judge(FP32, x, true)(result, allowance=2.0**-23)
    assert (in_part.ulp, in_part.ulp_at) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("true", "result"), [(1.0, math.nan), (1.0, math.inf), (math.nan, 1.0), (math.inf, 3e38)]
)
def test_nan_and_infinity_have_to_be_right(true: float, result: float) -> None:
    x = np.array([5.0, 6.0])
    judgement = Judge(FP32, x, np.array([1.0, true]))
    wrong = judgement(FP32.encode(np.array([1.0, result])))
    assert (wrong.ulp, wrong.absolute, wrong.absolute_at) == (math.inf, math.inf, 6.0)
    right = judgement(FP32.encode(np.array([1.0, true])))
    assert (right.ulp, right.absolute, right.correct) == (0, 0, 2)


def test_sign_has_to_be_kept() -> None:
    x = np.array([-1e-40, 0.0, -0.0])
    judgement = Judge(FP32, x, np.array([-0.0, 0.0, -0.0]))
    good = FP32.encode(np.array([-0.0, 0.0, -0.0]))
    bad = FP32.encode(np.array([-0.0, 0.0, 0.0]))
    assert judgement(good, keeps_sign=True).absolute == 0
    assert judgement(bad, keeps_sign=True).absolute == math.inf
    assert judgement(bad).absolute == 0


def test_any_difference_in_bits_counts() -> None:
    x = FP64.encode(np.array([1.0, 2.0, 3.0]))
    a, b = (FP64.encode(np.array([0.0, math.nan, zero])) for zero in (0.0, -0.0))
    assert difference(FP64, x, a, a).absolute == 0
    errors = difference(FP64, x, a, b)
    assert (errors.absolute, errors.absolute_at, errors.correct) == (math.inf, 3.0, 2)


def test_errors_of_both() -> None:
    a, b = Errors(2, 3.0, 1.0, 0.5, -1.0, 1), Errors(5, 2.0, 7.0, 0.75, -7.0, 4)
    assert a | b == b | a == Errors(7, 3.0, 1.0, 0.75, -7.0, 5)
    assert Errors() | a == a


@pytest.mark.parametrize("off", [0, -5])
def test_a_kernel_that_is_off_is_found(off: int) -> None:
    """In one number of 65,536, by so many units in the last place."""

    def run(number_format: Format, operands: list[Bits]) -> Bits:
        true = reference.evaluate(number_format.widen(operands[-1]))[len(operands) - 1]
        result = number_format.encode(true)
        result[operands[-1] == number_format.encode(np.array([2.5]))] += np.int16(off)
        return result

    rows = sweep(FP16, [paths.Path("mine", run)], plan.spans(FP16), 2**16, lambda n: None)
    broken = [verdict for verdict in judge(rows) if not verdict.ok]
    errors = [v.errors for v in judge(rows) if v.function == "f" and v.region.bound.ulp == 1]
    assert len(errors) == 1
    assert abs(errors[0].ulp - abs(off)) < 0.51  # torch rounds twice from float64 to float16
    assert len(broken) == (3 if off else 0)  # f, f' and f''
    assert sum(row.errors.tried for row in rows if row.function == "f") == 65536


@EACH_FORMAT
def test_f_mish_is_tried_too(number_format: Format) -> None:
    native = paths.torch_native()
    x = FP32.encode(np.array([1.0, -2.0]))
    if number_format is FP32:
        for order, true in enumerate(reference.evaluate(FP32.widen(x))):
            errors = Judge(FP32, FP32.widen(x), true)(native.derivative(FP32, order, x))
            assert errors.ulp < 10
    spans = plan.spans(number_format)
    rows = sweep(number_format, [native], spans[:3], 10, lambda n: None)
    assert {row.function for row in rows} == set(reference.FUNCTIONS)
    assert not any(verdict.required for verdict in judge(rows))


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        Row(
            "f",
            "AVX2",
            "fp32",
            "double",
            -math.inf,
            -87.3,
            9,
            Errors(3, 0.5, -88.25, 1e-36, -90.0, 2),
        ),
        Row(
            "h g f''",
            "a, b",
            "bf16",
            "c",
            0.25,
            math.inf,
            1,
            Errors(1, math.inf, 1.0, math.inf, 1.0),
        ),
    ]
    path = tmp_path / "new folder" / "a.csv"
    results.write(path, ENVIRONMENT, rows)
    assert results.read(path) == (ENVIRONMENT, rows)


def test_a_file_that_is_no_accuracy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="ulp"):
        results.read(path)
    assert cli.main(["table", str(path)]) == 1
    assert "ulp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bound", "text", "kept", "broken"),
    [
        (Bound(ulp=2.5), "2.5 ULP", Errors(1, ulp=2.5), Errors(1, ulp=2.6)),
        (Bound(absolute=4e-7), "4e-07", Errors(1, ulp=9, absolute=4e-7), Errors(1, absolute=5e-7)),
        (Bound(1, 4e-7), "1 ULP + 4e-07", Errors(1, absolute=1), Errors(1, ulp=1.1)),
        (Bound(correct=0.99), "99.0% right", Errors(100, correct=99), Errors(101, correct=99)),
    ],
)
def test_bounds(bound: Bound, text: str, kept: Errors, broken: Errors) -> None:
    assert str(bound) == text
    assert bound.allows(kept)
    assert not bound.allows(broken)


def test_tables_show_the_figure_that_the_bound_is_about() -> None:
    errors = Errors(1000, 2.25, -3.5, 7e-37, -88.0, 900)
    rows = [
        Row("f", name, "fp32", "double", low, high, 1000, errors)
        for low, high in ((-math.inf, -87.3), (-87.3, math.inf))
        for name in ("AVX2", "AVX-512", paths.NATIVE)
    ]
    text = rendered(*tables.error_tables(judge(rows)))
    assert "f, fp32" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "<= -87.3 AVX2, AVX-512 all 7e-37 -88 90.00% 1.1e-36 yes" in lines
    assert "> -87.3 F.mish all 2.25 ULP -3.5 90.00%" in lines
    markdown = tables.error_markdown(judge(rows)).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert len(markdown) == 2 + 2


def test_regions_tell_zeros_apart() -> None:
    below, above = intervals(FP32, [0.0])[:2]
    assert (below.stop, above.first) == (0, 0)
    assert Region(-3, 0, Bound()).holds(-1, 0)
    assert not Region(-3, 0, Bound()).holds(0, 1)
    assert Region(math.nan, math.nan, Bound()).holds(math.nan, math.nan)


def test_picture_says_where_its_data_are_from(tmp_path: Path) -> None:
    facts = dataclasses.replace(ENVIRONMENT, device="a device", mish_cuda="1.2.3", date="a day")
    row = Row("f", "AVX2", "fp32", FP32.judged_in, -1.0, 1.0, 3, Errors(3, 0.5))
    plots.draw(facts, [row], tmp_path / "new" / "a.svg")
    text = " ".join(re.findall(r">([^<]+)</text>", (tmp_path / "new" / "a.svg").read_text()))
    for fact in ("a device", "mish_cuda 1.2.3", "a day"):
        assert fact in text


@needs_extension
@needs_kernels
def test_run_writes_and_prints_and_table_prints_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "FORMATS", (BF16, FP32))
    path = tmp_path / "a.csv"
    assert cli.main(["run", "--limit", "20", "--csv", str(path)]) == 0
    first = capsys.readouterr().out
    assert "All bounds are kept." in first
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["table", str(path)]) == 0
    assert capsys.readouterr().out.strip() in first
    assert cli.main(["table", str(path), "--markdown"]) == 0
    assert "| f, bf16 |" in capsys.readouterr().out
