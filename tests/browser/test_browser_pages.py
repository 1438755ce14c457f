"""All pages in a real browser: accessibility, widths, weight, links, uploads, hostile names."""

from __future__ import annotations

import gzip
import time
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

pytestmark = pytest.mark.browser

PAGES = ("/", "/battle", "/quests", "/jobs", "/oracle", "/vault", "/guild", "/temple", "/campaign", "/settings",
         "/saga")  # fmt: skip
HOSTILE = "<img src=x onerror=\"window.__xss='name'\">'\"&amp;<script>window.__xss='script'</script>"
AXE = """async () => (await axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',
    'best-practice']})).violations.map(v => [v.id, v.nodes.slice(0, 4).map(n => n.target.join(' '))])"""


REPORT = {"verdict": "accepted-with-warnings", "rows": {"in": 200, "out": 196, "quarantined": 4}, "reasons": [
    {"fate": "quarantined", "code": "bad_json", "count": 4,
     "examples": [{"line": 3, "text": "bad JSON"}]}]}  # fmt: skip


def full_realm(play) -> None:
    """A realm in which every page has something to show."""
    play.won_battle()
    play.add_quest("questions.jsonl", "high", skill=None, level=None, report=REPORT)
    play.add_quest("later.jsonl", "normal", skill=None, level=None, state="hold")
    play.add_quest("broken.jsonl", "normal", skill=None, level=None, state="refused", error="line 3: no messages")
    play.add_quest("lost.jsonl", "low", skill=None, level=None, state="failed", error="3 attempts")
    play.arm(steps=400, level=3)
    play.trial(2, 500, 723, play.checkpoint_of_last_win(), closed=True, verdict="fail")
    play.begin()
    play.train(60, batch=30)


def eventually(ready, timeout: float = 15.0):
    deadline = time.monotonic() + timeout
    while True:
        value = ready()
        if value:
            return value
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_axe_finds_nothing(realm, open_page, axe, width, height):
    """0 violations, best practice included, on the three main pages in battle and on the home page at rest."""
    full_realm(realm.play)
    page = open_page("/", width, height)
    found = {}
    for path in ("/", "/guild", "/quests"):
        page.goto(realm.url(path))
        page.wait_for_selector("html[data-conn=live]", state="attached")
        page.evaluate(axe)
        found[path] = page.evaluate(AXE)
    realm.play.finish()
    page.goto(realm.url("/"))
    page.evaluate(axe)
    found["idle"] = page.evaluate(AXE)
    assert found == dict.fromkeys(found, [])


def test_axe_on_the_other_pages(realm, open_page, axe):
    full_realm(realm.play)
    page, found = open_page("/saga"), {}
    for path in PAGES:
        if path not in ("/", "/guild", "/quests"):
            page.goto(realm.url(path))
            page.evaluate(axe)
            found[path] = page.evaluate(AXE)
    assert found == dict.fromkeys(found, [])


def test_no_width_scrolls_sideways(realm, open_page):
    full_realm(realm.play)
    page, wide = open_page("/"), []
    for path in PAGES:
        page.goto(realm.url(path))
        for width in (320, 390, 768, 1440):
            page.set_viewport_size({"width": width, "height": 844})
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                wide.append((path, width))
    assert wide == []


def test_home_and_guild_fit_a_laptop_and_buttons_fit_a_thumb(realm, open_page):
    full_realm(realm.play)
    page = open_page("/")
    for path, most in (("/", 900), ("/guild", 1240)):  # four skills are two rows of cards
        page.goto(realm.url(path))
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollHeight") <= most, path
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/guild", "/quests"):
        page.goto(realm.url(path))
        small = page.evaluate("""() => [...document.querySelectorAll('button, select, summary, nav a')].filter(e => {
            const r = e.getBoundingClientRect();
            return r.width && r.height < 44 && e.offsetParent !== null && !e.closest('details');
        }).map(e => [e.textContent.trim().slice(0, 20), Math.round(e.getBoundingClientRect().height)])""")
        assert small == [], path


