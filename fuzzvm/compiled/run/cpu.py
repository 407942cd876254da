"""The state of a CPU that runs compiled code: where it stands, and which loads it depends on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from operator import or_
from pathlib import Path
from types import CodeType
from typing import Self

from fuzzvm.compiled.isa.access import Access
from fuzzvm.compiled.isa.private import TrackedMemory
from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.lines import Frame
from fuzzvm.compiled.run.environment import Environment, Setup
from fuzzvm.compiled.run.executable import RETURN
from fuzzvm.compiled.run.private import CpuMemory
from fuzzvm.compiled.run.translate import Exclusive
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Dependencies
from fuzzvm.machine.program import Keys, LocalState, Place, Program
from fuzzvm.supervision import user_code

_PRIMITIVES = str(Path(__file__).with_name("primitives.py"))
"""What boundary functions are made of: stacks name the function that uses it."""


class CompiledCpu(Program):
    """A CPU at one point of its calls. How it goes on is said by those that derive from it."""

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

    def copy(self) -> Self | None:
        if self._model is not None:
            # a generator cannot be copied
            return None
        other = type(self).__new__(type(self))
        for name in CompiledCpu.__slots__:
            setattr(other, name, getattr(self, name))
        other._memory, other._taken = self._memory.copy(), self._taken.copy()
        other._x, other._views, other._picks = list(self._x), list(self._views), list(self._picks)
        return other

    # State

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

    # Dependencies

    def _forget_dependencies(self) -> None:
        """Depend on nothing: another call is made, which nothing read before has decided."""
        self._views[:] = self._picks[:] = [0] * len(self._x)

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

    def _free_token(self) -> int:
        """Return the smallest name that no load has on which something may still depend."""
        used = self._used()
        return (~used & used + 1).bit_length() - 1

    # Where the CPU stands

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

    def place(self) -> Place:
        image = self.environment.executable.image
        # a function that the image does not have is named by the line that calls it
        frame = next((frame for frame in self.frames() if frame.file), None)
        name = image.name_at(self._x[PC])
        return Place(name, "", 0) if frame is None else Place(name, frame.file, frame.line)

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


def _stated(code: CodeType, line: int) -> Frame:
    """Return the frame of a boundary function."""
    file = code.co_filename if user_code.is_users(code.co_filename) else ""
    return Frame(code.co_name, file, line if file else 0, inlined=False)


@cache
def _names(bits: int) -> frozenset[int]:
    """Return the numbers of the bits that are set."""
    return frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)
