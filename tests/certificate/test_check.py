"""fuzzvm.certificate.check: what is true is accepted, and no lie is."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import UnreadableError
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import Verdict
from fuzzvm.kernel.contexts import LockOrder
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations import registry
from fuzzvm.scenario import own
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify import certify
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.certificate.forging import Parts, certificate, checked, forged, packed

REFUSED = (RejectedError, UnreadableError, ScenarioError, registry.MitigationError, ProgramError)
"""What is raised of a certificate that is not accepted: each is one line of `fuzzvm-check`, and no traceback."""
SAFE = Verdict(None, None, True, "", 1, 1, 0.0)
SMALL = ("config-off", "pmd-promotion")
SCENARIOS = ("pmd-promotion", "pud-promotion", "three-levels")
CELLS = [
    (mitigation, scenario, memory)
    for mitigation in registry.shipped()
    for scenario in SCENARIOS
    for memory in ("sc", "tso", "arm64")
]


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario", "memory"), CELLS)
def test_what_a_search_has_found_is_accepted(mitigation: str, scenario: str, memory: str, tmp_path: Path) -> None:
    checked(certificate(mitigation, scenario, memory), tmp_path)


def test_releases_and_ordering_points_are_accepted(tmp_path: Path) -> None:
    checked(certificate("linux-7.3", "x86-pmd-promotion", "tso"), tmp_path)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _flipped_inside(content: bytes, chance: random.Random) -> bytes:
    """As `_flipped`, before it is packed: no sum is wrong."""
    return packed(_flipped(zlib.decompress(content[21:]), chance))


def _dropped(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        state = chance.randrange(1, len(parts.columns[0]))
        parents = parts.parents
        # what is come to from it is come to from the state before it
        parents = [parents[state] if one == state else one - (one > state) for one in parents]
        del parents[state]
        for column in parts.columns[1:]:
            del column[state]
        parts.parents = sorted(parents)

    return forged(content, change)


def _last_dropped(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        for column in parts.columns:
            del column[-1 - chance.randrange(3) :]

    return forged(content, change)


def _doubled(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        for column, last in zip(parts.columns, (0, parts.columns[1][-1], parts.columns[2][-1]), strict=True):
            column.append(last)

    return forged(content, change)


def _other_step(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        at = chance.randrange(1, len(parts.columns[1]))
        parts.columns[1][at] = (parts.columns[1][at] + 1) % len(parts.header["steps"])

    return forged(content, change)


def _other_parent(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        parents = parts.parents
        at = chance.choice([state for state in range(2, len(parents)) if parents[state] != parents[state - 1]])
        parents[at] = parents[at - 1]
        parts.parents = parents

    return forged(content, change)


def _other_rank(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        state = chance.choice([state for state, rank in enumerate(parts.columns[2]) if rank])
        parts.columns[2][state] += chance.choice([-1, 1])

    return forged(content, change)


def _other_memory(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        others = [name for name in ("sc", "tso", "arm64") if name != parts.header["memory"]]
        parts.header["memory"] = chance.choice(others)

    return forged(content, change)


def _other_scheme(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        others = [name for name in registry.shipped() if name not in (parts.header["mitigation"], "config-off")]
        parts.header["mitigation"] = chance.choice(others)

    return forged(content, change)


def _other_scenario(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        parts.header["scenario"] = own.get(chance.choice(["three-levels", "two-tables", "contpte"])).to_data()

    return forged(content, change)


def _less_claimed(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        parts.header["claims"][0].remove(chance.choice(parts.header["claims"][0]))

    return forged(content, change)


def _never_claimed(content: bytes, chance: random.Random) -> bytes:
    """Nothing of one kind is claimed of any local state; what comes first is `looks`, which no operation does."""

    def change(parts: Parts) -> None:
        facts = parts.header["facts"]
        kinds = sorted({fact[0] for fact in facts}, key=lambda kind: (kind != "looks", kind))
        kind = kinds[0] if chance.random() < 0.3 else chance.choice(kinds)
        left = [number for number, fact in enumerate(facts) if fact[0] != kind]
        parts.header["facts"] = [facts[number] for number in left]
        parts.header["claims"] = [[left.index(one) for one in claim if one in left] for claim in parts.header["claims"]]

    return forged(content, change)


def _claims_dropped(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        del parts.header["locals"][-1 - chance.randrange(5) :]

    return forged(content, change)


def _claims_added(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        parts.header["locals"].append(0)

    return forged(content, change)


def _no_entries(content: bytes, chance: random.Random) -> bytes:
    def change(parts: Parts) -> None:
        parts.header["entries"].remove(chance.choice(parts.header["entries"]))

    return forged(content, change)


MUTATIONS: list[tuple[Callable[[bytes, random.Random], bytes], int]] = [
    (_cut, 10),
    (_flipped, 14),
    (_flipped_inside, 18),
    (_dropped, 8),
    (_last_dropped, 6),
    (_doubled, 2),
    (_other_step, 8),
    (_other_parent, 6),
    (_other_rank, 8),
    (_other_memory, 4),
    (_other_scheme, 6),
    (_other_scenario, 4),
    (_less_claimed, 8),
    (_never_claimed, 8),
    (_claims_dropped, 4),
    (_claims_added, 1),
    (_no_entries, 4),
]


@pytest.mark.parametrize(("mutation", "count"), MUTATIONS, ids=[one.__name__ for one, _ in MUTATIONS])
def test_no_certificate_that_was_changed_is_accepted(
    mutation: Callable[[bytes, random.Random], bytes], count: int, tmp_path: Path
) -> None:
    content = certificate(*SMALL, "arm64")
    for seed in range(count):
        with pytest.raises(REFUSED):
            checked(mutation(content, random.Random(seed)), tmp_path)


def test_that_nothing_goes_wrong_is_checked_under_the_scheme_named(tmp_path: Path) -> None:
    def change(parts: Parts) -> None:
        parts.header["mitigation"] = "none"

    for memory in ("sc", "tso", "arm64"):
        with pytest.raises(RejectedError):
            checked(forged(certificate("mmap-lock-always", "pmd-promotion", memory), change), tmp_path)


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_steps_that_go_wrong_cannot_be_left_out(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = certify.all_moves

    def blind(space: Space) -> object:
        every = moves(space)
        return lambda state: [
            (agent, entry if isinstance(entry, int) else tuple(way for way in entry if way.finding is None))
            for agent, entry in every(state)
        ]

    monkeypatch.setattr(certify, "all_moves", blind)
    monkeypatch.setattr(Space, "ended", lambda space, state: None)
    cell = Cell("none", own.get("pmd-promotion"), memory)
    forgery = certify.certify(cell, SAFE, Limits()).content
    with pytest.raises(RejectedError, match="goes wrong: use-after-free"):
        checked(forgery, tmp_path)


def test_a_scheme_under_which_nothing_happens_is_no_proof(tmp_path: Path) -> None:
    scheme = tmp_path / "off.py"
    scheme.write_text(
        "from fuzzvm.kernel.hooks import Mitigation\n\n\nclass Off(Mitigation):\n"
        '    name = "off"\n\n    def before_promotion(self, k, level):\n        yield from ()\n        return False\n'
    )
    cell = Cell(f"{scheme}:Off", own.get("pmd-promotion"), "sc")
    forgery = certify.certify(cell, SAFE, Limits()).content
    with pytest.raises(RejectedError, match="vacuous: no schedule has promotion"):
        checked(forgery, tmp_path)


SPINS = """\
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Load


