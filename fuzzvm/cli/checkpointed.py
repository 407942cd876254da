"""`verify --checkpoint` and `--resume`: one run in this process, which writes checkpoints and says so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

from fuzzvm.cli.output import say
from fuzzvm.exhaustive.checkpoint.errors import CheckpointError
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.files.errors import FileError
from fuzzvm.files.shell import word
from fuzzvm.verify.checkpoints import Checkpoint
from fuzzvm.verify.matrix import Bounds, Cell, VerifiedCell, verify_cell

WITH_RESUME = (
    "resume",
    "hook_seconds",
    "max_states",
    "max_seconds",
    "max_memory",
    "save",
    "happened",
    "as_json",
)
"""The options that go with --resume: what is verified, the checkpoint says."""
WITH_CHECKPOINT = (
    "checkpoint",
    "mitigation_names",
    "release_names",
    "scenario_names",
    "memory",
    "tlb",
    "without",
    "preemptions",
    "no_reduction",
    *WITH_RESUME[1:],
)


def begun(path: Path, cells: Sequence[Cell], bounds: Bounds) -> Checkpoint:
    """Return a new checkpoint of the one cell that there is. Raises UsageError, FileError, MitigationError."""
    if len(cells) != 1:
        raise click.UsageError(
            f"--checkpoint keeps one run, and these options choose {len(cells)}: name one mitigation or release, one "
            "scenario, and --memory"
        )
    return Checkpoint.create(path, cells[0], bounds)


def resumed(path: Path, limits: Limits) -> Checkpoint:
    """Return a checkpoint that is there, and say how far it has come. Raises FileError, MitigationError."""
    found = Checkpoint.open(path, limits)
    cell = found.cell
    say(f"{path}: {cell.mitigation}, {cell.scenario.name}, {cell.memory}: {found.reached}", err=True)
    return found


def verified(checkpoint: Checkpoint, memory: int | None, keep: Callable[[VerifiedCell], None]) -> VerifiedCell | None:
    """Verify the cell of a checkpoint within so many bytes of memory; return the run, None where Ctrl-C ended it.

    `keep` is called with it. Another signal ends this process, once a checkpoint is written. Raises FileError, and as
    `verify_cell` does.
    """
    line = _Line()
    keeper = checkpoint.keeper(line.said)
    bounds = replace(checkpoint.bounds, limits=replace(checkpoint.bounds.limits, max_memory=memory))
    try:
        with _asks(keeper, checkpoint.path):
            run = verify_cell(checkpoint.cell, bounds, keeper=keeper)
            keep(run)
    except CheckpointError as error:
        raise FileError(checkpoint.path, str(error)) from error
    except KeyboardInterrupt:
        line.end()
        say(f"fuzzvm verify --resume {word(str(checkpoint.path))} goes on: {checkpoint.reached}", err=True)
        if keeper.asked not in (None, signal.SIGINT):
            _end_by(keeper.asked)
        return None
    finally:
        line.end()
        checkpoint.close()
    return run


@contextmanager
def _asks(keeper: DiskKeeper, path: Path) -> Iterator[None]:
    """In the body, let the first signal ask for the end where that is noticed, and end the body at once elsewhere."""
    says = f"\nwriting a last checkpoint; fuzzvm verify --resume {word(str(path))} goes on\n".encode()
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # nohup and the like have said that it is not to end
        if signal.getsignal(number) is not signal.SIG_IGN
    }

    def ask(number: int, frame: FrameType | None) -> None:
        if keeper.listens and keeper.asked is None:
            keeper.asked = number
            # at once, since the process may be ended before there is another time
            with suppress(OSError):
                os.write(2, says)
            return
        handler = before[signal.Signals(number)]
        if not callable(handler):
            _end_by(number)
        else:
            handler(number, frame)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_by(number: int | None) -> None:
    """End this process as the signal would have done that it has taken."""
    assert number is not None
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _Line:
    """What was written last, in one line of a terminal; nothing where stderr is none, but for what is important."""

    def __init__(self) -> None:
        self._shown = False

    def said(self, sentence: str, important: bool) -> None:
        if important:
            self.end()
            say(sentence, err=True)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r{sentence}\x1b[K")
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._shown = False
