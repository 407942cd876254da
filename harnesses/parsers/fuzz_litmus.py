"""Fuzzes the reader of litmus tests: a text gives a test that is ready to be explored, or a LitmusError with its line.

Tests of two short threads without a branch are explored too. Longer ones are not: exploring takes time that grows
exponentially with a test, as with herd7, and whoever names the file on a command line has asked for it. How to run it:
frame.py.
"""

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.litmus"):
    from fuzzvm.litmus import LitmusError, run
    from fuzzvm.litmus.explore import Explorer
    from fuzzvm.litmus.herd_output import format_result
    from fuzzvm.litmus.parser import parse
    from fuzzvm.litmus.program import Test

MAX_THREADS = 2
MAX_INSTRUCTIONS = 3


def is_short(test: Test) -> bool:
    """Return whether a test is explored in no time."""
    threads = [*test.threads, *test.handlers.values()]
    branches = any(ins.mnemonic[0] == "B" or ins.mnemonic in BRANCHES for thread in threads for ins in thread.code)
    return (
        len(threads) <= MAX_THREADS and all(len(thread.code) <= MAX_INSTRUCTIONS for thread in threads) and not branches
    )


BRANCHES = frozenset({"CBZ", "CBNZ", "RET", "ERET"})


def one_input(data: bytes) -> None:
    """Read bytes as a litmus test."""
    text = data.decode("utf-8", errors="replace")
    try:
        test = parse(text)
        Explorer(test)
        if is_short(test):
            format_result(run(text, "input"), 0.0)
    except LitmusError as error:
        assert error.line >= 1
        assert error.message.isprintable(), f"more than a line: {error.message!r}"


if __name__ == "__main__":
    fuzz("fuzz_litmus", one_input)
