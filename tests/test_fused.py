"""The optimizer inside the backward pass against the plain one, with the plain AdamW that runs without a GPU."""

from __future__ import annotations

from functools import partial

import hero_kit as kit
import pytest
import torch

from realm.heroes.model import Hero
from realm.schools import chassis, fused, scribe
from realm.schools.chassis import OptimizerState, Segment


@pytest.fixture
def nest(home):
    profile = kit.micro_profile(optimizer={"type": "adamw"}, training_defaults={"max_grad_norm": 0.05})
    folder = kit.born(home, profile)
    return lambda: Hero.load(profile, folder)


def fuse(hero, max_norm):
    make = partial(_adamw, hero.profile)
    return fused.FusedBackward({p: make for p in hero.model.parameters()}, max_norm)


def _adamw(profile, parameter):
    wanted = profile.optimizer
    return torch.optim.AdamW([parameter], lr=profile.training_defaults.learning_rate, betas=wanted.betas,
                             weight_decay=wanted.weight_decay if parameter.ndim > 1 else 0.0)  # fmt: skip


def learn(hero, kept, tmp_path, steps=5, start=0, cursor=0):
    rows, _ = hero.render(kit.conversations(13))
    facts = []
    scribe.train(hero, rows, Segment("c", "q", 7, start, steps, cursor), kept, tmp_path,
                 lambda f: facts.append(f) or True)  # fmt: skip
    return facts


def weights(hero):
    return {name: p.detach().clone() for name, p in hero.model.named_parameters()}


def test_it_steps_like_adamw_with_every_parameter_clipped_by_itself(nest, tmp_path, monkeypatch):
    """A plain run whose gradients are clipped one by one before each step gives the same weights and losses."""
    from transformers import Trainer

    one, other = nest(), nest()
    kept = OptimizerState(optimizer=fuse(one, 0.05))
    monkeypatch.setattr(chassis.modes, "fused", lambda profile: True)
    facts = learn(one, kept, tmp_path)
    monkeypatch.undo()

    def each(self, model):
        return torch.stack([torch.nn.utils.clip_grad_norm_([p], 0.05) for p in model.parameters()]).norm()

    monkeypatch.setattr(Trainer, "_clip_grad_norm", each)
    plain = learn(other, OptimizerState(), tmp_path)
    assert [f.loss for f in facts] == pytest.approx([f.loss for f in plain], rel=1e-6)
    assert [f.lr for f in facts] == [f.lr for f in plain]
    assert [f.grad_norm for f in facts] == pytest.approx([f.grad_norm for f in plain], rel=1e-5)
    assert facts[0].grad_norm > 0.05, "nothing was clipped: the test shows nothing"
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(other)[name], rtol=1e-4, atol=1e-6), name
    assert all(p.grad is None for p in one.model.parameters())


def test_its_state_survives_a_checkpoint(nest, tmp_path, monkeypatch):
    monkeypatch.setattr(chassis.modes, "fused", lambda profile: True)
    whole = nest()
    learn(whole, OptimizerState(optimizer=fuse(whole, 1.0)), tmp_path, steps=6)
    parts = nest()
    kept = OptimizerState(optimizer=fuse(parts, 1.0))
    learn(parts, kept, tmp_path, steps=2)
    saved = chassis.save_optimizer(kept, parts.model, tmp_path)
    kept.optimizer.close()
    read = chassis.load_optimizer(tmp_path, saved)
    read.optimizer = fuse(parts, 1.0)
    learn(parts, read, tmp_path, steps=4, start=2, cursor=2 * parts.profile.rows_per_step)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name


def test_saved_states_keep_their_own_type(nest):
    """8-bit states must not be cast to the weights' type when the Trainer loads them back."""
    hero = nest()
    optimizer = fuse(hero, 1.0)
    first = next(hero.model.parameters())
    optimizer.state[first]["state1"] = torch.arange(5, dtype=torch.uint8)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[first]["state1"].dtype == torch.uint8
    assert all(part.state is optimizer.state for part in optimizer._parts.values())
