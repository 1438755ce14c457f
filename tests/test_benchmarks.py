"""Benchmarks measure what they say: arms train the same, tables round against us, lost rows stay. Nothing is timed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import battle_speed, machine, memory, overhead, registry, startup
from benchmarks.proving_ground import ground, open_level
from benchmarks.table import HEAD, Row, render, shown
from hero_kit import MICRO
from hypothesis import given
from hypothesis import strategies as st

SMALL_PIP = f"""\
id: pip
model: {{architecture: {json.dumps(MICRO)}}}
training_defaults: {{batch_size: 16}}
"""


def micro(profile):
    """The shipped recipe on a model of 2 ms a step."""
    architecture = profile.model.architecture.model_copy(update=MICRO)
    return profile.model_copy(update={
        "model": profile.model.model_copy(update={"architecture": architecture}),
        "training_defaults": profile.training_defaults.model_copy(update={"batch_size": 4}),
    })  # fmt: skip


@pytest.fixture(scope="module")
def small():
    with ground(3, open_level() - 1, micro) as where:
        yield where


# --- The table


@given(st.floats(1e-9, 1e9), st.sampled_from(["low", "high"]))
def test_numbers_are_never_rounded_in_our_favour(value, better):
    text = float(shown(value, better).replace(",", ""))
    assert text >= value * (1 - 1e-9) if better == "low" else text <= value * (1 + 1e-9)
    assert math.isclose(text, value, rel_tol=0.0101)


@pytest.mark.parametrize("value, better, text", [
    (0.8995, "high", "0.899"), (3.001, "low", "3.01"), (0.29, "low", "0.290"), (12345.6, "", "12,346"),
    (1.234e-5, "low", "1.24e-5"), (0, "", "0"),
])  # fmt: skip
def test_shown(value, better, text):
    assert shown(value, better) == text


def test_met_is_judged_on_the_unrounded_median():
    assert Row("a", (0.9, 0.8999, 0.1), "x", "high", "≥ 0.9", 0.9).met == "no"
    assert Row("a", (3.0, 2.0, 4.0), "s", "low", "≤ 3 s", 3.0).met == "yes"
    # With ratios the bound is about them: 5 tokens a second are enough when the peer makes 4.
    assert Row("a", (4.0,), "x", "high", "peer", 1.2, ratios=(5 / 4,)).met == "yes"
    assert Row("a", (4.0,), "x").met == "" and Row("a", text="torch", verdict="no").met == "no"


def test_ratio_is_the_peer_s_or_the_budget_s():
    assert Row("a", (2.0,), "s", "low", "≤ 4 s", 4.0).ratio == 0.5
    assert Row("a", (2.0,), "s", "low", "peer", 4.0, ratios=(3.0, 5.0, 9.0)).ratio == 5.0
    assert Row("a", (2.0,), "s").ratio is None


def test_lost_rows_are_printed_and_kept(monkeypatch, tmp_path, capsys):
    rows = [Row("fast", (1.0,), "s", "low", "≤ 2 s", 2.0), Row("slow", (3.0,), "s", "low", "≤ 2 s", 2.0)]
    monkeypatch.setattr(command, "measure", lambda name, options: (rows, 1.0))
    monkeypatch.setattr(command, "ENVIRONMENT", {})
    file = tmp_path / "out.json"
    assert command.main(["memory", "--quick", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| slow    | 3.00 s |" in printed and "1 not met" in printed
    kept = json.loads(file.read_text())
    assert [row["met"] for row in kept["benchmarks"]["memory"]] == ["yes", "no"] and kept["quick"] is True


def test_a_broken_benchmark_does_not_hide_the_others(monkeypatch, capsys):
    def measure(name, options):
        if name == "startup":
            raise RuntimeError("port taken")
        return [Row("fine", (1.0,), "s")], 1.0

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "ENVIRONMENT", {})
    assert command.main(["startup", "memory"]) == 1
    output = capsys.readouterr()
    assert "fine" in output.out and "port taken" in output.err and "not measured, see above: startup" in output.err


@pytest.mark.parametrize("words", [["nosuch"], ["memory", "--nosuch", "1"]])
def test_unknown_names_and_options_are_refused(words, capsys):
    with pytest.raises(SystemExit) as refused:
        command.main(words)
    assert refused.value.code == 2 and "nosuch" in capsys.readouterr().err


def test_every_registered_benchmark_can_be_run():
    for benchmark in registry.BENCHMARKS:
        module = __import__(f"benchmarks.{benchmark.name}", fromlist=["run"])
        assert callable(module.run), benchmark.name


def test_table_is_markdown():
    lines = render([Row("a | b".replace(" | ", "/"), (1.0, 2.0), "s"), Row("c", text="words")]).splitlines()
    assert {line.count("|") for line in lines} == {len(HEAD) + 1} and len({len(line) for line in lines}) == 1


def test_machine_says_when_it_was_not_quiet():
    found = machine.facts()
    assert found["cores"] >= 1 and found["torch"] == torch.__version__
    assert "NOT QUIET" in machine.sentence(found | {"quiet": False})
    assert "NOT QUIET" not in machine.sentence(found | {"quiet": True})


# --- Battles


def test_all_arms_train_the_same(small):
    field = battle_speed.field_of(small)
    reference = battle_speed.bare_loop(field, battle_speed.padded_loss)
    laps = {"battle": battle_speed.in_battle(field), **{peer.name: peer.run(field) for peer in battle_speed.PEERS}}
    for name, lap in laps.items():
        assert battle_speed.distance(lap.losses, reference.losses) < 1e-4, name
        assert len(lap.ends) == small.steps and lap.ends == sorted(lap.ends), name
    # The same arithmetic in the same order: the Trainer and the realm around it change not one bit.
    assert laps["battle"].losses == laps["bare PyTorch loop with the Scribe's blocks"].losses
    assert len(set(reference.losses)) == small.steps, "no optimizer step changed the hero"


def test_blocks_are_the_same_mathematics_as_padding(small):
    """In double precision the two ways to compute the loss and its gradient differ by rounding only."""
    field, gradients = battle_speed.field_of(small), []
    for loss_of in (battle_speed.padded_loss, battle_speed.block_loss):
        model = battle_speed.Hero.load(small.profile, small.base()).model.double().train()
        loss = loss_of(model, field.batches[0])
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # summed_loss takes its logarithms in fp32 whatever the model's precision
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7) and gradients[0].abs().max() > 1e-3


def test_battle_speed_rows(small, monkeypatch):
    monkeypatch.setattr(battle_speed, "PEERS", battle_speed.PEERS[:2])
    rows = battle_speed.compare(battle_speed.field_of(small), rounds=2, name="q")
    pace = {row.measure: row for row in rows}
    assert len(pace["q: Scribe in a battle"].values) == 2 and min(pace["q: Scribe in a battle"].values) > 0
    padded = pace["q: bare PyTorch loop, padded to the longest row"]
    assert padded.bound == 0.9 and len(padded.ratios) == 1  # takes part in every third round
    assert padded.ratios[0] == pace["q: Scribe in a battle"].values[0] / padded.values[0]
    assert all(row.met == "yes" for row in rows if row.unit == "nats")


def test_pace_counts_tokens_after_the_first_step():
    assert battle_speed.Lap(ends=[10.0, 11.0, 14.0]).pace([1000, 30, 50]) == 20.0


def test_overhead_rows(small):
    rows = {row.measure: row for row in overhead.compare(small, pairs=2, name="q")}
    inside = rows["q: timed from inside"]
    assert len(inside.values) == 2 and all(value > 0 for value in inside.values)
    assert inside.bound == rows["q: on against off"].bound == 3.0
    assert rows["q: one optimizer step, everything off"].median > 0


def test_off_leaves_the_realm_s_step_work_out(small):
    on, off = overhead.battle(small, silent=False), overhead.battle(small, silent=True)
    assert len(on.steps) == len(off.steps) == len(on.inside) == small.steps - 1
    assert sum(off.inside) < sum(on.inside)


def test_added_ignores_what_hit_one_battle():
    off = [overhead.Fought([1.0, 3.0], [0.0, 0.0], 5.0)] * 4
    on = [overhead.Fought([1.02, 3.06], [0.02, 0.06], 5.1)] * 3 + [overhead.Fought([9.0, 1.0], [0.02, 0.06], 11.0)]
    assert math.isclose(overhead.added(on, off), 2.0, rel_tol=1e-6)
    assert len(overhead.each_left_out(on, off)) == 4


# --- Live realms

SMAPS = """\
7f0000000000-7f0000002000 r-xp 00001000 08:01 42                         /lib/libtorch.so
Rss:                   8 kB
Anonymous:             4 kB
7f0000010000-7f0000020000 rw-p 00000000 00:00 0                          [heap]
Rss:                  60 kB
Anonymous:            60 kB
7f0000030000-7f0000032000 r-xp 00001000 08:01 42                         /lib/libtorch.so
Rss:                   2 kB
Anonymous:             0 kB
"""


def test_file_pages_leave_private_memory_out():
    assert memory.file_pages(SMAPS) == {("00001000", "08:01", "42"): 6 * 1024}


def test_roles():
    assert memory.role_of(["python", "-m", "realm.arena.battle", "--home", "/x"]) == "battle"
    assert memory.role_of(["python", "-m", "training", "serve", "arena"]) == "arena"
    assert memory.role_of(["python", "-m", "training", "serve", "tavern", "state", "bin"]) == "realm"
    assert memory.role_of(["python", "-m", "supervisor.supervisord", "-c", "/arena/x"]) == "supervisor"


def test_heavy_imports_are_found():
    lines = "import time: 1 | 2 | realm\nimport time: 1 | 2 |   torch.nn\n"
    assert startup.imported(lines) == {"realm", "torch"}


@pytest.mark.slow
def test_startup_rows():
    rows = startup.run(registry.Options(quick=True), SMALL_PIP)
    named = {row.measure: row for row in rows}
    assert named["training status imports torch"].met == "yes"
    first, step = named["start-all → the Tavern's first page"], named["start-all → first optimizer step"]
    assert 0 < first.median < step.median and (first.bound, step.bound) == (3.0, 15.0)
    assert len(named["training status, battle running"].values) == 5


@pytest.mark.slow
def test_memory_rows():
    rows = {row.measure: row for row in memory.run(registry.Options(quick=True), SMALL_PIP, seconds=2.0)}
    total = rows["all processes, sum of PSS, at its peak"]
    parts = sum(row.median for name, row in rows.items() if name.endswith("PSS at that peak"))
    assert math.isclose(total.median, parts) and total.bound == 1000.0
    # torch and the model alone are more than 100 MB; sharing can only make PSS smaller.
    assert 100 < total.median <= rows["all processes, as if alone, at its peak"].median * 1.001
    assert {"battle: PSS at that peak", "realm: PSS at that peak", "arena: PSS at that peak"} <= set(rows)
