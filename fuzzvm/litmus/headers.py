"""What the lines before the initial state ask for: `CacheType=IDC`, `Variant=ifetch`.

herd7 knows a few of them and takes any other for a comment (`Com=`, `Orig=`, `Cycle=`). Those that change which
executions are allowed are obeyed or refused here; keys and values are case-insensitive, as in herd7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fuzzvm.litmus.program import Declaration, Entry, FaultPlace, LitmusError, Name, Place, Test, Translation, page_name
from fuzzvm.machine.memory.arm64.views import CacheType

_OBEYED_VARIANTS = frozenset({"ifetch", "self", "fatal", "precise", "vmsa", "kvm", "ets2", "ets3"})
"""Instructions are always fetched from memory, and a fault always goes to the handler or ends its thread."""
_ETS = {"ets2": 2, "ets3": 3}

_UPDATE = re.compile(r"(?:P(\d{1,4}):)?(HA|HD)", re.ASCII | re.IGNORECASE)
"""Whose hardware sets access flags (HA), or marks entries dirty as well (HD): that of one thread, or of all."""

_REFUSED = {
    "el0": "threads at EL0",
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


def translation_of(test: Test, headers: Iterable[tuple[str, str, int]]) -> Translation | None:
    """Return how a test's accesses are translated, None where nothing in it has to do with page tables."""
    asked = False
    ets = 0
    updates: dict[str, set[int]] = {"HA": set(), "HD": set()}
    for key, value, line in headers:
        if key.lower() == "variant":
            variants = set(value.lower().replace(",", " ").split())
            asked = asked or bool(variants & {"vmsa", "kvm"})
            ets = max(ets, *(_ETS.get(variant, 0) for variant in variants), 0)
        elif key.lower() == "tthm":
            asked = True
            for word in value.replace(",", " ").split():
                match = _UPDATE.fullmatch(word)
                if match is None:
                    raise LitmusError(f"TTHM={word} is not supported", line)
                threads = range(len(test.threads)) if match[1] is None else [int(match[1])]
                updates[match[2].upper()].update(threads)
    named = any(map(_is_of_tables, (*test.condition.places, *test.locations)))
    named = named or any(map(_tells_of_tables, test.declarations))
    code = (*test.threads, *test.handlers.values())
    flushes = any(instruction.mnemonic == "TLBI" for thread in code for instruction in thread.code)
    if not (asked or named or flushes):
        return None
    return Translation(ets, frozenset(updates["HA"] | updates["HD"]), frozenset(updates["HD"]))


def _is_of_tables(place: object) -> bool:
    if isinstance(place, FaultPlace):
        return bool(place.location)
    return isinstance(place, Place) and page_name(place.name) is not None


def _tells_of_tables(given: Declaration) -> bool:
    value = given.value
    named = isinstance(value, Name) and page_name(value.text) is not None
    return named or isinstance(value, Entry) or _is_of_tables(given.place)


def _cache_type(value: str, line: int) -> CacheType:
    words = {word.upper() for word in value.split()}
    for word in words - {"DIC", "IDC"}:
        raise LitmusError(f"CacheType={word} is not supported; DIC and IDC are", line)
    if "DIC" in words:
        return CacheType.DIC1_IDC1
    return CacheType.DIC0_IDC1 if words else CacheType.DIC0_IDC0
