"""The proof of the error bounds, on few numbers, and the counts of instructions, on a few lines."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from rich.progress import Progress
from rows import Patch, Row, frame, printed, refusal, tables_of
from torch import Tensor

from benchmarks.accuracy import command, implementations, norms, proof, reference, tables
from benchmarks.accuracy.errors import NATIVE, Errors, distance, errors, required, row
from benchmarks.accuracy.implementations import Implementations
from benchmarks.accuracy.numbers import FORMATS, FP16, FP32, FP64, Format
from benchmarks.arguments import Refused
from benchmarks.sass import kernels
from benchmarks.sass import tables as budgets
from benchmarks.sass.kernels import Resources
from benchmarks.sass.listing import Body, analyse, parse
from conftest import needs_extension
from csrc.cuda import nvcc
from mish_cuda._textbook import FUNCTIONS

# Signalling NaN are among the numbers, and raise it when they are converted.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:RuntimeWarning") for what in ("invalid", "overflow")
]
EACH_FORMAT = pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f.name)
NO_BAR = Progress(disable=True)


def judge(rows: list[dict[str, Any]]) -> list[tables.Verdict]:
    return tables.judge(frame(rows, "errors"))


@EACH_FORMAT
def test_intervals_hold_every_number_once_and_in_order(number_format: Format) -> None:
    info, spans = torch.finfo(number_format.dtype), proof.cut("cpu", number_format)
    spans.sort(key=lambda span: span.first)
    assert -spans[0].first == spans[-1].stop == number_format.largest + 1
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


UNIT = 2.0**-23
WRONG = (math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("true", "result", "allowance", "expected"),
    [
        (1.0, 1 + 3 * UNIT, 0, (3.0, 3 * UNIT, 1)),
        (1.0, 1 + 3 * UNIT, UNIT, (2.0, 3 * UNIT, 1)),
        (1.0, 1 + 3 * UNIT, 4 * UNIT, (0.0, 3 * UNIT, 1)),
        (4.0 - UNIT, 4.0, 0, (0.5, UNIT, 2)),
        (1.0, math.nan, 0, WRONG),
        (1.0, math.inf, 0, WRONG),
        (math.nan, 1.0, 0, WRONG),
        (math.inf, 3e38, 0, WRONG),
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
    assert (found.ulp, found.absolute, found.correct) == expected
    np.testing.assert_equal(found.absolute_at, x[int(found.absolute > 0)])


def test_any_difference_in_bits_counts() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    a, b = (torch.tensor([0.0, math.nan, zero], dtype=torch.float64) for zero in (0.0, -0.0))
    alike: Implementations = {"same": lambda x: a, "other": lambda x: b}
    same, other = proof.agreement(FP64, x, alike, "a", lambda x: a, ["f"])
    assert (same["absolute"], same["correct"]) == (0, 3)
    assert (other["absolute"], other["absolute_at"], other["correct"]) == (math.inf, 3.0, 2)


@needs_extension
@EACH_FORMAT
def test_bounds_are_kept(number_format: Format, monkeypatch: Patch) -> None:
    """Every function and layout, on few numbers of each interval."""
    ours = {"mine": implementations.registered}
    monkeypatch.setattr(implementations, "kernels", lambda: ours)
    verdicts = judge(proof.prove("cpu", number_format, NO_BAR, limit=100))
    assert [str(verdict) for verdict in verdicts if not verdict.ok] == []
    subjects = " ".join(v.subject for v in verdicts)
    for function in FUNCTIONS:
        for bound in required("cpu", number_format.name, function):
            assert f"{function}, {number_format.name}, x {tables.region(bound)}, mine" in subjects
    assert all(what in subjects for what in ("h g f''", "mine, strided", "mine, tails"))
    assert NATIVE not in subjects  # nothing is required of F.mish


@pytest.mark.parametrize("off", [0, -5])
def test_a_kernel_that_is_off_is_found(off: int) -> None:
    """In one number of 65,536, by so many units in the last place."""

    def run(*operands: Tensor) -> Tensor:
        *factors, x = operands
        true = reference.evaluate(FP16.widen(x))[len(factors)]
        result = FP16.round(math.prod(map(FP16.widen, factors), start=true))
        result.view(torch.int16)[x == 2.5] += off
        return result

    rows = proof.sweep("cpu", FP16, {"mine": run}, proof.cut("cpu", FP16), 2**16, NO_BAR)
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


def test_gradients_scale_absolute_bounds_alone() -> None:
    (once,) = (b for b in required("cpu", "fp16", "f'") if b.high == 0)
    (twice,) = (b for b in required("cpu", "fp16", "g f'") if b.high == 0)
    assert (twice.ulp, twice.absolute) == (once.ulp, 4 * once.absolute)


@pytest.mark.parametrize(
    ("absolute", "off", "status"), [(1.1e-36, 0.025, 0), (1.1e-36, 0.03, 1), (1.2e-36, 0.025, 1)]
)
def test_the_command_fails_where_a_bound_is_broken(
    absolute: float, off: float, status: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The table has the worst of ours, where the bound is in ULP and where it is absolute. The
    reference, which is off by so much, may take a hundredth."""
    best, worse = Errors(1000, 1, 1, 0, 1, 900), Errors(1000, 2.5, -3.5, absolute, -88.0, 900)
    below, above = {"high": -87.3}, {"low": -87.3}
    rows = [
        row("f", name, "fp32", FP32.reference, found=found, **ends)
        for ends in (below, {**above, "high": -1.0}, {"low": -1.0})
        for name, found in (("AVX2", best), ("AVX-512", worse), (NATIVE, worse))
    ]
    for ulp, ends in ((0, below), (off, above)):
        found = Errors(9, ulp, 1.0, 0, 1.0, 9)
        rows.append(row("f", "double", "fp32", "mpmath", found=found, **ends))
    monkeypatch.setattr(command, "prove", MagicMock(side_effect=[rows, [], [], []]))
    monkeypatch.setattr(command, "norms", MagicMock())
    line = ("accuracy", "--device", "cpu", "--csv", tmp_path / "a.csv")
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path)
    output = printed(*line, status=status)
    assert ("All bounds are kept." in output) == (status == 0)
    kept = "NO" if absolute > 1.1e-36 else "yes"
    assert printed("table", tmp_path / "a.csv").strip() in output
    found = tables_of(tmp_path / "a.csv")["errors, and what is required"]
    assert ["|".join(line) for line in found] == [
        f"f, fp32|<= -87.3|1.1e-36|{absolute}|-88|90.00%|{kept}|{absolute}|-88|90.00%|0",
        f"f, fp32|> -87.3|2.5 ULP|2.5 ULP|-3.5|90.00%|yes|2.5 ULP|-3.5|90.00%|{off:g} ULP",
    ]
    monkeypatch.setattr(implementations, "LIBRARY", tmp_path / "nowhere.so")
    assert "Run: make accuracy" in refusal(*line)


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


