"""What the fuzzers of the parsers share: how one is instrumented, where its seeds are, how it is started.

Each `fuzz_NAME.py` beside this file has a function `one_input` that takes bytes and must end within a second, whatever
they are, and raise nothing. `seeds/fuzz_NAME/` is what earlier runs kept, `fuzz_NAME.dict` the words of the format.

    python harnesses/parsers/fuzz_NAME.py [FOLDER] [-max_total_time=60] [other options of libFuzzer]

FOLDER keeps what covers new branches; without one, what is found is forgotten. An input that fails is written to the
current folder, and named on its command line it is tried again.

A fuzzer has no `from __future__` import: OSS-Fuzz puts lines of its own before it to measure coverage.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 1
MAX_BYTES = 1 << 16
MAX_MEMORY_MB = 2048


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
    """Fuzz until an input fails or libFuzzer's options say to end; never returns."""
    import atheris

    options = [f"-timeout={TIMEOUT_SECONDS}", f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MAX_MEMORY_MB}"]
    dictionary, seeds = HERE / f"{fuzzer}.dict", seeds_of(fuzzer)
    # in a bundle of OSS-Fuzz neither is there: it unpacks the seeds and names the dictionary itself
    if dictionary.is_file():
        options.append(f"-dict={dictionary}")
    given = sys.argv[1:]
    named = [argument for argument in given if not argument.startswith("-")]
    with tempfile.TemporaryDirectory() as forgotten:
        # the first folder is the one that libFuzzer writes to, and the seeds must not be that
        folders = [] if named else [forgotten]
        if seeds.is_dir() and not any(Path(name).is_file() for name in named) and "-merge=1" not in given:
            folders.append(str(seeds))
        atheris.Setup([sys.argv[0], *options, *given, *folders], one_input)
        atheris.Fuzz()
