"""The Tavern in a real browser: states, live numbers, orders, the lost line, tabs."""

from __future__ import annotations

import re
import socket
import time

import pytest

from realm import db
from realm.state.stream import hub_of

pytestmark = pytest.mark.browser

RUNNING = "document.getAnimations().filter(a => a.playState === 'running').length"


def fighting(play, steps: int = 60, total: int = 400, **more) -> None:
    play.won_battle()
    play.arm(steps=total, **more)
    play.begin()
    play.train(steps, batch=30)


def text(page, key: str) -> str:
    return page.locator(f'[data-live="{key}"]').first.inner_text().strip()


def eventually(ready, timeout: float = 15.0):
    deadline = time.monotonic() + timeout
    while True:
        value = ready()
        if value:
            return value
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_every_state_is_one_state(realm, open_page):
    """Pill, stage and numbers agree in each state, and only "In battle" says so (ux A2)."""
    play, page = realm.play, None

    def check(state: str, word: str) -> None:
        nonlocal page
        if page is None:
            page = open_page()
        else:
            page.goto(realm.url())
        stages = page.locator("[data-battle-state]")
        assert stages.count() == 1 and stages.get_attribute("data-battle-state") == state
        assert page.locator("[data-state-word]").inner_text().strip() == word
        body = page.locator("main").inner_text()
        assert ("In battle" in body) == (state == "training"), state
        assert "None" not in body and "undefined" not in body and "NaN" not in body

    check("idle", "At rest")
    play.arm(phase="loading weights")
    check("arming", "Arming")
    assert "loading weights" in page.locator(".say").inner_text()
    assert text(page, "loss") == "not yet" and text(page, "step") == "not yet"
    play.begin()
    play.train(30)
    check("training", "In battle")
    play.desire("pause")
    check("pausing", "Pausing")
    play.enter("paused")
    check("paused", "Paused")
    assert page.get_by_role("button", name="Resume").count() == 1
    play.desire("stop")
    check("stopping", "Stopping")
    play.desire("run")
    play.enter("trial")
    check("trial", "On trial")
    play.enter("done", outcome="trained", ended_at=db.now())
    check("done", "Judging")
    play.finish()
    check("idle", "At rest")
    play.mode("rest")
    check("idle", "Resting")
    assert page.get_by_role("button", name="Train").first.is_visible()
    play.mode("train")
    play.arm()
    play.begin()
    play.enter("failed", outcome="failed", error="Loss was not a number at step 409.", ended_at=db.now())
    check("failed", "Fallen")
    assert "Loss was not a number at step 409." in page.locator("[data-battle-state]").inner_text()


def test_before_the_first_campaign(tmp_path, browser, open_page, realm):
    from tavern_kit import Server, fresh_home

    from realm.tavern.app import create_app

    home = fresh_home(tmp_path / "new")
    server = Server(lambda: create_app(home))
    try:
        page = browser.new_page()
        page.goto(server.base)
        body = page.locator("main").inner_text()
        assert "No hero has set out yet" in body and "python3 -m training start-all" in body
        assert page.locator("[data-notice=arena]").is_visible()
        page.close()
    finally:
        server.stop()


def test_ticks_write_numbers_that_agree(realm, open_page):
    """Damage is 1 / loss, strain is loss - floor, step is the server's, at every sample (ux A1)."""
    fighting(realm.play)
    page = open_page()
    seen = set()
    for _ in range(12):
        realm.play.train(3)
        page.wait_for_timeout(120)
        loss, dmg, strain, floor = page.evaluate(
            "['loss', 'dmg', 'strain', 'floor'].map(k => document.querySelector(`[data-live=${k}]`).textContent)")
        assert float(dmg) == pytest.approx(1 / float(loss), rel=2e-3)
        assert float(strain) == pytest.approx(float(loss) - float(floor), abs=1.1e-3)
        seen.add(text(page, "step"))
    assert len(seen) >= 4, "the page must move with the ticks"
    eventually(lambda: text(page, "step") == str(realm.play.step - 120))
    assert text(page, "qhp") == f"{400 - (realm.play.step - 120)} / 400 steps left"
    assert text(page, "eta").endswith("s") and page.locator("#qhp").get_attribute("aria-valuenow") == text(page, "step")


