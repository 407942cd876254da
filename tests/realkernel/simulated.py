"""A guest that is made up: CPUs that execute short programs, under the calls that fuzzvm.realkernel.gdb.Gdb has.

Each instruction has an address. CPUs at the module's loop spin; a resumed CPU executes until one comes to a breakpoint
or a watched address. What stands in for KASAN looks at whether the table was freed when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel.arch import Arch
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.gdb import Stop, Watch
from fuzzvm.realkernel.plan import Plan
from fuzzvm.realkernel.symbols import Symbols

GATE = 0xFFFF_FFFF_A000_0000
STACK = 0xFFFF_FFFF_B000_0000
TEXT = 0xFFFF_FFFF_8100_0000
NAMES = (
    "walk_pgd_range",
    "ptdump_pte_entry",
    "vmap_range_noflush",
    "pmd_free_pte_page",
    "down_read_trylock",
    "set_swapper_pgd",
    "vmalloc_to_page",
    "vread_iter",
    "percpu_rwsem_wait",
)
AT = {name: TEXT + 0x1000 * number for number, name in enumerate(NAMES)}
ROOT = TEXT + 0x100000
HOTPLUG_LOCK = TEXT + 0x300000
PUD, PMD, PTE = 0x5000, 0x6000, 0x7000
LINEAR = 0xFFFF_8880_0000_0000
SHADOW_OFFSET = 0xDFFF_FC00_0000_0000
SHADOW = (LINEAR + PTE >> 3) + SHADOW_OFFSET
COUNTS = 0xFFFF_FFFF_C000_0000
"""The module's array of where each CPU's preemption is counted: further words behind it."""
COUNT = 2
"""What is counted while nobody is parked."""
LAST = SHADOW + 512 - 8
"""The shadow of the PTE table, and its last word."""


@dataclass(frozen=True)
class Do:
    """An instruction: what it does, to which address; at a function's entry, argument, return address and result.

    `poison` and `unpoison` write all of the PTE table's shadow up to an address, or one word of it with `only`.
    """

    pc: int
    what: str = "nop"
    address: int = 0
    back: int = 0
    result: int = 1
    argument: int = TEXT + 0x200000
    only: bool = False


@dataclass
class Simulated:
    """The guest and its debugger in one."""

    arch: Arch
    programs: list[list[Do]]
    words: dict[int, int]
    stops_before: bool = False
    idle_steps: int = 0
    """Of so many steps, one that is reported and not made; 0 for none."""
    steps: int = 0
    at: dict[int, int] = field(default_factory=dict)
    pcs: dict[int, int] = field(default_factory=dict)
    breakpoints: set[int] = field(default_factory=set)
    watched: set[tuple[int, Watch]] = field(default_factory=set)
    running: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    shadow: bytearray = field(default_factory=lambda: bytearray(512))
    stale: bool = False
    reported: str = "ptdump_pte_entry"
    reported_at: int = 0
    """How many bytes behind the first entry of the table the access is, by the report."""
    """The function that what stands in for KASAN names."""
    waits_since_report: int = 0
    prints_late: bool = False
    """A report is printed only some time after it was made."""
    report_lines: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    """By CPU, how often preemption is disabled."""
    preempted: list[int] = field(default_factory=list)
    """CPUs that were at the loop without their count being raised, since it has been raised at all."""
    counted: bool = False

    def __post_init__(self) -> None:
        self.at = dict.fromkeys(range(len(self.programs)), 0)
        self.order = list(self.at)
        self.counts = dict.fromkeys(self.at, COUNT)
        # all have come to their first call
        self.pcs = dict.fromkeys(self.at, self.loop)

    @property
    def loop(self) -> int:
        return GATE + self.arch.nop

    def registers(self, cpu: int, number: int) -> int:
        if number == self.arch.pc:
            return self.pcs[cpu]
        if number == self.arch.sp:
            return STACK + 8 * cpu
        if number == self.arch.flags:
            return 0x200
        if number == self.arch.arguments[0]:
            return self.programs[cpu][self.at[cpu]].argument
        if number == self.arch.result:
            return self.programs[cpu][self.at[cpu] - 1].result
        return 0

    def set_register(self, cpu: int, number: int, value: int) -> None:
        assert number == self.arch.pc
        if value == self.loop and self.pcs[cpu] == GATE:
            # past the gate, where it would have come by itself
            self.at[cpu] += 1
        self.pcs[cpu] = value
        if value == self.loop + self.arch.loop:
            self._goto(cpu)

    def memory(self, cpu: int, address: int, length: int) -> bytes:
        if SHADOW <= address < SHADOW + 512:
            return bytes(self.shadow[address - SHADOW : address - SHADOW + length])
        if COUNTS <= address < COUNTS + 64:
            return (address + 64).to_bytes(length, "little")
        if COUNTS + 64 <= address < COUNTS + 128:
            return self.counts[(address - COUNTS - 64) // 8].to_bytes(length, "little")
        return self.programs[cpu][self.at[cpu]].back.to_bytes(length, "little")

    def set_memory(self, cpu: int, address: int, data: bytes) -> None:
        assert cpu == (address - COUNTS - 64) // 8
        self.counts[cpu] = int.from_bytes(data, "little")
        self.counted = True

    def physical(self, address: int) -> int:
        return self.words.get(address, 0)

    def set_breakpoint(self, address: int) -> None:
        self.breakpoints.add(address)

    def clear_breakpoint(self, address: int) -> None:
        self.breakpoints.remove(address)

    def set_watch(self, address: int, kind: Watch) -> None:
        self.watched.add((address, kind))

    def clear_watch(self, address: int, kind: Watch) -> None:
        self.watched.remove((address, kind))

    def resume(self, cpus: Iterable[int] | None = None) -> None:
        self.running = [cpu for cpu in self.order if cpus is None or cpu in set(cpus)]

    def interrupt(self) -> Stop:
        return Stop(0, 2)

    def step(self, cpu: int) -> None:
        self.steps += 1
        if not self.idle_steps or self.steps % self.idle_steps:
            self._execute(cpu)

    def printed(self) -> list[str]:
        """Return the report; where it is printed late, not before the guest has run once more after it was made."""
        return [] if self.prints_late and not self.waits_since_report else self.report_lines

    def wait(self, seconds: float) -> Stop | None:
        self.waits_since_report += bool(self.report_lines)
        parked = [cpu for cpu in self.at if self.pcs[cpu] == self.loop and self.counted]
        self.preempted += [cpu for cpu in parked if self.counts[cpu] != COUNT + 1]
        for _ in range(1000):
            for cpu in list(self.running):
                # whoever stopped last comes last, so that none is kept from running
                self.order.append(self.order.pop(self.order.index(cpu)))
                if self.pcs[cpu] in self.breakpoints:
                    return Stop(cpu, 5)
                hit = self._watched_by(cpu)
                if hit is not None and self.stops_before:
                    return hit
                self._execute(cpu)
                if hit is not None:
                    return hit
        return None

    def _goto(self, cpu: int) -> None:
        """Go to the program's next instruction."""
        self.pcs[cpu] = self.programs[cpu][self.at[cpu]].pc if self.at[cpu] < len(self.programs[cpu]) else self.loop

    def _watched_by(self, cpu: int) -> Stop | None:
        if self.pcs[cpu] == self.loop or self.at[cpu] >= len(self.programs[cpu]):
            return None
        do = self.programs[cpu][self.at[cpu]]
        kind = {"read": Watch.READ, "write": Watch.WRITE, "clear": Watch.WRITE}.get(do.what)
        if do.what in ("poison", "unpoison"):
            kind = Watch.WRITE
        return None if kind is None or (do.address, kind) not in self.watched else Stop(cpu, 5, kind, do.address)

    def _execute(self, cpu: int) -> None:
        if self.pcs[cpu] == self.loop or self.at[cpu] >= len(self.programs[cpu]):
            return
        do = self.programs[cpu][self.at[cpu]]
        self.at[cpu] += 1
        if do.what == "gate":
            self.pcs[cpu] = self.loop
            return
        if do.what in ("clear", "clear-by-alias"):
            self.words[do.address - LINEAR] = 0
        elif do.what in ("poison", "unpoison"):
            end = do.address + 8 - SHADOW
            self.shadow[end - 8 if do.only else 0 : end] = (b"\xff" if do.what == "poison" else b"\0") * (
                8 if do.only else end
            )
        elif do.what == "read" and do.address == LINEAR + PMD:
            # the last read is the one that the walk follows
            self.stale = self.words[PMD] != 0
        elif do.what == "kasan" and self.shadow[0] == 0xFF and self.stale:
            self.report_lines = [
                f"BUG: KASAN: use-after-free in {self.reported}+0x10/0x20",
                f"Read of size 8 at addr {LINEAR + PTE + self.reported_at:016x} by task init/34",
            ]
        self._goto(cpu)


