"""The Judge: ln 2 at the first step on every path, a plain loop and TRL's own reference, accumulation, resume."""

from __future__ import annotations

import json
import math

import hero_kit as kit
import pytest
import torch
from torch.nn import functional

from realm.heroes.model import Hero
from realm.schools import chassis, judge, scribe
from realm.schools.chassis import Context, OptimizerState, Segment

LORA = {"training_mode": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.3}, "optimizer": {"type": "adamw"}}
FULL = {"optimizer": {"type": "adamw", "weight_decay": 0.0}}
DROPOUT = {"model": {"architecture": {"attention_dropout": 0.3}}, **FULL}


@pytest.fixture
def nest(home):
    def make(**changes):
        profile = kit.micro_profile(**changes)
        return Hero.load(profile, kit.born(home, profile))

    return make


def files(n: int = 13, start: int = 0) -> list[dict]:
    """Pairs as they stand in a file: the right sum against one that is one off and says more."""
    return [{"prompt": turn["content"], "chosen": answer["content"], "rejected": answer["content"][:-1] + "0 or 7"}
            for turn, answer in kit.conversations(n, start)]  # fmt: skip


def context(tmp_path, **more) -> Context:
    folder = tmp_path / "live"
    folder.mkdir(exist_ok=True)
    return Context(folder, **more)


def learn(hero, rows, tmp_path, steps=6, kept=None, start=0, cursor=0):
    facts = []
    segment = Segment("c", "q", 7, start, steps, cursor)
    judge.train(hero, rows, segment, OptimizerState() if kept is None else kept, tmp_path,
                lambda fact: facts.append(fact) or True)  # fmt: skip
    return facts


@pytest.mark.parametrize("path", ["full", "dropout", "fresh adapter", "continued adapter", "bf16"])
def test_the_loss_of_the_first_step_is_ln_2(nest, tmp_path, path):
    changes = {"full": FULL, "dropout": DROPOUT, "bf16": {**FULL, "training_defaults": {"precision": "bf16"}}}
    hero = nest(**changes.get(path, LORA))
    if path == "continued adapter":
        rows, _ = hero.render(kit.conversations(9))
        scribe.train(hero, rows, Segment("c", "s", 7, 0, 4), OptimizerState(), tmp_path, lambda fact: True)
    adapters = list(getattr(hero.model, "peft_config", {}))
    rows, dropped = judge.prepare(hero, files(), context(tmp_path))
    before = judge.log_probabilities(hero, [(r.prompt, r.chosen) for r in rows])
    facts = learn(hero, rows, tmp_path, steps=4)
    assert not dropped and len(rows) == 13
    assert facts[0].loss == pytest.approx(math.log(2), abs=1e-5 if path != "bf16" else 2e-3)
    assert facts[0].facts["margin"] == pytest.approx(0, abs=1e-5 if path != "bf16" else 2e-3)
    assert facts[-1].loss < facts[0].loss and facts[-1].facts["margin"] > 0
    assert [r.ref_chosen for r in rows] == before.tolist(), "the reference is what the hero was, whatever it became"
    after = judge.log_probabilities(hero, [(r.prompt, r.chosen) for r in rows])
    assert not torch.equal(before, after)
    assert list(getattr(hero.model, "peft_config", {})) == adapters, "TRL's copy of the adapter is gone"


def test_the_model_is_given_back_as_it_was(nest, tmp_path):
    hero = nest(**DROPOUT)
    rows, _ = judge.prepare(hero, files(), context(tmp_path))
    learn(hero, rows, tmp_path, steps=1)
    assert "forward" not in vars(hero.model)
    assert {m.attention_dropout for m in hero.model.modules() if hasattr(m, "attention_dropout")} == {0.3}


