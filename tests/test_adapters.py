"""LoRA heroes: what a checkpoint holds, exact resume across quests and kills, bases that changed, merging."""

from __future__ import annotations

import json

import hero_kit as kit
import pytest
import sqlalchemy as sa
import torch

from realm import db
from realm.heroes.model import Base, Hero, core, is_adapter, load_model
from realm.heroes.profile import ProfileError
from realm.settings import RealmHome

LORA = {"training_mode": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "optimizer": {"type": "adamw"},
        "training_defaults": {"learning_rate": 0.01, "gradient_accumulation": 2, "batch_size": 2}}  # fmt: skip


def realm(tmp_path, name):
    home = RealmHome(tmp_path / name).create()
    db.migrate(home)
    return home, db.connect(home)


def folder_of(home, engine, checkpoint_id):
    c = db.checkpoints.c
    with engine.connect() as connection:
        return home.root / connection.execute(sa.select(c.path).where(c.id == checkpoint_id)).scalar()


def fight(home, engine, profile, ids, data, steps, begin=0, parent=None):
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=data, steps=steps, begin=begin,
                                                        parent=parent))  # fmt: skip
    assert row["state"] == "done", row["error"]
    return row["checkpoint_id"]


@pytest.fixture
def fought(home, engine):
    """A LoRA hero after six steps: (profile, ids, data, checkpoint id, its folder)."""
    profile = kit.micro_profile(**LORA)
    kit.born(home, profile)
    ids = kit.campaign(engine)
    data = kit.quest(home, engine, ids, "A", kit.conversations(13))
    made = fight(home, engine, profile, ids, data, 6)
    return profile, ids, data, made, folder_of(home, engine, made)


def test_a_checkpoint_holds_the_adapter_and_names_its_base(home, fought):
    profile, _, _, _, folder = fought
    names = {p.name for p in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names and "README.md" not in names
    base = Base.of_adapter(folder)
    assert base.folder == home.models / profile.id
    assert [name for name, *_ in base.files] == ["config.json", "model.safetensors"]
    note = json.loads((folder / "base.json").read_text())
    assert not note["relative"].startswith("/") and note["lora"] == {"r": 4, "alpha": 8, "target_modules": "all-linear"}
    # PEFT itself reads it.
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(load_model(base.folder), str(folder))
    ids = torch.arange(20)[None] % 100
    ours = Hero.load(profile, folder)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=ids).logits, ours.model(input_ids=ids).logits)
        before = load_model(base.folder)(input_ids=ids).logits
        assert not torch.allclose(before, ours.model(input_ids=ids).logits, atol=1e-3), "six steps moved nothing"


def test_stop_and_resume_equals_one_run(tmp_path):
    """A + B = C bit for bit, across a stop inside a quest and a quest boundary, with dropout and accumulation."""
    profile = kit.micro_profile(**LORA)
    curves, files = [], []
    for name, parts in (("whole", [(0, 5, "A", 5), (5, 9, "B", 4)]),
                        ("parts", [(0, 2, "A", 5), (2, 5, "A", 5), (5, 9, "B", 4)])):  # fmt: skip
        home, engine = realm(tmp_path, name)
        kit.born(home, profile)
        ids = kit.campaign(engine)
        data = {n: kit.quest(home, engine, ids, n, kit.conversations(11, k)) for n, k in (("A", 0), ("B", 50))}
        parent = None
        for _start, end, quest, steps in parts:
            begin = {"A": 0, "B": 5}[quest]
            battle = kit.order_battle(engine, profile, ids, data=data[quest], steps=steps, begin=begin, parent=parent)
            if end - begin < steps:
                stop_after(home, engine, battle, end)
            else:
                kit.serve_here(home, engine, battle)
            row = kit.battle_row(engine, battle)
            assert row["state"] == "done" and row["step"] == end, row["error"]
            parent = row["checkpoint_id"]
        curves.append(kit.curve(engine, ids["run_id"]))
        files.append((folder_of(home, engine, parent) / "adapter_model.safetensors").read_bytes())
        engine.dispose()
    assert [row[0] for row in curves[0]] == list(range(1, 10))
    assert curves[0] == curves[1] and files[0] == files[1]


def stop_after(home, engine, battle, step):
    from realm.arena import pulse
    from realm.arena.battle import Worker

    plain = pulse.Pulse.step

    def stepped(self, facts):
        if facts.step == step:
            kit.want(engine, battle, desired="stop")
        return plain(self, facts)

    worker = Worker(home, "W")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse.Pulse, "step", stepped)
        worker.serve(dict(kit.battle_row(engine, battle)))
    worker.orders.close()
    worker.engine.dispose()


def test_merged_weights_answer_like_the_adapter(fought):
    profile, _, _, _, folder = fought
    hero, merged = Hero.load(profile, folder), load_model(folder)
    assert core(merged) is merged and not any("lora" in n for n, _ in merged.named_parameters())
    ids = torch.arange(30)[None] % 100
    with torch.no_grad():
        assert torch.allclose(hero.model(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5)


def test_a_base_that_changed_is_refused_by_name(home, fought):
    profile, _, _, _, folder = fought
    weights = home.models / profile.id / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(ProfileError, match="model.safetensors is not the file that the adapter"):
        Hero.load(profile, folder)
    weights.unlink()
    with pytest.raises(ProfileError, match="put them back"):
        load_model(folder)


def test_a_realm_home_may_move(home, fought, tmp_path):
    profile, _, _, _, folder = fought
    moved = tmp_path / "elsewhere"
    home.root.rename(moved)
    found = Base.of_adapter(moved / folder.relative_to(home.root))
    assert found.folder == moved / "models" / profile.id


def test_another_shape_begins_afresh_on_the_merged_adapter(home, engine, fought):
    profile, ids, data, made, folder = fought
    wider = kit.micro_profile(**{**LORA, "lora": {"r": 8, "alpha": 8}})
    hero = Hero.load(wider, folder)
    assert hero.base.folder == folder
    row = torch.arange(20)[None] % 100
    with torch.no_grad():  # a fresh adapter changes nothing: the hero is what the old one had made of it
        assert torch.allclose(hero.model(input_ids=row).logits, load_model(folder)(input_ids=row).logits, atol=1e-5)
    again = fight(home, engine, wider, ids, data, 9, parent=made)
    chain = folder_of(home, engine, again)
    assert Base.of_adapter(chain).folder == folder
    assert load_model(chain) is not None and is_adapter(chain)
    whole = kit.micro_profile(optimizer={"type": "adamw"})  # and back to whole weights
    last = fight(home, engine, whole, ids, data, 11, parent=again)
    assert (folder_of(home, engine, last) / "model.safetensors").is_file()


def test_a_fresh_adapter_changes_nothing_and_is_the_same_each_time(home):
    profile = kit.micro_profile(**LORA)
    folder = kit.born(home, profile)
    torch.manual_seed(1)
    one = Hero.load(profile, folder)
    torch.manual_seed(2)
    two = Hero.load(profile, folder)
    row = torch.arange(20)[None] % 100
    with torch.no_grad():
        assert torch.equal(one.model(input_ids=row).logits, load_model(folder)(input_ids=row).logits)
    for (name, a), (_, b) in zip(one.model.named_parameters(), two.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    trained = [n for n, p in one.model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    assert one.trainable_bytes == 4 * sum(p.numel() for p in one.model.parameters() if p.requires_grad)
