"""A check as KTAP, SARIF and mail, each held to the rules of its form."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fuzzvm.report.check_ktap import check_ktap
from fuzzvm.report.check_mail import check_mail
from fuzzvm.report.check_sarif import check_sarif
from fuzzvm.report.ktap import Result, ktap
from tests.report.check_samples import BROKEN, FIXED, SAMPLES, UNTESTED
from tests.report.ktap_parser import Parsed, parse


def outcome(test: Parsed) -> str:
    return test.directive or ("ok" if test.ok else "not ok")


def test_ktap_has_a_test_for_each_pair_and_for_what_no_verdict_is_about() -> None:
    (check,) = parse(check_ktap(BROKEN))
    assert (check.name, outcome(check)) == ("fuzzvm check", "not ok")
    assert [(test.name, outcome(test)) for test in check.tests] == [
        ("pmd-promotion, sc", "ok"),
        ("pmd-promotion, arm64", "not ok"),
        ("pmd-promotion, tso", "SKIP"),
        ("vmap_try_huge_pud (mm/vmalloc.c)", "SKIP"),
        ("arch/x86/mm/pat/set_memory.c", "SKIP"),
    ]
    assert "BUG: use-after-free-read in ptdump_pte_entry" in check.tests[1].diagnostics
    assert "series.mbox (1 of 2): mm: drop the lock #1" in check.diagnostics


def test_ktap_of_what_is_mended_is_ok_and_of_what_cannot_be_tested_skipped() -> None:
    (fixed,), (untested,) = parse(check_ktap(FIXED)), parse(check_ktap(UNTESTED))
    assert outcome(fixed) == "ok"
    assert (outcome(untested), untested.tests) == ("SKIP", [])
    assert untested.said == f"cannot be tested: {UNTESTED['why']}"


def test_ktap_stays_in_form_whatever_names_hold() -> None:
    text = ktap("a # SKIP b\nok 2", [Result("x\n# y", False, said=("one\nnot ok 7", "")), Result("", True, "w\nok 3")])
    (test,) = parse(text)
    assert not test.ok and not test.directive
    assert [outcome(one) for one in test.tests] == ["not ok", "SKIP"]


# SARIF: the rules of the specification that the objects we write are under, by section


def objects(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every object with its path, indices left out."""
    if isinstance(data, dict):
        yield path, data
        for key, value in data.items():
            yield from objects(value, f"{path}/{key}")
    elif isinstance(data, list):
        for value in data:
            yield from objects(value, path)


