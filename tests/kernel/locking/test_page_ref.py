"""fuzzvm.kernel.locking.page_ref: whoever puts the last reference frees the page, and nobody gets one after that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.errors import LOCK_NOT_RELEASED, UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.lock import left
from fuzzvm.kernel.locking.page_ref import (
    PageCount,
    PageRefs,
    get_page_unless_zero,
    page_ref_init,
    put_page_testzero,
    references,
)
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Address, Alloc, Free, Steps
from fuzzvm.report.describe import Describer
from tests.kernel.locking import laws
from tests.support import Seeded, boot, run


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 1 << 30))
def test_whoever_puts_the_last_reference_frees_the_page(users: list[int], seed: int) -> None:
    """The page is used only with a reference, and freed once: anything else the machine would see."""
    machine = Machine(SequentialConsistency(1 + len(users)), tracing=True)
    refs = page_ref_init(laws.Words(machine), "refs", 8)
    page = machine.allocate(1, "page")

    def puts(cpu: int) -> Steps[None]:
        last = yield from put_page_testzero(cpu, refs, page)
        if last:
            yield Free(page)

    def uses(cpu: int, times: int) -> Steps[None]:
        while times:
            got = yield from get_page_unless_zero(cpu, refs, page)
            assert got != (machine.memory.peek(refs.of(page)) == PageCount(0))
            if got:
                assert page >> 16 not in machine.allocator.dead
                yield from puts(cpu)
            times -= 1

    machine.start([puts(0), *[uses(cpu, times) for cpu, times in enumerate(users, 1)]])
    assert execute(machine, Seeded(seed)).failure is None
    assert page >> 16 in machine.allocator.dead
    assert references(machine.memory.peek(refs.of(page))) == 0


@given(st.integers(1, 3), st.integers(0, 1 << 30))
def test_the_laws_of_locks(users: int, seed: int) -> None:
    def make(words: laws.Words, name: str) -> PageRefs:
        return page_ref_init(words, name, 1)

    def get(cpu: int, refs: PageRefs) -> Steps[bool]:
        return (yield from get_page_unless_zero(cpu, refs, 0))

    def put(cpu: int, refs: PageRefs) -> Steps[None]:
        yield from put_page_testzero(cpu, refs, 0)

    assert laws.run(make, [[get, put]] * users, seed).failure is None


def test_each_page_has_a_count_of_its_own() -> None:
    machine = Machine(SequentialConsistency(1))
    refs = page_ref_init(laws.Words(machine), "refs", 3)
    pages = [machine.allocate(1, f"page {number}") for number in range(3)]

    def program() -> Steps[None]:
        yield from get_page_unless_zero(0, refs, pages[0])
        yield from put_page_testzero(0, refs, pages[1])

    machine.start([program()])
    assert execute(machine, Seeded(0)).failure is None
    assert [references(machine.memory.peek(refs.of(page))) for page in pages[:2]] == [2, 0]
    with pytest.raises(ValueError, match="refs has counts of 3 pages, too few"):
        refs.of(pages[2])


def test_a_reference_that_is_not_there_cannot_be_put() -> None:
    machine = Machine(SequentialConsistency(1))
    refs = page_ref_init(laws.Words(machine), "refs", 2)
    page = machine.allocate(1, "page")

    def program() -> Steps[None]:
        yield from put_page_testzero(0, refs, page)
        yield from put_page_testzero(0, refs, page)

    machine.start([program()])
    failure = execute(machine, Seeded(0)).failure
    assert failure is not None
    assert (failure.error, failure.message) == (UNLOCK_WITHOUT_LOCK, "CPU 0 puts a reference to a page that has none")


class Counts(Mitigation):
    """Each walk gets a reference to the root table and keeps it."""

    name = "counts"
    pages = 64

    def attach(self, boot: Boot) -> None:
        self.refs = page_ref_init(boot, "page_refs", self.pages)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from get_page_unless_zero(k.cpu, self.refs, mm.pgd)


class TooFew(Counts):
    name = "too-few"
    pages = 0


def test_references_that_are_never_put_are_told_and_each_word_has_its_number() -> None:
    machine, kernel = boot(mitigation=Counts, cpus=1, tracing=True)
    failure = run(machine, ptdump_walk(kernel, kernel.init_mm))
    assert failure is not None
    assert (failure.error, failure.message) == (
        LOCK_NOT_RELEASED,
        "page_refs: a page has 2 references, and nobody puts them",
    )
    describer = Describer(machine)
    number = kernel.init_mm.pgd >> 16
    assert describer.step((machine.trace or [])[0]) == f"page_refs[{number}]: 2 references (acquire-release)"
    assert left(PageCount(1), "x") == left(PageCount(0), "x") == "", "who allocated it may keep it or have freed it"


def test_too_few_counts_are_an_error_of_the_scheme() -> None:
    machine, kernel = boot(mitigation=TooFew, cpus=1)
    with pytest.raises(ProgramError, match="ask for more in attach"):
        run(machine, ptdump_walk(kernel, kernel.init_mm))


def test_memory_starts_with_one_reference() -> None:
    machine = Machine(SequentialConsistency(1))
    refs = page_ref_init(laws.Words(machine), "refs", 4)

    def program() -> Steps[tuple[Address, bool]]:
        page = yield Alloc(1, "page")
        last = yield from put_page_testzero(0, refs, page)
        return page, bool(last)

    page, last = machine.boot(program())
    assert last and machine.memory.peek(refs.of(page)) == PageCount(0)
