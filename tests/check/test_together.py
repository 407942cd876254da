"""The answers of several architectures as one, and which architectures a series is checked for."""

from __future__ import annotations

import pytest

from fuzzvm.check.answers import BROKEN, FIXED, NO_CHANGE, NOT_LOOKED_AT, STILL_BROKEN, UNDECIDED, UNTESTED
from fuzzvm.check.check import Answer, architectures_of
from fuzzvm.check.looked_at import NOT_COMPILED, NOT_RUN, RAN, SAME_CODE, Look
from fuzzvm.check.series import Series
from fuzzvm.check.together import together
from fuzzvm.kbuild.patches import Patch

X86 = "arch/x86/mm/pat/set_memory.c"


def answer(what: str, *looks: Look, why: str = "", unread: tuple[str, ...] = ()) -> Answer:
    return Answer(what, why, ("series",), functions=looks, unread=unread)


def ran(state: str, name: str = "one", pairs: tuple[str, ...] = (), file: str = "mm/vmalloc.c") -> Look:
    return Look(name, file, state, pairs=pairs, why="" if state == RAN else "so")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((NO_CHANGE, NO_CHANGE), NO_CHANGE),
        ((FIXED, NO_CHANGE), FIXED),
        ((NOT_LOOKED_AT, FIXED), FIXED),
        ((FIXED, UNDECIDED), UNDECIDED),
        ((UNTESTED, FIXED), UNTESTED),
        ((UNTESTED, BROKEN), BROKEN),
        ((STILL_BROKEN, UNDECIDED), STILL_BROKEN),
        ((BROKEN, STILL_BROKEN), BROKEN),
    ],
)
def test_the_worst_answer_is_the_answer(answers: tuple[str, ...], expected: str) -> None:
    assert together([answer(one) for one in answers]).answer == expected
    assert together([answer(one) for one in reversed(answers)]).answer == expected


def test_what_one_architecture_has_looked_at_is_looked_at() -> None:
    arm64 = answer(
        NOT_LOOKED_AT, ran(RAN, pairs=("a, sc",)), why="no image is compiled from it", unread=(X86, "mm/x.c")
    )
    x86 = answer(NO_CHANGE, ran(NOT_RUN), ran(RAN, "two", ("b, sc",), X86))
    both = together([arm64, x86])
    assert (both.answer, both.unread) == (NO_CHANGE, ())
    assert [(one.name, one.state, one.pairs) for one in both.functions] == [
        ("one", RAN, ("a, sc",)),
        ("two", RAN, ("b, sc",)),
    ]
    assert together([x86, arm64]).functions[0].state == RAN


@pytest.mark.parametrize("states", [(NOT_RUN, SAME_CODE), (NOT_COMPILED, NOT_RUN), (NOT_COMPILED, NOT_COMPILED)])
def test_what_none_has_looked_at_is_named(states: tuple[str, str]) -> None:
    both = together([answer(NO_CHANGE if one == SAME_CODE else NOT_LOOKED_AT, ran(one)) for one in states])
    assert (both.answer, both.why) == (NOT_LOOKED_AT, "not looked at: one (so)")
    both = together([answer(NOT_LOOKED_AT, unread=("mm/x.c", "fs/y.c"))] * 2)
    assert (both.answer, both.why) == (NOT_LOOKED_AT, "no image is compiled from mm/x.c")
    both = together([answer(NOT_LOOKED_AT, why="no verdict changes, and only data changes: flag"), answer(NO_CHANGE)])
    assert both.answer == NOT_LOOKED_AT and "only data changes: flag" in both.why


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("mm/vmalloc.c",), ("arm64",)),
        ((X86,), ("x86_64",)),
        ((X86, "arch/arm64/mm/mmu.c"), ("arm64", "x86_64")),
        ((X86, "include/linux/mm.h"), ("arm64", "x86_64")),
        ((X86, "Documentation/x.rst", "drivers/x.c"), ("x86_64",)),
        (("drivers/x.c",), ("arm64",)),
    ],
)
def test_a_series_is_checked_for_what_it_touches(files: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert architectures_of(Series((), (Patch("one", b"", files),))) == expected
    assert architectures_of(Series((), (), files)) == expected
