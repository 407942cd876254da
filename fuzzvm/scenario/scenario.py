"""A scenario, and its form as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.irq_safety import Context
from fuzzvm.kernel.pgtable import Geometry
from fuzzvm.scenario.calls import Call, CallFunction, CatPageTables, parse_call
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.hotplug_calls import KexecLoad

MAX_CPUS = 8
MAX_CALLS = 64
MAX_INTERRUPTS = 4
BYTES_PER_ENTRY = 8
MAX_BOOT_PAGES = 1 << 14
"""Pages that all calls together may name: a small file must not be able to ask for an endless run."""
_INTERRUPTS = {"softirqs": Context.SOFTIRQ, "hardirqs": Context.HARDIRQ, "nmis": Context.NMI}
"""The keys that hold what interrupts do, and the contexts that they do it in."""


@dataclass(frozen=True)
class Scenario:
    """What a run is about. `setup` is called at boot by CPU 0 alone; `cpus` holds each CPU's calls.

    `fanout` is the number of entries of every table, a power of two from 2 to what a page holds (512 with 4K pages);
    `page_size` as the architecture writes it ("4K"); `levels` counts the levels that are not folded.

    `cont_ptes` is the number of entries of a contiguous block, a power of two below the fan-out, 1 for a kernel without
    such blocks; 0 leaves it to the architecture: the real number with the real fan-out, else 1. `lazy_mmu` lets vmap
    set PTEs in lazy MMU mode: one pair of barriers a range instead of one a block or page. `tlb` adds the hardware's
    side: what TLBs and walk caches may hold is followed, and what must not come of it is checked. With `walk_rereads`
    a walk reads an upper entry as often as the kernel's does, not once. `invlpgb` has x86_64 flush TLBs by
    broadcast, which interrupts nobody. With `iommu_sva` a device walks the kernel's page tables on x86_64.

    `softirqs`, `hardirqs` and `nmis` hold for each CPU the calls of an interrupt that it takes once, at any time that
    nothing holds it back; those of CPUs at the end may be left out. With `irqf_no_thread` PREEMPT_RT runs
    hardirqs in no thread, as IPIs and handlers with IRQF_NO_THREAD. With `shrinkers` or `allocations_fail` memory runs
    short for a while: an allocation reclaims then, for which these calls are made, or fails.
    """

    arch: str
    page_size: str
    levels: int
    fanout: int
    setup: tuple[Call, ...]
    cpus: tuple[tuple[Call, ...], ...]
    name: str = ""
    summary: str = ""
    cont_ptes: int = 0
    lazy_mmu: bool = False
    tlb: bool = False
    walk_rereads: bool = False
    invlpgb: bool = False
    iommu_sva: bool = False
    softirqs: tuple[tuple[Call, ...], ...] = ()
    hardirqs: tuple[tuple[Call, ...], ...] = ()
    nmis: tuple[tuple[Call, ...], ...] = ()
    shrinkers: tuple[Call, ...] = ()
    allocations_fail: bool = False
    irqf_no_thread: bool = False

    def __post_init__(self) -> None:
        self._check()

    @property
    def interrupts(self) -> tuple[tuple[int, Context, tuple[Call, ...]], ...]:
        """The interrupts that CPUs take: the CPU, what kind it is, and the calls of its handler."""
        return tuple(
            (cpu, context, calls)
            for key, context in _INTERRUPTS.items()
            for cpu, calls in enumerate(getattr(self, key))
            if calls
        )

    @property
    def beyond_calls(self) -> str:
        """The key that has more happen than that CPUs make their calls, '' where none has."""
        keys = (*_INTERRUPTS, "shrinkers", "allocations_fail")
        return next((key for key in keys if getattr(self, key)), "")

    def calls_of(self, cpu: int) -> tuple[Call, ...]:
        """Return the calls that are made on a CPU, by its program and by its interrupts."""
        return (*self.cpus[cpu], *(call for where, _, calls in self.interrupts if where == cpu for call in calls))

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls but those at boot: of CPUs, of interrupts, of shrinkers."""
        return (*(call for cpu in range(len(self.cpus)) for call in self.calls_of(cpu)), *self.shrinkers)

    @property
    def every_call(self) -> tuple[Call, ...]:
        """All calls, those at boot first."""
        return (*self.setup, *self.calls)

    @property
    def walkers(self) -> int:
        """Number of CPUs that walk page tables."""
        return len(self.cpus_with(lambda call: call.walks))

    def anonymous(self) -> Scenario:
        """Return it with no name and summary: what two scenarios that are the same have in common."""
        return replace(self, name="", summary="")

    def geometry(self) -> Geometry:
        """Return the geometry of its page tables."""
        arch = architectures.get(self.arch)
        shift = arch.page_shifts[self.page_size]
        contiguous = (self.cont_ptes, self.cont_ptes) if self.cont_ptes else arch.contiguous_entries(shift, self.fanout)
        return Geometry.make(shift, self.levels, self.fanout, arch.vmalloc_start_of(self.levels), *contiguous)

    def expected(self, mitigation: type[Mitigation]) -> Verdict | None:
        """Return the verdict that a mitigation claims here, or None where it claims nothing.

        With no walker, or no other CPU that maps, there is nobody to race with. Where a scenario has several kinds of
        race, a bug in one is a bug, and it is safe only where the mitigation claims that for each. Of a change of
        protection beside a collapse only releases claim anything. Nothing is claimed where interrupts come or memory
        runs short.
        """
        if self.beyond_calls:
            return None
        mitigation = mitigation.on(self.arch)
        claims = [*self._claims(mitigation), *self._further_claims(mitigation)]
        if "bug" in claims:
            return "bug"
        return None if None in claims else "safe"

    def beyond(self, mitigation: type[Mitigation]) -> bool:
        """Return whether a mitigation fails here for one reason: it is not meant for a kind of race that is here.

        Such as a walk of another mm, where it knows of init_mm's lock alone.
        """
        mitigation = mitigation.on(self.arch)
        return "bug" in self._further_claims(mitigation) and "bug" not in self._claims(mitigation)

    def _claims(self, mitigation: type[Mitigation]) -> list[Verdict | None]:
        """Return what it claims for the race of ptdump with vmap."""
        walk = self.cpus_with(lambda call: call.walks)
        if not race(walk, self.cpus_with(lambda call: call.maps)):
            return []
        return [mitigation.one_walker if len(walk) == 1 else mitigation.two_walkers]

    def _further_claims(self, mitigation: type[Mitigation]) -> list[Verdict | None]:
        """Return what it claims for the races of other kinds."""
        claims: list[Verdict | None] = []
        walk = self.cpus_with(lambda call: call.walks)
        other_mm = any(call.walks_other_mm for call in self.calls)
        if other_mm and race(walk, self.cpus_with(lambda call: call.maps)):
            claims.append(mitigation.other_mm)
        looks_up = self.cpus_with(lambda call: call.looks_up)
        if race(looks_up, self.cpus_with(lambda call: call.maps)):
            # who looks an address up has it mapped: nobody says what comes of it where he has not
            claims.append(None)
        claims += [mitigation.removals.get(call.name) for calls in self.cpus for call in calls if call.removes]
        if race(self.cpus_with(lambda call: call.copies), self.cpus_with(lambda call: call.removes)):
            claims.append(mitigation.removals.get(KexecLoad.name))
        if architectures.get(self.arch).collapses:
            collapse = self.cpus_with(lambda call: call.collapses)
            if race(walk, collapse):
                claims.append(mitigation.collapse)
            if race(self.cpus_with(lambda call: call.changes_attr), collapse):
                claims.append(mitigation.attributes)
            for cpu in range(len(self.cpus)):
                looks = [call for call in self.calls_of(cpu) if call.looks_up]
                if collapse - {cpu}:
                    claims += [mitigation.lookups.get(self._lookup(call)) for call in looks]
        return claims

    def _lookup(self, call: Call) -> str:
        return f"{call.name} invlpgb" if self.invlpgb and call.disables_irqs else call.name

    def cpus_with(self, has_part: Callable[[Call], bool]) -> set[int]:
        """Return the CPUs that make a call of that kind."""
        return {cpu for cpu in range(len(self.cpus)) if any(has_part(call) for call in self.calls_of(cpu))}

    @property
    def other_mms(self) -> tuple[str, ...]:
        """The mms beside init_mm that its calls walk, in the order of their names."""
        calls = self.every_call
        return tuple(sorted({call.mm for call in calls if isinstance(call, CatPageTables) and call.walks_other_mm}))

    @property
    def of_functions(self) -> tuple[CallFunction, ...]:
        """The calls of kernel functions by name, at boot and of CPUs."""
        calls = self.every_call
        return tuple(call for call in calls if isinstance(call, CallFunction))

    def _check(self) -> None:
        if self.arch not in architectures.names():
            raise ScenarioError(f"no architecture {self.arch!r}; there are {', '.join(architectures.names())}", "arch")
        arch = architectures.get(self.arch)
        if self.page_size not in arch.page_shifts:
            sizes = ", ".join(arch.page_shifts)
            raise ScenarioError(f"page_size must be one of {sizes} on {self.arch}, not {self.page_size!r}", "page_size")
        possible = arch.levels_with(self.page_size)
        if self.levels not in possible:
            levels = ", ".join(map(str, possible))
            where = f"{self.arch} with {self.page_size} pages"
            raise ScenarioError(f"levels must be one of {levels} on {where}, not {self.levels}", "levels")
        most = (1 << arch.page_shifts[self.page_size]) // BYTES_PER_ENTRY
        if not 2 <= self.fanout <= most or self.fanout & (self.fanout - 1):
            raise ScenarioError(f"fanout must be a power of two from 2 to {most}, not {self.fanout}", "fanout")
        if self.tlb and arch.tlb is None:
            raise ScenarioError(f"the TLBs of {self.arch} are not modelled", "tlb")
        if self.invlpgb and self.arch != "x86_64":
            raise ScenarioError(f"{self.arch} has no INVLPGB", "invlpgb")
        for call in self.every_call:
            if call.archs and self.arch not in call.archs:
                raise ScenarioError(f"{self.arch} has no {call.name}", str(call))
        if self.iommu_sva and self.arch != "x86_64":
            raise ScenarioError(f"no device walks the kernel's page tables on {self.arch}", "iommu_sva")
        if self.invlpgb and self.tlb:
            raise ScenarioError("what TLBs may hold is not followed where INVLPGB flushes them", "invlpgb")
        if self.tlb and self.beyond_calls:
            raise ScenarioError(f"what TLBs may hold is not followed with {self.beyond_calls}", "tlb")
        if self.cont_ptes > 1 and not arch.has_contiguous_blocks:
            raise ScenarioError(f"{self.arch} has no contiguous blocks", "cont_ptes")
        # a block of a whole table would be as large as the block of the level above, and max_page_shift could not tell
        if not 0 <= self.cont_ptes < self.fanout or self.cont_ptes & (self.cont_ptes - 1):
            message = f"cont_ptes must be a power of two below the fanout, or 0, not {self.cont_ptes}"
            raise ScenarioError(message, "cont_ptes")
        if not 1 <= len(self.cpus) <= MAX_CPUS:
            raise ScenarioError(f"1 to {MAX_CPUS} CPUs are possible, not {len(self.cpus)}", "cpus")
        for mm in self.other_mms:
            if mm not in arch.mms_sharing_kernel_tables:
                raise ScenarioError(f"{mm} shares no page tables with the kernel on {self.arch}", "cpus")
        geometry = self.geometry()
        pages = (geometry.end - geometry.base) >> geometry.page_shift
        asked = 0
        if self.irqf_no_thread and not any(self.hardirqs):
            raise ScenarioError("irqf_no_thread is about hardirqs, and there are none", "irqf_no_thread")
        for key in _INTERRUPTS:
            if len(getattr(self, key)) > len(self.cpus):
                raise ScenarioError(f"{key} has calls for more than the {len(self.cpus)} CPUs that there are", key)
        if len(self.interrupts) > MAX_INTERRUPTS:
            raise ScenarioError(f"at most {MAX_INTERRUPTS} interrupts are possible, not {len(self.interrupts)}", "cpus")
        made = [("setup", self.setup), *(("cpus", calls) for calls in self.cpus), ("shrinkers", self.shrinkers)]
        made += [(f"{context.value}s", calls) for _, context, calls in self.interrupts]
        for key, calls in made:
            if len(calls) > MAX_CALLS:
                raise ScenarioError(f"at most {MAX_CALLS} calls a CPU are possible, not {len(calls)}", key)
            for call in calls:
                asked += getattr(call, "nr_pages", 0)
                if last_page(call) >= pages:
                    raise ScenarioError(f"{call} ends past the {pages} pages that there are", key)
        if asked > MAX_BOOT_PAGES:
            raise ScenarioError(f"its calls name {asked} pages, at most {MAX_BOOT_PAGES} are possible", "cpus")

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, integers, lists and dicts; `from_data` takes it back."""
        data: dict[str, Any] = {"name": self.name} if self.name else {}
        if self.summary:
            data["summary"] = self.summary
        data |= {"arch": self.arch, "page_size": self.page_size, "levels": self.levels, "fanout": self.fanout}
        # what is as ever has no key, so that a scenario's text, and what it is known by, stay what they were
        if self.cont_ptes:
            data["cont_ptes"] = self.cont_ptes
        if self.lazy_mmu:
            data["lazy_mmu"] = True
        if self.tlb:
            data["tlb"] = True
        if self.walk_rereads:
            data["walk_rereads"] = True
        if self.invlpgb:
            data["invlpgb"] = True
        if self.allocations_fail:
            data["allocations_fail"] = True
        if self.iommu_sva:
            data["iommu_sva"] = True
        if self.irqf_no_thread:
            data["irqf_no_thread"] = True
        data["setup"] = [str(call) for call in self.setup]
        data["cpus"] = [[str(call) for call in calls] for calls in self.cpus]
        for key in _INTERRUPTS:
            if getattr(self, key):
                data[key] = [[str(call) for call in calls] for calls in getattr(self, key)]
        if self.shrinkers:
            data["shrinkers"] = [str(call) for call in self.shrinkers]
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Scenario:
        """Return the scenario of `to_data`. Raises ScenarioError saying what is wrong and where."""
        types = {"name": str, "summary": str, "arch": str, "page_size": str, "levels": int, "fanout": int}
        types |= {"cont_ptes": int, "lazy_mmu": bool, "tlb": bool, "walk_rereads": bool, "invlpgb": bool}
        types |= {"iommu_sva": bool, "allocations_fail": bool, "irqf_no_thread": bool}
        optional = {"name", "summary", "cont_ptes", "lazy_mmu", "tlb", "walk_rereads", "invlpgb", "iommu_sva"}
        optional |= {"allocations_fail", "irqf_no_thread"}
        for key in data:
            if key not in (*types, "setup", "cpus", "shrinkers", *_INTERRUPTS):
                raise ScenarioError(f"unknown key {key!r} in a scenario", key)
        for key, expected in types.items():
            if key not in data:
                if key in optional:
                    continue
                raise ScenarioError(f"a scenario needs {key!r}")
            if type(data[key]) is not expected:
                raise ScenarioError(f"{key} must be {expected.__name__}, not {data[key]!r}", key)
            if expected is str and not data[key].isprintable():
                # a terminal would obey it, or show it in another order than it stands: escapes, line ends, bidi marks
                raise ScenarioError(f"{key} has a character that cannot be printed", key)
        if "cpus" not in data:
            raise ScenarioError("a scenario needs 'cpus'")
        return cls(
            **{key: data[key] for key in types if key in data},
            setup=_parse_calls(data.get("setup", []), "setup"),
            cpus=_calls_by_cpu(data["cpus"], "cpus", "CPU"),
            softirqs=_calls_by_cpu(data.get("softirqs", []), "softirqs", "softirq of CPU"),
            hardirqs=_calls_by_cpu(data.get("hardirqs", []), "hardirqs", "hardirq of CPU"),
            nmis=_calls_by_cpu(data.get("nmis", []), "nmis", "NMI of CPU"),
            shrinkers=_parse_calls(data.get("shrinkers", []), "shrinkers"),
        )


def _calls_by_cpu(cpus: object, key: str, whose: str) -> tuple[tuple[Call, ...], ...]:
    if not isinstance(cpus, list) or not all(isinstance(calls, list) for calls in cpus):
        raise ScenarioError(f"{key} must be a list of lists of calls", key)
    return tuple(_parse_calls(calls, key, f"{whose} {cpu}, ") for cpu, calls in enumerate(cpus))


def last_page(call: Call) -> int:
    """Return the number of the last page that a call names, -1 where it names none."""
    if isinstance(call, CallFunction):
        return call.last_page
    page = getattr(call, "page", None)
    return -1 if page is None else int(page) + getattr(call, "nr_pages", 1) - 1


def race(walk: set[int], others: set[int]) -> bool:
    """Return whether one CPU walks while another does the other thing."""
    return bool(walk and others) and len(walk | others) > 1


def _parse_calls(calls: object, key: str, where: str = "") -> tuple[Call, ...]:
    if not isinstance(calls, list) or not all(isinstance(call, str) for call in calls):
        raise ScenarioError(f"{where}{key} must be a list of calls as strings", key)
    parsed = []
    for number, call in enumerate(calls, 1):
        try:
            parsed.append(parse_call(call))
        except ScenarioError as error:
            raise ScenarioError(f"{where or f'{key}, '}call {number}: {error}", call) from error
    return tuple(parsed)
