"""What the reductions save: the states of one task with and without each."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.machine.task import Task


@dataclass(frozen=True)
class Savings:
    """Numbers of states: of every local variable counted, of live ones, and with each reduction on top of that."""

    all_variables: int
    live_variables: int
    partial_order: int
    symmetry: int
    both: int


def savings(task: Task, limits: Limits) -> Savings:
    """Search a task, past errors, in every way that there is; a number at a bound is that bound.

    Raises AsymmetryError and UnkeyableError as the searches do, ValueError where reductions do not apply.
    """
    space = Space(task)
    symmetry = Symmetry(space)
    return Savings(
        search(Space(task, live_only=False), limits, first_only=False).states,
        search(space, limits, first_only=False).states,
        search_reduced(space, limits, first_only=False).states,
        search(space, limits, first_only=False, symmetry=symmetry).states,
        search_reduced(space, limits, first_only=False, symmetry=symmetry).states,
    )
