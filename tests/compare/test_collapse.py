"""Entries that only the image's larger tables have."""

from __future__ import annotations

from fuzzvm.compare.collapse import collapsed, joined
from fuzzvm.compare.operations import Entry, Visible

ISB = Visible("fence", "", "isb")


def pte(index: int, *what: str) -> list[Visible]:
    return [Visible("write" if one else "read", Entry("pte", (0, 0, index)), one) for one in what]


def test_entries_like_those_of_both_are_left_out() -> None:
    both = [*pte(0, "", "leaf"), *pte(1, "", "leaf")]
    kept, alike, unlike = collapsed([*both, *pte(2, "", "leaf"), *pte(3, "", "leaf")], fanout=2)
    assert (kept, alike, unlike) == (both, 2, [])


def test_what_comes_after_the_last_of_them_stays() -> None:
    both = [*pte(0, "", "leaf"), *pte(1, "", "leaf")]
    kept, alike, _ = collapsed([*both, *pte(2, "", "leaf"), ISB], fanout=2)
    assert (kept, alike) == ([*both, ISB], 1)


def test_barriers_of_each_entry_go_with_it() -> None:
    both = [*pte(0, "leaf"), ISB, *pte(1, "leaf"), ISB]
    kept, alike, _ = collapsed([*both, *pte(2, "leaf"), ISB, *pte(3, "leaf"), ISB, ISB], fanout=2)
    assert (kept, alike) == ([*both, ISB], 2)


def test_entries_like_no_other_are_named() -> None:
    kept, alike, unlike = collapsed([*pte(0, ""), *pte(2, "", ""), *pte(3, "", "")], fanout=2)
    assert (kept, alike) == (pte(0, ""), 0)
    assert [(one.level, one.operations, one.entries) for one in unlike] == [("pte", ("read", "read"), 2)]


def test_an_index_before_the_first_is_the_images_alone() -> None:
    before = [Visible("read", Entry("pgd", (-1,)))]
    both = [Visible("read", Entry("pgd", (0,)))]
    assert collapsed([*before, *both], fanout=2)[:2] == (both, 1)


def test_tlbis_of_one_page_after_the_other_are_one() -> None:
    pages = [Visible("tlbi", "", "vaale1is", pages=(page, page + 1)) for page in (4, 5, 6, 9)]
    assert [one.pages for one in joined(pages)] == [(4, 7), (9, 10)]
