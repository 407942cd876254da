"""Fuzzes the reader of corpus files: bytes give a test case or a CorpusError of one line.

What is read is written and read again, the same, under a name that leads nowhere else. How to run it: frame.py.
"""

from pathlib import PurePosixPath

from frame import fuzz, instrumented

with instrumented(__name__, "tomllib", "fuzzvm.corpus", "fuzzvm.scenario", "fuzzvm.machine.schedule"):
    from fuzzvm.corpus.errors import CorpusError
    from fuzzvm.corpus.format import from_bytes, parse
    from fuzzvm.corpus.store import to_text

LONGEST_NAME = 200
"""A file system takes 255 bytes, and the temporary name of a file that is being written is no longer than the name."""


def one_input(data: bytes) -> None:
    """Read bytes as a corpus file."""
    try:
        case = from_bytes(data)
    except CorpusError as error:
        assert str(error).isprintable(), f"more than a line: {error!r}"
        return
    again = parse(to_text(case))
    assert again == case and again.origin == case.origin
    name = case.file_name()
    assert name == PurePosixPath(name).name and name.isascii() and len(name) <= LONGEST_NAME, name
    assert name.endswith(".toml") and again.file_name() == name


if __name__ == "__main__":
    fuzz("fuzz_corpus_file", one_input)
