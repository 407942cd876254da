"""Scenarios in files of the user's own: what is in them, and what is said where something is wrong."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fuzzvm.scenario import own, shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import MAX_CALLS
from fuzzvm.scenario.toml_text import MAX_BYTES
from tests.support import REAL_TABLES


def test_a_file_is_a_scenario(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text(REAL_TABLES)
    scenario = own.get("real.toml", tmp_path)
    assert (scenario.name, scenario.fanout, scenario.walkers, len(scenario.cpus)) == ("real.toml", 512, 1, 2)
    assert own.get(str(tmp_path / "real.toml")) == scenario
    (tmp_path / "bom.toml").write_text(f'name = ""\n{REAL_TABLES}', encoding="utf-8-sig")
    assert own.get("./bom.toml", tmp_path).name == "bom.toml"
    (tmp_path / "UPPER.TOML").write_text(REAL_TABLES)
    assert own.get("UPPER.TOML", tmp_path).anonymous() == scenario.anonymous()
    (tmp_path / "named.toml").write_text(f'name = "mine"\n{REAL_TABLES}')
    assert own.get("named.toml", tmp_path).name == "mine"


@pytest.mark.parametrize("name", shipped.shipped())
def test_what_ships_could_be_a_file(name: str) -> None:
    folder = resources.files("fuzzvm.scenario") / "builtin"
    text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    assert own.parse(text, Path(f"{name}.toml")).anonymous() == shipped.get(name).anonymous()
    assert own.get(name) is shipped.get(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REAL_TABLES.replace("512\n", "5\n"), "mine.toml:4: fanout must be a power of two from 2 to 512, not 5"),
        (REAL_TABLES.replace("arch", "arhc"), "mine.toml:1: unknown key 'arhc' in a scenario"),
        (REAL_TABLES.replace("cat_kernel", "cat_kernle"), "mine.toml:8: CPU 1, call 1: "),
        (REAL_TABLES.replace('"4K"', "4"), "mine.toml:2: page_size must be str, not 4"),
        (REAL_TABLES.replace("levels = 4\n", ""), "mine.toml: a scenario needs 'levels'"),
        (REAL_TABLES + "cpus = [[", "mine.toml:10: not a whole TOML file: "),
        (f'name = "\\u001b[31m"\n{REAL_TABLES}', "mine.toml:1: name has a character that cannot be printed"),
        ("format = 1\nscenario = {}\n", "mine.toml:1: a test case, with a schedule: `fuzzvm replay` takes it"),
        ("", "mine.toml: a scenario needs 'arch'"),
        (REAL_TABLES.replace("cat_kernel_page_tables()", "f()"), "mine.toml:8: CPU 1, call 1: no call 'f'"),
        (REAL_TABLES.replace("vunmap(page=0, nr_pages=512)", "f()"), "mine.toml:5: setup, call 2: no call 'f'"),
        ("#" * (MAX_BYTES + 1), f"mine.toml: larger than {MAX_BYTES} bytes"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        own.read(path)
    said = str(caught.value).removeprefix(f"{tmp_path}/")
    assert said.startswith(message)
    assert said.isprintable()


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    for name in ("gone.toml", ".toml", ""):
        with pytest.raises(ScenarioError, match=r"No such file|no scenario"):
            own.get(name, tmp_path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ScenarioError, match=r"folder.toml: Is a directory"):
        own.get("./folder.toml/", tmp_path)
    with pytest.raises(ScenarioError, match=r"folder.toml: Is a directory"):
        own.get("folder.toml", tmp_path)
    (tmp_path / "mine.toml").write_bytes(b"# a\n\xff")
    with pytest.raises(ScenarioError, match=r"mine.toml:2: not a text file in UTF-8"):
        own.get("mine.toml", tmp_path)


STATEMENTS = {
    "arch": ['"arm64"', '"x86_64"', '"arm"', "64"],
    "page_size": ['"4K"', '"64K"', "4096"],
    "levels": ["4", "3", "9", "'4'"],
    "fanout": ["2", "4", "512", "3", "1e3"],
    "setup": ["[]", "[\"vmap(page=0, nr_pages=2, max_page_shift='pte')\"]", '["vunmap()"]', "[["],
    "cpus": ['[["check_wx_pages()"]]', "[[\"vfree(area='a')\"], []]", '["f()"]', '[["f()"]]', "[]"],
    "tlb": ["true", "1"],
    "name": ['""', '"mine"', '"\\u202e"'],
}


@given(
    st.fixed_dictionaries(
        {
            key: st.sampled_from([values[0]] * 12 + values)
            for key, values in STATEMENTS.items()
            if key not in ("tlb", "name")
        },
        optional={key: st.sampled_from(STATEMENTS[key]) for key in ("tlb", "name")},
    ),
    st.sampled_from(["", "", "", "x = 1", "[a]", "= 3"]),
    st.sampled_from(["", "", "", "levels", "setup"]),
)
def test_any_text_is_a_scenario_or_a_line_on_what_is_wrong(values: dict[str, str], more: str, dropped: str) -> None:
    text = "\n".join([more, *(f"{key} = {value}" for key, value in values.items() if key != dropped)])
    try:
        scenario = own.parse(text, Path("mine.toml"))
    except ScenarioError as error:
        event("wrong")
        assert str(error).startswith("mine.toml") and str(error).isprintable()
    else:
        event("a scenario")
        assert scenario.name in ("mine", "mine.toml")
        assert max(map(len, scenario.cpus)) <= MAX_CALLS
