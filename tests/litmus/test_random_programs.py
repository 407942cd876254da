"""Random litmus programs: the explorer against an axiomatic oracle, and sc, tso and arm64 against each other.

The oracle enumerates candidate executions (reads-from and coherence) of straight-line programs and keeps those in which
ordered-before is acyclic and the internal axioms hold, written down from Arm ARM B2.3 for the few instructions that
the programs use. It shares no code with the machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm import litmus
from fuzzvm.litmus import explore
from fuzzvm.machine import memory as models
from fuzzvm.machine.memory import MemoryModel
from fuzzvm.machine.memory.arm64.views import Views
from fuzzvm.machine.ops import Barrier, Fence, Load, Order, Rmw, Store

LOCATIONS = ("x", "y")


@dataclass(frozen=True)
class Op:
    """One instruction: `kind` R, W, F or X (atomic swap); `after` is the index of a load that it depends on."""

    kind: str
    location: str = ""
    value: int = 0
    order: Order = Order.PLAIN
    barrier: Barrier | None = None
    after: int | None = None
    dependency: str = ""


Program = list[list[Op]]
Outcome = tuple[tuple[int, ...], ...]

BARRIERS = {
    Barrier.DMB_ISH: "DMB SY",
    Barrier.DMB_ISHLD: "DMB LD",
    Barrier.DMB_ISHST: "DMB ST",
}


@st.composite
def programs(draw: st.DrawFn, dependencies: tuple[str, ...] = (), longest: int = 3) -> Program:
    values = itertools.count(1)
    program = []
    threads = draw(st.integers(2, 3))
    limit = longest if threads == 2 else 2  # more than six instructions have too many candidate executions
    for _ in range(threads):
        thread: list[Op] = []
        for index in range(draw(st.integers(1, limit))):
            kind = draw(st.sampled_from("RRRWWWXF"))
            location = draw(st.sampled_from(LOCATIONS))
            loads = [at for at in range(index) if thread[at].kind in "RX"]
            dependency, after = "", None
            if dependencies and loads and kind in "RW" and draw(st.booleans()):
                dependency = draw(st.sampled_from([d for d in dependencies if kind == "W" or d != "data"]))
                after = draw(st.sampled_from(loads))
            if kind == "R":
                order = draw(st.sampled_from([Order.PLAIN, Order.PLAIN, Order.ACQUIRE, Order.ACQUIRE_PC]))
                if dependency == "addr":
                    order = Order.PLAIN
                thread.append(Op("R", location, 0, order, None, after, dependency))
            elif kind == "W":
                order = draw(st.sampled_from([Order.PLAIN, Order.PLAIN, Order.RELEASE]))
                if dependency == "addr":
                    order = Order.PLAIN
                thread.append(Op("W", location, next(values), order, None, after, dependency))
            elif kind == "X":
                order = draw(st.sampled_from([Order.PLAIN, Order.ACQUIRE, Order.RELEASE, Order.ACQUIRE_RELEASE]))
                thread.append(Op("X", location, next(values), order))
            else:
                thread.append(Op("F", barrier=draw(st.sampled_from(list(BARRIERS)))))
        program.append(thread)
    return program


# As litmus text

LOADS = {Order.PLAIN: "LDR", Order.ACQUIRE: "LDAR", Order.ACQUIRE_PC: "LDAPR"}
SWAPS = {Order.PLAIN: "SWP", Order.ACQUIRE: "SWPA", Order.RELEASE: "SWPL", Order.ACQUIRE_RELEASE: "SWPAL"}


def text(program: Program) -> str:
    columns = []
    for thread in program:
        lines = []
        for index, op in enumerate(thread):
            base = "X20" if op.location == "x" else "X21"
            where = f"[{base}]"
            if op.dependency == "addr":
                lines.append(f"EOR W19,W{op.after},W{op.after}")
                where = f"[{base},W19,SXTW]"
            if op.dependency == "ctrl":
                lines.append(f"CBNZ W{op.after},L{index}")
                lines.append(f"L{index}:")
            if op.kind == "R":
                lines.append(f"{LOADS[op.order]} W{index},{where}")
            elif op.kind == "F":
                assert op.barrier is not None
                lines.append(BARRIERS[op.barrier])
            else:
                if op.dependency == "data":
                    lines += [f"EOR W18,W{op.after},W{op.after}", f"ADD W18,W18,#{op.value}"]
                else:
                    lines.append(f"MOV W18,#{op.value}")
                if op.kind == "W":
                    lines.append(f"{'STLR' if op.order is Order.RELEASE else 'STR'} W18,{where}")
                else:
                    lines.append(f"{SWAPS[op.order]} W18,W{index},{where}")
        columns.append(lines)
    rows = [" | ".join(row) + ";" for row in itertools.zip_longest(*columns, fillvalue="")]
    initial = " ".join(f"{cpu}:X20=x; {cpu}:X21=y;" for cpu in range(len(program)))
    head = " | ".join(f"P{cpu}" for cpu in range(len(program)))
    shown = "".join(f"{cpu}:X{index};" for cpu, index in reads(program)) + "x;y;"
    return f"AArch64 random\n{{ {initial} }}\n{head};\n" + "\n".join(rows) + f"\nlocations [{shown}]\nexists (true)\n"


def reads(program: Program) -> list[tuple[int, int]]:
    return [(cpu, i) for cpu, thread in enumerate(program) for i, op in enumerate(thread) if op.kind in "RX"]


def by_litmus(program: Program) -> set[tuple[int, ...]]:
    """Return the outcomes: what the loads read, in order, then the final values of the locations."""
    result = litmus.run(text(program), "random")
    return {tuple(map(int, state)) for state in result.states}


# The axiomatic oracle


@dataclass(frozen=True)
class Event:
    cpu: int
    at: int
    half: int
    kind: str
    op: Op


def local_order(a: Event, b: Event, thread: list[Op]) -> bool:
    """Whether a is locally ordered before b by one rule of Arm ARM B2.3 (lob), both of one thread, a first."""
    between = [op.barrier for op in thread[a.at + 1 : b.at] if op.kind == "F"]
    acquire = a.kind == "R" and a.op.order in (Order.ACQUIRE, Order.ACQUIRE_PC, Order.ACQUIRE_RELEASE)
    release = b.kind == "W" and b.op.order in (Order.RELEASE, Order.ACQUIRE_RELEASE)
    if a.at == b.at:
        return a.half < b.half  # rmw
    if acquire or release:
        return True
    if a.kind == "W" and a.op.order in (Order.RELEASE, Order.ACQUIRE_RELEASE):
        if b.kind == "R" and b.op.order in (Order.ACQUIRE, Order.ACQUIRE_RELEASE):
            return True
        if a.op.kind == "X" and a.op.order is Order.ACQUIRE_RELEASE:
            return True
    if Barrier.DMB_ISH in between or (Barrier.DMB_ISHLD in between and a.kind == "R"):
        return True
    if Barrier.DMB_ISHST in between and a.kind == b.kind == "W":
        return True
    if a.op.location == b.op.location and b.kind == "W":
        return True  # lmws
    if a.kind == "R":
        depending = [op for op in thread[: b.at] if op.after == a.at]
        if b.op.after == a.at and b.op.dependency in ("addr", "data"):
            return True
        if b.kind == "W" and any(op.dependency in ("addr", "ctrl") for op in depending):
            return True  # addr; po; [W] and ctrl; [W]
        if b.kind == "W" and b.op.after == a.at:
            return True
    return False


def dependent_forwarding(a: Event, b: Event, events: list[Event], thread: list[Op]) -> bool:
    """(addr | data); lmrs, and rmw; lmrs; [A | Q]: b loads what a store that depends on load a may forward."""
    if a.kind != "R" or b.kind != "R":
        return False
    stores = [e for e in events if e.cpu == b.cpu and e.kind == "W" and e.at < b.at and e.op.location == b.op.location]
    if not stores:
        return False
    last = max(stores, key=lambda e: e.at)
    if last.op.after == a.at and last.op.dependency in ("addr", "data"):
        return True
    return last.at == a.at and b.op.order is not Order.PLAIN and b.op.order is not Order.RELEASE


def by_axioms(program: Program) -> set[tuple[int, ...]]:
    events: list[Event] = []
    for cpu, thread in enumerate(program):
        for at, op in enumerate(thread):
            if op.kind in "RX":
                events.append(Event(cpu, at, 0, "R", op))
            if op.kind in "WX":
                events.append(Event(cpu, at, 1, "W", op))
    loads = [e for e in events if e.kind == "R"]
    stores = {x: [e for e in events if e.kind == "W" and e.op.location == x] for x in LOCATIONS}
    local = {
        (a, b)
        for a in events
        for b in events
        if a.cpu == b.cpu
        and (a.at, a.half) < (b.at, b.half)
        and (local_order(a, b, program[a.cpu]) or dependent_forwarding(a, b, events, program[a.cpu]))
    }
    outcomes = set()
    sources: list[list[Event | None]] = [[None, *stores[e.op.location]] for e in loads]
    for orders in itertools.product(*(itertools.permutations(stores[x]) for x in LOCATIONS)):
        rank = {store: i + 1 for order in orders for i, store in enumerate(order)}
        for choice in itertools.product(*sources):
            reads_from = dict(zip(loads, choice, strict=True))
            if _consistent(events, local, rank, reads_from):
                final = [order[-1].op.value if order else 0 for order in orders]
                outcomes.add((*(0 if s is None else s.op.value for s in choice), *final))
    return outcomes


def _consistent(
    events: list[Event],
    local: set[tuple[Event, Event]],
    rank: dict[Event, int],
    reads_from: dict[Event, Event | None],
) -> bool:
    def seen(e: Event) -> int:
        if e.kind == "W":
            return rank[e]
        source = reads_from[e]
        return 0 if source is None else rank[source]

    order = set(local)
    for a in events:
        for b in events:
            if a is b or a.op.location != b.op.location:
                continue
            program_order = a.cpu == b.cpu and (a.at, a.half) < (b.at, b.half)
            if program_order and seen(a) > seen(b):
                return False  # coherence inside a thread
            if program_order and a.kind == "R" and b.kind == "W" and seen(a) >= seen(b):
                return False
            if a.cpu != b.cpu and b.kind == "W" and seen(a) < seen(b):
                order.add((a, b))  # co and fr, external
                if a.kind == "R":
                    order.update(
                        (c, b)
                        for c in events
                        if c.kind == "R" and c.cpu == a.cpu and c.at < a.at and c.op.location == a.op.location
                    )  # hazard: CoRR
            if a.cpu != b.cpu and b.kind == "R" and reads_from[b] is a:
                order.add((a, b))
    for e in events:
        if e.kind == "W" and e.op.kind == "X":
            read = next(r for r in reads_from if r.cpu == e.cpu and r.at == e.at)
            if rank[e] != seen(read) + 1:
                return False  # atomic
    return _acyclic(events, order)


def _acyclic(events: list[Event], order: set[tuple[Event, Event]]) -> bool:
    left = set(events)
    while left:
        free = {b for b in left if not any((a, b) in order for a in left)}
        if not free:
            return False
        left -= free
    return True


# Machine memory, exhaustively


def by_machine(name: str, program: Program) -> set[tuple[int, ...]]:
    """Return the outcomes under a memory model of the machine: every agent, every choice, equal states once."""
    model = models.get(name)
    addresses = {"x": 1 << 16, "y": 2 << 16}
    cpus = len(program)
    outcomes = set()
    start: tuple[MemoryModel, tuple[int, ...], Outcome] = (model(cpus), (0,) * cpus, ((),) * cpus)
    pending = [start]
    known = set()
    while pending:
        memory, at, read = pending.pop()
        key = (memory.state(), at, read)
        if key in known:
            continue
        known.add(key)
        running = [cpu for cpu in range(cpus) if at[cpu] < len(program[cpu])]
        if not running and not memory.agents():
            outcomes.add((*(v for values in read for v in values), *(memory.peek(addresses[x]) for x in LOCATIONS)))
        for cpu in running:
            op = program[cpu][at[cpu]]
            for after, response in every_way(memory, lambda m, c, cpu=cpu, op=op: execute(m, cpu, op, addresses, c)):
                values = list(read)
                if op.kind in "RX":
                    values[cpu] = (*read[cpu], response)
                moved = tuple(index + (other == cpu) for other, index in enumerate(at))
                pending.append((after, moved, tuple(values)))
        for agent in memory.agents():
            for after, _ in every_way(memory, lambda m, c, agent=agent: m.step(agent, c)):
                pending.append((after, at, read))
    return outcomes


def execute(memory: MemoryModel, cpu: int, op: Op, addresses: dict[str, int], choose: Callable[[int], int]) -> Any:
    if op.kind == "F":
        assert op.barrier is not None
        return memory.fence(cpu, Fence(op.barrier), choose)
    address = addresses[op.location]
    if op.kind == "R":
        return memory.load(cpu, Load(address, op.order), choose)
    if op.kind == "W":
        return memory.store(cpu, Store(address, op.value, op.order), choose)
    return memory.rmw(cpu, Rmw(address, lambda old: op.value, op.order), choose)


def every_way(memory: MemoryModel, act: Callable[[MemoryModel, Any], Any]) -> Iterator[tuple[MemoryModel, Any]]:
    """Yield a copy of memory after each way that an action can go, with the action's response."""
    scripts: list[list[int]] = [[]]
    while scripts:
        script = scripts.pop()
        taken: list[int] = []

        def choose(ways: int, script: list[int] = script, taken: list[int] = taken) -> int:
            way = script[len(taken)] if len(taken) < len(script) else 0
            if len(taken) >= len(script):
                scripts.extend([*taken, other] for other in range(1, ways))
            taken.append(way)
            return way

        copy = memory.copy()
        yield copy, act(copy, choose)


