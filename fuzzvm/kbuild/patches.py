"""Patches, as files of differences, as mails or as mailboxes, and their application to an overlay by patch(1)."""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fuzzvm.files.reading import read_bytes
from fuzzvm.kbuild.errors import KbuildError

MAX_BYTES = 256 << 20
"""Of a file of patches; one for a whole release of the kernel has some 100 MB."""

_MAIL = re.compile(rb"^From \S+ .*\d{4}$", re.MULTILINE)
_HEADER = re.compile(rb"\A(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)*(?:From|Subject|Message-I[dD]):", re.MULTILINE)
"""The head of one mail without a mailbox around it."""
_TAG = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_COUNTER = re.compile(r"\[[^\]]*\b(\d+)/(\d+)\s*\]")
_NAMES = re.compile(r"^(?:--- |\+\+\+ |rename from |rename to |copy from |copy to )([^\t\n]+)", re.MULTILINE)
_FILE = re.compile(r"^\+\+\+ ([^\t\n]+)")
_HUNK = re.compile(r"^@@ -\S+ \+\S+ @@.*")
_TARGET = re.compile(r"^(?:checking|patching) file '?(.*?)'?(?: \(.*\))?$")
_FAILED = re.compile(r"^Hunk #(\d+) (?:FAILED|ignored) at (\d+)")


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch. `name` is the user's file, numbered where that holds several; `files` are relative to the tree.

    `subject` is that of its mail without what stands in square brackets, "" where there is none.
    """

    name: str
    text: bytes
    files: tuple[str, ...]
    subject: str = ""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of its text."""
        return hashlib.sha256(self.text).hexdigest()


def read(path: Path) -> list[Patch]:
    """Read a file of differences, a mail, or a mailbox of patches. Raises KbuildError where it holds no patch.

    Patches come in the order of the file; those of a mailbox whose subjects count them, in that order. Mails that have
    no patch, such as a cover letter, are passed over.
    """
    text = read_bytes(path, MAX_BYTES)
    mails = [found.start() for found in _MAIL.finditer(text)]
    if mails:
        parts = [text[start:end] for start, end in zip(mails, [*mails[1:], len(text)], strict=True)]
        bodies = _in_order([one for one in (_body(part.partition(b"\n")[2]) for part in parts) if _names(one[1])])
    elif _HEADER.match(text) and _names((mail := _body(text))[1]):
        bodies = [mail]
    else:
        bodies = [("", text)]
    patches = [
        Patch(
            str(path) if len(bodies) == 1 else f"{path} ({number} of {len(bodies)})",
            body,
            _names(body),
            _TAG.sub("", subject),
        )
        for number, (subject, body) in enumerate(bodies, start=1)
    ]
    if not patches or not all(patch.files for patch in patches):
        raise KbuildError(f"{path} holds no patch: no file is named by `---` and `+++`")
    return patches


def _body(mail: bytes) -> tuple[str, bytes]:
    """Return subject and text of a mail, with its transfer encoding undone."""
    message = email.message_from_bytes(mail, policy=email.policy.default)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    body = b"".join(bytes(part.get_payload(decode=True)) for part in parts)
    return " ".join(str(message.get("Subject", "")).split()), body


def _in_order(mails: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return mails in the order of the numbers in their subjects, where they are one series; else as they are."""
    counters = [found for found in (_COUNTER.search(subject) for subject, _ in mails) if found]
    numbers = [int(found[1]) for found in counters]
    if len(numbers) < len(mails) or len(set(numbers)) < len(mails) or len({found[2] for found in counters}) != 1:
        return mails
    return [mail for _, mail in sorted(zip(numbers, mails, strict=True), key=lambda one: one[0])]


def _names(text: bytes) -> tuple[str, ...]:
    """Return the files that a text of differences names, without the first component of their names (-p1)."""
    found = set()
    for line in _NAMES.finditer(text.decode(errors="surrogateescape")):
        name = line[1].strip()
        # renames are named without a/ and b/
        if line[0].startswith(("--- ", "+++ ")):
            if name == "/dev/null" or "/" not in name:
                continue
            name = name.partition("/")[2]
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise KbuildError(f"a patch names a file outside of the tree: {name}")
        found.add(name)
    return tuple(sorted(found))


def check_program() -> None:
    """Raise KbuildError where there is no patch(1)."""
    if shutil.which("patch") is None:
        raise KbuildError("packages are missing: apt-get install patch")


def apply(patches: Sequence[Patch], tree: Path) -> None:
    """Apply patches in order. Raises KbuildError for the first hunk that does not fit exactly, lines moved or not.

    The files must be real in the tree: patch(1) does not write through symbolic links.
    """
    for patch in patches:
        ran = subprocess.run(
            ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch", "-r", "-", "-d", str(tree)],
            input=patch.text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if ran.returncode:
            raise KbuildError(f"{patch.name} does not apply: {_reason(patch, ran.stdout.decode(errors='replace'))}")


def _reason(patch: Patch, said: str) -> str:
    """Return what patch(1) stumbled over: the hunk as the patch states it, or its own words."""
    target = ""
    for line in said.splitlines():
        if found := _TARGET.match(line):
            target = found[1]
        elif found := _FAILED.match(line):
            hunk = _hunk(patch, target, int(found[1]))
            return f"hunk {found[1]} of {target}, {hunk}" if hunk else f"hunk {found[1]} of {target}"
        elif line.startswith("Reversed (or previously applied) patch"):
            return f"{target} has the change already"
        elif "can't find file to patch" in line:
            return f"the tree has no {' and no '.join(patch.files)}"
        elif "malformed patch" in line or "not a regular file" in line or "binary" in line:
            return line.removeprefix("patch: **** ").strip()
    return (said.splitlines() or ["patch(1) says nothing"])[-1].strip()


def _hunk(patch: Patch, target: str, number: int) -> str:
    """Return the head line of a file's hunk, "" where there is none."""
    inside, count = False, 0
    for line in patch.text.decode(errors="replace").splitlines():
        if found := _FILE.match(line):
            inside, count = found[1].partition("/")[2].strip() == target, 0
        elif inside and (head := _HUNK.match(line)):
            count += 1
            if count == number:
                return head[0]
    return ""
