"""A CPU that runs calls of the image's functions: one step is what lies between two operations that others can see."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.isa.engine import Halt
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.private import UnwrittenMemoryError
from fuzzvm.compiled.isa.slots import PC
from fuzzvm.compiled.run.accesses import CpuAccesses, TrialEndError
from fuzzvm.compiled.run.environment import Caller, OwnLoad, OwnStore
from fuzzvm.compiled.run.executable import RETURN
from fuzzvm.compiled.run.private import CpuMemory
from fuzzvm.machine.blame import bad_operation, not_an_operation
from fuzzvm.machine.errors import NO_PROGRESS, ModelError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Annotation,
    Fetch,
    Free,
    Load,
    Operation,
    Rmw,
    Store,
    Value,
)
from fuzzvm.machine.program import Hook
from fuzzvm.machine.wellformed import wrong_with
from fuzzvm.supervision.user_code import shown

MOST_BLOCKS = 1 << 20
"""Blocks of code between two operations after which a CPU counts as making no progress."""
MOST_OWN = 1 << 13
"""Accesses to its CPU's own memory in a row, after which a boundary function counts as making no progress."""
MOST_ALONE = 1 << 18
"""Accesses between two operations that are no steps, after which a CPU counts as making no progress."""


class CompiledProgram(CpuAccesses):
    """A CPU that makes calls of compiled functions in turn."""

    __slots__ = ()

    def fresh(self) -> CompiledProgram:
        return CompiledProgram(self.environment, self._setup)

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

    def hook(self) -> Hook | None:
        return None if self._model is None else self._model.hook()

    def variables(self) -> object:
        return None if self._model is None else self._model.variables()

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
                raise TrialEndError
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
            raise TrialEndError
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
