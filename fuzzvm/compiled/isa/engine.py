"""Runs code: local instructions in one go, up to the next access that the caller has to answer."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from traceback import walk_tb
from typing import Any, Protocol, TypeAlias

from fuzzvm.compiled.isa.access import Access, Answer
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.isa.generate import VISIBLE, Tracking, address_at, block, compiled, halves
from fuzzvm.compiled.isa.instruction import Instruction
from fuzzvm.compiled.isa.slots import MASK64, PC

Fetch: TypeAlias = Callable[[int], Instruction]
"""Returns the instruction at an address; raises UnsupportedInstructionError, and what its owner likes for no code."""

_LONGEST_BLOCK = 64


class Private(Protocol):
    """The memory that only one CPU uses: its stack, its task."""

    def load(self, address: int, size: int) -> int | None:
        """Return the value of so many bytes, or None if they are not private."""

    def store(self, address: int, size: int, value: int) -> bool:
        """Write so many bytes. Return False, and do nothing, if they are not private."""


class TrackedPrivate(Protocol):
    """The same, with what each value depends on."""

    def load(self, address: int, size: int) -> tuple[int, Any, Any] | None:
        """Return value, view and pick, or None if the bytes are not private."""

    def store(self, address: int, size: int, value: int, view: Any, pick: Any) -> bool:
        """Write so many bytes. Return False, and do nothing, if they are not private."""


class Halt(enum.Enum):
    """Why a run ended."""

    ACCESS = "access"
    """The next instruction is an access that the caller has to answer."""
    STOP = "stop"
    """The next address is one of the stops."""
    LIMIT = "limit"
    """So many blocks have been run that the caller wants to know."""


class Code:
    """Code at fixed addresses. It is read once; `stops` must not change either.

    `stops` are addresses where a run ends before anything is executed: functions that the caller stands for, return
    addresses, code that is patched at run time. With `tracking`, dependencies are carried beside the values, and
    `run_tracked` and `complete_tracked` are what to call. With `tells_returns`, a CPU's memory has a method `left` as
    well, which is called with the stack pointer where a function returns. `flags` are slots that most instructions
    write and few read: what is written in a block before anything reads it is not computed.
    """

    def __init__(
        self,
        fetch: Fetch,
        stops: Collection[int] = (),
        tracking: Tracking | None = None,
        *,
        tells_returns: bool = False,
        flags: frozenset[int] = frozenset(),
    ) -> None:
        self._fetch = fetch
        self._stops = frozenset(stops)
        self._tracking = tracking
        self._tells_returns = tells_returns
        self._flags = flags
        self._instructions: dict[int, Instruction] = {}
        self._blocks: dict[int, Callable[..., int]] = {}
        """Those that have been run since `forget_runs`, in the order of their first run."""
        self._made: dict[int, Callable[..., int]] = {}
        """All."""
        self._addresses: dict[int, tuple[int, ...]] = {}
        """Of the instructions of each."""
        self._sources: dict[int, str] = {}
        self._single: dict[Instruction, Callable[..., int]] = {}
        self._halves: dict[Instruction, tuple[Callable[..., Any], Callable[..., int]]] = {}

    def instruction(self, address: int) -> Instruction:
        """Return the instruction at an address.

        Raises what `fetch` raises.
        """
        found = self._instructions.get(address)
        if found is None:
            found = self._instructions[address] = self._fetch(address)
        return found

    def forget_runs(self, number: int = 0) -> None:
        """Have `has_run` begin anew, or go back to when `runs` was `number`."""
        while len(self._blocks) > number:
            self._blocks.popitem()

    @property
    def runs(self) -> int:
        """The number of blocks that have been run since `forget_runs`."""
        return len(self._blocks)

    def has_run(self) -> frozenset[int]:
        """Return the addresses of the instructions of all blocks that have been run since `forget_runs`."""
        return frozenset(address for start in self._blocks for address in self._addresses[start])

    def run(self, x: list[int], private: Private, limit: int) -> Halt:
        """Run from the program counter in `x`, and return why the run ended; `x` holds the state there.

        At most `limit` blocks are run. Raises what `fetch` raises where such an instruction is about to be run,
        UndefinedFlagError, and what `private` raises; `x` then holds the state before that instruction.
        """
        return self._run(x, (x, *self._of(private)), limit)

    def run_tracked(
        self, x: list[int], views: list[Any], picks: list[Any], private: TrackedPrivate, limit: int
    ) -> Halt:
        """Run as `run` does, and carry dependencies; `views` and `picks` hold them for each slot of `x`."""
        return self._run(x, (x, views, picks, *self._of(private)), limit)

    def step(self, x: list[int], private: Private, instruction: Instruction) -> Halt:
        """Run an instruction that was fetched at the program counter, whatever `fetch` has there.

        Return ACCESS where the caller has to answer it, else LIMIT, and the program counter is behind it.
        """
        return self._step(x, (x, *self._of(private)), instruction)

    def step_tracked(
        self, x: list[int], views: list[Any], picks: list[Any], private: TrackedPrivate, instruction: Instruction
    ) -> Halt:
        """Run an instruction as `step` does, and carry dependencies."""
        return self._step(x, (x, views, picks, *self._of(private)), instruction)

    def _of(self, private: Any) -> tuple[Callable[..., Any], ...]:
        """Return the functions of a CPU's memory that blocks call."""
        functions = (private.load, private.store)
        return (*functions, private.left) if self._tells_returns else functions

    def _step(self, x: list[int], arguments: tuple[Any, ...], instruction: Instruction) -> Halt:
        function = self._single.get(instruction)
        if function is None:
            source = block((instruction,), self._tracking, tells_returns=self._tells_returns)
            function = compiled(source, f"instruction {instruction.address:#x}")["block"]
            self._single[instruction] = function
        pc = function(*arguments)
        x[PC] = pc & MASK64
        return Halt.ACCESS if pc & VISIBLE else Halt.LIMIT

    def _run(self, x: list[int], arguments: tuple[Any, ...], limit: int) -> Halt:
        blocks, pc = self._blocks, x[PC]
        try:
            for _ in range(limit):
                if pc not in blocks:
                    if pc in self._stops:
                        return Halt.STOP
                    blocks[pc] = self._block(pc)
                pc = blocks[pc](*arguments)
                if pc & VISIBLE:
                    pc -= VISIBLE
                    return Halt.ACCESS
            return Halt.STOP if pc in self._stops else Halt.LIMIT
        except Exception as error:
            pc = self._raised_at(error, pc)
            raise
        finally:
            x[PC] = pc

    def _raised_at(self, error: Exception, block_start: int) -> int:
        """Return the address of the instruction at which a block raised an error."""
        for frame, line in walk_tb(error.__traceback__):
            if frame.f_code is getattr(self._blocks.get(block_start), "__code__", None):
                return address_at(self._sources[block_start], line)
        return block_start

    def access(self, x: list[int], instruction: Instruction | None = None) -> Access:
        """Return the access that the instruction at the program counter is, or that `instruction` is, fetched there."""
        if instruction is None:
            instruction = self.instruction(x[PC])
        address, values, expected = self._both(instruction)[0](x)
        return Access(instruction, address, values, expected)

    def complete(self, x: list[int], access: Access, response: Answer = None) -> None:
        """Finish an instruction whose access has been answered, and go on behind it or where it branches to.

        `response` is what `Access` says. Raises ValueError for another.
        """
        _check(access, response)
        x[PC] = self._both(access.instruction)[1](x, response)

    def complete_tracked(
        self,
        x: list[int],
        views: list[Any],
        picks: list[Any],
        access: Access,
        response: Answer = None,
        response_views: Any = None,
        response_picks: Any = None,
    ) -> None:
        """Finish an instruction as `complete` does; for each element of the response say what it depends on."""
        _check(access, response)
        complete = self._both(access.instruction)[1]
        x[PC] = complete(x, views, picks, response, response_views, response_picks)

    def _block(self, start: int) -> Callable[..., int]:
        made = self._made.get(start)
        if made is None:
            made = self._made[start] = self._make(start)
        return made

    def _make(self, start: int) -> Callable[..., int]:
        instructions: list[Instruction] = []
        address = start
        while len(instructions) < _LONGEST_BLOCK and (address == start or address not in self._stops):
            try:
                instruction = self.instruction(address)
            except Exception:
                # a fault of the code behind this block, which may never be reached
                if not instructions:
                    raise
                break
            instructions.append(instruction)
            request = instruction.request
            if instruction.is_branch or (request is not None and not request.may_be_private):
                break
            address = instruction.following
        self._addresses[start] = tuple(one.address for one in instructions)
        source = self._sources[start] = block(
            instructions, self._tracking, tells_returns=self._tells_returns, flags=self._flags
        )
        function: Callable[..., int] = compiled(source, f"block {start:#x}")["block"]
        return function

    def _both(self, instruction: Instruction) -> tuple[Callable[..., Any], Callable[..., int]]:
        found = self._halves.get(instruction)
        if found is None:
            source = halves(instruction, self._tracking)
            namespace = compiled(source, f"instruction {instruction.address:#x}")
            found = self._halves[instruction] = namespace["request"], namespace["complete"]
        return found


def _check(access: Access, response: Answer) -> None:
    request = access.request
    limit = {Kind.EXCLUSIVE_STORE: 2, Kind.SYSTEM_READ: MASK64 + 1}.get(request.kind, 1 << 8 * request.size)
    parts = response if request.answers == 2 else (response,) if request.answers else ()
    if not isinstance(parts, tuple) or len(parts) != request.answers or (response is None) != (request.answers == 0):
        raise ValueError(f"{response!r} is no response to {access.instruction}")
    if not all(isinstance(part, int) and 0 <= part < limit for part in parts):
        raise ValueError(f"{response!r} is no response to {access.instruction}")
