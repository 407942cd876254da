"""A dump as blocks of whole lines: a file, a compressed one, or standard input; never all of it at once."""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fuzzvm.dump.errors import DumpError

BLOCK_SIZE: Final = 1 << 18
"""Bytes read at once, and the length from which a line is no line of a dump."""

TOO_LONG = b"(too long)\n"
"""What stands in place of such a line."""

STDIN = "-"


class Block(NamedTuple):
    """Whole lines, each with its end. `terminated` is false where the last one had none: the end of the file."""

    data: bytes
    terminated: bool


def blocks(path: str) -> Iterator[Block]:
    """Yield the blocks of a file, `-` for standard input; gzip and xz are known by their first bytes.

    Raises DumpError if it cannot be read.
    """
    name = display_name(path)
    lines = 0
    try:
        with _opened(path) as raw, _unpacked(raw) as stream:
            for block in _whole_lines(stream):
                yield block
                lines += block.data.count(b"\n")
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DumpError(name, lines + 1, f"the compressed file is broken here or soon after: {error}") from error
    except OSError as error:
        raise DumpError(name, 0, error.strerror or str(error)) from error


def display_name(path: str) -> str:
    """Return how messages call a file."""
    return "<stdin>" if path == STDIN else path


def _opened(path: str) -> io.BufferedReader:
    if path == STDIN:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    return Path(path).open("rb")


def _unpacked(raw: io.BufferedReader) -> io.BufferedIOBase:
    magic = raw.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(raw)
    return raw


def _whole_lines(stream: io.BufferedIOBase) -> Iterator[Block]:
    rest = b""
    in_long_line = False
    while data := stream.read(BLOCK_SIZE):
        if in_long_line:
            end = data.find(b"\n") + 1
            if not end:
                continue
            in_long_line = False
            data = TOO_LONG + data[end:]
        data = rest + data
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield Block(data[:end], True)
        if len(rest) >= BLOCK_SIZE:
            in_long_line, rest = True, b""
    if in_long_line:
        yield Block(TOO_LONG, False)
    elif rest:
        yield Block(rest + b"\n", False)
