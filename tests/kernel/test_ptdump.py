"""fuzzvm.kernel.ptdump: locks and hooks of a walk, the text and the verdict that it yields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.rwsem import rwsem_state
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_ROX, Level, pxd_table
from fuzzvm.kernel.ptdump import ptdump_check_wx, ptdump_walk
from fuzzvm.kernel.ptdump_notes import WalkBegins, WalkEnds
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Annotation, Load, Rmw, Steps, Store
from tests.support import boot, operations, run


def map_page(machine: Machine, kernel: Kernel, page: int, prot: int) -> None:
    addr = kernel.geometry.base + (page << 12)
    machine.boot(vmap_range(kernel, addr, addr + 0x1000, page << 12, prot, 12))


class Hooked(Annotation):
    def __init__(self, name: str) -> None:
        self.name = name


class Hooks(Mitigation):
    def before_walk(self, k: Kernel, mm: Mm) -> Steps[Any]:
        yield Hooked("before_walk")
        return ("token", mm.name)

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        assert token == ("token", mm.name)
        yield Hooked("walk_locked")

    def before_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[Any]:
        assert token == ("token", mm.name)
        yield Hooked("before_attempt")
        return "attempt"

    def after_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[bool]:
        assert token == "attempt"
        yield Hooked("after_attempt")
        return False

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        assert token == ("token", mm.name)
        yield Hooked("walk_unlocking")

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        assert token == ("token", mm.name)
        yield Hooked("after_walk")


@pytest.mark.parametrize("function", ["walk", "check_wx"])
def test_hooks_stand_around_the_lock_and_the_reads(function: str) -> None:
    machine, kernel = boot("arm64", 3, 2, Hooks, cpus=1, tracing=True)
    map_page(machine, kernel, 0, PAGE_KERNEL)
    order: list[str] = []
    oracles = machine.observer
    assert oracles is not None

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(oracles, name)

        def annotated(self, cpu: int, annotation: Annotation) -> None:
            held = rwsem_state(machine.memory.peek(kernel.init_mm.mmap_lock.address)).writer == 0
            hotplug = rwsem_state(machine.memory.peek(kernel.mem_hotplug_lock.address)).readers == (0,)
            reads = sum(isinstance(op, Load) for op in operations(machine))
            if isinstance(annotation, Hooked | WalkBegins | WalkEnds):
                name = annotation.name if isinstance(annotation, Hooked) else type(annotation).__name__
                order.append(f"{name} mmap_lock={held:d} mems={hotplug:d} read={reads > 0:d}")
            assert oracles is not None
            oracles.annotated(cpu, annotation)

    machine.observer = Recorder()
    program: Steps[object] = ptdump_walk(kernel, kernel.init_mm) if function == "walk" else ptdump_check_wx(kernel)
    assert run(machine, program) is None
    assert order == [
        "before_walk mmap_lock=0 mems=0 read=0",
        "walk_locked mmap_lock=1 mems=1 read=0",
        "before_attempt mmap_lock=1 mems=1 read=0",
        "WalkBegins mmap_lock=1 mems=1 read=0",
        "after_attempt mmap_lock=1 mems=1 read=1",
        "WalkEnds mmap_lock=1 mems=1 read=1",
        "walk_unlocking mmap_lock=1 mems=1 read=1",
        "after_walk mmap_lock=0 mems=0 read=1",
    ]
    ops = operations(machine)
    assert [isinstance(op, Rmw) for op in ops[:2] + ops[-2:]] == [True] * 4
    locks = [kernel.mem_hotplug_lock.address, kernel.init_mm.mmap_lock.address]
    assert [op.address for op in ops if isinstance(op, Rmw)] == [*locks, *reversed(locks)]


class Repeats(Mitigation):
    """Drops the first two attempts of each walk; what is mapped changes between the second and the third."""

    def attach(self, boot: Boot) -> None:
        self.attempts = boot.list_head("attempts")

    def before_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[int]:
        number = yield Load(self.attempts)
        yield Store(self.attempts, number + 1)
        if number == 2:
            base = k.geometry.base
            yield from vunmap_range(k, base, base + 0x1000)
            yield from vmap_range(k, base + 0x1000, base + 0x2000, 0x1000, PAGE_KERNEL_EXEC, 12)
        return int(number)

    def after_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[bool]:
        yield from ()
        return bool(token < 2)


def test_a_walk_that_is_repeated_is_the_last_attempt_alone() -> None:
    machine, kernel = boot("arm64", 3, 2, Repeats, cpus=1, tracing=True)
    map_page(machine, kernel, 0, PAGE_KERNEL)
    texts: list[str] = []

    def program() -> Steps[None]:
        text = yield from ptdump_walk(kernel, kernel.init_mm)
        texts.append(text)
        text = yield from ptdump_walk(kernel, kernel.init_mm)
        texts.append(text)

    assert run(machine, program()) is None
    assert texts[0] == texts[1] and " x " in texts[0]
    notes = [note for step in machine.trace or () for note in step.annotations]
    assert [sum(isinstance(note, kind) for note in notes) for kind in (WalkBegins, WalkEnds)] == [4, 2]


class Descends(Mitigation):
    """Says which tables a walk descends into and comes out of; refuses each entry the first time."""

    refusing = False

    def attach(self, boot: Boot) -> None:
        self.refused = boot.list_head("refused")

    def before_descend(self, k: Kernel, level: Level, pxdp: int, pxd: int) -> Steps[bool]:
        refused = yield Load(self.refused)
        if self.refusing and (level, pxd) not in (refused or ()):
            yield Store(self.refused, (*(refused or ()), (level, pxd)))
            yield Hooked(f"refuse {level.name}")
            return False
        value = yield Load(pxdp)
        assert value == pxd and pxd_table(pxd)
        yield Hooked(f"into {level.name}")
        return True

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        yield Hooked(f"out of {level.name}")


class Refuses(Descends):
    refusing = True


@pytest.mark.parametrize("rereads", [False, True])
@pytest.mark.parametrize("levels", [3, 5])
@pytest.mark.parametrize("scheme", [Descends, Refuses])
def test_a_walk_descends_into_what_the_hook_agrees_to(scheme: type[Mitigation], levels: int, rereads: bool) -> None:
    machine, kernel = boot("x86_64" if levels == 5 else "arm64", levels, 2, scheme, cpus=1, tracing=True)
    map_page(machine, kernel, 0, PAGE_KERNEL)
    kernel = replace(kernel, walk_rereads=rereads)
    text = machine.boot(ptdump_walk(kernel, kernel.init_mm))
    assert " RW " in text
    machine.memory.store(0, Store(getattr(kernel.mitigation, "refused"), 0), lambda ways: 0)  # noqa: B009
    assert run(machine, ptdump_walk(kernel, kernel.init_mm)) is None
    said = [note.name for step in machine.trace or () for note in step.annotations if isinstance(note, Hooked)]
    inner = [level.name for level in (Level.PGD, Level.P4D, Level.PUD, Level.PMD) if not kernel.geometry.folded(level)]
    into = [word for name in inner for word in ([f"refuse {name}"] * (scheme is Refuses) + [f"into {name}"])]
    assert said == [*into, *[f"out of {name}" for name in reversed(inner)]]


@pytest.mark.parametrize(
    ("prots", "passes"),
    [
        ([], True),
        ([PAGE_KERNEL, PAGE_KERNEL_ROX], True),
        ([PAGE_KERNEL_EXEC], False),
        ([PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL], False),
    ],
)
@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_check_wx(prots: list[int], passes: bool, arch: str) -> None:
    machine, kernel = boot(arch, 4, 4)
    for page, prot in enumerate(prots):
        map_page(machine, kernel, page, prot)
    assert machine.boot(ptdump_check_wx(kernel)) is passes


def test_the_text_of_an_empty_kernel() -> None:
    machine, kernel = boot("arm64", 3, 2)
    text = machine.boot(ptdump_walk(kernel, kernel.init_mm))
    assert text == (
        "---[ vmalloc() area ]---\n0xffff800000000000-0xffff800000008000          32K PGD\n---[ vmalloc() end ]---\n"
    )


def test_the_text_of_blocks_and_pages() -> None:
    machine, kernel = boot("x86_64", 4, 2)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x3000, 0, PAGE_KERNEL, 64))
    assert machine.boot(ptdump_walk(kernel, kernel.init_mm)) == (
        "---[ vmalloc() Area ]---\n"
        "0xffffc90000000000-0xffffc90000002000           8K     RW         PSE     GLB NX pmd\n"
        "0xffffc90000002000-0xffffc90000003000           4K     RW                 GLB NX pte\n"
        "0xffffc90000003000-0xffffc90000004000           4K                               pte\n"
        "0xffffc90000004000-0xffffc90000008000          16K                               pud\n"
        "0xffffc90000008000-0xffffc90000010000          32K                               pgd\n"
        "---[ Vmemmap ]---\n"
    )
