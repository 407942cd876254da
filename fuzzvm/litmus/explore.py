"""Exhaustive exploration of a litmus test: all final states that AArch64 allows, and no others.

The search is promise first (Pulte et al., PLDI 2019, section 7): the global state is a timeline and nothing else. For
each timeline every thread is run alone, from its beginning, through all its loads and stores. A run that comes to
have fulfilled all of the thread's messages shows what the thread may put next (any new message of it whose floor is
within the timeline), and, if it put nothing new, one outcome of the thread. A timeline on which every thread has an
outcome is a complete execution; its final states are the product of the outcomes. Equal timelines are explored once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from itertools import product
from random import Random

from fuzzvm.litmus.encoding import Encoding
from fuzzvm.litmus.interest import FUTURE, Interest, interest_of
from fuzzvm.litmus.partial_order import redundant
from fuzzvm.litmus.program import Code, Constant, Label, LitmusError, Name, Place, Relative, Test
from fuzzvm.litmus.semantics import Compiler, Step
from fuzzvm.litmus.state import EXCEPTION_LINK, REGISTERS, ZERO, Position, Register, Run
from fuzzvm.machine.memory.arm64.timeline import Message, Timeline

JUMPS = 1 / 32
"""How often FAST goes on with any timeline that is left, and not with the newest."""
MAX_STEPS = 400
"""Instructions after which a thread counts as looping; longer executions are left out, and `cut` says so."""

Outcome = tuple[int, ...]
State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explored:
    """All final states, as values of `places`; the number of timelines; whether long loops were left out."""

    places: tuple[Place, ...]
    states: frozenset[State]
    timelines: int
    cut: bool


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
    only until the condition is settled (FAST).
    """

    ALL = "false"
    INTERESTING = "true"
    FAST = "fast"


