"""The page on operations lists what there is to yield, and the page on own mitigations functions that there are."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re

import pytest

from fuzzvm.kernel import pgtable
from fuzzvm.machine import machine, ops
from tests.docs.test_pages import DOCS

TEXT = (DOCS / "operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [ops.Order, ops.Barrier, ops.CacheOperation])
def test_every_member_has_a_row(kind: type[ops.Order | ops.Barrier | ops.CacheOperation]) -> None:
    _, _, after = TEXT.partition(f"\n## {kind.__name__}\n")
    rows = set(re.findall(r"^\| `(\w+)` \|", after.partition("\n## ")[0], re.MULTILINE))
    assert rows - {kind.__name__} == {member.name for member in kind}


def test_every_operation_has_a_row_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\(([^`]*)\)` \|", TEXT.partition("\n## Order\n")[0], re.MULTILINE))
    assert rows.keys() == {kind.__name__ for kind in machine.EXECUTE}
    for kind in machine.EXECUTE:
        fields = [field.partition("=")[0] for field in rows[kind.__name__].split(", ") if field]
        # what repr leaves out is for programs that are no generators
        assert fields == [field.name for field in dataclasses.fields(kind) if field.repr]


def test_the_functions_on_entries_are_there() -> None:
    named = set(re.findall(r"`((?:pxd|mk)_\w+)\(", TEXT))
    assert named and all(hasattr(pgtable, name) for name in named)
    constants = set(re.findall(r"\b(?:PROT|PTE)_\w+", TEXT))
    assert constants == {name for name in vars(pgtable) if re.fullmatch(r"(PROT|PTE)_\w+", name)}


def test_the_functions_that_a_hook_may_call_are_there() -> None:
    text = (DOCS / "own-mitigation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(fuzzvm\.kernel\.[\w.]+)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 4
    for module, functions in rows:
        named = re.findall(r"\b(\w+)\(k", functions)
        assert named
        for name in named:
            assert inspect.isgeneratorfunction(getattr(importlib.import_module(module), name)), f"{module}.{name}"
