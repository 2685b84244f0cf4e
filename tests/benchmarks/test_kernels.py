"""The proof of the error bounds, on few numbers, and the counts of instructions, on a few lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from rich.progress import Progress
from rows import Patch, Row, frame, printed, refusal, tables_of, write
from rows import row as speed
from torch import Tensor

from benchmarks.accuracy import command, implementations, norms, proof, tables
from benchmarks.accuracy.errors import NATIVE, distance, errors, required, row
from benchmarks.accuracy.numbers import FORMATS, FP16, FP32, Format
from benchmarks.cases import CHOSEN
from benchmarks.sass import kernels
from benchmarks.sass import tables as budgets
from benchmarks.sass.listing import parse
from conftest import needs_extension
from csrc.cuda import nvcc
from mish_cuda._textbook import FUNCTIONS

# Signalling NaN are among the numbers, and raise it when they are converted.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:RuntimeWarning") for what in ("invalid", "overflow")
]


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f.name)
def test_intervals_hold_every_number_once_and_in_order(number_format: Format) -> None:
    info, spans = torch.finfo(number_format.dtype), proof.cut("cpu", number_format)
    spans.sort(key=lambda span: span.first)
    assert -spans[0].first == spans[-1].stop == number_format.largest + 1
    assert all(a.stop == b.first for a, b in itertools.pairwise(spans))
    for span in spans:
        assert span.ordinals(2**64) == range(span.first, span.stop)
        values = number_format.widen(proof.sample(number_format, [span], 100))
        assert len(values) <= 100
        if not math.isnan(span.low):
            assert (np.diff(values) >= 0).all()
            assert span.low < values[0] or values[0] in (0, -info.max)
            assert values[-1] <= span.high
    x = np.array([1, -1.5, 2, info.smallest_normal, 0], dtype=number_format.wide)
    units = np.array([1, 1, 2, info.smallest_normal, info.smallest_normal]) * info.eps
    assert (number_format.ulps(x) * units == 1).all()


UNIT = 2.0**-23
WRONG = (math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("true", "result", "allowance", "expected"),
    [
        (1.0, 1 + 3 * UNIT, 0, (3.0, 3 * UNIT, 1)),
        (1.0, 1 + 3 * UNIT, UNIT, (2.0, 3 * UNIT, 1)),
        (1.0, 1 + 3 * UNIT, 4 * UNIT, (0.0, 3 * UNIT, 1)),
        (4.0 - UNIT, 4.0, 0, (0.5, UNIT, 2)),
        *((1.0, result, 0, WRONG) for result in (math.nan, math.inf)),
        *((true, 3e38, 0, WRONG) for true in (math.nan, math.inf)),
        (-0.0, 0.0, 0, WRONG),
        *((x, x, 0, (0.0, 0.0, 2)) for x in (math.nan, math.inf, -math.inf, -0.0)),
    ],
)
def test_errors_count_in_units_of_the_true_value(
    true: float, result: float, allowance: float, expected: tuple[float, ...]
) -> None:
    """In float32, beside a result that is right; NaN, infinity and signs have to be."""
    x, exact = np.array([5.0, true]), np.array([1.0, true])
    rounded = FP32.widen(FP32.round(np.array([1.0, result])))
    off = distance(x, rounded, exact, keeps_sign=True)
    found = errors(x, off, FP32.ulps(exact), allowance)
    assert (found["ulp"], found["absolute"], found["correct"]) == expected
    np.testing.assert_equal(found["absolute_at"], x[int(found["absolute"] > 0)])


@pytest.mark.slow
@needs_extension
@pytest.mark.parametrize(
    ("number_format", "fault", "broken"),
    [
        *((each, lambda y, *x: y, ()) for each in FORMATS),
        (
            FP16,
            lambda y, *x: torch.where((x[-1] - 2.5).abs() < 0.5, 1.01 * y, y),
            ("f finite", "f' from 0", "f'' -3 to 3", "g f' from 0", "h g f'' -3 to 3"),
        ),
        # The sign of zero is lost.
        (FP16, lambda y, *x: y if x[1:] else y + 0, ("f finite", "f inf, NaN")),
    ],
)
def test_the_proof_finds_faults_alone(
    number_format: Format, fault: Callable[..., Tensor], broken: Iterable[str], monkeypatch: Patch
) -> None:
    """In every function, on few numbers of each interval."""

    def run(*operands: Tensor) -> Tensor:
        return fault(implementations.registered("cpu", *operands), *operands)

    monkeypatch.setattr(implementations, "kernels", lambda: {"mine": run})
    rows = proof.prove("cpu", number_format, Progress(disable=True), limit=100)
    verdicts = [v for v in tables.judge(frame(rows, "errors")) if "mish_cuda" not in v.subject]
    between = f", {number_format.name}, x "
    wrong = (v.subject.replace(between, " ").replace(", mine", "") for v in verdicts if not v.ok)
    assert {*wrong} == {*broken}
    subjects = " ".join(v.subject for v in verdicts)
    for function in FUNCTIONS:
        for bound in required("cpu", number_format.name, function):
            assert f"{function}{between}{tables.region(bound)}, mine" in subjects
    assert "h g f''" in subjects
    assert NATIVE not in subjects  # nothing is required of F.mish


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absolute", "off", "status"), [(1.1e-36, 0.025, 0), (1.1e-36, 0.03, 1), (1.2e-36, 0.025, 1)]
)
def test_the_command_fails_where_a_bound_is_broken(
    absolute: float, off: float, status: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The table has the worst of ours, where the bound is in ULP and where it is absolute. The
    reference, which is off by so much, may take a hundredth."""
    best = {"ulp": 1, "ulp_at": 1, "absolute": 0, "absolute_at": 1, "tried": 1000, "correct": 900}
    worse = best | {"ulp": 2.5, "ulp_at": -3.5, "absolute": absolute, "absolute_at": -88}
    below, above = {"high": -87.3}, {"low": -87.3}
    rows = [
        row("f", name, "fp32", FP32.reference, errors=found, **ends)
        for ends in (below, above | {"high": -1.0}, {"low": -1.0})
        for name, found in (("AVX2", best), ("AVX-512", worse), (NATIVE, worse))
    ]
    for ulp, ends in ((0, below), (off, above)):
        rows.append(row("f", "double", "fp32", "mpmath", errors=best | {"ulp": ulp}, **ends))
    monkeypatch.setattr(command, "prove", MagicMock(side_effect=[rows, [], [], []]))
    monkeypatch.setattr(command, "norms", MagicMock())
    line = ("accuracy", "--device", "cpu", "--csv", tmp_path / "a.csv")
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path)
    output = printed(*line, status=status)
    assert ("All bounds are kept." in output) == (status == 0)
    assert printed("table", tmp_path / "a.csv").strip() in output
    lines = tables_of(tmp_path / "a.csv")["errors, and what is required"]
    kept = "NO" if absolute > 1.1e-36 else "yes"
    found = [[*line[3:5], line[6], line[10]] for line in lines]  # error, at, ok, reference
    assert found == [[f"{absolute}", "-88", kept, "0"], ["2.5 ULP", "-3.5", "yes", f"{off:g} ULP"]]
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path / "nowhere.so")
    assert "Run: make accuracy" in refusal(*line)


