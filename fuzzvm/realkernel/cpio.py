"""Archives in cpio's "newc" format, as the kernel unpacks them.

Documentation/driver-api/early-userspace/buffer-format.rst says what that is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_ALIGN = 4


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `device` is the major and minor number of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def regular(name: str, data: bytes, *, executable: bool = False) -> Member:
    """Return a regular file."""
    return Member(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def directory(name: str) -> Member:
    """Return a folder."""
    return Member(name, stat.S_IFDIR | 0o755)


def character_device(name: str, major: int, minor: int) -> Member:
    """Return a character device, which writing an archive needs no privilege for."""
    return Member(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(members: Iterable[Member]) -> bytes:
    """Return an archive, padded so that another one may follow it: the kernel unpacks one after the other."""
    parts = [_record(number, member) for number, member in enumerate(members, 1)]
    parts.append(_record(0, Member("TRAILER!!!", 0)))
    return b"".join(parts)


def _record(number: int, member: Member) -> bytes:
    name = member.name.encode() + b"\0"
    major, minor = member.device
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (number, member.mode, 0, 0, 1, 0, len(member.data), 0, 0, major, minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(member.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)
