"""A check as plain data: what `fuzzvm check --json` prints, and what every other form of it is made from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzzvm.check.answers import FIXED, STATUS
from fuzzvm.check.check import Answer, Comparison
from fuzzvm.report.check_words import FORMAT
from fuzzvm.report.compiled_story import story_of, to_data
from fuzzvm.verify.images import ImageRun
from fuzzvm.verify.verdict_data import failure_to_data, search_to_data


def answer_to_data(answer: Answer, tree: Path, commit: str | None, command: str) -> dict[str, Any]:
    """Return an answer as plain data; `commit` is the base of a git tree, `command` is what finds it again."""
    what = answer.touched
    return {
        "check": FORMAT,
        "answer": answer.answer,
        "status": STATUS[answer.answer],
        "why": answer.why or None,
        "command": command,
        "tree": str(tree),
        "commit": commit,
        "series": list(answer.series),
        "changed": [] if what is None else list(what.changed),
        "comments_only": [] if what is None else list(what.same),
        "modelled_functions": []
        if what is None
        else [{"function": one.name, "file": one.file, "model": one.model} for one in what.functions],
        "functions": [asdict(one) for one in answer.functions],
        "data": list(answer.data),
        "flushes": list(answer.flushes),
        "not_looked_at": list(answer.unread),
        "left_out": dict(answer.left_out),
        "images": [
            {"base": base.to_data(), "head": None if head is None else head.to_data()} for base, head in answer.images
        ],
        "pairs": [_pair(pair) for pair in answer.pairs],
    }


def _pair(pair: Comparison) -> dict[str, Any]:
    return {
        "scenario": pair.scenario.name,
        "memory": pair.memory,
        "answer": pair.answer,
        "boot": [str(call) for call in pair.scenario.setup],
        "cpus": [[str(call) for call in calls] for calls in pair.scenario.cpus],
        # what went wrong before is of interest where it no longer does
        "before": _run(pair.before, "before", told=pair.answer == FIXED),
        "after": _run(pair.after, "after", told=True),
    }


def _run(run: ImageRun | None, when: str, *, told: bool) -> dict[str, Any] | None:
    if run is None:
        return None
    verdict, schedule = run.verdict, run.verdict.schedule
    story = None
    if told and schedule is not None:
        story = to_data(story_of(run.task, schedule), run.scenario, f"{when} the series; memory {run.memory}")
    return {
        "verdict": verdict.verdict,
        **failure_to_data(verdict),
        **search_to_data(verdict),
        "missing": list(verdict.missing),
        "story": story,
    }
