"""The page of a run of compiled code, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from fuzzvm.report.html.compiled_page import compiled_page
from tests.report.check_samples import BROKEN
from tests.report.html.browser import opened, violations

STORY = BROKEN["pairs"][1]["after"]["story"]
CASE = next(Path("corpus/regressions").glob("none-use-after-free-read-*.toml"))
ATTACK = "<script>document.title='ran'</script>"


@pytest.mark.always
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_it_shows_report_calls_and_steps_as_text(scheme: str, width: int, tmp_path: Path) -> None:
    case = replace(read(CASE), origin=ATTACK)
    path = tmp_path / "story.html"
    path.write_text(
        compiled_page(case, STORY, case.schedule, f"Linux {ATTACK}", f"fuzzvm replay {ATTACK}"), encoding="utf-8"
    )
    with opened(path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        assert page.title() == "use-after-free-read in ptdump_pte_entry - fuzzvm"
        assert page.locator("body").inner_text().count(ATTACK) == 3
        assert page.locator("li code").all_inner_texts() == [
            str(call) for calls in (case.scenario.setup, *case.scenario.cpus) for call in calls
        ]
        rows = [row.locator("th, td").all_inner_texts() for row in page.locator("tbody tr").all()]
        assert [row[0] for row in rows] == [str(step["number"]) for step in STORY["steps"]]
        assert "mm/ptdump.c:31" in rows[3][2] and "<script>" in rows[3][2]
        assert violations(page) == []
