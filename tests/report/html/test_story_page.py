"""The page that shows a race, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.report.html.story_page import story_page
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.report.html.browser import opened, violations
from tests.support import Seeded

ROOT = Path(__file__).resolve().parents[3]
REGRESSIONS = sorted((ROOT / "corpus" / "regressions").glob("*.toml"))
WIDE = {"viewport": {"width": 1400, "height": 900}}
NARROW = {"viewport": {"width": 400, "height": 800}}


def page_of(case: TestCase, folder: Path) -> Path:
    path = folder / "story.html"
    path.write_text(story_page(case, mitigation_of(case), "fuzzvm replay FILE"), encoding="utf-8")
    return path


def race() -> TestCase:
    return next(
        case
        for case in map(read, REGRESSIONS)
        if case.mitigation == "static-key-enable" and case.expect.error == "use-after-free-read" and case.memory == "sc"
    )


def stale() -> TestCase:
    """A case whose failure rests on a read of an old value."""
    for case in map(read, REGRESSIONS):
        if case.memory == "arm64" and '"kind":"stale"' in story_page(case, mitigation_of(case), ""):
            return case
    raise AssertionError("no regression reads an old value")


def selected(page: Any) -> int:
    (number,) = page.locator("[aria-selected=true] .n").all_inner_texts()
    return int(number)


def test_it_opens_at_the_error_and_steps_by_keyboard_and_mouse(tmp_path: Path) -> None:
    case = race()
    last = len(case.schedule)
    with opened(page_of(case, tmp_path), **WIDE) as page:
        assert selected(page) == last
        assert page.locator("#memory del").count() == 1
        assert "freed at step" in page.locator("#memory").inner_text()
        for key, expected in [
            ("Home", 1),
            ("ArrowDown", 2),
            ("j", 3),
            ("k", 2),
            ("ArrowUp", 1),
            ("k", 1),
            ("End", last),
        ]:
            page.keyboard.press(key)
            assert selected(page) == expected
        page.keyboard.press("Home")
        assert page.locator("#memory del").count() == 0
        page.keyboard.press("g")
        first_guilty = selected(page)
        page.keyboard.press("g")
        assert first_guilty < selected(page) == last
        page.locator("#step-5").click()
        assert selected(page) == 5
        page.get_by_role("button", name="On").click()
        assert selected(page) == 6
        assert page.url.endswith("#step-6")


def test_the_keys_that_are_told_are_the_keys_that_work(tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), **WIDE) as page:
        told = page.locator("#keys kbd").all_inner_texts()
        assert {"Home", "End", "Up", "Down", "j", "k", "g", "/"} <= set(told)
        shortcuts = [button.get_attribute("aria-keyshortcuts") for button in page.locator("[data-go]").all()]
        assert shortcuts == ["Home", "ArrowUp k", "ArrowDown j", "End", "g"]
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "find"


def test_the_tree_reads_well_without_sight(tmp_path: Path) -> None:
    """Lists within lists, a name for the region, what was deleted said in words, and each step announced."""
    with opened(page_of(race(), tmp_path), **WIDE) as page:
        tree = page.locator("section.memory")
        assert tree.get_attribute("aria-labelledby") == "memory-title"
        snapshot = tree.aria_snapshot()
        assert "- list:" in snapshot and "- listitem:" in snapshot
        assert "freed at step" in snapshot and "- deletion:" in snapshot
        page.keyboard.press("Home")
        assert page.locator("#say").get_attribute("aria-live") == "polite"
        assert page.locator("#say").inner_text().startswith("Step 1")


def test_the_guilty_pair_is_marked_and_joined(tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), **WIDE) as page:
        marked = page.locator(".step.guilty")
        assert marked.count() == 2
        assert all("the error" in text for text in marked.all_inner_texts())
        assert page.locator("#arrows > path.pair").count() == 1
        assert "Nothing orders step" in page.locator("header").inner_text()


def test_every_step_shows_memory_as_the_run_left_it(tmp_path: Path) -> None:
    """The tree after the step that clears the PMD has it none, and the one before has the table in it."""
    with opened(page_of(race(), tmp_path), **WIDE) as page:
        page.locator("#find").fill("write pmd[0] = none")
        page.keyboard.press("Enter")
        assert page.locator("#found").inner_text() == "1 found"
        step = selected(page)
        assert page.locator("#memory .changed").all_inner_texts() == ["pmd[0] = none"]
        assert "Tables that no entry leads to" in page.locator("#memory").inner_text()
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowUp")
        assert selected(page) == step - 1
        assert "pmd[0] = table" in page.locator("#memory").inner_text()
        assert "Tables that no entry leads to" not in page.locator("#memory").inner_text()


def test_an_old_value_is_an_arrow_from_the_write_that_was_not_seen(tmp_path: Path) -> None:
    with opened(page_of(stale(), tmp_path), **WIDE) as page:
        page.locator("#find").fill("an old value")
        page.keyboard.press("Enter")
        assert page.locator("#arrows > path.stale").count() >= 1
        assert "does not see what the other CPU wrote" in page.locator("#edges").inner_text()
        assert "does not see" in page.locator("#say").inner_text()


@pytest.mark.always
@pytest.mark.product
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_wrong(scheme: str, size: dict[str, Any], tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), color_scheme=scheme, **size) as page:
        assert violations(page) == []
        page.locator("details").evaluate("details => details.open = true")
        page.keyboard.press("Home")
        assert violations(page) == []


def test_axe_is_able_to_find_something(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<html><body><img src='data:,'><p style='color:#eee'>pale</p></body></html>")
    with opened(path, **WIDE) as page:
        assert "image-alt" in violations(page)


def test_a_narrow_page_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), **NARROW) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("#step-1 .cpu").is_visible()


def test_print_shows_every_step(tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), **WIDE) as page:
        page.emulate_media(media="print")
        assert page.evaluate(
            "document.getElementById('scroll').scrollHeight <= document.getElementById('scroll').clientHeight"
        )
        assert not page.locator(".controls").is_visible()


def test_the_steps_are_there_without_javascript(tmp_path: Path) -> None:
    with opened(page_of(race(), tmp_path), java_script_enabled=False, **WIDE) as page:
        assert page.locator(".step").count() == len(race().schedule)
        assert not page.locator(".controls").is_visible()


def test_what_comes_from_files_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>"
    case = replace(race(), origin=evil)
    with opened(page_of(case, tmp_path), **WIDE) as page:
        page.locator("details").evaluate("details => details.open = true")
        assert evil in page.locator("details").inner_text()
        assert page.title() != "run" and page.locator("img").count() == 0


def long_case() -> TestCase:
    """A run of 2,000 steps and a few, at random."""
    calls = ("vmap(page=0, nr_pages=32, max_page_shift='pmd')", "vunmap(page=0, nr_pages=32)")
    pages = ("vmap(page=64, nr_pages=60)", "vunmap(page=64, nr_pages=60)")
    scenario = Scenario.from_data(
        {
            "arch": "arm64",
            "page_size": "4K",
            "levels": 4,
            "fanout": 32,
            "setup": ["vmap(page=0, nr_pages=32)", "vunmap(page=0, nr_pages=32)"],
            "cpus": [[*calls, *pages * 3], ["cat_kernel_page_tables()"] * 7, ["check_wx_pages()"] * 7],
        }
    )
    execution = execute(System(scenario, registry.get("static-key"), "arm64").machine(), Seeded(1))
    return TestCase(scenario, "static-key", "arm64", execution.schedule, Expectation.of(execution))


STEP_BY_KEY = """
    async (presses) => {
        const list = document.getElementById("steps");
        const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        const times = [], changes = [];
        const watch = new MutationObserver(() => {});
        watch.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
        for (let i = 0; i < presses; i++) {
            const began = performance.now();
            list.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
            document.body.getBoundingClientRect();  // the layout, too
            times.push(performance.now() - began);
            const count = (record) => Math.max(1, record.addedNodes.length + record.removedNodes.length);
            changes.push(watch.takeRecords().map(count).reduce((sum, more) => sum + more, 0));
            if (i % 10 === 0) await frame();
        }
        const ascending = (one, other) => one - other;
        return {times: times.sort(ascending), changes: changes.sort(ascending)};
    }
