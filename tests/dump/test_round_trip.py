"""What the model prints as kernel_page_tables reads back as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fuzzvm.dump import summarise
from fuzzvm.dump.entry import Entry, Kind
from fuzzvm.dump.reader import Reader, Rows
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PROT_DEVICE,
    PROT_EXEC,
    PROT_WRITE,
    Geometry,
    Level,
    mk_leaf,
    pxd_pgprot,
)
from fuzzvm.kernel.ptdump import ptdump_check_wx, ptdump_walk, ptdump_walk_pgd
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations.registry import shipped as mitigations
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Output
from fuzzvm.scenario.system import System
from tests.support import Seeded, boot

Row = tuple[int, int, Entry]
PROTECTIONS = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PAGE_KERNEL_EXEC, PAGE_KERNEL | PROT_DEVICE]


def read(folder: Path, text: str) -> list[Row]:
    """Return the rows of a text, of which every line must be a row or a marker."""
    path = folder / "kernel_page_tables"
    path.write_text(text)
    reader = Reader(str(path))
    rows: list[Row] = []
    for event in reader.events():
        if isinstance(event, Rows):
            rows += [(start, end, reader.entry_of[tail]) for start, end, tail in zip(*event, strict=True)]
    assert not reader.reading.cautions
    assert (reader.reading.skipped, reader.reading.others, reader.reading.gaps) == (0, 0, 0)
    return rows


def check(printed: list[DumpRow], rows: list[Row]) -> None:
    """Check that rows say what was to be printed."""
    assert [(start, end) for start, end, _ in rows] == [(row.start, row.end) for row in printed]
    for row, (_, _, entry) in zip(printed, rows, strict=True):
        assert entry.level.name == row.level.name
        assert entry.kind.mapped == bool(row.entry)
        if row.entry:
            prot = pxd_pgprot(row.entry)
            assert entry.kind.block == (row.level < Level.PTE)
            assert (entry.writable, entry.executable) == (bool(prot & PROT_WRITE), bool(prot & PROT_EXEC))
            assert entry.device == bool(prot & PROT_DEVICE)
        else:
            assert entry.kind is Kind.HOLE


@st.composite
def dump_rows(draw: st.DrawFn) -> tuple[str, list[DumpRow]]:
    """Draw rows that follow each other up to any place, the end of the address space among them."""
    name = draw(st.sampled_from(architectures.names()))
    arch = architectures.get(name)
    levels = draw(st.sampled_from(arch.levels))
    geometry = Geometry.make(12, levels, draw(st.sampled_from([2, 4, 8, 512])), arch.vmalloc_start)
    at, rows = arch.vmalloc_start, []
    for _ in range(draw(st.integers(1, 12))):
        level = draw(st.sampled_from([level for level in Level if not geometry.folded(level)]))
        if level == Level.PGD and geometry.size(level) > 1 << 40:
            continue
        end = min(at + geometry.size(level) * draw(st.integers(1, 40)), 1 << 64)
        # only an entry that lies within a row can be there
        entry = draw(st.sampled_from([0, *(mk_leaf(1, prot) for prot in PROTECTIONS)]))
        if level == Level.PGD:
            entry = 0
        rows.append(DumpRow(at, end, level, entry))
        at = end
    if at < 1 << 64 and draw(st.booleans()):
        rows.append(DumpRow(at, 1 << 64, Level.PGD, 0))
    assume(rows)
    return name, rows


@settings(deadline=None)
@given(dump_rows())
def test_rows_of_any_kind(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, list[DumpRow]]) -> None:
    name, rows = drawn
    text = architectures.get(name).format_dump(rows)
    folder = tmp_path_factory.mktemp("dump")
    check(rows, read(folder, text))
    summary = summarise(str(folder / "kernel_page_tables"))
    assert summary.layout.architecture == name
    assert summary.vmalloc is not None
    assert summary.vmalloc.mapped == sum(row.end - row.start for row in rows if row.entry)
    blocks = sum(row.end - row.start for row in rows if row.entry and row.level < Level.PTE)
    assert summary.vmalloc.block_share == (blocks / summary.vmalloc.mapped if summary.vmalloc.mapped else None)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([("arm64", 3), ("arm64", 4), ("x86_64", 4)]),
    st.sampled_from([2, 4]),
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 3), st.sampled_from(PROTECTIONS[:4]), st.booleans()), max_size=4
    ),
)
def test_a_walk_of_real_tables(
    tmp_path_factory: pytest.TempPathFactory,
    machine_kind: tuple[str, int],
    fanout: int,
    areas: list[tuple[int, int, int, bool]],
) -> None:
    arch, levels = machine_kind
    machine, kernel = boot(arch, levels, fanout)
    at = kernel.geometry.base
    for pages, gap, prot, huge in areas:
        end = at + (pages << 12)
        if end > kernel.geometry.end:
            break
        machine.boot(vmap_range(kernel, at, end, at - kernel.geometry.base, prot, 64 if huge else 12))
        at = end + (gap << 12)
    printed = machine.boot(ptdump_walk_pgd(kernel, kernel.init_mm))
    text = machine.boot(ptdump_walk(kernel, kernel.init_mm))
    folder = tmp_path_factory.mktemp("dump")
    rows = read(folder, text)
    check(list(printed), rows)
    passed = machine.boot(ptdump_check_wx(kernel))
    assert passed == (not any(entry.wx for _, _, entry in rows))
    assert passed == (not summarise(str(folder / "kernel_page_tables")).wx)


@pytest.mark.parametrize("name", shipped.shipped())
def test_every_dump_that_a_scenario_prints(tmp_path: Path, name: str) -> None:
    system = System(shipped.get(name), mitigations()["static-key"], "sc")
    printed = 0
    for seed in range(5):
        machine = system.machine(tracing=True)
        assert execute(machine, Seeded(seed)).failure is None
        for step in machine.trace or ():
            for note in step.annotations:
                if isinstance(note, Output) and note.file == "kernel_page_tables":
                    assert read(tmp_path, note.text)
                    printed += 1
    if any(call.name == "cat_kernel_page_tables" for cpu in shipped.get(name).cpus for call in cpu):
        assert printed
