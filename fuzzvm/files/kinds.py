"""Names what a path leads to, for messages: a pipe, a device, a folder."""

from __future__ import annotations

import stat

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
}


def kind(mode: int) -> str:
    """Return what a file of that `st_mode` is, with its article."""
    return _KINDS.get(stat.S_IFMT(mode), "a file")
