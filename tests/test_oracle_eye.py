"""The Oracle's Eye against ten-line references; its invariances; the loss that never makes all logits at once."""

from __future__ import annotations

import math

import hero_kit as kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from realm.heroes import model as hero_model
from realm.heroes.model import IGNORE, Hero, pad_rows, row_tensors, summed_loss, weighted_losses
from realm.heroes.profile import OracleEye, ProfileError, parse_profile
from realm.schools import chassis, oracle_eye, scribe
from realm.schools.chassis import Context, OptimizerState, Segment
from realm.schools.oracle_eye import AllMasked, StepWeights, raw_weights, token_weights

POLICIES = ("focal", "surprisal", "entropy", "dft", "eaft")


def reference(logits, target, eye):
    """The raw weight of one token from the definitions, in Python floats."""
    top = max(logits)
    exp = [math.exp(x - top) for x in logits]
    p = [e / sum(exp) for e in exp]

    def entropy(q):
        return -sum(x * math.log(x) for x in q if x > 0)

    best = sorted(p)[-eye.top_k :]
    raw = {"uniform": 1.0, "focal": (1 - p[target]) ** eye.gamma, "surprisal": -math.log(p[target]),
           "entropy": entropy(p) / math.log(len(p)), "dft": p[target],
           "eaft": entropy([x / sum(best) for x in best]) / math.log(len(best))}[eye.policy]  # fmt: skip
    return min(max(raw, eye.floor), eye.ceiling)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(("uniform", *POLICIES)), st.floats(0, 4), st.integers(2, 30))
def test_weights_equal_the_reference(seed, policy, gamma, top_k):
    keyed = torch.Generator().manual_seed(seed)
    rows, length, vocabulary = 3, 7, 25
    logits = 3 * torch.randn(rows, length, vocabulary, generator=keyed)
    labels = torch.randint(vocabulary, (rows, length), generator=keyed)
    labels[torch.rand(rows, length, generator=keyed) < 0.4] = IGNORE
    labels[0, 3] = 5
    eye = OracleEye(policy=policy, gamma=gamma, top_k=top_k)
    found = token_weights(logits, labels, eye)
    wanted = [[0.0 if labels[r, t + 1] == IGNORE else reference(logits[r, t].tolist(), int(labels[r, t + 1]), eye)
               for t in range(length - 1)] for r in range(rows)]  # fmt: skip
    wanted = torch.tensor(wanted)
    wanted /= wanted[wanted > 0].mean()
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    counted = labels[:, 1:] != IGNORE
    assert float(found[counted].mean()) == pytest.approx(1, abs=1e-5)
    assert not found[~counted].any() and (found[counted] > 0).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_have_no_gradient_and_are_fp32(policy):
    logits = torch.randn(1, 5, 30, dtype=torch.bfloat16, requires_grad=True)
    weights = token_weights(logits, torch.randint(30, (1, 5)), OracleEye(policy=policy))
    assert weights.dtype == torch.float32 and not weights.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        again = token_weights(logits, torch.randint(30, (1, 5)), OracleEye(policy=policy))
    assert again.dtype == torch.float32


def test_the_shift_is_by_one():
    """Only the prediction before a label may decide its weight."""
    logits = torch.zeros(1, 4, 10)
    logits[0, 1, 7] = 5.0  # position 1 is sure of what comes at 2
    labels = torch.tensor([[IGNORE, 1, 7, 2]])
    weights = token_weights(logits, labels, OracleEye(policy="dft"))
    assert weights[0].argmax() == 1
    assert weights[0, 0] == weights[0, 2]


@pytest.mark.parametrize("policy", ("uniform", *POLICIES))
def test_all_masked_is_refused(policy):
    with pytest.raises(AllMasked, match="assistant turn"):
        token_weights(torch.zeros(2, 3, 5), torch.full((2, 3), IGNORE), OracleEye(policy=policy))


@pytest.mark.parametrize("policy", POLICIES)
def test_extreme_logits_give_finite_weights(policy):
    """A hero sure of everything, right or wrong: the floor keeps the mean above 0, the ceiling keeps it finite."""
    logits = torch.full((4, 50), -1e4)
    logits[:, 0] = 1e4
    weights = raw_weights(logits, torch.tensor([0, 0, 1, 2]), OracleEye(policy=policy))
    assert torch.isfinite(weights).all()
    assert 0.001 <= float(weights.min()) and float(weights.max()) <= 10.0