# As disassemblers of CUDA 12.8 and later print it for Blackwell: with scoreboards and stalls. The
# compiler put the last block first. 128 bits are loaded, doubled and stored.
TAIL_FIRST = """
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
LATE = TAIL_FIRST.replace("@P1 FADD R9, R9, R9 ", "LDG.E.128 R4, desc[UR4][R6.64] ")

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

PTXAS = """\
ptxas info    : Compiling entry function '_Z1bv' for 'sm_90'
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 16 bytes cumulative stack size
"""


# A branch past the maths: the shortest path, and all paths.
SKIPPING = TAIL_FIRST.replace("MUFU.EX2 R8, R8   ", "BRA P1, 0xa0      ")


def test_vector_bodies_are_found() -> None:
    """Instructions, MUFU, loads, stores, checks, branches, local, late loads."""
    for listing, body in (
        (TAIL_FIRST, ((8, 8), (1, 1), [128], [128], 1, 0, 0, 0)),
        (LATE, ((8, 8), (1, 1), [128, 128], [128], 1, 0, 0, 1)),
        (SKIPPING, ((7, 8), (0, 0), [128], [128], 1, 1, 0, 0)),
    ):
        (instructions,) = parse(listing).values()
        assert astuple(analyse(instructions)) == body


def counted(listing: str) -> list[Row]:
    return kernels.rows("90", "ours", listing, dict.fromkeys(parse(listing), Resources(40, 0)))


def test_dense_kernels_are_known_by_their_mangled_names() -> None:
    (row,) = counted(TAIL_FIRST + LATE.replace("KindE0", "KindE1"))
    assert (row["direction"], row["dtype"], row["elements"]) == ("forward", "fp32", 4)
    assert (row["instructions_most"], row["late_loads"]) == (2, 1)  # of small tiles, too
    assert not counted(TAIL_FIRST.replace("Li4E", "Li1E"))  # unaligned
    with pytest.raises(Refused, match=r"sm_90 fp32 forward, ours: no store of 128 bits"):
        counted(TAIL_FIRST.replace("STG.E.128", "STG.E.64"))


def test_kernels_of_norms_are_counted_along_one_path() -> None:
    (row,) = counted(NORM)
    assert (row["direction"], row["dtype"], row["elements"]) == ("norm forward", "fp32", 4)
    assert (row["instructions_most"], row["mufu_most"]) == (9 / 4, 1 / 4)
    assert (row["access_bits"], row["stored_elements"], row["late_loads"]) == ("128", 4, 0)
    late = NORM.replace("LDG.E R2", "LDG.E.128 R2").replace("@P1  BRA", "FMUL R1")
    assert counted(late)[0]["late_loads"] == 1


def test_report_of_ptxas() -> None:
    assert kernels.read_report(PTXAS) == {"_Z1bv": Resources(40, 20)}


def kernel(
    count: float, mufu: float = 2, dtype: str = "bf16", direction: str = "forward", **other: Any
) -> list[Row]:
    """Rows of a kernel of 128-bit loads: ours with these counts for each element, and PyTorch's
    formula with 50 to 60 instructions, unless it is a norm's."""
    n, norm = 128 // kernels.ITEM_BITS[dtype], direction.startswith("norm")
    loads = [128] * kernels.INPUTS[direction]
    found = []
    for formula, least, most in (("ours", count, count), ("plain", 50, 60))[: 1 if norm else 2]:
        counts = (int(least * n), int(most * n)), (int(mufu * n),) * 2
        body = Body(*counts, loads, [128], 0 if norm else 1, 0, 0, 0)
        found.append(kernels.row("90", direction, dtype, formula, body, Resources(32, 0)))
    return [found[0] | other, *found[1:]]


