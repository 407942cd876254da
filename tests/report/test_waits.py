"""The cycle of a deadlock, told lock by lock; and what threads of the kernel's own are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import verify
from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import mutex_lock
from fuzzvm.kernel.locking.rcu import Rcu, rcu_read_unlock
from fuzzvm.kernel.locking.srcu import SrcuStruct, init_srcu_struct, srcu_read_lock, synchronize_srcu
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.kernel.rcu_callbacks import call_rcu
from fuzzvm.machine.errors import DEADLOCK
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations.rcu_free import RcuFree
from fuzzvm.mitigations.registry import get
from fuzzvm.report.story import Story, tell
from fuzzvm.report.text import render
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


def shortest(scenario: str, mitigation: type[Mitigation]) -> Story:
    """Return the story of the shortest run that fails."""
    found = shipped.get(scenario)
    verdict = verify(System(found, mitigation, "sc"))
    assert verdict.failure is not None and verdict.schedule is not None
    expect = Expectation("bug", verdict.failure.error, verdict.failure.function)
    return tell(TestCase(found, mitigation.name, "sc", verdict.schedule, expect), mitigation)


def test_a_waiting_writer_stands_between_the_two_read_locks() -> None:
    story = shortest("pmd-promotion", get("vmap-trylock+static-key"))
    assert story.failure is not None and story.failure.error == DEADLOCK
    reader, writer = story.cycle
    assert reader.text == (
        "CPU 0 waits for init_mm.mmap_lock: it is queued to read, behind CPU 1, which waits to write"
    )
    assert writer.text == (
        f"CPU 1 waits for init_mm.mmap_lock: it is queued to write, and CPU 0 holds it for reading "
        f"since step {writer.since}"
    )
    assert story.steps[writer.since - 1].stack[0] == "down_read_trylock"
    assert reader.stack[:2] == ("down_read", "mmap_read_lock") and "ptdump_walk_pgd" in writer.stack
    guilty = [step.number for step in story.steps if step.guilty]
    assert len(guilty) == 3 and guilty[0] == writer.since and guilty[-1] == len(story.steps)
    lines = render(story, "fuzzvm replay FILE").splitlines()
    assert f"{reader.text}:" in lines and f"{writer.text}:" in lines
    assert not any(line.startswith("At step") for line in lines)


class WaitsInASection(Mitigation):
    """The walk waits for a lock within a section, whose holder waits for a grace period."""

    name = "waits-in-a-section"
    srcu: SrcuStruct

    def attach(self, boot: Boot) -> None:
        self.srcu = init_srcu_struct(boot, "scheme_srcu")
        self.lock = boot.lock("scheme_mutex")

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.lock)

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from synchronize_srcu(k.cpu, self.srcu)

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from srcu_read_lock(k.cpu, self.srcu)
        yield from mutex_lock(k.cpu, self.lock)


def test_a_grace_period_and_a_mutex_in_a_cycle() -> None:
    story = shortest("pmd-promotion", WaitsInASection)
    assert story.failure is not None and story.failure.error == DEADLOCK
    texts = {wait.text.split(" since ")[0] for wait in story.cycle}
    assert texts == {
        "CPU 0 waits for scheme_srcu: a grace period that a read-side section of CPU 1 holds up",
        "CPU 1 waits for scheme_mutex: CPU 0 holds it",
    }
    assert all(wait.since for wait in story.cycle)


class NoGracePeriod(RcuFree):
    """The callback is not waited for by anybody: the walk is no section."""

    name = "no-grace-period"

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


@pytest.mark.parametrize(
    ("mitigation", "lane"), [(get("deferred-free"), "kworker"), (NoGracePeriod, "softirq")], ids=["kworker", "softirq"]
)
def test_a_thread_of_the_kernels_own_has_a_lane_by_its_name(mitigation: type[Mitigation], lane: str) -> None:
    story = shortest("pmd-promotion", mitigation)
    assert story.cpu_names == ("CPU 0", "CPU 1", lane)
    text = render(story, "fuzzvm replay FILE")
    header = next(line for line in text.splitlines() if line.startswith("step "))
    assert header.split() == ["step", "CPU", "0", "CPU", "1", lane]
    assert f"by {lane}:" in text
    # the one place with its number is the one that says how schedules name it
    assert text.count("CPU 2") == 1 and f"  {lane}: CPU 2 of the schedule" in text


@dataclass(frozen=True, slots=True)
class Unlocks:
    """A callback that leaves a section which is not its own."""

    rcu: Rcu

    def run(self, k: Kernel) -> Steps[None]:
        yield from rcu_read_unlock(k.cpu, self.rcu)


class UnlocksInCallback(RcuFree):
    name = "unlocks-in-callback"

    def free_table(self, k: Kernel, table: int, level: Level) -> Steps[None]:
        yield from call_rcu(k, self._callbacks, Unlocks(self._rcu))


def test_messages_of_lower_layers_have_the_name_as_well() -> None:
    story = shortest("pmd-promotion", UnlocksInCallback)
    assert story.failure is not None and story.failure.error == UNLOCK_WITHOUT_LOCK
    assert story.failure.message == "softirq leaves a read-side section of RCU that it is not in"
    assert story.cycle == ()
