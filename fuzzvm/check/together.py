"""The answers of a check for several architectures as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fuzzvm.check.answers import BROKEN, FIXED, NO_CHANGE, NOT_LOOKED_AT, STILL_BROKEN, UNDECIDED, UNTESTED
from fuzzvm.check.check import Answer, missed, ours
from fuzzvm.check.looked_at import NOT_COMPILED, NOT_RUN, RAN, SAME_CODE, Look

_WORST = (BROKEN, STILL_BROKEN, UNTESTED, UNDECIDED, FIXED)
_SEEN = (RAN, NOT_RUN, SAME_CODE, NOT_COMPILED)
"""What is known of a function, from what one architecture knows of it: it is looked at where it ran on one of them."""


def together(answers: Sequence[Answer]) -> Answer:
    """Return one answer: the worst, a mend where nothing is worse, and no change where something was looked at.

    A file was looked at where one of the architectures is compiled from it.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    every = [set(answer.unread) for answer in answers]
    unread = tuple(name for name in first.unread if all(name in names for names in every))
    looks = _looks(look for answer in answers for look in answer.functions)
    flushes = tuple(dict.fromkeys(name for answer in answers for name in answer.flushes))
    given = {answer.answer for answer in answers}
    worst = next((answer for answer in _WORST if answer in given), "")
    why = "; ".join(dict.fromkeys(answer.why for answer in answers if answer.answer == worst and answer.why))
    if not worst:
        lacks = missed(looks, ours(unread), flushes)
        data_only = [answer.why for answer in answers if "only data changes" in answer.why]
        worst = NOT_LOOKED_AT if lacks or data_only else NO_CHANGE
        why = "; ".join(filter(None, [*data_only, lacks])) or first.why
    return replace(
        first,
        answer=worst,
        why=why,
        images=tuple(pair for answer in answers for pair in answer.images),
        pairs=tuple(pair for answer in answers for pair in answer.pairs),
        unread=unread,
        left_out=tuple(dict.fromkeys(one for answer in answers for one in answer.left_out)),
        functions=looks,
        data=tuple(dict.fromkeys(name for answer in answers for name in answer.data)),
        flushes=flushes,
    )


def _looks(looks: Iterable[Look]) -> tuple[Look, ...]:
    """Return each function once."""
    found: dict[tuple[str, str], Look] = {}
    for look in looks:
        other = found.get((look.file, look.name))
        if other is None:
            found[look.file, look.name] = look
            continue
        best = min(other, look, key=lambda one: _SEEN.index(one.state))
        found[look.file, look.name] = replace(best, pairs=(*other.pairs, *look.pairs))
    return tuple(found.values())