def test_zone_is_told_once(realm, open_page):
    """Gauge label, name and lit row are the same zone, the tracker's with its hysteresis (ux A3)."""
    play = realm.play
    play.arm(steps=1000)
    play.begin()
    play.train(120, loss=0.2, batch=60)
    page = open_page()

    def told() -> tuple[str, str, str]:
        label = page.locator(".gauge svg").get_attribute("aria-label")
        return (re.search(r"in the (\w+) zone", label)[1], page.locator("[data-zone-name]").inner_text(),
                page.locator(".zones [aria-current] b").inner_text())

    assert told() == ("Productive",) * 3
    play.train(10, loss=30.0)  # far above, but for less than 20 steps
    page.wait_for_timeout(600)
    assert told() == ("Productive",) * 3
    play.train(15, loss=30.0)
    eventually(lambda: told() == ("Overload",) * 3)


def test_pause_posts_once_and_the_page_follows(realm, open_page):
    fighting(realm.play)
    page = open_page()
    page.get_by_role("button", name="Pause").dblclick()
    eventually(lambda: realm.play.commands())
    page.wait_for_timeout(200)
    assert realm.play.commands() == [("battle.pause", {})]
    assert page.locator("[data-battle-state]").get_attribute("data-battle-state") == "training", "no optimistic state"
    realm.play.desire("pause")  # the arena's answer comes only when the step is over
    page.wait_for_selector("[data-battle-state=pausing]")
    realm.play.answer()
    realm.play.enter("paused")
    page.wait_for_selector("[data-battle-state=paused]")
    page.locator("main").press("p")
    eventually(lambda: realm.play.commands()[-1] == ("battle.resume", {}))
    realm.play.desire("run")
    realm.play.enter("training")
    realm.play.answer()
    page.wait_for_selector("[data-battle-state=training]")


def test_stop_asks_and_escape_keeps_fighting(realm, open_page):
    fighting(realm.play)
    page = open_page()
    stop = page.get_by_role("button", name="Stop the battle, asks first")
    stop.click()
    page.wait_for_selector("#ask-stop[open]")
    assert "bin-L3-120" in page.locator("#ask-stop").inner_text()
    page.keyboard.press("Escape")
    page.wait_for_selector("#ask-stop:not([open])", state="attached")
    assert page.evaluate("document.activeElement.dataset.order") == "battle/stop", "focus returns to the button"
    assert realm.play.commands() == []
    stop.click()
    page.locator("#ask-stop").get_by_role("button", name="Stop").click()
    eventually(lambda: realm.play.commands() == [("battle.stop", {})])


def test_a_refused_order_says_why_at_the_button(realm, open_page):
    fighting(realm.play)
    page = open_page()
    page.get_by_role("button", name="Save a checkpoint now").click()
    eventually(lambda: realm.play.commands())
    realm.play.answer("failed", "the disk has no room for a checkpoint")
    said = page.locator(".stage [data-oops]")
    eventually(lambda: "no room for a checkpoint" in said.inner_text())
    page.wait_for_timeout(1000)  # the panel has fetched itself again meanwhile
    assert "no room for a checkpoint" in said.inner_text(), "the reason stays until the next order"


def test_no_step_for_five_seconds_is_late(realm, open_page):
    """The machine's samples still come, so the line is good; it is the battle that is silent."""
    fighting(realm.play)
    page = open_page()
    realm.play.train(3)
    eventually(lambda: text(page, "step") == "63")
    assert page.locator("#conn-t").inner_text() == "Live"
    page.wait_for_selector("html[data-conn=late]", state="attached", timeout=20_000)
    silent, told = page.evaluate("import('/static/js/line.js').then(m => [m.status.newsAt, m.toldAt])")
    assert silent - told > 2000, "samples came while no step did"
    assert page.locator("#conn-t").inner_text() == "Late"
    assert re.fullmatch(r"no news for \d+s", page.locator("#conn-d").inner_text())
    before = text(page, "eta")
    page.wait_for_timeout(2200)
    assert page.locator("html").get_attribute("data-conn") == "late" and text(page, "eta") == before
    assert page.locator("#lost").count() == 0, "the line itself is there"
    realm.play.train(4)
    page.wait_for_selector("html[data-conn=live]", state="attached")
    eventually(lambda: text(page, "step") == "67")
    assert page.locator("#conn-t").inner_text() == "Live"