NORM_FORWARD = {"dtype": "fp32", "direction": "norm forward"}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (kernel(14), "instructions: required <= 13, measured 14"),
        (kernel(13, mufu=3), "MUFU: required <= 2, measured 3"),
        (kernel(31, dtype="fp64"), "PyTorch's instructions: required <= 50%, measured 52%"),
        (kernel(13, spill_bytes=8), "accesses to local memory: required 0, measured 8"),
        (kernel(13, branches=1), "branches after the first load: required 0, measured 1"),
        (kernel(13, late_loads=2), "loads behind maths: required 0, measured 2"),
        (kernel(13, checks=2), "branches before the first load: required <= 1, measured 2"),
        (kernel(13, access_bits="64 128"), "accesses: required 128, measured 64 128"),
        (kernel(13, stored_elements=16), "elements stored: required 8, measured 16"),
        (kernel(44, 1, **NORM_FORWARD), "instructions: required <= 43, measured 44"),
        (kernel(43, 2, **NORM_FORWARD), "MUFU: required <= 1.1, measured 2"),
    ],
)
def test_exceeded_budgets_are_named(rows: list[Row], complaint: str) -> None:
    (broken,) = (str(v) for v in budgets.judge(frame(rows, "counts")) if not v.ok)
    assert broken.endswith(complaint)


def test_the_command_fails_where_a_budget_is_exceeded(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda env, folders: ([], []))
    assert "no nvcc was found. Set CUDA_HOME" in refusal("sass")
    for name in ("find_toolkit", "find_disassembler"):
        monkeypatch.setattr(kernels, name, MagicMock())
    path, norm = tmp_path / "a.csv", kernel(40, 1, **NORM_FORWARD)
    for count, status, told in (
        (13, 0, "All budgets are kept."),
        (14, 1, "1 budgets are not kept."),
    ):
        monkeypatch.setattr(kernels, "count_all", lambda *_, n=count: kernel(n) + norm)
        assert told in printed("sass", "--csv", path, status=status)
    instructions, others = tables_of(path).values()
    assert instructions[0] == ["forward", "bf16", "14 / 50-60", "13"]
    assert instructions[1] == ["norm forward", "fp32", "40", "43"]
    assert [line[4] for line in others] == ["128 / 128", "128"]  # bits of accesses
