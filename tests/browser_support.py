"""Helpers for tests in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser (Debian's package chromium)")
PATIENCE = 120_000  # milliseconds; nothing waits for a time, only for conditions
OWN = ("file:", "about:", "data:", "blob:")  # the schemes of addresses that need no network


@dataclass
class Visit:
    """An open page, and what it complained about or asked the network for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, place: Path | str, address: str = "") -> None:
        """Open a page from the disk or from a server, and wait until it is complete."""
        self.page.goto("about:blank")
        self.page.goto(f"{place if isinstance(place, str) else place.as_uri()}{address}")
        self.page.wait_for_selector("html[data-ready=yes]")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true. Playwright's own wait evaluates it in the page, which the page's
        content security policy forbids."""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(50)

    def draw_all(self) -> None:
        """Bring every chart into view, and wait until it is drawn."""
        for i in range(self.page.locator(".plot").count()):
            self.page.locator(".plot").nth(i).scroll_into_view_if_needed()
            self.page.wait_for_selector(f":nth-match(.plot, {i + 1})[data-drawn=yes]")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser."""
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def visited(browser: Any, scheme: str, *allowed: str) -> Iterator[Visit]:
    """Yield a visit, and check after it that the page did not complain and asked nobody but who is allowed.

    browser: the browser.
    scheme: `light` or `dark`.
    allowed: the beginnings of addresses on the network that may be asked.
    """
    context = browser.new_context(color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    found = Visit(context.new_page())
    found.page.on("console", lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") else None)
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda one: found.requests.append(one.url))
    yield found
    context.close()
    assert not found.complaints
    assert not [url for url in found.requests if not url.startswith((*OWN, *allowed))]
