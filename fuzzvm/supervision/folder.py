"""The current folder stays what it is: relative paths of the command line mean the same before user code and after."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def same_folder() -> Iterator[None]:
    """Come back to the current folder after the body, whatever user code in it does."""
    try:
        folder = os.open(".", os.O_RDONLY)
    except OSError:
        # it cannot be read, or is gone
        yield
        return
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
