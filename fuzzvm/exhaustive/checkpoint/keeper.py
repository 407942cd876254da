"""Keeps the searches of one verdict on disk from time to time, and lets another process go on from there.

Why a search that goes on misses no state. It is kept between two states, when it looks at its limits: the steps of all
states that are visited and not waiting have been taken, and what they lead to is visited. So each state that can be
reached is visited, or lies behind one that waits, and all that wait are in the checkpoint: the stack, of a shortest-run
search the pairs of all costs to come, of compiled code the states that wait for a step. (`Kept` of each search says
which they are.) A reduced search has also left out steps of states that it has visited, by what it knew of CPUs. It
goes on from the same knowledge, edge by edge, with the same list of those states, so that it visits them again for the
same discoveries. Numbers stand for the same in the new process (`space_log`), or nothing is restored. What is worked
out again, tables of steps above all, follows from those numbers alone.

That makes it a search of the same states, in the same order, with the same counts; tests/exhaustive/checkpoint kills
and compares. What is begun again is said in docs/large-runs.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from fuzzvm.exhaustive.checkpoint import numbers
from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.checkpoint.kept import DONE, Kept, Restored, states
from fuzzvm.exhaustive.checkpoint.plain import Plain
from fuzzvm.exhaustive.checkpoint.space_log import SpaceLog
from fuzzvm.exhaustive.checkpoint.store import Store
from fuzzvm.exhaustive.search import Searched
from fuzzvm.exhaustive.space import Space
from fuzzvm.files.errors import FileError

SECONDS = 5.0
"""Between two checkpoints, at least."""
SHARE = 0.03
"""Part of the processor time that is spent on checkpoints at most: the larger one is, the later the next."""
_COLUMN = "search "
"""What the names of a search's columns begin with in the store."""


