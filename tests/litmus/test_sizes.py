"""Accesses of 32 and of 64 bits: each location is accessed in one size, or the test is refused."""

from __future__ import annotations

import pytest

from fuzzvm.litmus import LitmusError, Result, run

HEAD = "AArch64 sizes\n{{ {initial} 0:X1=x; uint64_t 0:X2=0x1111111122222222; uint64_t 0:X3; }}\n P0 ;\n{code}"
WIDE = "uint64_t x=0x3333333344444444;"


def final(code: str, initial: str = "", asked: str = "exists (true)") -> Result:
    rows = "".join(f" {line} ;\n" for line in code.split(";"))
    return run(HEAD.format(initial=initial, code=rows) + f"locations [0:X3; x;]\n{asked}\n", "sizes")


@pytest.mark.parametrize(
    ("code", "initial", "message"),
    [
        ("STR X2,[X1]; LDR W3,[X1]", "", "64 and 32 bits of x in LDR W3,[X1]"),
        ("STR W2,[X1]; LDR X3,[X1]", WIDE, "32 and 64 bits of x in LDR X3,[X1]"),
        ("LDR X3,[X1]", "int x=1;", "32 and 64 bits of x in LDR X3,[X1]"),
        ("STR X2,[X1]", "uint16_t x;", "16 and 64 bits of x in STR X2,[X1]"),
        ("LDXR W3,[X1]; STXR W4,X2,[X1]", "", "32 and 64 bits of x in STXR W4,X2,[X1]"),
        ("LDR W3,[X1]; SWPA X2,X4,[X1]", "", "32 and 64 bits of x in SWPA X2,X4,[X1]"),
        ("LDR W3,[X1]; CAS X2,X4,[X1]", "", "32 and 64 bits of x in CAS X2,X4,[X1]"),
        ("STADD W2,[X1]; LDR X3,[X1]", "", "32 and 64 bits of x in LDR X3,[X1]"),
        ("ADR X5,L; L: STR X2,[X5]", "", '32 and 64 bits of label:"P0:L" in STR X2,[X5]'),
    ],
)
def test_mixed_sizes_are_refused(code: str, initial: str, message: str) -> None:
    with pytest.raises(LitmusError, match="accesses of mixed sizes are not supported") as caught:
        final(code, initial)
    assert caught.value.message.endswith(message)


def test_two_threads_mix_sizes() -> None:
    test = "AArch64 two\n{ 0:X1=x; 1:X1=x; }\n P0 | P1 ;\n STR W0,[X1] | LDR X0,[X1] ;\nexists (1:X0=0)\n"
    with pytest.raises(LitmusError, match="accesses of mixed sizes"):
        run(test, "two")


@pytest.mark.parametrize(
    ("code", "initial", "state"),
    [
        # what herd7 -variant mixed says of each
        ("STR W2,[X1]; LDR W3,[X1]", WIDE, ("572662306", "3689348814455579170")),
        ("LDR W3,[X1]", WIDE, ("1145324612", "3689348815028241476")),
        ("STR X2,[X1]; LDR X3,[X1]", WIDE, ("1229782938533634594", "1229782938533634594")),
        ("STR W2,[X1]; LDR W3,[X1]", "", ("572662306", "572662306")),
        # without a type a location is an int, whatever its accesses: what herd7 says without the variant
        ("STR X2,[X1]; LDR X3,[X1]", "", ("1229782938533634594", "572662306")),
    ],
)
def test_what_is_left_in_memory(code: str, initial: str, state: tuple[str, str]) -> None:
    assert final(code, initial).states == (state,)


@pytest.mark.parametrize(
    "code",
    ["MOV W3,W1", "EOR W3,W1,W1", "STR W1,[X1]", "CMP W1,#0", "CBZ W1,L; L: NOP", "ADD X3,X2,W1,SXTW"],
)
def test_half_of_an_address_is_refused(code: str) -> None:
    with pytest.raises(LitmusError, match="takes 32 bits of an address"):
        final(code)


def test_half_of_an_address_in_memory_is_refused() -> None:
    with pytest.raises(LitmusError, match=r"LDR W3,\[X1\] takes 32 bits of an address"):
        final("LDR W3,[X1]", "int *x=y;")


def test_what_half_a_store_leaves_of_an_address_is_refused() -> None:
    with pytest.raises(LitmusError, match=r"\[x\] is what 32 bits leave of an address"):
        final("STR W2,[X1]", "int *x=y;")


def test_data_that_looks_like_an_instruction_is_data() -> None:
    """0xD503201F is NOP, and -721215457 as an int."""
    assert final("NOP", "int x=-721215457;", "forall (x=-721215457)").verdict == "Ok"
    result = final("MOV W3,#335544321; STR W3,[X1]", "", "forall (x=335544321)")  # B .+4
    assert (result.states, result.verdict) == ((("335544321", "335544321"),), "Ok")


def test_an_instruction_as_an_int_is_itself() -> None:
    assert final("LDR W3,[X1]", "int x=NOP;", "forall (x=NOP /\\ 0:X3=NOP)").verdict == "Ok"
    assert final("LDR W3,[X1]", "int x=NOP;", "forall (x=-721215457)").verdict == "Ok"
