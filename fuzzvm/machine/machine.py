"""The multiprocessor: runs one program a CPU, one visible operation at a time, as it is told.

A machine has no will of its own. `enabled` says which agents could step, `step` lets one of them do so, and every
further way to go on is asked of the caller. The same answers give the same run, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from fuzzvm.machine.allocator import Allocation, Allocator
from fuzzvm.machine.blame import bad_operation, executing_error, not_an_operation, program_error
from fuzzvm.machine.errors import (
    NO_PROGRESS,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    Failure,
    ModelError,
    ProgramError,
)
from fuzzvm.machine.generators import as_program
from fuzzvm.machine.memory import Choose, MemoryModel
from fuzzvm.machine.ops import (
    MAY_WAIT,
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
    succeeds,
)
from fuzzvm.machine.program import MAX_ANNOTATIONS, NO_OPERATION, Program, endless
from fuzzvm.machine.property import Observer
from fuzzvm.machine.stuck import blockers_of, stuck_error
from fuzzvm.machine.trace import TraceStep
from fuzzvm.machine.wellformed import wrong_with
from fuzzvm.supervision import stopping

T = TypeVar("T")

ENDLESS_PROBES = 64
"""Steps for which a hook is followed that has not come to an end."""
NO_LOCATION = "there is no such location"
_NEVER_ASKED: tuple[Value, bool] = (object(), False)


def _sequential(ways: int) -> int:
    """Boot takes no choices: it does what sequential consistency would."""
    return 0


class Machine:
    """One run of a set of programs on one memory.

    `trace` is the list of steps so far where `tracing` was asked for, else None: recording costs more than running.
    """

    def __init__(self, memory: MemoryModel, *, tracing: bool = False) -> None:
        self.memory = memory
        self.allocator = Allocator()
        self.observer: Observer | None = None
        self.trace: list[TraceStep] | None = [] if tracing else None
        self.steps = 0
        self.failure: Failure | None = None
        self._watched: set[int] = set()
        self._programs: list[Program] = []
        self._pending: list[Operation | None] = []
        self._running: list[int] = []
        self._waiting: dict[int, tuple[Value, bool]] = {}
        """The CPUs that may be blocked: the value that their condition was last asked of, and its answer."""
        self._annotations: list[Annotation] = []
        self._old: Value = None
        self.reports_hardware = False
        """Whether the observer is told of barriers and maintenance, and of when stores become visible."""
        self._has_agents = type(memory).agents is not MemoryModel.agents
        self.careful = False
        """Whether each operation is looked at before it is executed, and its address: all memory is allocated."""

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

    def boot(self, code: Steps[T] | Program, cpu: int = 0, max_steps: int | None = None) -> T:
        """Run code to its end before the machine starts, with nobody beside it; return what it returns.

        Raises ModelError if it does something wrong, waits for what nobody will do or takes more than `max_steps`,
        ProgramError where it is broken.
        """
        program = as_program(code)
        response: Value = None
        steps = 0
        while True:
            steps += 1
            if max_steps is not None and steps > max_steps:
                if program.hook() is not None:
                    raise endless(program, f"{max_steps} steps of the setup, and no end of it")
                raise ModelError(NO_PROGRESS, f"takes more than {max_steps} steps at boot")
            try:
                op = program.send(response)
            except StopIteration as stop:
                self.memory.synchronise()
                result: T = stop.value
                return result
            except (ModelError, ProgramError):
                raise
            except BaseException as error:
                raise program_error(error) from error
            response = None
            if isinstance(op, Annotation):
                self._annotate(cpu, op)
                continue
            if type(op) not in EXECUTE:
                raise not_an_operation(program, op)
            self._check(op, program)
            try:
                if self.blocked(cpu, op):
                    raise ModelError(NO_PROGRESS, "waits at boot, with no other CPU running")
                response = EXECUTE[type(op)](self, cpu, op, _sequential)
            except ModelError:
                raise
            except BaseException as error:
                raise executing_error(program, op, error) from error

    def start(self, programs: Sequence[Program | Steps[object]]) -> None:
        """Give each CPU its program, which stands at its beginning, and run each up to its first operation."""
        self._programs = [as_program(program) for program in programs]
        self._pending = [None] * len(programs)
        self._running = list(range(len(programs)))
        for cpu in range(len(programs)):
            self._resume(cpu, None)
            self._annotations.clear()
            if self.failure is not None:
                return
        self._settle()

    def assign(self, cpu: int, program: Program | Steps[object]) -> None:
        """Give a CPU whose program has returned another one, and run it up to its first operation.

        Raises ValueError where its program has not returned, or the run has failed.
        """
        if self.failure is not None or cpu in self._running:
            raise ValueError(f"CPU {cpu} takes no other program now")
        self._programs[cpu] = as_program(program)
        self._running = sorted([*self._running, cpu])
        self._resume(cpu, None)
        self._annotations.clear()

    def copy(self, *, tracing: bool = False) -> Machine:
        """Return a machine in the same state that goes its own way; nobody observes it yet.

        Raises ValueError where a program runs that cannot be copied.
        """
        programs = [program.copy() for program in self._programs]
        machine = Machine(self.memory.copy(), tracing=tracing)
        machine.allocator = self.allocator.copy()
        machine._watched = set(self._watched)
        for program in programs:
            if program is None:
                raise ValueError("a machine that runs a program which cannot be copied")
            machine._programs.append(program)
        machine._pending = list(self._pending)
        machine._running = list(self._running)
        machine._waiting = dict(self._waiting)
        machine.steps = self.steps
        machine.failure = self.failure
        return machine

    # Running

    @property
    def done(self) -> bool:
        """Whether the run is over: failed, or every program returned and memory has settled."""
        return self.failure is not None or not (self._running or self.memory.agents())

    def pending(self, cpu: int) -> Operation | None:
        """Return the operation that a CPU will execute next, or None where its program has returned."""
        return self._pending[cpu]

    def program(self, cpu: int) -> Program:
        """Return a CPU's program, which is not to be run by others."""
        return self._programs[cpu]

    def stack(self, cpu: int) -> tuple[str, ...]:
        """Return the names of the functions that a CPU is in, innermost first."""
        return self._programs[cpu].stack()

    def site(self, cpu: int) -> tuple[Hashable, int]:
        """Return where a CPU stands: what stands for its innermost function, and the instruction in that."""
        return self._programs[cpu].site()

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
        except BaseException as error:
            raise executing_error(self._programs[agent], op, error) from error
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
        if isinstance(op, MAY_WAIT) and op.when is not None:
            return not op.when(self.memory.visible(cpu, op.address))
        return False

    def blockers(self, cpu: int) -> tuple[int, ...]:
        """Return the CPUs that the next operation of a CPU waits for now."""
        op = self._pending[cpu]
        if not isinstance(op, Await | Rmw):
            return ()
        try:
            return blockers_of(op, self.memory.peek(op.address))
        except BaseException as error:
            raise executing_error(self._programs[cpu], op, error) from error

    def stuck(self) -> None:
        """Fail the run in which programs are left and none can step: a deadlock, or a wait that nobody will end."""
        edges = {cpu: self.blockers(cpu) for cpu in self._running}
        error, cpu = stuck_error(edges, {cpu: self.stack(cpu) for cpu in self._running})
        self._fail(error, cpu, self.stack(cpu))

    def exceeded(self, limit: int, *, endless: bool) -> None:
        """Fail the run that has taken its limit of steps and is not done.

        With `endless`, the limit is such that no run comes to it that has an end: raises ProgramError where a CPU is in
        a hook of the user's that goes on for ever by itself. No other CPU can end that, so it is no matter of the
        schedule.
        """
        hooks = {cpu: hook for cpu in self._running if (hook := self._programs[cpu].hook()) is not None}
        if endless and self.trace is None:
            for cpu in hooks:
                self._see_end(cpu, limit)
        where = "".join(f"; CPU {cpu} is in {hook.name}" for cpu, hook in hooks.items())
        self._fail(ModelError(NO_PROGRESS, f"not done after {limit} steps{where}"), None, ())

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
        if number in self._watched and self.observer is not None and succeeds(op, old):
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
        if self.observer is not None and address >> OFFSET_BITS in self._watched:
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
        stopping.check()
        try:
            self._received(cpu, self._programs[cpu].send(response))
        except (StopIteration, ModelError) as ending:
            self._ended(cpu, ending)
        except BaseException as error:
            raise program_error(error) from error

    def _received(self, cpu: int, op: Any) -> None:
        """Take what a program has yielded, and what it yields after that, until it is an operation."""
        program = self._programs[cpu]
        kind = type(op)
        annotations = 0
        while kind not in EXECUTE:
            annotations += 1
            if annotations > MAX_ANNOTATIONS:
                raise endless(program, NO_OPERATION)
            if not isinstance(op, Annotation):
                raise not_an_operation(program, op)
            try:
                self._annotate(cpu, op)
            except ModelError as error:
                # the observer raised it, of where the program stands
                self._fail(error, cpu, self.stack(cpu))
                self._retire(cpu)
                return
            op = program.send(None)
            kind = type(op)
        if self.careful or self.trace is not None:
            self._check(op, program)
        self._pending[cpu] = op
        if kind is Await or (kind is Rmw and op.when is not None):
            self._waiting[cpu] = _NEVER_ASKED
        elif self._waiting:
            self._waiting.pop(cpu, None)

    def _see_end(self, cpu: int, limit: int) -> None:
        """Raise ProgramError where a CPU goes on in its hook, alone, and never comes back to variables that it had."""
        program = self._programs[cpu]
        hook = program.hook()
        code = None if hook is None else hook.code
        seen: list[object] = []
        for _ in range(ENDLESS_PROBES):
            now = program.hook()
            if self.failure is not None or cpu not in self.enabled() or now is None or now.code is not code:
                return
            state = program.variables()
            if state in seen:
                return
            seen.append(state)
            self.step(cpu, _sequential)
        raise endless(program, f"{limit} steps of a run, and its variables are never again what they were")

    def _check(self, op: Any, program: Program) -> None:
        """Raise ProgramError for an operation that is none, or has an address where nothing was ever allocated.

        A free of what is no object is an error of its own, which the allocator sees.
        """
        try:
            wrong = wrong_with(op)
        except Exception as error:
            # an attribute or a hash of the user's; a StopIteration of it must not end the program in silence
            raise program_error(error) from error
        if wrong:
            raise bad_operation(program, op, wrong)
        if self.careful and hasattr(op, "address") and type(op) is not Free and not self.allocator.holds(op.address):
            raise bad_operation(program, op, NO_LOCATION)

    def _ended(self, cpu: int, ending: StopIteration | ModelError) -> None:
        """Take it that a program has returned, or fails."""
        self._retire(cpu)
        if isinstance(ending, ModelError):
            self._fail(ending, cpu, self._programs[cpu].stack_of(ending))

    def _may_go_on(self, cpu: int) -> bool:
        """Return whether the condition holds that a CPU waits for; values are immutable, so each is asked once."""
        op: Any = self._pending[cpu]
        value = self.memory.visible(cpu, op.address)
        asked, holds = self._waiting[cpu]
        if asked is not value:
            try:
                holds = op.when(value)
            except BaseException as error:
                raise executing_error(self._programs[cpu], op, error) from error
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