class DiskKeeper:
    """See `limits.Keeper`. `said` is told what there is to say: of a checkpoint that was written, and that was not."""

    def __init__(
        self,
        store: Store,
        plain: Plain,
        said: Callable[[str, bool], None] = lambda sentence, important: None,
        *,
        seconds: float = SECONDS,
    ) -> None:
        self._store = store
        self._log = SpaceLog(store, plain)
        self._said = said
        self._seconds = seconds
        self._next = time.monotonic() + seconds
        self._next_used = 0.0
        """By the clock, and in processor time of this process: when the next checkpoint is due."""
        about = store.about.get("seconds", 0.0)
        self.seconds_before = float(about) if isinstance(about, int | float) and about >= 0 else 0.0
        """The seconds that were spent on the verdict in other processes, up to the last checkpoint."""
        self._began = time.monotonic() - self.seconds_before
        self._stage = ""
        self._found: Searched | None = None
        self._failed = False
        self._grown: dict[str, tuple[Collection[int], int]] = {}
        """What grows of the search that is kept, and how much of it the store has."""
        self._restoring_since: float | None = None
        """When a checkpoint began to be read from which a search has yet to go on."""
        self.asked: int | None = None
        """The signal that has asked for the end; the next look writes a checkpoint and raises KeyboardInterrupt."""
        self.listens = False
        """Whether a search is under way that can be kept, and will look."""

    # What stages of a verdict tell it

    def at(self, stage: str, found: Searched | None = None) -> None:
        """Be told that a stage begins, and what the search for errors has found before it."""
        self._stage, self._found, self.listens = stage, found, False
        self._grown.clear()

    def ended(self, space: Space, found: Searched) -> None:
        """Keep what a search has found that is at its end; what comes next begins from there."""
        self.listens = False
        if found.states and time.monotonic() >= self._next - self._seconds / 2:
            self._keep(space, Kept({"kind": DONE, "states": found.states, "searched": _found_data(found)}))

    # What searches tell it

    def looked(self, search: Any) -> None:
        """Write a checkpoint if it is time, or if the end was asked for: then raise KeyboardInterrupt after it."""
        self.listens = True
        if self._restoring_since is not None:
            seconds = time.monotonic() - self._restoring_since
            self._restoring_since = None
            # what there is has just been read
            self._next = time.monotonic() + self._seconds
            self._said(f"goes on after {seconds:.1f} s, in which the checkpoint was read", True)
        if self.asked is None and (time.monotonic() < self._next or time.process_time() < self._next_used):
            return
        self.keep(search)
        if self.asked is not None:
            raise KeyboardInterrupt

    def keep(self, search: Any) -> None:
        """Write a checkpoint of a search now. Raises CheckpointError for what cannot be written.

        A disk that is full, or fails, ends no search: the last checkpoint stays, and the next one is tried.
        """
        self._keep(search.space, search.kept())

    def _keep(self, space: Space, kept: Kept) -> None:
        store = self._store
        began = time.monotonic()
        used = time.process_time()
        count = kept.facts["states"]
        try:
            self._log.write(space)
            for name in store.parts:
                if name.startswith(_COLUMN) and name.removeprefix(_COLUMN) not in kept.growing:
                    store.drop(name)
            for name, column in kept.columns.items():
                for chunk in column:
                    store.append(_COLUMN + name, chunk)
            for name, (grows, found) in kept.growing.items():
                known, done = self._grown.get(name, (None, 0))
                if known is not grows:
                    store.drop(_COLUMN + name)
                    done = 0
                for chunk in states(islice(found, done, None), space, kept.extra):
                    store.append(_COLUMN + name, chunk)
                self._grown[name] = (grows, len(grows))
            store.replace("facts", numbers.text([self._stage, _found_data(self._found), kept.facts]))
            store.about |= {"states": count, "stage": self._stage, "seconds": began - self._began}
            store.about["written"] = round(time.time(), 1)
            store.commit()
        except FileError as error:
            self._forget()
            if not self._failed:
                self._said(f"no checkpoint was written: {error}", True)
            self._failed = True
        except BaseException:
            # what cannot be written, and a bound that ends this as well: the last checkpoint stays
            self._forget()
            raise
        else:
            self._failed = False
            self._said(f"checkpoint: {count} states, {self._stage}, after {began - self._began:.0f} s", False)
        self._next = time.monotonic() + self._seconds
        self._next_used = time.process_time() + (time.process_time() - used) / SHARE

    def _forget(self) -> None:
        """Go back to the last checkpoint; the next one is written whole."""
        self._log.forget()
        self._grown.clear()
        self._store.roll_back()

    # Going on

    def restore(self, space: Space) -> tuple[str, Searched | None, Restored] | None:
        """Let a space that nobody has searched be the one that was kept.

        Returns the stage of the verdict, what was found before it, and the search of it; None where no checkpoint was
        written yet. Raises CheckpointError, FileError.
        """
        store = self._store
        if "facts" not in store.parts:
            return None
        began = time.monotonic()
        self._log.restored(space)
        try:
            stage, found, facts = numbers.of_text(store.read("facts"))
        except (TypeError, ValueError) as error:
            raise DamagedError("it does not say where the search was") from error

        def column(name: str) -> Iterator[bytes]:
            return store.chunks(_COLUMN + name)

        self._restoring_since = began
        return stage, found_of(found), Restored(facts, column, self._grown)


def _found_data(found: Searched | None) -> Any:
    if found is None:
        return None
    return {
        "states": found.states,
        "transitions": found.transitions,
        "findings": [list(one) for one in found.findings],
        "stopped": found.stopped,
        "passes": found.passes,
        "endless": found.endless,
    }


def found_of(data: Any) -> Searched | None:
    """Return what a search has found, as `Kept` has it; None where nothing was searched. Raises DamagedError."""
    if data is None:
        return None
    read = Restored(data, lambda name: iter(()))
    endless = data.get("endless")
    if type(data.get("stopped")) is not str:
        raise DamagedError("what stopped a search is no text")
    try:
        run = None if endless is None else tuple(tuple(map(int, step)) for step in endless)
    except (TypeError, ValueError) as error:
        raise DamagedError("a run is none") from error
    found = tuple(read.findings())
    counts = (read.count("states"), read.count("transitions"), read.count("passes"))
    return Searched(counts[0], counts[1], found, data["stopped"], passes=counts[2], endless=run)
