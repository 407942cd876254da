"""What the lines before the initial state ask for: `CacheType=IDC`, `Variant=ifetch`.

herd7 knows a few of them and takes any other for a comment (`Com=`, `Orig=`, `Cycle=`). Those that change which
executions are allowed are obeyed or refused here; keys and values are case-insensitive, as in herd7.
"""

from __future__ import annotations

from collections.abc import Iterable

from fuzzvm.litmus.program import LitmusError
from fuzzvm.machine.memory.arm64.views import CacheType

_OBEYED_VARIANTS = frozenset({"ifetch", "self", "fatal", "precise"})
"""Instructions are always fetched from memory, and a fault always goes to the handler or ends its thread."""

_REFUSED = {
    "tthm": "updates of page-table entries by hardware",
    "memorytype": "memory attributes",
    "mt": "memory attributes",
}


def cache_type(headers: Iterable[tuple[str, str, int]]) -> CacheType:
    """Return what a test's headers, (key, value, line) of each, say of instruction caches.

    Raises LitmusError for a header that asks for what is not modelled, at its line.
    """
    caches = CacheType.DIC0_IDC0
    for key, value, line in headers:
        key = key.lower()
        if key == "variant":
            for variant in value.replace(",", " ").split():
                if variant.lower() not in _OBEYED_VARIANTS:
                    raise LitmusError(f"Variant={variant} is not supported", line)
        elif key == "cachetype":
            caches = _cache_type(value, line)
        elif key in _REFUSED:
            raise LitmusError(f"{key.upper()}={value}: {_REFUSED[key]} are not supported", line)
    return caches


def _cache_type(value: str, line: int) -> CacheType:
    words = {word.upper() for word in value.split()}
    for word in words - {"DIC", "IDC"}:
        raise LitmusError(f"CacheType={word} is not supported; DIC and IDC are", line)
    if "DIC" in words:
        return CacheType.DIC1_IDC1
    return CacheType.DIC0_IDC1 if words else CacheType.DIC0_IDC0
