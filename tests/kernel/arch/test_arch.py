"""fuzzvm.kernel.arch: how architectures are found."""

from __future__ import annotations

import pytest

from fuzzvm.kernel import arch as architectures


def test_every_architecture_is_found_by_its_name() -> None:
    assert architectures.names() == sorted(architectures.names())
    assert {"arm64", "x86_64"} <= set(architectures.names())
    for name in architectures.names():
        arch = architectures.get(name)
        assert arch.name == name
        assert arch.levels
        assert arch.page_shifts
        assert arch.vmalloc_start % (1 << 40) == 0
    with pytest.raises(KeyError):
        architectures.get("sparc")
