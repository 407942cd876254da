"""fuzzvm.kernel.kernel: what is there after boot."""

from __future__ import annotations

import pytest

from fuzzvm.kernel.jump_label import StaticKey
from fuzzvm.kernel.kernel import Boot
from fuzzvm.kernel.pgtable import Level, TableLabel
from fuzzvm.mitigations.none import NoMitigation
from tests.support import boot


@pytest.mark.parametrize(("arch", "levels", "fanout"), [("arm64", 3, 2), ("arm64", 4, 512), ("x86_64", 4, 512)])
def test_an_empty_root_and_unlocked_locks(arch: str, levels: int, fanout: int) -> None:
    machine, kernel = boot(arch, levels, fanout)
    tables = [a for a in machine.allocator.allocations if isinstance(a.label, TableLabel)]
    assert [(a.address, a.size) for a in tables] == [(kernel.init_mm.pgd, fanout)]
    label = tables[0].label
    assert isinstance(label, TableLabel)
    assert label.level is Level.PGD
    assert label.va <= kernel.geometry.base < kernel.geometry.end <= 1 << 64
    words = [a for a in machine.allocator.allocations if a not in tables]
    assert all(machine.memory.peek(word.address) == 0 for word in words)
    assert len({str(word.label) for word in words}) == len(words)


def test_a_mitigation_sets_up_its_own_words() -> None:
    class Attaches(NoMitigation):
        key: StaticKey

        def attach(self, boot: Boot) -> None:
            self.key = boot.static_key("key", ("here", "there"))
            self.lock = boot.lock("lock")
            self.sem = boot.rwsem("sem")

    machine, kernel = boot(mitigation=Attaches)
    assert [key.name for key in kernel.static_keys] == ["key"]
    labels = [str(a.label) for a in machine.allocator.allocations]
    assert {"key", "key in here", "key in there", "lock", "sem"} <= set(labels)


def test_each_cpu_has_its_view_of_one_kernel() -> None:
    _, kernel = boot()
    views = [kernel.on(cpu) for cpu in range(3)]
    assert [view.cpu for view in views] == [0, 1, 2]
    assert all(view.init_mm is kernel.init_mm and view.mitigation is kernel.mitigation for view in views)
    assert views[0] != kernel, "compares by identity"
    assert kernel.cpu == 0
