"""Reading disassemblies and judging counts, on a few recorded lines: no compiler is needed."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from rows import Capture, Patch, Row, frame, printed, refusal, tables_of

from benchmarks.arguments import Refused
from benchmarks.sass import kernels, tables
from benchmarks.sass.kernels import Resources
from benchmarks.sass.listing import Body, analyse, parse
from csrc.cuda import nvcc

# As disassemblers of CUDA 12.8 and later print it for Blackwell: with scoreboards and stalls. The
# compiler put the last block first. 128 bits are loaded, doubled and stored.
TAIL_FIRST = """
	code for sm_100
		Function : _ZN4mish5denseILNS_2OpE0EfLNS0_4KindE0ELi4EEEv
	.headerflags	@"EF_CUDA_SM100"
        /*0000*/                   LDC R1, c[0x0][0x37c]               ?trans1; /* 0xdf00ff017b82 */
                                                                                /* 0x000fe2000000 */
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
ptxas info    : Compiling entry function '_Z1av' for 'sm_90'
ptxas info    : Function properties for _Z1av
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compiling entry function '_Z1bv' for 'sm_90'
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 16 bytes cumulative stack size
"""


def test_vector_bodies_are_found() -> None:
    """Behind the branch; the last store in a loop, and what is called, do not count."""
    late = (8, 8), (1, 1), [128, 128], [128], 1, 0, 0, 1
    for listing, body in (
        # Instructions, MUFU, loads, stores, checks, branches, local, late loads.
        (TAIL_FIRST, ((8, 8), (1, 1), [128], [128], 1, 0, 0, 0)),
        (LATE, late),
        # A branch that skips the maths, and a call of what comes after the exit.
        (
            TAIL_FIRST.replace("MUFU.EX2 R8, R8   ", "BRA P1, 0xa0      "),
            ((7, 8), (0, 0), [128], [128], 1, 1, 0, 0),
        ),
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
    assert kernels.read_report(PTXAS) == {"_Z1av": Resources(32, 0), "_Z1bv": Resources(40, 20)}


def kernel(
    count: float, mufu: float = 2, dtype: str = "bf16", direction: str = "forward", **other: Any
) -> list[Row]:
    """Rows of a kernel of 128-bit loads: ours with these counts for each element, and PyTorch's
    formula with 50 to 60 instructions, unless it is a norm's."""
    n, norm = 128 // kernels.ITEM_BITS[dtype], direction.startswith("norm")
    found = []
    for formula, least, most in (("ours", count, count), ("plain", 50, 60))[: 1 if norm else 2]:
        counts = (int(least * n), int(most * n)), (int(mufu * n),) * 2
        loads = [128] * kernels.INPUTS[direction]
        body = Body(*counts, loads, [128], 0 if norm else 1, 0, 0, 0)
        found.append(kernels.row("90", direction, dtype, formula, body, Resources(32, 0)))
    return [found[0] | other, *found[1:]]


def norm(count: float, mufu: float = 1, direction: str = "norm forward", **other: Any) -> list[Row]:
    return kernel(count, mufu, "fp32", direction, **other)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (kernel(13), ""),
        (kernel(14), "instructions: required <= 13, measured 14"),
        (kernel(13, mufu=3), "MUFU: required <= 2, measured 3"),
        (kernel(31, dtype="fp64"), "PyTorch's instructions: required <= 50%, measured 52%"),
        (kernel(13, spill_bytes=8), "accesses to local memory: required 0, measured 8"),
        (kernel(13, branches=1), "branches after the first load: required 0, measured 1"),
        (kernel(13, late_loads=2), "loads behind maths: required 0, measured 2"),
        (kernel(13, checks=2), "branches before the first load: required <= 1, measured 2"),
        (kernel(13, access_bits="64 128"), "accesses: required 128, measured 64 128"),
        (kernel(13, stored_elements=16), "elements stored: required 8, measured 16"),
        (norm(44), "instructions: required <= 43, measured 44"),
        (norm(43, mufu=2), "MUFU: required <= 1.1, measured 2"),
        (norm(50, direction="norm sums", stored_elements=0), ""),
    ],
)
def test_exceeded_budgets_are_named(rows: list[Row], complaint: str) -> None:
    broken = [str(verdict) for verdict in tables.judge(frame(rows, "counts")) if not verdict.ok]
    assert len(broken) == bool(complaint)
    assert all(text.endswith(complaint) for text in broken)


def test_the_command_fails_where_a_budget_is_exceeded(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(nvcc, "find", lambda env, folders: ([], []))
    assert "no nvcc was found. Set CUDA_HOME" in refusal(capsys, "sass")
    for name in ("find_toolkit", "find_disassembler"):
        monkeypatch.setattr(kernels, name, MagicMock())
    path = tmp_path / "a.csv"
    for count, status, told in ((13, 0, "Every budget holds."), (14, 1, "1 budgets are exceeded.")):
        monkeypatch.setattr(kernels, "count_all", lambda *_, n=count: [*kernel(n), *norm(40)])
        assert told in printed(capsys, "sass", "--csv", path, status=status)
    instructions, others = tables_of(capsys, path).values()
    assert instructions == [
        ["forward", "bf16", "14 / 50-60", "13"],
        ["norm forward", "fp32", "40", "43"],
    ]
    assert [line[4] for line in others] == ["128 / 128", "128"]  # bits of accesses
