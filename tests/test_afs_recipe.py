"""A recipe runs from its sources to a data set that the Realm's Cleric accepts; a second run does nothing."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from afs.jsonl import file_sha256, write_rows
from afs.step import How, StepError, UsageError
from afs.training import run_recipe
from afs.training.recipe import load_recipe, make_generator

ROOT = Path(__file__).parent.parent


def recipe(folder: Path, **change: str) -> Path:
    """The shipped recipe on this project, its output below `folder`; `change` replaces text."""
    text = (ROOT / "docs" / "recipe.toml").read_text(encoding="utf-8")
    text = text.replace('path = ".."', f'path = "{ROOT / "docs"}"').replace('"../src"', f'"{ROOT / "src" / "realm"}"')
    text = text.replace('out = "../build/own-handbook"', 'out = "made"').replace("limit = 2000", "limit = 300")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_recipe_ends_in_the_realms_inbox(tmp_path):
    from realm.temple.cleric import examine

    inbox = tmp_path / "inbox"
    inbox.mkdir()
    path = recipe(tmp_path)
    path.write_text(path.read_text() + f'\n[deliver]\nfile = "splits/train_openai.jsonl"\nto = "{inbox}"\n')
    result = run_recipe(path)
    assert [r.step for r in result.reports] == ["score", "score", "dedup", "dedup", "rebalance", "split", "convert",
                                                "convert", "convert"]  # fmt: skip
    made = tmp_path / "made"
    splits = {name: (made / "splits" / f"{name}.jsonl").read_bytes().splitlines() for name in ("train", "val", "test")}
    mixed = (made / "steps" / "mixed.jsonl").read_bytes().splitlines()
    assert sorted(mixed) == sorted(splits["train"] + splits["val"] + splits["test"]), "rows verbatim, each once"
    manifest = orjson.loads((made / "manifest.json").read_bytes())
    for found in manifest["files"]:
        assert found["sha256"] == file_sha256(made / found["path"])
        assert found["rows"] == len(splits[Path(found["path"]).stem])
    card = (made / "README.md").read_text()
    assert "license: mit" in card and f"| splits/train.jsonl | {len(splits['train']):,} |" in card
    assert "- split: validation" in card and "path: splits/val.jsonl" in card
    [delivered] = list(inbox.iterdir())
    report = examine(delivered, tmp_path / "out.jsonl", tmp_path / "bad.jsonl", name=delivered.name, skills=[],
                     probe=tmp_path / "probe.jsonl")  # fmt: skip
    assert report["verdict"] == "accepted", report
    assert report["rows"]["in"] == len(splits["train"]) and report["rows"]["quarantined"] == 0


def test_a_second_run_does_nothing_and_a_change_redoes_what_depends_on_it(tmp_path):
    path = recipe(tmp_path)
    run_recipe(path)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "made").rglob("*.jsonl")}
    again = run_recipe(path)
    assert all(r.current for r in again.reports) and "nothing to do" in again.summary()
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    changed = run_recipe(recipe(tmp_path, **{"docs = 0.1, code = 0.9": "docs = 0.2, code = 0.8"}))
    done = {f"{r.step}": r.current for r in changed.reports}
    assert done == {"score": True, "dedup": True, "rebalance": False, "split": False, "convert": False}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("seed = 42", "sed = 42", "did you mean 'seed'"), ('generator = "docs" ', 'generator = "dosc" ', "no generator"),
    ('[score]\nprofile = "generic"', '[score]\nprofle = "generic"', "did you mean 'profile'"),
    ('name = "code"', 'name = "docs"', "two sources have one name"),
    ("seed = 42", "seed = ", "is no TOML file"),
    ('generator = "docs" ', 'input = "x.jsonl"\ngenerator = "docs" ', "either `input`"),
])  # fmt: skip
def test_mistakes_are_named(tmp_path, old, new, message):
    with pytest.raises(UsageError, match=message):
        run_recipe(recipe(tmp_path, **{old: new}))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist; an example"):
        load_recipe(tmp_path / "no.toml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StepError, match="found nothing"):
        run_recipe(recipe(tmp_path, **{f'path = "{ROOT / "docs"}"': f'path = "{tmp_path / "empty"}"'}))
    bad = recipe(tmp_path)
    bad.write_text(bad.read_text() + '\n[deliver]\nto = "nowhere"\n')
    with pytest.raises(UsageError, match="is no folder; for the Realm"):
        run_recipe(bad)
    with pytest.raises(UsageError, match="no dry run"):
        run_recipe(recipe(tmp_path), how=How(dry_run=True))
    with pytest.raises(UsageError, match="known: code, docs, oracle"):
        make_generator("nope", tmp_path)


def rows_in(path: Path, kind: str, count: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    rows = [{"instruction": f"{kind} question {n}", "output": f"{kind} answer {n}", "source": f"from_{kind}"}
            for n in range(count)]  # fmt: skip
    write_rows(path, iter(rows))
    return path


def two_sources(folder: Path, more: str, name: str = "data.jsonl") -> Path:
    """A recipe of two sources, `a` with 30 rows and `b` with 200, whose files have one name."""
    rows_in(folder / "one" / name, "first", 30)
    rows_in(folder / "two" / name, "second", 200)
    path = folder / "recipe.toml"
    path.write_text(f'name = "x"\nout = "out"\n[[source]]\nname = "a"\ninput = "one/{name}"\n'
                    f'[[source]]\nname = "b"\ninput = "two/{name}"\n{more}')  # fmt: skip
    return path


def test_without_a_mix_all_rows_of_all_sources_are_kept(tmp_path):
    path = two_sources(tmp_path, "")
    result = run_recipe(path)
    assert (tmp_path / "out" / "x.jsonl").read_bytes() == (
        (tmp_path / "one" / "data.jsonl").read_bytes() + (tmp_path / "two" / "data.jsonl").read_bytes())
    assert [r.counts.out for r in result.reports] == [230]
    assert all(r.current for r in run_recipe(path).reports)


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_weights_name_the_recipes_sources_also_when_their_files_have_one_name(tmp_path, name):
    run_recipe(two_sources(tmp_path, "[mix]\nweights = { a = 0.6, b = 0.4 }\n", name))
    made = [orjson.loads(line) for line in (tmp_path / "out" / "x.jsonl").read_bytes().splitlines()]
    assert [sum(r["source"] == s for r in made) for s in ("from_first", "from_second")] == [30, 20]


def test_a_compressed_source_alone_is_unpacked(tmp_path):
    rows_in(tmp_path / "in" / "a.jsonl.gz", "first", 3)
    (tmp_path / "recipe.toml").write_text('name = "x"\nout = "out"\n[[source]]\nname = "a"\ninput = "in/a.jsonl.gz"\n')
    run_recipe(tmp_path / "recipe.toml")
    assert len((tmp_path / "out" / "x.jsonl").read_bytes().splitlines()) == 3


def test_the_model_of_a_recipe_lies_below_its_folder(tmp_path):
    path = two_sources(tmp_path, '[score]\nelectra = "no/model"\n')
    with pytest.raises(UsageError, match=str(tmp_path / "no" / "model")):
        run_recipe(path)


@pytest.mark.parametrize(("text", "part"), [
    ("[mix]\nweights = 3", "weights must be a table"), ('[convert]\nformats = "openai"', "formats must be a list"),
    ('[score]\nmin_score = "0.5"', "min_score must be a number"), ('[split]\ntrain = "0.8"', "train must be a number"),
    ("[[split]]\ntrain = 0.8", "split must be a table"), ("[rehearsal]\nratio = 0.3", "needs the key 'buffer'"),
    ('[deliver]\nfile = "x"', "needs the key 'to'"), ("[mix]\nmax_total = true", "must be a whole number"),
])  # fmt: skip
def test_a_wrong_value_is_named_before_anything_is_done(tmp_path, text, part):
    rows_in(tmp_path / "in" / "a.jsonl", "first", 3)
    path = tmp_path / "recipe.toml"
    path.write_text(f'out = "out"\n[[source]]\nname = "a"\ninput = "in/a.jsonl"\n{text}\n')
    with pytest.raises(UsageError, match=part):
        run_recipe(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "part"), [
    ('seed = "x"\n[[source]]\nname = "a"\ninput = "in/a.jsonl"', "seed must be a whole number"),
    ('[source]\nname = "a"\ninput = "in/a.jsonl"', "two brackets"),
    ('[[source]]\nname = "a"\ninput = "in/no.jsonl"', "is no file"),
    ('[[source]]\nname = 1\ninput = "in/a.jsonl"', "name must be a text"),
    ('[[source]]\nname = "a"\ninput = "in/a.jsonl"\nlimit = 2', "all rows are taken"),
])  # fmt: skip
def test_a_wrong_source_is_named(tmp_path, text, part):
    rows_in(tmp_path / "in" / "a.jsonl", "first", 3)
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=part):
        run_recipe(tmp_path / "recipe.toml")
