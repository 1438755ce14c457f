"""`training campaign …` beside a home without services: what it prints, writes, notes and refuses."""

import json
from functools import partial

import pytest
import yaml
from tavern_kit import Play

from realm import db
from realm.arena import commands
from realm.guild import campaigns
from realm.heroes.profile import load_profile


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


@pytest.fixture
def campaign(run):
    """`campaign("list")` is `training campaign list`."""
    return partial(run, "campaign")


def arena(play):
    """What the arena does with the commands that wait."""
    with db.write(play.engine) as connection:
        commands.work(connection, play.home)
        return {c["kind"]: c for c in map(dict, connection.execute(db.commands.select()).mappings())}


def test_a_method_travels_through_a_file(play, campaign, tmp_path):
    for name in ("m.yaml", "m.json"):
        file = tmp_path / name
        code, out, err = campaign("export-method", "pip-1", "--out", str(file))
        assert (code, err) == (0, "") and str(file) in out
        assert list(tmp_path.glob(".*")) == [], "no half-written file is left"
        goals = (json.loads if name.endswith("json") else yaml.safe_load)(file.read_text())["goals"]
        assert goals == {skill: {"weight": weight, "level": None}
                         for skill, weight in load_profile("pip").skill_priorities.items()}  # fmt: skip
        code, out, _ = campaign("new", "--hero", "PIP", "--method", str(file), f"from-{name[2:]}", "--json")
        assert code == 0 and json.loads(out)["state"] == "pending"
    arena(play)
    with db.read(play.engine) as connection:
        for name in ("from-yaml", "from-json"):
            made = campaigns.named(connection, name)
            assert made["seed"] == campaigns.named(connection, "pip-1")["seed"]
            assert made["method"]["origin"]["campaign"] == "pip-1"
    code, out, _ = campaign("list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["name", "from-json", "from-yaml", "pip-1"]


def test_report_to_a_file_and_to_a_place_that_is_not_there(play, campaign, tmp_path):
    code, out, _ = campaign("report", "--out", str(tmp_path / "r.md"))
    assert code == 0 and (tmp_path / "r.md").read_text().startswith("# Campaign pip-1")
    code, out, _ = campaign("report", "--json")
    assert code == 0 and json.loads(out)["campaign"]["name"] == "pip-1"
    code, out, err = campaign("report", "--out", str(tmp_path / "no" / "r.md"))
    assert code == 1 and "r.md" in err and "Traceback" not in err
    code, out, err = campaign("report", "--out", str(tmp_path))
    assert code == 1 and err.startswith("error:")


def test_the_hall_lists_what_was_archived(play, campaign):
    assert "empty" in campaign("hall")[1] and json.loads(campaign("hall", "--json")[1]) == []
    assert campaign("archive")[0] == 0
    assert arena(play)["campaign.archive"]["result"]["wants"] == "archive"
    from realm.guild.campaigns import report

    report.archive(play.home, play.engine, play.campaign)
    code, out, _ = campaign("hall")
    assert code == 0 and "pip-1" in out and "campaigns/pip-1/report.md" in out and "not found" in out
    assert json.loads(campaign("hall", "--json")[1])[0]["cap"] is None
    assert "No campaign yet" in campaign("list")[1]
    code, _, err = campaign("pause")
    assert code == 1 and "no campaign is active" in err


@pytest.mark.parametrize("line", [
    "list", "list --json", "hall", "report", "report pip-1 --json", "export-method pip-1", "activate pip-1", "pause",
    "archive PIP-1", "restore pip-1", "budget --tokens 5000 --steps 9", "budget pip-1",
    "new second --hero pip --goal bin=2@5 --budget-tokens 900 --seed 3 --activate --json",
])  # fmt: skip
def test_every_command_answers(play, campaign, line):
    code, out, err = campaign(*line.split())
    assert (code, err) == (0, "") and out.strip()
    states = {kind: c["state"] for kind, c in arena(play).items()}
    assert "failed" not in states.values(), states
