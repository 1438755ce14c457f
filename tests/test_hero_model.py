"""Weights: birth from a seed, greedy generation that does not depend on the batch, losses against plain references."""

from __future__ import annotations

import hero_kit as kit
import pytest
import torch

from realm.heroes import chat, model
from realm.heroes.model import Hero
from realm.heroes.profile import ProfileError
from realm.vault.checkpoints import sha256


@pytest.fixture(scope="module")
def hero(tmp_path_factory):
    """A two-layer hero with random weights large enough that its greedy answers differ from row to row."""
    from realm.settings import RealmHome

    home = RealmHome(tmp_path_factory.mktemp("model")).create()
    shape = {"num_hidden_layers": 2, "initializer_range": 0.5}
    profile = kit.micro_profile(model={"architecture": shape})
    return Hero.load(profile, kit.born(home, profile))


def prompts(hero, n):
    rows = [[{"role": "user", "content": f"add({i}, {i * i})" + " really" * (i % 4)}] for i in range(n)]
    return [chat.prompt_ids(m, hero.tokenizer) for m in rows]


def test_birth_is_reproducible_and_happens_once(home, tmp_path):
    from realm.settings import RealmHome

    profile = kit.micro_profile()
    folder = kit.born(home, profile)
    other = RealmHome(tmp_path / "other").create()
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    twin = kit.born(other, profile)
    assert torch.equal(before, torch.random.get_rng_state()), "birth must not touch the global generator"
    assert {p.name: sha256(p) for p in folder.iterdir()} == {p.name: sha256(p) for p in twin.iterdir()}
    different = kit.born(other, kit.micro_profile("pap", model={"architecture": {"seed": 1}}))
    assert sha256(different / "model.safetensors") != sha256(folder / "model.safetensors")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert kit.born(home, profile) == folder and (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert [p.name for p in other.models.iterdir() if p.name.startswith(".")] == []


def test_a_birth_that_fails_leaves_nothing(home, monkeypatch):
    profile = kit.micro_profile()

    def die(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_model", die)
    with pytest.raises(OSError, match="No space"):
        kit.born(home, profile)
    assert list(home.models.iterdir()) == []


def test_shipped_pip_is_born_and_knows_its_stop_token(home):
    from realm.heroes.profile import load_profile

    profile = load_profile("pip")
    pip = Hero.load(profile, model.make_embedded(profile, home))
    assert pip.model.config.eos_token_id == chat.stop_id(pip.tokenizer)
    assert pip.model.config.vocab_size == len(pip.tokenizer) <= 1024
    assert pip.model.config.tie_word_embeddings and "lm_head.weight" not in dict(pip.model.named_parameters())
    assert sum(p.numel() for p in pip.model.parameters()) == pytest.approx(profile.model.size_b * 1e9, rel=0.35)


def test_only_safetensors_are_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ProfileError, match="safetensors"):
        model.load_model(tmp_path)


# --- Generation ----------------------------------------------------------------------------------------------------

def test_batched_answers_equal_single_answers(hero):
    asked = prompts(hero, 24)
    together = model.generate_batch(hero.model, hero.tokenizer, asked, 40)
    alone = [model.generate_batch(hero.model, hero.tokenizer, [p], 40)[0] for p in asked]
    assert together == alone
    assert model.generate_batch(hero.model, hero.tokenizer, asked, 40, batch_rows=5) == alone
    assert model.generate_batch(hero.model, hero.tokenizer, asked[::-1], 40) == alone[::-1]
    assert len({tuple(a) for a in alone}) > 12, "the rows must differ for this to mean anything"


def test_answers_equal_transformers_generate(hero):
    asked = prompts(hero, 12)
    stop = chat.stop_id(hero.tokenizer)
    mine = model.generate_batch(hero.model, hero.tokenizer, asked, 90)  # more tokens than the cache's first buffer
    for prompt, answer in zip(asked, mine, strict=True):
        out = hero.model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                                  max_new_tokens=90, do_sample=False, eos_token_id=stop, pad_token_id=0)  # fmt: skip
        theirs = out[0, len(prompt) :].tolist()
        assert answer == (theirs[: theirs.index(stop)] if stop in theirs else theirs)