@needs_extension
def test_norms_are_held_to_the_errors_of_torch(monkeypatch: Patch) -> None:
    monkeypatch.setattr(norms, "SHAPES", norms.SHAPES[:2])
    rows = list(norms.rows("cpu"))
    judged = tables.judge(frame(rows, "errors"))
    assert len(judged) == (6 + 4) * 4  # BatchNorm and GroupNorm; fp32 with two means, bf16, fp16
    assert [str(verdict) for verdict in judged if not verdict.ok] == []
    of_ours = next(row for row in rows if row["implementation"] == norms.OURS)
    of_ours["ulp"] += 10
    assert sum(not verdict.ok for verdict in tables.judge(frame(rows, "errors"))) == 1


def test_the_fastest_variant_is_named(tmp_path: Path) -> None:
    """In each case, and over all, by the geometric mean; without a variant that failed once."""
    seconds = {CHOSEN: (2, 2), "packs=4": (1, 3), "packs=2": (1.5, 2.1), "fails": (0.1,)}
    rows = [
        speed(name, time, "backward", dtype=dtype, suite="variants")
        for name, times in seconds.items()
        for dtype, time in zip(("fp32", "bf16"), times, strict=False)
    ]
    each, over_all = tables_of(write(tmp_path / "a.csv", rows)).values()
    assert [line[-2:] for line in each] == [["packs=4", "0.500"], [CHOSEN, "1.000"]]
    assert [line[-2:] for line in over_all] == [["packs=4", "0.866"]]


