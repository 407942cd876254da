"""A patch series on a tree: both are compiled, both are verified, and what has changed is said.

The images are of one architecture. What the series touches elsewhere is named, and not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fuzzvm.check.answers import BROKEN, FIXED, NO_CHANGE, NOT_LOOKED_AT, STILL_BROKEN, UNDECIDED, UNTESTED
from fuzzvm.check.looked_at import NOT_SEEN, Look, Pair, look
from fuzzvm.check.series import Series
from fuzzvm.check.touched import CODE, Touched, touched
from fuzzvm.compiled.build import READ, Options, build
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.manifest import Manifest
from fuzzvm.compiled.object_code import CodeChanges, code_changes
from fuzzvm.exhaustive import Limits
from fuzzvm.kbuild.errors import BusyError, KbuildError
from fuzzvm.machine.errors import ProgramError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.images import ImageRun, runnable, verify_image
from fuzzvm.verify.matrix import Bounds, memories

_OURS = ("mm/", "include/", "kernel/", "lib/", "arch/arm64/", "arch/x86/")
"""Where page-table code may be: what is changed there and compiled into no image is not called unchanged."""
_TEXT = (".rst", ".txt", ".md", ".yaml", ".dts", ".dtsi", "MAINTAINERS", "CREDITS")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """A scenario under a memory model, before the series and after it; None where there was no time for it."""

    scenario: Scenario
    memory: str
    before: ImageRun | None
    after: ImageRun | None

    @property
    def answer(self) -> str:
        """Return what the series does to it."""
        was, now = _word(self.before), _word(self.after)
        if now == "bug":
            return {"bug": STILL_BROKEN, UNDECIDED: UNDECIDED}.get(was, BROKEN)
        # where nothing goes wrong as nothing happens any more, or ever did, nothing is proven
        if now != "safe" or was not in ("safe", "bug"):
            return UNDECIDED
        return FIXED if was == "bug" else NO_CHANGE


def _word(run: ImageRun | None) -> str:
    """Return 'safe', 'vacuous', 'bug', or undecided where a bound has cut the search."""
    if run is None:
        return UNDECIDED
    verdict = run.verdict
    return verdict.verdict if verdict.failure is not None or verdict.complete else UNDECIDED


@dataclass(frozen=True)
class Answer:
    """What came of a check. `why` says what the answer rests on where nothing was verified, or what is in the way."""

    answer: str
    why: str
    series: tuple[str, ...]
    touched: Touched | None = None
    images: tuple[tuple[Manifest, Manifest | None], ...] = ()
    """Before the series and after it, of each architecture; the second is None where it was not built."""
    pairs: tuple[Comparison, ...] = ()
    unread: tuple[str, ...] = ()
    """Files that the series changes and that no image is compiled from."""
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Scenarios that images cannot run, each with the reason."""
    functions: tuple[Look, ...] = ()
    """Functions that the series changes in files that the image is compiled from, and whether they ran."""
    data: tuple[str, ...] = ()
    """Variables whose initial content changes."""
    flushes: tuple[str, ...] = ()
    """Functions whose maintenance of TLBs changes, of which no verdict says anything."""