def dump(root: int) -> list[Do]:
    """Return a dump: three reads of the PMD entry, and KASAN's look before the access."""
    walk, entry = AT["walk_pgd_range"], AT["ptdump_pte_entry"]
    return [
        Do(walk, "read", root),
        Do(walk + 4, "read", LINEAR + PUD),
        *(Do(walk + 8 + 4 * n, "read", LINEAR + PMD) for n in range(3)),
        Do(entry, "kasan"),
        Do(entry + 4, "read", LINEAR + PTE),
        Do(GATE, "gate"),
    ]


def promotion(root: int, *, trylock: int | None = None, frees: bool = True) -> list[Do]:
    """Return a promotion; with `trylock`, one that takes a lock first and frees only where that is 1."""
    vmap, free, lock = AT["vmap_range_noflush"], AT["pmd_free_pte_page"], AT["down_read_trylock"]
    program = [Do(vmap, "read", root), Do(vmap + 4, "read", LINEAR + PUD), Do(vmap + 8, "read", LINEAR + PMD)]
    if trylock is not None:
        program += [Do(lock, back=vmap + 12), Do(lock + 4, result=trylock), Do(vmap + 12)]
    if trylock != 0 and frees:
        program += [
            Do(free, back=vmap + 16),
            Do(free + 4, "read", LINEAR + PMD),
            Do(free + 8, "clear", LINEAR + PMD),
            Do(free + 12, "poison", LAST),
            Do(vmap + 16, "write", LINEAR + PMD),
        ]
    return [*program, Do(GATE, "gate")]


