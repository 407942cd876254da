"""The multiprocessor: runs one program a CPU, one visible operation at a time, as it is told.

A machine has no will of its own. `enabled` says which agents could step, `step` lets one of them do so, and every
further way to go on is asked of the caller. The same answers give the same run, byte for byte.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Generator, Hashable, Sequence
from itertools import dropwhile
from pathlib import Path
from types import CodeType, GeneratorType
from typing import Any, Protocol, TypeVar

from fuzzvm.machine.allocator import Allocation, Allocator
from fuzzvm.machine.errors import (
    DEADLOCK,
    NO_PROGRESS,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    Failure,
    ModelError,
    ProgramError,
)
from fuzzvm.machine.memory import Choose, MemoryModel
from fuzzvm.machine.ops import (
    OFFSET_BITS,
    Address,
    Alloc,
    Annotation,
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Steps,
    Store,
    Tlbi,
    Value,
    object_of,
)
from fuzzvm.machine.rewrite import Rewrite, Skipped, functions, innermost
from fuzzvm.machine.trace import TraceStep

T = TypeVar("T")

_PACKAGE = str(Path(__file__).parents[1])
_MAY_WAIT = (Await, Rmw)
_NEVER_ASKED: tuple[Value, bool] = (object(), False)


class Observer(Protocol):
    """Sees the run from outside, all of memory at once: where oracles live. It raises ModelError, and never steps."""

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        """A write has taken effect at a location of an object that `watch` was called for."""

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        """An object was allocated."""

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        """A live object is about to be freed."""

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        """A program said something."""

    def became_visible(self, address: Address, old: Value, new: Value) -> None:
        """Every CPU can see a store now. Where `report_hardware` was called, of memory that delays stores."""

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        """A barrier, an invalidation or an interrupt was executed. Where `report_hardware` was called."""

    def finished(self) -> None:
        """Every program has returned."""


def _sequential(ways: int) -> int:
    """Boot takes no choices: it does what sequential consistency would."""
    return 0


class Machine:
    """One run of a set of programs on one memory.

    `trace` is the list of steps so far where `tracing` was asked for, else None: recording costs more than running.
    `rewrite` puts something else in the place of what programs yield; None leaves all as it is.
    """

    def __init__(self, memory: MemoryModel, *, tracing: bool = False, rewrite: Rewrite | None = None) -> None:
        self.memory = memory
        self.rewrite = rewrite
        self.allocator = Allocator()
        self.observer: Observer | None = None
        self.trace: list[TraceStep] | None = [] if tracing else None
        self.steps = 0
        self.failure: Failure | None = None
        self._watched: set[int] = set()
        self._programs: list[Generator[Operation | Annotation, Any, object]] = []
        self._pending: list[Operation | None] = []
        self._running: list[int] = []
        self._waiting: dict[int, tuple[Value, bool]] = {}
        """The CPUs that may be blocked: the value that their condition was last asked of, and its answer."""
        self._annotations: list[Annotation] = []
        self._old: Value = None
        self.reports_hardware = False
        """Whether the observer is told of barriers and maintenance, and of when stores become visible."""
        self._has_agents = type(memory).agents is not MemoryModel.agents

    # Setting up

    def allocate(self, size: int, label: Hashable) -> Address:
        """Allocate an object that is there from the beginning; return the address of its first location."""
        return self.allocator.alloc(size, label, self.steps).address

    def watch(self, address: Address) -> None:
        """Report writes to the object at `address` to the observer."""
        self._watched.add(object_of(address))

    def set_watched(self, numbers: frozenset[int]) -> None:
        """Report writes to the objects of these numbers to the observer, and to no others."""
        self._watched = set(numbers)

    def report_hardware(self) -> None:
        """Tell the observer all that TLBs and walk caches depend on as well. Costs nothing where it is not called."""
        self.reports_hardware = True
        self.memory.on_visible = self._became_visible

    @property
    def watched(self) -> frozenset[int]:
        """Numbers of the objects whose writes are reported to the observer."""
        return frozenset(self._watched)

    def boot(self, program: Steps[T], cpu: int = 0, max_steps: int | None = None) -> T:
        """Run a program to its end before the machine starts, with nobody beside it; return what it returns.

        Raises ModelError if it does something wrong, waits for what nobody will do or takes more than `max_steps`,
        ProgramError where it is broken.
        """
        response: Value = None
        steps = 0
        while True:
            steps += 1
            if max_steps is not None and steps > max_steps:
                raise ModelError(NO_PROGRESS, f"takes more than {max_steps} steps at boot")
            try:
                op = program.send(response)
            except StopIteration as stop:
                self.memory.synchronise()
                result: T = stop.value
                return result
            except ModelError:
                raise
            except Exception as error:
                raise program_error(error) from error
            response = None
            if self.rewrite is not None:
                rewritten = self.rewrite(op, program)
                if isinstance(rewritten, Skipped):
                    response = rewritten.response
                    continue
                op = rewritten
            if isinstance(op, Annotation):
                self._annotate(cpu, op)
                continue
            if type(op) not in EXECUTE:
                raise not_an_operation(program, op)
            if self.blocked(cpu, op):
                raise ModelError(NO_PROGRESS, "waits at boot, with no other CPU running")
            response = EXECUTE[type(op)](self, cpu, op, _sequential)

    def start(self, programs: Sequence[Steps[object]]) -> None:
        """Give each CPU its program and run each up to its first operation."""
        self._programs = list(programs)
        self._pending = [None] * len(programs)
        self._running = list(range(len(programs)))
        for cpu in range(len(programs)):
            self._resume(cpu, None)
            self._annotations.clear()
            if self.failure is not None:
                return
        self._settle()

    def assign(self, cpu: int, program: Steps[object]) -> None:
        """Give a CPU whose program has returned another one, and run it up to its first operation.

        Raises ValueError where its program has not returned, or the run has failed.
        """
        if self.failure is not None or cpu in self._running:
            raise ValueError(f"CPU {cpu} takes no other program now")
        self._programs[cpu] = program
        self._running = sorted([*self._running, cpu])
        self._resume(cpu, None)
        self._annotations.clear()

    def copy(self, *, tracing: bool = False) -> Machine:
        """Return a machine in the state that this one was booted into. Raises ValueError once programs have started."""
        if self._programs:
            raise ValueError("a machine whose programs run cannot be copied")
        machine = Machine(self.memory.copy(), tracing=tracing, rewrite=self.rewrite)
        machine.allocator = self.allocator.copy()
        machine._watched = set(self._watched)
        return machine

    # Running

    @property
    def done(self) -> bool:
        """Whether the run is over: failed, or every program returned and memory has settled."""
        return self.failure is not None or not (self._running or self.memory.agents())

    def pending(self, cpu: int) -> Operation | None:
        """Return the operation that a CPU will execute next, or None where its program has returned."""
        return self._pending[cpu]

    def stack(self, cpu: int) -> tuple[str, ...]:
        """Return the names of the functions that a CPU is in, innermost first."""
        return functions(self._programs[cpu])

    def site(self, cpu: int) -> tuple[CodeType, int]:
        """Return where a CPU stands: the code object and instruction of its innermost function."""
        frame = innermost(self._programs[cpu])
        return frame.gi_code, frame.gi_frame.f_lasti

    def enabled(self) -> Sequence[int]:
        """Return the agents that can step, in ascending order; empty when the run is over or stuck."""
        if self.failure is not None:
            return ()
        ready = self._running
        if self._waiting:
            ready = [cpu for cpu in ready if cpu not in self._waiting or self._may_go_on(cpu)]
        if self._has_agents and (agents := self.memory.agents()):
            return [*ready, *agents]
        return ready

    def step(self, agent: int, choose: Choose) -> None:
        """Let an enabled agent step; whatever goes wrong is in `failure` afterwards.

        Raises ProgramError where a program itself is broken.
        """
        self.steps += 1
        if agent >= len(self._programs):
            self._step_memory(agent, choose)
            return
        op = self._pending[agent]
        stack: tuple[str, ...] = ()
        tracing = self.trace is not None
        if tracing:
            stack = self.stack(agent)
            self._old = None
            self.memory.remark = None
        try:
            response = EXECUTE[type(op)](self, agent, op, choose)
        except ModelError as error:
            self._record(agent, op, None, stack)
            self._fail(error, agent, self.stack(agent))
            return
        self._resume(agent, response)
        if tracing:
            self._record(agent, op, response, stack)
        self._settle()

    def perform(self, cpu: int, op: Operation, choose: Choose) -> Value:
        """Execute one operation of a CPU that is not blocked, with no program behind it; return its response.

        Raises ModelError. For searches, which keep programs and the rest of the machine apart.
        """
        response: Value = EXECUTE[type(op)](self, cpu, op, choose)
        return response

    def perform_agent(self, agent: int, choose: Choose) -> None:
        """Let one of the memory model's own agents step, with no programs around. Raises ModelError."""
        self.memory.step(agent, choose)

    def blocked(self, cpu: int, op: Operation | None) -> bool:
        """Return whether an operation of a CPU waits for what does not hold now."""
        if isinstance(op, _MAY_WAIT) and op.when is not None:
            return not op.when(self.memory.visible(cpu, op.address))
        return False

    def blockers(self, op: Operation | None) -> tuple[int, ...]:
        """Return the CPUs that an operation waits for now."""
        if isinstance(op, Await | Rmw) and op.when is not None:
            return op.when.blocked_by(self.memory.peek(op.address))
        return ()

    def stuck(self) -> None:
        """Fail the run in which programs are left and none can step: a deadlock, or a wait that nobody will end."""
        edges = {cpu: self.blockers(self._pending[cpu]) for cpu in self._running}
        error, cpu = stuck_error(edges, {cpu: self.stack(cpu) for cpu in self._running})
        self._fail(error, cpu, self.stack(cpu))

    def exceeded(self, limit: int) -> None:
        """Fail the run that has taken its limit of steps and is not done."""
        self._fail(ModelError(NO_PROGRESS, f"not done after {limit} steps"), None, ())

    # Operations

    def _load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        if op.address >> OFFSET_BITS in self.allocator.dead:
            raise self.allocator.fault(op.address, write=False)
        return self.memory.load(cpu, op, choose)

    def _store(self, cpu: int, op: Store, choose: Choose) -> None:
        number = op.address >> OFFSET_BITS
        if number in self.allocator.dead:
            raise self.allocator.fault(op.address, write=True)
        if number in self._watched and self.observer is not None:
            self._old = self.memory.peek(op.address)
            self.memory.store(cpu, op, choose)
            self.observer.wrote(cpu, op.address, self._old, op.value)
        else:
            self.memory.store(cpu, op, choose)

    def _rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        number = op.address >> OFFSET_BITS
        if number in self.allocator.dead:
            raise self.allocator.fault(op.address, write=True)
        old = self.memory.rmw(cpu, op, choose)
        if number in self._watched and self.observer is not None:
            self.observer.wrote(cpu, op.address, old, self.memory.peek(op.address))
        return old

    def _fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        self.memory.fence(cpu, op, choose)
        if self.reports_hardware and self.observer is not None:
            self.observer.maintained(cpu, op)

    def _fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        return self.memory.fetch(cpu, op, choose)

    def _maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        self.memory.maintain(cpu, op, choose)
        if self.reports_hardware and self.observer is not None and not isinstance(op, CacheMaintenance):
            self.observer.maintained(cpu, op)

    def _became_visible(self, address: Address, old: Value, new: Value) -> None:
        if self.observer is not None:
            self.observer.became_visible(address, old, new)

    def _alloc(self, cpu: int, op: Alloc, choose: Choose) -> Address:
        allocation = self.allocator.alloc(op.size, op.label, self.steps)
        if self.observer is not None:
            self.observer.allocated(cpu, allocation)
        return allocation.address

    def _free(self, cpu: int, op: Free, choose: Choose) -> None:
        allocation = self.allocator.lookup(op.address)
        if self.observer is not None and allocation is not None and allocation.number not in self.allocator.dead:
            self.observer.freeing(cpu, allocation)
        freed = self.allocator.free(op.address, self.steps)
        if self._has_agents:
            self._check_unordered(cpu, freed)

    def _check_unordered(self, cpu: int, freed: Allocation) -> None:
        """Raise ModelError where another CPU's access to an object may take place after this free of it."""
        in_flight = self.memory.in_flight(freed.address)
        for other in range(self.memory.cpus):
            if other == cpu:
                # what its own CPU stores, the allocator orders before whoever gets the object next
                continue
            if other in in_flight:
                message = f"read of {freed.label} by CPU {other}, which may take place after this free of it"
                raise ModelError(USE_AFTER_FREE_READ, message, address=freed.address)
            if any(object_of(address) == freed.number for address, _ in self.memory.buffered(other)):
                message = f"write to {freed.label} by CPU {other}, which may take effect after this free of it"
                raise ModelError(USE_AFTER_FREE_WRITE, message, address=freed.address)

    # Inner parts

    def _step_memory(self, agent: int, choose: Choose) -> None:
        try:
            self.perform_agent(agent, choose)
        except ModelError as error:
            # the observer raised it, of what has become visible
            self._fail(error, self.memory.owner(agent), ())
        if self.trace is not None:
            owner, remark = self.memory.owner(agent), self.memory.remark
            self.trace.append(TraceStep(self.steps, agent, owner, None, None, (), remark=remark))
        self._settle()

    def _resume(self, cpu: int, response: Value) -> None:
        """Let a program go on to its next operation, or to its end."""
        try:
            self._received(cpu, self._programs[cpu].send(response))
        except (StopIteration, ModelError) as ending:
            self._ended(cpu, ending)
        except ProgramError:
            raise
        except Exception as error:
            raise program_error(error) from error

    def _received(self, cpu: int, op: Any) -> None:
        """Take what a program has yielded, and what it yields after that, until it is an operation."""
        program = self._programs[cpu]
        rewrite = self.rewrite
        if rewrite is not None:
            op = rewrite(op, program)
        kind = type(op)
        while kind not in EXECUTE:
            response = None
            if kind is Skipped:
                response = op.response
            elif isinstance(op, Annotation):
                try:
                    self._annotate(cpu, op)
                except ModelError as error:
                    # the observer raised it, of where the program stands
                    self._fail(error, cpu, self.stack(cpu))
                    self._retire(cpu)
                    return
            else:
                raise not_an_operation(program, op)
            op = program.send(response)
            if rewrite is not None:
                op = rewrite(op, program)
            kind = type(op)
        self._pending[cpu] = op
        if kind is Await or (kind is Rmw and op.when is not None):
            self._waiting[cpu] = _NEVER_ASKED
        elif self._waiting:
            self._waiting.pop(cpu, None)

    def _ended(self, cpu: int, ending: StopIteration | ModelError) -> None:
        """Take it that a program has returned, or fails."""
        self._retire(cpu)
        if isinstance(ending, ModelError):
            self._fail(ending, cpu, stack_of(ending))

    def _may_go_on(self, cpu: int) -> bool:
        """Return whether the condition holds that a CPU waits for; values are immutable, so each is asked once."""
        op: Any = self._pending[cpu]
        value = self.memory.visible(cpu, op.address)
        asked, holds = self._waiting[cpu]
        if asked is not value:
            holds = op.when(value)
            self._waiting[cpu] = (value, holds)
        return holds

    def _retire(self, cpu: int) -> None:
        self._pending[cpu] = None
        self._waiting.pop(cpu, None)
        self._running = [other for other in self._running if other != cpu]

    def _annotate(self, cpu: int, annotation: Annotation) -> None:
        if self.trace is not None:
            self._annotations.append(annotation)
        if self.observer is not None:
            self.observer.annotated(cpu, annotation)

    def _record(self, cpu: int, op: Operation | None, response: Value, stack: tuple[str, ...]) -> None:
        if self.trace is not None:
            notes = tuple(self._annotations)
            self._annotations.clear()
            remark = self.memory.remark
            self.trace.append(TraceStep(self.steps, cpu, cpu, op, response, stack, self._old, notes, remark))

    def _settle(self) -> None:
        """Have the end of the run checked, where it has come to its end."""
        if not self._running and self.failure is None and not self.memory.agents() and self.observer is not None:
            try:
                self.observer.finished()
            except ModelError as error:
                self._fail(error, None, ())

    def _fail(self, error: ModelError, cpu: int | None, stack: tuple[str, ...]) -> None:
        number = None if error.address is None else object_of(error.address)
        self.failure = Failure(error.error, error.message, cpu, stack, self.steps, number)


