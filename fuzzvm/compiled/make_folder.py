"""Make's folder, in which make can go on only where its own rule, the newer file, says all that has changed.

What it was last used for is kept beside it (docs/decisions/0019).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fuzzvm.compiled import read_files

_STATE = "state.json"


def take(out: Path, key: str, progress: Callable[[str], None]) -> Path:
    """Return make's folder below that of an image, emptied where what is in it may not fit what is to be built."""
    folder, state_file = (out / "build").resolve(), out / _STATE
    state = _read(state_file)
    if folder.exists() and not _fits(state, key):
        progress("removing what does not fit")
        shutil.rmtree(folder)
        state = {}
    folder.mkdir(exist_ok=True)
    # make leaves half a file where it is killed: it sees that on the way to the first finish, and not later
    status = "first" if state.get("status", "first") == "first" else "again"
    _write(state_file, {"status": status, "key": key, "began": time.time_ns()})
    return folder


def begin_again(out: Path, key: str) -> None:
    """Note that a folder is filled with what another build has made: one that is cut here is begun anew."""
    _write(out / _STATE, {"status": "again", "key": key, "began": time.time_ns()})


def is_settled(out: Path) -> bool:
    """Return whether make came to its end in a folder, and all that it has read is as it was."""
    state = _read(out / _STATE)
    used = state.get("used")
    return state.get("status") == "done" and isinstance(used, dict) and all(map(_is_as_it_was, used.items()))


def _is_as_it_was(file: tuple[str, object]) -> bool:
    return _stat(file[0]) == file[1]


def settle(out: Path) -> None:
    """Note that make has come to its end with the source as it is now, and what it has read."""
    folder, state_file = (out / "build").resolve(), out / _STATE
    commands = [path for path in folder.rglob(".*.cmd") if path.is_file()]
    used = {
        str(path): _stat(str(path)) for path in read_files.used(folder, commands) if not path.is_relative_to(folder)
    }
    _write(state_file, _read(state_file) | {"status": "done", "used": used})


def _fits(state: Mapping[str, object], key: str) -> bool:
    """Return whether make comes to the right objects in a folder that was used before."""
    if state.get("status") == "first":
        return state.get("key") == key
    used, began = state.get("used"), state.get("began")
    if state.get("status") != "done" or not isinstance(used, dict) or not isinstance(began, int):
        return False
    # a changed file that is older than the objects is one that make would not see
    return all(now == then or now[1] > began for path, then in used.items() for now in [_stat(path)])


def _stat(path: str) -> list[int]:
    """Return size and time of a file, as JSON has them; none for one that is gone."""
    try:
        stat = Path(path).stat()
    except OSError:
        return [0, 0]
    return [stat.st_size, stat.st_mtime_ns]


def _read(path: Path) -> dict[str, object]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write(path: Path, state: Mapping[str, object]) -> None:
    half = path.with_suffix(".half")
    half.write_text(json.dumps(state), encoding="utf-8")
    half.replace(path)
