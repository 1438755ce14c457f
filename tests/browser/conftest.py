"""A real Chromium against a real server; every page is watched for errors, foreign requests and refused policies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tavern_kit import Play, Server, fresh_home

from realm import services

ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


def chromium() -> str | None:
    """Path of the browser: `CHROMIUM`, else the system's."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: install the system package `chromium` or set CHROMIUM=/path/to/it")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])")
    with sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=ARGS)
        yield made
        made.close()


@pytest.fixture
def realm(tmp_path):
    """A served realm: `home`, `play`, `server`; the hero loop counts as alive."""
    from realm.tavern.app import create_app

    home = fresh_home(tmp_path / "realm")
    services.leave_note(home, "arena", os.getpid())
    play = Play(home)
    server = Server(lambda: create_app(home))
    yield SimpleNamespace(home=home, play=play, server=server, url=lambda path="/": server.base + path)
    server.stop()
    play.close()


class Watch:
    """What a page did that it must not do."""

    def __init__(self, base: str) -> None:
        self.base, self.trouble = base, []
        self.expected: tuple[str, ...] = ()  # words of console errors that a test provokes

    def over(self, page) -> None:
        page.on("console", lambda m: m.type == "error" and self._note(f"console: {m.text}"))
        page.on("pageerror", lambda e: self._note(f"error: {e}"))
        page.on("request", lambda r: self._request(r.url))
        page.on("response", lambda r: r.status >= 400 and self._note(f"{r.status} {r.url}"))

    def _note(self, text: str) -> None:
        if not any(word in text for word in self.expected):
            self.trouble.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.trouble.append(f"foreign request: {url}")


@pytest.fixture
def open_page(browser, realm):
    """`open_page(path, width=…, height=…, **context)` → a page that is live; troubles of all pages fail the test."""
    contexts, watch = [], Watch(realm.server.base)

    def opened(path: str = "/", width: int = 1440, height: int = 900, live: bool = True, context=None, **options):
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            context.set_default_timeout(10_000)
            contexts.append(context)
        page = context.new_page()
        watch.over(page)
        page.goto(realm.url(path))
        if live:
            page.wait_for_selector("html[data-conn=live]", state="attached")
        return page

    opened.watch = watch
    yield opened
    for context in contexts:
        context.close()
    assert watch.trouble == []


@pytest.fixture(scope="session")
def axe() -> str:
    return (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