def test_lost_line_and_back(realm, open_page):
    """Reconnecting, with the age of the numbers and orders off; Live again after return (ux A4 but its seconds)."""
    fighting(realm.play)
    page = open_page()
    realm.play.train(3)
    eventually(lambda: text(page, "step") == "63")
    open_page.watch.expected = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE")
    realm.server.stop()
    page.wait_for_selector("html[data-conn=reconnecting]", state="attached", timeout=20_000)
    assert page.locator("#conn-t").inner_text() == "Reconnecting"
    assert re.search(r"from \d\d:\d\d:\d\d, \d+s ago", page.locator("#lost").inner_text())
    pause = page.get_by_role("button", name="Pause")
    assert pause.get_attribute("aria-disabled") == "true" and "line" in pause.get_attribute("title")
    pause.click(force=True)
    assert "wait until it is back" in page.locator(".stage [data-oops]").inner_text()
    assert text(page, "step") == "63", "numbers stay"
    realm.play.train(7)
    realm.play.emit("alert", "Written while nobody listened.", "trouble", alert_id="x", code="x")
    realm.server.start()
    page.evaluate("document.querySelector('[data-retry]')?.click()")  # it may have come back by itself
    page.wait_for_selector("html[data-conn=live]", state="attached", timeout=20_000)
    eventually(lambda: text(page, "step") == "70")
    assert page.locator("#lost").count() == 0 and pause.get_attribute("aria-disabled") is None
    eventually(lambda: "Written while nobody listened." in page.locator("#p-log").inner_text())
    assert realm.play.commands() == []


@pytest.mark.slow
def test_line_to_a_mute_server_is_tried_again(realm, open_page):
    """The other end takes the connection and never answers (sleep, a hung process): the page does not wait for ever."""
    fighting(realm.play)
    page = open_page()
    realm.play.train(3)
    eventually(lambda: text(page, "step") == "63")
    open_page.watch.expected = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE",
                                "ERR_CONNECTION_RESET")  # fmt: skip
    realm.server.stop()
    with socket.socket() as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mute.bind(("127.0.0.1", realm.server.port))
        mute.listen(16)
        page.wait_for_selector("html[data-conn=reconnecting]", state="attached", timeout=20_000)
        mute.settimeout(20)
        held, _ = mute.accept()  # the line's next attempt, left without an answer
        eventually(lambda: int(page.evaluate("import('/static/js/line.js').then(m => m.status.attempt)")) >= 3, 45)
    realm.play.train(7)
    realm.server.start()
    page.wait_for_selector("html[data-conn=live]", state="attached", timeout=30_000)
    eventually(lambda: text(page, "step") == "70")
    held.close()


def test_nine_tabs_one_stream(realm, browser, open_page):
    fighting(realm.play)
    first = open_page()
    context = first.context
    tabs = [first, *(open_page("/guild", context=context) for _ in range(7)), open_page(context=context)]
    assert hub_of(realm.home).clients == 1
    realm.play.train(5)
    for tab in (tabs[0], tabs[-1]):
        tab.bring_to_front()  # a hidden tab does not paint
        eventually(lambda t=tab: text(t, "step") == "65")
    assert hub_of(realm.home).clients == 1


def test_calm_holds_and_catches_up(realm, open_page):
    fighting(realm.play)
    page = open_page()
    page.keyboard.press("c")
    assert page.locator("[data-toggle=calm]").first.get_attribute("aria-pressed") == "true"
    before = page.evaluate("[...document.querySelectorAll('[data-live]')].map(e => e.textContent)")
    for _ in range(8):
        realm.play.train(2)
        page.wait_for_timeout(120)
    assert page.evaluate("[...document.querySelectorAll('[data-live]')].map(e => e.textContent)") == before
    assert page.evaluate(RUNNING) == 0
    page.keyboard.press("c")
    eventually(lambda: text(page, "step") == "76")


def test_reduced_motion_has_no_running_animation(realm, open_page):
    fighting(realm.play)
    page = open_page(reduced_motion="reduce")
    realm.play.train(5)
    eventually(lambda: text(page, "step") == "65")
    assert page.evaluate(RUNNING) == 0 and page.locator(".dmg").count() == 0


