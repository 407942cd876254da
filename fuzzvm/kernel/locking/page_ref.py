"""The reference counts of page tables' pages (include/linux/page_ref.h, include/linux/mm.h, Linux 7.3).

A page begins with one reference, that of whoever allocated it. Whoever puts the last one frees the page, and nobody
gets another one after that. There is a word for each page, found by the page's object; a page that is handed out again
is another object, with a count of its own, so that the kernel's own mistake, a reference to what the page has become
meanwhile, does not show here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, Words
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Order, Rmw, Steps, object_of

UNUSED = "1 reference"


class PageCount(NamedTuple):
    """What a page's word holds: how many references there are."""

    references: int

    def left(self, name: str) -> str:
        """Return that references were never put, where that is so."""
        return f"{name}: a page has {self.references} references, and nobody puts them" if self.references > 1 else ""

    def in_words(self) -> str:
        """Return how many there are."""
        return f"{self.references or 'no'} reference{'' if self.references == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class PageRefs(Lock):
    """The counts of all pages from `address` on. A word holds 0, which is one reference, or a `PageCount`."""

    pages: int

    def of(self, page: Address) -> Address:
        """Return the address of a page's count. Raises ValueError where the page has none."""
        if object_of(page) >= self.pages:
            raise ValueError(f"{self.name} has counts of {self.pages} pages, too few: ask for more in attach")
        return self.address + object_of(page)


def references(value: object) -> int:
    """Return the references that a word says there are; memory starts as 0, which is one."""
    return value.references if isinstance(value, PageCount) else 1


@dataclass(frozen=True, slots=True)
class _GetUnlessZero:
    def __call__(self, value: object) -> PageCount:
        count = references(value)
        return PageCount(count + 1 if count else 0)


@dataclass(frozen=True, slots=True)
class _Put:
    def __call__(self, value: object) -> PageCount:
        return PageCount(max(references(value) - 1, 0))


_GET, _PUT = _GetUnlessZero(), _Put()


def page_ref_init(words: Words, name: str, pages: int) -> PageRefs:
    """Return the counts of so many objects, those from boot among them. For `attach`, whose `boot` makes words."""
    return PageRefs(words.lock_word(name, UNUSED, pages), name, pages)


def get_page_unless_zero(cpu: int, refs: PageRefs, page: Address) -> Steps[bool]:
    """Get a reference to a page unless there is none any more; return whether that was done."""
    old = yield Rmw(refs.of(page), _GET, Order.ACQUIRE_RELEASE)
    return references(old) > 0


def put_page_testzero(cpu: int, refs: PageRefs, page: Address) -> Steps[bool]:
    """Put a reference to a page; return whether it was the last one, so that the caller frees the page.

    Raises ModelError unlock-without-lock where there was none (VM_BUG_ON_PAGE).
    """
    old = yield Rmw(refs.of(page), _PUT, Order.ACQUIRE_RELEASE)
    if not references(old):
        message = f"CPU {cpu} puts a reference to a page that has none"
        raise ModelError(UNLOCK_WITHOUT_LOCK, message, address=page)
    return references(old) == 1