class Console:
    """What the guest prints, as fuzzvm.realkernel.guest.Guest hands it out."""

    def __init__(self, simulated: Simulated, kernel: BuiltKernel) -> None:
        self.simulated = simulated
        self.kernel = kernel
        self.qemu = self
        lines = [f"{address:x} T {name}" for name, address in AT.items()]
        lines += [f"{ROOT:x} D init_top_pgt", f"{TEXT + 0x200000:x} D init_mm"]
        lines.append(f"{HOTPLUG_LOCK:x} d mem_hotplug_lock")
        self.symbols = Symbols("\n".join(lines) + "\n")

    def gdb(self) -> Simulated:
        return self.simulated

    def lines(self) -> list[str]:
        return []

    def report(self, start: int) -> list[str]:
        return self.simulated.printed()


def words(plan: Plan) -> dict[int, int]:
    """Return page tables that lead to the first page of a plan's window."""
    window = plan.window

    def offset(level: Level) -> int:
        return 8 * ((window.start >> window.shift(level)) & 511)

    return {
        ROOT - 0xFFFF_FFFF_8000_0000 + offset(Level.PGD): PUD | 0x63,
        PUD + offset(Level.PUD): PMD | 0x63,
        PMD + offset(Level.PMD): PTE | 0x63,
    }