class Spins(Mitigation):
    name = "spins"

    def attach(self, boot):
        self.word = boot.word("word")

    def before_walk(self, k, mm):
        seen = yield Load(self.word)
        while seen == 0:
            seen = yield Load(self.word)
"""
NO_RACE = """\
arch = "arm64"
page_size = "4K"
levels = 3
fanout = 4
cpus = [["vmap(page=0, nr_pages=1, max_page_shift='pte')"], ["check_wx_pages()"]]
"""


def _of_own(folder: Path, scheme: str, name: str) -> Cell:
    (folder / "own.py").write_text(scheme)
    (folder / "no-race.toml").write_text(NO_RACE)
    return Cell(f"{folder / 'own.py'}:{name}", own.get(str(folder / "no-race.toml")), "sc")


def test_runs_that_never_end_are_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = _of_own(tmp_path, SPINS, "Spins")
    with pytest.raises(certify.CertifyError, match="no end can be reached"):
        certify.certify(cell, SAFE, Limits())
    lies: list[Callable[[int], list[int]]] = [
        lambda count: [0] * count,
        lambda count: [1] * count,
        lambda count: list(range(count, 0, -1)),
    ]
    for lie in lies:
        monkeypatch.setattr(certify, "_ranks", lambda before, ends, lie=lie: lie(len(before)))
        with pytest.raises(RejectedError, match="not as far from an end"):
            checked(certify.certify(cell, SAFE, Limits()).content, tmp_path)


WAITS = """\
from dataclasses import dataclass

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Await


@dataclass(frozen=True)
class IsSet:
    def __call__(self, value):
        return bool(value)

    def blocked_by(self, value):
        return ()


class Waits(Mitigation):
    name = "waits"

    def attach(self, boot):
        self.word = boot.word("word")

    def before_walk(self, k, mm):
        yield Await(self.word, IsSet())
