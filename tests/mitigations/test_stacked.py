"""fuzzvm.mitigations.stacked: several schemes as one, their hooks in order, and what comes of some stacks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import DEADLOCK, USE_AFTER_FREE_READ
from fuzzvm.machine.ops import Address, Free, Steps
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.registry import MitigationError, get, split
from fuzzvm.mitigations.stacked import HOOKS, overrides, stack
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario import shipped as scenarios
from fuzzvm.scenario.system import System


def logging(name: str, log: list[tuple[str, str, Any]], agrees: bool = True) -> type[Mitigation]:
    """Return a scheme that writes down each hook with the token that it gets, and returns tokens of its own."""

    class Logging(Mitigation):
        def attach(self, boot: Boot) -> None:
            log.append((name, "attach", None))

        def before_promotion(self, k: Any, level: Level) -> Steps[bool]:
            log.append((name, "before_promotion", None))
            yield from ()
            return agrees

        def after_promotion(self, k: Any, level: Level) -> Steps[None]:
            log.append((name, "after_promotion", None))
            yield from ()

        def before_clear(self, k: Any, level: Level) -> Steps[str]:
            log.append((name, "before_clear", None))
            yield from ()
            return f"teardown of {name}"

        def after_clear(self, k: Any, level: Level, token: Any) -> Steps[None]:
            log.append((name, "after_clear", token))
            yield from ()

        def before_free(self, k: Any, level: Level, token: Any) -> Steps[None]:
            log.append((name, "before_free", token))
            yield from ()

        def after_free(self, k: Any, level: Level, token: Any) -> Steps[None]:
            log.append((name, "after_free", token))
            yield from ()

        def before_walk(self, k: Any, mm: Any) -> Steps[str]:
            log.append((name, "before_walk", None))
            yield from ()
            return f"walk of {name}"

        def walk_locked(self, k: Any, mm: Any, token: Any) -> Steps[None]:
            log.append((name, "walk_locked", token))
            yield from ()

        def before_attempt(self, k: Any, mm: Any, token: Any) -> Steps[str]:
            log.append((name, "before_attempt", token))
            yield from ()
            return f"attempt of {name}"

        def before_descend(self, k: Any, level: Level, pxdp: int, pxd: int) -> Steps[bool]:
            log.append((name, "before_descend", None))
            yield from ()
            return agrees

        def after_descend(self, k: Any, level: Level, pxd: int) -> Steps[None]:
            log.append((name, "after_descend", None))
            yield from ()

        def after_attempt(self, k: Any, mm: Any, token: Any) -> Steps[bool]:
            log.append((name, "after_attempt", token))
            yield from ()
            return not agrees

        def walk_unlocking(self, k: Any, mm: Any, token: Any) -> Steps[None]:
            log.append((name, "walk_unlocking", token))
            yield from ()

        def after_walk(self, k: Any, mm: Any, token: Any) -> Steps[None]:
            log.append((name, "after_walk", token))
            yield from ()

    Logging.name = name
    return Logging


def drive(scheme: Mitigation, hook: str, *arguments: Any) -> Any:
    """Run a hook that yields nothing; return what it returns."""
    program = getattr(scheme, hook)(None, *arguments)
    with pytest.raises(StopIteration) as stop:
        next(program)
    return stop.value.value


@given(st.integers(2, 4))
def test_what_comes_before_runs_in_order_and_what_comes_after_the_other_way(count: int) -> None:
    log: list[tuple[str, str, Any]] = []
    names = [f"s{number}" for number in range(count)]
    scheme = stack([logging(name, log) for name in names], "+".join(names))()
    scheme.attach(None)  # type: ignore[arg-type]
    assert drive(scheme, "before_promotion", Level.PMD) is True
    token = drive(scheme, "before_clear", Level.PMD)
    for hook in ("after_clear", "before_free", "after_free"):
        drive(scheme, hook, Level.PMD, token)
    drive(scheme, "after_promotion", Level.PMD)
    token = drive(scheme, "before_walk", None)
    drive(scheme, "walk_locked", None, token)
    attempt = drive(scheme, "before_attempt", None, token)
    assert drive(scheme, "before_descend", Level.PMD, 0, 0) is True
    drive(scheme, "after_descend", Level.PMD, 0)
    assert drive(scheme, "after_attempt", None, attempt) is False
    for hook in ("walk_unlocking", "after_walk"):
        drive(scheme, hook, None, token)
    expected = []
    for hook, forward, about in (
        ("attach", True, None),
        ("before_promotion", True, None),
        ("before_clear", True, None),
        ("after_clear", True, "teardown"),
        ("before_free", True, "teardown"),
        ("after_free", False, "teardown"),
        ("after_promotion", False, None),
        ("before_walk", True, None),
        ("walk_locked", True, "walk"),
        ("before_attempt", True, "walk"),
        ("before_descend", True, None),
        ("after_descend", False, None),
        ("after_attempt", False, "attempt"),
        ("walk_unlocking", False, "walk"),
        ("after_walk", False, "walk"),
    ):
        order = names if forward else names[::-1]
        expected += [(name, hook, about and f"{about} of {name}") for name in order]
    assert log == expected


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_promotion_that_one_refuses_is_over_for_those_that_agreed(answers: list[bool]) -> None:
    log: list[tuple[str, str, Any]] = []
    parts = [logging(str(number), log, agrees) for number, agrees in enumerate(answers)]
    go_on = drive(stack(parts, "all")(), "before_promotion", Level.PMD)
    assert go_on is all(answers)
    agreed = answers.index(False) if False in answers else len(answers)
    asked = [str(number) for number in range(min(agreed + 1, len(answers)))]
    told = [] if go_on else [str(number) for number in reversed(range(agreed))]
    assert log == [(name, "before_promotion", None) for name in asked] + [(n, "after_promotion", None) for n in told]


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_table_that_one_does_not_descend_into_is_let_go_by_those_that_agreed(answers: list[bool]) -> None:
    log: list[tuple[str, str, Any]] = []
    scheme = stack([logging(str(number), log, agrees) for number, agrees in enumerate(answers)], "all")()
    assert drive(scheme, "before_descend", Level.PMD, 0, 0) is all(answers)
    agreed = answers.index(False) if False in answers else len(answers)
    asked = [(str(number), "before_descend", None) for number in range(min(agreed + 1, len(answers)))]
    let_go = [] if all(answers) else [(str(number), "after_descend", None) for number in reversed(range(agreed))]
    assert log == asked + let_go
    log.clear()
    attempt = drive(scheme, "before_attempt", None, None)
    assert drive(scheme, "after_attempt", None, attempt) is not all(answers), "one that repeats the walk is enough"
    assert len(log) == 2 * len(answers), "and all are told"


def test_a_stack_has_the_hooks_of_its_schemes_and_no_other() -> None:
    assert set(HOOKS) == {name for name, member in vars(Mitigation).items() if inspect.isgeneratorfunction(member)}
    for parts in (("none", "none"), ("vmap-trylock", "static-key"), ("rcu-free", "static-key")):
        schemes = [get(part) for part in parts]
        stacked = stack(schemes, "+".join(parts))
        for hook in HOOKS:
            assert overrides(stacked, hook) == any(overrides(scheme, hook) for scheme in schemes)


def test_what_a_stack_is() -> None:
    stacked = get("static-key+config-off")
    assert stacked.name == "static-key+config-off"
    assert stacked.isolates_first and stacked.summary == "static-key and config-off"
    assert not stacked().huge_vmap_allowed() and get("static-key+none")().huge_vmap_allowed()
    assert (stacked.one_walker, stacked.two_walkers, stacked.other_mm, stacked.collapse) == (None,) * 4
    assert not get("none+vmap-trylock").isolates_first


class OwnFree(Mitigation):
    name = "own-free"
    freed: ClassVar[list[Address]] = []

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        self.freed.append(table)
        yield Free(table)


def test_a_table_is_freed_by_the_scheme_that_has_a_way_of_its_own() -> None:
    stacked = stack([get("none"), OwnFree], "x")()
    assert list(stacked.free_table(None, 5, Level.PMD)) == [Free(5)]  # type: ignore[arg-type]
    assert OwnFree.freed == [5]


def test_two_ways_to_free_a_table_are_refused() -> None:
    with pytest.raises(MitigationError) as caught:
        get("rcu-free+none+deferred-free")
    assert str(caught.value) == (
        "rcu-free+none+deferred-free: rcu-free and deferred-free both free tables in a way of their own"
    )


# What a stack is asked for by

FILE = "from fuzzvm.kernel.hooks import Mitigation\nclass Mine(Mitigation):\n    name = 'mine'\n"


def test_files_and_names_stack_in_any_order_and_files_may_have_a_plus_in_their_names(tmp_path: Path) -> None:
    for name in ("plain.py", "a+b.py", "none+c.py"):
        (tmp_path / name).write_text(FILE)
    plain, plus, tricky = (f"{tmp_path}/{name}:Mine" for name in ("plain.py", "a+b.py", "none+c.py"))
    assert split(plus) == [plus] and get(plus).name == "mine"
    assert split(tricky) == [tricky]
    assert split(f"{plain}+static-key") == [plain, "static-key"]
    assert split(f"none+{plus}+{tricky}+static-key") == ["none", plus, tricky, "static-key"]
    assert get(f"none+{plus}").name == f"none+{plus}"
    assert registry.is_path(f"none+{plus}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none+nothing", "no mitigation 'nothing'; there are "),
        ("nothing+none", "no mitigation 'nothing'; there are "),
        ("none+", "no mitigation ''; there are "),
        ("+", "no mitigation ''; there are "),
        ("none+no/such.py:Mine", "no/such.py: no such file"),
        ("no+such.py:Mine", "no+such.py: no such file"),
    ],
)
def test_a_part_that_is_not_there_is_named(spec: str, message: str) -> None:
    with pytest.raises(MitigationError) as caught:
        get(spec)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


# What comes of them


@pytest.mark.parametrize("scenario", ["pmd-promotion", "pud-promotion", "two-walkers", "x86-pmd-promotion"])
def test_a_read_lock_nested_in_a_read_lock_deadlocks_where_neither_alone_does(scenario: str) -> None:
    found = scenarios.get(scenario)
    for alone in ("vmap-trylock", "static-key"):
        verdict = verify(System(found, get(alone), "sc"))
        assert verdict.complete and verdict.verdict == "safe"
    for both in ("vmap-trylock+static-key", "static-key+vmap-trylock", "vmap-trylock+mmap-lock-always"):
        verdict = verify(System(found, get(both), "sc"))
        assert verdict.verdict == "bug" and verdict.failure is not None
        assert verdict.failure.error == DEADLOCK


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("scenario", ["x86-other-mm", "x86-two-mms"])
def test_a_walk_of_another_mm_is_safe_only_with_both_halves_of_the_fix(scenario: str, memory: str) -> None:
    found = scenarios.get(scenario)
    for half in ("vmap-trylock", "ptdump-locks-init-mm"):
        verdict = verify(System(found, get(half), memory))
        assert verdict.failure is not None and verdict.failure.error == USE_AFTER_FREE_READ
    whole = get("vmap-trylock+ptdump-locks-init-mm")
    verdict = verify(System(found, whole, memory))
    assert verdict.complete and verdict.verdict == "safe"
    for point in ("walk-init-lock", "promotion-lock"):
        assert verify(System(found, whole, memory, without=(point,))).verdict == "bug"


@pytest.mark.parametrize("order", ["vmap-trylock+rcu-free", "rcu-free+vmap-trylock"])
def test_two_schemes_that_have_nothing_to_do_with_each_other_are_safe_together(order: str) -> None:
    verdict = verify(System(scenarios.get("pmd-promotion"), get(order), "sc"))
    assert verdict.complete and verdict.verdict == "safe"


def test_points_that_are_hooks_are_left_out_of_a_stack() -> None:
    (point,) = ordering_points.get(["walk-key"])
    assert ordering_points.used(point, get("vmap-trylock+static-key"), [])
    assert not ordering_points.used(point, get("vmap-trylock+ptdump-locks-init-mm"), [])
    stripped = ordering_points.strip_hooks(get("vmap-trylock+static-key"), [point])
    assert not overrides(stripped, "before_walk") and overrides(stripped, "before_free")


class TakesAToken(Mitigation):
    """Fails where a hook gets a token that its own first hook has not returned."""

    name = "takes-a-token"

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[int]:
        yield from ()
        return k.cpu

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        assert token == k.cpu
        yield from ()


def test_the_search_keeps_tokens_apart() -> None:
    found = scenarios.get("two-walkers")
    scheme = stack([TakesAToken, get("vmap-trylock"), TakesAToken], "three")
    verdict = verify(System(found, scheme, "sc"))
    assert verdict.complete and verdict.verdict == "safe"