# Properties

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(programs(dependencies=("addr", "data", "ctrl")))
def test_explorer_agrees_with_the_axioms(program: Program) -> None:
    assert by_litmus(program) == by_axioms(program)


@QUICK
@given(programs(longest=2) | programs(longest=3))
def test_sc_within_tso_within_arm64(program: Program) -> None:
    program = [[op for op in thread if op.order is not Order.ACQUIRE or op.kind != "R"] for thread in program]
    sc, tso = by_machine("sc", program), by_machine("tso", program)
    arm64, everything = by_machine("arm64", program), by_litmus(program)
    assert sc <= tso
    assert sc <= arm64
    assert arm64 <= everything
    assert tso <= everything


@QUICK
@given(programs(dependencies=("addr", "data", "ctrl")))
def test_orders_left_out_change_nothing(program: Program) -> None:
    reduced = by_litmus(program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "redundant", lambda *arguments: False)
        assert by_litmus(program) == reduced


MP = [
    [Op("W", "x", 1), Op("W", "y", 2, Order.RELEASE)],
    [Op("R", "y", order=Order.ACQUIRE), Op("R", "x")],
]
SB = [[Op("W", "x", 1), Op("R", "y")], [Op("W", "y", 2), Op("R", "x")]]
LB = [[Op("R", "x"), Op("W", "y", 1)], [Op("R", "y"), Op("W", "x", 2)]]


def test_the_oracle_can_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explorer that forgets acquires must not pass."""
    assert by_litmus(MP) == by_axioms(MP)
    monkeypatch.setattr(Views, "load_floor", lambda self, address, dependency, order: 0)
    assert by_litmus(MP) != by_axioms(MP)


def test_the_models_differ() -> None:
    """Store buffering tells tso from sc, load buffering tells the whole of arm64 from what a machine runs of it."""
    assert by_machine("sc", SB) < by_machine("tso", SB)
    assert by_machine("sc", LB) == by_machine("arm64", LB) < by_litmus(LB)
    relaxed = [[Op("W", "x", 1), Op("W", "y", 2)], [Op("R", "y"), Op("R", "x")]]
    assert by_machine("tso", relaxed) < by_machine("arm64", relaxed) == by_litmus(relaxed)
