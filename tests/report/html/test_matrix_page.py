"""The page of verdicts, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.report.html.matrix_page import MatrixCell, matrix_page
from tests.report.html.browser import opened, violations

CELLS = [
    MatrixCell("none", "pmd-promotion", "sc", "use-after-free-read", "", 47, 0.01, True, "stories/none.html"),
    MatrixCell("static-key", "pmd-promotion", "sc", "", "", 1193, 0.02, True),
    MatrixCell("none", "pmd-promotion", "arm64", "use-after-free-read", "", 147, 0.01, True, "stories/none-arm64.html"),
    MatrixCell("static-key", "pmd-promotion", "arm64", "", "--max-states 10 reached", 10, 0.5, False),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_shows_every_verdict_and_links_those_that_fail(scheme: str, width: int, tmp_path: Path) -> None:
    path = tmp_path / "matrix.html"
    path.write_text(matrix_page(CELLS), encoding="utf-8")
    with opened(path, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        rows = [row.locator("th, td").all_inner_texts() for row in page.locator("tbody tr").all()]
        assert [row[:2] for row in rows] == [["pmd-promotion", "sc"], ["pmd-promotion", "arm64"]]
        assert rows[0][2].startswith("use-after-free-read") and "47 states" in rows[0][2]
        assert rows[0][3].startswith("safe") and "1,193 states" in rows[0][3]
        assert "cut short" in rows[1][3] and "--max-states 10 reached" in rows[1][3]
        assert "not as documented" in rows[1][3] and "not as documented" not in rows[1][2]
        links = [link.get_attribute("href") for link in page.locator("a").all()]
        assert links == ["stories/none.html", "stories/none-arm64.html"]
        assert "1 cut short by a bound" in page.locator("header").inner_text()
        assert "1 not as documented" in page.locator("header").inner_text()
        assert "proven nothing. 1 not as" in " ".join(page.locator("header").inner_text().split())
        assert violations(page) == []


def test_a_matrix_with_a_hole_says_so() -> None:
    assert matrix_page([CELLS[0], CELLS[3]]).count("not searched") == 2


def test_names_stay_text() -> None:
    cell = MatrixCell("<img src=x>", "<b>", "sc", "", "", 1, 0.0, True)
    text = matrix_page([cell])
    assert "<img" not in text and "<b>" not in text and "&lt;img src=x&gt;" in text