@pytest.mark.parametrize(("values", "said"), [
    ({"policy": "dtf"}, "dft"), ({"floor": 2.0, "ceiling": 1.0}, "floor 2.0 is not below"), ({"floor": 0}, "floor"),
    ({"polici": "dft"}, "policy"), ({"top_k": 1}, "top_k"),
])  # fmt: skip
def test_a_wrong_recipe_is_refused(values, said):
    with pytest.raises(ProfileError, match=said):
        parse_profile(kit.micro_profile().model_dump() | {"oracle_eye": values})


# --- effective tokens ----------------------------------------------------------------------------------------------

@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=200))
def test_effective_tokens_and_top_mass(values):
    weights = torch.tensor(values)
    effective = oracle_eye.effective_tokens(weights)
    assert effective == pytest.approx(sum(values) ** 2 / sum(v * v for v in values), rel=1e-5)
    assert 1 - 1e-6 <= effective <= len(values) * (1 + 1e-6)
    heaviest = sorted(values)[-max(1, int(0.05 * len(values))) :]
    assert oracle_eye.top_mass(weights) == pytest.approx(sum(heaviest) / sum(values), rel=1e-5)


def test_facts_are_of_the_whole_step():
    whole, parts = StepWeights(), StepWeights()
    weights, losses = torch.rand(20) + 0.01, torch.rand(20)
    whole.add(weights, losses)
    for a, b in zip(weights.split(7), losses.split(7), strict=True):
        parts.add(a, b)
    assert parts.facts() == whole.facts()
    assert parts.facts()[1]["weighted_loss"] == pytest.approx(float((weights * losses).sum() / weights.sum()), rel=1e-6)
    assert float(parts.total()) == pytest.approx(float(weights.sum()), rel=1e-6)


# --- the loss in parts -----------------------------------------------------------------------------------------------

@pytest.fixture
def nest(home):
    """Makes heroes of one home: equal recipes give equal heroes."""

    def make(**changes):
        profile = kit.micro_profile(**changes)
        return Hero.load(profile, kit.born(home, profile))

    return make


def batch(hero, n=9):
    rows, _ = hero.render(kit.conversations(n))
    return pad_rows([row_tensors(row) for row in rows])


def gradients(hero, loss):
    hero.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in hero.model.parameters()])


