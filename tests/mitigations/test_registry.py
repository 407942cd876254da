"""fuzzvm.mitigations.registry: mitigations by name, by entry point and by file."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from inspect import isfunction
from pathlib import Path

import pytest

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.registry import MitigationError, available, get, is_path, shipped
from fuzzvm.scenario import shipped as scenarios
from fuzzvm.scenario.system import System
from tests.support import Follow

IMPORTS = "from fuzzvm.kernel import mmap_lock\nfrom fuzzvm.kernel.mmap_lock import mmap_read_trylock\n"
HOOKS = [name for name, value in vars(Mitigation).items() if isfunction(value)]
GOOD = """
from fuzzvm.kernel.hooks import Mitigation

class Mine(Mitigation):
    name = "mine"

    def after_free(self, k, level, token):
        yield from ()

class NotOne:
    pass

class NoGenerator(Mitigation):
    name = "no-generator"

    def before_free(self, k, level, token):
        pass
"""


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in points]
    own = registry.ENTRY_POINT_GROUP
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found if group == own else [])


def test_what_ships_is_found_by_name() -> None:
    assert {"none", "config-off", "mmap-lock-always", "static-key-enable", "static-key"} <= set(shipped())
    assert list(shipped()) == sorted(shipped())
    for name, mitigation in shipped().items():
        assert mitigation.name == name
        assert get(name) is mitigation


def test_unknown_names_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(MitigationError) as caught:
        get("static_key")
    assert str(caught.value).startswith("no mitigation 'static_key'; there are config-off, ")
    assert_one_line(caught)


def test_entry_points_come_after_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("theirs", "fuzzvm.mitigations.none:NoMitigation"), ("none", "fuzzvm.kernel.hooks:Mitigation"))
    assert list(available())[-1] == "theirs"
    assert available()["theirs"] is NoMitigation
    assert available()["none"] is NoMitigation, "no package takes the name of one that ships"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no.such.module:Class", "ModuleNotFoundError"),
        ("fuzzvm.mitigations.none:NoSuch", "AttributeError"),
        ("fuzzvm.machine.machine:Machine", "not a subclass of fuzzvm.kernel.hooks.Mitigation"),
    ],
)
def test_an_entry_point_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    offer(monkeypatch, ("theirs", value))
    with pytest.raises(MitigationError) as caught:
        available()
    assert message in str(caught.value)
    assert value in str(caught.value)
    assert_one_line(caught)


@pytest.mark.parametrize(
    ("spec", "expected"), [("a.py:B", True), ("/x/a.py:B", True), ("none", False), ("a.py", False)]
)
def test_files_are_told_from_names(spec: str, expected: bool) -> None:
    assert is_path(spec) is expected


@pytest.mark.parametrize("relative", [False, True])
def test_a_class_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    folder = "" if relative else f"{tmp_path}/"
    assert get(f"{folder}mine.py:Mine").name == "mine"


@pytest.mark.parametrize(
    ("text", "class_name", "message"),
    [
        (GOOD, "NoSuch", "{file}: no class 'NoSuch'; there is Mine, NoGenerator"),
        (GOOD, "NotOne", "{file}:NotOne: not a subclass of fuzzvm.kernel.hooks.Mitigation"),
        (
            GOOD,
            "NoGenerator",
            "{path}:{last_but_one}: before_free is no generator; a hook yields, if only `yield from ()`",
        ),
        ("x = 1\ny = 1 +\n", "Mine", "{path}:2: SyntaxError: invalid syntax"),
        ("x = 1\n\nimport no_such_module\n", "Mine", "{file}:3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    raise ValueError('two\\nlines')\nf()\n", "Mine", "{file}:2: ValueError: two lines"),
        (None, "Mine", "{file}: no such file"),
        (GOOD, "", "{file}: no class ''; there is Mine, NoGenerator"),
        (
            GOOD + "class Slip(Mine):\n    def befor_free(self, k, level, token):\n        yield from ()\n",
            "Slip",
            (
                "{path}:{last_but_one}: befor_free is no hook, so nothing calls it; before_free is one "
                "(a helper of your own may begin with an underscore)"
            ),
        ),
        (
            GOOD + "class Other(Mine):\n    def on_free(self, k, level, token):\n        yield from ()\n",
            "Other",
            "{path}:{last_but_one}: on_free is no hook, so nothing calls it; there is " + ", ".join(HOOKS) + " "
            "(a helper of your own may begin with an underscore)",
        ),
        (
            GOOD + "class Claims(Mine):\n    one_walker = 'saef'\n",
            "Claims",
            "{file}:Claims: one_walker is 'saef'; it may be 'safe', 'bug' or None",
        ),
        (
            GOOD + "class Claims(Mine):\n    one_walkr = 'safe'\n",
            "Claims",
            "{path}: Claims.one_walkr claims nothing; one_walker does",
        ),
        *(
            (
                GOOD + f"class Kept(Mine):\n    def before_clear(self, k, level):\n        {code}\n\n",
                "Kept",
                "{file}:{last_but_one}: self.after_free() without `yield from` does nothing: it is a generator",
            )
            for code in ("return self.after_free(k, level, None)", "kept = self.after_free(k, level, None)")
        ),
        (
            # the class may come from elsewhere: the file is the user's all the same
            IMPORTS + "from fuzzvm.mitigations.none import NoMitigation\n"
            "def helper(k):\n    mmap_read_trylock(k, k.init_mm)\n    yield from ()\n",
            "NoMitigation",
            "{file}:{last_but_one}: mmap_read_trylock() without `yield from` does nothing: it is a generator",
        ),
        (
            GOOD + "class Few(Mine):\n    def before_free(self, k, level):\n        yield from ()\n",
            "Few",
            "{path}:{last_but_one}: before_free must take (self, k, level, token): too many positional arguments",
        ),
        *(
            (
                "from fuzzvm.kernel import mmap_lock\nfrom fuzzvm.kernel.mmap_lock import mmap_read_trylock\n"
                + GOOD
                + "class Idle(Mine):\n"
                f"    def before_free(self, k, level, token):\n{code}\n        yield from ()\n",
                "Idle",
                f"{{file}}:{{last_but_one}}: {name}() without `yield from` does nothing: it is a generator",
            )
            for name, code in (
                ("mmap_read_trylock", "        mmap_read_trylock(k, k.init_mm)"),
                ("mmap_read_trylock", "        _ = 1 if mmap_read_trylock(k, k.init_mm) else 2"),
                ("mmap_read_trylock", "        _ = not mmap_read_trylock(k, k.init_mm)"),
                ("mmap_read_trylock", "        _ = level and mmap_read_trylock(k, k.init_mm)"),
                ("mmap_lock.mmap_read_trylock", "        mmap_lock.mmap_read_trylock(k, k.init_mm)"),
                ("super().before_free", "        super().before_free(k, level, token)"),
                ("self.after_free", "        self.after_free(k, level, token)"),
            )
        ),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_that_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    class_name: str,
    message: str,
    relative: bool,
) -> None:
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    file = "broken.py" if relative else str(path)
    with pytest.raises(MitigationError) as caught:
        get(f"{file}:{class_name}")
    last_but_one = len((text or "").splitlines()) - 1
    assert str(caught.value) == message.format(file=file, path=path, last_but_one=last_but_one)
    assert_one_line(caught)


def test_helpers_are_no_slips(tmp_path: Path) -> None:
    helpers = "    def _before_fre(self):\n        pass\n    def wait(self, k):\n        yield from ()\n"
    hook = "    def before_free(self, k, level, token):\n        yield from self.wait(k)\n"
    (tmp_path / "mine.py").write_text(GOOD + "class Helped(Mine):\n" + helpers + hook)
    assert get(f"{tmp_path}/mine.py:Helped").name == "mine"


def test_a_file_without_a_class_is_asked_which(tmp_path: Path) -> None:
    with pytest.raises(MitigationError, match=r"^mine.py: which class of it\? mine.py:Class$"):
        get("mine.py")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(MitigationError, match="no such file"):
        get(f"{tmp_path}/folder.py:Mine")


BROKEN = """
from fuzzvm.kernel.hooks import Mitigation

