"""Pages without a browser: what is printed against what is in the database, and the forms numbers take."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from tavern_kit import Play, fresh_home

from realm import db, events, lore, services
from realm.guild.strain import ZONES, zone_of
from realm.state import momentum
from realm.state.reader import read_snapshot
from realm.state.stream import hub_of
from realm.tavern import app as tavern_app
from realm.tavern.views import drawings, log, pages, words
from realm.tavern.views import home as home_views

ROOT = Path(__file__).resolve().parents[1]
STATIC = tavern_app.STATIC
BASE = "http://localhost:8888"
PAGES = [href for href, _, _ in tavern_app.NAV] + ["/saga"]


@pytest.fixture
def home(tmp_path):
    made = fresh_home(tmp_path / "realm")
    services.leave_note(made, "arena")
    return made


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


@pytest.fixture
def client(home):
    with TestClient(tavern_app.create_app(home), base_url=BASE, raise_server_exceptions=False) as made:
        yield made
    hub_of(home).close()


def facts(play):
    with db.read(play.engine) as connection:
        return home_views.facts(connection, play.home)


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_before_the_first_campaign(client, path):
    answer = client.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert re.search(r"<title>\w+ - The Realm of Training</title>", answer.text)
    assert "None" not in re.sub(r"<[^>]*>", " ", answer.text).replace("&#34;none&#34;", "")


def test_every_page_has_one_heading_and_the_landmarks(client, play):
    play.won_battle()
    for path in PAGES:
        text = client.get(path).text
        assert text.count("<h1") == 1 and text.count("<main ") == 1 and 'lang="en"' in text, path
        assert 'class="skip" href="#main"' in text and 'aria-label="Realm"' in text, path


def test_home_page_prints_the_snapshot(client, home, play):
    """Contracts C11: page, /api/state and database at the same event id."""
    play.won_battle()
    play.arm(steps=200)
    play.begin()
    play.train(50)
    text, shot = client.get("/").text, client.get("/api/state").json()
    assert f'data-event-id="{shot["event_id"]}"' in text and shot["event_id"] == read_snapshot(home).event_id

    def live(key: str) -> str:
        return re.search(rf'data-live="{key}"[^>]*>([^<]*)<', text)[1]

    battle, hero = shot["battle"], shot["hero"]
    assert live("loss") == f"{battle['loss']:.4f}" and live("dmg") == f"{battle['damage']:.2f}"
    assert live("strain") == f"{battle['strain']:.3f}" and live("step") == str(battle["step"]) == "50"
    assert live("qhp") == "150 / 200 steps left" and live("eta") == words.duration(battle["eta_s"])
    assert live("effort") == f"{battle['effort']:,.1f}" and live("toks") == words.compact(battle["tokens_per_s"])
    assert live("level") == str(hero["level"]) and live("lvl") == f"{hero['step']} / 1,000 steps"
    assert "BIN 1</span>" in text and f"{hero['effort']:.1f}" in text and "40.0" in text


def test_what_was_never_seen_is_not_yet(client, play):
    text = client.get("/").text
    stats = re.search(r'<dl class="stats">.*?</dl>', text, re.S)[0]
    assert re.findall(r"<dd>([^<]*)</dd>", stats).count("not yet") == 4  # accuracy, clarity, trial strain, efficiency
    assert "no steps yet" in text and "0.92" not in text


def test_efficiency_needs_a_measured_gain(client, play):
    play.won_battle()
    assert _stat(client, "Efficiency") == "not yet"
    play.enter("done", loss_before=0.9, loss_after=0.6)
    assert float(_stat(client, "Efficiency")) == pytest.approx(1000 * 0.3 / play.tracker.effort, abs=0.006)


def test_clarity_and_trial_strain_come_from_the_last_trial(client, play):
    play.won_battle()
    assert _stat(client, "perplexity") == "0.819"  # exp(-0.2)
    assert _stat(client, "Held-out excess") == "0.200"
    assert _stat(client, "Accuracy") == "98.4%"


def _stat(client, name: str) -> str:
    stats = re.search(r'<dl class="stats">.*?</dl>', client.get("/").text, re.S)[0]
    cell = next(cell for cell in stats.split("<div ")[1:] if name in cell.split("<dd>")[0])
    return cell.split("<dd>")[1].split("<")[0].strip()


@pytest.mark.parametrize("name", [*tavern_app.PANELS, "log", "rail"])
def test_every_panel_is_the_pages_own_piece(client, play, name):
    play.won_battle()
    answer = client.get(f"/ui/panels/{name}")
    assert answer.status_code == 200 and f'id="p-{name}"' in answer.text
    assert "<html" not in answer.text and f'hx-get="/ui/panels/{name}' in answer.text


def test_panel_events_are_ones_the_line_tells(client, play):
    """Every event that a panel waits for is sent by line.js, and every kind it names exists."""
    play.won_battle()
    text = (STATIC / "js" / "line.js").read_text(encoding="utf-8")
    table = re.search(r"const PANELS = \{(.*?)\};", text, re.S)[1]
    sent = set(re.findall(r"'(\w+)'", table)) | {"all", "log"}
    kinds = set(re.findall(r"(\w+): \[", table))
    assert kinds <= set(events.KINDS)
    waited = set()
    for path in PAGES:
        waited |= set(re.findall(r"realm:(\w+) from:body", client.get(path).text))
    assert waited and waited <= sent


def test_guild_says_closed_and_shows_the_interval(client, play):
    checkpoint = play.won_battle()
    play.arm()
    play.trial(1, 60, 100, checkpoint, kind="retention", verdict="regression")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", client.get("/guild").text))
    assert "closed: recall of a table of 723" in text and "unproven: level 1" in text
    assert "60 of 100" in text and "50% to 69%" in text and "Mastered when 90 % of the whole table is right." in text


def test_guild_card_and_api_agree_on_the_training_level(client, play):
    """However many retention trials came since: the card shows the trial whose accuracy the API tells."""
    checkpoint = play.won_battle()
    play.arm()
    play.trial(2, 300, 400, checkpoint, closed=True, verdict="fail")
    for _ in range(9):
        play.trial(1, 190, 193, checkpoint, closed=True, kind="retention", verdict="held")
    assert client.get("/api/state").json()["skills"]["bin"]["accuracy"] == 0.75
    card = client.get("/guild").text.split('id="sk-bin"')[1].split("</section>")[0]
    card = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", card))
    assert "300 of 400" in card and "not yet examined" not in card and "193" not in card


def test_open_level_says_how_many_would_pass(client, play):
    checkpoint = play.won_battle()
    play.level_up(2, play.trial(2, 723, 723, checkpoint, closed=True), closed=True)
    play.trial(3, 60, 80, checkpoint)
    text = re.sub(r"\s+", " ", client.get("/guild").text)
    assert "open: fresh problems every trial" in text
    assert "Mastered when 80 % is reached with confidence: 72 right of 80" in text


def test_board_puts_every_quest_in_one_column(home, play):
    play.add_quest("a", "high")
    play.add_quest("b", "normal", state="hold")
    play.add_quest("c", "low", state="refused", error="bad")
    play.add_quest("d", "low", state="skipped")
    play.won_battle()
    play.arm()
    (home.inbox / "new.jsonl").write_text("{}\n")
    with db.read(play.engine) as connection:
        board = pages.quest_board(connection, home_views.facts(connection, home))
    names = {name: [q["name"] for q in items] for name, _, _, _, items in board["columns"]}
    assert names == {"inbox": ["new.jsonl"], "high": ["a"], "normal": ["b"], "low": [], "training": ["bin-L3-120"],
                     "done": ["bin-L1-0"], "failed": ["d", "c"]}  # fmt: skip


def test_saga_pages_without_gap_or_repeat(client, play):
    for number in range(250):
        play.emit("alert", f"number {number}", "trouble", alert_id=str(number), code="x")
    seen, url = [], "/saga?show=trouble"
    while url:
        text = client.get(url).text
        seen += [int(n) for n in re.findall(r'class="ml">number (\d+)<', text)]
        older = re.search(r'href="([^"]+)" rel="next"', text)
        url = older[1].replace("&amp;", "&") if older else None
    assert seen == list(reversed(range(250)))


@pytest.mark.parametrize(("path", "status"), [
    ("/nowhere", 404), ("/battle/nope", 404), ("/ui/panels/nope", 404), ("/saga?show=gossip", 422),
    ("/static/nope.js", 404), ("/static/../app.py", 404),
])  # fmt: skip
def test_wrong_addresses(client, path, status):
    assert client.get(path).status_code == status


def test_people_get_pages_and_programs_json(client, monkeypatch):
    page = client.get("/nowhere")
    assert "Back to the Tavern" in page.text and page.headers["content-type"].startswith("text/html")
    assert client.get("/api/nowhere").json()["detail"] == "Not Found"
    assert "Back to the Tavern" in client.get("/saga?show=gossip").text
    assert "limit" in client.get("/api/log?limit=0").json()["detail"]
    monkeypatch.setattr(home_views, "facts", lambda *a: 1 / 0)
    failed = client.get("/")
    assert failed.status_code == 500 and "division by zero" in failed.text and "Back to the Tavern" in failed.text
    assert "content-security-policy" in client.get("/nowhere").headers


def test_a_missing_database_is_said_in_words(tmp_path):
    from realm.settings import RealmHome

    home = RealmHome(tmp_path / "none").create()
    with TestClient(tavern_app.create_app(home), base_url=BASE, raise_server_exceptions=False) as client:
        answer = client.get("/")
        assert answer.status_code == 503 and "doctor --fix" in answer.text
    hub_of(home).close()


def test_notice_order_worst_first(home, play):
    def notice():
        with db.read(play.engine) as connection:
            return home_views.notice(connection, home_views.facts(connection, home))

    assert notice() is None
    play.arm(steps=2000)
    play.begin()
    play.train(momentum.OVERLOAD_STEPS + 20, loss=2.0, batch=70)
    play.train(30, loss=3.0)
    assert notice()["title"] == "PIP is overloaded." or read_snapshot(home).battle.hint != "back_off"
    play.emit("alert", "Quest q failed.", "trouble", alert_id="q", code="x",
              action={"kind": "quest.retry", "payload": {"quest_id": play.quest}})  # fmt: skip
    assert notice()["act"]["path"].startswith("momentum/alert-") and notice()["act"]["label"] == "Retry the quest"
    play.emit("alert", "The disk is full.", "trouble", alert_id="d", code="disk", fix="Make room.")
    assert notice()["act"] is None
    assert notice()["title"] == "The disk is full." and "Make room." in notice()["text"]
    (home.run / "arena.json").unlink()
    assert notice()["id"] == "arena" and "start-all" in notice()["command"]


def test_no_overload_alarm_before_120_steps(home, play):
    play.arm(steps=2000)
    play.begin()
    play.train(momentum.OVERLOAD_STEPS - 1, loss=2.0, batch=70)
    with db.read(play.engine) as connection:
        assert momentum.momentum(connection, home).blockers == ()


def test_clerics_report_in_words():
    told = pages.report({
        "verdict": "refused", "rows": {"in": 2, "out": 0, "quarantined": 2, "blank": 0}, "sha256": "0" * 64,
        "reasons": [{"fate": "quarantined", "code": "bad_json", "count": 2,
                     "examples": [{"line": 1204, "offset": 9, "text": "bad JSON"}]}],
        "tokens": {"total": 12, "median": 3, "max": 4}, "probe": {"rows": 20}, "warnings": ["short answers"],
        "next_action": "Mend it."})  # fmt: skip
    assert told == [
        ("verdict", "refused"), ("rows", "2 read, 0 passed, 2 quarantined"),
        ("2 quarantined, bad json", "line 1,204: bad JSON"), ("tokens a row", "median 3, longest 4"),
        ("held out", "20 rows measure the loss before and after"), ("warning", "short answers"), ("next", "Mend it."),
    ]  # fmt: skip
    assert pages.report(None) == [] and pages.report({"rows": 3, "tokens": None, "reasons": [{}]}) is not None


# --- words --------------------------------------------------------------------------------------------------------


@given(share=st.floats(0, 1))
def test_percent_never_lies_at_the_ends(share):
    shown = words.percent(share)
    assert (shown == "100.0%") == (share == 1) and (shown == "0.0%") == (share == 0)
    assert abs(float(shown[:-1]) - 100 * share) <= 0.1


@pytest.mark.parametrize(("seconds", "shown"), [
    (None, "not yet"), (0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (272, "4m 32s"), (3600, "1h 00m"), (7500, "2h 05m"),
    (90000, "1d 01h"),
])  # fmt: skip
def test_duration(seconds, shown):
    assert words.duration(seconds) == shown


def test_forms_of_numbers():
    assert [words.number(v, d) for v, d in ((None, 3), (1234.5, 0), (0.24104, 4))] == ["not yet", "1,234", "0.2410"]
    assert [words.size(v) for v in (None, 812, 2_000_000, 1.25e9)] == ["not yet", "812 B", "2.0 MB", "1.2 GB"]
    assert [words.compact(v) for v in (None, 640.2, 9800)] == ["not yet", "640", "9.8k"]
    assert [words.parameters(v) for v in (0.0005, 0.6, 4)] == ["0.5M", "600M", "4B"]
    assert [words.pace(v) for v in (None, 0.613, 20)] == ["not yet", "0.61", "20.0"]


def test_zone_words_are_the_trackers_borders():
    assert tuple(words.ZONE_WORDS) == ZONES
    for strain, zone in ((0.099, "recovery"), (0.1, "productive"), (0.299, "productive"), (0.3, "stretch"),
                         (0.5, "stretch"), (0.501, "overload")):  # fmt: skip
        assert zone_of(strain) == zone
    edges = [float(x) for _, borders, _ in words.ZONE_WORDS.values() for x in re.findall(r"\d\.\d", borders)]
    assert edges == [0.1, 0.1, 0.3, 0.3, 0.5, 0.5]


@given(strain=st.floats(0, 50), zone=st.sampled_from(ZONES))
def test_gauge_needle_stays_on_the_dial_and_says_the_number(strain, zone):
    assert -90 <= drawings.angle(strain) <= 90
    svg = str(drawings.gauge(strain, zone))
    assert f"Strain gauge: {strain:.3f}, in the {words.ZONE_WORDS[zone][0]} zone." in svg
    assert svg.count("data-on") == 1 and f'data-zone="{zone}" data-on' in svg


def test_every_glossary_word_a_page_uses_exists():
    used = set()
    for template in (ROOT / "src/realm/tavern/templates").rglob("*.j2"):
        used |= set(re.findall(r"term\('([^']+)'\)", template.read_text(encoding="utf-8")))
    assert used and used <= set(lore.GLOSSARY)


def test_every_kind_of_event_becomes_a_line(play):
    """No kind breaks the log, whatever is missing from its payload; both tellings are there."""
    for kind in events.KINDS:
        play.emit(kind, f"plain words of {kind}")
    with db.read(play.engine) as connection:
        told = {line.kind: line for line in log.lines(connection, "all", limit=100)}
    assert set(told) == set(events.KINDS) - set(log.UNTOLD)
    icons = (ROOT / "src/realm/tavern/templates/icons.j2").read_text(encoding="utf-8")
    for kind, line in told.items():
        assert line.plain.startswith("plain words") or kind == "campaign"
        assert f"'{line.icon}':" in icons, f"{kind} asks for icon {line.icon}"


def test_log_tells_a_trial_with_its_numbers(play):
    checkpoint = play.won_battle()
    play.arm()
    play.trial(3, 60, 80, checkpoint)
    with db.read(play.engine) as connection:
        failed, passed = [line for line in log.lines(connection, "all", limit=50) if line.kind == "trial"]
    assert (failed.strong, failed.rest) == ("BIN L3, not yet:", "75.0% of 80, needs 72")
    assert (passed.strong, passed.rest) == ("BIN L1 passed:", "98.4% of 193")


# --- static files -------------------------------------------------------------------------------------------------


def test_vendored_files_are_what_the_lock_says():
    for folder in (STATIC / "vendor", ROOT / "tests/browser/vendor"):
        lock = json.loads((folder / "vendor.lock.json").read_text(encoding="utf-8"))
        named = {}
        for package in lock["packages"]:
            assert package["licence"] and any(name.startswith("LICENSE") for name in package["sha256"])
            named |= package["sha256"]
        assert {p.name for p in folder.iterdir()} - {"vendor.lock.json"} == set(named)
        for name, digest in named.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_own_scripts_never_write_markup():
    """Text from outside reaches the page as text: no innerHTML, no eval, in any module of ours."""
    for path in (STATIC / "js").glob("*.js"):
        text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, f"{path.name} uses {word}"


def test_templates_have_no_inline_script_and_no_safe_filter():
    for path in (ROOT / "src/realm/tavern/templates").rglob("*.j2"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*src=)", text), path.name
        assert not re.search(r"\son\w+=", text), f"{path.name} has an inline handler"
        assert "| safe" not in text or path.name == "icons.j2", path.name
        foreign = re.sub(r"http://(localhost|www\.w3\.org)", "", text)
        assert "http://" not in foreign and "https://" not in foreign, path.name


def test_static_files_are_cached_as_their_names_allow(client):
    assert "immutable" in client.get("/static/fonts/grenze-gotisch-latin-600-normal.woff2").headers["cache-control"]
    script = client.get("/static/js/page.js")
    assert script.headers["cache-control"] == "no-cache"
    again = client.get("/static/js/page.js", headers={"If-None-Match": script.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/").headers["cache-control"] == "no-store"


def test_title_and_debuffs_show_on_card_and_guild_hall(play, client):
    checkpoint = play.won_battle()
    text = client.get("/").text
    assert "Novice, Digit Squire</div>" in text and 'aria-label="Debuffs"' not in text
    play.trial(1, 40, 193, checkpoint, kind="retention", verdict="lost")
    card, hall = client.get("/").text, client.get("/guild").text
    assert 'aria-label="Debuffs"' in card and "Fragmented Thoughts" in card
    told = card.split('aria-label="Debuffs"')[1].split('class="sr"')[1]
    assert "Cure: a rehearsal quest of these levels" in told, "told without a pointer too"
    assert "bin L1 (40 of 193) no longer held." in hall and "First Lesson" in hall and "Still to earn: 30" in hall
    temple = client.get("/temple").text
    assert "Victory" not in temple and "Hard-won" in temple and "BIN L1" in temple, "the check fell"
    answer = client.get("/api/progression").json()
    assert answer["title"]["shown"] in card and answer["debuffs"][0]["why"] in hall
