"""The Champion: a plain gradient of the group advantage, accumulation, prompts near 50 %, resume at every step."""

from __future__ import annotations

import hero_kit as kit
import pytest
import torch

from realm import schools
from realm.guild.skills import get_skill
from realm.heroes.model import Hero
from realm.schools import champion, chassis
from realm.schools.chassis import Context, OptimizerState, Segment

SHAPE = {"optimizer": {"type": "adamw", "weight_decay": 0.0},
         "training_defaults": {"batch_size": 8, "learning_rate": 0.003},
         "schools": {"champion": {"generations": 4, "rate": 1.0}}}  # fmt: skip
LORA = {**SHAPE, "training_mode": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}


@pytest.fixture
def nest(home):
    def make(**changes):
        profile = kit.micro_profile(**(changes or SHAPE))
        return Hero.load(profile, kit.born(home, profile))

    return make


@pytest.fixture
def game(monkeypatch):
    """A reward that a hero just born can earn: six tokens with a text of even length."""
    monkeypatch.setattr(champion, "reward", lambda problem, text: float(len(text) % 2 == 0))
    task = champion._task

    def short(hero, problem):
        made = task(hero, problem)
        return champion.Task(made.problem, made.prompt, 6, made.rate)

    monkeypatch.setattr(champion, "_task", short)


def bin_rows(n=24):
    return [{"messages": p.messages, "skill": "bin", "level": 1} for p in get_skill("bin").generate(1, n, 0)]


def context(tmp_path, **more) -> Context:
    folder = tmp_path / "live"
    folder.mkdir(exist_ok=True)
    return Context(folder, **more)


def learn(hero, rows, tmp_path, steps=3, start=0, here=None):
    facts = []
    champion.train(hero, rows, Segment("c", "q", 7, start, steps, 2 * start), OptimizerState(), tmp_path,
                   lambda fact: facts.append(fact) or True, here)  # fmt: skip
    return facts


def test_the_first_step_is_the_plain_gradient_of_the_group_advantage(nest, tmp_path, game, monkeypatch):
    """Shao 2024, eq. 3 at ratio 1, token-normalised over the step: -sum(A log p) / tokens, A = (r - mean) / std."""
    hero = nest()
    rows, _ = champion.prepare(hero, bin_rows(), context(tmp_path))
    said, answer = [], champion.answer

    def listening(*given):
        answers = answer(*given)
        said.append(([task.prompt for task in given[1]], answers))
        return answers

    monkeypatch.setattr(champion, "answer", listening)
    [fact] = learn(hero, rows, tmp_path, steps=1)
    twin = nest()
    prompts, answers = said[0]
    texts = [twin.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    rewards = torch.tensor([champion.reward(None, text) for text in texts]).view(-1, 4)
    assert prompts[0] == prompts[3] != prompts[4], "four answers to each prompt"
    advantage = ((rewards - rewards.mean(1, True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    total = sum(map(len, answers))
    loss = 0.0
    for prompt, ids, worth in zip(prompts, answers, advantage, strict=True):
        logits = twin.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        loss = loss - worth * torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None]).sum() / total
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.model.parameters()]).norm()
    assert fact.grad_norm == pytest.approx(float(norm), rel=1e-4) and fact.grad_norm > 0
    assert fact.loss == pytest.approx(1 - float(rewards.mean()))
    assert fact.facts["reward"] == pytest.approx(float(rewards.mean()))
    assert fact.facts["zero_variance"] == pytest.approx(float((rewards.std(1) == 0).float().mean()))
    assert (fact.trained_tokens, fact.tokens) == (total, total + sum(map(len, prompts)))
    assert fact.cursor == 2, "eight answers are two prompts"


def test_accumulation_changes_nothing(nest, tmp_path, game):
    results = []
    for size, times in ((8, 1), (2, 4)):
        hero = nest(**{**SHAPE, "training_defaults": {"batch_size": size, "gradient_accumulation": times}})
        rows, _ = champion.prepare(hero, bin_rows(), context(tmp_path))
        facts = learn(hero, rows, tmp_path)
        weights = torch.cat([p.detach().flatten() for p in hero.model.parameters()])
        results.append(([(f.loss, f.tokens, f.trained_tokens) for f in facts], weights))
    assert results[0][0] == results[1][0]
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def test_reward_rises(nest, tmp_path, game, monkeypatch):
    """Answers that hold a digit are rewarded."""
    hero = nest(**{**SHAPE, "training_defaults": {"batch_size": 16, "learning_rate": 0.01}})
    monkeypatch.setattr(champion, "reward", lambda problem, text: float(any(map(str.isdigit, text))))
    rows, _ = champion.prepare(hero, bin_rows(), context(tmp_path))
    facts = learn(hero, rows, tmp_path, steps=20)
    first, last = (sum(f.facts["reward"] for f in part) / 5 for part in (facts[:5], facts[-5:]))
    assert last > first + 0.15


