"""Learns by a search who accesses what in an image, so that the search for the verdict seldom begins again.

A search for a verdict ends where a CPU does more than was known (`compiled.run.knowledge`), and learns one thing from
that. A search here goes on instead, and learns all that it comes to. Its states are not to be believed and nothing but
the knowledge is kept: a verdict is that of a later search which has met nothing new.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.errors import ModelError, ProgramError

MOST_STATES = 30_000
"""Of one search; what lies behind them the search for the verdict learns."""


def learned_by_search(task: CompiledTask, deadline: Deadline) -> CompiledTask:
    """Return the task to search, of which searches of a bounded size have shown nearly all that CPUs access.

    They are of the sequentially consistent states, in which nearly everything happens. Where that shows nothing, states
    of weak memory are searched.
    """
    known = _grown(task)
    task = _searched(task, deadline, strongly=True)
    if task.memory != "sc" and _grown(task) == known:
        task = _searched(task, deadline, strongly=False)
    return task


def _searched(task: CompiledTask, deadline: Deadline, *, strongly: bool) -> CompiledTask:
    """Search until that has shown nothing new, or no time is left."""
    knowledge = task.environment.knowledge
    assert knowledge is not None
    while True:
        known = knowledge.grown
        # what a program does on a wrong assumption may be an error of any kind; one that is real comes again
        with knowledge.taught(), suppress(ModelError, ProgramError):
            space = Space(task, strong_twin_of=Space(task)) if strongly else Space(task)
            limits = deadline.left(max_states=MOST_STATES)
            space.settled(partial(search_reduced, space, limits, first_only=False))
        task = task.again()
        if knowledge.grown == known or deadline.over:
            return task


def _grown(task: CompiledTask) -> int:
    knowledge = task.environment.knowledge
    assert knowledge is not None
    return knowledge.grown
