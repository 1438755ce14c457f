"""The Temple's page in a real browser: nine orders, their remedies, what stands in the way, the sum of blessings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from test_browser_pages import eventually

from realm import db
from realm.temple import verdicts

pytestmark = pytest.mark.browser
AXE = """async () => (await axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',
    'best-practice']})).violations.map(v => [v.id, v.nodes.slice(0, 4).map(n => n.target.join(' '))])"""


def give(play, order: str, status: str, age: float = 60.0, mendable: bool = False) -> None:
    checks = [{"name": "first", "status": "ok", "details": "as it should be"}]
    if status != "ok":
        checks.append({"name": "hashes", "status": status, "details": "x/model.safetensors has another sha256",
                       "remedy": "restore the folder from a backup", "mendable": mendable})  # fmt: skip
    with play.write() as connection:
        verdicts.keep(connection, {"order": order, "status": status, "t": db.now() - age, "seconds": 0.1,
                                   "checks": checks}, "hour")  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_temple(realm, open_page, axe, width, height):
    play = realm.play
    play.won_battle()
    give(play, "forge", "ok")
    give(play, "champion", "fail", 7200, mendable=True)
    give(play, "guild", "warn")
    give(play, "api", "ok", 100_000)
    page = open_page("/temple", width, height)
    assert page.locator("[data-order-id]").count() == 9 and page.locator(".rite.crit").count() == 3
    champion = page.locator("[data-order-id=champion]")
    said = champion.inner_text()
    assert "fails" in said and "1 of 2 sound, 2h 00m ago" in said and "restore the folder from a backup" in said
    assert "python3 -m training temple champion" in said
    assert "no verdict" in page.locator("[data-order-id=quick]").inner_text()
    assert "stale" in page.locator("[data-order-id=api]").inner_text()
    assert "another sha256" in page.locator("[data-blocker=temple-champion]").inner_text()
    with db.read(play.engine) as connection:
        total = connection.execute(sa.select(sa.func.sum(db.blessings.c.xp))).scalar()
    assert page.locator("[data-xp-sum]").inner_text() == f"{total:,.1f}"
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    shots = os.environ.get("REALM_SHOTS")
    if shots:
        page.screenshot(path=str(Path(shots) / f"temple-{width}.png"), full_page=True)


def test_asking_an_order_and_what_comes_of_it(realm, open_page):
    give(realm.play, "champion", "fail", mendable=True)
    page = open_page("/temple")
    page.locator("[data-order-id=champion]").get_by_role("button", name="Mend what is safe").click()
    eventually(lambda: realm.play.commands())
    realm.play.emit("temple", "The Temple is asked: champion.", order="champion", status="asked")
    page.wait_for_selector("[data-order-id=champion] >> text=being asked")
    assert realm.play.commands() == [("temple.run", {"order": "champion", "fix": True})]
    give(realm.play, "champion", "ok", 0)
    realm.play.answer()
    page.wait_for_selector("[data-order-id=champion][data-status=ok]")
    page.wait_for_selector("text=Nothing stands in the way.")


def test_a_blocker_asks_before_it_goes_back(realm, open_page):
    """The question is the blocker's own; Leave it gives no order."""
    checkpoint = realm.play.won_battle()
    action = {"kind": "hero.rollback", "payload": {"checkpoint_id": checkpoint}}
    realm.play.emit("alert", "The hero's own practice made it worse.", "trouble", alert_id="c", code="collapse",
                    why="drift", fix="Look.", action=action)  # fmt: skip
    page = open_page("/")
    before = realm.play.commands()
    page.locator("[data-notice]").get_by_role("button", name="Undo").click()
    assert "Nothing is deleted" in page.locator("#ask-sure").inner_text()
    page.get_by_role("button", name="Leave it").click()
    assert realm.play.commands() == before
    page.locator("[data-notice]").get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Do it").click()
    page.wait_for_timeout(500)
    assert realm.play.commands()[-1] == ("hero.rollback", {"checkpoint_id": checkpoint})
