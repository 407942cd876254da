"""What is left out by arguments changes no final state: random programs, explored with and without it.

The programs store much, in few places, some of which only their thread knows; half of them patch and fetch code, under
each kind of instruction cache. docs/decisions/0008 has the arguments.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzvm import litmus
from fuzzvm.litmus import explore, state

SHARED, PRIVATE = ("X20", "X21"), ("X22", "X23")
SITE = "X24"
BARRIERS = ("DMB SY", "DMB ST", "DMB LD", "DSB SY", "DSB ST", "ISB", "DMB NSH")
CACHES = ("", "CacheType=IDC\n", "CacheType=DIC\n")


@st.composite
def thread(draw: st.DrawFn, number: int, longest: int, *, fetches: bool) -> list[str]:
    """Return the code of one thread; what it loads ends in W0, W1, ..., what it executes in W9."""
    lines: list[str] = []
    loads = itertools.count()
    site = draw(st.integers(0, longest)) if fetches and number == 0 else -1
    for index in range(draw(st.integers(1, longest))):
        place = draw(st.sampled_from(SHARED + PRIVATE))
        kinds = "WWWWLRBX" + "PPDIS" * fetches
        match draw(st.sampled_from(kinds)):
            case "W":
                mnemonic = draw(st.sampled_from(("STR", "STR", "STLR")))
                lines.append(f"{mnemonic} W{draw(st.sampled_from((11, 12)))},[{place}]")
            case "L":
                lines.append(f"{draw(st.sampled_from(('LDR', 'LDAR')))} W{next(loads)},[{place}]")
            case "R":
                lines += [f"LDR W{(at := next(loads))},[{place}]", f"CBNZ W{at},L{index}", f"L{index}:"]
            case "X":
                lines.append(f"SWP{draw(st.sampled_from(('', 'A', 'L')))} W11,W{next(loads)},[{place}]")
            case "B":
                lines.append(draw(st.sampled_from(BARRIERS)))
            case "P":
                lines.append(f"STR W{draw(st.sampled_from((13, 14)))},[{SITE}]")
            case "D":
                lines += [f"DC CVAU,{SITE}", *(["DSB ISH"] * draw(st.booleans()))]
            case "I":
                lines += [f"IC IVAU,{SITE}", *(["DSB ISH"] * draw(st.booleans()))]
            case "S":
                lines += ["DSB ISH", "ISB"]
        if index == site:
            lines += ["F: B .+8", "MOV W9,#1"]
    return lines


@st.composite
def programs(draw: st.DrawFn, *, fetches: bool) -> str:
    count = draw(st.integers(1, 2))
    columns = [draw(thread(number, 5 if count == 1 else 4, fetches=fetches)) for number in range(count)]
    if fetches and not any(line.startswith("F:") for line in columns[0]):
        columns[0] += ["F: B .+8", "MOV W9,#1"]
    return text(columns, draw(st.sampled_from(CACHES)) if fetches else "", fetches=fetches)


def text(columns: list[list[str]], header: str = "", *, fetches: bool = False) -> str:
    initial, shown = [], ["x", "y"]
    for number, column in enumerate(columns):
        initial += [f"{number}:X20=x;", f"{number}:X21=y;", f"{number}:X22=u{number};", f"{number}:X23=v{number};"]
        initial += [f"{number}:X11=1;", f"{number}:X12=2;"]
        if fetches:
            initial += [f"{number}:X24=P0:F;", f'{number}:X13=NOP; {number}:X14=instr:"B .+8";']
        shown += [f"{number}:X{at}" for at in range(sum("W" in line and line[0] in "LS" for line in column))]
        shown += [f"u{number}", f"v{number}"]
    if fetches:
        shown.append("0:X9")
    rows = "".join(" | ".join(row) + " ;\n" for row in itertools.zip_longest(*columns, fillvalue=""))
    head = " | ".join(f"P{number}" for number in range(len(columns)))
    places = " ".join(f"{place};" for place in shown)
    return f"AArch64 random\n{header}{{ {' '.join(initial)} }}\n{head} ;\n{rows}locations [{places}]\nexists (true)\n"


def agree(test: str) -> None:
    reduced = litmus.run(test, "random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "redundant", lambda *arguments: False)
        patch.setattr(state, "ORDERED", ())
        full = litmus.run(test, "random")
    assert full.states == reduced.states
    assert full.timelines >= reduced.timelines


QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(programs(fetches=False))
@example(text([["STR W11,[X22]", "STR W11,[X20]", "STR W11,[X22]"], ["STR W12,[X20]", "LDR W0,[X20]"]]))
@example(text([["STR W11,[X22]", "DMB ST", "STR W12,[X20]"], ["LDR W0,[X20]", "LDR W1,[X20]"]]))
def test_programs_that_store(test: str) -> None:
    agree(test)


FETCH = ["ISB", "F: B .+8", "MOV W9,#1"]
WAITS = [["IC IVAU,X24", "LDR W0,[X21]", "DSB ISH", *FETCH], ["STR W13,[X24]", "DMB SY", "STR W11,[X21]"]]
"""IC, then the patch, then the completion of the IC: the fetch may be old though all of the patch is over."""
FOLLOWS = [["LDR W0,[X20]", "CBNZ W0,L0", "L0:", *FETCH], ["STR W11,[X20]", "STR W13,[X24]"]]
"""A fetch that reads as loads do may come between the two stores."""


@QUICK
@given(programs(fetches=True))
@example(text(WAITS, "CacheType=IDC\n", fetches=True))
@example(text(FOLLOWS, "CacheType=DIC\n", fetches=True))
def test_programs_that_patch_code(test: str) -> None:
    agree(test)
