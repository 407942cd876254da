"""Settles a failing run, of a plain search or a campaign that lasts: it must fail the same way, and is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzzvm.corpus.format import TestCase
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.machine.errors import ScheduleError, StoppedError
from fuzzvm.mitigations.whose import is_users
from fuzzvm.runs.minimise.minimiser import DEFAULT_BUDGET, Minimised, NotFailingError, minimise
from fuzzvm.scenario.target import Code
from fuzzvm.verify.determinism.elsewhere import ask
from fuzzvm.verify.determinism.replaying import Replaying, outcome


class NotTheSameError(Exception):
    """A failing run went another way when it was run again; the message says in one line what happened instead."""


@dataclass(frozen=True)
class SettledRun:
    """A minimal test case, with its origin.

    `unchecked` says why no second process was asked whether a scheme of the user's fails there as well, '' if one was.
    """

    minimised: Minimised
    unchecked: str = ""

    @property
    def how(self) -> str:
        """How sure it is, in the words of the reports."""
        return f"{self.minimised.how}, {self.unchecked}" if self.unchecked else self.minimised.how


def settle(
    case: TestCase,
    code: Code,
    found: str,
    *,
    strictly: bool = False,
    until: float | None = None,
    steps: int = DEFAULT_BUDGET,
    max_states: int | None = None,
    on_minimise: Callable[[str], None] = lambda name: None,
) -> SettledRun:
    """Replay a failing run here and, where it is of a scheme of the user's, in second processes; minimise it.

    `found` says in words where it comes from. `steps`, `max_states` and `until`, by the monotonic clock, bound the
    minimiser. With `strictly`, second processes replay runs of schemes that ship and the minimal run as well, however
    long that takes; else a run is unchecked where there is no time. Raises NotTheSameError where it does not fail the
    same way again, and what `ask` and `minimise` raise.
    """
    unchecked = ""
    try:
        what = differs(case, code, everywhere=strictly, until=None if strictly else until)
    except StoppedError as bound:
        what, unchecked = "", str(bound)
    if what:
        raise NotTheSameError(what)
    try:
        minimised = minimise(case, code, budget=steps, max_states=max_states, until=until, progress=on_minimise)
    except (NotFailingError, ScheduleError) as error:
        raise NotTheSameError(str(error)) from error
    except DisagreementError as error:
        if not isinstance(code, type) or not is_users(code):
            raise
        raise NotTheSameError(str(error)) from error
    settled = SettledRun(minimised, unchecked)
    settled = SettledRun(minimised.with_origin(f"{found}; {settled.how}"), unchecked)
    if strictly and (what := differs(settled.minimised.case, code, everywhere=True)):
        raise NotTheSameError(f"minimised, {what}")
    return settled


def differs(case: TestCase, code: Code, *, everywhere: bool, until: float | None = None) -> str:
    """Return what a test case does otherwise when it is replayed, in one line; '' where nothing.

    Second processes are asked about schemes of the user's, and `everywhere` about those that ship: what a scheme keeps
    from run to run shows between two replays, and what depends on the order of a set, on an address or on the time
    between processes. Raises as `ask`.
    """
    here = outcome(case, code)
    if here[0] != str(case.expect):
        return f"a replay in the process that found it gave {here[0]}, and not {case.expect}"
    if not isinstance(code, type) or not (everywhere or is_users(code)):
        return ""
    return ask(code, [Replaying(case, here)], until)
