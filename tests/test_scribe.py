"""The Scribe against a plain PyTorch loop, and its invariances: accumulation, length blocks, order, optimizer state."""

from __future__ import annotations

import math

import hero_kit as kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from realm.heroes.model import Hero
from realm.schools import chassis, muon, scribe
from realm.schools.chassis import OptimizerState, Segment, TrainingError


@pytest.fixture
def nest(home):
    """Makes heroes of one home: equal recipes give equal heroes."""

    def make(**changes):
        profile = kit.micro_profile(**changes)
        return Hero.load(profile, kit.born(home, profile))

    return make


def learn(hero, steps=6, kept=None, n=13, start=0, cursor=0, on_step=None, quest="q", tmp="/tmp"):
    facts = []
    rows, _ = hero.render(kit.conversations(n))
    kept = OptimizerState() if kept is None else kept
    segment = Segment("c", quest, 7, start, steps, cursor)
    from pathlib import Path

    scribe.train(hero, rows, segment, kept, Path(tmp), lambda f: facts.append(f) or (on_step is None or on_step(f)))
    return facts, kept


def parameters(hero):
    return torch.cat([p.detach().flatten() for p in hero.model.parameters()])


# --- Data order ----------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 100), st.integers(0, 100))
def test_stream_goes_on_where_it_stopped(rows, cursor, first, second):
    whole = list(chassis.stream("c", "q", rows, cursor, first + second))
    assert whole == [*chassis.stream("c", "q", rows, cursor, first),
                     *chassis.stream("c", "q", rows, cursor + first, second)]  # fmt: skip
    assert len(whole) == first + second