class Explorer:
    """Explores one test. Raises LitmusError where it uses what is not supported."""

    def __init__(self, test: Test, speed: Speed = Speed.ALL) -> None:
        self._speed = speed
        self._test = test
        self.values = Encoding(test)
        self._compiler = Compiler(test.threads, test.handlers, self.values)
        self._initial: dict[object, object] = {}
        self._registers = [[ZERO] * REGISTERS for _ in test.threads]
        self._fetched: set[Position] = set()
        self._decoded: dict[tuple[int, Position], Step | None] = {}
        self._known: dict[tuple[int, tuple[Message, ...]], Alone | None] = {}
        self.cut = False
        self._initialise()
        places = {*test.condition.places, *test.locations}
        for place in places:
            if place.thread is not None and place.thread >= len(test.threads):
                raise LitmusError(f"no thread P{place.thread}", 1)
        self.places = tuple(sorted(places, key=lambda place: place.order))
        self._observed = [
            [(int(place.name[1:]), place) for place in self.places if place.thread == cpu]
            for cpu in range(len(test.threads))
        ]
        self._interest = Interest() if speed is Speed.ALL else interest_of(test, self.values, self._fetched)
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
            value = 0 if declaration.value is None else self.values.constant(declaration.value, declaration.line)
            place = declaration.place
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

    def explore(self) -> Explored:
        """Return everything that can happen."""
        if self._interest.writers is not None:
            # known beforehand: what was explored without knowing it would be explored again
            self._compiler.loads.update(self._interest.writers.loads)
        while True:
            loads = frozenset(self._compiler.loads)
            explored = self._explore(loads)
            if loads == self._compiler.loads or self._settled(explored.states):
                return explored

    def _explore(self, loads: frozenset[tuple[int, int]]) -> Explored:
        """Explore, given which thread loads which location; wrong if a load turns up that is not among `loads`."""
        threads = range(len(self._test.threads))

        def loaded_by_others(store: Message) -> bool:
            return any(cpu != store.cpu and (cpu, store.address) in loads for cpu in threads)

        empty = Timeline(self._initial)
        seen = {empty.messages}
        pending = [empty]
        states: set[State] = set()
        jumps = Random(0)
        while pending:
            if self._speed is Speed.FAST and jumps.random() < JUMPS:
                # depth first alone stays for long behind one early choice that nothing can come of
                other = jumps.randrange(len(pending))
                pending[other], pending[-1] = pending[-1], pending[other]
            timeline = pending.pop()
            outcomes = []
            following: dict[Message, int] = {}
            for cpu in threads:
                alone = self._alone(cpu, timeline)
                if alone is None:
                    break
                outcomes.append(alone.outcomes)
                following.update(alone.candidates)
            else:
                for message, floor in following.items():
                    messages = (*timeline.messages, message)
                    if messages not in seen and not redundant(timeline, message, floor, loaded_by_others):
                        seen.add(messages)
                        pending.append(timeline.extend(message))
                if all(outcomes):
                    states.update(self._final_states(timeline, outcomes))
                    if self._settled(states):
                        break
        return Explored(self.places, frozenset(states), len(seen), self.cut)

    def _settled(self, states: Collection[State]) -> bool:
        """Return whether no further state can change the truth of the quantified condition, if that is all one asks."""
        if self._speed is not Speed.FAST:
            return False
        condition, resolve = self._test.condition, resolver(self)
        settles = self._test.quantifier != "forall"
        return any(condition.holds(dict(zip(self.places, state, strict=True)), resolve) is settles for state in states)

    def _final_states(self, timeline: Timeline, outcomes: list[frozenset[Outcome]]) -> list[State]:
        memory = []
        for place in self.places:
            if place.thread is None:
                value = timeline.latest(self.values.location(place.name))
                assert isinstance(value, int)
                memory.append(self.values.final(place, value))
        return [
            (*(value for outcome in combination for value in outcome), *memory) for combination in product(*outcomes)
        ]

    def _alone(self, cpu: int, timeline: Timeline) -> Alone | None:
        """Run a thread alone on a timeline. Return None if no run fulfils all of its messages there."""
        key = (cpu, timeline.messages)
        if key in self._known:
            return self._known[key]
        candidates: dict[Message, int] = {}
        outcomes: set[Outcome] = set()
        certified = False
        stack = [Run(cpu, self._registers[cpu].copy(), timeline)]
        looped: set[object] = set()
        while stack:
            run = stack.pop()
            ended = self._advance(run, stack, looped)
            if ended is None or run.open:
                continue
            certified = True
            for message, floor in run.candidates:
                candidates[message] = max(floor, candidates.get(message, 0))
            if ended and len(run.timeline) == run.base and self._wanted(run):
                outcomes.add(
                    tuple(self.values.final(place, run.registers[number][0]) for number, place in self._observed[cpu])
                )
        self._known[key] = Alone(candidates, frozenset(outcomes)) if certified else None
        return self._known[key]

    def _wanted(self, run: Run) -> bool:
        """Return whether the registers of a run that has ended hold what the condition asks."""
        return all(
            self.values.final(place, run.registers[number][0]) == value
            for number, place, value in self._interest.final.get(run.cpu, ())
        )

    def _idle(self, run: Run) -> bool:
        """Return whether all that a run could still put would come after what is yet to come."""
        views = run.views
        if max(views.write_floor, views.control, views.address) < FUTURE:
            return False
        return not self._maintains or (views.clean_floor >= FUTURE and views.invalidate_floor >= FUTURE)

    def _advance(self, run: Run, stack: list[Run], looped: set[object]) -> bool | None:
        """Run on. Return True at the end of the code, None where the ways to go on were put on the stack.

        Return False where the run is not followed further: after `MAX_STEPS`, or back in a state of a loop that
        `looped` holds, whose continuations are explored already, or where nothing that it could do is of interest.
        """
        code = self._code
        asks = self._interest.asks
        while True:
            if asks and self._idle(run):
                return False
            position = run.position
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
            if run.position <= position:
                key = run.key()
                if key in looped:
                    return False
                looped.add(key)
            run.steps += 1
            if run.steps > MAX_STEPS:
                self.cut = True
                return False

    def _fetch(self, run: Run) -> list[Run] | None:
        address = self.values.code_address(*run.position)
        ways = run.views.fetches(run.timeline, address)
        if not ways:
            return []
        results: list[Run] = []
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

    def _fault(self, run: Run) -> list[Run] | None:
        """Take the exception of an undefined instruction: to the thread's handler, or to its end without one."""
        run.registers[EXCEPTION_LINK] = (self.values.code_address(*run.position), 0, 0)
        run.views.context_synchronisation()
        if run.cpu in self._test.handlers:
            run.position = (-1 - run.cpu, 0)
        else:
            run.position = (run.cpu, len(self._test.threads[run.cpu].code))
        return None


def resolver(explorer: Explorer) -> Callable[[Place, Constant], int]:
    """Return the function that gives a condition's constants their values, as the types of their places have them."""

    def resolve(place: Place, constant: Constant) -> int:
        return explorer.values.final(place, explorer.values.constant(constant, 1))

    return resolve


__all__ = ["MAX_STEPS", "Explored", "Explorer", "Register", "Speed", "resolver"]
