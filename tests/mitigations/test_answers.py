"""What a hook returns is of the type that is asked for, or an error with the hook's file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations.registry import MitigationError, get
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.support import Follow

FILE = """\
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_trylock, mmap_read_unlock

class Mine(Mitigation):
    name = "mine"

"""


def scheme(tmp_path: Path, hook: str) -> type[Mitigation]:
    path = tmp_path / "mine.py"
    path.write_text(FILE + hook)
    return get(f"{path}:Mine")


PROMOTION = """\
    def before_promotion(self, k, level):
        {before}

    def after_promotion(self, k, level):
        yield from ()
"""
ALLOWED = """\
    def huge_vmap_allowed(self):
        {before}
"""
TRYLOCK = "return mmap_read_trylock(k, k.init_mm)"
ANSWERS = [
    (PROMOTION, "yield from ()", "before_promotion of Mine returned None; it must return True or False"),
    (PROMOTION, "yield from ()\n        return 1", "before_promotion of Mine returned 1; it must return True or False"),
    (
        PROMOTION,
        "yield from ()\n        return 'yes'",
        "before_promotion of Mine returned 'yes'; it must return True or False",
    ),
    (ALLOWED, "pass", "huge_vmap_allowed of Mine returned None; it must return True or False"),
    (ALLOWED, "return 0", "huge_vmap_allowed of Mine returned 0; it must return True or False"),
]


@pytest.mark.parametrize(("text", "before", "message"), ANSWERS)
@pytest.mark.parametrize("scenario", ["pmd-promotion", "pud-promotion"])
@pytest.mark.parametrize("stacked", [False, True])
def test_an_answer_that_is_none(
    tmp_path: Path, text: str, before: str, message: str, scenario: str, stacked: bool
) -> None:
    mitigation = scheme(tmp_path, text.format(before=before))
    if stacked:
        mitigation = get(f"none+{tmp_path}/mine.py:Mine")
    expected = f"{tmp_path}/mine.py:7: {message}"
    with pytest.raises(ProgramError) as caught:
        execute(System(shipped.get(scenario), mitigation, "sc").machine(), Follow())
    assert str(caught.value) == expected
    with pytest.raises(ProgramError) as caught:
        verify(System(shipped.get(scenario), mitigation, "arm64"))
    assert str(caught.value) == expected


def test_the_setup_of_a_scenario_asks_as_well(tmp_path: Path) -> None:
    mitigation = scheme(tmp_path, ALLOWED.format(before="pass"))
    with pytest.raises(ProgramError, match=r"mine.py:7: huge_vmap_allowed of Mine returned None"):
        System(shipped.get("tlb-contpte"), mitigation, "sc")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (
            "    def attach(self, boot):\n        self.key = boot.word('key')\n        yield from ()\n",
            "mine.py:7: attach is called and not run: it must not yield",
        ),
        (
            "    def huge_vmap_allowed(self):\n        yield\n        return False\n",
            "mine.py:7: huge_vmap_allowed is called and not run: it must not yield",
        ),
        (
            "    async def attach(self, boot):\n        pass\n",
            "mine.py:7: attach is called and not run: it must not yield",
        ),
        ("    walk_assertion = 'reading'\n", "walk_assertion is 'reading'; it may be 'write', 'read', 'none'"),
        ("    gives_up = 'promotion'\n", "gives_up is 'promotion'; it may be a set of promotion, contiguous-block, "),
        (
            "    gives_up = {'promotions'}\n",
            "gives_up is {'promotions'}; it may be a set of promotion, contiguous-block, ",
        ),
        ("    isolates_first = None\n", "mine.py:Mine: isolates_first is None; it must be True or False"),
        (
            "    def isolates_first(self):\n        return False\n",
            "it must be True or False",
        ),
        (
            "    def before_free(self, k, level, token):\n        yield from ()\n        return False\n",
            "mine.py:9: before_free returns a value, and nobody listens to it",
        ),
        (
            "    def after_walk(self, k, mm, token):\n        if mm:\n            return 1\n        yield from ()\n",
            "mine.py:9: after_walk returns a value, and nobody listens to it",
        ),
        (
            # it yields elsewhere, so that Python takes it for a hook as it should be
            f"    def before_promotion(self, k, level):\n        yield from ()\n        {TRYLOCK}\n",
            "mine.py:9: mmap_read_trylock() without `yield from` does nothing: it is a generator",
        ),
        (
            "    def before_walk(self, k, mm):\n        yield from ()\n        return mmap_read_lock(k, mm)\n",
            "mine.py:9: mmap_read_lock() without `yield from` does nothing: it is a generator",
        ),
    ],
)
def test_what_can_be_told_from_the_file(tmp_path: Path, hook: str, message: str) -> None:
    with pytest.raises(MitigationError) as caught:
        scheme(tmp_path, hook)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "end",
    [
        "return",
        "return None",
        "return (yield from mmap_read_unlock(k, k.init_mm))",
        "f = lambda: 1\n        def g(): return 1",
    ],
)
def test_returning_nothing_is_fine(tmp_path: Path, end: str) -> None:
    hooks = (
        "    def before_clear(self, k, level):\n        yield from mmap_read_lock(k, k.init_mm)\n"
        f"    def after_free(self, k, level, token):\n        yield from ()\n        {end}\n"
    )
    assert scheme(tmp_path, hooks).name == "mine"