RUN = "/runs"
LOCATION = {"physicalLocation", "logicalLocations", "message"}
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    # path: fields that must be there, and those that may
    # sections 3.13, 3.14, 3.18, 3.19, 3.20, 3.27, 3.36, 3.37, 3.38, 3.44, 3.58
    "": ({"version", "runs"}, {"$schema"}),
    RUN: ({"tool"}, {"invocations", "columnKind", "results", "properties"}),
    f"{RUN}/tool": ({"driver"}, set()),
    f"{RUN}/tool/driver": ({"name"}, {"version", "rules"}),
    f"{RUN}/tool/driver/rules": ({"id"}, {"shortDescription"}),
    f"{RUN}/tool/driver/rules/shortDescription": ({"text"}, set()),
    f"{RUN}/invocations": ({"executionSuccessful"}, {"commandLine", "exitCode", "toolExecutionNotifications"}),
    f"{RUN}/invocations/toolExecutionNotifications": ({"message"}, {"level", "locations"}),
    f"{RUN}/properties": (set(), {"answer", "why", "series"}),
    f"{RUN}/results": (
        {"message"},
        {
            *("ruleId", "ruleIndex", "level", "kind", "baselineState", "partialFingerprints"),
            *("locations", "stacks", "codeFlows"),
        },
    ),
    f"{RUN}/results/partialFingerprints": (set(), {"fuzzvm/v1"}),
    f"{RUN}/results/stacks": ({"frames"}, {"message"}),
    f"{RUN}/results/stacks/frames": (set(), {"location"}),
    f"{RUN}/results/codeFlows": ({"threadFlows"}, {"message"}),
    f"{RUN}/results/codeFlows/threadFlows": ({"locations"}, {"id", "message"}),
    f"{RUN}/results/codeFlows/threadFlows/locations": (set(), {"location", "executionOrder"}),
}
ENDS: dict[str, tuple[set[str], set[str]]] = {
    "message": ({"text"}, set()),
    "location": (set(), LOCATION),
    "locations": (set(), LOCATION),
    "physicalLocation": ({"artifactLocation"}, {"region"}),
    "artifactLocation": ({"uri"}, {"uriBaseId"}),
    "region": ({"startLine"}, set()),
    "logicalLocations": (set(), {"name", "kind"}),
}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_sarif_has_the_fields_that_the_specification_knows(name: str) -> None:
    log = json.loads(check_sarif(SAMPLES[name]))
    assert log["version"] == "2.1.0" and len(log["runs"]) == 1
    for path, one in objects(log):
        must, may = FIELDS.get(path) or ENDS[path.rpartition("/")[2]]
        assert must <= one.keys() <= must | may, path
    (found,) = log["runs"]
    rules = [rule["id"] for rule in found["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in found["results"]:
        # 3.27.5 to 3.27.10: the rule by its index, a level that goes with the kind
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["kind"] == "fail" and result["level"] in ("none", "note", "warning", "error")
        assert result["baselineState"] in ("new", "unchanged", "updated", "absent")
        for flow in (flow for code in result["codeFlows"] for flow in code["threadFlows"]):
            orders = [one["executionOrder"] for one in flow["locations"]]
            assert orders == sorted(set(orders)) and min(orders) >= 0
    for _, one in objects(log):
        if "startLine" in one:
            assert one["startLine"] >= 1
    for notification in found["invocations"][0]["toolExecutionNotifications"]:
        assert notification["level"] in ("none", "note", "warning", "error")


def test_sarif_says_what_is_broken_and_what_nobody_looked_at() -> None:
    (run,) = json.loads(check_sarif(BROKEN))["runs"]
    (result,) = run["results"]
    assert (result["ruleId"], result["baselineState"]) == ("use-after-free-read", "new")
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "mm/ptdump.c", "uriBaseId": "SRCROOT"},
        "region": {"startLine": 31},
    }
    flows = result["codeFlows"][0]["threadFlows"]
    assert [(flow["id"], [one["executionOrder"] for one in flow["locations"]]) for flow in flows] == [
        ("CPU 0", [2]),
        ("CPU 1", [1, 4]),
        ("memory", [3]),
    ]
    said = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert any("vmap_try_huge_pud" in text for text in said) and any("set_memory.c" in text for text in said)
    (mended,) = json.loads(check_sarif(FIXED))["runs"][0]["results"]
    assert mended["baselineState"] == "absent"
    assert json.loads(check_sarif(UNTESTED))["runs"][0]["results"] == []


# mail


@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_mail_is_72_columns_wide_and_says_what_was_tested(name: str) -> None:
    text = check_mail(SAMPLES[name])
    # an address or a command is not broken
    assert [line for line in text.splitlines()[1:] if len(line) > 72] == []
    for part in ("What was tested", "patch: series.mbox (1 of 2)", "    fuzzvm check --tree linux", "Limits"):
        assert part in text
    assert not text.startswith("Subject: \n")


def test_the_subject_names_the_function_of_the_tree_and_not_what_it_calls() -> None:
    data = copy.deepcopy(BROKEN)
    (pair,) = (one for one in data["pairs"] if one["answer"] == "broken")
    frames = [
        ("free_pages", ""),
        ("pagetable_free", "include/linux/mm.h"),
        ("pmd_free_pte_page", "arm64/mm/mmu.c"),
    ]
    pair["after"] |= {"bug": "free-of-linked-table", "function": "free_pages"}
    pair["after"]["story"]["stack"] = [
        {"function": name, "file": file, "line": 1, "inlined": False} for name, file in frames
    ]
    assert check_mail(data).startswith("Subject: [BUG] free-of-linked-table in pmd_free_pte_page(): ")


def test_a_mail_has_the_schedule_as_columns() -> None:
    text = check_mail(BROKEN)
    lines = text.splitlines()
    assert lines[0] == "Subject: [BUG] use-after-free-read in ptdump_pte_entry(): mm: drop the lock #1 (and 1 more)"
    (head,) = (line for line in lines if line.startswith("     CPU 0"))
    assert head.index("CPU 1") > head.index("CPU 0")
    assert "did not run: vmap_try_huge_pud (mm/vmalloc.c)" in text
    assert "none uses what has been freed" not in text
    of_git = check_mail(BROKEN | {"series": ["9366386 mm/vmalloc: drop it"]})
    assert of_git.startswith("Subject: [BUG] use-after-free-read in ptdump_pte_entry(): mm/vmalloc: drop it\n")
    assert "tree: linux\n" in text and "tree: linux, commit 0123abc\n" in check_mail(BROKEN | {"commit": "0123abc"})
    fixed = check_mail(FIXED)
    assert fixed.startswith("Subject: fuzzvm check: fixed: mm: drop the lock #1 (and 1 more)\n")
    assert "none uses what has been freed" in " ".join(fixed.split()) and "before the series" in fixed
