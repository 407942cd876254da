"""Verdicts on the compiled functions of a kernel image: a scenario's calls, made of the image's own code.

What is asked is in `compiled.run.links`: nobody uses what has been freed, no table is freed while an entry leads to it,
none is lost, no lock is held at the end, and no BUG() or WARN() is reached. The oracles of the kernel model that follow
mappings, W+X and TLBs are not asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.environment import Boundary
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.exhaustive import Verdict, verify
from fuzzvm.exhaustive.all_errors import with_all_errors
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.space import Space
from fuzzvm.images.calls import image_task, why_not
from fuzzvm.kernel.cover_points import PROMOTION, TABLE_FREED, WALKED_TABLE_FREED
from fuzzvm.machine.ops import Await, Free, Load, Rmw, object_of
from fuzzvm.machine.task import settled
from fuzzvm.scenario.calls import CallFunction
from fuzzvm.scenario.purpose import purpose
from fuzzvm.scenario.scenario import Scenario, race
from fuzzvm.verify.image_learning import learned_by_search
from fuzzvm.verify.matrix import Bounds, memories

FOLLOWED = (PROMOTION, TABLE_FREED, WALKED_TABLE_FREED)
"""Cover points that are read off compiled code; the others of a scenario's purpose are not asked for."""


COLLAPSES = "set_memory_rox"
"""The function of x86_64 that collapses pages."""


@dataclass(frozen=True)
class ImageRun:
    """A scenario of an image under a memory model: its verdict, and the task in which its schedule is one.

    `ran` are the addresses of the instructions that its CPUs ran in some schedule that was explored.
    """

    scenario: Scenario
    memory: str
    verdict: Verdict
    task: CompiledTask
    ran: frozenset[int] = frozenset()


def runnable(image: Image, scenarios: list[Scenario]) -> tuple[list[Scenario], list[tuple[Scenario, str]]]:
    """Return the scenarios that an image can run, and the others with the reason of each."""
    reasons = [(scenario, why_not(image, scenario)) for scenario in scenarios]
    return [one for one, why in reasons if not why], [(one, why) for one, why in reasons if why]


def cells(scenarios: list[Scenario], memory: str | None) -> Iterator[tuple[Scenario, str]]:
    """Yield each scenario with a memory model: that one, or that of its architecture and all stronger ones."""
    for scenario in scenarios:
        for name in memories(scenario) if memory is None else [memory]:
            yield scenario, name


def verify_image(
    image: Image, scenario: Scenario, memory: str, bounds: Bounds, boundary: Mapping[str, Boundary] | None = None
) -> ImageRun:
    """Explore every schedule of a scenario whose calls are made of an image's functions.

    `boundary` are functions that the user states. Raises what `image_task` and `verify` raise; ProgramError names what
    the image needs and is not supported.
    """
    deadline = Deadline(bounds.limits)
    limit = bounds.limits.max_seconds
    task = image_task(image, scenario, memory, boundary)
    task = task.learned(until=None if limit is None else time.monotonic() + limit)

    def verified(task: CompiledTask) -> tuple[Verdict, frozenset[str]]:
        met: list[frozenset[str]] = []
        verdict = verify(
            task,
            deadline.left(),
            preemptions=bounds.preemptions,
            reduce=bounds.reduce,
            explored=lambda space: met.append(_met(task, scenario, space)),
        )
        if bounds.all_errors:
            verdict = with_all_errors(task, verdict, deadline.left())
        return verdict, met[0] if met else frozenset()

    task, (verdict, happened) = settled(task, verified, lambda task: learned_by_search(task.again(), deadline))
    ran = task.has_run()
    wanted = purpose(scenario.anonymous()) | _of_functions(scenario)
    missing = tuple(one for one in FOLLOWED if one in wanted - happened) if verdict.failure is None else ()
    verdict = replace(verdict, met=happened, missing=missing, seconds=deadline.seconds)
    return ImageRun(scenario, memory, verdict, task, ran)


def _of_functions(scenario: Scenario) -> frozenset[str]:
    """Return the points that a call of a function by name is for: beside a promotion, to meet what that frees.

    Beside set_memory_rox(), which collapses pages into blocks, it is the same.
    """
    functions = scenario.cpus_with(lambda call: isinstance(call, CallFunction))
    walks = scenario.cpus_with(lambda call: call.walks)
    promotions = scenario.cpus_with(lambda call: call.may_promote(scenario.geometry()))
    collapses = scenario.cpus_with(lambda call: isinstance(call, CallFunction) and call.function == COLLAPSES)
    if race(functions, promotions):
        return frozenset(FOLLOWED)
    return frozenset({TABLE_FREED, WALKED_TABLE_FREED}) if race(functions | walks, collapses) else frozenset()


def _met(task: CompiledTask, scenario: Scenario, space: Space) -> frozenset[str]:
    """Return which of the points that are followed happen in some schedule that was explored.

    A table that is freed counts as walked where another CPU than the one that frees it has read it.
    """
    boot = task.environment.memory.boot_objects
    freed: list[set[int]] = []
    walked: list[set[int]] = []
    for cpu, automaton in enumerate(space.automata):
        walks = any(call.walks or isinstance(call, CallFunction) for call in scenario.cpus[cpu])
        ops = [node.op for node in automaton.nodes if node.edges]
        objects = {object_of(op.address) for op in ops if isinstance(op, Free)}
        freed.append({number for number in objects if number >= boot})
        walked.append({object_of(op.address) for op in ops if walks and isinstance(op, Load | Rmw | Await)})
    met = {TABLE_FREED} if any(freed) else set[str]()
    if any(freed[cpu] for cpu in scenario.cpus_with(lambda call: call.may_promote(scenario.geometry()))):
        met.add(PROMOTION)
    if any(freed[one] & walked[other] for one, other in permutations(range(len(freed)), 2)):
        met.add(WALKED_TABLE_FREED)
    return frozenset(met)
