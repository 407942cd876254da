"""fuzzvm.compiled.arm64.decode: what each instruction reads and writes, and what is refused."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.arm64.decode import decode
from fuzzvm.compiled.arm64.registers import NAMES
from fuzzvm.compiled.isa.effects import Flow, Kind
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.machine.ops import Order

AT = 0xFFFF_8000_8000_1000

# word, assembly text, what it reads, what it writes, what a branch depends on
LOCAL = """
8b020c20 | add x0, x1, x2, lsl #3     | x1 x2      | x0       |
31001483 | adds w3, w4, #5            | x4         | x3 nzcv  |
d10103ff | sub sp, sp, #0x40          | sp         | sp       |
eb22c83f | cmp x1, w2, sxtw #2        | x1 x2      | nzcv     |
ba020020 | adcs x0, x1, x2            | x1 x2 nzcv | x0 nzcv  |
72001cbf | tst w5, #0xff              | x5         | nzcv     |
f2a24687 | movk x7, #0x1234, lsl #16  | x7         | x7       |
d2824687 | mov x7, #0x1234            |            | x7       |
9ac22020 | lsl x0, x1, x2             | x1 x2      | x0       |
d3431820 | ubfx x0, x1, #3, #4        | x1         | x0       |
d37df020 | lsl x0, x1, #3             | x1         | x0       |
b3781c20 | bfi x0, x1, #8, #8         | x0 x1      | x0       |
33083c20 | bfxil w0, w1, #8, #8       | x0 x1      | x0       |
9b020c20 | madd x0, x1, x2, x3        | x1 x2 x3   | x0       |
9a820020 | csel x0, x1, x2, eq        | x1 x2 nzcv | x0       |
1a9f07e0 | cset w0, ne                | nzcv       | x0       |
9a9f3420 | csinc x0, x1, xzr, lo      | x1 nzcv    | x0       |
fa431824 | ccmp x1, #3, #4, ne        | x1 nzcv    | nzcv     |
3a42a020 | ccmn w1, w2, #0, ge        | x1 x2 nzcv | nzcv     |
90000000 | adrp x0, .                 |            | x0       |
54000000 | b.eq .                     | nzcv       |          | nzcv
34000003 | cbz w3, .                  | x3         |          | x3
b7400004 | tbnz x4, #0x28, .            | x4         |          | x4
94000000 | bl .                       |            | x30      |
d63f00a0 | blr x5                     | x5         | x30      | x5
d61f00c0 | br x6                      | x6         |          | x6
d65f03c0 | ret                        | x30        |          | x30
d5384100 | mrs x0, sp_el0             | sp_el0     | x0       |
d518d081 | msr tpidr_el1, x1          | x1         | tpidr_el1|
d50342df | msr daifset, #2            | daif       | daif     |
d53b4200 | mrs x0, nzcv               | nzcv       | x0       |
d503201f | nop                        |            |          |
d503203f | yield                      |            |          |
d503233f | paciasp                    |            |          |
d503245f | bti c                      |            |          |
f9800020 | prfm pldl1keep, [x1]       |            |          |
"""

# word, assembly text, kind, size and count, order, address reads, value reads, expected reads, writes
ACCESSES = """
f9400420 | ldr x0, [x1, #8]           | load             | 8 1 | plain           | x1    |       |       | x0
b8625820 | ldr w0, [x1, w2, uxtw #2]  | load             | 4 1 | plain           | x1 x2 |       |       | x0
b8804420 | ldrsw x0, [x1], #4         | load             | 4 1 | plain           | x1    |       |       | x0 x1
a8c17bfd | ldp x29, x30, [sp], #16    | load             | 8 2 | plain           | sp    |       |       | x29 x30 sp
a9be7bfd | stp x29, x30, [sp, #-32]!  | store            | 8 2 | plain           | sp    | x29, x30 |    | sp
f900007f | str xzr, [x3]              | store            | 8 1 | plain           | x3    |       |       |
382668a4 | strb w4, [x5, x6]          | store            | 1 1 | plain           | x5 x6 | x4    |       |
88dffc20 | ldar w0, [x1]              | load             | 4 1 | acquire         | x1    |       |       | x0
c89ffc62 | stlr x2, [x3]              | store            | 8 1 | release         | x3    | x2    |       |
f8bfc020 | ldapr x0, [x1]             | load             | 8 1 | acquire-pc      | x1    |       |       | x0
c85f7c20 | ldxr x0, [x1]              | exclusive load   | 8 1 | plain           | x1    |       |       | x0
c87f8440 | ldaxp x0, x1, [x2]         | exclusive load   | 8 2 | acquire         | x2    |       |       | x0 x1
c800fc41 | stlxr w0, x1, [x2]         | exclusive store  | 8 1 | release         | x2    | x1    |       | x0
c8200861 | stxp w0, x1, x2, [x3]      | exclusive store  | 8 2 | plain           | x3    | x1, x2 |      | x0
c8e0fc41 | casal x0, x1, [x2]         | compare and swap | 8 1 | acquire-release | x2    | x1    | x0    | x0
48607c82 | caspa x0, x1, x2, x3, [x4] | compare and swap | 8 2 | acquire         | x4    | x2, x3 | x0, x1 | x0 x1
b8e00041 | ldaddal w0, w1, [x2]       | atomic add       | 4 1 | acquire-release | x2    | x0    |       | x1
f820303f | stset x0, [x1]             | atomic set       | 8 1 | plain           | x1    | x0    |       |
b860803f | swpl w0, wzr, [x1]         | atomic swp       | 4 1 | release         | x1    | x0    |       |
38a0003f | ldaddab w0, wzr, [x1]      | atomic add       | 1 1 | plain           | x1    | x0    |       |
d5382040 | mrs x0, tcr_el1            | mrs tcr_el1      | 0 1 | plain           |       |       |       | x0
d5182001 | msr ttbr0_el1, x1          | msr ttbr0_el1    | 0 1 | plain           |       | x1    |       |
d5033a9f | dsb ishst                  | barrier dsb ishst| 0 1 | plain           |       |       |       |
d50339bf | dmb ishld                  | barrier dmb ishld| 0 1 | plain           |       |       |       |
d5033fdf | isb                        | barrier isb      | 0 1 | plain           |       |       |       |
d5088360 | tlbi vaae1is, x0           | tlbi vaae1is     | 0 1 | plain           | x0    |       |       |
d508831f | tlbi vmalle1is             | tlbi vmalle1is   | 0 1 | plain           |       |       |       |
d50b7b21 | dc cvau, x1                | dc cvau          | 0 1 | plain           | x1    |       |       |
d50b7522 | ic ivau, x2                | ic ivau          | 0 1 | plain           | x2    |       |       |
d4210000 | brk #0x800                 | brk              | 0 1 | plain           |       |       |       |
d5033f5f | clrex                      | clrex            | 0 1 | plain           |       |       |       |
"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def named(slots: frozenset[int]) -> set[str]:
    return {NAMES[slot] for slot in slots}


def instruction(word: str) -> Instruction:
    return decode(int(word, 16), AT)


@pytest.mark.parametrize("row", rows(LOCAL), ids=lambda row: row[1])
def test_a_local_instruction_reads_and_writes_what_the_manual_says(row: list[str]) -> None:
    word, text, reads, writes, control = row
    found = instruction(word)
    assert found.text.split() == text.replace(" .", f" #{AT:#x}").split()
    assert named(found.reads) == set(reads.split())
    assert named(found.writes) == set(writes.split())
    assert named(found.control_reads) == set(control.split())
    assert found.request is None
    assert (found.address_reads, found.data_reads) == (frozenset(), frozenset())


@pytest.mark.parametrize("row", rows(ACCESSES), ids=lambda row: row[1])
def test_an_access_has_kind_order_and_dependencies(row: list[str]) -> None:
    word, _, what, shape, order, address, values, expected, writes = row
    found = instruction(word)
    request = found.request
    assert request is not None
    assert f"{request.kind.value} {request.operation}".strip() == what
    assert f"{request.size} {request.count}" == shape
    assert request.order is Order(order)
    assert named(found.address_reads) == set(address.split())
    assert [named(slots) for slots in found.value_reads if slots] == [{name} for name in values.split(", ") if name]
    assert [named(slots) for slots in found.expected_reads] == [{name} for name in expected.split(", ") if name]
    assert named(found.writes) == set(writes.split())
    assert named(found.reads) == {*address.split(), *values.split(", "), *expected.split(", ")} - {""}
    assert not found.is_branch


def test_a_base_register_that_is_written_back_depends_on_itself_alone() -> None:
    by_target = {NAMES[each.target]: each for each in instruction("a8c17bfd").dependencies}
    assert (named(by_target["sp"].reads.data), by_target["sp"].reads.response) == ({"sp"}, False)
    assert (by_target["x29"].reads.data, by_target["x29"].reads.response) == (frozenset(), True)


def test_a_selection_depends_on_flags_by_a_pick_only() -> None:
    (selected,) = instruction("9a820020").dependencies
    assert (named(selected.reads.data), named(selected.reads.picks)) == ({"x1", "x2"}, {"x1", "x2", "nzcv"})
    (flags,) = instruction("fa431824").dependencies
    assert (named(flags.reads.data), named(flags.reads.picks)) == ({"x1"}, {"x1", "nzcv"})
    (added, _) = instruction("ba020020").dependencies
    assert named(added.reads.data) == {"x1", "x2", "nzcv"}


def test_calls_and_returns_are_told_from_jumps() -> None:
    flows = {"94000000": Flow.CALL, "d63f00a0": Flow.CALL, "d65f03c0": Flow.RETURN, "d61f00c0": Flow.JUMP}
    for word, flow in flows.items():
        branch = instruction(word).branch
        assert branch is not None
        assert branch.flow is flow


def test_atomics_without_destination_are_no_returning_reads() -> None:
    kept = {word: instruction(word).request for word in ("f820303f", "b860803f", "38a0003f", "b8e00041", "c8e0fc41")}
    assert [request.no_return for request in kept.values() if request is not None] == [True, True, True, False, False]


UNSUPPORTED = {
    "fadd d0, d1, d2": 0x1E622820,
    "ldr q0, [x1]": 0x3DC00020,
    "ldtr x0, [x1]": 0xF8400820,
    "sttr x0, [x1]": 0xF8000820,
    "eret": 0xD69F03E0,
    "svc #0": 0xD4000001,
    "hvc #0": 0xD4000002,
    "smc #0": 0xD4000003,
    "hlt #0": 0xD4400000,
    "retaa": 0xD65F0BFF,
    "pacia x0, x1": 0xDAC10020,
    "dc zva, x0": 0xD50B7420,
    "ldlar x0, [x1]": 0xC8DF7C20,
    "stllr x0, [x1]": 0xC89F7C20,
    "crc32b w0, w1, w2": 0x1AC24020,
    "ssbb": 0xD503309F,
    "sb": 0xD50330FF,
    "udf": 0x00000000,
    "cfinv": 0xD500401F,
    "ldraa x0, [x1]": 0xF8200420,
    "mrs x0, s3_0_c15_c2_0": 0xD538F200,
    "sys #0, c7, c2, #0": 0xD508721F,
    # constrained unpredictable
    "ldr x0, [x0], #8": 0xF8408400,
    "str x1, [x1, #8]!": 0xF8008C21,
    "ldp x0, x0, [x1]": 0xA9400020,
    "ldp x0, x1, [x1], #16": 0xA8C10420,
    "stp x1, x2, [x1, #16]!": 0xA9810821,
    "ldxp x0, x0, [x1]": 0xC87F0020,
    "stxr w0, x0, [x1]": 0xC8007C20,
    "stxr w0, x1, [x0]": 0xC8007C01,
    "stxp w0, x1, x0, [x2]": 0xC8200041,
}


@pytest.mark.parametrize("word", UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_an_instruction_of_unknown_effect_is_refused_by_name(word: int) -> None:
    with pytest.raises(UnsupportedInstructionError) as caught:
        decode(word, AT, "vmap_range")
    error = caught.value
    assert (error.address, error.function) == (AT, "vmap_range")
    assert error.text
    assert str(error) == f"unsupported instruction {error.text!r} at {AT:#x} in vmap_range"


def test_the_stack_pointer_as_base_and_the_zero_register_as_data_are_not_the_same() -> None:
    # str xzr, [sp, #-16]! is defined, although both registers are number 31
    found = instruction("f81f0fff")
    assert (named(found.reads), named(found.writes)) == ({"sp"}, {"sp"})


def test_code_is_aligned() -> None:
    with pytest.raises(UnsupportedInstructionError, match="misaligned"):
        decode(0xD503201F, AT + 2)


def test_equal_words_at_one_address_are_equal() -> None:
    assert instruction("d503201f") == instruction("d503201f")
    assert len({instruction("d503201f"), decode(0xD503201F, AT), decode(0xD503201F, AT + 4)}) == 2


def test_every_barrier_that_has_a_name_is_known() -> None:
    found = {}
    for option in range(16):
        for name, opcode in (("dsb", 0x9F), ("dmb", 0xBF)):
            try:
                request = decode(0xD5033000 | option << 8 | opcode, AT).request
            except UnsupportedInstructionError:
                continue
            assert request is not None
            assert request.kind is Kind.BARRIER
            found[name, option] = request.operation
    domains = {0: "osh", 4: "nsh", 8: "ish"}
    kinds = {1: "ld", 2: "st", 3: ""}
    options = {high | low: f"{domain}{kind}" for high, domain in domains.items() for low, kind in kinds.items()}
    options |= {13: "ld", 14: "st", 15: "sy"}
    assert found == {(name, option): f"{name} {text}" for option, text in options.items() for name in ("dsb", "dmb")}
