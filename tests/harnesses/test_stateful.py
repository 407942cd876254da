"""What the state machines of harnesses/stateful.py do with a bug, and with a model that is wrong."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import unittest
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import replay
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.pgtable import PAGE_KERNEL
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import Vmap
from tests.mitigations import lockless, mutants

ROOT = Path(__file__).resolve().parents[2]
COMMON = settings(
    phases=(Phase.generate,),
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)


BROKEN = [
    (mutants.LockNeverTaken, 1),
    (mutants.KeyCheckedBeforeClear, 1),
    (mutants.LockDroppedBeforeClear, 1),
    (mutants.KeyOffBeforeWalkEnds, 1),
    (mutants.PlainFlag, 2),
    (mutants.KeyNeverOn, 1),
    (mutants.KeyOnAfterFirstRead, 1),
    (mutants.OneSiteUnpatched, 1),
    (mutants.TrylockInstead, 1),
    (mutants.KeyLeftOn, 1),
    (mutants.KeyOffTwice, 1),
    (mutants.LockKept, 1),
    (lockless.LooksOnce, 1),
    (lockless.LetsGoTooEarly, 1),
    (lockless.WaitsBeforeTheClear, 1),
    (lockless.FreesWithReferences, 1),
    (lockless.NoRetry, 1),
    (lockless.EvenTooEarly, 1),
    (lockless.WalksCountUnfenced, 1),
    (registry.shipped()["static-key-enable"], 2),
    (registry.shipped()["deferred-free"], 1),
    (registry.shipped()["cpa-lock"], 1),
    (registry.shipped()["ptdump-locks-init-mm"], 2),
]


@pytest.fixture(scope="module")
def profile() -> settings:
    """The profile `ci` of the harnesses."""
    before = settings.get_current_profile_name()
    spec = importlib.util.spec_from_file_location("harnesses_conftest", ROOT / "harnesses" / "conftest.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    settings.load_profile(before)
    return settings.get_profile("ci")


@pytest.fixture(scope="module")
def stateful() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harnesses_stateful", ROOT / "harnesses" / "stateful.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Hypothesis looks a rule's class up in the module that it says it comes from
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(test: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    test("runTest").run(result)
    return result


@pytest.mark.slow
def test_an_unexpected_bug_is_kept_as_a_minimised_test_case(
    stateful: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUZZVM_CORPUS", str(tmp_path / "new" / "findings"))
    test = stateful.define("ClaimedSafe", registry.shipped()["none"], 1, "safe")
    test.settings = settings(COMMON, max_examples=2000)
    ((_, report),) = run(test).failures
    (path,) = (tmp_path / "new" / "findings").iterdir()
    case = read(path)
    assert replay(case).as_expected and case.expect.verdict == "bug"
    assert context_switches(case.schedule) <= 3
    assert "stateful.py" in case.origin
    assert str(case.expect) in report
    command = re.search(r"replay with: (fuzzvm replay .*)", report)
    assert command is not None and shlex.split(command[1])[-1] == str(path)
    assert "Failing test case" not in report


@pytest.mark.product
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken[0].__name__)
def test_a_broken_scheme_is_found_in_profile_ci(
    broken: tuple[type[Mitigation], int], stateful: ModuleType, profile: settings
) -> None:
    scheme, walkers = broken
    machine = type(
        "Machine", (stateful.KernelCalls,), {"mitigation": scheme, "walkers": walkers, "__module__": stateful.__name__}
    )
    with pytest.raises(stateful.FoundBugError) as found:
        run_state_machine_as_test(machine, settings=profile)
    assert replay(found.value.case, scheme).problem == ""


def test_a_claim_of_a_bug_that_is_not_there_fails(stateful: ModuleType) -> None:
    test = stateful.define("ClaimedBuggy", registry.shipped()["config-off"], 1, "bug")
    test.settings = settings(COMMON, max_examples=2, stateful_step_count=10, derandomize=False)
    ((_, report),) = run(test).failures
    assert "no bug found under config-off" in report


def test_every_shipped_mitigation_has_a_test_for_each_claim(stateful: ModuleType) -> None:
    tests = [name for name, value in vars(stateful).items() if name.startswith("Test") and name != "TestCase"]
    claims = [(m.one_walker, m.two_walkers) for m in registry.shipped().values()]
    assert len(tests) == sum(claim is not None for pair in claims for claim in pair)
    assert {"TestNoneWith1Walker", "TestStaticKeyEnableWith2Walkers"} <= set(tests)


def test_hypofuzz_finds_the_state_machine_of_a_test(stateful: ModuleType) -> None:
    run_test = stateful.TestStaticKeyWith1Walker.runTest
    assert run_test.is_hypothesis_test
    assert issubclass(run_test._hypothesis_state_machine_class, RuleBasedStateMachine)


def test_a_mapping_that_nobody_asked_for_is_noticed(stateful: ModuleType) -> None:
    machine = type("Machine", (stateful.KernelCalls,), {"mitigation": registry.shipped()["config-off"], "walkers": 1})()
    machine.boot(arch=("arm64", 4), fanout=2, leftovers=False, mappers=1, weak=True, runs=0)
    machine.system.call(0, Vmap(8, 1))
    machine.system.finish()
    with pytest.raises(AssertionError, match=r"wrongly mapped or missing: \[\(8, "):
        machine.what_was_asked_for_is_mapped()
    machine.mapped[8] = 8, PAGE_KERNEL
    machine.what_was_asked_for_is_mapped()


def test_profile_ci_runs_the_same_every_time() -> None:
    environment = os.environ | {"HYPOTHESIS_PROFILE": "ci", "PYTHONPATH": str(ROOT)}
    show = "import conftest; from hypothesis import settings; print(settings.default)"
    ran = subprocess.run(
        [sys.executable, "-c", show],
        env=environment,
        cwd=ROOT / "harnesses",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "derandomize=True" in ran.stdout and "database=None" in ran.stdout
