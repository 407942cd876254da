"""Exploring only what a condition asks for comes to the same answer as exploring everything."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm import litmus
from fuzzvm.litmus.parser import parse
from fuzzvm.litmus.program import Instruction, Name
from fuzzvm.litmus.registers import is_read_after, written
from tests.litmus.test_random_programs import Program, programs, reads, text

CORPUS = Path(__file__).parents[2] / "corpus" / "litmus"
FILES = sorted(CORPUS.rglob("*.litmus"))
FETCHING = [path for path in FILES if re.search("^Variant=.*ifetch|label:", path.read_text(), re.MULTILINE | re.I)]


def agree(test: str, name: str) -> None:
    """Compare the states in which the condition holds, and the verdict."""
    everything = litmus.run(test, name)
    interesting = litmus.run(test, name, speedcheck="true")
    fast = litmus.run(test, name, speedcheck="fast")
    for part in (interesting, fast):
        assert set(part.states) <= set(everything.states)
        assert part.partial and part.observation in ("Never", "Sometimes")
        assert part.ok is everything.ok
    if everything.quantifier != "forall":
        assert interesting.positive == everything.positive
        assert (fast.positive > 0) is (everything.positive > 0)
    assert interesting.timelines <= everything.timelines


@pytest.mark.product
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_on_the_corpus(path: Path) -> None:
    agree(path.read_text(encoding="utf-8"), path.name)


@pytest.mark.product
@pytest.mark.parametrize("path", FETCHING, ids=lambda path: path.stem)
def test_on_other_outcomes_of_tests_that_fetch(path: Path) -> None:
    """Ask each of them for what each of its threads can and cannot see, one register more or less, too."""
    full = path.read_text(encoding="utf-8")
    test = parse(full)
    if not test.condition.equalities or any(place.thread is None for place, _ in test.condition.equalities):
        pytest.skip("asks more than registers")
    head = full[: re.search(r"^(~?exists|forall)", full, re.MULTILINE).start()]  # type: ignore[union-attr]
    places = [str(place) for place, _ in test.condition.equalities]
    for values in itertools.islice(itertools.product(("0", "1", "2"), repeat=len(places)), 12):
        asked = " /\\ ".join(f"{place}={value}" for place, value in zip(places, values, strict=True))
        agree(f"{head}exists ({asked})\n", path.name)


def test_there_are_tests_that_fetch() -> None:
    assert len(FETCHING) > 10


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs(dependencies=("addr", "data", "ctrl"), longest=4), st.data())
def test_on_random_programs(program: Program, data: st.DataObject) -> None:
    loads = reads(program)
    shown = text(program)
    full = litmus.run(shown, "random")
    possible = {tuple(map(int, state))[: len(loads)] for state in full.states}
    values = [0, *(op.value for thread in program for op in thread if op.kind in "WX")]
    asked = data.draw(st.lists(st.sampled_from(range(len(loads))), unique=True) if loads else st.just([]))
    drawn = data.draw(
        st.one_of(st.sampled_from(sorted(possible)), st.tuples(*(st.sampled_from(values) for _ in loads)))
    )
    proposition = " /\\ ".join(f"{loads[at][0]}:X{loads[at][1]}={drawn[at]}" for at in asked) or "true"
    test = shown.replace("exists (true)", f"exists ({proposition})")
    expected = any(all(state[at] == drawn[at] for at in asked) for state in possible)
    for speed in ("true", "fast"):
        assert litmus.run(test, "random", speedcheck=speed).ok is expected


LOAD_BUFFERING = """AArch64 LB
{ 0:X1=x; 0:X3=y; 1:X1=y; 1:X3=x; }
 P0          | P1          ;
 LDR W0,[X1] | LDR W0,[X1] ;
 MOV W2,#1   | MOV W2,#1   ;
 STR W2,[X3] | STR W2,[X3] ;
exists (0:X0=1 /\\ 1:X0=1)
"""


def test_a_load_that_waits_for_a_later_message_is_not_lost() -> None:
    assert litmus.run(LOAD_BUFFERING, "LB", speedcheck="fast").observation == "Sometimes"
    ordered = LOAD_BUFFERING.replace("MOV W2,#1   |", "DMB SY      |")
    assert litmus.run(ordered.replace("STR W2", "STR W4"), "LB", speedcheck="fast").observation == "Never"


WRITTEN_AGAIN = """AArch64 again
{ 0:X1=x; 0:X3=y; 1:X1=y; 1:X3=x; }
 P0          | P1          ;
 LDR W0,[X1] | LDR W0,[X1] ;
 DMB SY      | DMB SY      ;
 MOV W2,#1   | MOV W2,#1   ;
 STR W2,[X3] | STR W2,[X3] ;
 LDR W0,[X3] | LDR W0,[X3] ;
exists (0:X0=1 /\\ 1:X0=1)
"""


def test_a_register_that_is_written_again_is_not_asked_at_first() -> None:
    agree(WRITTEN_AGAIN, "again")
    assert litmus.run(WRITTEN_AGAIN, "again", speedcheck="fast").observation == "Sometimes"


PATCHED_LATER = """AArch64 later
Variant=Ifetch
{ 0:X1=x; 1:X1=x; 1:X3=label:"P0:L00"; 1:X2=instr:"B .+8"; }
 P0          | P1          ;
 MOV W2,#1   | LDR W0,[X1] ;
 STR W2,[X1] | DMB SY      ;
 L00:        | STR W2,[X3] ;
 NOP         |             ;
 MOV W3,#1   |             ;
exists (0:X3=0 /\\ 1:X0=1)
"""


def test_a_fetch_that_waits_for_a_later_patch_is_not_lost() -> None:
    """The store before the fetch comes first; the patch is put by a thread that has seen that store."""
    agree(PATCHED_LATER, "later")
    assert litmus.run(PATCHED_LATER, "later", speedcheck="fast").observation == "Sometimes"


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        ("LDR W1,[X2]", {1}),
        ("LDR W1,[X2],#8", {1, 2}),
        ("STR W1,[X2,#8]!", {2}),
        ("STR W1,[X2]", set()),
        ("SWPA W1,W3,[X2]", {3}),
        ("CASAL W1,W3,[X2]", {1}),
        ("STXR W1,W3,[X2]", {1}),
        ("LDADD W1,W3,[X2]", {1, 3}),
        ("CMP W1,W2", set()),
        ("MOV WZR,W1", set()),
    ],
)
def test_what_an_instruction_writes(code: str, registers: set[int]) -> None:
    assert written(parse(f"AArch64 one\n{{}}\n P0;\n {code};\nexists (true)\n").threads[0].code[0]) == registers


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["CAS W1,W2,[X3]", "MOV W1,#2"], False),
        (["CAS W1,W2,[X3]", "STR W1,[X4]"], True),
        (["CAS W1,W2,[X3]", "STR W5,[X4,W1,SXTW]"], True),
        (["CAS W1,W2,[X3]", "CAS W1,W2,[X3]"], True),
        (["CAS W1,W2,[X3]", "LDR W5,[X1]"], True),
        (["CAS W1,W2,[X3]", "B .+8", "MOV W1,#2", "NOP"], True),
        (["CAS W1,W2,[X3]", "NOP"], False),
    ],
)
def test_what_is_read_after(lines: list[str], expected: bool) -> None:
    code = "".join(f" {line};\n" for line in lines)
    thread = parse(f"AArch64 one\n{{}}\n P0;\n{code}exists (true)\n").threads[0]
    assert is_read_after(thread, 0, 1) is expected
    assert isinstance(thread.code[0], Instruction) and thread.code[0].operands[0] == Name("W1")
