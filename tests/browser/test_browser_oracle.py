"""The Oracle's page in a real browser, against a live Oracle with real checkpoints behind the Tavern."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import oracle_kit as kit
import pytest
from tavern_kit import Play, Server, fresh_home
from test_browser_pages import AXE

from realm import services
from realm.oracle.backends.local import Generation
from realm.settings import RealmHome

pytestmark = pytest.mark.browser

HOSTILE = "<think>hm, 7?</think><img src=x onerror=\"window.__xss=1\"><script>window.__xss=1</script> 7"
SIZES = [(1440, 900), (390, 844)]


@pytest.fixture(scope="module")
def oracle_home(tmp_path_factory):
    """A realm home with three checkpoints (`taught` writes HOSTILE) and a live Oracle."""
    from realm import db

    root = tmp_path_factory.mktemp("oracle") / "realm"
    home = fresh_home(root)
    play = Play(home)
    engine = db.connect(home)
    ids = {"campaign_id": play.campaign, "run_id": play.run}
    profile = kit.hero_kit.micro_profile()
    made = SimpleNamespace(
        first=kit.checkpoint(home, engine, ids, profile, 10, 0.2),
        taught=kit.checkpoint(home, engine, ids, profile, 20, answers=HOSTILE),
        third=kit.checkpoint(home, engine, ids, profile, 30, 0.3),
    )
    play.close()
    engine.dispose()
    with kit.serving(home) as (url, oracle):
        (root / "settings.yaml").write_text(f"port_oracle: {url.rpartition(':')[2]}\n")
        made.home, made.oracle = RealmHome(root), oracle
        yield made


@pytest.fixture
def realm(oracle_home):
    from realm.tavern.app import create_app

    services.leave_note(oracle_home.home, "arena", os.getpid())
    server = Server(lambda: create_app(oracle_home.home))
    yield SimpleNamespace(**vars(oracle_home), server=server, url=lambda path="/": server.base + path)
    server.stop()


def ask(page, text: str) -> None:
    page.focus("#o-say")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def done(page, count: int = 1) -> None:
    page.wait_for_function("n => document.querySelectorAll('.o-turn.it .o-foot span').length >= n && "
                           "document.getElementById('o-stop').hidden", arg=count)  # fmt: skip


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_chat_streams_and_shows_text_as_text(realm, open_page, axe, width, height):
    page = open_page("/oracle", width, height)
    page.select_option("#o-model", realm.taught)
    ask(page, "Compute: add(3, 4)")
    done(page)
    assert page.inner_text(".o-turn.it .o-text") == HOSTILE.partition("</think>")[2].strip()
    assert page.locator(".o-turn.it details summary").inner_text() == "Thinking"
    assert page.locator(".o-turn.it details div").text_content() == "hm, 7?"
    assert page.evaluate("window.__xss") is None and page.locator(".o-turn img, .o-turn script").count() == 0
    foot = page.inner_text(".o-turn.it .o-foot")
    assert "tokens" in foot and "a second" in foot and "first after" in foot
    page.wait_for_selector("#o-status .row")
    assert "step 20" in page.inner_text("#o-status")
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The whole conversation is sent: the same question again is another one now.
    ask(page, "<b>again</b>")
    done(page, 2)
    assert page.locator(".o-turn.me .o-text").last.inner_text() == "<b>again</b>"
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".o-turn").count() == 0


def test_stop_keeps_what_was_said(realm, open_page):
    page = open_page("/oracle")
    page.select_option("#o-model", realm.first)
    ask(page, "tell me everything")
    page.wait_for_function("() => document.querySelector('.o-turn.it .o-text')?.textContent.length > 20")
    page.keyboard.press("Escape")
    done(page)
    assert "stopped" in page.inner_text(".o-turn.it .o-foot") and len(page.inner_text(".o-turn.it .o-text")) > 20
    kit.until(lambda: realm.oracle.busy == 0, "the writing ended", 5)
    assert page.evaluate("document.activeElement.id") == "o-say"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_compare_three_and_stop_them_all(realm, open_page, axe, width, height, monkeypatch):
    step, stopped = Generation.step, threading.Event()

    def unhurried(generation: Generation) -> bool:
        stopped.wait(0.05)  # the tiny hero would be done before a person could press Stop
        return step(generation)

    monkeypatch.setattr(Generation, "step", unhurried)
    page = open_page("/oracle", width, height)
    page.get_by_role("button", name="Compare").click()
    for letter, name in (("A", realm.first), ("B", realm.taught), ("C", realm.third)):
        page.get_by_label(f"Checkpoint {letter}").select_option(name)
    ask(page, "Compute: add(3, 4)")
    page.wait_for_function("() => [...document.querySelectorAll('.o-rivals .o-text')]"
                           ".filter(t => t.textContent).length == 3")  # fmt: skip
    page.get_by_role("button", name="Stop", exact=True).click()
    stopped.set()
    page.wait_for_function("() => document.getElementById('o-stop').hidden", timeout=5000)
    kit.until(lambda: realm.oracle.busy == 0, "all three ended", 2)
    assert all(text for text in page.locator(".o-rivals .o-text").all_inner_texts())
    assert page.evaluate("window.__xss") is None
    page.locator(".o-how summary").click()
    page.fill("#o-seed", "3")
    page.fill("#o-max_tokens", "40")
    page.check("#o-blind")
    ask(page, "Compute: add(3, 4)")
    done(page, 6)
    voices = page.locator(".o-rivals").last
    assert voices.locator("h3").all_inner_texts() == ["Voice 1", "Voice 2", "Voice 3"]
    voices.get_by_role("button", name="This one").first.click()
    assert "your choice" in voices.locator("h3").first.inner_text() and "step" in voices.inner_text()
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_public_problem_is_marked(realm, open_page):
    page = open_page("/oracle")
    page.select_option("#o-model", realm.taught)
    page.locator(".o-how summary").click()
    page.fill("#o-max_tokens", "60")
    page.get_by_role("button", name="Ask a public problem").click()
    done(page)
    assert page.locator(".o-foot .right, .o-foot .wrong").count() == 1


def test_a_checkpoint_that_breaks_is_named(realm, open_page):
    """A flipped byte: the page says which file, and nothing of it is loaded."""
    folder = next(realm.home.vault.glob("*/*/*-30"))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    realm.oracle.engine.unload_idle(0)
    open_page.watch.expected = ("503",)
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        page = open_page("/oracle")
        page.select_option("#o-model", realm.third)
        ask(page, "hi")
        done(page)
        assert "model.safetensors" in page.inner_text(".o-turn.it .o-foot")
        assert realm.third not in [entry["id"] for entry in realm.oracle.engine.status()]
    finally:
        file.write_bytes(whole)


def test_an_oracle_that_is_down_says_so(realm, open_page, monkeypatch):
    gone = realm.home.settings.model_copy(update={"port_oracle": 1})
    monkeypatch.setattr(realm.home, "settings", gone)
    open_page.watch.expected = ("503",)
    page = open_page("/oracle")
    page.wait_for_selector("#o-status .oops")
    assert "start-all" in page.inner_text("#o-status")
    ask(page, "hi")
    done(page)
    assert "does not answer" in page.inner_text(".o-turn.it .o-foot")
