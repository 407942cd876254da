"""The page of a check, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.report.html.check_page import check_page
from tests.report.check_samples import BROKEN, FIXED, SAMPLES, UNTESTED
from tests.report.html.browser import opened, violations


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_it_shows_series_verdicts_and_schedules(scheme: str, width: int, tmp_path: Path) -> None:
    path = tmp_path / "check.html"
    path.write_text(check_page(BROKEN), encoding="utf-8")
    with opened(path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        assert page.locator("h1").inner_text().endswith("broken")
        assert page.locator("ol li").all_inner_texts() == BROKEN["series"]
        rows = [
            row.locator("th, td").all_inner_texts()
            for row in page.locator("#main table").first.locator("tbody tr").all()
        ]
        assert [(row[1], row[2].split()[0], row[4]) for row in rows] == [
            ("sc", "safe", "no change"),
            ("arm64", "safe", "broken"),
            ("tso", "undecided", "undecided"),
        ]
        assert "--seconds 10 reached" in rows[2][2] and rows[2][3] == "no time"
        # the verdict leads to its schedule
        page.get_by_role("link", name="bug: use-after-free-read").click()
        story = page.locator("#story-2-after")
        assert story.locator("h2").inner_text() == (
            "use-after-free-read in ptdump_pte_entry(): pmd-promotion, arm64, after the series"
        )
        steps = [row.locator("th, td").all_inner_texts() for row in story.locator("tbody tr").all()]
        assert [row[0] for row in steps] == ["1", "2", "3", "4"]
        assert [bool(row[1]) for row in steps] == [False, True, True, False]
        assert "mm/ptdump.c:31" in steps[3][2] and "<script>" in steps[3][2]
        assert "set_memory.c" in page.locator("section", has_text="Not looked at").last.inner_text()
        assert violations(page) == []


@pytest.mark.parametrize("name", ["fixed", "untested"])
def test_other_answers_are_pages_as_well(name: str, tmp_path: Path) -> None:
    path = tmp_path / "check.html"
    path.write_text(check_page(SAMPLES[name]), encoding="utf-8")
    with opened(path) as page:
        assert page.locator("h1").inner_text().endswith(SAMPLES[name]["answer"])
        assert page.locator("section[id^=story]").count() == (1 if SAMPLES[name] is FIXED else 0)
        assert violations(page) == []
    assert (UNTESTED["why"][1:] in path.read_text()) == (name == "untested")
