"""Links of the documentation lead to pages and headings that there are, and what it says to install there is."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.test_pages import DOCS, PAGES, ROOT

README = ROOT / "README.md"
OUTSIDE = [README, ROOT / "CONTRIBUTING.md"]
"""Pages that may link to any file of the repository."""
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,3} (.*)$", re.MULTILINE)


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as MyST and GitHub make them."""
    texts = _HEADING.findall(re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere. Those of a page of the documentation may not leave it."""
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        parts = urlsplit(link)
        if parts.scheme in ("http", "https"):
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        outside = page not in OUTSIDE and not target.is_relative_to(DOCS)
        is_page = (target.suffix == ".md" and target.is_file()) or (page in OUTSIDE and target.exists())
        if outside or not is_page or (parts.fragment and parts.fragment not in headings(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = DOCS / "tutorial.md"
    assert "begin" not in headings(page) and "find-the-race" in headings(page)
    other = tmp_path / "page.md"
    other.write_text(
        "# One\n[a](page.md#one) [b](page.md#two) [c](gone.md) [d](../x) `[e](f)` [g](https://example.org)\n"
    )
    assert broken(other) == ["page.md#one", "page.md#two", "gone.md", "../x"], "outside the documentation"


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_installed_from_where_it_is_not_published(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"pip install '?fuzzvm(?:\[\w+\])?(?! @)(?=['\s`])", text)
