"""Behaviours: text that is the same in every process, paths that have every step, shipped schemes that follow them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.exhaustive import Limits, verify
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.locking.rwsem import RwsemState
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Barrier, Fence, Order, Rmw
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Output
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism import from_automata
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.behaviour import Behaviour
from fuzzvm.verify.determinism.drive import difference, repeats
from fuzzvm.verify.determinism.elsewhere import ask
from fuzzvm.verify.determinism.from_automata import behaviour_of
from fuzzvm.verify.determinism.text import text_of

ROOT = Path(__file__).parents[3]
LIMITS = Limits(max_states=30_000)
SYSTEMS = [
    (mitigation, scenario, memory)
    for mitigation in registry.shipped()
    for scenario, memory in (("pmd-promotion", "arm64"), ("x86-cpa-and-vmap", "sc"), ("two-tables", "sc"))
]


def explored(mitigation: str, scenario: str, memory: str) -> tuple[System, Space, Behaviour]:
    system = System(shipped.get(scenario), registry.get(mitigation), memory)
    spaces: list[Space] = []
    verify(system, LIMITS, explored=spaces.append)
    return system, spaces[0], behaviour_of(system, spaces[0])


def test_text_is_the_same_in_every_process() -> None:
    script = (
        "from fuzzvm.verify.determinism.text import text_of\n"
        "print(text_of((frozenset({'a', 'b', 'c', ('d', 1)}), {frozenset('xyz'), frozenset('uvw')})))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_text_tells_apart_what_python_takes_for_equal() -> None:
    values = [
        1,
        True,
        1.0,
        "1",
        b"1",
        None,
        Level(1),
        (1,),
        (True,),
        RwsemState(1),
        RwsemState(None, (1,)),
        frozenset({1}),
        int,
    ]
    assert len({text_of(value) for value in values}) == len(values)
    ops = [Fence(Barrier.ISB), Fence(Barrier.DSB_ISH), Rmw(1, abs), Rmw(1, hex), Rmw(1, abs, Order.ACQUIRE)]
    assert len({text_of(op) for op in ops}) == len(ops)
    # what a walk has printed is no part of a local state, so it may be any of those that came to it
    assert text_of(Output("kernel_page_tables", "a")) == text_of(Output("kernel_page_tables", "b"))


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario", "memory"), SYSTEMS)
def test_what_ships_does_the_same_every_time(mitigation: str, scenario: str, memory: str) -> None:
    """And local states that are one do have one future: paths come to them by other ways than the search did."""
    system, space, behaviour = explored(mitigation, scenario, memory)
    assert repeats(system) is None
    again = System(system.scenario, system.mitigation, memory)
    assert difference(again, behaviour, passes=2) is None
    edges = sum(len(node.edges) for automaton in space.automata for node in automaton.nodes)
    assert edges <= sum(len(path) // 2 for path in behaviour.paths) <= 10 * edges


def test_every_edge_is_on_a_path() -> None:
    _, space, behaviour = explored("static-key", "two-walkers", "sc")
    edges = {
        (cpu, node.number, response)
        for cpu, automaton in enumerate(space.automata)
        for node in automaton.nodes
        for response in node.edges
    }
    on_paths = set()
    for cpu, automaton in enumerate(space.automata):
        for path in from_automata._paths(automaton):
            at = automaton.start.target
            for node, response in path:
                assert node is at, "a path is one from the beginning on"
                on_paths.add((cpu, node.number, response))
                at = node.edges[response].target
    assert on_paths == edges
    assert len(behaviour.paths) < len(edges)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_step_that_is_another_is_a_difference(place: int) -> None:
    system, _, behaviour = explored("static-key", "pmd-promotion", "sc")
    used = sorted({number for path in behaviour.paths for number in path[1::2]})
    changed = used[place % len(used)]
    texts = list(behaviour.texts)
    texts[changed] += " and something else"
    found = difference(system, replace(behaviour, texts=tuple(texts)))
    assert found is not None
    assert found.expected == texts[changed] and found.got == behaviour.texts[changed]


def test_a_bound_leaves_paths_out(monkeypatch: pytest.MonkeyPatch) -> None:
    system, space, behaviour = explored("static-key", "pmd-promotion", "sc")
    monkeypatch.setattr(from_automata, "MAX_STEPS", 60)
    assert 0 < len(behaviour_of(system, space).paths) < len(behaviour.paths)


def test_what_ships_does_the_same_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzvm.verify.determinism.elsewhere.FEW", 1)
    for mitigation in ("static-key", "rcu-free", "vmap-trylock+ptdump-locks-init-mm"):
        questions = [
            Driving(system.scenario, memory, (), behaviour)
            for scenario, memory in (("pmd-promotion", "arm64"), ("x86-pmd-promotion", "tso"))
            for system, _, behaviour in [explored(mitigation, scenario, memory)]
        ]
        assert ask(registry.get(mitigation), questions) == ""


def test_a_question_is_small() -> None:
    system, _, behaviour = explored("static-key", "two-walkers", "sc")
    assert len(pickle.dumps(Driving(system.scenario, "sc", (), behaviour))) < 100_000
