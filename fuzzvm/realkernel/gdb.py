"""A client of QEMU's gdb stub: the few packets of GDB's remote serial protocol that driving a schedule takes.

Packets as in "GDB Remote Serial Protocol" of GDB's manual: threads are vCPUs, numbered from 1, and all stop when one
does. `Qqemu.PhyMemMode` is QEMU's own. Numbers are little-endian, as on both architectures.
"""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.realkernel.errors import RealKernelError

ANSWER_SECONDS = 20.0
"""How long the stub may take to answer what does not run the guest."""

_READ_BYTES = 1024
"""What is read by one packet, which QEMU limits (MAX_PACKET_LENGTH)."""

_QUIET_SECONDS = 0.3
"""How long the stub must say nothing after it was connected to."""


class Watch(enum.Enum):
    """What a watchpoint looks for, by the number of its packet."""

    WRITE = 2
    READ = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the guest stands: `cpu` from 0, and the watchpoint it hit with what was done there, if one was hit.

    Whether QEMU stops before or after the access depends on the architecture. `signal` is 2 after `interrupt`, else 5.
    """

    cpu: int
    signal: int
    watch: Watch | None = None
    address: int = 0


class GdbError(RealKernelError):
    """The stub hung up, did not answer, or refused."""


def checksum(data: bytes) -> bytes:
    """Return the two digits that end a packet."""
    return b"%02x" % (sum(data) & 0xFF)


class Gdb:
    """A connection. Connecting stops the guest. Addresses are virtual unless a method says otherwise."""

    def __init__(self, path: Path, seconds: float = ANSWER_SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = b""
        self._answer_seconds = seconds
        self._thread = -1
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(str(path))
            self._begin()
        except OSError as error:
            self._socket.close()
            raise GdbError(f"the gdb stub cannot be reached: {error}") from error
        except GdbError:
            self._socket.close()
            raise

    def _begin(self) -> None:
        # the stop that connecting makes is reported too, at a time of its own
        self._ask(b"?", stops=True)
        while self._receive(_QUIET_SECONDS) is not None:
            pass
        # QEMU answers `p` and `P` only once its register descriptions have been asked for
        self._ask(b"qXfer:features:read:target.xml:0,40")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    # what stands still

    def registers(self, cpu: int, number: int) -> int:
        """Return a register of a CPU, by GDB's number for it."""
        self._select(cpu)
        return int.from_bytes(_bytes(self._ask(b"p%x" % number)), "little")

    def set_register(self, cpu: int, number: int, value: int) -> None:
        """Set a register of eight bytes."""
        self._select(cpu)
        self._ok(b"P%x=%s" % (number, (value & (1 << 64) - 1).to_bytes(8, "little").hex().encode()))

    def memory(self, cpu: int, address: int, length: int) -> bytes:
        """Return memory as a CPU sees it. Raises GdbError where nothing is mapped."""
        self._select(cpu)
        end = address + length
        parts = range(address, end, _READ_BYTES)
        return b"".join(_bytes(self._ask(b"m%x,%x" % (at, min(_READ_BYTES, end - at)))) for at in parts)

    def set_memory(self, cpu: int, address: int, data: bytes) -> None:
        """Write memory as a CPU sees it, a few bytes. Raises GdbError where nothing is mapped."""
        self._select(cpu)
        self._ok(b"M%x,%x:%s" % (address, len(data), data.hex().encode()))

    def physical(self, address: int) -> int:
        """Return eight bytes of physical memory as a number."""
        self._ok(b"Qqemu.PhyMemMode:1")
        try:
            return int.from_bytes(_bytes(self._ask(b"m%x,8" % address)), "little")
        finally:
            self._ok(b"Qqemu.PhyMemMode:0")

    def set_breakpoint(self, address: int) -> None:
        """Stop any CPU before it executes the instruction there."""
        self._ok(b"Z1,%x,1" % address)

    def clear_breakpoint(self, address: int) -> None:
        """Take a breakpoint away."""
        self._ok(b"z1,%x,1" % address)

    def set_watch(self, address: int, kind: Watch) -> None:
        """Stop any CPU that reads, or writes, the eight bytes there."""
        self._ok(b"Z%d,%x,8" % (kind.value, address))

    def clear_watch(self, address: int, kind: Watch) -> None:
        """Take a watchpoint away."""
        self._ok(b"z%d,%x,8" % (kind.value, address))

    # what runs

    def resume(self, cpus: Iterable[int] | None = None) -> None:
        """Let these CPUs run and no others, or all of them."""
        actions = b";c" if cpus is None else b"".join(b";c:%x" % (cpu + 1) for cpu in cpus)
        self._send(b"vCont" + actions)

    def step(self, cpu: int) -> None:
        """Let one CPU execute one instruction, and no other any; no interrupt is taken."""
        self._send(b"vCont;s:%x" % (cpu + 1))
        if self.wait(self._answer_seconds) is None:
            raise GdbError("the gdb stub does not answer a single step")

    def wait(self, seconds: float) -> Stop | None:
        """Return why the guest has stopped, None where it still runs after so long."""
        packet = self._receive(seconds)
        return None if packet is None else stop_of(packet)

    def interrupt(self) -> Stop:
        """Stop the guest and return why it stands: it may have been about to stop anyway."""
        self._write(b"\x03")
        stop = self.wait(self._answer_seconds)
        if stop is None:
            raise GdbError("the guest does not stop")
        return stop

    # packets

    def _select(self, cpu: int) -> None:
        if cpu != self._thread:
            self._ok(b"Hg%x" % (cpu + 1))
            self._thread = cpu

    def _ok(self, data: bytes) -> None:
        answer = self._ask(data)
        if answer != b"OK":
            raise GdbError(f"the gdb stub answers {answer.decode(errors='replace')!r} to {data.decode()}")

    def _ask(self, data: bytes, *, stops: bool = False) -> bytes:
        """Send a packet and return the answer; that may be a stop reply only where one was asked for."""
        self._send(data)
        answer = self._receive(self._answer_seconds)
        while answer is not None and answer.startswith((b"T", b"S")) and not stops:
            answer = self._receive(self._answer_seconds)
        if answer is None:
            raise GdbError(f"the gdb stub does not answer {data.decode()}")
        if answer.startswith(b"E"):
            raise GdbError(f"the gdb stub refuses {data.decode()} ({answer.decode()})")
        return answer

    def _send(self, data: bytes) -> None:
        self._write(b"$" + data + b"#" + checksum(data))

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._answer_seconds)
            self._socket.sendall(data)
        except OSError as error:
            raise GdbError(f"the gdb stub has gone: {error}") from error

    def _receive(self, seconds: float) -> bytes | None:
        """Return the next packet's content, None after that time."""
        deadline = time.monotonic() + seconds
        while True:
            start, end = self._buffer.find(b"$"), self._buffer.find(b"#")
            if 0 <= start < end and len(self._buffer) >= end + 3:
                data, given = self._buffer[start + 1 : end], self._buffer[end + 1 : end + 3]
                self._buffer = self._buffer[end + 3 :]
                if given != checksum(data):
                    raise GdbError("a packet from the gdb stub is damaged")
                # QEMU has no QStartNoAckMode; its own acknowledgements are the bytes between packets
                self._write(b"+")
                return data
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError as error:
                raise GdbError(f"the gdb stub has gone: {error}") from error
            if not more:
                raise GdbError("the gdb stub has hung up: QEMU has ended")
            self._buffer += more


def _bytes(answer: bytes) -> bytes:
    if not answer:
        raise GdbError("the gdb stub does not know a packet that is needed")
    try:
        return bytes.fromhex(answer.decode("ascii"))
    except ValueError as error:
        raise GdbError(f"the gdb stub answers {answer[:40]!r} where it should have sent bytes") from error


def stop_of(packet: bytes) -> Stop:
    """Return what a stop reply says: T05thread:02;rwatch:ffff…; Raises GdbError for any other packet."""
    text = packet.decode(errors="replace")
    if text[:1] not in ("T", "S"):
        raise GdbError(f"the guest has ended ({text})" if text[:1] in ("W", "X") else f"no stop reply: {text!r}")
    cpu, watch, address = 0, None, 0
    for pair in filter(None, text[3:].split(";")):
        key, _, value = pair.partition(":")
        if key == "thread":
            cpu = int(value, 16) - 1
        elif key in ("watch", "rwatch"):
            watch, address = (Watch.WRITE if key == "watch" else Watch.READ), int(value, 16)
    return Stop(cpu, int(text[1:3], 16), watch, address)
