"""What the future of a suspended generator depends on, read from its bytecode (Python 3.11 to 3.13).

At a `yield` a frame has local variables and, if the yield stands inside a larger expression, a `for` or a `with`,
values on its stack that nothing can read from outside. A frame with such values cannot be keyed, and is refused. Of
its local variables only those count that are read before they are written again: the others are dead, and two states
that differ in nothing else have the same future (live-variable analysis, Aho et al., "Compilers", section 9.2.5; in
model checking: dead variable reduction, Holzmann 1999).
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType

from fuzzvm.machine.errors import UnkeyableError

_NO_FALL_THROUGH = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"})
_READS_ALL_LOCALS = frozenset({"locals", "vars", "eval", "exec", "dir"})


class Suspensions:
    """The places at which the generators of one code object are suspended.

    `live` maps each (by f_lasti) to the names of the local variables that are live there, in the order of the code.
    """

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self._instructions = [ins for ins in dis.get_instructions(code) if ins.opname != "CACHE"]
        self._index = {ins.offset: index for index, ins in enumerate(self._instructions)}
        self._successors = self._find_successors()
        bits, live_after = self._find_live()
        depth = self._find_depths()
        self.live: dict[int, tuple[str, ...]] = {}
        self._held: dict[int, int] = {}
        order = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        captured = {*code.co_cellvars, *code.co_freevars}
        for index, ins in enumerate(self._instructions):
            if ins.opname != "YIELD_VALUE":
                continue
            # a delegating frame holds what it delegates to, and the value that passes through
            expected = 2 if self._instructions[index - 1].opname == "SEND" else 1
            live = live_after[index]
            names = tuple(dict.fromkeys(n for n in order if live & bits.get(n, 0) or n in captured))
            # f_lasti is the yield itself up to Python 3.12, and the RESUME behind it in 3.13
            for place in (ins.offset, self._instructions[index + 1].offset):
                self.live[place] = names
                self._held[place] = depth.get(index, expected) - expected

    def check(self, lasti: int) -> None:
        """Raise UnkeyableError if values that cannot be seen are on the stack of a frame suspended there."""
        if self._held.get(lasti, 1):
            places = (ins.positions for ins in self._instructions if ins.offset == lasti)
            line = next((place.lineno for place in places if place is not None and place.lineno), 0)
            raise UnkeyableError(
                f"{self.code.co_qualname}: yields inside a larger expression, a `for` or a `with`; "
                "a yield must stand alone or on the right of an assignment or return, in a `while` loop",
                self.code.co_filename,
                line,
            )

    def _find_successors(self) -> list[list[int]]:
        """Return for each instruction those that may follow; handlers follow all that they guard."""
        jumps = {*dis.hasjrel, *dis.hasjabs}
        found: list[list[int]] = []
        for index, ins in enumerate(self._instructions):
            following = []
            unconditional = ins.opname in _NO_FALL_THROUGH or ins.opname.startswith(("JUMP_BACKWARD", "JUMP_FORWARD"))
            if not unconditional and index + 1 < len(self._instructions):
                following.append(index + 1)
            if ins.opcode in jumps:
                following.append(self._index[ins.argval])
            found.append(following)
        for start, end, handler, _ in self._handlers():
            for index in range(start, end):
                found[index].append(handler)
        return found

    def _handlers(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (first instruction, one past the last, handler, stack depth on entry) of each exception range."""
        offsets = [ins.offset for ins in self._instructions]
        for entry in dis.Bytecode(self.code).exception_entries:  # type: ignore[attr-defined]
            guarded = [index for index, offset in enumerate(offsets) if entry.start <= offset < entry.end]
            if guarded:
                depth = entry.depth + 1 + entry.lasti
                yield guarded[0], guarded[-1] + 1, self._index[entry.target], depth

    def _find_live(self) -> tuple[dict[str, int], list[int]]:
        """Return a bit for each variable that counts, and for each instruction the bits of those live after it."""
        everything = frozenset(self.code.co_varnames)
        bits: dict[str, int] = {}

        def mask(names: frozenset[str]) -> int:
            return sum(bits.setdefault(name, 1 << len(bits)) for name in names)

        effects = [tuple(map(mask, _effect(instruction, everything))) for instruction in self._instructions]
        before = [0] * len(effects)
        after = [0] * len(effects)
        changed = True
        while changed:
            changed = False
            for index in reversed(range(len(effects))):
                reads, writes = effects[index]
                follows = 0
                for follower in self._successors[index]:
                    follows |= before[follower]
                after[index] = follows
                live = reads | (follows & ~writes)
                if live != before[index]:
                    before[index] = live
                    changed = True
        return bits, after

    def _find_depths(self) -> dict[int, int]:
        """Return the number of values on the stack before each instruction that can be reached."""
        handlers = {handler: depth for _, _, handler, depth in self._handlers()}
        entry = next(index for index, ins in enumerate(self._instructions) if ins.opname == "RESUME")
        depths = {entry: 0, **handlers}
        todo = list(depths)
        while todo:
            index = todo.pop()
            ins = self._instructions[index]
            for follower in self._successors[index]:
                if follower in handlers:
                    continue
                jump = follower != index + 1
                depth = depths[index] + dis.stack_effect(ins.opcode, ins.arg, jump=jump)
                if depths.get(follower, -1) < depth:
                    depths[follower] = depth
                    todo.append(follower)
        return depths


_known: dict[int, Suspensions] = {}
"""By identity: comparing code objects takes longer than looking at them. They are kept alive by what is found here."""


def suspensions(code: CodeType) -> Suspensions:
    """Return the suspensions of a code object; computed once."""
    found = _known.get(id(code))
    if found is None:
        found = _known[id(code)] = Suspensions(code)
    return found


def _effect(ins: dis.Instruction, everything: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the variables that an instruction reads and those that it writes; all are read where that is unknown."""
    name = ins.opname
    if name in ("LOAD_GLOBAL", "LOAD_NAME"):
        return (everything if ins.argval in _READS_ALL_LOCALS else frozenset()), frozenset()
    if "FAST" not in name or name == "MAKE_CELL":
        return frozenset(), frozenset()
    names = frozenset(ins.argval) if isinstance(ins.argval, tuple) else frozenset({str(ins.argval)})
    if name in ("STORE_FAST", "DELETE_FAST", "STORE_FAST_MAYBE_NULL", "STORE_FAST_STORE_FAST"):
        return frozenset(), names
    if name.startswith("STORE_FAST_LOAD_FAST") and isinstance(ins.argval, tuple):
        written, read = ins.argval
        return frozenset({str(read)}) - {str(written)}, frozenset({str(written)})
    if name.startswith("LOAD_FAST") and name != "LOAD_FAST_AND_CLEAR":
        return names, frozenset()
    return everything, frozenset()