def test_links_lead_somewhere_and_pages_are_light(realm, open_page):
    """Crawl: no 404; script at most 60 KB and HTML with style at most 40 KB gzipped on every page."""
    full_realm(realm.play)
    page = open_page("/")
    blank = page.context.new_page()
    with httpx.Client(base_url=realm.server.base) as client:
        todo, seen = list(PAGES), {}
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            answer = client.get(path)
            seen[path] = answer.status_code
            if "text/html" not in answer.headers["content-type"] or len(seen) > 60:
                continue
            links = blank.evaluate("""html => [...new DOMParser().parseFromString(html, 'text/html')
                .querySelectorAll('a[href], link[href], script[src], img[src]')].map(e => e.getAttribute('href')
                || e.getAttribute('src')).filter(u => !u.startsWith('data:') && !u.startsWith('#'))""", answer.text)
            todo += [urljoin(path, link).split("#")[0] for link in links]
        assert {path: status for path, status in seen.items() if status != 200} == {}
        assert len(seen) > 25
        for path in PAGES:
            page.goto(realm.url(path))
            page.wait_for_selector("html[data-conn=live]", state="attached")
            loaded = page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
            scripts = {u for u in loaded if urlsplit(u).path.endswith(".js")} | {realm.url("/static/js/line.worker.js")}
            styles = {u for u in loaded if urlsplit(u).path.endswith(".css")}
            packed = {u: len(gzip.compress(client.get(u).content)) for u in scripts | styles}
            html = len(gzip.compress(client.get(path).content))
            assert sum(packed[u] for u in scripts) <= 60_000, path
            assert html + sum(packed[u] for u in styles) <= 40_000, path


def test_files_land_in_the_inbox_good_or_broken(realm, open_page):
    """The Tavern judges nothing: both files lie in the chosen lane for the Cleric (ux A6)."""
    page = open_page("/quests")
    assert page.locator(".path code").first.inner_text() == str(realm.home.inbox)
    page.select_option("#up-lane", "high")
    good, broken = b'{"messages": []}\n', b"{this is no JSON\n\xff\xfe"
    page.set_input_files("#up-file", [{"name": "good.jsonl", "mimeType": "application/jsonl", "buffer": good},
                                      {"name": "broken.jsonl", "mimeType": "application/jsonl", "buffer": broken}])
    page.get_by_role("button", name="Send to the inbox").click()
    eventually(lambda: page.locator("ul.upl li").all_inner_texts().__len__() == 2
               and all("lies in the inbox" in t for t in page.locator("ul.upl li").all_inner_texts()))
    assert (realm.home.inbox / "high" / "good.jsonl").read_bytes() == good
    assert (realm.home.inbox / "high" / "broken.jsonl").read_bytes() == broken
    eventually(lambda: page.locator('.col-q[data-col="inbox"] .card').count() == 2)
    page.set_input_files("#up-file", [{"name": "rows.csv", "mimeType": "text/csv", "buffer": b"a,b\n"}])
    page.get_by_role("button", name="Send to the inbox").click()
    eventually(lambda: "reads .jsonl files only" in page.locator("ul.upl li.bad").inner_text())
    assert not list(realm.home.inbox.rglob("rows.csv"))


def test_dropping_a_file_on_the_home_page(realm, open_page):
    page = open_page("/")
    page.evaluate("""() => { const data = new DataTransfer(); data.items.add(new File(['{}\\n'], 'dropped.jsonl'));
        for (const type of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""")
    eventually(lambda: (realm.home.inbox / "normal" / "dropped.jsonl").exists())
    eventually(lambda: "lies in the inbox" in page.locator("[data-upload-status]").inner_text())
    eventually(lambda: "1 file lies in the inbox" in page.locator("#p-quests").inner_text())


def test_hostile_text_is_text(realm, open_page):
    """Names, errors and model text from outside are shown, never run (and the policy would refuse them)."""
    play = realm.play
    play.won_battle()
    play.add_quest(HOSTILE, "high", skill=None, level=None, report={"verdict": HOSTILE, "warnings": [HOSTILE]})
    play.add_quest("x", "low", skill=None, level=None, state="refused", error=HOSTILE)
    play.arm(play.add_quest(HOSTILE + "2", "low", skill=None, level=None), phase=HOSTILE)
    page = open_page("/")
    for path in ("/", "/quests", "/saga?show=all", "/battle", "/jobs"):
        page.goto(realm.url(path))
        page.wait_for_selector("html[data-conn=live]", state="attached")
        assert "<img src=x" in page.locator("main").text_content(), path
        assert page.evaluate("window.__xss") is None and page.locator("main img, main script").count() == 0, path
    page.goto(realm.url("/"))
    page.wait_for_selector("html[data-conn=live]", state="attached")
    play.emit("alert", HOSTILE, "trouble", alert_id="h", code="x", why=HOSTILE)
    play.emit("level", HOSTILE, "deed", kind="skill", skill=HOSTILE, to=HOSTILE, **{"from": 1})
    page.wait_for_selector(".toast")
    page.wait_for_selector("[data-notice]")
    eventually(lambda: HOSTILE in page.locator("#p-log").text_content())
    assert page.evaluate("window.__xss") is None and page.locator(".toast img, main img").count() == 0


