"""Exhaustive exploration of a litmus test: all final states that AArch64 allows, and no others.

The search is promise first (Pulte et al., PLDI 2019, section 7): the global state is a timeline and nothing else. For
each timeline every thread is run alone, from its beginning, through all its loads and stores. A run that comes to
have fulfilled all of the thread's messages shows what the thread may put next (any new message of it whose floor is
within the timeline), and, if it put nothing new, one outcome of the thread. A timeline on which every thread has an
outcome is a complete execution; its final states are the product of the outcomes. Equal timelines are explored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import product
from random import Random

from fuzzvm.litmus.bounds import BoundReachedError, Bounds
from fuzzvm.litmus.encoding import Encoding, is_address
from fuzzvm.litmus.entries import ACCESSED, VALID, is_entry
from fuzzvm.litmus.faults import UNDEFINED, FaultsShown
from fuzzvm.litmus.interest import FUTURE, Interest, interest_of
from fuzzvm.litmus.partial_order import redundant
from fuzzvm.litmus.program import (
    Code,
    Constant,
    Label,
    LitmusError,
    Name,
    Place,
    Relative,
    Shown,
    Test,
    entry_name,
    page_name,
)
from fuzzvm.litmus.semantics import Compiler, Step
from fuzzvm.litmus.state import EXCEPTION_LINK, REGISTERS, UPDATED, ZERO, Fault, Position, Register, ThreadRun
from fuzzvm.machine.memory.arm64.timeline import STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.translation import TranslatedViews
from fuzzvm.machine.memory.arm64.views import CacheType

JUMPS = 1 / 32
"""How often FAST goes on with any timeline that is left, and not with the newest."""
MAX_STEPS = 400
"""Instructions after which a thread must not jump back; longer executions are left out, and `cut` says so."""
HARDWARE = -1
"""The CPU of messages that no thread puts."""
STEPS = 256
"""Instructions of one run between two looks at the clock; a thread may have thousands of them."""

Outcome = tuple[tuple[int, ...], tuple[int, ...]]
"""Values of the observed registers, and numbers of the faults that were taken; see `faults`."""
State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FinalStates:
    """All final states, as values of `places`; the number of timelines; whether long loops were left out.

    `stopped` names the bound that ended the exploration, if one did.
    """

    places: tuple[Shown, ...]
    states: frozenset[State]
    timelines: int
    cut: bool
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Alone:
    """What a thread can do by itself on a timeline.

    `candidates` are the messages that it may put next, each with its greatest floor; `outcomes` the observed
    registers of the runs that put nothing new.
    """

    candidates: dict[Message, int]
    outcomes: frozenset[Outcome]


class Speed(Enum):
    """How much is explored (herd7's option -speedcheck).

    ALL states; those that the condition may hold in, as far as it can be told beforehand (INTERESTING), and there
    only until the condition is settled (FAST). ANY is for whether there is a final state at all.
    """

    ALL = "false"
    INTERESTING = "true"
    FAST = "fast"
    ANY = "any"


class Explorer:
    """Explores one test. Raises LitmusError where it uses what is not supported."""

    def __init__(self, test: Test, speed: Speed = Speed.ALL, bounds: Bounds | None = None) -> None:
        self._speed = speed
        self._bounds = bounds or Bounds()
        self._test = test
        self.values = Encoding(test)
        self._compiler = Compiler(test, self.values, self._taken)
        self._initial: dict[object, object] = {}
        self._registers = [[ZERO] * REGISTERS for _ in test.threads]
        self._fetched: set[Position] = set()
        self._decoded: dict[tuple[int, Position], Step | None] = {}
        self._entries = [self.values.location(name) for name in self.values.names() if page_name(name) is not None]
        self._known: dict[tuple[int, tuple[Message, ...]], Alone | None] = {}
        self.cut = False
        self._initialise()
        places = {*test.condition.places, *test.locations}
        for place in places:
            if place.thread is not None and place.thread >= len(test.threads):
                raise LitmusError(f"no thread P{place.thread}", 1)
        self.places = tuple(sorted(places, key=lambda place: place.order))
        cpus = range(len(test.threads))
        self._observed = [
            [(int(place.name[1:]), place) for place in self.places if isinstance(place, Place) and place.thread == cpu]
            for cpu in cpus
        ]
        self._faults = FaultsShown(test, self.values, self.places)
        everything = speed in (Speed.ALL, Speed.ANY) or test.translation is not None
        self._interest = Interest() if everything else interest_of(test, self.values, self._fetched)
        self._compiler.ask(self._interest)
        mnemonics = {instruction.mnemonic for thread in test.threads for instruction in thread.code}
        self._maintains = bool(mnemonics & {"DC", "IC"})
        self._code: dict[Position, Step] = {}
        for owner in (*range(len(test.threads)), *(-1 - cpu for cpu in test.handlers)):
            for index, instruction in enumerate(self._compiler.thread(owner).code):
                self._code[owner, index] = self._compiler.step(instruction, (owner, index))

    def _initialise(self) -> None:
        test = self._test
        for declaration in test.declarations:
            if declaration.place.thread is not None and declaration.place.thread >= len(test.threads):
                raise LitmusError(f"no thread P{declaration.place.thread}", declaration.line)
        for declaration in test.declarations:
            place = declaration.place
            value = 0
            if declaration.value is not None:
                given = self.values.constant(declaration.value, declaration.line)
                value = self.values.completed(place, given, declaration.line)
            if place.thread is None:
                self._initial[self.values.location(place.name)] = value
            else:
                self._registers[place.thread][int(place.name[1:])] = (value, 0, 0)
            if isinstance(declaration.value, Label):
                self._expose(declaration.value, declaration.line)
        for cpu, thread in enumerate(test.threads):
            for instruction in thread.code:
                for operand in instruction.operands:
                    if instruction.mnemonic == "ADR" and isinstance(operand, Name) and operand.text in thread.labels:
                        self._expose(Label(cpu, operand.text), instruction.line)
        if test.translation is not None:
            for name in self.values.names():
                if page_name(name) is None:
                    self._initial.setdefault(self.values.location(entry_name(name)), self.values.default_entry(name))
            self._fetched.clear()  # nothing stores code where accesses are translated
        # In order: encodings of instructions that are no NOP or B are numbered as they come.
        for declaration in test.declarations:
            if isinstance(declaration.value, Code):
                self.values.instruction(declaration.value.instruction, None, 0)

    def _expose(self, label: Label, line: int) -> None:
        """Let the code at a label be fetched through memory, since its address is known to the test."""
        address = self.values.label(label, line)
        position = self.values.code_index(address)
        assert position is not None
        code = self._test.threads[position[0]].code
        if position[1] < len(code):
            self._fetched.add(position)
            self._initial[address] = self.values.instruction(code[position[1]], *position)

    def explore(self) -> FinalStates:
        """Return everything that can happen."""
        if self._interest.writers is not None:
            # known beforehand: what was explored without knowing it would be explored again
            self._compiler.loads.update(self._interest.writers.loads)
        while True:
            loads = frozenset(self._compiler.loads)
            explored = self._explore(loads)
            if explored.stopped or loads == self._compiler.loads or any(map(self._settles, explored.states)):
                return explored

    def _explore(self, loads: frozenset[tuple[int, int]]) -> FinalStates:
        """Explore, given which thread loads which location; wrong if a load turns up that is not among `loads`."""
        threads = range(len(self._test.threads))
        caches = self._test.caches
        fetched = {self.values.code_address(*at) for at in self._fetched} if caches is CacheType.DIC1_IDC1 else set()
        if self._test.translation is not None:
            # a walk of the thread that stores may read what was there before; a TLBI is an IC that stores come before
            fetched = set(self._entries)
            caches = CacheType.DIC0_IDC1

        def observed(store: Message) -> bool:
            address = store.address
            return address in fetched or any(cpu != store.cpu and (cpu, address) in loads for cpu in threads)

        empty = Timeline(self._initial)
        seen = {empty.messages}
        pending = [empty]
        states: set[State] = set()
        settled = False
        stopped = ""
        jumps = Random(0)
        try:
            while pending and not settled:
                if self._speed is Speed.FAST and jumps.random() < JUMPS:
                    # depth first alone stays for long behind one early choice that nothing can come of
                    other = jumps.randrange(len(pending))
                    pending[other], pending[-1] = pending[-1], pending[other]
                timeline = pending.pop()
                together = self._together(timeline)
                if together is None:
                    continue
                outcomes, following = together
                for message, floor in following.items():
                    messages = (*timeline.messages, message)
                    if messages not in seen and not redundant(timeline, message, floor, observed, caches):
                        self._bounds.state(len(seen) + 1)
                        seen.add(messages)
                        pending.append(timeline.extend(message))
                for state in self._final_states(timeline, outcomes):
                    self._bounds.tick()
                    if state not in states:
                        states.add(state)
                        settled = settled or self._settles(state)
        except BoundReachedError as error:
            stopped = str(error)
        return FinalStates(self.places, frozenset(states), len(seen), self.cut, stopped)

    def _together(self, timeline: Timeline) -> tuple[list[frozenset[Outcome]], dict[Message, int]] | None:
        """Return each thread's outcomes on a timeline, and the messages that may come next with their floors.

        None if a thread cannot fulfil all its messages there.
        """
        outcomes = []
        following: dict[Message, int] = {}
        for cpu in range(len(self._test.threads)):
            alone = self._alone(cpu, timeline)
            if alone is None:
                return None
            outcomes.append(alone.outcomes)
            following.update(alone.candidates)
        following.update(self._spontaneous(timeline))
        return outcomes, following

    def _spontaneous(self, timeline: Timeline) -> dict[Message, int]:
        """Return the updates of access flags that hardware may make next, for no access that can be seen."""
        translation = self._test.translation
        found: dict[Message, int] = {}
        if translation is None or not translation.access:
            return found
        for address in self._entries:
            value = timeline.latest(address)
            assert isinstance(value, int)
            if is_entry(value) and value & VALID and not value & ACCESSED:
                found[Message(STORE, HARDWARE, address, value | ACCESSED)] = max(timeline.stores(address), default=0)
        return found

    def _settles(self, state: State) -> bool:
        """Return whether no further state can change the truth of the quantified condition, if that is all one asks."""
        if self._speed is not Speed.FAST:
            return self._speed is Speed.ANY
        holds = self._test.condition.holds(dict(zip(self.places, state, strict=True)), resolver(self))
        return holds is (self._test.quantifier != "forall")

    def _final_states(self, timeline: Timeline, outcomes: list[frozenset[Outcome]]) -> Iterator[State]:
        """Yield the final states of a timeline on which each thread has ended in one of its outcomes."""
        memory = []
        for place in self.places:
            if isinstance(place, Place) and place.thread is None:
                memory.append(self._final_value(place, timeline))
        for combination in product(*outcomes):
            registers = [value for values, _ in combination for value in values]
            yield (*registers, *memory, *(fault for _, faults in combination for fault in faults))

    def _final_value(self, place: Place, timeline: Timeline) -> int:
        address = self.values.location(place.name)
        value, initial = timeline.latest(address), self._initial.get(address, 0)
        assert isinstance(value, int) and isinstance(initial, int)
        if timeline.stores(address):
            # stores to a part of the location leave the rest as it was
            rest = initial & ~self._compiler.mask(address)
            if rest and is_address(initial):
                raise LitmusError(f"{place} is what 32 bits leave of an address", 1)
            value |= rest
        return self.values.final(place, value)

    def _alone(self, cpu: int, timeline: Timeline) -> Alone | None:
        """Run a thread alone on a timeline. Return None if no run fulfils all of its messages there."""
        key = (cpu, timeline.messages)
        if key in self._known:
            return self._known[key]
        candidates: dict[Message, int] = {}
        outcomes: set[Outcome] = set()
        certified = False
        translation = self._test.translation
        views = None if translation is None else TranslatedViews(cpu, translation.ets)
        begin = ThreadRun(cpu, self._registers[cpu].copy(), timeline, views)
        if translation is not None and cpu in translation.access:
            begin.ordered = UPDATED
        stack = [begin]
        looped: set[object] = set()
        while stack:
            self._bounds.tick()
            run = stack.pop()
            ended = self._advance(run, stack, looped)
            if ended is None or run.open:
                continue
            certified = True
            for message, floor in run.candidates:
                candidates[message] = max(floor, candidates.get(message, 0))
            if ended and len(run.timeline) == run.base and self._wanted(run):
                registers = [
                    self.values.final(place, run.registers[number][0]) for number, place in self._observed[cpu]
                ]
                outcomes.add((tuple(registers), self._faults.of(run)))
        self._known[key] = Alone(candidates, frozenset(outcomes)) if certified else None
        return self._known[key]

    def _wanted(self, run: ThreadRun) -> bool:
        """Return whether the registers of a run that has ended hold what the condition asks, by messages so far."""
        return run.views.address < FUTURE and all(
            self.values.final(place, run.registers[number][0]) == value
            for number, place, value in self._interest.final.get(run.cpu, ())
        )

    def _idle(self, run: ThreadRun) -> bool:
        """Return whether all that a run could still put would come after what is yet to come."""
        views = run.views
        if max(views.write_floor, views.control, views.address) < FUTURE:
            return False
        return not self._maintains or (views.clean_floor >= FUTURE and views.invalidate_floor >= FUTURE)

    def _advance(self, run: ThreadRun, stack: list[ThreadRun], looped: set[object]) -> bool | None:
        """Run on. Return True at the end of the code, None where the ways to go on were put on the stack.

        Return False where the run is not followed further: after `MAX_STEPS`, or back in a state of a loop that
        `looped` holds, whose continuations are explored already, or where nothing that it could do is of interest.
        """
        code = self._code
        asks = self._interest.asks
        while True:
            if not self._goes_on(run, looped) or (asks and self._idle(run)):
                return False
            run.previous = position = run.position
            if position in self._fetched:
                ways = self._fetch(run)
            else:
                step = code.get(position)
                if step is None:
                    return True
                ways = step(run)
            if ways is not None:
                stack.extend(ways)
                return None

    def _goes_on(self, run: ThreadRun, looped: set[object]) -> bool:
        """Return whether a run is to be followed from where it stands: see `_advance`."""
        if run.position <= run.previous:
            key = run.key()
            if key in looped:
                return False
            looped.add(key)
            if run.steps > MAX_STEPS:
                self.cut = True
                return False
        run.steps += 1
        if not run.steps % STEPS:
            self._bounds.look()
        return True

    def _fetch(self, run: ThreadRun) -> list[ThreadRun] | None:
        address = self.values.code_address(*run.position)
        ways = run.views.fetches(run.timeline, address, self._test.caches)
        if not ways:
            return []
        results: list[ThreadRun] = []
        position = run.position
        asked = self._interest.following.get(position)
        missed = False
        for index, (source, place) in enumerate(ways):
            way = run if index == len(ways) - 1 else run.copy()
            way.views.fetch(place)
            value = way.timeline.value(address, source)
            assert isinstance(value, int)
            step = self._decode(value, position)
            following = (self._fault(way) if step is None else step(way)) or [way]
            if asked is not None and way.position != asked:
                # not what is asked for: once, as a fetch that takes place later than all messages
                if missed or not self._may_come(run.cpu, position, asked, address, way.timeline):
                    continue
                missed = True
                way.views.fetch(FUTURE)
            results.extend(following)
        if len(results) == 1 and results[0] is run:
            return None
        return results

    def _may_come(self, cpu: int, position: Position, asked: Position, address: int, timeline: Timeline) -> bool:
        """Return whether a patch may come that makes an instruction go on where it is asked to."""

        def leads(value: int) -> bool:
            instruction = self.values.decode(value)
            if instruction is None or instruction.mnemonic not in ("NOP", "B"):
                return True
            skipped = 1
            if instruction.operands and isinstance(instruction.operands[0], Relative):
                skipped = instruction.operands[0].offset // 4
            return (position[0], position[1] + skipped) == asked

        return self._interest.may_come(cpu, address, leads, timeline)

    def _decode(self, value: int, position: Position) -> Step | None:
        """Return the step of a fetched instruction, or None if it is undefined."""
        key = (value, position)
        if key not in self._decoded:
            original = self._test.threads[position[0]].code[position[1]]
            if value == self._initial[self.values.code_address(*position)]:
                self._decoded[key] = self._compiler.step(original, position)
            else:
                instruction = self.values.decode(value)
                self._decoded[key] = None if instruction is None else self._compiler.step(instruction, position)
        return self._decoded[key]

    def _fault(self, run: ThreadRun) -> list[ThreadRun] | None:
        """Take the exception of an undefined instruction: to the thread's handler, or to its end without one."""
        run.views.context_synchronisation()
        if run.position[0] >= 0:
            run.faults |= {Fault(run.position[1], "", UNDEFINED)}
        self._taken(run)
        return None

    def _taken(self, run: ThreadRun) -> None:
        """Set a run on from an instruction that faults."""
        run.registers[EXCEPTION_LINK] = (self.values.code_address(*run.position), 0, 0)
        if run.cpu in self._test.handlers:
            run.position = (-1 - run.cpu, 0)
        else:
            run.position = (run.cpu, len(self._test.threads[run.cpu].code))

    def show(self, place: Shown, value: int) -> str:
        """Return the value of a place of a final state as herd7 prints it."""
        return self.values.show(value) if isinstance(place, Place) else self._faults.show(place, value)


def resolver(explorer: Explorer) -> Callable[[Place, Constant], int]:
    """Return the function that gives a condition's constants their values, as the types of their places have them."""

    def resolve(place: Place, constant: Constant) -> int:
        return explorer.values.final(place, explorer.values.completed(place, explorer.values.constant(constant, 1), 1))

    return resolve


__all__ = ["MAX_STEPS", "Explorer", "FinalStates", "Register", "Speed", "resolver"]
