"""A check as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format, 27 March 2020).

A pair in which something goes wrong is a result, with its schedule as a code flow that has a thread flow for each CPU
(3.36, 3.37). One that is mended is a result whose baseline state is "absent" (3.27.24). What no verdict is about is a
notification, as no result can be of something that was not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import fuzzvm
from fuzzvm.kernel.errors import DESCRIPTIONS
from fuzzvm.report.check_words import NOT_SEEN

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
BASE_ID = "SRCROOT"
_STATES = {"broken": "new", "still broken": "unchanged", "fixed": "absent"}


def check_sarif(data: Mapping[str, Any]) -> str:
    """Return a check's data as a SARIF log."""
    results = list(_results(data))
    rules = sorted({result["ruleId"] for result in results})
    for result in results:
        result["ruleIndex"] = rules.index(result["ruleId"])
    run = {
        "tool": {
            "driver": {
                "name": "fuzzvm",
                "version": fuzzvm.__version__,
                "rules": [{"id": rule, "shortDescription": {"text": DESCRIPTIONS.get(rule, rule)}} for rule in rules],
            }
        },
        "invocations": [
            {
                "commandLine": data["command"],
                "exitCode": data["status"],
                # a patch that does not compile is an answer, and no failure of the tool
                "executionSuccessful": True,
                "toolExecutionNotifications": list(_notifications(data)),
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {"answer": data["answer"], "why": data["why"], "series": data["series"]},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _results(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for pair in data["pairs"]:
        if pair["answer"] not in _STATES:
            continue
        run = pair["before"] if pair["answer"] == "fixed" else pair["after"]
        story = run["story"]
        where = f" in {run['function']}" if run["function"] else ""
        text = f"{run['bug']}{where}: {pair['answer']} in scenario {pair['scenario']} under {pair['memory']} memory"
        if story:
            text = f"{text}. {story['message'][:1].upper()}{story['message'][1:]}."
        identity = f"{run['bug']} {run['function']} {pair['scenario']} {pair['memory']}"
        result: dict[str, Any] = {
            "ruleId": run["bug"],
            "level": "error",
            "kind": "fail",
            "baselineState": _STATES[pair["answer"]],
            "message": {"text": text},
            "partialFingerprints": {"fuzzvm/v1": hashlib.sha256(identity.encode()).hexdigest()[:32]},
        }
        if story:
            places = [_location(frame) for frame in story["stack"] if frame["file"]]
            result["locations"] = places[:1]
            result["stacks"] = [{"message": {"text": "Where it fails"}, "frames": list(_frames(story["stack"]))}]
            result["codeFlows"] = [{"message": {"text": "A shortest schedule"}, "threadFlows": _flows(story)}]
        yield result


def _frames(stack: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for frame in stack:
        yield {"location": _location(frame)}


def _flows(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of each CPU; `executionOrder` is the number of the step in the whole schedule."""
    flows = []
    for cpu in dict.fromkeys(step["cpu"] for step in sorted(story["steps"], key=lambda step: int(step["cpu"]))):
        name = f"CPU {cpu}" if cpu < story["cpus"] else "memory"
        steps = [
            {"executionOrder": step["number"], "location": _location(step, step["text"])}
            for step in story["steps"]
            if step["cpu"] == cpu
        ]
        flows.append({"id": name, "message": {"text": name}, "locations": steps})
    return flows


def _location(frame: Mapping[str, Any], text: str = "") -> dict[str, Any]:
    """Return where a step or a function stands; what the model stands for has no line."""
    location: dict[str, Any] = {}
    if frame["file"]:
        place: dict[str, Any] = {"artifactLocation": {"uri": quote(frame["file"]), "uriBaseId": BASE_ID}}
        if frame["line"] > 0:
            place["region"] = {"startLine": frame["line"]}
        location["physicalLocation"] = place
    if frame["function"]:
        location["logicalLocations"] = [{"name": frame["function"], "kind": "function"}]
    if text:
        location["message"] = {"text": text}
    return location


def _notifications(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    said = f"{data['answer']}: {data['why']}" if data["why"] else data["answer"]
    yield {"level": "note" if data["status"] == 0 else "warning", "message": {"text": said}}
    for one in data["functions"]:
        if one["state"] in NOT_SEEN:
            text = f"not looked at: {one['name']}: {one['why'] or one['state']}"
            where = _location({"file": one["file"], "line": 0, "function": one["name"]})
            yield {"level": "warning", "message": {"text": text}, "locations": [where]}
    for name in data["not_looked_at"]:
        yield {"level": "warning", "message": {"text": f"not looked at: no image is compiled from {name}"}}
    for name, why in data["left_out"].items():
        yield {"level": "warning", "message": {"text": f"scenario {name} was left out: {why}"}}
