"""A CPU that runs calls of the image's functions: one step is what lies between two operations that others can see."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import or_
from pathlib import Path
from types import CodeType
from typing import Any

from fuzzvm.compiled.errors import WILD_ACCESS, ImageError
from fuzzvm.compiled.isa.access import Access, Answer
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.isa.engine import Halt
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.private import TrackedMemory, UnwrittenMemoryError
from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.lines import Frame
from fuzzvm.compiled.run.environment import Caller, Environment, OwnLoad, OwnStore, Setup
from fuzzvm.compiled.run.executable import RETURN
from fuzzvm.compiled.run.links import table_of
from fuzzvm.compiled.run.private import CpuMemory
from fuzzvm.compiled.run.translate import Exclusive, inserted, operation_of, part, shift_of
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.blame import bad_operation, not_an_operation
from fuzzvm.machine.errors import NO_PROGRESS, ModelError, OutdatedProgramError, ProgramError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import (
    OFFSET_BITS,
    Address,
    Alloc,
    Annotation,
    Barrier,
    Dependencies,
    Fence,
    Fetch,
    Free,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Value,
    address_of,
    object_of,
)
from fuzzvm.machine.program import Hook, Keys, LocalState, Place, Program
from fuzzvm.machine.wellformed import wrong_with
from fuzzvm.supervision import user_code
from fuzzvm.supervision.user_code import shown

_PROBE = 1 << 62
"""The name of a load whose value is tried out."""
_TOUCHED_TO_READ, _TOUCHED_TO_WRITE = (1 << OFFSET_BITS) - 1, (1 << OFFSET_BITS) - 2
"""Locations of an object that stand for it where an access is done of which others see only that it is there."""

_PRIMITIVES = str(Path(__file__).with_name("primitives.py"))
"""What boundary functions are made of: stacks name the function that uses it."""

MOST_BLOCKS = 1 << 20
"""Blocks of code between two operations after which a CPU counts as making no progress."""
MOST_OWN = 1 << 13
"""Accesses to its CPU's own memory in a row, after which a boundary function counts as making no progress."""
MOST_ALONE = 1 << 18
"""Accesses between two operations that are no steps, after which a CPU counts as making no progress."""


class _TrialEndError(Exception):
    """A copy that is run to see what comes of a value has come to the next access."""


@dataclass(frozen=True, slots=True)
class _Unchanged:
    def __call__(self, old: Value) -> Value:
        return old


_UNCHANGED = _Unchanged()