class Attaches(Mitigation):
    name = "attaches"

    def attach(self, boot):
        raise RuntimeError("attach")

class Raises(Mitigation):
    name = "raises"

    def before_clear(self, k, level):
        yield from ()
        return k.no_such_attribute

class UsesTheKernelWrongly(Mitigation):
    name = "wrongly"

    def before_free(self, k, level, token):
        from fuzzvm.kernel.locking.rwsem import down_read
        yield from down_read(k.cpu, None)
"""


@pytest.mark.parametrize(
    ("class_name", "line", "message"),
    [
        ("Attaches", 8, "RuntimeError: attach"),
        ("Raises", 15, "AttributeError: 'Kernel' object has no attribute 'no_such_attribute'"),
        ("UsesTheKernelWrongly", 22, "AttributeError: 'NoneType' object has no attribute 'address'"),
    ],
)
def test_a_broken_hook_is_told_of_in_the_users_file(tmp_path: Path, class_name: str, line: int, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    mitigation = get(f"{path}:{class_name}")
    with pytest.raises(ProgramError) as caught:
        execute(System(scenarios.get("pmd-promotion"), mitigation, "sc").machine(), Follow())
    assert str(caught.value) == f"{path}:{line}: {message}"


def assert_one_line(caught: pytest.ExceptionInfo[MitigationError]) -> None:
    assert "\n" not in str(caught.value)
