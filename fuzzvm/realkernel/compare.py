"""The text of kernel_page_tables, the real kernel's beside the model's, after the same calls.

Both are read by fuzzvm.dump. Compared are the window that `vmap` and `vunmap` work in, holes included, and each area
that vmalloc returned, which lies where the kernel puts it: levels, sizes and attributes, by distance from the start.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzzvm.dump.errors import DumpError
from fuzzvm.dump.reader import Reader, Rows
from fuzzvm.kernel.pgtable import Geometry, Level
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.realkernel import plan as plans
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.guest import Guest
from fuzzvm.realkernel.places import ENTRY_SHIFT, Window
from fuzzvm.scenario.calls import (
    Areas,
    Call,
    CatKernelPageTables,
    Output,
    Vfree,
    Vmalloc,
    VmallocHuge,
    Vmap,
    VmUnmapAliases,
    Vunmap,
)
from fuzzvm.scenario.scenario import MAX_BOOT_PAGES, Scenario
from fuzzvm.scenario.system import System

BLOCKS = 4
"""PMD blocks of a window."""
AREA_BYTES = 128 << 20
"""The most that an area of vmalloc's may take: it is backed by the guest's memory. With 64K pages no block fits."""
MAX_CALLS = 10
MAX_AREAS = 3
SHOW_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Row:
    """A run of entries alike, `start` and `end` in bytes from where the range begins."""

    start: int
    end: int
    what: str

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x} {self.what}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One sequence: its calls, and the rows that differ, as `range: model / kernel`."""

    calls: tuple[Call, ...]
    rows: int
    differences: tuple[str, ...]

    def to_data(self) -> dict[str, object]:
        """Return it as plain data."""
        calls = [str(call) for call in self.calls]
        return {"calls": calls, "rows": self.rows, "differences": list(self.differences)}


@st.composite
def placed(draw: st.DrawFn, fanout: int) -> tuple[Call, ...]:
    """Return a strategy for sequences of vmap and vunmap that a kernel allows.

    Nothing is mapped over what is mapped, and what is unmapped is what one call had mapped, since a part of a block
    cannot be. Tables that an unmap leaves are what a later call may promote over.
    """
    calls: list[Call] = []
    mapped: list[tuple[int, int]] = []
    # what the calls of a scenario may name in all; some is left for a last one
    left = MAX_BOOT_PAGES
    for _ in range(draw(st.integers(1, MAX_CALLS))):
        if mapped and draw(st.integers(0, 2)) == 0:
            first, last = mapped[draw(st.integers(0, len(mapped) - 1))]
            if last - first < left:
                left -= last - first
                mapped.remove((first, last))
                calls.append(Vunmap(first, last - first))
            continue
        # often where blocks fit, for otherwise nothing would be promoted
        page = draw(st.integers(0, BLOCKS - 1)) * fanout + draw(st.sampled_from([0, 0, 0, 1, 16, fanout - 1]))
        pages = draw(st.one_of(st.sampled_from([fanout, 2 * fanout]), st.integers(1, 2 * fanout)))
        pages = min(pages, BLOCKS * fanout - page)
        if pages < left and all(page + pages <= first or page >= last for first, last in mapped):
            left -= pages
            mapped.append((page, page + pages))
            calls.append(Vmap(page, pages, draw(st.sampled_from(["pte", "pmd"])), draw(st.sampled_from(["rw", "ro"]))))
    # something must be there to be compared
    return tuple(calls) if mapped else (*calls, Vmap(0, min(BLOCKS * fanout, left), "pmd"))


