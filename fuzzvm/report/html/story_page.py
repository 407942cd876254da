"""The page that shows a race: the steps on a lane for each CPU, and beside them memory as it stands at a step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import run
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.pgtable import TableLabel, table_pointed_to
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Value, object_of, offset_of
from fuzzvm.machine.schedule import format_schedule
from fuzzvm.report.causality import KINDS, Causality
from fuzzvm.report.describe import Describer
from fuzzvm.report.html.escape import render
from fuzzvm.report.states import StatesOf
from fuzzvm.report.story import Story, story_of


def story_page(case: TestCase, mitigation: type[Mitigation], replay_command: str) -> str:
    """Return the page of a test case's run. Raises ScheduleError where its schedule does not fit."""
    states = StatesOf(case.schedule)
    machine, execution = run(case, mitigation, tracing=True, chooser=states)
    states.look(machine)
    story = story_of(case, mitigation, machine, execution)
    causality = Causality(machine.trace or [])
    scenario = case.scenario
    return render(
        "story_page.html.j2",
        story=story,
        case=case,
        scenario=scenario,
        lanes=story.cpu_names,
        switches=story.switches,
        schedule=format_schedule(case.schedule),
        order=_order(story, causality),
        edge_kinds=KINDS,
        replay_command=replay_command,
        data={
            "lanes": story.cpu_names,
            "steps": [{"n": step.number, "cpu": step.cpu, "text": step.text} for step in story.steps],
            "guilty": [step.number for step in story.steps if step.guilty],
            "edges": [asdict(edge) for edge in causality.edges],
            "kinds": KINDS,
            **_memory(machine, states),
        },
    )


def _order(story: Story, causality: Causality) -> str:
    """Return what is to be said of the order of the two steps that the error is made of; '' where they are not two."""
    guilty = [step for step in story.steps if step.guilty]
    if len(guilty) != 2 or guilty[0].cpu == guilty[1].cpu:
        return ""
    first, second = guilty
    if causality.ordered(first.number, second.number, first.cpu):
        return (
            f"Step {first.number} happens before step {second.number}: what synchronises the CPUs allows nothing else."
        )
    return (
        f"Nothing orders step {first.number} and step {second.number}: no lock that is handed over, no release that an "
        "acquire reads, no interrupt. They could as well have met the other way round."
    )


def _memory(machine: Machine, states: StatesOf) -> dict[str, Any]:
    """Return objects, what they hold at boot, and what each step changes."""
    describer = Describer(machine)
    dead = machine.allocator.dead
    objects = [
        {
            "id": one.number,
            "name": str(one.label).removeprefix("the "),
            "table": isinstance(one.label, TableLabel),
            "level": one.label.level.name.lower() if isinstance(one.label, TableLabel) else "",
            "size": one.size,
            "born": one.allocated_at,
            "died": dead.get(one.number),
        }
        for one in machine.allocator.allocations
    ]

    def cell(address: Address, value: Value) -> list[Any]:
        return [object_of(address), offset_of(address), describer.value(address, value), table_pointed_to(value)]

    return {
        "objects": objects,
        "boot": [cell(address, value) for address, value in sorted(states.boot.items())],
        "changes": [[one.step, *cell(one.address, one.value)] for one in states.changes],
        "own": [
            [
                one.step,
                one.cpu,
                describer.place(one.address),
                None if one.value is None else describer.value(one.address, one.value),
            ]
            for one in states.own_views
        ],
    }