EXECUTE: dict[type, Callable[[Machine, int, Any, Choose], Any]] = {
    Load: Machine._load,
    Store: Machine._store,
    Rmw: Machine._rmw,
    Await: Machine._load,
    Fence: Machine._fence,
    Fetch: Machine._fetch,
    CacheMaintenance: Machine._maintain,
    Tlbi: Machine._maintain,
    InterruptAll: Machine._maintain,
    Alloc: Machine._alloc,
    Free: Machine._free,
}
"""What executes each kind of operation: takes machine, CPU, operation and choose, returns the response."""

MEMORY_ALONE = frozenset({Fence, Fetch, CacheMaintenance, Tlbi, InterruptAll})
"""Operations that memory executes by itself, with nothing for objects and observers to do."""


def stuck_error(edges: dict[int, tuple[int, ...]], stacks: dict[int, tuple[str, ...]]) -> tuple[ModelError, int]:
    """Return what is wrong where no CPU can step, and the CPU to name; `edges` says whom each one waits for."""
    cycle = find_cycle(edges)
    if cycle:
        following = [*cycle[1:], cycle[0]]
        waits = zip(cycle, following, strict=True)
        where = ", ".join(f"CPU {cpu} in {stacks[cpu][0]} waits for CPU {other}" for cpu, other in waits)
        return ModelError(DEADLOCK, where), cycle[0]
    cpu = min(edges)
    return ModelError(NO_PROGRESS, f"CPU {cpu} waits in {stacks[cpu][0]} and nobody is left to end the wait"), cpu