# As disassemblers of CUDA 12.8 and later print it for Blackwell: with scoreboards and stalls. The
# compiler put the last block first. 128 bits are loaded, doubled and stored.
FORWARD = """
		Function : _ZN4mish5denseILNS_2OpE0EfLNS0_4KindE0ELi4EEEv
	.headerflags	@"EF_CUDA_SM100"
        /*0000*/                   LDC R1, c[0x0][0x37c]               ?trans1; /* 0xdf00ff017b82 */
        /*0010*/                   ISETP.GE.U32.AND P0, PT, R4.reuse, UR4, PT &req={0} ; /* 0 */
        /*0020*/              @!P0 BRA 0x70                            &req={2} ?trans5; /* 0 */
        /*0030*/                   LDG.E R3, desc[UR4][R2.64]          &wr=0x2 ?trans4; /* 0 */
        /*0040*/                   FADD R3, R3, R3                     ?trans1; /* 0 */
        /*0050*/                   STG.E desc[UR4][R6.64], R3          ?trans1; /* 0 */
        /*0060*/                   EXIT                                ?trans5; /* 0 */
        /*0070*/                   LDG.E.128 R8, desc[UR4][R12.64+0x1000] &wr=0x2 ?trans4; /* 0 */
        /*0080*/                   MUFU.EX2 R8, R8                     ?trans1; /* 0 */
        /*0090*/               @P1 FADD R9, R9, R9                     ?trans1; /* 0 */
        /*00a0*/                   STG.E.128 desc[UR4][R6.64], R8      ?trans1; /* 0 */
        /*00b0*/                   EXIT                                ?trans5; /* 0 */
        /*00c0*/                   BRA 0xc0; /* 0 */
"""
LATE = FORWARD.replace("@P1 FADD R9, R9, R9 ", "LDG.E.128 R4, desc[UR4][R6.64] ")

# A kernel of norms: the numbers of its row, in narrow loads, come behind the packs; a few threads
# divide, and all go round a loop.
NORM = """
		Function : _ZN4mish4cuda5applyIfLi4EEEvPT_PKS2_NS0_7AffinesIS2_EENS0_3CutE
        /*0000*/              @!P0 EXIT ; /* 0 */
        /*0010*/                   LDG.E.128 R8, [R12.64] ; /* 0 */
        /*0020*/              @P1  BRA 0x50 ; /* 0 */
        /*0030*/                   MUFU.RCP R3, R5 ; /* 0 */
        /*0040*/                   IMAD R3, R3, R5, R3 ; /* 0 */
        /*0050*/                   LDG.E R2, [R4.64] ; /* 0 */
        /*0060*/                   FFMA R8, R8, R2, R2 ; /* 0 */
        /*0070*/                   MUFU.EX2 R8, R8 ; /* 0 */
        /*0080*/              @P2  BRA 0x60 ; /* 0 */
        /*0090*/                   STG.E.128 [R6.64], R8 ; /* 0 */
        /*00a0*/                   EXIT ; /* 0 */
"""


