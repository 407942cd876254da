"""A gdb stub for tests: answers packets from a function, and keeps what it was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from fuzzvm.realkernel.gdb import checksum

Answer: TypeAlias = Callable[[bytes], bytes | None]


class FakeStub:
    """Listens at a path; `answer` returns a packet's content, None for no answer. A stop is sent with `send`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, content: bytes, *, digits: bytes | None = None) -> None:
        assert self._peer is not None
        self._peer.sendall(b"+$" + content + b"#" + (digits or checksum(content)))

    def hang_up(self) -> None:
        assert self._peer is not None
        self._peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            self._peer, _ = self._server.accept()
            buffer = b""
            while more := self._peer.recv(4096):
                buffer = self._take(buffer + more)
        except OSError:
            # the test has closed it
            return

    def _take(self, buffer: bytes) -> bytes:
        while buffer:
            if buffer[:1] == b"$":
                end = buffer.find(b"#")
                if end < 0 or len(buffer) < end + 3:
                    return buffer
                content, buffer = buffer[1:end], buffer[end + 3 :]
            else:
                content, buffer = (b"interrupt" if buffer[:1] == b"\x03" else b""), buffer[1:]
            if content:
                self.asked.append(content)
                answer = self._answer(content)
                if answer is not None:
                    self.send(answer)
        return buffer
