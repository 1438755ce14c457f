"""The Jobs page in a real browser, on a live realm whose jobs an executor really works."""

from __future__ import annotations

import os

import jobs_kit
import pytest
import sqlalchemy as sa
from jobs_kit import Desk, executing
from test_browser_pages import AXE, full_realm

from realm import db
from realm.jobs import kinds

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=window.__xss=1>"


@pytest.fixture
def desk(realm, monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", dict(kinds.KINDS))
    jobs_kit.register()
    full_realm(realm.play)
    made = Desk(realm.home)
    yield made
    made.close()


def shot(page, name: str) -> None:
    """A picture for people, where SHOTS names a folder."""
    if os.environ.get("SHOTS"):
        page.screenshot(path=os.path.join(os.environ["SHOTS"], f"{name}.png"), full_page=True)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_jobs_live(realm, open_page, axe, desk, width, height):
    """A job comes, runs, is cancelled and retried under the reader's eyes; a trial is ordered with the form."""
    held = realm.home.root / "go"
    page = open_page("/jobs", width, height)
    assert "No job yet" in page.inner_text("#p-jobs")
    with executing(realm.home):
        broken = desk.submit("thread_word", fail="refused", word=HOSTILE)
        done = desk.submit("thread_word", word="well done")
        running = desk.submit("thread_word", "high", wait=str(held))
        row = f"#p-jobs tr:has(a[title='{running}'])"
        page.wait_for_selector(f"{row} .j-running")
        page.wait_for_selector(f"#p-jobs tr:has(a[title='{done}']) .j-succeeded")
        assert "told to fail" in page.inner_text(f"#p-jobs tr:has(a[title='{broken}']) .err")
        page.click(f"{row} [data-order$=cancel]")
        page.wait_for_selector(f"{row} .j-cancelled")
        held.touch()
        page.click(f"{row} [data-order$=retry]")
        page.wait_for_selector(f"{row} .j-succeeded")
        assert page.inner_text(f"{row} td:nth-child(9)") == "2"
    page.fill("form[data-job] [name=level]", "2")
    page.click("form[data-job] button")
    page.wait_for_selector("text=(noted)")  # the executor has ended: it is there all the same
    with db.read(desk.engine) as connection:
        told = connection.execute(sa.select(db.commands.c.payload).where(
            db.commands.c.kind == "job.submit.eval")).scalar_one()  # fmt: skip
    assert told["payload"]["level"] == 2 and told["payload"]["items"] == 200
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot(page, f"jobs-{width}")
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    page.click("nav.filters >> text=Failed")
    page.wait_for_selector(f"a[title='{broken}']")
    assert page.locator("#p-jobs .acts").count() == 1
    page.click(f"a[title='{broken}']")
    page.wait_for_selector("#p-job")
    assert HOSTILE in page.inner_text("pre") and page.evaluate("window.__xss") is None
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    page.goto(realm.url(f"/jobs/{done}"))
    assert "word.txt" in page.inner_text("#p-job") and "submitted" in page.inner_text("#p-job")
    with page.expect_download() as got:
        page.click("text=word.txt")
    assert open(got.value.path()).read() == "well done"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot(page, f"job-{width}")
