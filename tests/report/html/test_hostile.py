"""Whatever a file can bring into a page stays text: in a real browser, with what breaks out of elements and attributes.

A corpus file brings its origin, the mitigation's name and the calls; a path its own characters; a user's mitigation the
names of its locks and functions, what it raises and what it says.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.cli.common import shell_path
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.ops import Load, Steps, Store
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.report.html.matrix_page import MatrixCell, matrix_page
from fuzzvm.report.html.story_page import story_page
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Output
from fuzzvm.scenario.system import System
from tests.report.html.browser import opened
from tests.support import Seeded

ATTACKS = [
    "</script><script>document.title='ran'</script>",
    "\"'><img src=x onerror=document.title='ran'>",
    "' onmouseover=document.title='ran' x='",
    "{{ 7 * 191 }}{% raw %}<b>bold</b>",
    "<!--<svg onload=document.title='ran'>",
    "javascript:document.title='ran'",
    "\u2028</title><base href=//evil.example>&lt;i&gt;",
]


def evil_scheme(attack: str) -> type[NoMitigation]:
    """Return a mitigation of which all that it can name is the attack."""

    class Evil(NoMitigation):
        name = attack
        summary = attack

        def attach(self, boot: Boot) -> None:
            self.word = boot.word(attack)
            self.lock = boot.lock(attack)

        def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
            yield Store(self.word, 7)
            yield Output(attack, attack)
            yield Load(self.word)
            raise ModelError("use-after-free-read", attack, address=self.word)

        def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
            yield Load(self.word)

    for hook in (Evil.before_free, Evil.before_walk):
        hook.__code__ = hook.__code__.replace(co_name=attack, co_qualname=attack)
    return Evil


def evil_case(attack: str, scheme: type[NoMitigation]) -> TestCase:
    scenario = replace(shipped.get("pmd-promotion"), name=attack, summary=attack)
    execution = execute(System(scenario, scheme, "sc").machine(), Seeded(1))
    assert execution.failure is not None and execution.failure.message == attack
    return TestCase(scenario, attack, "sc", execution.schedule, Expectation.of(execution), attack)


def unharmed(page: Any, tags: dict[str, int]) -> None:
    """Fail where a page has other elements than it has without an attack, or an attribute that is a handler."""
    assert page.title() != "ran"
    found = page.evaluate(
        """() => {
            const tags = {};
            for (const one of document.querySelectorAll("script, img, base, b, i, svg, iframe, title, link, style"))
                tags[one.tagName] = (tags[one.tagName] || 0) + 1;
            const handlers = [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes])
                .filter((one) => one.name.startsWith("on") || one.value.trim().toLowerCase().startsWith("javascript:"));
            return [tags, handlers.map((one) => one.name)];
        }"""
    )
    assert found == [tags, []]


STORY_TAGS = {"SCRIPT": 2, "svg": 5, "TITLE": 1, "LINK": 1, "STYLE": 1}
MATRIX_TAGS = {"TITLE": 1, "LINK": 1, "STYLE": 1}


@pytest.mark.parametrize("attack", ["harmless", "".join(ATTACKS), "".join(reversed(ATTACKS))])
def test_a_story_shows_it_as_text_everywhere(attack: str, tmp_path: Path) -> None:
    scheme = evil_scheme(attack)
    case = evil_case(attack, scheme)
    path = tmp_path / "story.html"
    path.write_text(story_page(case, scheme, f"fuzzvm replay {shell_path(Path(attack))}"), encoding="utf-8")
    with opened(path) as page:
        page.locator("details").evaluate("details => details.open = true")
        shown = page.evaluate("document.body.textContent")
        # origin, mitigation, message, function in the title, on the stacks and at steps, output, labels in memory
        assert shown.count(attack) >= 8, shown.count(attack)
        assert attack in page.locator("#memory").evaluate("memory => memory.textContent")
        for key in ("Home", "End", "g", "g"):
            page.keyboard.press(key)
        page.locator("#find").fill(attack)
        page.keyboard.press("Enter")
        unharmed(page, STORY_TAGS)


def test_a_matrix_shows_it_as_text_everywhere(tmp_path: Path) -> None:
    cells = [MatrixCell(a, a, a, a if n % 2 else "", a, 1, 0.0, n % 3 == 0, a) for n, a in enumerate(ATTACKS)]
    path = tmp_path / "matrix.html"
    path.write_text(matrix_page([replace(cell, story="") for cell in cells]), encoding="utf-8")
    with opened(path) as page:
        shown = page.evaluate("document.body.textContent")
        assert all(shown.count(attack) >= 3 for attack in ATTACKS)
        unharmed(page, MATRIX_TAGS)


def test_without_escaping_the_browser_would_run_it(tmp_path: Path) -> None:
    """The attack is one: the test above can fail."""
    path = tmp_path / "page.html"
    path.write_text(f"<title>x</title><p>{ATTACKS[0]}</p>")
    with opened(path) as page:
        assert page.title() == "ran"
        with pytest.raises(AssertionError):
            unharmed(page, {"TITLE": 1})


@pytest.mark.parametrize("name", ["a'; touch ran; '.toml", "$(touch ran)", "`touch ran`", "a b", "&touch ran"])
def test_a_path_is_one_word_of_a_command(name: str, tmp_path: Path) -> None:
    """What a page or a report tells its reader to paste runs nothing else."""
    done = subprocess.run(
        ["sh", "-c", f"printf %s {shell_path(Path(name))}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == name and list(tmp_path.iterdir()) == []
