"""Hero recipes: what is shipped, what a person may change, and what the messages say."""

from __future__ import annotations

import pytest
import yaml

from realm.heroes import profile as profiles
from realm.heroes.profile import ProfileError, WeightsMissing, list_profiles, load_profile, parse_profile


def write(home, hero_id, **values):
    (home.heroes / f"{hero_id}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def test_shipped_heroes():
    heroes = {p.id: p for p in list_profiles()}
    assert {"pip", "dio", "flo"} <= set(heroes)
    assert [p.id for p in heroes.values() if p.embedded] == ["pip"]
    assert heroes["dio"].model.path_or_hub_id == "Qwen/Qwen3-0.6B"
    assert heroes["flo"].model.path_or_hub_id == "Qwen/Qwen3-4B"
    assert {p.model.family for p in heroes.values()} == {"qwen", "llama", "mistral", "gemma", "phi"}
    pip = heroes["pip"]
    assert (pip.race, pip.stature, pip.rpg_class) == ("Qwen'dal", "Sprite", "Wildborn")
    assert heroes["flo"].stature == "Human"  # a Halfling ends at 3 billion
    assert pip.rows_per_step == 64


def test_home_file_is_laid_over_the_shipped_recipe(home):
    write(home, "pip", training_defaults={"learning_rate": 0.5}, rpg_name="PIP the Changed")
    pip, shipped = load_profile("pip", home), load_profile("pip")
    assert pip.training_defaults.learning_rate == 0.5 and pip.rpg_name == "PIP the Changed"
    assert pip.training_defaults.batch_size == shipped.training_defaults.batch_size
    assert pip.model == shipped.model


def test_new_hero_extends_another(home):
    write(home, "pippa", extends="pip", name="PIPPA", model={"path_or_hub_id": "embedded:pippa"}, seed=3)
    pippa = load_profile("pippa", home)
    assert (pippa.id, pippa.name, pippa.seed) == ("pippa", "PIPPA", 3) and pippa.embedded
    assert pippa.model.architecture == load_profile("pip").model.architecture
    assert "pippa" in {p.id for p in list_profiles(home)}
    write(home, "a", extends="b")
    write(home, "b", extends="a")
    with pytest.raises(ProfileError, match="in a circle"):
        load_profile("a", home)


@pytest.mark.parametrize(("values", "says"), [
    ({"training_default": {}}, "unknown key 'training_default'; did you mean 'training_defaults'"),
    ({"training_defaults": {"lerning_rate": 1}}, "did you mean 'learning_rate'"),
    ({"model": {"architecture": {"hiden_size": 3}}}, "did you mean 'hidden_size'"),
    ({"optimizer": {"type": "adam"}}, "optimizer.type = 'adam'"),
    ({"training_mode": "half"}, "training_mode = 'half'"),
    ({"training_defaults": {"max_length": 99999}}, "exceeds model.context_length"),
    ({"skill_priorities": {"bin": -1}}, "weights are 0 or more"),
])  # fmt: skip
def test_errors_name_key_value_and_nearest(home, values, says):
    write(home, "pip", **values)
    with pytest.raises(ProfileError) as error:
        load_profile("pip", home)
    assert says in str(error.value) and "pip.yaml" in str(error.value)


def test_unknown_hero_names_the_nearest():
    with pytest.raises(ProfileError, match="no hero 'pipp'; did you mean 'pip'"):
        load_profile("pipp")


def test_bad_yaml_is_an_error_that_names_the_file(home):
    (home.heroes / "pip.yaml").write_text("name: [", encoding="utf-8")
    with pytest.raises(ProfileError, match="pip.yaml: not valid YAML"):
        list_profiles(home)


def test_profile_survives_the_battle_configuration():
    for hero in list_profiles():
        assert parse_profile(hero.model_dump(mode="json")) == hero
    with pytest.raises(Exception, match="frozen"):
        hero.name = "x"


def test_missing_weights_message_has_the_commands(home):
    with pytest.raises(WeightsMissing) as error:
        profiles.weights_folder(load_profile("dio", home), home)
    text = str(error.value)
    assert f"hf download Qwen/Qwen3-0.6B --local-dir {home.models / 'dio'}" in text
    assert "python3 -m training hero use dio --model PATH" in text


def test_weights_are_found_where_the_commands_put_them(home, tmp_path):
    def fake(folder):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x")
        return folder

    downloaded = fake(home.models / "dio")
    assert profiles.weights_folder(load_profile("dio", home), home) == downloaded
    mine = fake(tmp_path / "mine")
    changed = profiles.change(home, "dio", str(mine))
    assert changed == load_profile("dio", home)
    assert profiles.weights_folder(changed, home) == mine
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    other = profiles.change(home, "flo", str(pickled))
    with pytest.raises(WeightsMissing):
        profiles.weights_folder(other, home)


def test_set_model_keeps_a_persons_other_changes(home):
    write(home, "dio", rpg_name="DIO the Mine")
    profiles.change(home, "dio", "someone/else")
    dio = load_profile("dio", home)
    assert (dio.rpg_name, dio.model.path_or_hub_id, dio.model.family) == ("DIO the Mine", "someone/else", "qwen")
    with pytest.raises(ProfileError, match="no hero 'nobody'"):
        profiles.change(home, "nobody", "x/y")


def test_a_recipe_that_names_skills_names_all_of_them(home):
    (home.heroes / "mine.yaml").write_text("extends: pip\nskill_priorities: {sy: 2.0}\n")
    assert load_profile("mine", home).skill_priorities == {"sy": 2.0}
    (home.heroes / "pip.yaml").write_text("training_defaults: {batch_size: 8}\n")
    assert set(load_profile("pip", home).skill_priorities) > {"bin"}, "what is not named stays"
