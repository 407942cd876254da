"""How a further Python of ours is started: one that imports nothing of the current folder by itself.

`python -m` and `python -c` put the current folder before all others that modules are looked for in. Who works in a
folder from elsewhere would run a `json.py` that lies there.
"""

from __future__ import annotations

import os
import sys


def python(*arguments: str) -> list[str]:
    """Return the command that starts this Python with these arguments, `-m MODULE` or `-c CODE` first."""
    return [sys.executable, "-P", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment for it: modules are looked for where this process looks, then `variables`."""
    # an empty entry stands for the current folder
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - a string
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | variables