def test_every_epoch_holds_every_row_once_in_another_order():
    epochs = [chassis.order("c", "q", e, 50) for e in range(3)]
    assert all(sorted(e) == list(range(50)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert chassis.order("c", "q", 0, 50) == epochs[0] != chassis.order("c", "other", 0, 50)
    assert list(chassis.stream("c", "q", 50, 30, 40)) == epochs[0][30:] + epochs[1][:20]


def test_order_is_pinned():
    """Runs of other machines and years must see the same order: these numbers may never change."""
    assert chassis.order("campaign", "quest", 0, 8) == PINNED_ORDER
    assert chassis.step_seed(7, "campaign", 1) == PINNED_SEED


PINNED_ORDER = [5, 6, 1, 4, 7, 3, 0, 2]
PINNED_SEED = 8319607530326643652


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(0, 200))
def test_blocks_hold_every_row_once_and_never_cost_more_than_one_block(lengths, overhead):
    found = scribe.blocks(lengths, overhead)
    assert sorted(i for block in found for i in block) == list(range(len(lengths)))
    cost = sum(len(b) * max(lengths[i] for i in b) + overhead for b in found)
    assert cost <= len(lengths) * max(lengths) + overhead


def test_blocks_are_the_cheapest_split():
    """Against every split of a short sorted list."""
    lengths, overhead = [3, 50, 4, 48, 100, 5], 20
    by_length = sorted(lengths)

    def cost(cuts):
        edges = [0, *cuts, len(by_length)]
        return sum((b - a) * by_length[b - 1] + overhead for a, b in zip(edges, edges[1:], strict=False))

    from itertools import combinations

    best = min(cost(c) for k in range(6) for c in combinations(range(1, 6), k))
    found = scribe.blocks(lengths, overhead)
    assert sum(len(b) * max(lengths[i] for i in b) + overhead for b in found) == best


# --- The training itself -------------------------------------------------------------------------------------------

def plain_loop(hero, steps):
    """What the Scribe does, in plain PyTorch: one row at a time, no blocks, no Trainer."""
    wanted = hero.profile.training_defaults
    rows, _ = hero.render(kit.conversations(13))
    indices = list(chassis.stream("c", "q", len(rows), 0, steps * hero.profile.rows_per_step))
    optimizer = torch.optim.AdamW(hero.model.parameters(), lr=wanted.learning_rate,
                                  betas=hero.profile.optimizer.betas, weight_decay=0.0)  # fmt: skip
    hero.model.train()
    losses = []
    for step in range(steps):
        batch = [rows[i] for i in indices[step * hero.profile.rows_per_step :][: hero.profile.rows_per_step]]
        trained, loss = sum(r.trained for r in batch), 0.0
        for row in batch:
            logits = hero.model(torch.tensor([row.ids])).logits[0, :-1]
            wrong = functional.cross_entropy(logits, torch.tensor(row.ids[1:]), reduction="none")
            part = wrong[torch.tensor(row.mask[1:])].sum() / trained
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(hero.model.parameters(), wanted.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = wanted.learning_rate * min(1.0, (step + 1) / wanted.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def test_loss_curve_equals_a_plain_loop(nest):
    adamw = {"optimizer": {"type": "adamw", "weight_decay": 0.0}}
    facts, _ = learn(nest(**adamw), steps=12)
    expected = plain_loop(nest(**adamw), 12)
    assert [f.loss for f in facts] == pytest.approx(expected, rel=2e-4)
    assert facts[-1].loss < facts[0].loss - 0.3, "twelve steps must already have learnt something"


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_changes_nothing(nest, optimizer):
    """12 rows at once, 4 x 3 or 3 x 4. Rows train different numbers of tokens: a mean of means would differ."""
    results = []
    for size, times in ((12, 1), (4, 3), (3, 4)):
        hero = nest(training_defaults={"batch_size": size, "gradient_accumulation": times},
                    optimizer={"type": optimizer})  # fmt: skip
        facts, _ = learn(hero, steps=5)
        results.append(([f.loss for f in facts], parameters(hero), [(f.tokens, f.trained_tokens) for f in facts]))
    for losses, weights, tokens in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-4)
        assert tokens == results[0][2]
        assert torch.allclose(weights, results[0][1], atol=1e-4)


def test_length_blocks_change_nothing(nest, monkeypatch):
    a, b = nest(), nest()
    split, _ = learn(a, steps=4)
    monkeypatch.setattr(scribe, "blocks", lambda lengths: [list(range(len(lengths)))])
    whole, _ = learn(b, steps=4)
    assert [f.loss for f in split] == pytest.approx([f.loss for f in whole], rel=1e-5)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(nest):
    exact, rough = nest(), nest(training_defaults={"precision": "bf16"})
    expected, _ = learn(exact, steps=6)
    facts, _ = learn(rough, steps=6)
    losses = [f.loss for f in facts]
    assert losses != [f.loss for f in expected], "nothing was computed in bf16"
    assert losses == pytest.approx([f.loss for f in expected], rel=0.02)
    assert {p.dtype for p in rough.model.parameters()} == {torch.float32}


def test_facts_of_a_step(nest):
    hero = nest(training_defaults={"batch_size": 2, "gradient_accumulation": 3, "warmup_steps": 4})
    facts, _ = learn(hero, steps=5, start=100, cursor=12)
    assert [f.step for f in facts] == [101, 102, 103, 104, 105]
    assert [f.cursor for f in facts] == [18, 24, 30, 36, 42]
    rows, _ = hero.render(kit.conversations(13))
    indices = list(chassis.stream("c", "q", 13, 12, 30))
    for k, f in enumerate(facts):
        batch = [rows[i] for i in indices[6 * k : 6 * k + 6]]
        assert (f.tokens, f.trained_tokens) == (sum(len(r.ids) for r in batch), sum(r.trained for r in batch))
    assert all(f.grad_norm > 0 for f in facts)


def test_schedule_is_of_the_campaign_not_of_the_battle(nest):
    hero = nest(training_defaults={"warmup_steps": 10, "learning_rate": 0.003}, optimizer={"type": "adamw"})
    first, kept = learn(hero, steps=4)
    second, kept = learn(hero, steps=4, kept=kept, start=4, quest="r")
    third, _ = learn(hero, steps=2, kept=kept, start=50, quest="s")
    rates = [f.lr for f in first + second + third]
    assert rates == pytest.approx([0.003 * min(1, k / 10) for k in (*range(1, 9), 51, 52)])


def test_muon_takes_the_hidden_matrices_only(nest):
    hero = nest()
    optimizer = muon.muon_adamw(hero.profile, hero.model)
    names = {id(p): n for n, p in hero.model.named_parameters()}
    matrices, rest = ({names[id(p)] for p in part.param_groups[0]["params"]} for part in optimizer._parts)
    assert matrices and all(n.endswith("proj.weight") for n in matrices)
    assert rest == set(names.values()) - matrices
    assert "model.embed_tokens.weight" in rest


def test_stacked_muon_is_torchs_muon():
    """Against the library, which orthogonalises in bf16, and against the same written out in fp32."""
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 48), (48, 16), (16, 16), (48, 16)]
    start = [torch.randn(s) for s in shapes]
    gradients = [[torch.randn(s) for s in shapes] for _ in range(3)]

    def stepped(kind):
        params = [torch.nn.Parameter(s.clone()) for s in start]
        optimizer = kind(params, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for step in gradients:
            for p, g in zip(params, step, strict=True):
                p.grad = g.clone()
            optimizer.step()
        return params, optimizer

    ours, optimizer = stepped(muon.StackedMuon)
    theirs, library = stepped(torch.optim.Muon)
    for a, b, s in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.03 * (b - s).norm()
        assert torch.equal(optimizer.state[a]["momentum_buffer"], library.state[b]["momentum_buffer"])

    for k, (p, s) in enumerate(zip(ours, start, strict=True)):
        momentum, expected = torch.zeros_like(s), s.clone()
        for step in gradients:
            momentum = 0.95 * momentum + 0.05 * step[k]
            x = 0.05 * step[k] + 0.95 * momentum
            tall = s.shape[0] > s.shape[1]
            x = (x.T if tall else x) / x.norm()
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            update = x.T if tall else x
            expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * max(s.shape) ** 0.5 * update
        assert torch.allclose(p, expected, atol=1e-4)


def test_muon_adamw_steps_like_its_parts(nest):
    together, apart = nest(), nest()
    joint = muon.muon_adamw(together.profile, together.model)
    joint.load_state_dict(joint.state_dict())  # the Trainer's accelerator does this at every start
    parts = muon.muon_adamw(apart.profile, apart.model)._parts
    for k in range(3):
        for hero in (together, apart):
            torch.manual_seed(k)
            for p in hero.model.parameters():
                p.grad = torch.randn_like(p)
        joint.step()
        for part in parts:
            part.step()
    assert torch.equal(parameters(together), parameters(apart))
    assert len(joint.state) == len(list(together.model.parameters()))


# --- State, stops and failures -------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_optimizer_state_round_trip_is_bit_exact(nest, tmp_path, kind):
    hero = nest(optimizer={"type": kind})
    _, kept = learn(hero, steps=3)
    saved = chassis.save_optimizer(kept, hero.model, tmp_path)
    read = chassis.load_optimizer(tmp_path, saved)
    named = dict(hero.model.named_parameters())
    assert len(read.loaded) == sum(len(s) for s in kept.optimizer.state.values()) > len(named)
    for name, value in read.loaded.items():
        parameter, _, key = name.rpartition("|")
        original = kept.optimizer.state[named[parameter]][key]
        assert value.dtype == original.dtype and torch.equal(value, original), name
    counters = [v for n, v in read.loaded.items() if n.endswith("|step")]
    assert counters and all(float(c) == 3 for c in counters)
    # A state that was loaded but not used yet must be saved as it came.
    again = tmp_path / "again"
    again.mkdir()
    chassis.save_optimizer(read, hero.model, again)
    assert (again / chassis.OPTIMIZER_FILE).read_bytes() == (tmp_path / chassis.OPTIMIZER_FILE).read_bytes()


def test_dropout_depends_on_the_step_not_on_history(nest):
    """The same step drops the same units, whatever was drawn before it."""
    shape = {"model": {"architecture": {"attention_dropout": 0.5}}}
    torch.manual_seed(1)
    one, _ = learn(nest(**shape), steps=3)
    torch.manual_seed(2)
    torch.rand(1000)
    two, _ = learn(nest(**shape), steps=3)
    other, _ = learn(nest(**shape), steps=3, start=1000)
    assert [f.loss for f in one] == [f.loss for f in two]
    assert one[0].loss != other[0].loss


def test_stop_ends_after_the_step(nest):
    facts, _ = learn(nest(), steps=50, on_step=lambda f: f.step < 4)
    assert [f.step for f in facts] == [1, 2, 3, 4]


def test_nan_names_the_step(nest):
    hero = nest()
    seen = []

    def poison(facts):
        seen.append(facts.step)
        if facts.step == 2:
            with torch.no_grad():
                next(hero.model.parameters())[0] = math.nan
        return True

    with pytest.raises(TrainingError, match="became NaN at step 3") as error:
        learn(hero, steps=6, on_step=poison)
    assert error.value.code == "nan" and seen == [1, 2]


def test_out_of_memory_says_what_to_change(nest, monkeypatch):
    def full(*_args, **_kw):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 GB")

    monkeypatch.setattr(scribe, "summed_loss", full)
    with pytest.raises(TrainingError, match="halve batch_size and double gradient_accumulation") as error:
        learn(nest(), steps=1)
    assert error.value.code == "oom"


def test_other_errors_are_not_called_out_of_memory(nest, monkeypatch):
    def broken(*_args, **_kw):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(scribe, "summed_loss", broken)
    with pytest.raises(RuntimeError, match="shape mismatch") as error:
        learn(nest(), steps=1)
    assert not isinstance(error.value, TrainingError)


def test_physics_differences_are_named(nest):
    hero = nest()
    before = chassis.physics(hero.profile, hero.model, scribe.FAMILY)
    assert chassis.differences(before, before) == []
    other = nest(optimizer={"type": "adamw"})
    assert chassis.differences(before, chassis.physics(other.profile, other.model, scribe.FAMILY)) == [
        "optimizer.type was 'muon', is 'adamw'"]  # fmt: skip
    larger = kit.micro_profile("big", model={"architecture": {"num_hidden_layers": 2}})
    from realm.settings import RealmHome

    big = Hero.load(larger, kit.born(RealmHome().create(), larger))
    now = chassis.physics(larger, big.model, scribe.FAMILY)
    assert chassis.differences(before, now) == ["the parameters are others"]
