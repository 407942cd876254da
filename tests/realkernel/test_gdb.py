"""The client of the gdb stub, against one that is made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzzvm.realkernel.gdb import Gdb, GdbError, Stop, Watch, checksum, stop_of
from tests.clock import PATIENCE
from tests.realkernel.fake_stub import FakeStub


class Guest:
    """What the stub answers: registers and memory as given, everything else is fine."""

    def __init__(self) -> None:
        self.registers = {b"p10": (0xFFFF_FFFF_8100_0000).to_bytes(8, "little").hex().encode()}
        self.memory = {b"m1000,8": b"8877665544332211"}

    def __call__(self, packet: bytes) -> bytes | None:
        if packet == b"?":
            return b"T05thread:01;"
        if packet.startswith(b"q"):
            return b"OK" if b"Phy" in packet else b"l<target/>"
        if packet.startswith(b"p"):
            return self.registers.get(packet, b"")
        if packet.startswith(b"m"):
            return self.memory.get(packet, b"E14")
        if packet.startswith(b"vCont;s"):
            return b"T05thread:02;"
        if packet == b"interrupt":
            return b"T02thread:01;"
        return None if packet.startswith(b"vCont") else b"OK"


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[FakeStub]:
    fake = FakeStub(tmp_path / "gdb", Guest())
    yield fake
    fake.close()


@pytest.fixture
def gdb(stub: FakeStub, tmp_path: Path) -> Iterator[Gdb]:
    client = Gdb(tmp_path / "gdb", seconds=PATIENCE)
    stub.asked.clear()
    yield client
    client.close()


def test_registers_of_a_cpu(gdb: Gdb, stub: FakeStub) -> None:
    assert gdb.registers(1, 16) == 0xFFFF_FFFF_8100_0000
    gdb.set_register(1, 16, -2)
    assert stub.asked == [b"Hg2", b"p10", b"P10=feffffffffffffff"]


def test_memory_virtual_and_physical(gdb: Gdb, stub: FakeStub) -> None:
    assert gdb.memory(0, 0x1000, 8) == bytes.fromhex("8877665544332211")
    gdb.set_memory(1, 0x2000, b"\x03")
    assert stub.asked[-2:] == [b"Hg2", b"M2000,1:03"]
    stub.asked.clear()
    assert gdb.physical(0x1000) == 0x1122334455667788
    assert stub.asked == [b"Qqemu.PhyMemMode:1", b"m1000,8", b"Qqemu.PhyMemMode:0"]


def test_physical_mode_ends_though_the_read_fails(gdb: Gdb, stub: FakeStub) -> None:
    with pytest.raises(GdbError, match="E14"):
        gdb.physical(0x2000)
    assert stub.asked[-1] == b"Qqemu.PhyMemMode:0"


def test_points_to_stop_at(gdb: Gdb, stub: FakeStub) -> None:
    gdb.set_breakpoint(0x40)
    gdb.clear_breakpoint(0x40)
    gdb.set_watch(0x80, Watch.WRITE)
    gdb.set_watch(0x80, Watch.READ)
    gdb.clear_watch(0x80, Watch.READ)
    assert stub.asked == [b"Z1,40,1", b"z1,40,1", b"Z2,80,8", b"Z3,80,8", b"z3,80,8"]


def test_running_waiting_and_interrupting(gdb: Gdb, stub: FakeStub) -> None:
    gdb.resume([1])
    assert gdb.wait(0.05) is None
    stub.send(b"T05thread:02;rwatch:ffff888000c0c000;")
    assert gdb.wait(PATIENCE) == Stop(1, 5, Watch.READ, 0xFFFF_8880_00C0_C000)
    gdb.resume()
    assert gdb.interrupt() == Stop(0, 2)
    gdb.step(1)
    assert stub.asked == [b"vCont;c:2", b"vCont;c", b"interrupt", b"vCont;s:2"]


def test_a_stop_that_comes_late_is_no_answer(gdb: Gdb, stub: FakeStub) -> None:
    stub.send(b"T02thread:01;")
    assert gdb.registers(0, 16) == 0xFFFF_FFFF_8100_0000


def test_what_the_stub_does_not_know_is_an_error(gdb: Gdb) -> None:
    with pytest.raises(GdbError, match="does not know"):
        gdb.registers(0, 99)


def test_a_damaged_packet_is_an_error(gdb: Gdb, stub: FakeStub) -> None:
    stub.send(b"T05thread:01;", digits=b"00")
    with pytest.raises(GdbError, match="damaged"):
        gdb.wait(PATIENCE)


def test_qemu_ending_is_an_error(gdb: Gdb, stub: FakeStub) -> None:
    stub.hang_up()
    with pytest.raises(GdbError, match=r"hung up|gone"):
        gdb.wait(PATIENCE)


def test_no_stub(tmp_path: Path) -> None:
    with pytest.raises(GdbError, match="cannot be reached"):
        Gdb(tmp_path / "none")


def test_a_stub_that_says_nothing(tmp_path: Path) -> None:
    fake = FakeStub(tmp_path / "gdb", lambda packet: None)
    with pytest.raises(GdbError, match="does not answer"):
        Gdb(tmp_path / "gdb", seconds=0.1)
    fake.close()


@pytest.mark.parametrize("packet", [b"W00", b"OK", b""])
def test_no_stop_reply(packet: bytes) -> None:
    with pytest.raises(GdbError):
        stop_of(packet)


def test_checksum() -> None:
    assert checksum(b"OK") == b"9a"
