"""Files and functions that a page names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.named import named, wrong_with
from tests.docs.test_pages import DOCS, ROOT

PAGES = [DOCS / "architecture.md", DOCS / "glossary.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_everything_that_a_page_names_is_there(page: Path) -> None:
    found = list(named(page.read_text(encoding="utf-8")))
    assert found
    assert [wrong for path, name in found if (wrong := wrong_with(path, name))] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see `fuzzvm/cli/none.py`", "there is no fuzzvm/cli/none.py"),
        ("see `fuzzvm/cli/start.py/`", "there is no fuzzvm/cli/start.py/"),
        ("see `fuzzvm/cli`", "there is no fuzzvm/cli"),
        ("see `fuzzvm/cli/start.py:nonesuch`", "fuzzvm/cli/start.py defines no nonesuch"),
        ("see `fuzzvm/machine/task.py:Task.nonesuch`", "fuzzvm/machine/task.py defines no Task.nonesuch"),
        ("```\npytest tests/nonesuch\n```", "there is no tests/nonesuch"),
        ("    pytest tests/nonesuch.py", "there is no tests/nonesuch.py"),
    ],
)
def test_what_is_not_there_is_found(text: str, wrong: str) -> None:
    assert [wrong_with(path, name) for path, name in named(text)] == [wrong]


def test_classes_functions_and_constants_are_found() -> None:
    text = "`fuzzvm/machine/task.py:Task.booted` `fuzzvm/verify/matrix.py:STRENGTH` `fuzzvm/cli/`"
    assert [wrong_with(path, name) for path, name in named(text)] == ["", "", ""]


def test_the_glossary_has_each_term_once_and_links_lead_there() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = [term for row in re.findall(r"^\| ([^|`]+) \|", text, re.MULTILINE) for term in row.split(", ")]
    terms = [term for term in terms if term not in ("term", "---", "name")]
    assert len(terms) > 60 and sorted(set(terms)) == sorted(terms)
    assert "\nglossary\n" in (DOCS / "index.md").read_text(encoding="utf-8")
