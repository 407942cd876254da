"""Devices for tests that write to some."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


def own_device(name: str, folder: Path) -> Path:
    """Return a device that only this test can lose: root's would be the machine's, were it replaced."""
    if os.geteuid() != 0:
        return Path("/dev", name)
    folder.mkdir()
    os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, {"null": 3, "full": 7}[name]))
    try:
        os.close(os.open(folder / name, os.O_WRONLY))
    except OSError:
        pytest.skip("devices do not work in this folder (nodev)")
    return folder / name