@pytest.mark.parametrize("tied", [True, False])
def test_loss_in_parts_equals_the_plain_loss(nest, monkeypatch, tied):
    hero = nest(model={"architecture": {"tie_word_embeddings": tied}})
    ids, labels = batch(hero)
    made = []
    hero.model.get_output_embeddings().register_forward_hook(lambda module, args, out: made.append(out.numel()))
    plain = summed_loss(hero.model, ids, labels, plain=True)
    wanted, all_logits = gradients(hero, plain), max(made)
    for tokens in (1, 5, 50):
        made.clear()
        monkeypatch.setattr(hero_model, "LOGITS_AT_ONCE", tokens * len(hero.tokenizer))
        parts = summed_loss(hero.model, ids, labels, plain=True)
        assert parts.item() == pytest.approx(plain.item(), rel=1e-6)
        assert torch.allclose(gradients(hero, parts), wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
        assert max(made) <= tokens * len(hero.tokenizer) < all_logits


@pytest.mark.parametrize("policy", POLICIES)
def test_weighted_loss_in_parts_equals_the_whole(nest, monkeypatch, policy):
    hero = nest()
    ids, labels = batch(hero)

    def weigh(logits, targets):
        return raw_weights(logits, targets, OracleEye(policy=policy))

    whole, weights, losses = weighted_losses(hero.model, ids, labels, True, weigh)
    wanted = gradients(hero, whole)
    monkeypatch.setattr(hero_model, "LOGITS_AT_ONCE", 11 * len(hero.tokenizer))
    again, weights_again, losses_again = weighted_losses(hero.model, ids, labels, True, weigh)
    assert again.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(weights_again, weights, rtol=1e-5) and torch.allclose(losses_again, losses, rtol=1e-5)
    assert torch.allclose(gradients(hero, again), wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


# --- the training ----------------------------------------------------------------------------------------------------

def learn(hero, tmp_path, steps=4, n=13, options=None, start=0, kept=None):
    facts = []
    context = Context(tmp_path, options=options or {})
    rows, _ = hero.render(kit.conversations(n))
    segment = Segment("c", "q", 7, start, steps, start * hero.profile.rows_per_step)
    kept = OptimizerState() if kept is None else kept
    scribe.train(hero, rows, segment, kept, tmp_path, lambda f: facts.append(f) or True, context)
    return facts


def parameters(hero):
    return torch.cat([p.detach().flatten() for p in hero.model.parameters()])


def plain_loop(hero, steps, eye):
    """The weighted training in plain PyTorch: all rows of a step in one forward, weights normalised over it.

    Returns the norm of each step's gradient: AdamW would not notice a wrong scale.
    """
    wanted = hero.profile.training_defaults
    rows, _ = hero.render(kit.conversations(13))
    indices = list(chassis.stream("c", "q", len(rows), 0, steps * hero.profile.rows_per_step))
    optimizer = torch.optim.AdamW(hero.model.parameters(), lr=wanted.learning_rate,
                                  betas=hero.profile.optimizer.betas, weight_decay=0.0)  # fmt: skip
    hero.model.train()
    norms = []
    for step in range(steps):
        picked = indices[step * hero.profile.rows_per_step :][: hero.profile.rows_per_step]
        ids, labels = pad_rows([row_tensors(rows[i]) for i in picked])
        logits = hero.model(ids).logits
        weights = token_weights(logits, labels, eye)
        losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        ((weights * losses).sum() / (labels[:, 1:] != IGNORE).sum()).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(hero.model.parameters(), wanted.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = wanted.learning_rate * min(1.0, (step + 1) / wanted.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
    return norms


ADAMW = {"optimizer": {"type": "adamw", "weight_decay": 0.0}}


@pytest.mark.parametrize("policy", POLICIES)
def test_training_equals_a_plain_loop_however_the_step_is_cut(nest, tmp_path, policy):
    """12 rows at once, or 4 x 3: weights are normalised over the step, not over the micro-batch or length block."""
    eye = {"oracle_eye": {"policy": policy}}
    expected = nest(**ADAMW, **eye, training_defaults={"batch_size": 12})
    norms = plain_loop(expected, 4, expected.profile.oracle_eye)
    seen = []
    for size, times in ((12, 1), (4, 3)):
        hero = nest(**ADAMW, **eye, training_defaults={"batch_size": size, "gradient_accumulation": times})
        facts = learn(hero, tmp_path)
        assert torch.allclose(parameters(hero), parameters(expected), atol=2e-4)
        assert [f.grad_norm for f in facts] == pytest.approx(norms, rel=2e-3)
        seen.append([(f.loss, f.facts["weighted_loss"], f.facts["effective_tokens"], f.grad_norm) for f in facts])
        assert all(f.facts["effective_tokens"] < f.trained_tokens for f in facts)
    for one, other in zip(*seen, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("times", [1, 2])
def test_a_plus_b_equals_c_bit_for_bit(nest, tmp_path, times):
    recipe = {"oracle_eye": {"policy": "eaft"}, "training_defaults": {"gradient_accumulation": times}}
    whole, parts, kept = nest(**recipe), nest(**recipe), OptimizerState()
    expected = learn(whole, tmp_path, steps=4)
    found = [*learn(parts, tmp_path, steps=1, kept=kept), *learn(parts, tmp_path, steps=3, start=1, kept=kept)]
    assert found == expected
    assert torch.equal(parameters(parts), parameters(whole))


def test_deepspeed_is_refused_where_the_gradient_would_have_to_be_divided(nest, tmp_path):
    recipe = {"oracle_eye": {"policy": "dft"}, "training_defaults": {"gradient_accumulation": 2},
              "optimizer": {"type": "adamw"}}  # fmt: skip
    hero = nest(**recipe)
    hero.profile = hero.profile.model_copy(update={"deepspeed_config": "configs/ds_zero2_offload.json"})
    with pytest.raises(chassis.TrainingError, match="oracle_eye.policy: dft with DeepSpeed"):
        learn(hero, tmp_path)


def test_adapters_are_weighed_too(nest, tmp_path, monkeypatch):
    """LoRA, logits in parts, and the head of a model that PEFT has wrapped."""
    recipe = {"oracle_eye": {"policy": "focal"}, "training_mode": "lora", "optimizer": {"type": "adamw"}}
    whole, parts = nest(**recipe), nest(**recipe)
    expected = learn(whole, tmp_path, steps=3)
    monkeypatch.setattr(hero_model, "LOGITS_AT_ONCE", 7 * len(whole.tokenizer))
    assert [f.loss for f in learn(parts, tmp_path, steps=3)] == pytest.approx([f.loss for f in expected], rel=1e-4)


def test_uniform_is_the_plain_path_bit_for_bit(nest, tmp_path, monkeypatch):
    """Nothing of the Eye may even be called; a policy of equal weights gives the same to rounding."""
    plain, level = nest(), nest(oracle_eye={"policy": "focal", "gamma": 0})
    with monkeypatch.context() as patched:
        patched.setattr(scribe, "weighted_losses", None)
        patched.setattr(scribe, "raw_weights", None)
        facts = learn(plain, tmp_path)
    assert all(f.facts == {} for f in facts)
    levelled = learn(level, tmp_path)
    assert [f.loss for f in levelled] == pytest.approx([f.loss for f in facts], rel=1e-5)
    assert torch.allclose(parameters(plain), parameters(level), atol=1e-4)
    assert levelled[0].facts["effective_tokens"] == pytest.approx(levelled[0].trained_tokens)


def test_the_reported_loss_is_the_plain_one(nest, tmp_path):
    """Strain, zones and curves are drawn from it: a policy may not make the same hero look better."""
    first = {policy: learn(nest(oracle_eye={"policy": policy}), tmp_path, steps=1)[0] for policy in ("uniform", "dft")}
    assert first["dft"].loss == pytest.approx(first["uniform"].loss, rel=1e-5)
    assert first["dft"].facts["weighted_loss"] != pytest.approx(first["uniform"].loss, rel=1e-3)


def test_a_quest_may_name_its_own_policy(nest, tmp_path):
    by_hero = learn(nest(oracle_eye={"policy": "focal", "gamma": 1}), tmp_path, steps=2)
    by_quest = learn(nest(), tmp_path, steps=2, options={"oracle_eye": {"policy": "focal", "gamma": 1}})
    assert [f.facts for f in by_quest] == [f.facts for f in by_hero]
    word = learn(nest(oracle_eye={"policy": "focal"}), tmp_path, steps=1, options={"oracle_eye": "uniform"})
    assert word[0].facts == {}
    with pytest.raises(ProfileError, match="eaft"):
        learn(nest(), tmp_path, options={"oracle_eye": "eaftt"})


# --- for people to look at -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", ("uniform", *POLICIES))
def test_a_token_map_is_the_row_as_the_hero_sees_it(nest, policy):
    hero = nest()
    rows, _ = hero.render(kit.conversations(3))
    eye = OracleEye(policy=policy)
    maps = oracle_eye.inspect(hero, {7: rows[0], 2: rows[1]}, eye)
    assert [m.row for m in maps] == [7, 2]
    assert "".join(maps[0].text) == hero.tokenizer.decode(rows[0].ids)
    logits = [hero.model(torch.tensor([row.ids])).logits[0, :-1].detach() for row in rows[:2]]
    for row, found, seen in zip(rows, maps, logits, strict=False):
        logs = torch.log_softmax(seen, -1)
        targets = torch.tensor(row.ids[1:])
        assert found.surprisal[0] is None and found.entropy[0] is None
        assert found.surprisal[1:] == pytest.approx((-logs.gather(1, targets[:, None])[:, 0]).tolist(), abs=1e-3)
        assert found.entropy[1:] == pytest.approx((-(logs.exp() * logs).sum(1)).tolist(), abs=1e-3)
        assert [w is not None for w in found.weight] == row.mask == found.trained
    weights = [w for m in maps for w in m.weight if w is not None]
    assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-3)


def test_the_most_surprising_rows_are_shown_and_pairs_are_not(nest):
    hero = nest()
    rows, _ = hero.render(kit.conversations(40))
    hero.model.train()
    maps = oracle_eye.hardest(hero, rows, OracleEye())
    assert hero.model.training, "looking changes nothing"
    assert len(maps) == oracle_eye.SHOWN
    seen = oracle_eye.inspect(hero, {i: rows[i] for i in range(0, 32, 2)}, OracleEye())
    assert [m.row for m in maps] == [m.row for m in sorted(seen, key=lambda m: -m.mean_surprisal)[:4]]
    assert oracle_eye.hardest(hero, [("chosen", "rejected")] * 5, OracleEye()) == []


def test_a_long_row_is_shown_from_its_end(nest, monkeypatch):
    monkeypatch.setattr(oracle_eye, "LONGEST", 5)
    hero = nest()
    rows, _ = hero.render(kit.conversations(1))
    found = oracle_eye.inspect(hero, {0: rows[0]}, OracleEye())[0]
    assert "".join(found.text) == hero.tokenizer.decode(rows[0].ids[-5:]) and found.trained == rows[0].mask[-5:]
    assert len(found.weight) == len(found.surprisal) == 5
