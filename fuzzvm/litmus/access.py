"""Loads, stores, exclusives, atomics and cache maintenance of litmus threads; see `semantics`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from fuzzvm.litmus.encoding import MASK64, Encoding, is_address
from fuzzvm.litmus.entries import compute, is_entry
from fuzzvm.litmus.interest import FUTURE, Interest
from fuzzvm.litmus.operands import address, base, check_widths, read, register, unsupported
from fuzzvm.litmus.program import Instruction, LitmusError, Name, Operand
from fuzzvm.litmus.state import Position, Register, Reservation, ThreadRun
from fuzzvm.machine.memory.arm64.timeline import CLEAN, COMPLETE, INVALIDATE
from fuzzvm.machine.ops import Order

Step = Callable[[ThreadRun], "list[ThreadRun] | None"]
Address = Callable[[ThreadRun], Register]
WriteBack = Callable[[ThreadRun], None]

_LOADS = {
    "LDR": (Order.PLAIN, False),
    "LDAR": (Order.ACQUIRE, False),
    "LDAPR": (Order.ACQUIRE_PC, False),
    "LDXR": (Order.PLAIN, True),
    "LDAXR": (Order.ACQUIRE, True),
}
_STORES = {"STR": Order.PLAIN, "STLR": Order.RELEASE}
_EXCLUSIVE_STORES = {"STXR": Order.PLAIN, "STLXR": Order.RELEASE}

_ATOMIC = re.compile(r"(SWP|CAS|(?:LD|ST)(?:ADD|CLR|EOR|SET|SMAX|SMIN|UMAX|UMIN))(AL|A|L|)", re.ASCII)
_SUFFIXES = {"": (False, False), "A": (True, False), "L": (False, True), "AL": (True, True)}


def _signed(value: int, mask: int) -> int:
    return value - mask - 1 if value > mask >> 1 else value


_UPDATES: dict[str, Callable[[int, int, int], int]] = {
    "ADD": lambda old, operand, mask: old + operand,
    "CLR": lambda old, operand, mask: old & ~operand,
    "EOR": lambda old, operand, mask: old ^ operand,
    "SET": lambda old, operand, mask: old | operand,
    "SMAX": lambda old, operand, mask: max(_signed(old, mask), _signed(operand, mask)),
    "SMIN": lambda old, operand, mask: min(_signed(old, mask), _signed(operand, mask)),
    "UMAX": lambda old, operand, mask: max(old, operand),
    "UMIN": lambda old, operand, mask: min(old, operand),
}


class Accesses:
    """Builds the steps of instructions that access memory or caches."""

    def __init__(self, values: Encoding, is_read_after: Callable[[Position, int], bool]) -> None:
        self._values = values
        self._is_read_after = is_read_after
        self.loads: set[tuple[int, int]] = set()
        self.masks: dict[int, int] = {}
        """What part of each location the accesses so far were to."""
        self.interest = Interest()

    def step(self, instruction: Instruction, position: Position) -> Step | None:
        """Return the step of an instruction, or None if it is not one of these."""
        mnemonic = instruction.mnemonic
        following = (position[0], position[1] + 1)
        if mnemonic in _LOADS:
            return self._load(instruction, position, *_LOADS[mnemonic])
        if mnemonic in _STORES:
            return self._store(instruction, following, _STORES[mnemonic])
        if mnemonic in _EXCLUSIVE_STORES:
            return self._store_exclusive(instruction, following, _EXCLUSIVE_STORES[mnemonic])
        match = _ATOMIC.fullmatch(mnemonic)
        if match is None:
            return None
        acquire, release = _SUFFIXES[match[2]]
        if match[1] == "CAS":
            return self._compare_and_swap(instruction, position, acquire=acquire, release=release)
        if match[1].startswith("ST") and acquire:
            return None
        return self._atomic(instruction, position, match[1], acquire=acquire, release=release)

    def _address(self, operands: tuple[Operand, ...], instruction: Instruction) -> tuple[Address, WriteBack | None]:
        """Return the reader of where a load or store goes, and what writes its base register back; see `address`."""
        return address(operands, instruction)

    def _base(self, operand: Operand, instruction: Instruction) -> Address:
        """Return the reader of where an access without offset goes; see `base`."""
        return base(operand, instruction)

    def _checked(self, where: int, mask: int, instruction: Instruction) -> int:
        """Return the location of an access.

        Raises LitmusError if it is none, or if it is accessed in different sizes.
        """
        if self.masks.get(where) == mask:
            return where
        values = self._values
        if not values.is_base(where):
            shown = values.show(where)
            raise LitmusError(f"access at {shown}, where no location begins, in {instruction}", instruction.line)
        bits, declared = mask.bit_length(), values.declared_bits(where)
        for other in (self.masks.get(where, mask).bit_length(), declared if declared and declared < bits else bits):
            if other != bits:
                shown = f"{other} and {bits} bits of {values.show(where)} in {instruction}"
                raise LitmusError(f"accesses of mixed sizes are not supported: {shown}", instruction.line)
        self.masks[where] = mask
        return where

    def _load(self, instruction: Instruction, position: Position, order: Order, exclusive: bool) -> Step:
        following = (position[0], position[1] + 1)
        target, mask = register(instruction.operands[0], instruction)
        if order is Order.PLAIN and not exclusive:
            get, write_back = self._address(instruction.operands[1:], instruction)
        else:
            (operand,) = instruction.operands[1:]
            get, write_back = self._base(operand, instruction), None

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = get(run)
            self._checked(where, mask, instruction)
            self.loads.add((run.cpu, where))
            floor = run.views.load_floor(where, view, order)
            found = self._sources(run, where, floor, mask, position)
            ways = _fork(run, found)
            for way, source in ways:
                loaded = way.views.loaded(where, source, found[source], pick, order)
                if write_back is not None:
                    write_back(way)
                if target is not None:
                    way.registers[target] = (
                        self._read(way, where, source, mask, instruction),
                        loaded.view,
                        loaded.pick,
                    )
                if exclusive:
                    way.reservation = Reservation(where, source, loaded.at)
                way.position = following
            return _ways(ways)

        return step

    @staticmethod
    def _read(run: ThreadRun, where: int, source: int, mask: int, instruction: Instruction) -> int:
        """Return what an access reads. Raises LitmusError where that is 32 bits of an address."""
        value = _value(run, where, source)
        if value > mask and (is_address(value) or is_entry(value)):
            raise LitmusError(f"{instruction} takes 32 bits of an address", instruction.line)
        return value & mask

    @staticmethod
    def _updated(name: str, old: int, operand: int, mask: int, instruction: Instruction) -> int:
        """Return what an atomic stores where there was `old`."""
        if is_entry(old) or is_entry(operand):
            return compute({"SET": "ORR", "CLR": "BIC"}.get(name, name), old, operand, instruction)
        return _UPDATES[name](old, operand, mask) & mask

    def _sources(self, run: ThreadRun, where: int, floor: int, mask: int, position: Position) -> dict[int, int]:
        """Return the timestamps of the stores that a load may read from, each with the floor of the load, newest first.

        What is not asked for is there once, the newest, as a load that takes place later than all messages.
        """
        sources = run.views.sources(run.timeline, where, floor)
        asked = self.interest.values.get(position)
        if asked is None:
            return dict.fromkeys(sources, floor)
        right = {source: floor for source in sources if asked(_value(run, where, source) & mask)}
        if sources[0] in right or not self.interest.may_come(run.cpu, where, asked, run.timeline):
            return right
        return {sources[0]: FUTURE, **right}

    def _store(self, instruction: Instruction, following: Position, order: Order) -> Step:
        number, mask = register(instruction.operands[0], instruction)
        data = read(number, mask, instruction)
        if order is Order.PLAIN:
            get, write_back = self._address(instruction.operands[1:], instruction)
        else:
            (operand,) = instruction.operands[1:]
            get, write_back = self._base(operand, instruction), None

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = get(run)
            value, data_view, data_pick = data(run)
            self._checked(where, mask, instruction)
            depends = max(view, data_view)
            depends_pick = max(pick, data_pick)
            floor = run.views.store_floor(where, depends_pick, order)
            ways = run.store_ways(where, value, floor)
            for way, at in ways:
                way.views.stored(
                    where, at, order, dependency=depends, address_pick=pick, chain=depends, chain_pick=depends_pick
                )
                if write_back is not None:
                    write_back(way)
                way.position = following
            return _ways(ways)

        return step

    def _store_exclusive(self, instruction: Instruction, following: Position, order: Order) -> Step:
        status, _ = register(instruction.operands[0], instruction)
        number, mask = register(instruction.operands[1], instruction)
        (operand,) = instruction.operands[2:]
        data, get = read(number, mask, instruction), self._base(operand, instruction)

        def done(way: ThreadRun, result: int) -> None:
            way.reservation = None
            way.position = following
            if status is not None:
                way.registers[status] = (result, 0, 0)

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = get(run)
            reservation = run.reservation
            if reservation is None or reservation.address != where:
                done(run, 1)
                return None
            failed = run.copy()
            done(failed, 1)
            self._checked(where, mask, instruction)
            value, data_view, data_pick = data(run)
            depends, depends_pick = max(view, data_view), max(pick, data_pick)
            floor = max(run.views.store_floor(where, depends_pick, order), reservation.at)
            # An own store between the two takes the pair out of the requirement of atomicity (aarch64.cat).
            cell = run.views.cells[where]
            source = None if cell.own > reservation.source else reservation.source
            ways = run.store_ways(where, value, floor, source)
            for way, at in ways:
                way.views.stored(
                    where,
                    at,
                    order,
                    dependency=depends,
                    address_pick=pick,
                    chain=depends,
                    chain_pick=depends_pick,
                    exclusive=reservation.at,
                )
                done(way, 0)
            return [failed, *(way for way, _ in ways)]

        return step

    def _atomic(self, instruction: Instruction, position: Position, name: str, *, acquire: bool, release: bool) -> Step:
        following = (position[0], position[1] + 1)
        number, mask = register(instruction.operands[0], instruction)
        check_widths(instruction.operands, instruction)
        data = read(number, mask, instruction)
        target = None if name.startswith("ST") else register(instruction.operands[1], instruction)[0]
        (operand,) = instruction.operands[1 if name.startswith("ST") else 2 :]
        get = self._base(operand, instruction)
        quiet = target is None
        load_order = Order.ACQUIRE if acquire and not quiet else Order.PLAIN
        store_order = Order.RELEASE if release else Order.PLAIN
        update = None if name == "SWP" else name[2:]

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = get(run)
            value, data_view, data_pick = data(run)
            self._checked(where, mask, instruction)
            self.loads.add((run.cpu, where))
            floor = run.views.load_floor(where, view, load_order)
            following_runs: list[ThreadRun] = []
            found = self._sources(run, where, floor, mask, position)
            for way, source in _fork(run, found):
                # The release half orders accesses before the instruction, so its floor comes before the load half.
                before = way.views.store_floor(where, max(pick, data_pick), store_order)
                old = self._read(way, where, source, mask, instruction)
                loaded = way.views.loaded(where, source, found[source], pick, load_order, quiet=quiet)
                new = value if update is None else self._updated(update, old, value, mask, instruction)
                chain, chain_pick = max(view, data_view), max(pick, data_pick)
                if update is not None:
                    chain, chain_pick = max(chain, loaded.view), max(chain_pick, loaded.pick)
                put = max(before, loaded.at, way.views.cells[where].seen_pick)
                for stored, at in way.store_ways(where, new, put, source):
                    stored.views.stored(
                        where,
                        at,
                        store_order,
                        dependency=max(view, data_view),
                        address_pick=pick,
                        chain=chain,
                        chain_pick=chain_pick,
                        exclusive=loaded.at,
                    )
                    if acquire and release and not quiet:
                        stored.views.after_atomic(at)
                    if target is not None:
                        stored.registers[target] = (old, loaded.view, loaded.pick)
                    stored.position = following
                    following_runs.append(stored)
            return following_runs

        return step

    def _compare_and_swap(self, instruction: Instruction, position: Position, *, acquire: bool, release: bool) -> Step:
        following = (position[0], position[1] + 1)
        target, mask = register(instruction.operands[0], instruction)
        number, _ = register(instruction.operands[1], instruction)
        (operand,) = instruction.operands[2:]
        check_widths(instruction.operands, instruction)
        compare, data, get = (
            read(target, mask, instruction),
            read(number, mask, instruction),
            self._base(operand, instruction),
        )
        quiet = target is None
        kept = target is not None and self._is_read_after(position, target)
        load_order = Order.ACQUIRE if acquire and not quiet else Order.PLAIN
        store_order = Order.RELEASE if release else Order.PLAIN

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, view, pick = get(run)
            expected, expected_view, expected_pick = compare(run)
            value, data_view, data_pick = data(run)
            self._checked(where, mask, instruction)
            self.loads.add((run.cpu, where))
            floor = run.views.load_floor(where, view, load_order)
            following_runs: list[ThreadRun] = []
            found = self._sources(run, where, floor, mask, position)
            for way, source in _fork(run, found):
                old = self._read(way, where, source, mask, instruction)
                equal = old == expected
                before = way.views.store_floor(where, max(pick, expected_pick, data_pick if equal else 0), store_order)
                loaded = way.views.loaded(where, source, found[source], pick, load_order, quiet=quiet)
                from_memory = (old, loaded.view, loaded.pick)
                # On success Rs may come from Rs itself, which then depends on the comparison by a pick dependency.
                results = [from_memory]
                if equal:
                    from_itself = (old, expected_view, max(loaded.pick, expected_pick))
                    if kept and from_itself != from_memory:
                        results.append(from_itself)
                else:
                    failed = way.copy()
                    _finish(failed, target, from_memory, following)
                    following_runs.append(failed)
                written = data_view if equal else loaded.view
                written_pick = max(data_pick if equal else loaded.pick, loaded.pick, expected_pick)
                put = max(before, loaded.at, way.views.cells[where].seen_pick)
                for stored, at in way.store_ways(where, value if equal else old, put, source):
                    stored.views.stored(
                        where,
                        at,
                        store_order,
                        dependency=max(view, data_view if equal else 0),
                        address_pick=pick,
                        chain=max(view, written),
                        chain_pick=max(pick, written_pick),
                        exclusive=loaded.at,
                    )
                    if acquire and release and not quiet:
                        stored.views.after_atomic(at)
                    for other in results[1:]:
                        if target is not None:
                            twin = stored.copy()
                            _finish(twin, target, other, following)
                            following_runs.append(twin)
                    _finish(stored, target, from_memory, following)
                    following_runs.append(stored)
            return following_runs

        return step

    # Cache maintenance

    def maintain(self, instruction: Instruction, position: Position, name: str) -> Step:
        """Return the step of DC CVAU, IC IVAU or IC IALLU(IS)."""
        kind, *rest = instruction.operands
        following = (position[0], position[1] + 1)
        if not isinstance(kind, Name):
            raise unsupported(instruction)
        everything = name == "IVAU" and kind.text.upper() in ("IALLU", "IALLUIS") and not rest
        if everything:
            get = read(None, MASK64, instruction)
        elif kind.text.upper() == name and len(rest) == 1:
            get = read(*register(rest[0], instruction), instruction)
        else:
            raise unsupported(instruction)
        clean = name == "CVAU"

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            where, _, pick = get(run)
            floor = run.views.maintenance_floor(where, pick, clean=clean)
            ways = run.put(CLEAN if clean else INVALIDATE, None if everything else where, 0, floor)
            for way, at in ways:
                if clean:
                    way.views.cleaned(where, at)
                else:
                    way.views.invalidated(at)
                way.position = following
            return _ways(ways)

        return step

    def complete(self, run: ThreadRun) -> list[ThreadRun] | None:
        """Let a full DSB wait for the invalidations of this thread that are pending."""
        pending = run.views.invalidations
        ways = run.put(COMPLETE, None, pending, max(pending))
        for way, at in ways:
            way.views.completed(at)
        return _ways(ways)


def _value(run: ThreadRun, where: int, source: int) -> int:
    value = run.timeline.value(where, source)
    assert isinstance(value, int)
    return value


def _fork(run: ThreadRun, sources: Collection[int]) -> list[tuple[ThreadRun, int]]:
    """Return a run for each source: copies, and last the run itself. None for no source."""
    if not sources:
        return []
    *others, last = sources
    return [*((run.copy(), source) for source in others), (run, last)]


def _ways(ways: list[tuple[ThreadRun, int]]) -> list[ThreadRun] | None:
    return None if len(ways) == 1 else [way for way, _ in ways]


def _finish(run: ThreadRun, target: int | None, result: Register, following: Position) -> None:
    if target is not None:
        run.registers[target] = result
    run.position = following
