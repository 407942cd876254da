"""Checks a certificate by steps of the machine, and by nothing that is quicker.

`safe`: the certificate lists states. The start is the first of them, each step of each of them leads to one of them,
none of these steps goes wrong, and from each of them some steps lead to an end of the run. By induction every state of
every run is among them. `bug`: the schedule is followed, and the run goes wrong as the certificate says.
"""

from __future__ import annotations

from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Bug, Safe
from fuzzvm.certificate.programs import History
from fuzzvm.certificate.states import StateCheck, named
from fuzzvm.kernel.contexts import Taken, irq_conflict
from fuzzvm.kernel.cover_points import CoverPoints
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Annotation
from fuzzvm.scenario.digest import task_digest
from fuzzvm.scenario.purpose import missing
from fuzzvm.scenario.system import System


def check(certificate: Safe | Bug, scheme: type[Mitigation], asked_for_by: str) -> None:
    """Return where a certificate shows what it says. `asked_for_by` is what its scheme was found by.

    Raises RejectedError, ScenarioError where the task's setup fails, ProgramError where its scheme is broken.
    """
    task = certificate.task
    if task_digest(task.scenario, asked_for_by, task.memory, task.without) != task.digest:
        raise RejectedError("made for another task: the scenario, the scheme, the memory or the model's code differs")
    system = System(task.scenario, scheme, task.memory, asked_for_by, task.without)
    with system.unchanged():
        if isinstance(certificate, Bug):
            _check_bug(certificate, system)
        else:
            _check_safe(certificate, system)


def _check_bug(bug: Bug, system: System) -> None:
    system.lock_order.watch_for(bug.error)
    machine = system.machine()
    machine.careful = True
    for number, (agent, *choices) in enumerate(bug.schedule, 1):
        if agent not in machine.enabled():
            raise RejectedError(f"step {number} is of agent {agent}, which cannot step there")
        left = list(choices)

        def choose(ways: int, left: list[int] = left, number: int = number) -> int:
            if not left or left[0] >= ways:
                raise RejectedError(f"step {number} has a choice of {ways} ways, and the schedule takes none of them")
            return left.pop(0)

        machine.step(agent, choose)
        if left:
            raise RejectedError(f"step {number} has choices more than it needs")
    if machine.failure is None and not machine.done and not machine.enabled():
        machine.stuck()
    if machine.failure is None:
        raise RejectedError("the run that it has does not go wrong")
    if (machine.failure.error, machine.failure.function) != (bug.error, bug.function):
        raise RejectedError(f"the run goes wrong in another way: {named(machine.failure)}")


def _check_safe(certificate: Safe, system: System) -> None:
    if system.kernel.interrupts:
        raise RejectedError("its scenario has interrupts: certificates say nothing of irq-unsafe locks")
    order = system.lock_order
    order.watched = frozenset(Taken(held, taken) for held, taken in certificate.orders)
    happened = CoverPoints(system.kernel.arch, system.booted().allocator)

    def met(history: History) -> None:
        happened.said(said.what for said in history.said if isinstance(said.what, Annotation))
        before = history.before
        if before is not None and before.op is not None:
            happened.executed(before.op, before.said[-1].stack, history.response)

    StateCheck(certificate, system, met).run()
    if not order.in_cycles() <= order.watched:
        raise RejectedError("locks are taken in orders that may close a cycle, and it does not list them")
    if irq_conflict(order.seen):
        raise RejectedError("a lock is irq-safe and irq-unsafe")
    if lacks := missing(system, happened.met):
        raise RejectedError(f"vacuous: no schedule has {', '.join(lacks)}")
