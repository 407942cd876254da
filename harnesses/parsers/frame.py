"""What the fuzzers of the parsers share: how one is instrumented, where its seeds are, how it is started.

Each `fuzz_NAME.py` beside this file has a function `one_input` that takes bytes and must end within a second, whatever
they are, and raise nothing. `seeds/fuzz_NAME/` is what earlier runs kept, `fuzz_NAME.dict` the words of the format.

    python harnesses/parsers/fuzz_NAME.py [FOLDER] [-max_total_time=60] [other options of libFuzzer]

FOLDER keeps what covers new branches; without one, what is found is forgotten. An input that fails is written to the
current folder, and named on its command line it is tried again.

A fuzzer has no `from __future__` import: OSS-Fuzz puts lines of its own before it to measure coverage.
"""

import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
STARTED_IN = Path.cwd()
TIMEOUT_SECONDS = 1
MAX_BYTES = 1 << 16
MAX_MEMORY_MB = 512


def instrumented(name: str, *packages: str) -> AbstractContextManager[Any]:
    """Return the context in which a fuzzer imports what it tests, by names of packages.

    `name` is the fuzzer's `__name__`: only a fuzzer that was started as a program is instrumented.
    """
    if name != "__main__":
        return nullcontext()
    import atheris

    context: AbstractContextManager[Any] = atheris.instrument_imports(include=list(packages))
    return context


def seeds_of(fuzzer: str) -> Path:
    """Return the folder of the inputs that are kept for a fuzzer."""
    return HERE / "seeds" / fuzzer


def fuzz(fuzzer: str, one_input: Callable[[bytes], None]) -> None:
    """Fuzz until an input fails or libFuzzer's options say to end; then exit with its status.

    libFuzzer ends a process without a word to Python, so it gets one of its own, and temporary files are this one's.
    """
    if getattr(sys, "frozen", False):
        # a bundle of OSS-Fuzz: its runner unpacks the seeds, names the dictionary, and throws the machine away
        _fuzz(one_input, sys.argv)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [_program(Path(scratch)), *_arguments(fuzzer, Path(scratch))]
        child = os.fork()
        if not child:
            tempfile.tempdir = scratch
            _fuzz(one_input, arguments)
        # Ctrl-C goes to both; the fuzzer ends by it and says what it has done
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status if status >= 0 else 128 - status)


def _fuzz(one_input: Callable[[bytes], None], arguments: list[str]) -> NoReturn:
    import atheris

    atheris.Setup(arguments, one_input)
    atheris.Fuzz()
    raise AssertionError("libFuzzer has returned")


def _arguments(fuzzer: str, scratch: Path) -> list[str]:
    """Return libFuzzer's options and folders; those given, later ones win, and what is missing."""
    options = [
        f"-timeout={TIMEOUT_SECONDS}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={MAX_MEMORY_MB}",
        f"-artifact_prefix={STARTED_IN}/",
    ]
    dictionary = HERE / f"{fuzzer}.dict"
    if dictionary.is_file():
        options.append(f"-dict={dictionary}")
    # a fuzzer may go to another folder before it begins
    given = [word if word.startswith("-") else str(STARTED_IN / word) for word in sys.argv[1:]]
    named = [Path(word) for word in given if not word.startswith("-")]
    folders = []
    if not named:
        # libFuzzer writes to the first folder, and the seeds must not be that
        forgotten = scratch / "forgotten"
        forgotten.mkdir()
        folders.append(str(forgotten))
    if seeds_of(fuzzer).is_dir() and "-merge=1" not in given and not any(path.is_file() for path in named):
        folders.append(str(seeds_of(fuzzer)))
    return [*options, *given, *folders]


def _program(scratch: Path) -> str:
    """Return what libFuzzer is to start anew for -merge=1 and -fork: a program, which a Python file is not."""
    program = scratch / "again"
    words = (sys.executable, str(STARTED_IN / sys.argv[0]))
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)
