"""The pages of a realm that really trains: every page opens, and one number is the same wherever it is read."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from live import LiveRealm

from realm import db, events
from realm.tavern.app import NAV

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def live():
    made = LiveRealm()
    yield made
    made.close()


def test_page_api_command_line_and_database_agree(live, browser):
    """At one event id, in a paused battle, the four tell the same (contracts C11); then every page is opened."""
    live.cli("start-all")
    live.wait("the first steps", lambda: (live.status()["battle"]["step"] or 0) > 5, 120)
    page, trouble = browser.new_page(viewport={"width": 1440, "height": 900}), []
    page.on("console", lambda m: m.type == "error" and trouble.append(m.text))
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.goto(live.url("tavern"))
    page.wait_for_selector("html[data-conn=live]", state="attached", timeout=15_000)
    page.wait_for_selector("[data-battle-state=training]", timeout=60_000)
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector("[data-battle-state=paused]", timeout=60_000)
    page.reload()
    shot, told = live.get("tavern", "/api/state"), live.status()
    shown = page.locator("html").get_attribute("data-event-id")
    text = {key: page.locator(f'[data-live="{key}"]').first.inner_text() for key in ("loss", "strain", "step", "level")}
    engine = db.connect(live.home)
    with db.read(engine) as connection:
        newest = events.last_id(connection)
        table = db.metrics
        row = connection.execute(sa.select(table).order_by(table.c.step.desc()).limit(1)).one()
    engine.dispose()
    assert int(shown) == shot["event_id"] == told["event_id"] == newest
    assert text["loss"] == f"{row.loss_ema:.4f}" == f"{shot['battle']['loss']:.4f}" == f"{told['battle']['loss']:.4f}"
    assert text["strain"] == f"{row.strain:.3f}" == f"{shot['battle']['strain']:.3f}"
    assert int(text["step"]) == shot["battle"]["step"] == told["battle"]["step"] == row.step
    assert int(text["level"]) == shot["hero"]["level"] == row.step // 1000
    assert live.get("state", "/api/state")["event_id"] == newest, "the state port tells the same"
    data = "\n".join(json.dumps({"messages": [{"role": "user", "content": f"{i} + {i}"},
                                              {"role": "assistant", "content": str(2 * i)}]}) for i in range(60))
    page.goto(live.url("tavern", "/quests"))
    page.wait_for_selector("html[data-conn=live]", state="attached")
    page.set_input_files("#up-file", [{"name": "sums.jsonl", "mimeType": "text/plain", "buffer": data.encode()},
                                      {"name": "bad.jsonl", "mimeType": "text/plain", "buffer": b"{nope\n"}])
    page.get_by_role("button", name="Send to the inbox").click()
    page.wait_for_selector('[data-col="normal"] .card:has-text("sums")', timeout=60_000)
    page.wait_for_selector('[data-col="failed"] .card:has-text("bad JSON")', timeout=60_000)
    for path, _, _ in NAV:
        page.goto(live.url("tavern", path))
        page.wait_for_selector("html[data-conn=live]", state="attached", timeout=15_000)
        assert page.locator("h1").count() == 1
    page.goto(live.url("tavern"))
    page.wait_for_selector("html[data-conn=live]", state="attached", timeout=15_000)
    page.get_by_role("button", name="Resume").click()
    page.wait_for_selector("[data-battle-state=training]", timeout=60_000)
    before = int(page.locator('[data-live="step"]').first.inner_text().replace(",", ""))
    live.wait("the page moves", lambda: int(
        page.locator('[data-live="step"]').first.inner_text().replace(",", "")) != before, 30)
    page.close()
    assert trouble == []