def test_rows_that_stop_leave_the_batch(hero, monkeypatch):
    """A hero whose head makes some rows stop early; the others must not notice."""
    asked = prompts(hero, 16)
    free = model.generate_batch(hero.model, hero.tokenizer, asked, 12)
    never = next(t for t in range(hero.model.config.vocab_size) if not any(t in a for a in free))
    common = max({t for a in free for t in a}, key=lambda t: sum(t in a for a in free))
    monkeypatch.setattr(chat, "stop_id", lambda _: never)
    unstopped = model.generate_batch(hero.model, hero.tokenizer, asked, 12)
    monkeypatch.setattr(chat, "stop_id", lambda _: common)
    widths = []
    forward = hero.model.forward
    monkeypatch.setattr(hero.model, "forward", lambda **kw: widths.append(len(kw["input_ids"])) or forward(**kw))
    stopped = model.generate_batch(hero.model, hero.tokenizer, asked, 12)
    assert stopped == [a[: a.index(common)] if common in a else a for a in unstopped]
    assert widths[0] == 16 and widths[-1] < 16, "finished rows must be dropped from the batch"


def test_interrupted_generation_ends_early(hero):
    calls = []
    out = model.generate_batch(hero.model, hero.tokenizer, prompts(hero, 4), 50,
                               interrupted=lambda: calls.append(1) or len(calls) >= 3)  # fmt: skip
    assert max(map(len, out)) <= 3


def test_generation_leaves_the_training_mode_alone(hero):
    hero.model.train()
    model.generate_batch(hero.model, hero.tokenizer, prompts(hero, 2), 2)
    assert hero.model.training
    hero.model.eval()


# --- Loss ----------------------------------------------------------------------------------------------------------

def test_sequence_loss_is_the_mean_over_trained_tokens(hero):
    rows, dropped = hero.render(kit.conversations(9))
    assert not dropped
    total = count = 0.0
    for row in rows:  # the reference: one row at a time, the model's own logits, no padding
        logits = hero.model(torch.tensor([row.ids])).logits[0].detach().log_softmax(-1)
        for t in range(1, len(row.ids)):
            if row.mask[t]:
                total -= float(logits[t - 1, row.ids[t]])
                count += 1
    assert hero.loss(rows) == pytest.approx(total / count, rel=1e-5)
    assert model.sequence_loss(hero.model, rows, batch_rows=2) == pytest.approx(total / count, rel=1e-5)


def test_trained_positions_only_gives_the_same_loss_and_gradient(hero):
    rows, _ = hero.render(kit.conversations(6))
    ids, labels = model.pad_rows([model.row_tensors(r) for r in rows])
    assert model.plain_head(hero.model)
    gradients = []
    for plain in (True, False):
        hero.model.zero_grad()
        loss = model.summed_loss(hero.model, ids, labels, plain)
        loss.backward()
        gradients.append((float(loss.detach()), [p.grad.clone() for p in hero.model.parameters()]))
    hero.model.zero_grad()
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    for a, b in zip(gradients[0][1], gradients[1][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    # And the library's own loss says the same.
    theirs = hero.model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
    trained = sum(r.trained for r in rows)
    assert gradients[0][0] / trained == pytest.approx(float(theirs.detach()), rel=1e-4)


def test_scaled_logits_are_not_called_plain(hero, monkeypatch):
    forward = hero.model.forward

    def scaled(*args, **kw):
        out = forward(*args, **kw)
        out.logits = out.logits * 0.5
        return out

    monkeypatch.setattr(hero.model, "forward", scaled)
    assert not model.plain_head(hero.model)


def test_loss_of_no_rows_is_not_a_number(hero):
    assert str(hero.loss([])) == "nan"
