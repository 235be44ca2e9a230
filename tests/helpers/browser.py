"""A real browser for tests of pages: Playwright with the Chromium that there is."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest


def _chromium():
    """The path of a Chromium: $GMETA_CHROMIUM or a usual command; None is Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = (shutil.which(name) for name in names)
    return os.environ.get("GMETA_CHROMIUM") or next((path for path in found if path), None)


@contextlib.contextmanager
def browser():
    """A headless browser; skips the test where there is none, and says what is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        path = _chromium() or playwright.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("there is no Chromium: install it, or name it in GMETA_CHROMIUM")
        # As root, in a container, Chromium's own sandbox does not start.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def open_page(started, url, *, width, height=900, **options):
    """A page of so many pixels' width, and what it asked of other machines or complained of."""
    page = started.new_page(viewport={"width": width, "height": height}, **options)
    troubles = []
    page.on("console", lambda line: line.type == "error" and troubles.append(line.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    own = ("http://127.0.0.1", "file:", "data:", "blob:")
    page.on("request", lambda one: None if one.url.startswith(own) else troubles.append(one.url))
    page.goto(url)
    try:
        yield page, troubles
    finally:
        page.close()


def overflow(page):
    """By how many pixels a page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