def test_quests_move_by_menu_and_are_tried_again(realm, open_page):
    full_realm(realm.play)
    page = open_page("/quests")
    card = page.locator('.card[data-name="questions.jsonl"]')
    key = card.get_attribute("data-quest")
    card.locator("select[data-school]").select_option("champion")
    eventually(lambda: realm.play.commands() == [("quest.school", {"quest_id": key, "school": "champion"})])
    card.locator("select[data-move]").select_option("low")
    eventually(lambda: realm.play.commands()[1:] == [("quest.move", {"quest_id": key, "lane": "low"})])
    from realm.quests import board

    with realm.play.write() as connection:
        board.move(connection, key, "low")
    eventually(lambda: page.locator(f'[data-col="low"] #q-{key}').count() == 1)
    page.get_by_role("button", name="Retry lost.jsonl").click()
    eventually(lambda: realm.play.commands()[-1][0] == "quest.retry")
    page.get_by_role("button", name="Release later.jsonl").click()
    eventually(lambda: realm.play.commands()[-1][0] == "quest.unhold")
    card.locator("summary").click()
    told = card.locator("details").inner_text()
    assert "200 read, 196 passed, 4 quarantined" in told and "line 3: bad JSON" in told


def test_guild_orders_a_trial_and_shows_the_interval(realm, open_page):
    full_realm(realm.play)
    page = open_page("/guild")
    card = page.locator(".skill", has=page.locator("#sk-bin"))
    assert "closed: recall of a table of 723" in card.inner_text() and "69.2%" in card.inner_text()
    assert "of 723, so" in card.inner_text()
    assert card.locator(".pips i.m").count() == 1 and card.locator(".pips i.c").count() == 1
    assert "Line at 90%" in card.locator(".tr svg").get_attribute("aria-label")
    card.get_by_role("button", name="Run trial").click()
    eventually(lambda: realm.play.commands() == [("trial.run", {"skill": "bin"})])
    realm.play.answer()
    card.get_by_role("button", name="Forge quest").click()
    eventually(lambda: realm.play.commands()[-1] == ("idle.generate", {"skill": "bin", "level": 2}))


def test_saga_pages_through_everything(realm, open_page):
    for number in range(130):
        realm.play.emit("alert", f"trouble {number}", "trouble", alert_id=str(number), code="x")
    page = open_page("/saga?show=trouble")
    seen = [t for t in page.locator(".entries .ml").all_text_contents() if t.startswith("trouble")]
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**before=*")
    seen += [t for t in page.locator(".entries .ml").all_text_contents() if t.startswith("trouble")]
    assert seen == [f"trouble {number}" for number in reversed(range(130))]


def test_battle_page_has_table_and_csv(realm, open_page):
    full_realm(realm.play)
    page = open_page("/battle")
    page.wait_for_selector("[data-big-plot=loss] canvas")
    assert page.locator("table tbody tr").count() == 20
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 61 and lines[0].startswith("step,t,loss")


def test_errors_are_pages_with_a_way_back(realm, open_page):
    page = open_page("/")
    open_page.watch.expected = ("404",)
    page.goto(realm.url("/no-such-door"))
    assert "This door leads nowhere" in page.locator("h1").inner_text()
    page.goto(realm.url("/battle/nope"))
    page.get_by_role("link", name="Back to the Tavern").click()
    page.wait_for_selector("[data-battle-state]")


def test_the_memory_calculator_answers_without_a_new_page(realm, open_page):
    page = open_page("/settings")
    page.select_option("#p-vram select[name=hero]", "flo")
    page.locator("#p-vram p[role=status]", has_text="FLO").wait_for()
    page.fill("#p-vram input[name=gb]", "16")
    page.select_option("#p-vram select[name=mode]", "full")
    page.locator("#p-vram p[role=status]", has_text="it does not fit").wait_for()
    asked = {"hero": "flo", "mode": "full", "gb": 16}
    told = httpx.get(realm.url("/api/vram"), params=asked).json()
    assert page.inner_text("#v-total") == f"{told['estimate']['corrected'] / 1e9:.1f} GB"
    key = page.inner_text(".stack-key")
    assert all((name in key) == (size > 0) for name, size in told["estimate"]["parts"].items())
    widths = page.eval_on_selector_all(".stack > i:not([hidden])", "all => all.map(i => i.offsetWidth)")
    assert len(widths) == sum(size > 0 for size in told["estimate"]["parts"].values()) and min(widths) >= 2
    for row in told["modes"]:
        assert f"{row['total'] / 1e9:.1f} GB" in page.inner_text("#p-vram table")
    assert page.locator("#p-vram ol li").count() == len(told["cheaper"]) > 0
    page.goto(realm.url("/settings?hero=pip&mode=lora&batch_size=2"))  # the form also works without script
    assert page.input_value("#p-vram input[name=batch_size]") == "2" and "it fits" in page.inner_text("#p-vram")