"""


def test_a_wait_that_nobody_ends_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = _of_own(tmp_path, WAITS, "Waits")
    with pytest.raises(certify.CertifyError, match="ends wrongly: no-progress"):
        certify.certify(cell, SAFE, Limits())
    monkeypatch.setattr(Space, "ended", lambda space, state: None)
    with pytest.raises(RejectedError, match="no step, and is no end: no-progress"):
        checked(certify.certify(cell, SAFE, Limits()).content, tmp_path)


LOCKS = Path(__file__).parents[1] / "kernel" / "test_contexts.py"
ONE_OF_TWO = f"""\
import importlib.util
import sys

spec = importlib.util.spec_from_file_location("contexts", {str(LOCKS)!r})
contexts = sys.modules["contexts"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contexts)


class OneOfTwo(contexts.OrdersThatExcludeEachOther):
    name = "one-of-two"

    def before_change_attr(self, k):
        a, b = self.locks[:2] if k.cpu == 0 else self.locks[1::-1]
        seen = yield contexts.Rmw(self.word, contexts._Mark(), contexts.Order.ACQUIRE_RELEASE)
        if seen == 0:
            yield from self.both(k, a, b)
"""


def test_the_order_of_locks_is_checked_over_all_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(f"{LOCKS}:TwoOrders", own.get("pmd-promotion"), "sc")
    bug = verify_cell(cell, Bounds(Limits())).verdict
    checked(certify.certify(cell, bug, Limits()).content, tmp_path)
    with pytest.raises(certify.CertifyError, match="goes wrong: lock-order"):
        certify.certify(cell, SAFE, Limits())
    with monkeypatch.context() as patched:
        patched.setattr(LockOrder, "in_cycles", lambda order: frozenset())
        forgery = certify.certify(cell, SAFE, Limits()).content
    with pytest.raises(RejectedError, match="close a cycle"):
        checked(forgery, tmp_path)


def test_orders_that_no_run_has_together_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(ONE_OF_TWO)
    cell = Cell(f"{tmp_path / 'one.py'}:OneOfTwo", own.get("x86-cpa-collapse"), "sc")
    scenario = cell.scenario.to_data() | {
        "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pte')"],
        "cpus": [["set_memory_ro(page=0, nr_pages=1)"], ["set_memory_ro(page=1, nr_pages=1)"]],
    }
    cell = Cell(cell.mitigation, Scenario.from_data(scenario), "sc")
    content = certify.certify(cell, verify_cell(cell, Bounds(Limits())).verdict, Limits()).content
    assert len(Parts.of(content).header["orders"]) == 2
    checked(content, tmp_path)

    def change(parts: Parts) -> None:
        parts.header["orders"] = []

    with pytest.raises(RejectedError):
        checked(forged(content, change), tmp_path)


def test_the_locks_of_callbacks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Cell(f"{LOCKS}:CallbackTakesALockBh", own.get("pmd-promotion"), "sc")
    checked(certify.certify(right, verify_cell(right, Bounds(Limits())).verdict, Limits()).content, tmp_path)
    wrong = Cell(f"{LOCKS}:CallbackTakesALock", own.get("pmd-promotion"), "sc")
    with pytest.raises(certify.CertifyError, match="where the interrupt may come"):
        certify.certify(wrong, SAFE, Limits())
    with monkeypatch.context() as patched:
        patched.setattr(certify, "irq_conflict", lambda seen: None)
        forgery = certify.certify(wrong, SAFE, Limits()).content
    with pytest.raises(RejectedError, match="irq-safe and irq-unsafe"):
        checked(forgery, tmp_path)


def test_what_interrupts_do_to_locks_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is irq-unsafe though no run goes wrong, so that all states prove nothing of it; `certify` refuses."""
    read = "read_kcore(page={}, nr_pages=1)"
    data = {"name": "softirq", "arch": "arm64", "page_size": "4K", "levels": 4, "fanout": 2}
    calls = {"cpus": [[read.format(0)], []], "softirqs": [[], [read.format(1)]]}
    setup = ["vmap(page=0, nr_pages=2, max_page_shift='pte')"]
    cell = Cell("linux-7.3", Scenario.from_data({**data, **calls, "setup": setup}), "sc")
    assert verify_cell(cell, Bounds(Limits())).verdict.verdict == "bug"
    of_states, of_task = certify._all_states, certify._task
    monkeypatch.setattr(certify, "_all_states", lambda _, limits: of_states(cell, limits))
    monkeypatch.setattr(certify, "_task", lambda _: of_task(cell))
    monkeypatch.setattr(certify, "irq_conflict", lambda seen: None)
    without: Any = SimpleNamespace(scenario=SimpleNamespace(interrupts=()))
    content = certify.certify(without, SAFE, Limits()).content
    with pytest.raises(RejectedError, match="has interrupts"):
        checked(content, tmp_path)
