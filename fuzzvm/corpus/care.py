"""Keeps a corpus in order: adds to it, merges into it, checks it, and says which of its files are enough.

Nothing here runs code that a file names: a mitigation of the user's runs only where it is given, by the name that the
files have for it. Symbolic links in a corpus are reported and not followed, so that a folder from elsewhere cannot make
files of this machine its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fuzzvm.compiled.errors import ImageError
from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.replay import Given, given_for, replay
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations.registry import MitigationError
from fuzzvm.scenario.errors import ScenarioError

Features: TypeAlias = frozenset[Hashable]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a corpus: the test case in it, or one line on why it holds none that replays as it expects."""

    path: Path
    case: TestCase | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a file that was to be added: `saved` is where it stands, None where it was refused.

    `new` is False where the corpus had the case already.
    """

    path: Path
    saved: Path | None
    new: bool
    problem: str = ""


def entry(path: Path, given: Given) -> Entry:
    """Return a file's test case, read and replayed."""
    try:
        case = read(path)
        result = replay(case, given_for(case, given))
    except (CorpusError, ImageError, MitigationError, ScenarioError, ProgramError) as error:
        return Entry(path, None, " ".join(str(error).removeprefix(f"{path}:").split()))
    return Entry(path, case, result.problem)


def files(folder: Path) -> list[Path]:
    """Return the test cases below a folder that are files, in order of name; links are left out.

    Raises CorpusError where there is no such folder.
    """
    if not folder.is_dir():
        raise CorpusError(folder, "no such folder")
    return [path for path in _named_as_cases(folder) if not path.is_symlink()]


def _named_as_cases(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        # litmus tests have a table of their own; store.find passes it over too
        folders[:] = [name for name in folders if name != "litmus"]
        found += [Path(root, name) for name in names if name.endswith(store.SUFFIX) and not name.startswith(".")]
    return sorted(path for path in found if path.is_symlink() or path.is_file())


def add(paths: Sequence[Path], folder: Path, given: Given) -> Iterator[Added]:
    """Save files in a corpus by the name of their content, each only if it replays as it expects.

    Raises CorpusError where the folder cannot be written to.
    """
    known = _identities(folder)
    for path in paths:
        found = entry(path, given)
        if found.case is None or found.problem:
            yield Added(path, None, False, found.problem)
            continue
        yield _save(found.case, path, folder, known)


def merge(source: Path, folder: Path) -> Iterator[Added]:
    """Save the test cases below one folder in another; they are read, and not replayed.

    Raises CorpusError where a folder does not exist or cannot be written to.
    """
    known = _identities(folder)
    for path in _named_as_cases(source) if source.is_dir() else files(source):
        if path.is_symlink():
            yield Added(path, None, False, LINK)
            continue
        try:
            case = read(path)
        except CorpusError as error:
            yield Added(path, None, False, str(error).removeprefix(f"{path}:").strip())
            continue
        yield _save(case, path, folder, known)


LINK = "a symbolic link, which is not followed"


def _identities(folder: Path) -> dict[str, Path]:
    """Return the files of a corpus by what they run; the folder need not exist yet."""
    known: dict[str, Path] = {}
    for path in files(folder) if folder.exists() else ():
        try:
            known.setdefault(read(path).identity(), path)
        except CorpusError:
            # `check` tells of it; here it only means that the file holds no case that could be had twice
            continue
    return known


def _save(case: TestCase, path: Path, folder: Path, known: dict[str, Path]) -> Added:
    there = known.get(case.identity())
    if there is not None:
        return Added(path, there, False)
    saved, new = store.save(case, folder)
    known[case.identity()] = saved
    return Added(path, saved, new)


def check(folder: Path, given: Given) -> Iterator[Entry]:
    """Yield every file of a corpus with what is wrong with it, '' for nothing.

    Wrong is: it does not replay as it expects, its name is not that of its content, an earlier file holds the same
    case, it is a link. Raises CorpusError where there is no such folder.
    """
    if not folder.is_dir():
        raise CorpusError(folder, "no such folder")
    first: dict[str, Path] = {}
    for path in _named_as_cases(folder):
        if path.is_symlink():
            yield Entry(path, None, LINK)
            continue
        found = entry(path, given)
        if found.case is None or found.problem:
            yield found
            continue
        case = found.case
        other = first.setdefault(case.identity(), path)
        if other != path:
            yield Entry(path, case, f"the same case as {other}")
        elif path.name not in (case.file_name(), case.former_file_name()):
            yield Entry(path, case, f"its content is named {case.file_name()}")
        else:
            yield found


def enough(entries: Sequence[tuple[Entry, Features]]) -> list[Entry]:
    """Return entries that have all features that all of them have, in the order they came in.

    Greedy set cover: again and again the one that adds most, among equals the one with fewest context switches, then
    fewest steps, then the first by name. The smallest set there is cannot be had in reasonable time (set cover is
    NP-hard); this one is at most 1 + ln n times as large, n being the most features that one entry has (Johnson, 1974).
    No entry is in it that adds nothing.
    """
    left = set().union(*(features for _, features in entries))
    waiting = sorted(entries, key=lambda one: _rank(one[0]))
    kept: list[tuple[Entry, Features]] = []
    while left:
        best = max(waiting, key=lambda one: len(one[1] & left))
        waiting.remove(best)
        left -= best[1]
        kept.append(best)
    chosen = {one.path for one, _ in _without_needless(kept)}
    return [one for one, _ in entries if one.path in chosen]


def _rank(one: Entry) -> tuple[int, int, str]:
    assert one.case is not None
    return context_switches(one.case.schedule), len(one.case.schedule), str(one.path)


def _without_needless(kept: list[tuple[Entry, Features]]) -> list[tuple[Entry, Features]]:
    """Return the chosen ones without those whose features later choices have between them."""
    times: dict[Hashable, int] = {}
    for _, features in kept:
        for feature in features:
            times[feature] = times.get(feature, 0) + 1
    needed = []
    for one, features in kept:
        if all(times[feature] > 1 for feature in features):
            for feature in features:
                times[feature] -= 1
        else:
            needed.append((one, features))
    return needed


def reduce(
    folder: Path, given: Given, features_of: Callable[[TestCase], Features]
) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return which files of a corpus to keep, which the others make needless, and which cannot be judged.

    What cannot be read, does not replay as it expects or runs code that was not given is not judged. Nothing is
    deleted. Raises CorpusError where there is no such folder.
    """
    entries = [entry(path, given) for path in files(folder)]
    good = [one for one in entries if one.case is not None and not one.problem]
    unknown = [one for one in entries if one.case is None or one.problem]
    keep = enough([(one, features_of(one.case)) for one in good if one.case is not None])
    paths = {one.path for one in keep}
    return keep, [one for one in good if one.path not in paths], unknown
