"""The page of a campaign, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fuzzvm.report.html.campaign_page import HEIGHT, WIDTH, campaign_page, chart_of
from tests.report.html.browser import opened, violations

FINDING = {
    "bug": "use-after-free-read",
    "function": "ptdump_pte_entry",
    "freed_by": "free_table < pmd_free_pte_page",
    "scenario": "<b>pmd-promotion</b>",
    "engine": "pos",
    "message": "a message",
    "proven_minimal": True,
    "time": 1_000_030.0,
    "saved": "weekend/findings/none-a.toml",
}
SAMPLES = [
    {"time": 1_000_000.0, "runs": 10, "pairs": 5, "findings": 0, "undiscovered": 80.0},
    {"time": 1_000_020.0, "runs": 300, "pairs": 20, "findings": 0, "undiscovered": 10.0},
    # the campaign was resumed after a night
    {"time": 1_030_000.0, "runs": 310, "pairs": 21, "findings": 1, "undiscovered": 9.0},
    {"time": 1_030_020.0, "runs": 900, "pairs": 30, "findings": 1, "undiscovered": 10.4},
]


def data(**changed: Any) -> dict[str, Any]:
    """Return what `fuzzvm status --json` prints, in a small."""
    return {
        "campaign": "weekend",
        "running": False,
        "finished": True,
        "verdict": "bug",
        "runs": 900,
        "seconds": 100.4,
        "cpu_seconds": 90.0,
        "runs_per_second": 9.0,
        "coverage": 30,
        "pairs_undiscovered": 10.4,
        "seconds_since_last_new": 70.0,
        "saved": ["weekend/findings/none-a.toml"],
        "rebuilt": None,
        "searches": [{"mitigation": "none", "findings": [FINDING], "vacuous": []}],
        "engines": {
            "pos": {"runs": 600, "cpu_seconds": 30.0, "coverage": 20, "failing": 1},
            "surw": {"runs": 300, "cpu_seconds": 60.0, "coverage": 10, "failing": 0},
        },
        "targets": [
            {
                "mitigation": "none",
                "scenario": "pmd-promotion",
                "memory": "sc",
                "runs": 900,
                "cpu_seconds": 90.0,
                "coverage": 30,
                "pairs_undiscovered": 10.4,
                "failing": 1,
            }
        ],
        "unsettled": [],
        "samples": SAMPLES,
        "events": [{"time": 1_000_000.0, "what": "begun"}],
    } | changed


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_it_shows_what_was_seen_and_what_it_cost(scheme: str, width: int, tmp_path: Path) -> None:
    path = tmp_path / "campaign.html"
    path.write_text(campaign_page(data()), encoding="utf-8")
    with opened(path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        assert page.locator("h1").inner_text() == "Campaign weekend: bug"
        assert (
            "30 ordered pairs of conflicting operations, and an estimated 10 more"
            in page.locator("p").first.inner_text()
        )
        engines = page.locator("section", has=page.locator("#engines-title")).locator("tbody tr").all()
        assert [row.locator("th, td").all_inner_texts()[:4] for row in engines] == [
            ["pos", "600", "30.0", "20"],
            ["surw", "300", "60.0", "5"],
        ]
        (finding,) = page.locator("section", has=page.locator("#findings-title")).locator("tbody tr").all()
        # what comes from files is text
        assert finding.locator("td").nth(2).inner_text() == "<b>pmd-promotion</b>"
        page.locator("summary").click()
        assert page.locator("details tbody tr").count() == len(SAMPLES)
        assert page.locator("svg .seen").bounding_box()["width"] > 100
        assert violations(page) == []


def test_a_campaign_that_found_nothing_says_what_that_is_worth(tmp_path: Path) -> None:
    path = tmp_path / "campaign.html"
    nothing = data(
        verdict="safe",
        saved=[],
        searches=[{"mitigation": "none", "findings": [], "vacuous": ["pmd-promotion, sc"]}],
        pairs_undiscovered=None,
        samples=SAMPLES[:1],
        seconds_since_last_new=None,
    )
    path.write_text(campaign_page(nothing), encoding="utf-8")
    with opened(path) as page:
        assert page.locator("h1").inner_text() == "Campaign weekend: none found"
        text = page.locator("main").inner_text()
        assert "too few samples for an estimate" in text and "no proof" in text and "vacuous" in text
        assert page.locator("svg").count() == 0
        assert violations(page) == []


def test_the_drawing_leaves_out_the_time_between_sittings() -> None:
    chart = chart_of(SAMPLES, data()["searches"])
    assert chart is not None
    assert (chart.seconds, chart.top) == (100.0, 40)
    seen = [tuple(map(float, point.split(","))) for point in chart.seen.split()]
    assert [x for x, _ in seen] == [0.0, 0.2 * WIDTH, 0.8 * WIDTH, WIDTH]
    assert [y for _, y in seen] == [HEIGHT * (1 - pairs / 40) for pairs in (5, 20, 21, 30)]
    # the first estimate is above the top of the scale
    assert chart.expected.startswith("0.0,0.0 ")
    # ten seconds after the second sample
    assert [(marker.x, marker.label) for marker in chart.markers] == [
        (pytest.approx(0.3 * WIDTH), "use-after-free-read of none, 0:00:30")
    ]


def test_a_long_campaign_is_drawn_with_few_points() -> None:
    samples = [SAMPLES[0] | {"time": 10.0 * number} for number in range(20_000)]
    chart = chart_of(samples, [])
    assert chart is not None and 200 < len(chart.seen.split()) <= 402
    assert chart.seen.split()[-1].startswith(f"{WIDTH}.0,")
