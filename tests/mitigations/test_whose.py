"""Whose code a mitigation is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import fuzzvm
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.whose import is_users


def scheme_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> type[Mitigation]:
    module = ModuleType("schemes_in_a_file")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return type("Mine", (Mitigation,), {"name": "mine", "__module__": module.__name__})


def test_what_ships_is_not_the_users() -> None:
    assert not any(map(is_users, registry.shipped().values()))
    assert not is_users(registry.get("vmap-trylock+static-key"))


def test_what_lies_beside_the_package_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its name begins as the package's does."""
    package = Path(fuzzvm.__file__).parent
    assert not is_users(scheme_in(package / "mine.py", monkeypatch))
    assert is_users(scheme_in(package.with_name("fuzzvm_schemes.py"), monkeypatch))
