"""Python code for instructions: blocks of local ones, and the two halves of an access.

A block is a run of instructions up to a branch, or to an access that other CPUs may see. It is one Python function
`block(x, load, store)` on the register file `x`. Plain loads and stores ask `load(address, size)` and
`store(address, size, value)`, which return None and False where the access is not private to the CPU. The block
returns the address where the code goes on; plus `VISIBLE` if the instruction there is an access that the caller has to
answer. It has then done nothing of that instruction, but for stores to private memory that the instruction does anyway.

A tracked block is `block(x, views, picks, load, store)`. It carries the dependencies of each slot of the register
file beside its value: `views` by data and address, `picks` with pick dependencies as well. `picks[PC]` gathers what
branches depended on. `load` returns (value, view, pick), and `store` is given view and pick after the value.

Code is compiled once and cached by its text, not by its address alone, so that patched code is another block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fuzzvm.compiled.isa.effects import Branch, Effect, Flow, Kind, Request
from fuzzvm.compiled.isa.expressions import Expression, Source, Track, joined
from fuzzvm.compiled.isa.helpers import HELPERS
from fuzzvm.compiled.isa.instruction import Instruction
from fuzzvm.compiled.isa.slots import MASK64, PC, SP

VISIBLE = 1 << 64
"""What is added to the address that a block returns where an access is to be answered."""

JOIN_MAX = "{0} if {0} > {1} else {1}"
"""Joins views that are timestamps."""
JOIN_UNION = "{0} | {1}"
"""Joins sets, also sets that are bits of an integer."""


class Tracking:
    """How dependencies are joined; `nothing` is a Python expression, of which `names` may be part."""

    def __init__(self, join: str = JOIN_UNION, nothing: str = "0") -> None:
        self.join = join
        self.nothing = nothing

    def tracks(self, views: Sequence[str], picks: Sequence[str]) -> tuple[Track, Track]:
        """Return the two tracks, given Python code for what the elements of a response depend on."""
        return (
            Track("v", views, self.join, self.nothing, False),
            Track("p", picks, self.join, self.nothing, True),
        )


def block(
    instructions: Sequence[Instruction],
    tracking: Tracking | None = None,
    *,
    tells_returns: bool = False,
    flags: frozenset[int] = frozenset(),
) -> str:
    """Return the source of the function of a block.

    With `tells_returns` it has one argument more, a function that is given the stack pointer before a return. Only the
    last instruction may be a branch or an access that is never private. The block goes on behind the last one
    otherwise. A comment stands before the statements of each instruction; `address_at` reads it. Of `flags`, what is
    written again before anything reads it is left out.
    """
    arguments = "x, load, store" if tracking is None else "x, v, p, load, store"
    if tells_returns:
        arguments += ", left"
    lines: list[str] = []
    for instruction, effect in zip(instructions, _needed(instructions, flags), strict=True):
        branch = effect.branch
        if tells_returns and branch is not None and branch.flow is Flow.RETURN:
            lines.append(f"left(x[{SP}])")
        lines += [f"{_MARK}{instruction.address:#x}", *_step(instruction, effect, tracking)]
    last = instructions[-1]
    if not last.is_branch and (last.request is None or last.request.may_be_private):
        lines.append(f"return {_following(last)}")
    return _function(f"block({arguments})", lines)


def _needed(instructions: Sequence[Instruction], flags: frozenset[int]) -> list[Effect]:
    """Return the effects of instructions without the flags that the next of them overwrite and none reads before."""
    effects: list[Effect] = []
    dead: frozenset[int] = frozenset()
    for instruction in reversed(instructions):
        effect = instruction.effect
        if dead and any(each.target in dead for each in effect.assignments):
            kept = tuple(each for each in effect.assignments if each.target not in dead)
            effect = replace(effect, assignments=kept)
        effects.append(effect)
        dead = (dead | instruction.writes & flags) - instruction.reads
    return effects[::-1]


def halves(instruction: Instruction, tracking: Tracking | None = None) -> str:
    """Return the source of `request(x)` and `complete(x, r)`, the two halves of an access.

    `request` returns address, values and expected values. `complete` is given the response, sets the slots that the
    instruction writes, and returns the address where the code goes on. Tracked it is `complete(x, v, p, r, rv, rp)`,
    where `rv` and `rp` are what the response depends on: one for each element, as in the response.
    """
    request = instruction.request
    assert request is not None
    source = Source()
    address = "None" if request.address is None else source.value(request.address)
    values, expected = (_tuple([source.value(each) for each in part]) for part in (request.values, request.expected))
    first = _function("request(x)", [*source.lines, f"return {address}, {values}, {expected}"])
    responses, views, picks = ([name] if request.answers < 2 else [f"{name}[0]", f"{name}[1]"] for name in _RESPONSES)
    tracks = None if tracking is None else tracking.tracks(views, picks)
    arguments = "x, r" if tracking is None else "x, v, p, r, rv, rp"
    return first + _function(f"complete({arguments})", _ended(instruction, instruction.effect, responses, tracks))


_RESPONSES = ("r", "rv", "rp")
_MARK = "# at "


def address_at(source: str, line: int) -> int:
    """Return the address of the instruction that a line of a block's source belongs to; lines count from 1."""
    marks = [text.strip() for text in source.splitlines()[:line]]
    return int(next(text for text in reversed(marks) if text.startswith(_MARK)).removeprefix(_MARK), 16)


def compiled(source: str, name: str) -> dict[str, Any]:
    """Return what a source defines; `name` is what tracebacks call it."""
    namespace: dict[str, Any] = dict(HELPERS)
    exec(compile(source, f"<{name}>", "exec"), namespace)
    return namespace


def _function(head: str, lines: Sequence[str]) -> str:
    return "\n    ".join((f"def {head}:", *lines)) + "\n"