@st.composite
def allocated(draw: st.DrawFn, fanout: int, most: int) -> tuple[Call, ...]:
    """Return a strategy for sequences of vmalloc, vmalloc_huge, vfree and vm_unmap_aliases, of `most` pages an area."""
    huge = [pages for pages in (1, fanout - 1, fanout, 2 * fanout, 3 * fanout) if pages <= most]
    calls: list[Call] = []
    areas: list[str] = []
    left = MAX_BOOT_PAGES
    for _ in range(draw(st.integers(1, MAX_CALLS))):
        kind = draw(
            st.sampled_from(["vmalloc", "vmalloc", "vmalloc_huge", "vmalloc_huge", "vfree", "vm_unmap_aliases"])
        )
        if kind == "vm_unmap_aliases":
            calls.append(VmUnmapAliases())
        elif kind == "vfree" and areas:
            calls.append(Vfree(areas.pop(draw(st.integers(0, len(areas) - 1)))))
        elif kind.startswith("vmalloc") and len(areas) < MAX_AREAS:
            name = next(name for name in "abcd" if name not in areas)
            small = st.one_of(st.integers(1, 40), st.integers(1, min(3 * fanout, most)))
            pages = draw(small if kind == "vmalloc" else st.sampled_from(huge))
            if pages < left:
                left -= pages
                areas.append(name)
                calls.append(Vmalloc(name, pages) if kind == "vmalloc" else VmallocHuge(name, pages))
    return tuple(calls) if areas else (*calls, VmallocHuge("a", min(huge[-1], left)))


def draw_sequences(number: int, seed_number: int, page_shift: int = 12) -> list[tuple[Call, ...]]:
    """Return that many sequences of both kinds, no two alike and none empty, the same for the same seed.

    They are not mixed: the model's vmalloc hands out the addresses that `vmap` names.
    """
    found: list[tuple[Call, ...]] = []
    fanout = 1 << page_shift - ENTRY_SHIFT

    @seed(seed_number)
    @settings(
        max_examples=20 * number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(placed(fanout), allocated(fanout, AREA_BYTES >> page_shift)))
    def collect(calls: tuple[Call, ...]) -> None:
        if calls and calls not in found and len(found) < number:
            found.append(calls)

    with _no_callbacks():
        collect()
    return found


@contextmanager
def _no_callbacks() -> Iterator[None]:
    """Keep the garbage collector from calling Hypothesis, which asks it to: a KeyboardInterrupt in there is lost."""
    was_enabled, before = gc.isenabled(), list(gc.callbacks)
    gc.disable()
    try:
        yield
    finally:
        gc.callbacks[:] = before
        if was_enabled:
            gc.enable()


def compare(
    kernel: BuiltKernel, number: int = 20, seed_number: int = 0, *, binary: str | None = None
) -> list[Comparison]:
    """Boot once, make every sequence in a window of its own, and return how each compares with the model.

    Raises RealKernelError where the guest does not do it.
    """
    drawn = draw_sequences(number, seed_number, kernel.page_shift)
    scenarios = [_scenario(kernel, calls) for calls in drawn]
    windows = _windows(kernel, [scenario.geometry() for scenario in scenarios])
    lines: list[str] = []
    slots: list[dict[str, int]] = []
    for at, (calls, window) in enumerate(zip(drawn, windows, strict=True)):
        slots.append({})
        end = window.start + BLOCKS * window.block(Level.PMD)
        lines.append(f"boot area {window.start:#x} {end - window.start:#x}")
        lines += [f"boot {plans.operations(call, window, slots[at])}" for call in calls]
        lines.append(f"show {at} {window.start:#x} {end:#x}")
        lines += [f"boot vfree {slot}" for slot in slots[at].values()]
        # with KASAN_VMALLOC, which arm64 turns on by itself, an area takes an eighth of its size until it is purged
        lines += ["boot release", "boot vm_unmap_aliases"]
    results = []
    with Guest(kernel, lines, 2, binary=binary) as guest:
        for at, (calls, window) in enumerate(zip(drawn, windows, strict=True)):
            shown = guest.shown(str(at), SHOW_SECONDS)
            model, areas = _model_text(scenarios[at])
            results.append(_compared(calls, window, shown, model, areas, slots[at]))
    return results


def _windows(kernel: BuiltKernel, geometries: Sequence[Geometry]) -> list[Window]:
    """Return a window for each sequence, with page tables of its own. Raises RealKernelError where they do not fit."""
    first = kernel.window()
    windows = []
    for at, geometry in enumerate(geometries):
        window = Window(geometry, first)
        above = window.path(Level.PMD)[:-1]
        # where the root is the table of the blocks, all share that one
        stride = window.block(above[-1]) if above else 2 * BLOCKS * window.block(Level.PMD)
        room = kernel.facts.room(kernel.page_shift, kernel.levels) // stride
        if len(geometries) > room:
            raise RealKernelError(f"with {kernel.page_size} pages and {kernel.levels} levels {room} sequences fit")
        windows.append(Window(geometry, first + at * stride))
    return windows