def check(
    tree: Path,
    series: Series,
    out: Path,
    scenarios: Sequence[Scenario],
    options: Options,
    seconds: float,
    progress: Progress = lambda text: None,
) -> Answer:
    """Return what a series of patches does to a tree's page-table code; both are built below `out`.

    `tree` is the base. `options` are those of both images; `seconds` are for all searches together. Raises KbuildError
    where the tree itself cannot be built or another build is at work there, and ImageError, ProgramError where it
    cannot be run.
    """
    names = series.names
    try:
        what = touched(tree, series.patches, series.outside)
    except KbuildError as error:
        return Answer(UNTESTED, str(error), names)
    if not what.changed:
        return Answer(
            NO_CHANGE, "only comments and white space change" if what.same else "no file changes", names, what
        )
    if set(what.changed) <= set(series.outside) and not ours(what.changed):
        why = "nothing that it changes can be compiled into an image"
        return Answer(NO_CHANGE, why, names, what, unread=what.changed)
    base = build(replace(options, tree=tree), out / "base", lambda text: progress(f"base: {text}"))
    read = _read(out / "base")
    unread = tuple(
        name
        for name in what.changed
        if name in series.outside or (read and name not in read and _only_if_read(tree, name))
    )
    unseen = ours(unread)
    if set(unread) == set(what.changed):
        if unseen:
            why = f"no image is compiled from {', '.join(unseen)}"
            return Answer(NOT_LOOKED_AT, why, names, what, ((base, None),), unread=unread)
        return Answer(
            NO_CHANGE, "nothing that it changes is compiled into the image", names, what, ((base, None),), unread=unread
        )
    try:
        head = build(
            replace(options, tree=tree, patches=series.files),
            out / "head",
            lambda text: progress(f"patched: {text}"),
            out / "base",
        )
    except BusyError:
        # which says nothing about the series
        raise
    except (KbuildError, ImageError) as error:
        return Answer(UNTESTED, f"with the series: {error}", names, what, ((base, None),), unread=unread)
    images = (load(out / "base"), load(out / "head"))
    bodies = [body for body in what.bodies if body.file not in unread]
    if head.digest == base.digest:
        looks = look(images, bodies, CodeChanges(frozenset(), frozenset()), ())
        why = "the compiled code is the same, byte for byte"
        if lacks := missed(looks, unseen):
            why = f"{why}; {lacks}"
        answer = NOT_LOOKED_AT if lacks else NO_CHANGE
        return Answer(answer, why, names, what, ((base, head),), unread=unread, functions=looks)
    can, cannot = runnable(images[0], list(scenarios))
    left_out = tuple((scenario.name, why) for scenario, why in cannot)
    try:
        pairs = _verify(images, can, seconds, progress)
    except _HeadError as error:
        why = f"with the series: {error}"
        return Answer(UNTESTED, why, names, what, ((base, head),), unread=unread, left_out=left_out)
    progress("comparing the code")
    objects = dict.fromkeys((*base.objects, *head.objects))
    changes = code_changes(out / "base" / "build", out / "head" / "build", objects, images[0].arch)
    looks = look(images, bodies, changes, [_ran(pair) for pair in pairs])
    data = tuple(sorted(changes.data))
    flushes = tuple(sorted(changes.flushes))
    answer, why = _together(pairs), ""
    if answer == NO_CHANGE:
        lacks = missed(looks, unseen, flushes)
        if not changes.functions and data:
            lacks = "; ".join(filter(None, [f"only data changes: {', '.join(data)}", lacks]))
        if lacks:
            answer, why = NOT_LOOKED_AT, f"no verdict changes, and {lacks}"
        elif left_out:
            answer, why = UNDECIDED, "scenarios were left out"
    return Answer(answer, why, names, what, ((base, head),), pairs, unread, left_out, looks, data, flushes)


def _ran(pair: Comparison) -> Pair:
    """Return what ran in a scenario, before the series and after it."""
    ran = [frozenset[int]() if run is None else run.ran for run in (pair.before, pair.after)]
    return Pair(f"{pair.scenario.name}, {pair.memory}", *ran)


def missed(looks: Sequence[Look], unseen: Sequence[str], flushes: Sequence[str] = ()) -> str:
    """Return what the series changes and no verdict is about, '' where there is nothing."""
    functions = [f"{one.name} ({one.why})" for one in looks if one.state in NOT_SEEN]
    parts = [f"not looked at: {', '.join(functions)}"] if functions else []
    if flushes:
        parts.append(f"what TLBs hold is not followed, and their maintenance changes in {', '.join(flushes)}")
    return "; ".join(parts + [f"no image is compiled from {', '.join(unseen)}"] * bool(unseen))


class _HeadError(Exception):
    """The patched code cannot be run; the message says why, in one line."""


