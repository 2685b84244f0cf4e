"""Reading disassemblies and judging counts, on a few recorded lines: no compiler is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

import build_config
from sass import budgets, cli, gpus, tables, toolchain
from sass.body import Body, Counts, analyse
from sass.gpus import Gpu
from sass.kernels import Kernel, read
from sass.listing import parse
from sass.toolchain import Resources

# As disassemblers of CUDA 12.8 and later print it for Blackwell: with scoreboards and stalls. The
# compiler put the last block first. 128 bits are loaded, doubled and stored.
TAIL_FIRST = """
	code for sm_100
		Function : _ZN4mish5denseILNS_2OpE0EfLi4EEEv
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

# As for earlier GPUs. Behind the load lie a branch that some threads take and a rare call.
BRANCHING = """
		Function : _ZN4mish5denseILNS_2OpE0EdLi2EEEv
        /*0000*/              @!P0 BRA 0xe0 ; /* 0 */
        /*0010*/                   LDG.E.128 R8, [R12.64] ; /* 0 */
        /*0020*/                   DADD R8, R8, R8 ; /* 0 */
        /*0030*/              @!P1 BRA 0x60 ; /* 0 */
        /*0040*/                   DFMA R8, R8, R8, R8 ; /* 0 */
        /*0050*/                   DMUL R8, R8, R8 ; /* 0 */
        /*0060*/               @P0 BRA P1, 0x80 ; /* 0 */
        /*0070*/                   CALL.REL.NOINC 0xc0 ; /* 0 */
        /*0080*/                   STG.E.128 [R6.64], R8 ; /* 0 */
        /*0090*/                   EXIT ; /* 0 */
        /*00c0*/                   MUFU.RCP64H R3, R5 ; /* 0 */
        /*00d0*/                   RET.REL.NODEC R4 0x0 ; /* 0 */
        /*00e0*/                   EXIT ; /* 0 */
"""

PTXAS = """\
ptxas info    : Compiling entry function '_Z1av' for 'sm_90'
ptxas info    : Function properties for _Z1av
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compiling entry function '_Z1bv' for 'sm_90'
ptxas info    : Function properties for _Z1bv
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 16 bytes cumulative stack size
"""

H200 = Gpu("H200", "90", 132, 1980, 4800, 64, "")


def body_of(listing: str) -> Body:
    (instructions,) = parse(listing).values()
    return analyse(instructions)


def kernel(
    instructions: int, mufu: int = 2, dtype: str = "bf16", formula: str = "ours", fp64: int = 0
) -> Kernel:
    """A forward kernel of one 128-bit load, with these counts for each element."""
    elements = 128 // {"bf16": 16, "fp64": 64}[dtype]
    counts = Counts(instructions * elements, mufu * elements, fp64 * elements)
    body = Body(counts, counts, (128,), (128,), checks=1, branches=0, local=0)
    return Kernel("90", "forward", dtype, formula, body, Resources(32, 0))


def complaints(ours: Kernel) -> list[str]:
    plain = kernel(50, mufu=3, dtype=ours.dtype, formula="plain")
    return [line.partition(": ")[2] for line in budgets.exceeded([ours, plain], [H200])]


def test_instructions_are_read() -> None:
    (instructions,) = parse(TAIL_FIRST).values()
    assert [step.opcode for step in instructions[:3]] == ["LDC", "ISETP.GE.U32.AND", "BRA"]
    assert instructions[1].operands == "P0, PT, R4.reuse, UR4, PT"
    assert (instructions[2].guard, instructions[2].target) == ("@!P0", 0x70)
    assert [step.bits for step in instructions if step.name in ("LDG", "STG")] == [32, 32, 128, 128]


def test_16_bit_loads_are_told_by_their_modifier() -> None:
    text = " Function : f\n /*0000*/ LDG.E.U16 R4, [R2.64] ; \n"
    assert parse(text)["f"][0].bits == 16


def test_body_is_found_behind_a_taken_branch() -> None:
    body = body_of(TAIL_FIRST)
    assert body.least == body.most == Counts(instructions=8, mufu=1, fp64=0)
    assert (body.load_bits, body.store_bits) == ((128,), (128,))
    assert (body.checks, body.branches, body.local) == (1, 0, 0)


def test_branches_make_a_range_and_calls_are_left_out() -> None:
    body = body_of(BRANCHING)
    assert (body.least.instructions, body.least.fp64) == (7, 1)
    # The way to the call counts, what is called does not.
    assert (body.most.instructions, body.most.fp64, body.most.mufu) == (10, 3, 0)
    assert (body.checks, body.branches) == (1, 2)