def find_cycle(edges: dict[int, tuple[int, ...]]) -> list[int]:
    """Return the nodes of one cycle of a graph, in order, or nothing; the same one for the same graph."""

    def visit(path: list[int]) -> list[int]:
        for following in edges.get(path[-1], ()):
            if following in path:
                return path[path.index(following) :]
            if cycle := visit([*path, following]):
                return cycle
        return []

    for start in sorted(edges):
        if cycle := visit([start]):
            return cycle
    return []


def stack_of(error: ModelError) -> tuple[str, ...]:
    """Return the functions of the program that an exception came through, innermost first."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    # what runs a program is no generator, and the program's outermost function is one
    of_program = dropwhile(lambda code: not code.co_flags & inspect.CO_GENERATOR, codes)
    return tuple(reversed([code.co_name for code in of_program]))


def program_error(error: Exception) -> ProgramError:
    """Return the ProgramError of what a program, or what sets one up, raised.

    It names the innermost line that is not fuzzvm's own: a user's mitigation, where one is involved.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = next(
        (place for place in reversed(frames) if not place[0].f_code.co_filename.startswith(_PACKAGE)), frames[-1]
    )
    return ProgramError(f"{type(error).__name__}: {error}", frame.f_code.co_filename, line)


def not_an_operation(program: Steps[Any], op: object) -> ProgramError:
    """Return what to raise where a program yielded something else; it names the innermost function's place."""
    frame = innermost(program)
    where = frame.gi_code.co_filename, frame.gi_frame.f_lineno
    if isinstance(op, GeneratorType):
        return ProgramError(f"yielded {op.gi_code.co_name}(), which is a generator: `yield from` runs it", *where)
    return ProgramError(f"yielded {op!r}, which is no operation", *where)
