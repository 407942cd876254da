"""The comparison of dumps: what is compared, and that a difference is found."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel import compare
from fuzzvm.realkernel.arch import ARCHES
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.compare import Row, clip, rows
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.places import Window
from fuzzvm.scenario.calls import Call, Vmalloc, VmallocHuge, Vmap, Vunmap

SHIFT = {"x86_64": -0x700_0000_0000, "arm64": -0x40_0000_0000}
"""How far from the model's addresses the made-up kernel's are."""


def kernel(arch: str, page_size: str = "4K") -> BuiltKernel:
    return BuiltKernel(Path(), arch, page_size, ARCHES[arch].levels[page_size][0], "6.12.0", (), (), (), "", 0.0)


def moved(text: str, by: int) -> list[str]:
    """Return a dump's rows, moved: what a kernel whose areas lie elsewhere prints."""
    lines = []
    for line in text.splitlines():
        if line.startswith("0x"):
            (start, end), rest = line[:37].split("-"), line[37:]
            lines.append(f"{int(start, 16) + by:#018x}-{(int(end, 16) or 1 << 64) + by:#018x}{rest}")
    return lines


def compared(arch: str, calls: tuple[Call, ...], change: tuple[str, str] = ("", "")) -> compare.Comparison:
    """Compare the model's dump with itself, elsewhere and with one word changed in each row."""
    built = kernel(arch)
    scenario = compare._scenario(built, calls)
    text, areas = compare._model_text(scenario)
    by = SHIFT[arch]
    window = Window(scenario.geometry(), scenario.geometry().base + by)
    slots = {name: number for number, (name, _) in enumerate(areas)}
    shown = [f"slot {slots[name]} {start + by:x} 1000" for name, start in areas]
    shown += [line.replace(*change) if change[0] else line for line in moved(text, by)]
    return compare._compared(calls, window, shown, text, areas, slots)


PLACED = (Vmap(0, 1024, "pmd"), Vunmap(0, 1024), Vmap(16, 40, "pte", "ro"), Vmap(512, 512, "pmd"))
ALLOCATED = (Vmalloc("a", 20), VmallocHuge("b", 1024), Vmalloc("c", 1))


@pytest.mark.parametrize("arch", list(ARCHES))
@pytest.mark.parametrize("calls", [PLACED, ALLOCATED], ids=["placed", "allocated"])
def test_the_same_dump_elsewhere_is_the_same(arch: str, calls: tuple[Call, ...]) -> None:
    found = compared(arch, calls)
    assert found.rows >= 3 and not found.differences


@pytest.mark.parametrize(
    ("arch", "change"),
    [
        ("x86_64", ("GLB", "   ")),
        ("x86_64", (" pte", " pmd")),
        ("x86_64", (" RW ", " ro ")),
        ("arm64", (" RW ", " ro ")),
        ("arm64", ("NX SHD", "x  SHD")),
    ],
)
def test_one_word_less_is_a_difference(arch: str, change: tuple[str, str]) -> None:
    assert any(compared(arch, calls, change).differences for calls in (PLACED, ALLOCATED))


def test_rows_are_cut_and_joined() -> None:
    cut = clip([Row(0, 0x3000, "a"), Row(0x3000, 0x5000, "a"), Row(0x5000, 0x9000, "b")], 0x1000, 0x5000)
    assert cut == [Row(0, 0x4000, "a"), Row(0x4000, 0x5000, "b")]
    assert clip(cut, 0x8000, 0x1000) == []


def test_no_dump_is_an_error() -> None:
    with pytest.raises(RealKernelError, match="no dump"):
        rows("hello\n")


def test_sequences_are_the_same_for_the_same_seed_and_the_model_allows_them() -> None:
    drawn = compare.draw_sequences(6, 3)
    assert drawn == compare.draw_sequences(6, 3) != compare.draw_sequences(6, 4)
    assert len(set(drawn)) == 6
    for calls in drawn:
        text, _ = compare._model_text(compare._scenario(kernel("arm64"), calls))
        # arm64 prints mapped ranges with their attributes: never is nothing compared
        assert "MEM/NORMAL" in text


def test_nothing_is_collected_while_sequences_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis has the garbage collector call a function, and a Ctrl-C that comes in there is lost."""
    enabled: list[bool] = []
    callbacks, placed = list(gc.callbacks), compare.placed

    @st.composite
    def noted(draw: st.DrawFn, fanout: int) -> tuple[Call, ...]:
        enabled.append(gc.isenabled())
        return draw(placed(fanout))

    monkeypatch.setattr(compare, "placed", noted)
    compare.draw_sequences(10, 7)
    assert enabled and not any(enabled)
    assert gc.isenabled() and gc.callbacks == callbacks


@pytest.mark.product
@pytest.mark.parametrize("page_size", ["16K", "64K"])
def test_larger_pages_have_sequences_too(page_size: str) -> None:
    built = kernel("arm64", page_size)
    drawn = compare.draw_sequences(30, 1, built.page_shift)
    assert len(drawn) == 30
    scenarios = [compare._scenario(built, calls) for calls in drawn]
    block = scenarios[0].geometry().ptrs[Level.PTE]
    # blocks are among them, and tables that an unmap left below where one goes
    assert any(call.nr_pages >= block for calls in drawn for call in calls if isinstance(call, Vmap))
    assert any(isinstance(call, Vunmap) for calls in drawn for call in calls)
    windows = compare._windows(built, [scenario.geometry() for scenario in scenarios])
    ends = [window.start + compare.BLOCKS * window.block(Level.PMD) for window in windows]
    assert all(end <= after.start for end, after in zip(ends, windows[1:], strict=False))


def test_more_sequences_than_windows() -> None:
    built = BuiltKernel(Path(), "arm64", "64K", 3, "6.12.0", (), (), (), "", 0.0)
    geometries = [compare._scenario(built, (Vmap(0, 1, "pte"),)).geometry()] * 40
    with pytest.raises(RealKernelError, match="14 sequences fit"):
        compare._windows(built, geometries)
