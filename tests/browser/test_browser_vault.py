"""The Vault's pages in a real browser: what they tell, orders and their dialogs, 1440 and 390 px."""

from __future__ import annotations

import pytest
import vault_kit as kit
from test_browser_pages import AXE, eventually

from realm import db
from realm.vault import marks, trash, zones

pytestmark = pytest.mark.browser


def stocked(realm) -> list[str]:
    """Five checkpoints with real files: champion-less, one pinned, one archived, one in the trash."""
    play = realm.play
    ids = {"campaign_id": play.campaign, "run_id": play.run}
    kit.set_settings(realm.home, retention_keep=1, retention_daily=0)
    play.won_battle()
    made = [kit.saved(realm.home, play.engine, ids, step, hours=60 - step / 100, size=40_000)
            for step in (1000, 1100, 1200, 1300, 1400)]
    with db.write(play.engine) as connection:
        marks.pin(connection, made[1], True)
        marks.tag(connection, made[1], ["first try", "v1"])
    zones.move(realm.home, play.engine, made[2], "deep")
    trash.delete(realm.home, play.engine, {made[3]: "test"})
    return made


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_pages_are_accessible_and_fit(realm, open_page, axe, tmp_path, width, height):
    made = stocked(realm)
    page = open_page("/vault", width, height)
    for name, path in (("vault", "/vault"), ("anchor", f"/vault/{made[1]}?other={made[0]}"),
                       ("archive", f"/vault/{made[2]}"), ("deleted", f"/vault/{made[3]}")):
        page.goto(realm.url(path))
        page.wait_for_selector("html[data-conn=live]", state="attached")
        page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
        page.evaluate(axe)
        assert page.evaluate(AXE) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        if width == 390:
            small = page.evaluate("""() => [...document.querySelectorAll('main button, main select')].filter(e => {
                const r = e.getBoundingClientRect(); return r.width && r.height < 44; }).map(e => e.textContent)""")
            assert small == [], path


def test_it_tells_what_the_ledger_says(realm, open_page):
    made = stocked(realm)
    page = open_page("/vault")
    text = page.locator("main").inner_text()
    assert "1,000" in text and "first try" in text and "archive" in text
    rows = page.locator("section[aria-labelledby=v-r] tbody tr").all_inner_texts()
    assert any("1,000" in row and "retention_keep 1" in row for row in rows)
    assert not any("1,100" in row for row in rows), "pinned"
    assert "python3 -m training vault retention --apply" in text
    page.locator(f'a[href="/vault/{made[1]}"]').first.click()
    page.wait_for_url("**/vault/*")
    text = page.locator("main").inner_text()
    assert f"vault unpin {made[1]}" in text and "pinned" in text
    page.locator("select[name=other]").select_option(made[0])
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**other=*")
    assert "quests in both" in page.locator("main").inner_text()


def test_orders_ask_before_they_take_away(realm, open_page):
    made = stocked(realm)
    page = open_page(f"/vault/{made[0]}")
    page.get_by_role("button", name="Delete").click()
    dialog = page.locator("#ask-delete")
    assert "step 1000 of pip" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert realm.play.commands() == []
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    eventually(lambda: realm.play.commands() == [("vault.delete", {"checkpoint_id": made[0]})])
    page.get_by_role("button", name="Pin", exact=True).click()
    eventually(lambda: ("vault.pin", {"checkpoint_id": made[0], "pinned": True}) in realm.play.commands())
    page.get_by_role("button", name="Move to warm").click()
    eventually(lambda: ("vault.move", {"checkpoint_id": made[0], "zone": "warm"}) in realm.play.commands())
    page.goto(realm.url(f"/vault/{made[1]}"))
    page.wait_for_selector("html[data-conn=live]", state="attached")
    before = len(realm.play.commands())
    page.get_by_role("button", name="Delete").click(force=True)
    eventually(lambda: "protected: pinned" in page.locator("section[aria-labelledby=a-a] [data-oops]").inner_text())
    assert len(realm.play.commands()) == before


def test_retention_shows_its_dry_run_first_and_the_page_follows(realm, open_page):
    made = stocked(realm)
    page = open_page("/vault")
    page.locator("section[aria-labelledby=v-r] button").click()
    dialog = page.locator("#ask-retention")
    assert "checkpoints" in dialog.inner_text()
    dialog.get_by_role("button", name="Apply").click()
    eventually(lambda: ("vault.retention", {}) in realm.play.commands())
    trash.delete(realm.home, realm.play.engine, {made[0]: "retention"})
    eventually(lambda: "1,000" in page.locator("section[aria-labelledby=v-t]").inner_text())