def counted(listing: str) -> list[Row]:
    report = {name: {"registers": 40, "spill_bytes": 0} for name in parse(listing)}
    return kernels.rows("90", "ours", listing, report)


COUNTS = "direction elements instructions_least instructions_most mufu_most access_bits"
COUNTS += " stored_elements checks branches late_loads"


@pytest.mark.parametrize(
    ("listing", "counts"),
    [
        (FORWARD, ("forward", 4, 2, 2, 0.25, "128", 4, 1, 0, 0)),
        # Small tiles count for late loads alone.
        (LATE.replace("KindE0", "KindE1") + FORWARD, ("forward", 4, 2, 2, 0.25, "128", 4, 1, 0, 1)),
        # A branch past the maths: the shortest path, and all paths.
        (
            FORWARD.replace("MUFU.EX2 R8, R8   ", "BRA P1, 0xa0      "),
            ("forward", 4, 1.75, 2, 0, "128", 4, 1, 1, 0),
        ),
        (NORM, ("norm forward", 4, 2.25, 2.25, 0.25, "128", 4, 0, 2, 0)),
        (
            NORM.replace("LDG.E R2", "LDG.E.128 R2").replace("@P1  BRA", "FMUL R1"),
            ("norm forward", 8, 1.375, 1.375, 0.25, "128", 4, 0, 1, 1),
        ),
    ],
)
def test_vector_bodies_are_found_and_counted(listing: str, counts: tuple[object, ...]) -> None:
    (row,) = counted(listing)
    assert (row["dtype"], *(row[name] for name in COUNTS.split())) == ("fp32", *counts)


@pytest.mark.parametrize(
    ("listing", "wrong"),
    [
        *((FORWARD, {column: 1}) for column in ("spill_bytes", "local_accesses", "late_loads")),
        *((FORWARD, {column: 2}) for column in ("checks", "branches", "mufu_most")),
        (FORWARD, {"access_bits": "64 128"}),
        (FORWARD, {"stored_elements": 8}),
        (FORWARD, {"instructions_most": 35}),
        (FORWARD, {"dtype": "fp64", "instructions_most": 31}),  # PyTorch's formula takes 60
        (NORM, {"mufu_most": 1.2}),
        (NORM, {"instructions_most": 44}),
    ],
)
def test_exceeded_budgets_are_named(listing: str, wrong: Row) -> None:
    (row,) = counted(listing)
    row |= wrong
    plain = row | {"formula": "plain", "instructions_most": 60}
    (broken,) = (v for v in budgets.judge(frame([row, plain], "counts")) if not v.ok)
    assert broken.subject.endswith(f": {[*wrong][-1].replace('_', ' ')}")


def test_the_command_fails_where_a_budget_is_exceeded(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda env, folders: ([], []))
    assert "no nvcc was found. Set CUDA_HOME" in refusal("sass")
    for name in ("find_toolkit", "find_disassembler"):
        monkeypatch.setattr(kernels, name, MagicMock())
    path, (ours,), norm = tmp_path / "a.csv", counted(FORWARD), counted(NORM)
    plain = ours | {"formula": "plain", "instructions_least": 50, "instructions_most": 60}
    for count, status, told in ((34, 0, "All budgets are"), (35, 1, "1 budgets are not")):
        ours |= {"instructions_least": count, "instructions_most": count}
        monkeypatch.setattr(kernels, "count_all", MagicMock(return_value=[ours, plain, *norm]))
        assert f"{told} kept." in printed("sass", "--csv", path, status=status)
    instructions, others = tables_of(path).values()
    assert [line[2:] for line in instructions] == [["35 / 50-60", "34"], ["2.2", "43"]]
    assert [line[4] for line in others] == ["128 / 128", "128"]  # bits of accesses