def test_an_adapter_is_trained_and_the_model_given_back_as_it_was(nest, tmp_path, game):
    hero = nest(**LORA)
    rows, _ = champion.prepare(hero, bin_rows(), context(tmp_path))
    before = {name: p.detach().clone() for name, p in hero.model.named_parameters()}
    learn(hero, rows, tmp_path, steps=2)
    moved = {name for name, p in hero.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert "forward" not in vars(hero.model.get_base_model()) and list(hero.model.peft_config) == ["default"]


def test_prompts_nearest_to_half_are_kept_and_found_again(nest, tmp_path, game, monkeypatch):
    hero, told = nest(), []
    monkeypatch.setattr(champion, "KEPT_AT_MOST", 5)
    rows, dropped = champion.prepare(hero, bin_rows(), context(tmp_path, note=lambda *a, **facts: told.append(facts)))
    assert len(rows) == 5 and not dropped and all(0 < row.rate < 1 for row in rows)
    assert [abs(row.rate - 0.5) for row in rows] == sorted(abs(row.rate - 0.5) for row in rows)
    assert told[0]["what"] == "pass rates" and told[0]["kept"] == 5 and told[0]["probed"] == len(
        {row["messages"][0]["content"] for row in bin_rows()})  # fmt: skip
    monkeypatch.setattr(champion, "answer", None)
    again, _ = champion.prepare(hero, bin_rows(), context(tmp_path, fresh=False))
    assert again == rows


@pytest.mark.parametrize(("score", "says"), [(0.0, "never rightly.*Scribe"), (1.0, "always rightly.*higher level")])
def test_nothing_to_learn_where_all_answers_are_alike(nest, tmp_path, game, monkeypatch, score, says):
    monkeypatch.setattr(champion, "reward", lambda problem, text: score)
    with pytest.raises(chassis.NothingToLearn, match=says):
        champion.prepare(nest(), bin_rows(), context(tmp_path))


def test_groups_without_variance_are_told_once(nest, tmp_path, game, monkeypatch):
    hero, told = nest(), []
    here = context(tmp_path, note=lambda *a, **facts: told.append(facts))
    rows, _ = champion.prepare(hero, bin_rows(), here)
    monkeypatch.setattr(champion, "reward", lambda problem, text: 0.0)
    before = [p.detach().clone() for p in hero.model.parameters()]
    facts = learn(hero, rows, tmp_path, steps=12, here=here)
    assert [f.facts["zero_variance"] for f in facts] == [1.0] * 12
    assert [fact["what"] for fact in told] == ["pass rates", "zero variance"]
    assert all(torch.equal(a, b) for a, b in zip(before, hero.model.parameters(), strict=True)), "no reward, no step"


def test_the_reward_is_the_skills_grader():
    problem = get_skill("bin").generate(1, 1, 0)[0]
    assert champion.reward(problem, problem.golden) == 1.0 and champion.reward(problem, "7") == 0.0


def test_groups_fit_into_a_step():
    for batch, wanted, groups in ((64, 8, 8), (16, 8, 8), (12, 8, 4), (6, 8, 2), (10, 4, 2)):
        profile = kit.micro_profile(training_defaults={"batch_size": batch},
                                    schools={"champion": {"generations": wanted}})  # fmt: skip
        assert schools.generations(profile) == groups
        assert schools.rows_per_step("champion", profile) * groups == batch


def test_a_step_without_groups_is_refused(nest, tmp_path):
    hero = nest(training_defaults={"batch_size": 3})
    problem = get_skill("bin").generate(1, 1, 0)[0]
    with pytest.raises(chassis.TrainingError, match="groups of 2 or more: batch_size x gradient_accumulation 3"):
        learn(hero, [champion.Task(problem, [1, 2], 4, 0.5)], tmp_path)


def test_told_to_stop_while_pass_rates_are_measured(nest, tmp_path, game):
    with pytest.raises(chassis.Interrupted):
        champion.prepare(nest(), bin_rows(), context(tmp_path, interrupted=lambda: True))
    assert not list((tmp_path / "live").iterdir())


# --- In the battle ---------------------------------------------------------------------------------------------------

def test_a_plus_b_equals_c(tmp_path, game):
    """Every optimizer step is a generation batch of its own, so a battle goes on exactly wherever it stopped."""
    from test_battle import fresh, stop_after

    profile = kit.micro_profile(**{**SHAPE, "training_defaults": {"batch_size": 4, "gradient_accumulation": 2}})
    found = []
    for name, stops in (("whole", (None,)), ("parts", (1, 3, None))):
        home, engine = fresh(tmp_path, name)
        kit.born(home, profile)
        ids = kit.campaign(engine)
        data = kit.quest(home, engine, ids, "a", bin_rows(), whole=True)
        parent = None
        for stop in stops:
            order = kit.order_battle(engine, profile, ids, data=data, steps=5, parent=parent, school="champion")
            row = stop_after(home, engine, order, stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
        found.append((kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, parent)))
    assert found[0] == found[1] and len(found[0][0]) == 5


def test_a_quest_that_teaches_nothing_ends_with_its_trials_and_a_word(home, engine, game, monkeypatch):
    from test_battle import told

    monkeypatch.setattr(champion, "reward", lambda problem, text: 0.0)
    profile = kit.micro_profile(**SHAPE)
    ids = kit.campaign(engine)
    kit.born(home, profile)
    data = kit.quest(home, engine, ids, "a", bin_rows(), whole=True)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=data, steps=5, school="champion"))
    assert (row["state"], row["outcome"]) == ("done", "trained"), row["error"]
    assert not kit.curve(engine, ids["run_id"])
    assert "Nothing to learn in this quest" in told(engine, "lesson")[-1]["text"]
