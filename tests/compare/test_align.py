"""Two sequences of operations side by side, and what is called a difference."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.compare.align import aligned, differences
from fuzzvm.compare.operations import Entry, Place, Visible

PMD = Entry("pmd", (0, 0))


def op(kind: str, place: Entry | str = PMD, detail: str = "", order: str = "", function: str = "f") -> Visible:
    return Visible(kind, place, detail, order, function, (Place(function, "", 1), Place("caller", "", 2)))


READ, CLEAR, FREE = op("read"), op("write", detail="none"), op("free")
DSB, ISB = op("fence", "", "dsb ish"), op("fence", "", "isb")
LOCK = op("lock", "init_mm.mmap_lock", "down_write", "acquire")
CODE = [LOCK, READ, CLEAR, DSB, ISB, FREE]


def named(compiled: list[Visible], model: list[Visible]) -> list[tuple[str, str]]:
    return [(one.what, str(one.one)) for one in differences(aligned(compiled, model))]


def test_equal_sequences_do_not_differ() -> None:
    assert named(CODE, CODE) == []


def test_a_load_twice_is_a_read_again() -> None:
    assert named([LOCK, READ, *CODE[1:]], CODE) == [("read again", "read pmd[0.0]")]


def test_a_read_of_what_the_model_never_reads_is_a_further_one() -> None:
    other = op("read", Entry("pte", (0, 0, 1)))
    assert named([*CODE, other], CODE) == [("further", "read pte[0.0.1]")]


def test_a_barrier_removed_is_missing() -> None:
    assert named([one for one in CODE if one is not DSB], CODE) == [("missing", "dsb ish")]


def test_a_barrier_more_is_a_further_one() -> None:
    assert named([*CODE, ISB], CODE) == [("further", "isb")]


def test_a_free_before_the_clear_is_another_order() -> None:
    assert named([LOCK, READ, FREE, CLEAR, DSB, ISB], CODE) == [("another order", "free pmd[0.0]")]


def test_an_acquire_that_is_gone_is_another_ordering() -> None:
    found = differences(aligned([replace(LOCK, order=""), *CODE[1:]], CODE))
    assert [(one.what, one.model) for one in found] == [("another ordering", LOCK)]


def test_a_block_for_a_none_is_another_value() -> None:
    assert named([op("write", detail="leaf")], [CLEAR]) == [("another value", "write pmd[0.0] = leaf")]


def test_a_store_for_a_swap_is_another_access() -> None:
    assert named([CLEAR], [replace(CLEAR, kind="swap")]) == [("another access", "write pmd[0.0] = none")]


def test_another_entry_is_another_operation() -> None:
    other = Entry("pmd", (0, 1))
    assert named([op("read", other)], [READ]) == [("further", "read pmd[0.1]"), ("missing", "read pmd[0.0]")]


def test_a_function_that_calls_the_other_is_the_same_code() -> None:
    """Where a function ends is the source's matter: the image's is in the one that the model names."""
    inner = replace(READ, function="g", stack=(Place("g", "", 3), *READ.stack))
    assert named([inner], [READ]) == []
    assert named([READ], [inner]) == []


def test_a_function_that_has_nothing_to_do_with_the_other_is_another_operation() -> None:
    elsewhere = replace(READ, function="h", stack=(Place("h", "", 3), Place("caller", "", 2)))
    found = differences(aligned([elsewhere], [READ]))
    assert [(one.what, one.function) for one in found] == [("further", "h"), ("missing", "f")]


def test_operations_of_one_function_are_put_side_by_side() -> None:
    """Of two reads of an entry, the one in the model's function is the model's."""
    first = replace(READ, function="g", stack=(Place("g", "", 3), *READ.stack))
    rows = aligned([first, READ], [READ])
    assert [(row.compiled, row.model) for row in rows] == [(first, None), (READ, READ)]
