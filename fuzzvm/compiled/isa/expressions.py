"""Expressions over a register file: the one description from which values and dependencies are derived.

An expression is a pure function of the slots of the register file and of the response to an access. Its value is a
Python integer; each expression of an `Effect` that is assigned to a slot is in 0..2**64-1. `Source` renders it as
Python code, `reads` returns what it depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fuzzvm.compiled.isa.helpers import HELPERS


@dataclass(frozen=True, slots=True)
class Slot:
    """The value of a slot of the register file."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A number."""

    value: int


@dataclass(frozen=True, slots=True)
class Response:
    """An element of what answered the access of this instruction."""

    index: int = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """A Python expression in the values of `arguments`, for which `{0}`, `{1}` ... stand.

    It depends on all of them.
    """

    template: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Local:
    """A value that is computed once and used more than once. `name` is unique within one instruction."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Choose:
    """`then` if `condition` is not 0, else `otherwise`.

    The value depends on the expression that was chosen. On the condition there is a pick dependency only (Arm ARM,
    DDI 0487 issue K.a, B2.3.2).
    """

    condition: Expression
    then: Expression
    otherwise: Expression


Expression: TypeAlias = Slot | Constant | Response | Apply | Local | Choose

ZERO = Constant(0)


def apply(template: str, *arguments: Expression) -> Expression:
    """Return the expression of a template; a constant if all arguments are."""
    values = [argument.value for argument in arguments if isinstance(argument, Constant)]
    if len(values) == len(arguments):
        return Constant(int(eval(template.format(*map(_literal, values)), dict(HELPERS))))
    return Apply(template, arguments)


@dataclass(frozen=True, slots=True)
class Reads:
    """What a value depends on: slots by data, slots by data or pick, and whether the response to the access."""

    data: frozenset[int]
    picks: frozenset[int]
    response: bool


def reads(expression: Expression) -> Reads:
    """Return what an expression may depend on."""
    data: set[int] = set()
    conditions: set[int] = set()
    response = _collect(expression, data, conditions)
    found = frozenset(data)
    return Reads(found, found | conditions if conditions else found, response)


def _collect(expression: Expression, data: set[int], conditions: set[int]) -> bool:
    """Add what an expression depends on to the sets. Return whether the response is among it."""
    match expression:
        case Slot(index):
            data.add(index)
        case Apply(_, arguments):
            return _collect_all(arguments, data, conditions)
        case Local(_, value):
            return _collect(value, data, conditions)
        case Choose(condition, then, otherwise):
            _collect(condition, conditions, conditions)
            return _collect_all((then, otherwise), data, conditions)
        case Response():
            return True
    return False


def _collect_all(expressions: tuple[Expression, ...], data: set[int], conditions: set[int]) -> bool:
    response = False
    for expression in expressions:
        response |= _collect(expression, data, conditions)
    return response


@dataclass(frozen=True, slots=True)
class Track:
    """How one kind of dependency is carried: the list that holds it for each slot, and how two are joined.

    `responses` names it for each element of a response. `join` is a template as of `Apply`, `nothing` the Python
    expression for no dependency. With `picks`, the condition of a choice counts.
    """

    slots: str
    responses: Sequence[str]
    join: str
    nothing: str
    picks: bool


class Source:
    """Renders the expressions of one instruction as Python code.

    `lines` are the statements that compute the locals, in order; they stand before what uses them. `responses` are the
    Python expressions for the elements of the response.
    """

    def __init__(self, responses: Sequence[str] = ()) -> None:
        self.lines: list[str] = []
        self._responses = responses
        self._locals: set[str] = set()

    def value(self, expression: Expression) -> str:
        """Return Python code for the value of an expression."""
        match expression:
            case Slot(index):
                return f"x[{index}]"
            case Constant(value):
                return _literal(value)
            case Response(index):
                return self._responses[index]
            case Apply(template, arguments):
                return f"({template.format(*map(self.value, arguments))})"
            case Choose(condition, then, otherwise):
                return f"({self.value(then)} if {self.value(condition)} else {self.value(otherwise)})"
            case Local(name, value):
                if name not in self._locals:
                    self._locals.add(name)
                    self.lines.append(f"{name} = {self.value(value)}")
                return name

    def track(self, expression: Expression, track: Track) -> str:
        """Return Python code for what an expression depends on, exactly."""
        terms: dict[str, None] = {}
        self._terms(expression, track, terms)
        return joined(terms, track)

    def _terms(self, expression: Expression, track: Track, terms: dict[str, None]) -> None:
        match expression:
            case Slot(index):
                terms[f"{track.slots}[{index}]"] = None
            case Response(index):
                terms[track.responses[index]] = None
            case Apply(_, arguments):
                for argument in arguments:
                    self._terms(argument, track, terms)
            case Local(_, value):
                self._terms(value, track, terms)
            case Choose(condition, then, otherwise):
                if track.picks:
                    self._terms(condition, track, terms)
                first, second = self.track(then, track), self.track(otherwise, track)
                terms[first if first == second else f"({first} if {self.value(condition)} else {second})"] = None


def joined(terms: dict[str, None] | Sequence[str], track: Track) -> str:
    """Return Python code for the join of dependencies, each given as Python code."""
    first, *rest = [term for term in terms if term != track.nothing] or [track.nothing]
    for term in rest:
        first = f"({track.join.format(first, term)})"
    return first


def _literal(value: int) -> str:
    text = str(value) if -10 < value < 10 else hex(value)
    return f"({text})" if value < 0 else text
