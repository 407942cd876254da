"""A dump as blocks of whole lines: a file, a compressed one, or standard input; never all of it at once."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fuzzvm.dump.errors import DumpError
from fuzzvm.files.errors import FileError
from fuzzvm.files.kinds import kind
from fuzzvm.files.reading import opened

BLOCK_SIZE: Final = 1 << 18
"""Bytes read at once, and the length from which a line is no line of a dump."""

MAX_BYTES: Final = 1 << 31
"""Of a file, and of the text that it unpacks to: ten times the largest dump that throughput was measured with."""

XZ_MEMORY: Final = 128 << 20
"""Bytes that unpacking xz may take; a file says itself how many, and `xz -9` needs 65 MiB."""

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
            for block in _whole_lines(stream, name):
                yield block
                lines += block.data.count(b"\n")
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DumpError(name, lines + 1, f"the compressed file is broken here or soon after: {error}") from error
    except FileError as error:
        raise DumpError(name, 0, error.why) from error
    except OSError as error:
        raise DumpError(name, 0, error.strerror or str(error)) from error


def display_name(path: str) -> str:
    """Return how messages call a file."""
    return "<stdin>" if path == STDIN else path


def _opened(path: str) -> io.BufferedReader:
    if path == STDIN:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
        # a pipe is what standard input is for, and ends when its writer does
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor)):
            raise FileError(display_name(path), f"not read, as it is {kind(mode)}")
        return io.BufferedReader(io.FileIO(descriptor, closefd=False))
    return io.BufferedReader(opened(path, MAX_BYTES))


def _unpacked(raw: io.BufferedReader) -> io.BufferedIOBase:
    magic = raw.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_Xz(raw), BLOCK_SIZE)
    return raw


class _Xz(io.RawIOBase):
    """What an xz file unpacks to, with a bound on memory, which LZMAFile has none of."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._unpacker = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._raw.read(BLOCK_SIZE).lstrip(b"\0")
                if not rest:
                    return 0
                # several files packed one by one and joined are one file; zeros may stand between
                self._unpacker = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
                data = self._unpacker.decompress(rest, len(view))
            else:
                packed = self._raw.read(BLOCK_SIZE) if self._unpacker.needs_input else b""
                if self._unpacker.needs_input and not packed:
                    raise EOFError("it ends before its end marker")
                data = self._unpacker.decompress(packed, len(view))
            if data:
                view[: len(data)] = data
                return len(data)


def _whole_lines(stream: io.BufferedIOBase, name: str) -> Iterator[Block]:
    rest = b""
    in_long_line = False
    left = MAX_BYTES
    while data := stream.read(BLOCK_SIZE):
        left -= len(data)
        if left < 0:
            raise FileError(name, f"more than {MAX_BYTES} bytes of text")
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
