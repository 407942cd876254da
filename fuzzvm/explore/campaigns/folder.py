"""The folder of a campaign: what is where, who may write to it, and how a full disk is said.

    settings.json     what is searched; written once
    journal.sqlite    what has been done, and what is under way
    findings/         test cases, minimised and checked
    unsettled/        failing runs that are still to be minimised and checked
    corpus/           runs that were first to cover something
    evidence/         runs that did not go the same way twice
    lock              held by the process that writes

All test cases are files of the corpus' format, written under another name, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.explore.campaigns import settings
from fuzzvm.explore.campaigns.errors import CampaignError
from fuzzvm.explore.campaigns.settings import Settings

PATIENCE = 1.0
"""Seconds that a lock may be held by one who only looks."""


class Folder:
    """The paths of a campaign's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.journal = path / "journal.sqlite"
        self.findings = path / "findings"
        self.unsettled = path / "unsettled"
        self.corpus = path / "corpus"
        self.evidence = path / "evidence"
        self._lock = path / "lock"

    def create(self) -> None:
        """Make the folder. Raises CampaignError where there is a campaign in it already, or anything else."""
        if self.settings.exists():
            raise CampaignError(f"{self.path}: there is a campaign already; fuzzvm fuzz --resume {self.path}")
        try:
            if self.path.is_dir() and any(self.path.iterdir()) and not self._lock.exists():
                raise CampaignError(f"{self.path}: not empty, and no campaign")
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CampaignError(f"{self.path}: {error.strerror}") from error

    def begin(self, of: Settings) -> None:
        """Write the settings, and with that make it a campaign. Raises CampaignError."""
        if self.settings.exists():
            raise CampaignError(f"{self.path}: there is a campaign already; fuzzvm fuzz --resume {self.path}")
        with full_disk(self):
            store.write_text(self.settings, of.to_text())

    def read(self, *, to_run: bool) -> Settings:
        """Return the settings, checked that they can still be run or not. Raises CampaignError, MitigationError."""
        try:
            return settings.parse(self.settings.read_text(encoding="utf-8"), self.settings, to_run=to_run)
        except FileNotFoundError as error:
            raise CampaignError(f"{self.path}: no campaign there (no settings.json)") from error
        except (OSError, UnicodeDecodeError) as error:
            raise CampaignError(f"{self.settings}: {error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that writes. Raises CampaignError where there is another.

        A lock of the process, not of the open file: a forked worker has no part in it, and it is gone when the process
        is, whatever that died of.
        """
        try:
            file = self._lock.open("a")
        except OSError as error:
            raise CampaignError(f"{self._lock}: {error.strerror}") from error
        with file:
            until = time.monotonic() + PATIENCE
            while not _lock(file.fileno()):
                if time.monotonic() > until:
                    raise CampaignError(f"{self.path}: another process runs this campaign")
                time.sleep(PATIENCE / 20)
            yield

    def sweep(self, settled: Iterable[str]) -> None:
        """Remove what a kill has left behind: files half written, and runs as found of what has been settled since."""
        with full_disk(self):
            for half in self.path.rglob(".*.tmp"):
                half.unlink(missing_ok=True)
            for name in settled:
                (self.unsettled / name).unlink(missing_ok=True)

    def running(self) -> bool:
        """Return whether a process runs the campaign at present."""
        try:
            with self._lock.open("r+") as file:
                return not _lock(file.fileno())
        except OSError:
            return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


@contextlib.contextmanager
def full_disk(folder: Folder) -> Iterator[None]:
    """Say in one line what could not be written, and what is safe. Raises CampaignError for errors of disks."""
    try:
        yield
    except (CorpusError, sqlite3.Error, OSError) as error:
        why = str(error)
        if isinstance(error, sqlite3.Error) and _no_space(folder.path):
            why = f"{folder.journal}: {os.strerror(errno.ENOSPC)}"
        then = (
            f"all that was reported is safe, and `fuzzvm fuzz --resume {folder.path}` goes on when that is mended"
            if folder.settings.exists()
            else "no campaign was begun"
        )
        raise CampaignError(f"{why}; {then}") from error


def _no_space(path: Path) -> bool:
    """Return whether there is no page left: SQLite says `disk I/O error` for some of its files, and not which."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < 64 * 1024