def plain_loop(hero, rows, steps, likelihood):
    """DPO (Rafailov 2023, eq. 7) and the chosen answers' own loss in plain PyTorch, one pair at a time."""
    wanted = hero.profile.training_defaults
    indices = list(chassis.stream("c", "q", len(rows), 0, steps * hero.profile.rows_per_step))
    optimizer = torch.optim.AdamW(hero.model.parameters(), betas=hero.profile.optimizer.betas, weight_decay=0.0)
    losses = []
    for step in range(steps):
        batch = [rows[i] for i in indices[step * hero.profile.rows_per_step :][: hero.profile.rows_per_step]]
        told = 0.0
        for pair in batch:
            logp = []
            for answer in (pair.chosen, pair.rejected):
                logits = hero.model(torch.tensor([pair.prompt + answer])).logits[0, len(pair.prompt) - 1 : -1]
                logp.append(-functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
            margin = hero.profile.schools.judge.beta * (logp[0] - pair.ref_chosen - logp[1] + pair.ref_rejected)
            preference = -functional.logsigmoid(margin)
            ((preference - likelihood * logp[0] / len(pair.chosen)) / len(batch)).backward()
            told += float(preference.detach()) / len(batch)
        torch.nn.utils.clip_grad_norm_(hero.model.parameters(), wanted.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = hero.profile.schools.judge.rate * wanted.learning_rate * min(1, (step + 1) / 5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(told)
    return losses


@pytest.mark.parametrize("likelihood", [0.0, 1.0])
def test_loss_curve_equals_a_plain_loop(nest, tmp_path, likelihood):
    changes = {**FULL, "schools": {"judge": {"likelihood": likelihood, "rate": 1.0}}}
    hero = nest(**changes)
    rows, _ = judge.prepare(hero, files(), context(tmp_path))
    facts = learn(hero, rows, tmp_path, steps=8)
    assert [f.loss for f in facts] == pytest.approx(plain_loop(nest(**changes), rows, 8, likelihood), abs=1e-5)
    assert facts[-1].loss < 0.6


def test_the_reference_equals_trls_own(nest, tmp_path):
    """Against DPOTrainer with a second model as its reference, on the same batches."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    ours, policy, reference = nest(**FULL), nest(**FULL), nest(**FULL)
    rows, _ = judge.prepare(ours, files(4), context(tmp_path))
    learned = learn(ours, rows, tmp_path, steps=1)
    config = DPOConfig(**chassis.trl_arguments(policy.profile, 1, tmp_path), max_length=None)
    data = Dataset.from_list([{"prompt_ids": r.prompt, "chosen_ids": r.chosen, "rejected_ids": r.rejected}
                              for r in rows])  # fmt: skip

    class Plain(DPOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    trainer = Plain(model=policy.model, ref_model=reference.model, args=config, train_dataset=data,
                    processing_class=policy.tokenizer)  # fmt: skip
    trainer.train()
    log = trainer.state.log_history[0]
    assert learned[0].loss == pytest.approx(log["loss"], abs=1e-5)
    batch = trainer.data_collator([data[i] for i in range(4)])
    chosen, rejected = trainer.compute_ref_log_probs(reference.model, batch)
    assert [r.ref_chosen for r in rows] == pytest.approx(chosen.tolist(), abs=1e-4)
    assert [r.ref_rejected for r in rows] == pytest.approx(rejected.tolist(), abs=1e-4)


def test_accumulation_changes_nothing(nest, tmp_path):
    results = []
    for size, times in ((12, 1), (4, 3)):
        hero = nest(**FULL, training_defaults={"batch_size": size, "gradient_accumulation": times})
        rows, _ = judge.prepare(hero, files(), context(tmp_path))
        facts = learn(hero, rows, tmp_path, steps=4)
        weights = torch.cat([p.detach().flatten() for p in hero.model.parameters()])
        results.append(([f.loss for f in facts], [(f.tokens, f.trained_tokens) for f in facts], weights))
    (losses, tokens, weights), (other_losses, other_tokens, other_weights) = results
    assert other_losses == pytest.approx(losses, abs=1e-5) and other_tokens == tokens
    assert torch.allclose(weights, other_weights, atol=1e-5)


def test_rows_in_every_form_and_what_is_left_out(nest, tmp_path):
    hero = nest(training_defaults={"max_length": 64})
    ask = [{"role": "user", "content": "2 + 2?"}]
    yes, no = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
    raw = [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": ask, "chosen": [yes], "rejected": [no]},
        {"prompt": ask, "chosen": [*ask, yes], "rejected": [*ask, no]},
        {"prompt": "a", "chosen": "1 " * 100, "rejected": "2"},
        {"prompt": "a", "chosen": "1", "rejected": " "},
    ]
    rows, dropped = judge.prepare(hero, raw, context(tmp_path))
    assert rows[0] == rows[1] == rows[2] and len(rows) == 3
    assert [(index, code) for index, code, _ in dropped] == [(3, "too_long"), (4, "empty_answer")]
    stop = hero.tokenizer.eos_token_id
    assert rows[0].chosen[-1] == rows[0].rejected[-1] == stop and rows[0].chosen[0] != rows[0].rejected[0]


def bin_rows(n=40):
    from realm.guild.skills import get_skill

    return [{"messages": p.messages, "skill": "bin", "level": 1} for p in get_skill("bin").generate(1, n, 0)]


def test_sparring_gives_pairs_that_a_resumed_quest_finds_again(nest, tmp_path, monkeypatch):
    hero, told = nest(), []
    monkeypatch.setattr(hero, "answer", lambda asked, room, stop: [(a[0]["content"][9:] + " = 1", 5) for a in asked])
    first, _ = judge.prepare(hero, bin_rows(), context(tmp_path, note=lambda *a, **facts: told.append(facts)))
    assert len(first) >= 10 and told[0]["what"] == "sparring" and told[0]["pairs"] == len(first)
    with torch.no_grad():
        next(hero.model.parameters()).mul_(1.5)
    monkeypatch.setattr(hero, "answer", None)
    again, _ = judge.prepare(hero, bin_rows(), context(tmp_path, fresh=False))
    assert again == first, "neither the pairs nor the reference may change while the quest goes on"


def test_a_lost_reference_is_told(nest, tmp_path):
    hero, told = nest(), []
    here = context(tmp_path, fresh=False, note=lambda kind, text, level, **facts: told.append(text))
    judge.prepare(hero, files(), here)
    assert len(told) == 1 and "held to what it thinks now" in told[0]


def test_told_to_stop_while_sparring(nest, tmp_path):
    with pytest.raises(chassis.Interrupted):
        judge.prepare(nest(), bin_rows(), context(tmp_path, interrupted=lambda: True))
    assert not list((tmp_path / "live").iterdir())


def test_rows_that_are_neither_pairs_nor_problems_are_refused(nest, tmp_path):
    with pytest.raises(chassis.TrainingError, match="none of its rows is a problem") as error:
        judge.prepare(nest(), [{"messages": c} for c in kit.conversations(3)], context(tmp_path))
    assert error.value.code == "unsupported"


# --- In the battle ---------------------------------------------------------------------------------------------------

def test_a_plus_b_equals_c(tmp_path):
    """Stopped and gone on with in a new process's place: same curve, same weights, same reference."""
    from test_battle import fresh, stop_after

    profile = kit.micro_profile(**LORA)
    found = []
    for name, stops in (("whole", (None,)), ("parts", (2, 4, None))):
        home, engine = fresh(tmp_path, name)
        kit.born(home, profile)
        ids = kit.campaign(engine)
        data = kit.quest(home, engine, ids, "a", files(9), whole=True)
        parent = None
        for stop in stops:
            order = kit.order_battle(engine, profile, ids, data=data, steps=6, parent=parent, school="judge")
            row = stop_after(home, engine, order, stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
        found.append((kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, parent)))
        assert not (home.queue / "live" / data["quest_id"]).exists(), "a finished quest leaves nothing behind"
    assert found[0] == found[1]
    assert found[0][0][0][1] == pytest.approx(math.log(2), abs=1e-5)


def test_the_optimizer_of_another_family_is_not_carried_over(home, engine):
    from test_battle import told

    profile = kit.micro_profile(**FULL)
    ids = kit.campaign(engine)
    kit.born(home, profile)
    a = kit.quest(home, engine, ids, "a", kit.conversations(9))
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    b = kit.quest(home, engine, ids, "b", files(9), whole=True)
    order = kit.order_battle(engine, profile, ids, data=b, steps=2, begin=2, parent=first["checkpoint_id"],
                             school="judge")  # fmt: skip
    row = kit.serve_here(home, engine, order)
    assert row["outcome"] == "trained", row["error"]
    assert "school family was 'sft', is 'preference'" in told(engine, "optimizer")[-1]["reason"]
    state = json.loads((home.models / "current_model" / "resume/state.json").read_text())
    assert state["school"] == "judge"