def test_kernel_without_wide_stores_is_refused_by_name() -> None:
    narrow = TAIL_FIRST.replace("STG.E.128", "STG.E.64")
    with pytest.raises(ValueError, match=r"sm_100 fp32 forward, ours: no store of 128 bits"):
        list(read("100", "ours", narrow, {}))


def test_kernels_are_known_by_their_mangled_names() -> None:
    name = "_ZN4mish5denseILNS_2OpE0EfLi4EEEv"
    report = {name: Resources(32, 0)}
    (found,) = read("100", "ours", TAIL_FIRST, report)
    assert (found.direction, found.dtype, found.elements) == ("forward", "fp32", 4)
    assert found.bytes_per_element == 8
    assert found.per_element(found.body.most.instructions) == 2
    unaligned = TAIL_FIRST.replace("Li4E", "Li1E")
    assert not list(read("100", "ours", unaligned, {}))


def test_report_of_ptxas() -> None:
    assert toolchain.read_report(PTXAS) == {"_Z1av": Resources(32, 0), "_Z1bv": Resources(40, 20)}


def test_slots_at_memory_speed() -> None:
    # 132 SMs x 1.98 GHz x 128 lanes over 4.8 TB/s: 6.97 instructions a byte.
    assert H200.slots(128, bytes_per_element=4) == pytest.approx(27.88, abs=0.01)
    assert H200.slots(16, bytes_per_element=4) == pytest.approx(3.485, abs=0.001)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (Counts(instructions=14, mufu=1, fp64=0), "memory 50%"),
        (Counts(instructions=27, mufu=2, fp64=0), "memory 97%"),
        (Counts(instructions=56, mufu=2, fp64=0), "issue 201%"),
        (Counts(instructions=14, mufu=7, fp64=0), "MUFU 201%"),
        (Counts(instructions=14, mufu=1, fp64=28), "FP64 201%"),
    ],
)
def test_verdict_names_the_busiest_unit(counts: Counts, verdict: str) -> None:
    one = replace(kernel(1), body=replace(kernel(1).body, load_bits=(16,)))
    assert one.elements == 1
    assert str(H200.judge(one, counts)) == verdict


def test_known_gpus_have_sources() -> None:
    known = gpus.load()
    assert len(known) == 6
    assert all(gpu.source for gpu in known)


def test_kernel_within_its_budgets() -> None:
    assert complaints(kernel(13)) == []


@pytest.mark.parametrize(
    ("ours", "complaint"),
    [
        (kernel(14), "14.00 instructions, more than 13"),
        (kernel(13, mufu=3), "3.00 MUFU, more than 2"),
        (kernel(26, dtype="fp64"), "52% of the instructions of PyTorch's formula"),
        (
            replace(kernel(13), resources=Resources(255, 8)),
            "8 bytes spilled, 0 accesses to local memory",
        ),
        (
            replace(kernel(13), body=replace(kernel(13).body, branches=1)),
            "1 branches after the first load",
        ),
        (
            replace(kernel(13), body=replace(kernel(13).body, checks=2)),
            "2 branches before the first load; to know a full block takes 1",
        ),
        (
            replace(kernel(13), body=replace(kernel(13).body, store_bits=(64, 64))),
            "global accesses of 64, 128 bits, not 128",
        ),
        (
            replace(kernel(13), body=replace(kernel(13).body, store_bits=(128, 128))),
            "16 elements stored of 8",
        ),
    ],
)
def test_exceeded_budgets_are_named(ours: Kernel, complaint: str) -> None:
    assert complaints(ours) == [complaint]


def test_kernel_that_is_not_memory_bound() -> None:
    assert complaints(kernel(28))[1:] == ["not memory-bound on H200: issue 100%"]


def test_tables_show_ranges_and_both_formulas() -> None:
    plain = kernel(50, mufu=3, formula="plain")
    wider = replace(plain.body, most=replace(plain.body.most, instructions=60 * plain.elements))
    both = [kernel(13), replace(plain, body=wider)]
    assert (
        tables.instructions(both).splitlines()[-1] == "| forward   | bf16  | 13 / 50-60 | 13     |"
    )
    assert "memory 57% / issue 179%" in tables.verdicts(both, [H200])


def test_without_a_compiler_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_config, "find_toolkits", lambda env, folders: ([], []))
    assert cli.main([]) == cli.NO_COUNTS
    assert "no nvcc was found. `make sass` installs one" in capsys.readouterr().err
