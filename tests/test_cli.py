"""The command line: every command runs against a real home, and what is mistyped is refused before it is noted."""

from __future__ import annotations

import json
import time

import forge_kit
import pytest
import sqlalchemy as sa
import typer
from live import LiveRealm
from tavern_kit import Play

from realm import cli, db
from realm.cli.realm import _wait_for_battle
from realm.guild.skills import get_skill
from realm.settings import RealmHome

ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


def orders(home) -> list[tuple[str, dict]]:
    engine = db.connect(home)
    with db.read(engine) as connection:
        found = [tuple(row) for row in connection.execute(sa.select(db.commands.c.kind, db.commands.c.payload))]
    engine.dispose()
    return found


def every_command() -> set[tuple[str, ...]]:
    group = typer.main.get_command(cli.app)
    found = set()
    for name, command in group.commands.items():
        found |= {(name, inner) for inner in getattr(command, "commands", {})} or {(name,)}
    return found


def smoke(play, tmp_path) -> list[tuple[int, list[str]]]:
    """(exit code, words) of one good call of each command that neither starts nor ends processes."""
    file = tmp_path / "chats.jsonl"
    file.write_text(ROW * 3)
    quest = play.add_quest("left", state="failed")
    problem = get_skill("bin").generate(3, 1, 0)[0]
    play.arm(steps=10)
    play.begin()
    checkpoint = play.checkpoint()
    play.finish()
    sums = forge_kit.write(tmp_path / "sums.jsonl", forge_kit.additions())
    held = ["battle pause", "battle resume", "battle stop", "battle skip", "trial run --skill bin --level 2",
            f"quest retry {quest}", "hero use pip", "campaign new --hero pip --goal bin=2@5 --budget-steps 900 --json",
            "campaign activate pip-1", "campaign pause", "campaign archive", "campaign restore pip-1",
            "campaign budget pip-1 --tokens 5000", f"vault rollback {checkpoint}"]  # fmt: skip
    plain = ["status --json", "quest list", "quest list --all --json", f"quest report {quest}", "skill list",
             "skill list --all", "passives show", "skill levels bin",
             "skill generate bin --level 2 --count 3", "vault list", "hero list", "vram --hero flo",
             "hero show pip", "status", "ledger show", "ledger recompute --json", "campaign list",
             "campaign list --json", "campaign hall", "campaign report", "campaign report pip-1 --json",
             "campaign export-method pip-1", "module list", "module install carry-drill", "module info carry-drill",
             "module validate carry-drill", "module compose carry-drill --rows 8",
             f"module export carry-drill -o {tmp_path}/drill.zip", "module remove carry-drill",
             "primitive list", "primitive profile", "primitive weak --json", "vault guard", "vault guard --json",
             f"forge skill --from {sums} --id sums --no-hero --out {tmp_path}/forged --replace",
             f"forge report {tmp_path}/forged", "jobs kinds", "jobs kinds --json", "jobs list",
             "jobs submit analytics --key smoke-job-1", "jobs submit report campaign=pip-1 --json",
             "jobs show smoke-job-1", "jobs list --json", "jobs cancel smoke-job-1",
             "jobs retry smoke-job-1", "oracle models", "oracle ask hi --model base --max-tokens 4",
             "oracle compare hi --model base --model current --max-tokens 4"]  # fmt: skip
    return [*((0, line.split()) for line in [*held, *plain]), (0, ["quest", "add", str(file), "--lane", "low"]),
            (1, ["vault", "verify"]),  # the checkpoint of these tables has no files
            (0, ["skill", "grade", "bin", "--prompt", problem.prompt, "--response", problem.golden]),
            (2, ["skill", "grade", "bin", "--prompt", problem.prompt, "--response", "nonsense"])]  # fmt: skip


def test_every_command_runs(home, play, run, tmp_path):
    lines = smoke(play, tmp_path)
    called = {tuple(words[:2]) if len(words) > 1 else tuple(words) for _, words in lines}
    called = {words if words in every_command() else words[:1] for words in called}
    started = {("doctor",), ("start-all",), ("stop-all",), ("serve",)}  # below, as processes
    # They need two measured checkpoints (tests/test_passives.py) and a trained copy of a hero (test_forge_accept.py).
    elsewhere = {("passives", "compare"), ("forge", "accept"), ("jobs", "worker")}  # and tests/test_jobs_work.py
    # tests/test_vault_cli.py
    elsewhere |= {("vault", name) for name in (
        "show", "compare", "lineage", "zones", "promote", "pin", "unpin", "tag", "untag", "move", "delete", "restore",
        "empty-trash", "retention", "export", "exports", "import")} | {("groundskeeper",)}
    elsewhere |= {("shelf", name) for name in ("add", "list", "remove", "search")}  # tests/test_shelf.py
    elsewhere |= {("temple",), ("momentum",)}  # they ask the whole realm: tests/test_temple.py, test_momentum.py
    # tests/test_school_quests.py, tests/test_token_maps.py
    elsewhere |= {("quest", "school"), ("quest", "practise"), ("battle", "tokens")}
    assert called | started | elsewhere == every_command()
    for code, words in lines:
        got, out, err = run(*words)
        assert (got, err) == (code, ""), (words, out, err)
        assert out.strip(), words
    assert (home.inbox / "low" / "chats.jsonl").read_text() == ROW * 3


