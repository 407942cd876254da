"""A verdict on a system that can be believed: it says what happened, and what is still to be asked of a scheme."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.exhaustive.all_errors import with_all_errors
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.mitigations.whose import is_users
from fuzzvm.scenario.purpose import missing
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism import scheme
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.lock_order import with_lock_order
from fuzzvm.verify.met import met_in


def verify_system(
    system: System,
    limits: Limits | None = None,
    *,
    preemptions: int | None = None,
    reduce: bool = True,
    all_errors: bool = False,
    keeper: DiskKeeper | None = None,
) -> tuple[Verdict, Driving | None]:
    """Return the verdict, with the cover points that were met and those that it lacks, and what is still to be asked.

    The second value is what second processes are to be asked before the verdict is believed (`scheme.check`), None
    where the scheme ships. Raises NondeterministicSchemeError where a scheme is seen already not to do the same every
    time, and as `verify` does. The verdict is what a `keeper` keeps; the search for orders of locks behind it is not.
    """
    limits = limits or Limits()
    users = is_users(system.mitigation)
    if users:
        scheme.refuse_what_changes(system)
    met: frozenset[str] = frozenset()
    driving: Driving | None = None

    def explored(space: Space) -> None:
        # not reached by a run that goes wrong before its first step
        nonlocal met, driving
        met = met_in(system, space)
        driving = scheme.driving(system, space) if users else None

    try:
        verdict = verify(system, limits, preemptions=preemptions, reduce=reduce, explored=explored, keeper=keeper)
        verdict = with_lock_order(system, verdict, limits)
        if all_errors:
            verdict = with_all_errors(system, verdict, limits)
    except DisagreementError as error:
        if users:
            raise scheme.disagreement(system, driving, error) from error
        raise
    lacks = missing(system, met) if verdict.failure is None else ()
    return replace(verdict, met=met, missing=lacks), driving
