"""The C litmus test has the structure that tools/memory-model documents; herd7 itself is not run here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.export.lkmm import lkmm
from fuzzvm.export.question import Lock, Maintain, Ordering, question_of
from fuzzvm.machine.ops import Barrier

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
FAILING = [
    path
    for folder in ("regressions", "necessity")
    for path in sorted((CORPUS / folder).glob("*use-after-free*.toml"))
    if 'arch = "arm64"' in path.read_text(encoding="utf-8")
]
STATEMENT = re.compile(
    r"int \*?(?P<declared>r\d+)"
    r"|((?P<target>r\d+) = )?(READ_ONCE\(\*(?P<read>\w+)\)|smp_load_acquire\((?P<acquired>\w+)\)"
    r"|cmpxchg(_acquire|_release|_relaxed)?\((?P<cas>\w+), \w+, \w+\)"
    r"|xchg(_acquire|_relaxed)?\((?P<swapped>\w+), 1\))"
    r"|WRITE_ONCE\(\*(?P<written>\w+), \w+\)|smp_store_release\((?P<released>\w+), \w+\)"
    r"|smp_(mb|rmb|wmb)\(\)"
)
FUNCTION = re.compile(r"^P(\d+)\(([^)]*)\)\n\{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)


@pytest.mark.product
@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_structure(path: Path) -> None:
    case = read(path)
    question = question_of(case, mitigation_of(case))
    text = lkmm(question)
    assert re.match(r"C [A-Za-z0-9-]+\n", text)
    bare = re.sub(r"\(\*.*?\*\)\n", "", text)
    initial = re.search(r"^\{\n((\t\w+=\w+;\n)*)\}$", bare, re.MULTILINE)
    assert initial is not None
    functions = FUNCTION.findall(bare)
    assert [int(number) for number, _, _ in functions] == list(range(len(question.threads)))
    registers = set()
    for number, parameters, body in functions:
        known = {re.fullmatch(r"int \*{1,2}(\w+)", parameter)[1] for parameter in parameters.split(", ")}  # type: ignore[index]
        for line in body.splitlines():
            if not line:
                continue
            assert line.startswith("\t") and line.endswith(";")
            found = STATEMENT.fullmatch(line.strip()[:-1])
            assert found is not None, line
            if found["declared"]:
                known.add(found["declared"])
                registers.add(f"{number}:{found['declared']}")
            for group in ("target", "read", "acquired", "cas", "swapped", "written", "released"):
                assert found[group] is None or found[group] in known, line
    condition = re.search(r"^exists \((.*)\)$", bare, re.MULTILINE)
    assert condition is not None
    atoms = condition[1].split(" /\\ ")
    assert {atom.partition("=")[0] for atom in atoms} == registers
    # the rest is nothing but what was looked at
    rest = FUNCTION.sub("", bare.replace(initial[0], "").replace(condition[0], "")).split("\n", 1)[1]
    assert not rest.strip()


@pytest.mark.product
@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_nothing_that_orders_is_lost(path: Path) -> None:
    case = read(path)
    question = question_of(case, mitigation_of(case))
    text = lkmm(question)
    actions = [action for thread in question.threads for action in thread]
    full = sum(isinstance(a, Ordering) and a.kind in (Barrier.DMB_ISH, Barrier.DSB_ISH) for a in actions)
    assert text.count("smp_mb()") == full
    assert len(re.findall(r" xchg_(?:acquire|relaxed)\(", text)) == sum(isinstance(a, Lock) for a in actions)
    if any(isinstance(action, Maintain) for action in actions):
        assert "left out: fetch" in text


@pytest.mark.product
@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_what_is_dereferenced_is_an_address_whatever_is_read(path: Path) -> None:
    """herd7 ends with "Non-symbolic memory access" where a number may be dereferenced, whatever the condition is."""
    case = read(path)
    text = lkmm(question_of(case, mitigation_of(case)))
    places = set()
    for body in (body for _, _, body in FUNCTION.findall(text)):
        for register in re.findall(r"\*(r\d+)\)|smp_store_release\((r\d+), ", body):
            (found,) = filter(None, register)
            places |= set(re.findall(rf"\t{found} = \w+\(\*?(\w+)", body))
    assert places and not any(re.fullmatch(r"r\d+", place) for place in places)
    for place in places:
        given = re.findall(rf"\t{place}=(\w+);", text)
        given += re.findall(rf"(?:WRITE_ONCE|smp_store_release)\(\*?{place}, (\w+)\)", text)
        given += [value for pair in re.findall(rf"cmpxchg\w*\({place}, (\w+), (\w+)\)", text) for value in pair]
        assert re.search(rf"\t{place}=\w+;", text) and not any(value.isdigit() for value in given), (place, given)


def test_use_depends_on_the_entry() -> None:
    case = read(next(path for path in FAILING if path.name.startswith("none-")))
    text = lkmm(question_of(case, mitigation_of(case)))
    assert re.search(r"(r\d+) = READ_ONCE\(\*p\w+_\d+\);\n\tr\d+ = READ_ONCE\(\*\1\);", text)
    assert re.search(r"\tp\w+_\d+=freed;", text)