"""
"""Step on with the keyboard; return for each step the milliseconds until its layout is done, and how many nodes and
attributes it has changed, each in ascending order."""

MOST_CHANGES = 100
"""Of a step: what is selected, and the tables of the scenario as they stand."""


@pytest.mark.slow
def test_two_thousand_steps_open_and_a_step_changes_no_more_than_in_a_short_run(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Times are kept with the results and decide nothing: they depend on the machine, and what a step does does not."""
    case = long_case()
    assert len(case.schedule) >= 2_000
    path = page_of(case, tmp_path)
    with opened(path, **WIDE) as page:
        page.wait_for_selector("[aria-selected=true]")
        # from the start of the navigation until all of the page's own code has run, by the browser's own clock
        opening = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        page.keyboard.press("Home")
        steps = page.evaluate(STEP_BY_KEY, 200)
        assert selected(page) == 201
        assert 0 < steps["changes"][-1] <= MOST_CHANGES
        times = steps["times"]
        median = times[len(times) // 2]
        figures = {"opening_ms": round(opening), "step_ms": round(median, 1), "slowest_step_ms": round(times[-1], 1)}
        request.node.user_properties.extend(figures.items())


@pytest.mark.product
@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_every_regression_has_a_page(path: Path) -> None:
    case = read(path)
    text = story_page(case, mitigation_of(case), "fuzzvm replay FILE")
    assert text.count('class="step') == len(case.schedule)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
