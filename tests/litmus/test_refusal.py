"""What herd7's format has and fuzzvm has not is refused by its name and line; headers that matter are not ignored."""

from __future__ import annotations

import pytest

from fuzzvm.litmus import LitmusError, run
from fuzzvm.litmus.parser import parse
from fuzzvm.machine.memory.arm64.views import CacheType

HEADERS = [
    ("variant=ifetch,memtag", "Variant=memtag is not supported"),
    ("Variant=self mixed", "Variant=mixed is not supported"),
    ("Variant=handled", "Variant=handled is not supported"),
    ("CacheType=DIC PIPT", "CacheType=PIPT is not supported"),
    ("TTHM=P0:HA P0:HX", "TTHM=P0:HX is not supported"),
    ("EL0=P0", "EL0=P0: threads at EL0 are not supported"),
    ("MT=x:nc", "MT=x:nc: memory attributes are not supported"),
]

DECLARATIONS = [
    ("[PTE(x)]=(oa:PA(x), el0:0);", "the field el0:0 of a page-table entry is not supported"),
    ("[PTE(x)]=(oa:x);", "the field oa:x of a page-table entry is not supported"),
    ("[PTE(x)]=(valid:2);", "the field valid:2 of a page-table entry is not supported"),
    ("[PTE(x)]=(oa:PA(x), attrs:(Device-GRE));", "memory attributes are not supported: [PTE(x)]=(oa:PA(x), attrs"),
    ("pte_x=1;", "1 is no page-table value, as PTE(x) holds"),
    ("0:X1=phy_x;", "physical addresses are supported in page-table entries only: phy_x"),
    ("0:X1=0x5E70000000000000;", "the number 0x5e70000000000000 stands for an address here"),
    ("int v[2]={1,2};", "arrays are not supported: int v[2]={1,2}"),
    ("int v[2];", "arrays are not supported: int v[2]"),
    ("0:X1=x:green;", "'x:green' is no label of a thread; tagged addresses are not supported"),
    ("int64_t 0:X2={:red};", "tags are not supported: int64_t 0:X2={:red}"),
    ("[tag(x)]=:red;", "tags are not supported: [tag(x)]=:red"),
    ("%reg=x;", "symbolic registers are not supported: %reg=x"),
    ("0:X1=pac(x);", "cannot read the declaration '0:X1=pac(x)'"),
    ("0:X1=0x10000000000000;", "the number 0x10000000000000 stands for an address here"),
]

INSTRUCTIONS = [
    ("LD1 {V0.B}[2],[X0]", "cannot read the instruction 'LD1 {V0.B}[2],[X0]'"),
    ("MOVPRFX Z1.S,P0/Z,Z0.S", "cannot read the instruction 'MOVPRFX Z1.S,P0/Z,Z0.S'"),
    ("LDRB W0,[X1]", "unsupported instruction LDRB W0,[X1]"),
    ("STP W0,W2,[X1]", "unsupported instruction STP W0,W2,[X1]"),
    ("SVC #0", "unsupported instruction SVC #0"),
    ("TLBI VAAE1IS,X1", "TLBI VAAE1IS,X1 with x, no location's page"),
    ("TLBI ASIDE1IS,X1", "unsupported instruction TLBI ASIDE1IS,X1"),
    ("ADD W0,X1,W2", "unsupported instruction ADD W0,X1,W2"),
    ("MOV W0,X2", "unsupported instruction MOV W0,X2"),
    ("MOV X0,#0x10000000000000", "a number of MOV X0,#4503599627370496 stands for an address here"),
    ("SWP W0,X2,[X1]", "unsupported instruction SWP W0,X2,[X1]"),
]

CONDITIONS = [
    ("exists (0:X0=parel1_t:(oa:PA(x)))", "values of PAR_EL1 are not supported: exists"),
    ("exists (0:X0=1 /\\ fault(P0:L0,x,TagCheck))", "faults of kind TagCheck are not supported"),
    ("exists (0:X0=1 /\\ ~Fault(P0,I-MMU:Translation))", "faults of kind I-MMU:Translation are not supported"),
    ("exists fault(P0,SupervisorCall)", "faults of kind SupervisorCall are not supported"),
    ("exists ([v[1]]=1)", "arrays are not supported: exists"),
    ("filter 0:X0=1\nexists (true)", "filters are not supported: filter"),
    ("locations [0:X0 ins_t;]\nexists (true)", "cannot read the condition 'locations [0:X0 ins_t;] exists (true)'"),
]


def text(header: str = "Com=x", initial: str = "0:X1=x;", code: str = "NOP", final: str = "exists (true)") -> str:
    return f"AArch64 one\n{header}\n{{\n{initial}\n}}\n P0 (* P1 | *) ;\n NOP ;\n {code} ;\n{final}\n"


@pytest.mark.parametrize(
    ("test", "line", "message"),
    [(text(header=given), 2, message) for given, message in HEADERS]
    + [(text(initial=given), 4, message) for given, message in DECLARATIONS]
    + [(text(code=given), 8, message) for given, message in INSTRUCTIONS]
    + [(text(final=given), 9, message) for given, message in CONDITIONS],
)
def test_refused_by_name(test: str, line: int, message: str) -> None:
    with pytest.raises(LitmusError) as caught:
        run(test, "one")
    assert caught.value.message.startswith(message)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("header", "caches"),
    [
        ("Com=CacheType", CacheType.DIC0_IDC0),
        ("CacheType=", CacheType.DIC0_IDC0),
        ("CacheType=IDC", CacheType.DIC0_IDC1),
        ("cachetype=idc", CacheType.DIC0_IDC1),
        ("CacheType=DIC", CacheType.DIC1_IDC1),
        ("CacheType=IDC DIC", CacheType.DIC1_IDC1),
        ("Variant=Self,FATAL", CacheType.DIC0_IDC0),
    ],
)
def test_headers_that_are_obeyed(header: str, caches: CacheType) -> None:
    assert parse(text(header=header)).caches is caches


@pytest.mark.parametrize(
    ("initial", "final", "observation"),
    [
        ("int *p=&x; 0:X1=p;", "exists (p=x)", "Always"),
        ("0:X1=0:L;", 'exists (0:X1=label:"P0:L")', "Always"),
        ("0:X1=1;", "exists (0:X1<>1)", "Never"),
        ("0:X1=1;", "exists (0:X1<>2 /\\ x=0)", "Always"),
        ("0:X1=1;", "locations [0:X1; x;]", "Always"),
    ],
)
def test_what_is_read(initial: str, final: str, observation: str) -> None:
    assert run(text(initial=initial, code="L: NOP", final=final), "one").observation == observation


def test_a_test_that_asks_nothing_is_required_to_be_true() -> None:
    result = run(text(final="locations [0:X1;]"), "one")
    assert (result.quantifier, result.condition, result.states, result.verdict) == ("forall", "true", (("x",),), "Ok")
