"""The folder of a campaign: what is where, who may write to it, and how a full disk is said.

    settings.json     what is searched; written once
    journal.sqlite    what has been done, and what is under way
    journal.commits   how often the journal was written to
    findings/         test cases, minimised and checked
    unsettled/        failing runs that are still to be minimised and checked
    corpus/           runs that were first to cover something
    evidence/         runs that did not go the same way twice
    lock              held by the process that writes

All test cases are files of the corpus' format, written under another name, synced, and renamed.

A folder may come from anybody, and what fuzzvm reads, writes and deletes in it stays in it: what stands where a file or
a folder belongs must be one, and no link; a name that the journal has for a file is a name, and no path.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fuzzvm.campaigns import settings
from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.campaigns.journal import COUNT, Journal, told
from fuzzvm.campaigns.settings import Settings, Written
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.files.errors import FileError
from fuzzvm.files.kinds import kind
from fuzzvm.files.reading import read_text
from fuzzvm.files.shell import word
from fuzzvm.files.writing import TEMPORARY, write

PATIENCE = 1.0
"""Seconds that a lock may be held by one who only looks."""
MAX_JOURNAL = 1 << 32
"""Bytes of a journal, and of what SQLite keeps beside it."""
ASIDE = "damaged-"
"""What folders begin with that have what was moved out of the way."""
_CASE = re.compile(r"[a-z0-9-]{1,250}\.toml")
"""What `TestCase.file_name` may come to."""


def is_case_name(name: str) -> bool:
    """Return whether a text is a name that a test case may have in one of the folders, and no path."""
    return _CASE.fullmatch(name) is not None


class Folder:
    """The paths of a campaign's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.journal = path / "journal.sqlite"
        self.rollback = path / "journal.sqlite-journal"
        self.findings = path / "findings"
        self.unsettled = path / "unsettled"
        self.corpus = path / "corpus"
        self.evidence = path / "evidence"
        self.lock = path / "lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the folders in it."""
        return self.findings, self.unsettled, self.corpus, self.evidence

    @property
    def of_journal(self) -> tuple[Path, ...]:
        """Return the files of a journal: the database, its log, the index of that log, and the count of commits."""
        return (*(self.journal.with_name(self.journal.name + end) for end in ("", "-wal", "-shm")), self.path / COUNT)

    def case(self, folder: Path, name: str) -> Path:
        """Return the file of a test case in one of the folders, by the name that the journal has for it.

        Raises DamagedError for what is no such name: a path would lead anywhere.
        """
        if not is_case_name(name):
            raise DamagedError(self.path, f"the journal names a file {name!r}")
        return folder / name

    def create(self) -> None:
        """Make the folder. Raises CampaignError where there is a campaign in it already, or anything else."""
        if self.settings.exists():
            raise self._there_already()
        try:
            if self.path.is_dir() and not self._begun_to_make():
                raise CampaignError(f"{self.path}: not empty, and no campaign")
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CampaignError(f"{self.path}: {error.strerror}") from error

    def _there_already(self) -> CampaignError:
        resume = f"fuzzvm fuzz --resume {word(str(self.path))}"
        return CampaignError(f"{self.path}: there is a campaign already; {resume}")

    def _begun_to_make(self) -> bool:
        """Return whether there is nothing in the folder but what a kill leaves before the settings are written."""
        may = {path.name for path in (self.lock, self.rollback, *self.of_journal)}
        names = {path.name for path in self.path.iterdir()}
        return not names or (self.lock.name in names and names <= may)

    def begin(self, of: Settings) -> None:
        """Write journal and settings, and with that make it a campaign. Raises CampaignError, MitigationError."""
        if self.settings.exists():
            raise self._there_already()
        text = of.to_text()
        # what could not be read again is not begun
        settings.parse(text, self.settings)
        with full_disk(self):
            for path in (self.rollback, *self.of_journal):
                path.unlink(missing_ok=True)
            # the settings come last: with them it is a campaign, and has all that one needs
            Journal.create(self.journal, text).close()
            write(self.settings, text, own_name=True)

    def read(self) -> Written:
        """Return what stands in the settings. Raises CampaignError, DamagedError."""
        if not os.path.lexists(self.settings) and not os.path.lexists(self.journal):
            raise CampaignError(f"{self.path}: no campaign there (no settings.json)")
        self.check()
        try:
            text = read_text(self.settings, settings.MAX_BYTES)
        except FileError as error:
            raise DamagedError(self.path, f"{self.settings.name}: {error.why}") from error
        return settings.parse(text, self.settings)

    def check(self) -> None:
        """Raise DamagedError where something else stands in the place of a file or a folder, or a journal not ours."""
        for path, why in self.misplaced():
            raise DamagedError(self.path, f"{path.name} {why}")

    def misplaced(self) -> list[tuple[Path, str]]:
        """Return what stands in the place of a file or a folder and is none or must not be there, and why not."""
        found = []
        # SQLite would play it back, and delete whatever file it names as the main one of several
        # (sqlite.org/fileformat2.html#the_rollback_journal); fuzzvm's journals have a write-ahead log
        if os.path.lexists(self.rollback):
            found.append((self.rollback, "does not belong there"))
        for path in (self.settings, *self.of_journal, self.lock):
            if not os.path.lexists(path):
                continue
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                found.append((path, f"is {kind(status.st_mode)}, and no file"))
            elif status.st_size > MAX_JOURNAL:
                found.append((path, f"is larger than {MAX_JOURNAL} bytes"))
            elif status.st_nlink > 1 and path in self.of_journal:
                found.append((path, "is a file of another name, too (a hard link)"))
        for path in self.folders:
            if os.path.lexists(path) and not stat.S_ISDIR(mode := path.lstat().st_mode):
                found.append((path, f"is {kind(mode)}, and no folder"))
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that writes. Raises CampaignError where there is another.

        A lock of the process, not of the open file: a forked worker has no part in it, and it is gone when the process
        is, whatever that died of.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.lock, flags, 0o666)
        except OSError as error:
            raise CampaignError(f"{self.lock}: {error.strerror}") from error
        try:
            until = time.monotonic() + PATIENCE
            while not _lock(descriptor):
                if time.monotonic() > until:
                    raise CampaignError(f"{self.path}: another process runs this campaign")
                time.sleep(PATIENCE / 20)
            yield
        finally:
            os.close(descriptor)

    def sweep(self, settled: Iterable[str]) -> None:
        """Remove what a kill has left behind: files half written, and runs as found of what has been settled since."""
        with full_disk(self):
            for folder in (self.path, *self.folders):
                for half in [path for path in folder.glob(TEMPORARY) if not path.is_dir()]:
                    half.unlink(missing_ok=True)
            for name in settled:
                self.case(self.unsettled, name).unlink(missing_ok=True)

    def running(self) -> bool:
        """Return whether a process runs the campaign at present."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _lock(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)


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
    except (CorpusError, FileError, sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and isinstance(damaged := told(error, folder.journal), DamagedError):
            raise damaged from error
        why = str(error)
        if isinstance(error, sqlite3.Error) and _no_space(folder.path):
            why = f"{folder.journal}: {os.strerror(errno.ENOSPC)}"
        resume = f"fuzzvm fuzz --resume {word(str(folder.path))}"
        then = (
            f"all that was reported is safe, and `{resume}` goes on when that is mended"
            if folder.settings.exists()
            else "no campaign was begun"
        )
        raise CampaignError(f"{why}; {then}") from error


def _no_space(path: Path) -> bool:
    """Return whether there is no page left: SQLite says `disk I/O error` for some of its files, and not which."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < 64 * 1024
