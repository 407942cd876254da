"""What a guest is booted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.realkernel import build, guest
from fuzzvm.realkernel.guest import Guest
from tests.realkernel import fake_qemu

MB = 1 << 20


class Booted:
    """Takes QEMU's place, and keeps what it was given."""

    def __init__(self, *given: object, **named: object) -> None:
        self.named = named


@pytest.mark.parametrize(
    ("reserved", "memory", "append"),
    [
        (0, "1G", "no5lvl"),
        (2 * MB, "2G", "no5lvl reserve_mem=2097152:1G:fuzzvm"),
    ],
)
def test_what_is_set_aside_is_at_one_gigabyte(
    reserved: int, memory: str, append: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sets it aside as high as it can: no more than one multiple of a gigabyte is to have room for it."""
    monkeypatch.setattr(guest, "Qemu", Booted)
    booted = Guest(build.load(fake_qemu.install_kernel(tmp_path)), [], 2, reserved=reserved).qemu
    assert isinstance(booted, Booted)
    assert (booted.named["memory"], booted.named["append"]) == (memory, append)


def test_five_levels_are_what_the_processor_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "Qemu", Booted)
    kernel = build.load(fake_qemu.install_kernel(tmp_path))
    booted = Guest(replace(kernel, levels=5), [], 2).qemu
    assert isinstance(booted, Booted) and booted.named["append"] == ""


def test_calls_that_a_kernel_has_not_are_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "Qemu", Booted)
    folder = fake_qemu.install_kernel(tmp_path)
    assert "set_memory" not in Guest(build.load(folder), [], 2)._insmod()
    with (folder / "System.map").open("a") as symbols:
        symbols.write("ffffffff81009000 T set_memory_rox\n")
    assert Guest(build.load(folder), [], 2)._insmod().endswith(" set_memory_rox_at=0xffffffff81009000")
