"""A real Chromium, driven by Playwright; tests are skipped, and say so, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clock import PATIENCE


def chromium() -> str:
    """Return Chromium's path, or skip the test that asks."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on PATH (Debian: apt-get install chromium)")
    return path


@contextmanager
def opened(page_file: Path, **options: Any) -> Iterator[Any]:
    """Yield a page opened from file://, offline; fail afterwards where it wrote to the console."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as playwright:
        # without a sandbox of its own: the tests may run as root
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE * 1000)
        context = browser.new_context(offline=True, **options)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        page.goto(page_file.as_uri())
        try:
            yield page
        finally:
            browser.close()
    assert said == []


def violations(page: Any) -> list[str]:
    """Return the ids of what axe finds wrong."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    return [violation["id"] for violation in axe.Axe().run(page).response["violations"]]