def test_damage_numbers_are_few(realm, open_page):
    fighting(realm.play)
    page = open_page()
    most = 0
    for _ in range(12):
        realm.play.train(4)
        page.wait_for_timeout(100)
        most = max(most, page.locator(".dmg").count())
    assert 1 <= most <= 3


def test_level_up_is_announced_once(realm, open_page):
    fighting(realm.play)
    page = open_page()
    checkpoint = realm.play.checkpoint()
    trial = realm.play.trial(2, 720, 723, checkpoint, closed=True)
    realm.play.level_up(2, trial, closed=True)
    page.wait_for_selector(".toast")
    assert "BIN 2 is mastered" in page.locator(".toast").inner_text() and page.locator(".toast").count() == 1
    eventually(lambda: "BIN 2" in page.locator(".skl").inner_text())
    page.locator(".toast button").click()
    assert page.locator(".toast").count() == 0


def test_mortal_view_swaps_words_and_is_remembered(realm, open_page):
    fighting(realm.play)
    page = open_page()
    assert "Battle log" in page.locator("#p-log h2").inner_text()
    page.keyboard.press("m")
    assert page.locator("#p-log h2").inner_text() == "Event log"
    assert page.locator("#h-bt").inner_text() == "bin-L3-120"
    page.reload()
    assert page.locator("#p-log h2").inner_text() == "Event log"


def test_log_filters_and_hold(realm, open_page):
    fighting(realm.play)
    page = open_page()
    deeds = page.locator("#p-log .entries li").count()
    page.get_by_role("button", name="All", exact=True).click()
    page.wait_for_selector("#log-all[aria-pressed=true]")
    assert page.locator("#p-log .entries li").count() > deeds
    page.get_by_role("button", name="Hold", exact=True).click()
    realm.play.emit("alert", "Trouble while held.", "trouble", alert_id="h", code="x")
    page.wait_for_selector("#log-new:not([hidden])")
    assert page.locator("#log-new").inner_text() == "1 new"
    assert "Trouble while held." not in page.locator("#p-log").inner_text()
    page.locator("#log-new").click()
    eventually(lambda: "Trouble while held." in page.locator("#p-log").inner_text())
    assert page.locator("#log-all").get_attribute("aria-pressed") == "true", "the filter stays"


def test_alert_bar_shows_one_and_can_be_ignored(realm, open_page):
    fighting(realm.play)
    page = open_page()
    assert page.locator("[data-notice]").count() == 0
    realm.play.emit("alert", "Checkpoint of step 120 is damaged.", "trouble", alert_id="c", code="x", fix="Restore it.")
    page.wait_for_selector("[data-notice]")
    assert page.locator("[data-notice]").count() == 1
    assert "Restore it." in page.locator("[data-notice]").inner_text()
    page.locator("[data-ignore]").click()
    assert page.locator("[data-notice]").is_hidden()


def test_curves_are_drawn_and_grow(realm, open_page):
    fighting(realm.play)
    page = open_page()
    page.wait_for_selector("[data-plot=loss] canvas")
    eventually(lambda: page.locator("[data-ax=loss-to]").inner_text() == "60")
    realm.play.train(10)
    eventually(lambda: page.locator("[data-ax=loss-to]").inner_text() == "70")
    label = page.locator("[data-plot=damage]").get_attribute("aria-label")
    assert "70 steps" in label and "best hit" in label
    inked = page.evaluate("""() => { const c = document.querySelector('[data-plot=loss] canvas');
        return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0) }""")
    assert inked


def test_keyboard_alone_reaches_pause(realm, open_page):
    fighting(realm.play)
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        focus = page.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e.dataset.order || '', s.outlineStyle, parseFloat(s.outlineWidth)] }""")
        assert focus[1] != "none" and focus[2] >= 2, f"focus must be seen at {focus}"
        if focus[0] == "battle/pause":
            break
    else:
        raise AssertionError("Pause was not reached in 12 steps from the skip link")
    page.keyboard.press("Enter")
    eventually(lambda: realm.play.commands() == [("battle.pause", {})])
    page.keyboard.press("g")
    page.keyboard.press("u")
    page.wait_for_url("**/guild")
