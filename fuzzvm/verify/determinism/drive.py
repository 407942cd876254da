"""Lets programs go through what they are known to do, and names the first thing that they do otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.blame import is_bound
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.execution import InTurn, execute
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Annotation, Operation
from fuzzvm.mitigations.stacked import HOOKS, overrides
from fuzzvm.mitigations.whose import parts_of
from fuzzvm.scenario.system import System
from fuzzvm.supervision import stopping, user_code
from fuzzvm.supervision.user_code import is_own
from fuzzvm.verify.determinism.behaviour import RETURNS, Behaviour, done, failed, load_responses, step_text

_SHOWN = 90
"""Characters of what was done that a message repeats."""


@dataclass(frozen=True, slots=True)
class Place:
    """File and line, and the hook that was under way."""

    filename: str
    line: int
    hook: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What a program did once, what it did another time after the same responses, and where it stood then."""

    expected: str
    got: str
    place: Place

    @property
    def message(self) -> str:
        """What is wrong, in one line without the place."""
        # what both have in common says nothing
        before = next((at for at, (a, b) in enumerate(zip(self.expected, self.got, strict=False)) if a != b), 0)
        start = max(0, before - _SHOWN // 3)
        expected, got = (_cut(text, start) for text in (self.expected, self.got))
        return f"{self.place.hook} does not do the same every time: after the same responses {expected}, and {got}"


def _cut(text: str, start: int) -> str:
    end = "" if len(text) <= start + _SHOWN else "..."
    return f"{'...' if start else ''}{text[start : start + _SHOWN]}{end}"


class _Driven:
    """One program, from its beginning on."""

    def __init__(self, system: System, cpu: int) -> None:
        program = system.programs()[cpu]
        assert isinstance(program, GeneratorProgram)
        self._program = program
        self._op: Operation | None = None
        self._mitigation = system.mitigation
        self._now: Place | None = None
        self._last: Place | None = None
        """The hook that is under way, and the one that was last."""

    def go_on(self, response: Any) -> str:
        """Answer an operation, None at the beginning; return what follows, as `Behaviour` has it.

        Raises StoppedError where a bound was reached.
        """
        stopping.check()
        notes: list[tuple[Annotation, Sequence[str]]] = []
        before = self._op
        frames: list[tuple[CodeType, int]] = []
        try:
            op = self._program.send(response)
            while isinstance(op, Annotation):
                notes.append((op, self._program.stack()))
                op = self._program.send(None)
            self._op = op
            frames = self._program.frames()
            after = done(op, [code.co_name for code, _ in reversed(frames)])
        except StopIteration:
            after = RETURNS
        except ModelError as error:
            frames = _traced(error)
            after = failed(error.error, self._program.stack_of(error))
        except BaseException as error:
            if is_bound(error) or user_code.is_interrupt(error):
                raise
            frames = _traced(error)
            after = f"raises {type(error).__name__}"
        self._now = _hook_in(frames)
        self._last = self._now or self._last
        return step_text(before, response, notes, after)

    def place(self, expected: str) -> Place:
        """Return the hook that is under way, that is expected to be, or that was last; else one that takes no step."""
        return self._now or _place_in(expected, self._mitigation) or self._last or place_of(self._mitigation)


def _place_in(text: str, mitigation: type[Mitigation]) -> Place | None:
    """Return the hook that a text says that its operation is in."""
    names = re.split(r"[< ]", text)
    for hook in HOOKS:
        if hook in names:
            for part in parts_of(mitigation):
                code = getattr(part, hook).__code__
                if not is_own(code.co_filename):
                    return Place(code.co_filename, code.co_firstlineno, hook)
    return None


def place_of(mitigation: type[Mitigation]) -> Place:
    """Return a place for what goes by no step of a hook: that of what a scheme answers or sets up, or of the scheme."""
    for part in parts_of(mitigation):
        for name in ("huge_vmap_allowed", "attach", *HOOKS):
            code = getattr(getattr(part, name), "__code__", None)
            if overrides(part, name) and code is not None and not is_own(code.co_filename):
                return Place(code.co_filename, code.co_firstlineno, name)
    return Place(mitigation.__module__, 0, mitigation.__qualname__)


def _traced(error: BaseException) -> list[tuple[CodeType, int]]:
    """Return what an exception came through, the outermost function first, and the line of each."""
    found = []
    traceback = error.__traceback__
    while traceback is not None:
        found.append((traceback.tb_frame.f_code, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found


def _hook_in(frames: list[tuple[CodeType, int]]) -> Place | None:
    """Return where the outermost code stands that is not fuzzvm's: a hook, or what a kernel thread runs."""
    for code, line in frames:
        if not is_own(code.co_filename):
            return Place(code.co_filename, line, code.co_name)
    return None


def difference(system: System, behaviour: Behaviour, passes: int = 1) -> Difference | None:
    """Return the first thing that programs do otherwise than a behaviour says, of so many passes over its paths.

    The first pass is backwards, the next one forwards. Raises what `load_responses` raises.
    """
    responses = load_responses(behaviour, system.kernel)
    for number in range(passes):
        paths = behaviour.paths[::-1] if number % 2 == 0 else behaviour.paths
        for cpu, first, *rest in paths:
            driven = _Driven(system, cpu)
            expected, got = behaviour.texts[first], driven.go_on(None)
            for response, text in zip(rest[::2], rest[1::2], strict=True):
                if got != expected:
                    break
                expected, got = behaviour.texts[text], driven.go_on(responses[response])
            if got != expected:
                return Difference(expected, got, driven.place(expected))
    return None


def repeats(system: System) -> Difference | None:
    """Return the first thing that programs do otherwise when they are run again here, one CPU after the other.

    It is to be asked before a search, which might find no end where programs never do the same.
    """
    machine = system.machine(tracing=True)
    execute(machine, InTurn(range(system.cpus)))
    for cpu in range(system.cpus):
        answers = [step.response for step in machine.trace or () if step.cpu == cpu and step.op is not None]
        one, other = _Driven(system, cpu), _Driven(system, cpu)
        # one after the other, as in a search: what the first one leaves behind shows in the second
        said = [one.go_on(answer) for answer in (None, *answers)]
        for expected, answer in zip(said, (None, *answers), strict=True):
            got = other.go_on(answer)
            if got != expected:
                return Difference(expected, got, other.place(expected))
    return None
