"""TOML that nobody vouches for: every text ends in data or in one error, in time that goes with its length."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.scenario.toml_text import MAX_KEY_PARTS, TomlTextError, loads
from tests.clock import no_hang

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1 << 16

HOSTILE = {
    "dotted key": "a." * (SIZE // 2 - 2) + "a=1",
    "dotted header": "[" + "a." * (SIZE // 2 - 2) + "a]",
    "dotted key in an inline table": "x={" + "a." * (SIZE // 2 - 4) + "a=1}",
    "dotted key of strings": '"\\"".' * (SIZE // 5 - 1) + "a=1",
    "integer of many digits": "a=" + "9" * SIZE,
    "integer of 64 KB": "a=0x" + "f" * SIZE,
    "nested lists": "a=" + "[" * (SIZE // 2) + "]" * (SIZE // 2),
    "lists nested a little": "a=" + "[" * 50 + "]" * 50,
    "nested inline tables": "a=" + "{b=" * (SIZE // 4),
    "a string that does not end": 'a="' + '\\"' * (SIZE // 2),
    "quotes": "'" * SIZE,
    "a word": "a" * SIZE,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with no_hang(), pytest.raises(TomlTextError) as caught:
        loads(HOSTILE[name])
    assert str(caught.value).isprintable()


def test_the_line_is_named() -> None:
    with pytest.raises(TomlTextError) as caught:
        loads("a = 1\n\n" + "b." * MAX_KEY_PARTS + "b = 1\n")
    assert caught.value.line == 3


def test_keys_up_to_the_limit_and_dots_in_strings() -> None:
    dots = ".".join("abcdefghijklmnop")
    text = ".".join("abcdefgh"[:MAX_KEY_PARTS]) + f' = "{dots}"\n'
    with pytest.raises(TomlTextError, match="nested too deeply"):
        loads(text)
    assert loads(f'a.b = "{dots}"\nc = """\n{dots}\n"""\n') == {"a": {"b": dots}, "c": f"{dots}\n"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("fuzzvm/scenario/builtin/*.toml")), ids=lambda path: path.stem)
def test_reads_what_tomllib_reads(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert loads(text) == tomllib.loads(text)


@given(st.text(alphabet="ab.=[]{}\"'\\\n #1x,_", max_size=60))
def test_no_text_gives_anything_but_data_or_the_error(text: str) -> None:
    try:
        data = loads(text)
    except TomlTextError:
        return
    assert data == tomllib.loads(text)