def _scenario(kernel: BuiltKernel, calls: tuple[Call, ...]) -> Scenario:
    return Scenario(
        kernel.arch,
        kernel.page_size,
        kernel.levels,
        1 << kernel.page_shift - ENTRY_SHIFT,
        calls,
        ((CatKernelPageTables(),),),
        cont_ptes=1,
    )


def _model_text(scenario: Scenario) -> tuple[str, Areas]:
    """Return what the model's kernel_page_tables says after the scenario's setup, and where its areas are."""
    system = System(scenario, NoMitigation, "sc")
    machine = system.booted()
    texts: list[str] = []

    def listening() -> Steps[None]:
        # what a read returned is an annotation, which the machine itself does not keep
        program = system.programs()[0]
        answer = None
        while True:
            try:
                asked = program.send(answer)
            except StopIteration:
                return
            if isinstance(asked, Output):
                texts.append(asked.text)
            answer = yield asked

    machine.boot(listening())
    return texts[0], system.areas


def _compared(
    calls: tuple[Call, ...], window: Window, shown: Sequence[str], model: str, areas: Areas, slots: dict[str, int]
) -> Comparison:
    real = "\n".join(line for line in shown if not line.startswith("slot ")) + "\n"
    places = {int(number): int(start, 16) for _, number, start, _ in map(str.split, filter(_is_slot, shown))}
    sizes = {call.area: call.nr_pages for call in calls if isinstance(call, Vmalloc | VmallocHuge)}
    page, size = window.geometry.size(Level.PTE), BLOCKS * window.block(Level.PMD)
    ranges = [] if areas else [("window", window.geometry.base, window.start, size)]
    for name, start in areas:
        if slots[name] not in places:
            raise RealKernelError(f"the kernel has no area for {name!r}")
        ranges.append((f"area {name}", start, places[slots[name]], sizes[name] * page))
    of_model, of_kernel = rows(model), rows(real)
    differences: list[str] = []
    compared = 0
    for name, model_start, real_start, size in ranges:
        ours, theirs = clip(of_model, model_start, size), clip(of_kernel, real_start, size)
        compared += len(theirs)
        if ours != theirs:
            only = [f"model {row}" for row in ours if row not in theirs]
            differences.append(f"{name}: {'; '.join(only + [f'kernel {row}' for row in theirs if row not in ours])}")
    return Comparison(calls, compared, tuple(differences))


def _is_slot(line: str) -> bool:
    return line.startswith("slot ")


def rows(text: str) -> list[Row]:
    """Return the rows of a dump's text. Raises RealKernelError where it is none."""
    # the reader takes a path; a file without a name stays behind in no case
    with os.fdopen(os.memfd_create("dump"), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        try:
            return list(_read(f"/proc/self/fd/{file.fileno()}"))
        except DumpError as error:
            raise RealKernelError(f"what the kernel prints is no dump: {error}") from error


def _read(path: str) -> Iterator[Row]:
    reader = Reader(path)
    for event in reader.events():
        if isinstance(event, Rows):
            for start, end, tail in zip(event.starts, event.ends, event.tails, strict=True):
                entry = reader.entry_of[tail]
                yield Row(start, end, " ".join([entry.level.name, entry.kind.value, *entry.attributes]))
    if reader.reading.skipped:
        raise RealKernelError(f"rows of the dump came damaged: {reader.reading.cautions[0].message}")


def clip(all_rows: Sequence[Row], start: int, size: int) -> list[Row]:
    """Return the rows of a range, relative to its start, rows that are alike and follow each other as one."""
    clipped: list[Row] = []
    for row in all_rows:
        first, last = max(row.start, start) - start, min(row.end, start + size) - start
        if first >= last:
            continue
        if clipped and clipped[-1].end == first and clipped[-1].what == row.what:
            clipped[-1] = Row(clipped[-1].start, last, row.what)
        else:
            clipped.append(Row(first, last, row.what))
    return clipped