def architectures_of(series: Series) -> tuple[str, ...]:
    """Return the architectures that a series is checked for.

    x86_64 where it touches arch/x86, and arm64 where it touches anything else, or nothing of ours.
    """
    names = [name for name in _names(series) if name.startswith(_OURS)]
    x86 = [name for name in names if name.startswith("arch/x86/")]
    return (*(("arm64",) if len(x86) < len(names) or not names else ()), *(("x86_64",) if x86 else ()))


def _names(series: Series) -> list[str]:
    return [*series.outside, *(name for patch in series.patches for name in patch.files)]


def may_matter(series: Series) -> bool:
    """Return whether a series touches a file that page-table code may depend on: code, or how a kernel is built."""
    names = _names(series)
    return any(name.startswith((*_OURS, "scripts/")) or ("/" not in name and name not in _TEXT) for name in names)


def ours(names: Sequence[str]) -> list[str]:
    """Return the files among these that may have page-table code."""
    return [name for name in names if name.endswith(CODE) and name.startswith(_OURS)]


def _only_if_read(tree: Path, name: str) -> bool:
    """Return whether a file matters to an image only where the compiler reads it.

    A file of how a kernel is configured and built may matter in any case, as one does of which a header is made, and
    one that is new is read by nobody yet.
    """
    makes = name.startswith(("scripts/", "tools/", "usr/")) or name.endswith(("-offsets.c", "/bounds.c"))
    return (tree / name).is_file() and name.endswith((*CODE, *_TEXT)) and not makes


def _read(folder: Path) -> frozenset[str]:
    """Return the files that an image was compiled from; none where its folder does not say."""
    try:
        return frozenset((folder / READ).read_text(encoding="utf-8").splitlines())
    except OSError:
        return frozenset()


def _memories(scenario: Scenario) -> tuple[str, str]:
    """Return the strongest memory model, and that of the scenario's architecture."""
    by_strength = memories(scenario)
    return by_strength[0], by_strength[-1]


def _verify(
    images: tuple[Image, Image], scenarios: Sequence[Scenario], seconds: float, progress: Progress
) -> tuple[Comparison, ...]:
    """Return every pair, the patched code first: that is what was asked for."""
    end = time.monotonic() + seconds
    todo = [(scenario, memory) for scenario in scenarios for memory in _memories(scenario)]
    found: dict[tuple[str, str, int], ImageRun] = {}
    for which in (1, 0):
        for number, (scenario, memory) in enumerate(todo):
            left = end - time.monotonic()
            if left <= 0:
                break
            # those that come after it have their share as well
            share = left / (len(todo) - number + (len(todo) if which else 0))
            progress(f"{'patched' if which else 'base'}: {scenario.name}, {memory} ({number + 1} of {len(todo)})")
            try:
                run = verify_image(images[which], scenario, memory, Bounds(Limits(None, max(share, 1.0))))
            except (ProgramError, ImageError) as error:
                if which:
                    raise _HeadError(str(error)) from error
                raise
            found[scenario.name, memory, which] = run
    # what its share was too short for has all that the others have left
    for (name, memory, which), run in list(found.items()):
        left = end - time.monotonic()
        if run.verdict.failure is None and not run.verdict.complete and left > run.verdict.seconds:
            progress(f"{'patched' if which else 'base'}: {name}, {memory}, once more")
            bounds = Bounds(Limits(None, left))
            found[name, memory, which] = verify_image(images[which], run.scenario, memory, bounds)
    return tuple(
        Comparison(scenario, memory, found.get((scenario.name, memory, 0)), found.get((scenario.name, memory, 1)))
        for scenario, memory in todo
    )


def _together(pairs: Sequence[Comparison]) -> str:
    """Return the answer that the pairs come to: the worst of them, and a mend where nothing is worse than that."""
    answers = {pair.answer for pair in pairs}
    for answer in (BROKEN, STILL_BROKEN, UNDECIDED, FIXED):
        if answer in answers:
            return answer
    return NO_CHANGE if answers else UNDECIDED