class CompiledProgram(Program):
    """A CPU that makes calls of compiled functions in turn."""

    __slots__ = (
        "_access",
        "_answers",
        "_arch",
        "_element",
        "_exclusive",
        "_fenced",
        "_fetching",
        "_issued",
        "_made",
        "_memory",
        "_model",
        "_model_tokens",
        "_picks",
        "_seen_alive",
        "_setup",
        "_taken",
        "_token",
        "_touching",
        "_trial",
        "_views",
        "_x",
        "environment",
    )

    def __init__(self, environment: Environment, setup: Setup) -> None:
        self.environment = environment
        self._setup = setup
        self._arch = environment.executable.arch
        initial = self._arch.initial(environment.executable.image)
        self._memory = CpuMemory(setup.cpu, environment.constant, self._arch.own_size, initial)
        self._memory.cells = {address: (size, value, 0, 0) for address, (size, value) in setup.cells.items()}
        self._taken = TrackedMemory(0, 1 << 64, or_)
        """Locations of objects that may be freed, which no other CPU accesses, by the kernel's address."""
        self._trial = False
        """Whether this is a copy that is run to see what comes of a value."""
        self._touching = False
        self._x, self._views, self._picks = ([0] * self._arch.abi.count for _ in range(3))
        for slot, value in setup.registers.items():
            self._x[slot] = value
        self._made = 0
        """Calls that have been begun."""
        self._access: Access | None = None
        """The access that is under way, and of its elements the one that is next, with the answers to those before."""
        self._element = 0
        self._answers: tuple[tuple[int, int, int], ...] = ()
        self._exclusive: Exclusive | None = None
        """The last exclusive load; its location is `_own` of the address for the CPU's own memory."""
        self._model: GeneratorProgram | None = None
        """The boundary function that is being executed."""
        self._model_tokens = 0
        self._fetching = False
        self._issued = False
        """Whether an operation has been handed over that has had no response."""
        self._fenced = False
        """Whether the barrier that the access is has been done."""
        self._token = -1
        """The name of the load that is under way."""
        self._seen_alive = -1
        """The object that the last step has seen alive, and nothing else; -1 if it did something else."""

    @property
    def calls_begun(self) -> int:
        """The number of calls that it has begun, the one that it is in included."""
        return self._made

    # Program

    def fresh(self) -> CompiledProgram:
        return CompiledProgram(self.environment, self._setup)

    def copy(self) -> CompiledProgram | None:
        if self._model is not None:
            # a generator cannot be copied
            return None
        other = CompiledProgram.__new__(CompiledProgram)
        for name in CompiledProgram.__slots__:
            setattr(other, name, getattr(self, name))
        other._memory, other._taken = self._memory.copy(), self._taken.copy()
        other._x, other._views, other._picks = list(self._x), list(self._views), list(self._picks)
        return other

    def send(self, response: Value, /) -> Operation | Annotation:
        try:
            op = self._next(response)
            alone = 0
            while op is None:
                op = self._next(None)
                alone += 1
                if alone > MOST_ALONE:
                    raise ModelError(NO_PROGRESS, f"{alone} accesses in a row that concern this CPU alone")
        except (ImageError, UnsupportedInstructionError, UnwrittenMemoryError) as error:
            raise self._refused(error) from error
        return op

    def stack(self) -> tuple[str, ...]:
        return tuple([frame.function for frame in self.frames()])

    def frames(self) -> tuple[Frame, ...]:
        """Return the functions that it is in with their source lines, innermost first, inlined ones included.

        What the model stands for has no line, and what the user has stated has its own.
        """
        own = [] if self._model is None else self._model.frames()
        modelled = [_stated(code, line) for code, line in reversed(own) if code.co_filename != _PRIMITIVES]
        return (*modelled, *(frame for address in self._return_addresses() for frame in self._frames(address)))

    def stack_of(self, error: Exception) -> tuple[str, ...]:
        return self.stack()

    def site(self) -> tuple[Hashable, int]:
        if self._model is not None:
            return self._model.site()
        symbol = self.environment.executable.image.symbol_at(self._x[PC])
        return ("" if symbol is None else symbol.name), self._x[PC] - (0 if symbol is None else symbol.address)

    def hook(self) -> Hook | None:
        return None if self._model is None else self._model.hook()

    def variables(self) -> object:
        return None if self._model is None else self._model.variables()

    def place(self) -> Place:
        image = self.environment.executable.image
        # a function that the image does not have is named by the line that calls it
        frame = next((frame for frame in self.frames() if frame.file), None)
        name = image.name_at(self._x[PC])
        return Place(name, "", 0) if frame is None else Place(name, frame.file, frame.line)

    @property
    def touches(self) -> bool:
        """Whether the operation at which it stands shows only that an object is there, for accesses that follow it."""
        return self._touching

    def point(self) -> Hashable:
        """Return where the program stands: equal in two runs of it that have made the same accesses so far.

        What a register holds that is not read any more is left out.
        """
        x, model = self._x, self._model
        pc = x[PC] if model is None else self._arch.return_address(x, self._memory)
        registers = tuple([x[slot] for slot in self.environment.executable.live(pc)])
        return self._made, x[PC], self._element, registers, None if model is None else model.site()

    def local_state(self, keys: Keys) -> LocalState:
        executable = self.environment.executable
        x, cells = self._x, self._memory.cells
        pc = x[PC]
        model: tuple[Hashable, ...] = ()
        location: Hashable = pc
        live: Sequence[int]
        if self._model is not None:
            state = self._model.local_state(keys)
            model = (state.key, self._model_tokens)
            location = (pc, state.location)
            # what the function returns to reads what is saved for it; its result is not there yet
            abi = self._arch.abi
            kept = abi.callee_saved | abi.link | abi.system
            returns_to = self._arch.return_address(x, self._memory)
            live = [slot for slot in executable.live(returns_to) if slot in kept] if keys.live_only else range(len(x))
        else:
            live = executable.live(pc) if keys.live_only else range(len(x))
        if keys.live_only:
            self._memory.left(x[SP])
        registers: tuple[int, ...] = tuple([x[slot] for slot in live])
        if executable.tracked:
            views, picks = self._views, self._picks
            registers += tuple([views[slot] for slot in live]) + tuple([picks[slot] for slot in live])
        progress = (
            *(self._made, self._element, self._answers, self._exclusive, self._seen_alive, self._token),
            self._fenced,
        )
        key = (
            pc,
            self._fetching,
            progress,
            registers,
            frozenset(cells.items()),
            frozenset(self._taken.cells.items()),
            *model,
        )
        return LocalState((self._made, self._element, location), key)

    # Running

    def _next(self, response: Value) -> Operation | Annotation | None:
        """Take a response, and return what comes next; None where the code is to go on."""
        if self._model is not None:
            return self._in_model(response)
        if self._issued:
            self._issued = False
            if self._fetching:
                self._fetched(response)
            else:
                self._answered(response)
        if self._access is not None:
            return self._operation(self._access)
        if self._x[PC] == 0:
            self._begin_call()
        return self._run()

    def _begin_call(self) -> None:
        if self._made == len(self._setup.calls):
            raise StopIteration
        call = self._setup.calls[self._made]
        self._made += 1
        abi = self._arch.abi
        for slot in abi.everything - abi.system:
            self._x[slot] = 0
        for slot, value in zip(abi.arguments, call.arguments, strict=False):
            self._x[slot] = value
        self._arch.begin(self._x, self._memory, self._memory.stack_top, RETURN)
        self._x[PC] = call.function
        self._forget_dependencies()

    def _forget_dependencies(self) -> None:
        """Depend on nothing: another call is made, which nothing read before has decided."""
        self._views[:] = self._picks[:] = [0] * len(self._x)

    def _run(self) -> Operation | Annotation | None:
        executable, x = self.environment.executable, self._x
        halt = (
            executable.code.run_tracked(x, self._views, self._picks, self._memory, MOST_BLOCKS)
            if (executable.tracked)
            else executable.code.run(x, _Untracked(self._memory), MOST_BLOCKS)
        )
        if halt is Halt.ACCESS:
            return self._operation(executable.code.access(x))
        if halt is Halt.STOP:
            return self._stopped()
        raise ModelError(NO_PROGRESS, f"{executable.image.describe(x[PC])} goes on for ever without an access")

    def _stopped(self) -> Operation | Annotation | None:
        """Go on behind one of the stops."""
        x = self._x
        pc = x[PC]
        environment = self.environment
        executable = environment.executable
        if pc == RETURN:
            if self._trial:
                # the next call depends on nothing, and whether this one has come to its end here may
                raise _TrialEndError
            x[PC] = 0
            self._memory.left(self._memory.stack_top)
            return None
        if pc in environment.thunks:
            self._arch.leave(x, self._memory)
            return None
        if pc in environment.ignored:
            self._leave(0)
            return None
        if self._trial:
            raise _TrialEndError
        if pc in executable.sites:
            return self._fetch(environment.memory.site(pc))
        # a function has been called
        arguments = tuple([x[slot] for slot in self._arch.abi.arguments])
        caller = Caller(self._setup.cpu, arguments, environment, self._arch.return_address(x, self._memory))
        if pc in environment.own_memory:
            result = environment.own_memory[pc](self._memory, environment.memory, caller.arguments)
            if result is not None:
                slot = self._arch.abi.arguments[0]
                self._leave(result, self._views[slot], self._picks[slot])
                return None
        if pc in environment.boundary:
            boundary = environment.boundary[pc]
            self._model = GeneratorProgram(lambda: boundary(caller))
            self._model_tokens = 0
            return self._in_model(None)
        if pc in executable.probes:
            annotation = environment.probes[pc](caller)
            self._step(executable.code.instruction(pc))
            return annotation
        name = executable.image.name_at(pc)
        raise ImageError(f"{name} is called, which the image does not define and nobody stands for")

    def _step(self, instruction: Instruction) -> None:
        """Run one instruction that is no access that others can see."""
        executable = self.environment.executable
        halt = (
            executable.code.step_tracked(self._x, self._views, self._picks, self._memory, instruction)
            if (executable.tracked)
            else executable.code.step(self._x, _Untracked(self._memory), instruction)
        )
        if halt is Halt.ACCESS:
            raise ImageError(f"{executable.image.describe(self._x[PC])}: a function begins with an access")

    def _fetch(self, site: Address) -> Fetch | None:
        """Return the fetch of the instruction at the site of a static key; None where nobody ever patches it."""
        knowledge = self.environment.knowledge
        if knowledge is not None and knowledge.is_constant(site):
            self._fetched(knowledge.content(site))
            return None
        self._fetching = self._issued = True
        return Fetch(site, depends=self._depends())

    def _fetched(self, response: Value) -> None:
        self._fetching = False
        executable, pc = self.environment.executable, self._x[PC]
        # what is fetched orders all that follows; nothing depends on it
        branches = executable.branches_at_boot(pc) != bool(response)
        self._x[PC] = executable.sites[pc].target if branches else executable.code.instruction(pc).following

    # Boundary functions

    def _in_model(self, response: Value) -> Operation | Annotation | None:
        model = self._model
        assert model is not None
        try:
            op = model.send(response)
            alone = 0
            while isinstance(op, OwnLoad | OwnStore):
                alone += 1
                if alone > MOST_OWN:
                    raise ModelError(NO_PROGRESS, f"{alone} accesses in a row that concern this CPU alone")
                op = model.send(self._own_access(op))
        except StopIteration as stop:
            self._returned(stop.value)
            return None
        if isinstance(op, Annotation):
            return op
        if not isinstance(op, Operation):
            raise not_an_operation(model, op)
        if wrong := wrong_with(op):
            raise bad_operation(model, op, wrong)
        self._note(op)
        if self.environment.executable.tracked and not isinstance(op, Alloc | Free):
            token = self._free_token() if isinstance(op, Load | Rmw) else -1
            if token >= 0:
                self._model_tokens |= 1 << token
            op = replace(op, depends=self._depends(token=token))
        self._seen_alive = -1
        return op

    def _own_access(self, op: OwnLoad | OwnStore) -> int:
        """Do what a boundary function does to the CPU's own memory; what it has read depends on what that did."""
        if isinstance(op, OwnStore):
            self._memory.store(op.va, op.size, op.value, self._model_tokens, self._model_tokens)
            return 0
        found = self._memory.load(op.va, op.size)
        assert found is not None
        value, view, pick = found
        self._model_tokens |= view | pick
        return value

    def _returned(self, result: object) -> None:
        if result is not None and not isinstance(result, int):
            name = self.environment.executable.image.name_at(self._x[PC])
            raise ImageError(f"{name}() is stated to return {shown(result)}, which is no number")
        self._model = None
        self._leave(None if result is None else result & (1 << 64) - 1, self._model_tokens, self._model_tokens)

    def _leave(self, result: int | None, views: int = 0, picks: int = 0) -> None:
        """Return from a function that is stood for; the result, None for none, depends on loads of these names."""
        if result is not None:
            slot = min(self._arch.abi.results)
            self._x[slot] = result
            self._views[slot], self._picks[slot] = views, picks
        self._arch.leave(self._x, self._memory)

    # Accesses

    def _operation(self, access: Access) -> Operation | None:
        """Return the operation of the next element of an access; None where that is done without one."""
        if self._trial:
            raise _TrialEndError
        request, x = access.request, self._x
        self._access = access
        self._token = -1
        if request.kind is Kind.CLEAR_EXCLUSIVE:
            self._exclusive = None
            self._complete(None)
            return None
        if request.kind is Kind.EXCLUSIVE_STORE and self._exclusive is None:
            self._complete(1)
            return None
        unit = None
        self._seen_alive, seen_alive = -1, self._seen_alive
        if request.size:
            va = access.element(self._element)
            if self._memory.low <= va < self._memory.high:
                if request.full_barrier and not self._fenced:
                    # of the access nobody sees anything, but it orders those before it and after it
                    self._fenced = self._issued = self._touching = True
                    return Fence(Barrier.DMB_ISH, depends=self._depends(access, self._element))
                if request.full_barrier and va < x[SP] and access.instruction.writes <= self._arch.flags:
                    # what lies there is nobody's: Linux's smp_mb() adds 0 to it
                    self._complete(0)
                    for slot in self._arch.flags:
                        x[slot] = self._arch.undefined
                    return None
                self._access_own(access, va, self._memory)
                return None
            if not access.is_aligned:
                raise ImageError(f"an access that is not aligned, at {access.address:#x}")
            stores = request.kind not in (Kind.LOAD, Kind.EXCLUSIVE_LOAD)
            unit = self.environment.memory.location(va, request.size)
            if unit is None:
                if stores:
                    raise ModelError(WILD_ACCESS, f"{access.instruction.text!r} writes to {va:#x}, which is read-only")
                content = self.environment.memory.constant(va, request.size)
                self._answer(content, *self._address_dependencies(access))
                return None
            op = self._quietly(access, va, unit, seen_alive)
            if op is not None or self._access is None:
                return op
        executable = self.environment.executable
        depends = None
        if executable.tracked:
            if request.answers and request.kind is not Kind.EXCLUSIVE_STORE and not request.no_return:
                self._token = self._free_token()
            depends = self._depends(access, self._element, self._token)
        bug = executable.image.bugs.get(x[PC])
        op = operation_of(access, self._element, unit, self._exclusive, self.environment.memory, depends, bug)
        self._issued = True
        return op

    def _quietly(self, access: Access, va: int, unit: Unit, seen_alive: int) -> Operation | None:
        """Do an access that is no step, or return the operation that stands for it; None where it is like any other.

        After one that is no step there is no access any more.
        """
        request, environment = access.request, self.environment
        knowledge = environment.knowledge
        if knowledge is None:
            return None
        reads = request.kind is not Kind.STORE
        writes = request.kind not in (Kind.LOAD, Kind.EXCLUSIVE_LOAD)
        plain = request.order is Order.PLAIN
        values = (self._boot_content(unit), *access.values[self._element : self._element + 1])
        # of an entry that an instruction changes in part, or by an operation, it does not say what comes out
        whole = (request.kind is not Kind.ATOMIC or request.operation == "swp") and request.size == unit.size
        if writes and (
            any(table_of(environment.memory, value) is not None for value in values)
            or (not whole and environment.memory.may_be_entry(unit.address))
        ):
            knowledge.watch(unit.address)
        unused = self._unused(access) if plain and request.kind is Kind.LOAD else None
        if unused is None:
            quiet = knowledge.access(unit.address, self._setup.cpu, reads=reads, writes=writes, plain=plain)
            if not quiet:
                return None
        number = object_of(unit.address)
        if knowledge.lasting(unit.address) or number == seen_alive:
            self._seen_alive = seen_alive
            if unused is not None:
                self._adopt(unused)
            else:
                self._access_quietly(access, va, unit)
            return None
        # that the object is there has to be seen once, and then everything may go on
        self._seen_alive = number
        self._issued = self._touching = True
        depends = self._depends(access, self._element)
        if writes:
            return Rmw(address_of(number, _TOUCHED_TO_WRITE), _UNCHANGED, quiet=True, depends=depends)
        return Load(address_of(number, _TOUCHED_TO_READ), depends=depends)

    def _boot_content(self, unit: Unit) -> int:
        knowledge, memory = self.environment.knowledge, self.environment.memory
        assert knowledge is not None
        return memory.initial(unit) ^ (knowledge.content(unit.address) if knowledge.at_boot(unit.address) else 0)

    def _access_quietly(self, access: Access, va: int, unit: Unit) -> None:
        """Do an access to a location that no other CPU writes, and none reads if this one writes it."""
        knowledge = self.environment.knowledge
        assert knowledge is not None
        if not knowledge.is_written(unit.address):
            if access.request.kind is Kind.EXCLUSIVE_LOAD:
                # the store that goes with it shows that it is written
                content = knowledge.content(unit.address)
                self._exclusive = Exclusive(unit.address, content, access.request.order)
            content = self.environment.content(va, unit, access.request.size)
            self._answer(content, *self._address_dependencies(access))
            return
        memory = self._memory if knowledge.lasting(unit.address) else self._taken
        start = self.environment.memory.va(unit.address)
        if start not in memory.cells:
            memory.cells[start] = unit.size, self.environment.content(start, unit, unit.size), 0, 0
        self._access_own(access, va, memory, unit)

    def _unused(self, access: Access) -> CompiledProgram | None:
        """Return the program after a load whose value nothing comes of, whatever it is; None where something does.

        It is run with some value that carries a name of its own. If no branch, address or value until the next access
        depends on that name, nor what is live there, then every other value leads there as well.
        """
        executable = self.environment.executable
        pc = self._x[PC]
        if not executable.tracked or access.request.count != 1 or pc in executable.used:
            return None
        trial = self.copy()
        assert trial is not None
        trial._trial = True
        runs = executable.code.runs
        try:
            trial._answer(0, _PROBE, _PROBE)
            while True:
                trial._next(None)
        except _TrialEndError:
            if not trial._depends_on(_PROBE):
                executable.unused.add(pc)
                return trial
        except (ImageError, ModelError, UnsupportedInstructionError, UnwrittenMemoryError, StopIteration):
            # with another value it may be otherwise
            pass
        # what it has run besides is not what happens
        executable.code.forget_runs(runs)
        executable.used.add(pc)
        if pc in executable.unused:
            # it was taken for a load of which nothing comes wherever it was met
            raise OutdatedProgramError
        return None

    def _depends_on(self, name: int) -> bool:
        """Return whether anything that may still be looked at depends on a load of this name."""
        views, picks = self._views, self._picks
        # nobody reads the part of the stack that has been left
        self._memory.left(self._x[SP])
        return (
            bool(picks[PC] & name)
            or any((views[slot] | picks[slot]) & name for slot in self.environment.executable.live(self._x[PC]))
            or any((view | pick) & name for _, _, view, pick in self._memory.cells.values())
        )

    def _adopt(self, trial: CompiledProgram) -> None:
        """Become what a trial has become."""
        seen_alive = self._seen_alive
        for name in CompiledProgram.__slots__:
            setattr(self, name, getattr(trial, name))
        self._trial = False
        self._seen_alive = seen_alive
        self._views = [view & ~_PROBE for view in self._views]
        self._picks = [pick & ~_PROBE for pick in self._picks]

    def _access_own(self, access: Access, va: int, memory: TrackedMemory, unit: Unit | None = None) -> None:
        """Do what an access does to memory that this CPU alone uses: nobody sees its order or its parts.

        `unit` is the location of memory that CPUs share, which is one cell.
        """
        request = access.request
        views, picks = self._joined((*access.instruction.address_reads, *access.instruction.reads))
        cell = None if unit is None or unit.size == request.size else unit
        at, size = (va, request.size) if cell is None else (self.environment.memory.va(cell.address), cell.size)

        def write(value: int) -> None:
            view, pick = views, picks
            if cell is not None:
                before = memory.load(at, size)
                assert before is not None
                value = inserted(before[0], shift_of(cell, va), request.size, value)
                view, pick = view | before[1], pick | before[2]
            stored = memory.store(at, size, value, view, pick)
            assert stored

        content = 0
        if request.kind is Kind.EXCLUSIVE_STORE:
            # nobody comes between; the status is 0, unless the load was of another place
            content = int(self._exclusive is None or self._exclusive.location != _own(va))
            self._exclusive = None
            if not content:
                write(access.values[self._element])
        elif request.kind is Kind.STORE:
            write(access.values[self._element])
        else:
            found = memory.load(at, size)
            assert found is not None
            content = found[0] if cell is None else part(found[0], cell, va, request.size)
            views, picks = views | found[1], picks | found[2]
        if request.kind is Kind.EXCLUSIVE_LOAD:
            self._exclusive = Exclusive(_own(va), content, request.order)
        elif request.kind in (Kind.ATOMIC, Kind.COMPARE_AND_SWAP):
            new = access.updated((content,))
            if new is not None:
                write(new[0])
        if request.answers:
            self._answer(content, views, picks)
        else:
            self._next_element(None)

    def _note(self, op: Operation) -> None:
        """Tell what is known of the scenario that a boundary function does this. Raises OutdatedProgramError."""
        knowledge = self.environment.knowledge
        if knowledge is None:
            return
        if isinstance(op, Load | Store | Rmw):
            writes = not isinstance(op, Load)
            knowledge.access(op.address, self._setup.cpu, reads=True, writes=writes, plain=False)
        elif isinstance(op, Free):
            knowledge.free(op.address)

    def _answered(self, response: Value) -> None:
        """Take the response to the operation of an element."""
        access = self._access
        assert access is not None
        request = access.request
        if self._touching:
            # the object is there: now the access is done as one that is no step
            self._touching = False
            return
        if not request.answers:
            self._next_element(None)
            return
        memory = self.environment.memory
        va = access.element(self._element)
        unit = memory.location(va, request.size)
        assert isinstance(response, int) and unit is not None
        content = part(response ^ memory.initial(unit), unit, va, request.size)
        views = 0 if self._token < 0 else 1 << self._token
        if request.kind is Kind.EXCLUSIVE_LOAD:
            self._exclusive = Exclusive(unit.address, response, request.order)
        elif request.kind is Kind.EXCLUSIVE_STORE:
            assert self._exclusive is not None
            content = int(response != self._exclusive.content)
            self._exclusive = None
        self._answer(content, views, views)

    def _answer(self, content: int, views: int, picks: int) -> None:
        """Take what an element has read, and what that depends on."""
        self._next_element((content, views, picks))

    def _next_element(self, answer: tuple[int, int, int] | None) -> None:
        access = self._access
        assert access is not None
        if answer is not None:
            self._answers = (*self._answers, answer)
        self._element += 1
        if self._element < access.request.count and access.request.size:
            return
        if not self._answers:
            self._complete(None)
            return
        contents, views, picks = zip(*self._answers, strict=True)
        if len(contents) == 1:
            self._complete(contents[0], views[0], picks[0])
        else:
            self._complete(contents, views, picks)

    def _complete(self, response: Answer, views: Any = 0, picks: Any = 0) -> None:
        """Finish the instruction."""
        access, executable = self._access, self.environment.executable
        assert access is not None
        if executable.tracked:
            executable.code.complete_tracked(self._x, self._views, self._picks, access, response, views, picks)
        else:
            executable.code.complete(self._x, access, response)
        self._access = None
        self._element = 0
        self._answers = ()
        self._fenced = False

    # Dependencies

    def _depends(self, access: Access | None = None, element: int = 0, token: int = -1) -> Dependencies | None:
        """Return what an operation depends on, by the names of loads; None where that is not followed."""
        if not self.environment.executable.tracked:
            return None
        control, self._picks[PC] = self._picks[PC], 0
        address = data = address_pick = data_pick = 0
        if access is not None:
            instruction = access.instruction
            address, address_pick = self._joined(instruction.address_reads)
            values = [instruction.value_reads[element]] if element < len(instruction.value_reads) else []
            data, data_pick = self._joined(slot for reads in (*values, *instruction.expected_reads) for slot in reads)
        named = [_names(bits) for bits in (address, data, control, address_pick, data_pick)]
        return Dependencies(named[0], named[1], named[2], named[3], named[4], token, _names(self._used()))

    def _joined(self, slots: Iterable[int]) -> tuple[int, int]:
        views = picks = 0
        for slot in slots:
            views |= self._views[slot]
            picks |= self._picks[slot]
        return views, picks

    def _address_dependencies(self, access: Access) -> tuple[int, int]:
        return self._joined(access.instruction.address_reads) if self.environment.executable.tracked else (0, 0)

    def _used(self) -> int:
        """Return the names of loads that something may still depend on."""
        used = self._model_tokens
        x = self._x
        pc = x[PC] if self._model is None else self._arch.return_address(x, self._memory)
        live = self.environment.executable.live(pc)
        for slot in live:
            used |= self._views[slot] | self._picks[slot]
        for _, _, view, pick in self._memory.cells.values():
            used |= view | pick
        for _, view, pick in self._answers:
            used |= view | pick
        return used

    def _free_token(self) -> int:
        """Return the smallest name that no load has on which something may still depend."""
        used = self._used()
        return (~used & used + 1).bit_length() - 1

    # Where the CPU stands

    def _return_addresses(self) -> list[int]:
        """Return the program counter, and an address inside of each call that it is in, innermost first."""
        begun = self._model is not None
        found = [] if begun else [self._x[PC]]
        image = self.environment.executable.image
        records = self._arch.return_addresses(self._x, self._memory, image, begun=begun)
        return [*found, *[address - 1 for address in records if address != RETURN]]

    def _frames(self, address: int) -> tuple[Frame, ...]:
        return self.environment.executable.frames(address)

    def _refused(self, error: Exception) -> ProgramError:
        """Return what to raise for code that cannot be run: it names function, address and source line."""
        name, filename, line = self.place()
        stated = user_code.place_in(error)
        if stated is not None:
            return ProgramError(f"{stated[2]}: {error}", *stated[:2])
        return ProgramError(f"{name} ({self._x[PC]:#x}): {error}", filename, line)


class _Untracked:
    """A CPU's own memory as code without dependencies sees it."""

    def __init__(self, memory: CpuMemory) -> None:
        self._memory = memory

    def load(self, address: int, size: int) -> int | None:
        found = self._memory.load(address, size)
        return None if found is None else found[0]

    def store(self, address: int, size: int, value: int) -> bool:
        return self._memory.store(address, size, value, 0, 0)

    def left(self, sp: int) -> None:
        self._memory.left(sp)


def _stated(code: CodeType, line: int) -> Frame:
    """Return the frame of a boundary function."""
    file = code.co_filename if user_code.is_users(code.co_filename) else ""
    return Frame(code.co_name, file, line if file else 0, inlined=False)


def _own(va: int) -> int:
    """Return what stands for an address of memory that one CPU alone uses where locations do: none is negative."""
    return -va


@cache
def _names(bits: int) -> frozenset[int]:
    """Return the numbers of the bits that are set."""
    return frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)
