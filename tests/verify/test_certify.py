"""fuzzvm.verify.certify: of what proves nothing there is no certificate. tests/certificate/ has what is accepted."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive.limits import Limits, StoppedError
from fuzzvm.exhaustive.verdict import Verdict
from fuzzvm.machine.errors import NO_PROGRESS, Failure
from fuzzvm.machine.execution import MAX_STEPS
from fuzzvm.scenario import own
from fuzzvm.verify import certify
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell


@pytest.mark.always
def test_there_is_no_certificate_of_what_proves_nothing() -> None:
    cell = Cell("static-key", own.get("pmd-promotion"), "sc")
    cut = verify_cell(cell, Bounds(Limits(max_states=10))).verdict
    undecided = Verdict(None, None, False, "--max-seconds 1 reached", 0, 0, 0.0)
    vacuous = Verdict(None, None, True, "", 9, 9, 0.0, missing=("promotion",))
    for verdict, why in (
        (cut, "--max-states 10"),
        (undecided, "undecided"),
        (vacuous, "vacuous, nothing has prom"),
    ):
        with pytest.raises(certify.CertifyError, match=why):
            certify.certify(cell, verdict, Limits())


@pytest.mark.always
def test_a_run_that_never_ends_and_a_bug_without_a_schedule_have_none() -> None:
    cell = Cell("none", own.get("pmd-promotion"), "sc")
    failure = Failure(NO_PROGRESS, "not done", None, (), MAX_STEPS)
    for schedule, why in ((((0,),) * MAX_STEPS, "never ends"), (None, "not found")):
        with pytest.raises(certify.CertifyError, match=why):
            certify.certify(cell, Verdict(failure, schedule, False, "a bound", 9, 9, 0.0), Limits())


@pytest.mark.always
def test_listing_all_states_keeps_to_its_bounds() -> None:
    cell = Cell("static-key", own.get("pmd-promotion"), "arm64")
    with pytest.raises(StoppedError, match="--max-states 100 reached"):
        certify.certify(cell, Verdict(None, None, True, "", 9, 9, 0.0), Limits(max_states=100))