def _tuple(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)},)" if parts else "()"


def _following(instruction: Instruction) -> str:
    return hex(instruction.following)


def _step(instruction: Instruction, effect: Effect, tracking: Tracking | None) -> list[str]:
    if effect.request is not None:
        if effect.request.may_be_private:
            return _private(instruction, effect, effect.request, tracking)
        return [f"return {instruction.address | VISIBLE:#x}"]
    tracks = None if tracking is None else tracking.tracks((), ())
    if effect.branch is not None:
        return _branch(effect.branch, effect, _following(instruction), (), tracks)
    return _assign(effect, (), tracks)


def _ended(
    instruction: Instruction, effect: Effect, responses: Sequence[str], tracks: tuple[Track, Track] | None
) -> list[str]:
    """Return the statements that end an instruction whose access has been answered, and go on."""
    if effect.branch is not None:
        return _branch(effect.branch, effect, _following(instruction), responses, tracks)
    return [*_assign(effect, responses, tracks), f"return {_following(instruction)}"]


def _assign(effect: Effect, responses: Sequence[str], tracks: tuple[Track, Track] | None) -> list[str]:
    """Return the statements of an effect's assignments, all at once."""
    if not effect.assignments:
        return []
    source = Source(responses)
    values = [source.value(assignment.value) for assignment in effect.assignments]
    targets = [assignment.target for assignment in effect.assignments]
    lines = []
    for track in tracks or ():
        tracked = [source.track(assignment.value, track) for assignment in effect.assignments]
        lines.append(_together([f"{track.slots}[{target}]" for target in targets], tracked))
    lines.append(_together([f"x[{target}]" for target in targets], values))
    return source.lines + lines


def _together(targets: Sequence[str], values: Sequence[str]) -> str:
    return f"{', '.join(targets)} = {', '.join(values)}"


def _branch(
    branch: Branch, effect: Effect, following: str, responses: Sequence[str], tracks: tuple[Track, Track] | None
) -> list[str]:
    source = Source(responses)
    target = source.value(branch.target)
    if branch.condition is not None:
        target = f"{target} if {source.value(branch.condition)} else {following}"
    lines = []
    if tracks is not None:
        picks = tracks[1]
        terms = [source.track(part, picks) for part in (branch.target, branch.condition) if part is not None]
        control = f"p[{PC}]"
        gathered = joined(list(dict.fromkeys((control, *terms))), picks)
        if gathered != control:
            lines.append(f"{control} = {gathered}")
    if not effect.assignments:
        return [*source.lines, *lines, f"return {target}"]
    # a call through the register that gets the return address
    return [*source.lines, *lines, f"t = {target}", *_assign(effect, responses, tracks), "return t"]


def _private(instruction: Instruction, effect: Effect, request: Request, tracking: Tracking | None) -> list[str]:
    """Return the statements of a load or store that is done here if it is private."""
    source = Source()
    assert request.address is not None
    address = source.value(request.address)
    stored = [source.value(value) for value in request.values]
    lines = [*source.lines, f"a = {address}"]
    places = ["a", *(f"a + {index * request.size} & {MASK64:#x}" for index in range(1, request.count))]
    leave = f"return {instruction.address | VISIBLE:#x}"
    if tracking is None:
        if request.kind is Kind.LOAD:
            responses = [f"r{index}" for index in range(request.count)]
            for place, response in zip(places, responses, strict=True):
                lines += [f"{response} = load({place}, {request.size})", f"if {response} is None: {leave}"]
            return lines + _behind(instruction, effect, responses, None)
        for place, value in zip(places, stored, strict=True):
            lines.append(f"if not store({place}, {request.size}, {value}): {leave}")
        return lines + _behind(instruction, effect, (), None)
    return lines + _private_tracked(instruction, effect, request, tracking, places, stored, leave)


def _behind(
    instruction: Instruction, effect: Effect, responses: Sequence[str], tracks: tuple[Track, Track] | None
) -> list[str]:
    """Return the statements after a private access: those of its branch end the block."""
    return (_assign if effect.branch is None else partial(_ended, instruction))(effect, responses, tracks)


def _private_tracked(
    instruction: Instruction,
    effect: Effect,
    request: Request,
    tracking: Tracking,
    places: Sequence[str],
    stored: Sequence[str],
    leave: str,
) -> list[str]:
    """Return the tracked statements of a private access.

    What is loaded depends on what was stored there, and on its address. What is stored depends on value and address: a
    load that reads it is ordered after both (Arm ARM B2.3.3, dependency-ordered-before).
    """
    assert request.address is not None
    lines: list[str] = []
    if request.kind is Kind.LOAD:
        responses, views, picks = ([f"{name}{index}" for index in range(request.count)] for name in _RESPONSES)
        tracks = tracking.tracks(views, picks)
        for place, *names in zip(places, responses, views, picks, strict=True):
            lines += [f"r = load({place}, {request.size})", f"if r is None: {leave}", f"{', '.join(names)} = r"]
        for names, track in zip((views, picks), tracks, strict=True):
            address = Source().track(request.address, track)
            if address != track.nothing:
                lines += [f"{name} = {joined((name, address), track)}" for name in names]
        return lines + _behind(instruction, effect, responses, tracks)
    tracks = tracking.tracks((), ())
    for place, value, text in zip(places, request.values, stored, strict=True):
        both = [_joined_reads((value, request.address), track) for track in tracks]
        lines.append(f"if not store({place}, {request.size}, {text}, {', '.join(both)}): {leave}")
    return lines + _behind(instruction, effect, (), tracks)


def _joined_reads(expressions: Sequence[Expression], track: Track) -> str:
    source = Source()
    return joined(list(dict.fromkeys(source.track(expression, track) for expression in expressions)), track)
