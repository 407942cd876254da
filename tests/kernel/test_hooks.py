"""fuzzvm.kernel.hooks: the defaults do nothing."""

from __future__ import annotations

import inspect

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Free
from tests.support import boot

HOOKS = [name for name, value in vars(Mitigation).items() if inspect.isgeneratorfunction(value)]


def test_every_hook_is_documented_and_a_generator() -> None:
    plain = {"attach", "huge_vmap_allowed"}
    functions = {name for name, value in vars(Mitigation).items() if inspect.isfunction(value)}
    assert functions == plain | set(HOOKS)
    assert all(vars(Mitigation)[name].__doc__ for name in functions)


def test_defaults_take_no_step_but_the_free() -> None:
    machine, kernel = boot()
    mitigation = Mitigation()
    assert mitigation.huge_vmap_allowed() is True
    assert mitigation.isolates_first is False
    for name in HOOKS:
        parameters = len(inspect.signature(vars(Mitigation)[name]).parameters) - 2
        arguments = [Level.PMD if name == "before_promotion" else 0] * parameters
        steps = list(getattr(mitigation, name)(kernel, *arguments))
        assert steps == ([Free(0)] if name == "free_table" else [])
    assert machine.boot(mitigation.before_promotion(kernel, Level.PMD)) is True
