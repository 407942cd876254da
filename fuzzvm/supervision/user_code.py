"""Which code is the user's, and the place in it that an error or a stack points to.

Code is fuzzvm's own, a library's (the standard library and what is installed beside fuzzvm), or the user's: everything
else, and each installed file that `register` was called for.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType, FrameType

# pathlib takes longer to load than all that the supervisor needs
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep  # noqa: PTH100, PTH120
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_MAX_MESSAGE = 500
_MAX_VALUE = 80
"""Characters of an exception's message, and of a value, that an error repeats."""

_registered: set[str] = set()
_users: dict[str, bool] = {}


def register(filename: str) -> None:
    """Take the code of a file for the user's, wherever it is installed."""
    _registered.add(filename)
    _users.clear()


def registered() -> tuple[str, ...]:
    """Return the files that `register` was called for."""
    return tuple(sorted(_registered))


def is_own(filename: str) -> bool:
    """Return whether a file is one of fuzzvm's own modules."""
    return filename.startswith(_PACKAGE)


def is_users(filename: str) -> bool:
    """Return whether a file holds code of the user."""
    known = _users.get(filename)
    if known is None:
        known = _users[filename] = filename in _registered or not (
            # of the standard library that is frozen, and of text that was compiled as the program ran
            filename.startswith(("<", _PACKAGE, _LIBRARY)) or any(part in filename for part in _INSTALLED)
        )
    return known


def frames_within(frame: FrameType | None, base: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that called it, innermost first, up to `base`, which is left out."""
    while frame is not None and frame is not base:
        yield frame
        frame = frame.f_back


def _traced(error: BaseException) -> list[tuple[FrameType, int, int]]:
    """Return the frames that an exception came through, innermost last, each with its line and instruction."""
    found = []
    traceback = error.__traceback__
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lineno, traceback.tb_lasti))
        traceback = traceback.tb_next
    return found


def place_in(error: BaseException) -> tuple[str, int, str] | None:
    """Return file, line and function of the innermost code of the user that an exception came through, or None.

    Or that its cause came through: Python raises something else in the place of what a generator may not raise.
    """
    found = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line, _ in _traced(error)
        if is_users(frame.f_code.co_filename)
    ]
    if found:
        return found[-1]
    cause = error.__cause__
    return None if cause is None or cause is error else place_in(cause)


def place_in_dump(dump: str, files: Iterable[str] = ()) -> str:
    """Return `file:line: function` of the user's code that a stack of `faulthandler` stands in, '' if in none.

    Code of libraries counts for who called it. `files` are those that are registered in the process of the stack.
    """
    # imported here, as below: the supervisor needs none of it as long as all is well
    import re

    known = frozenset(files)
    # threads stand in the order of their age, the youngest first; without a thread's line there is but one stack
    main = dump.rpartition("hread 0x")[2]
    # what runs below the outermost line of fuzzvm is whoever started it
    line = r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$'
    lines = [*re.finditer(line, main, re.MULTILINE)]
    outermost = max((index for index, line in enumerate(lines) if is_own(line["file"])), default=-1)
    for one in lines[:outermost]:
        if one["file"] in known or is_users(one["file"]):
            return f"{one['file']}:{one['line']}: {one['function']}"
        if is_own(one["file"]):
            return ""
    return ""


def raised_by_user(error: BaseException) -> bool:
    """Return whether it was code of the user that raised an exception, and not what that has called."""
    frames = _traced(error)
    return bool(frames) and is_users(frames[-1][0].f_code.co_filename)


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception stands for Ctrl-C, and is not one that user code has raised itself."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    if not raised_by_user(error):
        return True
    import opcode

    frame, _, instruction = _traced(error)[-1]
    # the handler of the signal raises it at any instruction, user code by one of these
    raising = opcode.opmap["RAISE_VARARGS"], opcode.opmap["RERAISE"]
    return frame.f_code.co_code[instruction] not in raising


def is_generator(code: CodeType) -> bool:
    """Return whether code is that of a generator."""
    return bool(code.co_flags & 0x20)


def said_by(error: BaseException) -> str:
    """Return the class and the message of an exception in one printable line, whatever its `__str__` does."""
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:  # noqa: BLE001 - the exception is the user's, and so is the code that tells of it
        message = "(it cannot be printed)"
    kind = type(error).__name__
    return _line(f"{kind}: {message}" if message else kind, _MAX_MESSAGE)


def shown(value: object) -> str:
    """Return a value of the user's in one printable line, whatever its `__repr__` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - as above
        text = f"a {type(value).__name__}"
    return _line(text, _MAX_VALUE)


def _line(text: str, most: int) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[:most]}..."
    return line if line.isprintable() else repr(line)[1:-1]
