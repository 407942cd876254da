"""System.map read both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.symbols import Symbols

MAP = """ffffffff81000000 T _text
ffffffff81000100 T down_read
ffffffff81000100 T down_read_alias
ffffffff81000200 t helper.isra.0
ffffffff81000300 D init_mm
"""


def test_addresses_and_names() -> None:
    symbols = Symbols(MAP)
    assert symbols.address("nonesuch", "down_read") == 0xFFFFFFFF81000100
    assert symbols.described(0xFFFFFFFF81000108) == "down_read+0x8"
    assert symbols.function(0xFFFFFFFF81000204) == "helper"
    assert symbols.name(0xFFFFFFFF81000370) == ("init_mm", 0x70)
    assert "init_mm" in symbols and "nonesuch" not in symbols


def test_what_has_no_name() -> None:
    symbols = Symbols(MAP)
    assert symbols.name(0x1000) is None
    assert symbols.described(0xFFFFFFFFA0000001) == "0xffffffffa0000001"
    with pytest.raises(RealKernelError, match="nonesuch or other"):
        symbols.address("nonesuch", "other")


def test_no_map(tmp_path: Path) -> None:
    (tmp_path / "System.map").write_text("what is this\n")
    for path in (tmp_path / "System.map", tmp_path / "none"):
        with pytest.raises(RealKernelError, match=str(path)):
            Symbols.read(path)