def test_commands_that_start_and_end_processes():
    live = LiveRealm()
    try:
        assert "Database" in live.cli("doctor", "--fix", check=False).stdout
        assert "Tavern" in live.cli("start-all", "--no-arena").stdout
        refused = live.cli("serve", "bin", check=False)
        assert refused.returncode == 1 and "port_bin" in refused.stderr
        assert "ended" in live.cli("stop-all").stdout
        assert live.processes() == []
    finally:
        live.close()


def test_grade_says_what_is_wrong_with_a_prompt(run):
    code, _, err = run("skill", "grade", "bin", "--prompt", "2 + 2", "--response", "4")
    assert code == 1 and "'2 + 2'" in err and "generate" in err


@pytest.mark.parametrize("split", ["trial", "probe", "exam"])
def test_held_out_problems_are_not_printed(run, split):
    code, out, err = run("skill", "generate", "bin", "--split", split)
    assert code == 1 and out == "" and "train and public" in err


@pytest.mark.parametrize(("line", "word"), [
    ("hero use nope", "no hero 'nope'"), ("hero show nope", "no hero 'nope'"), ("trial run --skill binn", "'bin'"),
    ("trial run --level 0", "levels 1 to 30"), ("trial run --level 31", "levels 1 to 30"),
    ("quest retry nope", "no quest nope"), ("quest report nope", "no quest nope"), ("skill levels nope", "'nope'"),
    ("campaign new --hero nope", "no hero 'nope'"), ("campaign new --hero pip --goal binn", "'bin'"),
    ("campaign new --hero pip --goal bin=x", "SKILL=WEIGHT"), ("campaign new --hero pip a/b", "letters"),
    ("campaign new --hero pip --method nope", "no campaign 'nope'"), ("campaign new --hero pip --seed -1", "seed"),
    ("campaign new --hero pip --method gone.yaml", "gone.yaml"), ("campaign activate nope", "no campaign 'nope'"),
    ("campaign pause", "no campaign is active"), ("campaign report", "no campaign is active"),
    ("campaign new --hero pip --budget-steps 0", "greater than 0"),
    ("quest add README.md", "no .jsonl file"), ("vault verify nope", "no checkpoint nope"),
])  # fmt: skip
def test_what_is_mistyped_is_refused_before_it_is_noted(home, run, line, word):
    """With the arena down nobody else would ever say so."""
    code, out, err = run(*line.split())
    assert code == 1 and word in err and out == "", (out, err)
    assert orders(home) == []


def test_orders_are_noted_while_the_arena_is_down(home, run):
    code, out, _ = run("trial", "run", "--level", "1")
    assert code == 0 and "the arena acts when it starts" in out
    assert orders(home) == [("trial.run", {"skill": "bin", "level": 1})]


@pytest.mark.parametrize("line", ["quest list", "quest list --json", "vault list", "battle pause", "status",
                                  "serve arena", "serve tavern", "quest add README.md"])  # fmt: skip
def test_only_start_all_and_doctor_make_a_realm(tmp_path, monkeypatch, run, line):
    root = tmp_path / "nobody" / "played"
    monkeypatch.setenv("REALM_HOME", str(root))
    code, out, err = run(*line.split())
    assert code == 1 and "start-all" in err and str(root) in err and out == ""
    assert not root.exists()


def test_status_is_json_for_programs(home, play, run):
    code, out, _ = run("status", "--json")
    assert code == 0 and json.loads(out)["home"] == str(home.root)


def test_waiting_for_a_battle_that_cannot_begin_ends_at_once(home, play, capsys):
    """After Stop in the Tavern the realm rests, also over a restart; `make play` must not call that a failure."""
    play.won_battle()
    play.mode("rest")
    begun = time.monotonic()
    _wait_for_battle(home, 30)
    assert "battle resume" in capsys.readouterr().out
    play.mode("train")
    (home.root / "settings.yaml").write_text("idle_generation: false\n")
    _wait_for_battle(RealmHome(home.root), 30)
    assert "idle_generation" in capsys.readouterr().out
    assert time.monotonic() - begun < 5
    play.add_quest("waits")
    with pytest.raises(cli.Refused, match="no battle began"):
        _wait_for_battle(RealmHome(home.root), 0.5)
