"""Fuzzes the reader of litmus tests: a text gives a test that is ready to be explored, or a LitmusError with its line.

What can be read is explored, too, within a bound on states and one on time: exploring takes time that grows
exponentially with a test, as with herd7. How to run it: frame.py.
"""

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.litmus"):
    from fuzzvm.litmus import LitmusError, run
    from fuzzvm.litmus.explore import Explorer
    from fuzzvm.litmus.herd_output import format_result
    from fuzzvm.litmus.parser import parse

MAX_STATES = 50
MAX_SECONDS = 0.1
SPEEDS = ("false", "true", "fast")


def one_input(data: bytes) -> None:
    """Read bytes as a litmus test, and explore it."""
    text = data.decode("utf-8", errors="replace")
    try:
        Explorer(parse(text))
        speed = SPEEDS[len(data) % len(SPEEDS)]
        result = run(text, "input", speed, max_states=MAX_STATES, max_seconds=MAX_SECONDS)
        assert result.complete or result.observation != "Always"
        format_result(result, 0.0)
    except LitmusError as error:
        assert error.line >= 1
        assert error.message.isprintable(), f"more than a line: {error.message!r}"


if __name__ == "__main__":
    fuzz("fuzz_litmus", one_input)
