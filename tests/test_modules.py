"""Quest modules: manifests, validation, archives that mean harm, kills during installation, composition, commands."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from copy import deepcopy
from pathlib import Path

import module_kit as kit
import pytest
from typer.testing import CliRunner

from realm.guild import skills
from realm.guild.modules import archive, compose, shelf
from realm.guild.modules.manifest import ModuleError, dump, parse_manifest, read_manifest, read_skill_file
from realm.guild.modules.requirements import unmet
from realm.guild.modules.skill import ModuleSkill
from realm.guild.modules.validate import check

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ["carry-drill", "pattern-master"]


@pytest.fixture(autouse=True)
def _no_home_stays_attached():
    yield
    skills.attach(None)


def changed(**changes) -> dict:
    return {**deepcopy(kit.MANIFEST), **changes}


# --- manifests --------------------------------------------------------------------------------------------------------

def test_manifest_survives_its_own_yaml():
    for folder in shelf.folders(shelf.shipped()):
        manifest = read_manifest(folder)
        assert parse_manifest(dump(manifest)) == manifest
        for entry in manifest.skills:
            assert read_skill_file(folder, entry.id).name


@pytest.mark.parametrize(("change", "said"), [
    ({"drillmode": True}, "did you mean 'drill_mode'?"),
    ({"evaluation": {"treshold": 0.9}}, "did you mean 'threshold'?"),
    ({"skills": [{"id": "tiny-sums", "levles": [1], "max_level": 1}]}, "did you mean 'levels'?"),
    ({"skills": [{"id": "tiny-sums", "levels": [1, 3], "max_level": 3}]}, "every level from 1 to max_level"),
    ({"version": 1.0}, "version = 1.0"), ({"id": "Tiny_Sums"}, "id = 'Tiny_Sums'"),
    ({"data": [{"path": "../x.jsonl", "skill_level": 1, "examples": 1}]}, "leaves the module"),
    ({"data": [{"path": "/etc/passwd", "skill_level": 1, "examples": 1}]}, "leaves the module"),
    ({"data": [{"path": "eval/x.jsonl", "skill_level": 1, "examples": 1}]}, "not under data/"),
    ({"data": [{"path": "data/x.jsonl", "skill_level": 7, "examples": 1}]}, "above max_level"),
    ({"data": [{"path": "data/x.jsonl", "skill_level": "other:1", "examples": 1}]}, "'other'"),
    ({"data": [{"path": "data/x.jsonl", "skill_level": 1, "examples": 1}] * 2}, "listed twice"),
    ({"drill_mode": True}, "drill is made by generators alone"),
    ({"evaluation": {"threshold": 1.5}}, "less than or equal to 1"),
    ({"evaluation": {"type": "vibes"}}, "accuracy"), ({"skills": []}, "skills"),
])  # fmt: skip
def test_wrong_manifests_say_what_is_wrong(change, said):
    with pytest.raises(ModuleError) as error:
        parse_manifest(json.dumps(changed(**change)))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: &x [1]\nb: *x", "a: 1\na: 2", "[" * 3000, "a: 9999-99-99", "{",
                                  "a: !!python/name:os.system"])  # fmt: skip
def test_yaml_that_means_harm_is_refused(text):
    with pytest.raises(ModuleError):
        parse_manifest(text)


def test_several_findings_come_at_once():
    with pytest.raises(ModuleError) as error:
        parse_manifest("nmae: x")
    assert len(str(error.value).split("\n")) == 8, "seven missing keys and an unknown one"


# --- validation -------------------------------------------------------------------------------------------------------

def test_a_sound_module(tmp_path):
    report = check(kit.folder(tmp_path))
    assert report.errors == []
    assert report.levels["module:tiny-sums"][0]["train"] == 30
    assert sum(level["held"] for level in report.levels["module:tiny-sums"]) == 90


def _without(path):
    content = kit.files()
    del content[path]
    return content


def _with(path, raw):
    return {**kit.files(), path: raw}


def _skill(**generator):
    skill = deepcopy(kit.SKILL)
    skill["levels"][0]["generators"][0].update(generator)
    return kit.files(skill=skill)


BROKEN = {
    "missing data": (_without("data/level1.jsonl"), "data/level1.jsonl: there is no such file"),
    "missing eval": (_without("eval/test.jsonl"), "names no JSONL file"),
    "missing manifest": (_without("manifest.yaml"), "has no manifest.yaml"),
    "wrong count": (_with("data/level1.jsonl", kit.jsonl(kit.rows(0, 29))), "29 rows, the manifest says examples: 30"),
    "malformed line": (_with("data/level1.jsonl", kit.jsonl(kit.rows(0, 29)) + b"{oops\n"), "data/level1.jsonl:30:"),
    "no answer": (_with("data/level1.jsonl", kit.jsonl([*kit.rows(0, 29), {"prompt": "x", "golden": " "}])),
                  "data/level1.jsonl:30: the answer is empty"),
    "no question": (_with("data/level1.jsonl", kit.jsonl([*kit.rows(0, 29), {"x": 1}])), "data/level1.jsonl:30: no q"),
    "leak by text": (_with("eval/test.jsonl", kit.jsonl(kit.rows(1000, 89, level=1) + [
        {"prompt": "DOUBLE  7. write it behind `=`", "golden": "= 14", "level": 1}])), "is also training row data"),
    "leak by canonical": ({**kit.files(),
                           "data/level1.jsonl": kit.jsonl([*kit.rows(0, 29),
                                                           {**kit.rows(500, 1)[0], "canonical": "d"}]),
                           "eval/test.jsonl": kit.jsonl([*kit.rows(1000, 89, level=1),
                                                         {**kit.rows(600, 1, level=1)[0], "canonical": "d"}])},
                          "is also training row data/level1.jsonl:30"),
    "same question twice": (_with("data/level1.jsonl", kit.jsonl([*kit.rows(0, 29), kit.rows(0, 1)[0]])),
                            "the same question as data/level1.jsonl:1"),
    "contradiction": (_with("data/level1.jsonl", kit.jsonl([*kit.rows(0, 29), {**kit.rows(0, 1)[0], "golden": "= 9"}])),
                      "with another answer"),
    "few eval rows": (_with("eval/test.jsonl", kit.jsonl(kit.rows(1000, 10, level=1))), "at least 40 are needed"),
    "eval without level": (_with("eval/test.jsonl", kit.jsonl(kit.rows(1000, 90))), "names its level"),
    "eval level too high": (_with("eval/test.jsonl", kit.jsonl(kit.rows(1000, 90, level=9))), "has levels 1 to 2"),
    "empty level": (_without("skills/tiny-sums.yaml"), "level 2: is empty"),
    "unlisted file": (_with("data/more.jsonl", b"{}\n"), "data/more.jsonl: is not listed"),
    "unknown skill file": (_with("skills/other.yaml", b"name: x\n"), "the manifest has no skill 'other'"),
    "program": (_with("data/run.sh", b"#!/bin/sh\n"), "does not belong into a module"),
    "python": (_with("skills/__init__.py", b""), "does not belong into a module"),
    "unknown variable": (_skill(answer="c + 1"), "unknown variable 'c'"),
    "code in answer": (_skill(answer="__import__('os').getcwd()"), "no function of the language"),
    "hidden variable": (_skill(prompts=["Sum of {a}?"]), "variable b does not stand alone"),
    "ambiguous wording": (_skill(prompts=["{a}{b}?"]), "read in two ways"),
    "where never": (_skill(where="a > 500"), "excludes nearly"),
    "where no truth": (_skill(where="a + b"), "must be true or false"),
    "answer fails": (_skill(answer="1 // (a - a)"), "has no value"),
    "empty answer": (_skill(answer="''"), "is empty"),
    "grader": (kit.files(skill={**kit.SKILL, "grader": {"type": "numeric"}}), "is no number"),
    "cheat": (kit.files(skill={**kit.SKILL, "grader": {"type": "regex", "pattern": "(.|\\n)*"}}), "passes"),
    "runaway pattern": (kit.files(skill={**kit.SKILL, "grader": {"type": "regex", "pattern": "(a{200}){200}"}}),
                        "states"),
    "too many generators": (kit.files(skill={**kit.SKILL, "levels": [{"level": 2, "generators": [
        {**kit.SKILL["levels"][0]["generators"][0], "prompts": [f"{{a}} {{b}} {i} {j}" for j in range(11)]}
        for i in range(50)]}, {"level": 1, "generators": [
            {**kit.SKILL["levels"][0]["generators"][0], "prompts": [f"{{a}} {{b}} {i} {j}" for j in range(11)]}
            for i in range(50)]}]}), "100 generators with 1100 prompts"),
    "threshold": (kit.files(changed(evaluation={"eval_set": "eval/test.jsonl", "threshold": 0.99})),
                  "no more than 0.98"),
    "prerequisite": (kit.files(changed(requirements={"prerequisites": [":3"]})), "is no skill or skill:level"),
    "not utf-8": (_with("manifest.yaml", b"id: \xff"), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_modules(name, tmp_path):
    """Validation finds it, and installation refuses it and leaves nothing behind."""
    content, said = BROKEN[name]
    folder = kit.folder(tmp_path, content)
    report = check(folder)
    assert any(said in line for line in report.errors), report.errors
    with pytest.raises(ModuleError):
        archive.install(folder, tmp_path / "modules")
    assert [p.name for p in (tmp_path / "modules").iterdir()] == [".lock"]


def test_all_findings_come_at_once(tmp_path):
    content = {**_skill(answer="c"), "data/more.jsonl": b"{}\n", "data/level1.jsonl": b"{oops\n"}
    errors = "\n".join(check(kit.folder(tmp_path, content)).errors)
    for said in ("unknown variable", "not listed", "data/level1.jsonl:1:", "examples: 30"):
        assert said in errors


def test_wishes_that_the_level_rule_does_not_grant_are_told(tmp_path):
    manifest = changed(evaluation={"eval_set": "eval/test.jsonl", "threshold": 0.5, "evals_required": 3},
                       curriculum={"cooldown_on_fail": 1000}, primitives={"required": ["seq_continu"]})  # fmt: skip
    report = check(kit.folder(tmp_path, kit.files(manifest)))
    assert not report.errors
    warned = "\n".join(report.warnings)
    for said in ("evals_required: 3", "cooldown_on_fail: 1000", "0.80 counts", "did you mean 'seq_continue'"):
        assert said in warned
    assert ModuleSkill(tmp_path / "tiny-sums", "tiny-sums").threshold == 0.80


def test_a_module_may_be_stricter():
    assert parse_manifest(json.dumps(changed(curriculum={"min_accuracy_to_advance": 0.95}))).threshold == 0.95


def test_requirements():
    manifest = parse_manifest(json.dumps(changed(requirements={"min_level": 5, "prerequisites": ["bin:3", "sy"]})))
    assert unmet(manifest, {"bin": 4, "sy": 1}) == []
    lacking = unmet(manifest, {"bin": 2})
    assert len(lacking) == 3 and "master 3 levels more" in lacking[0] and "bin at level 3" in lacking[1]


# --- archives ---------------------------------------------------------------------------------------------------------

def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("top", ["", "tiny-sums/", "other-name/"])
def test_round_trip_is_byte_identical(tmp_path, top):
    source = kit.zipped(tmp_path / "in.zip", top=top, compression=zipfile.ZIP_DEFLATED)
    archive.install(source, tmp_path / "modules")
    assert tree(tmp_path / "modules/tiny-sums") == kit.files()
    first = archive.export(tmp_path / "modules/tiny-sums", tmp_path / "one.zip")
    archive.install(tmp_path / "one.zip", tmp_path / "again")
    assert tree(tmp_path / "again/tiny-sums") == kit.files()
    second = archive.export(tmp_path / "again/tiny-sums", tmp_path / "two.zip")
    assert first == second and (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_export_of_a_shipped_module_has_known_bytes(tmp_path):
    """Pinned: no clock, umask, file order or compressor may show in an export."""
    folder = kit.folder(tmp_path, {"manifest.yaml": json.dumps(kit.MANIFEST).encode(), "README.md": b"x"})
    os.utime(folder / "README.md", (1, 1))
    os.chmod(folder / "README.md", 0o700)
    assert archive.export(folder, tmp_path / "x.zip") == archive.export(folder, tmp_path / "y.zip")
    infos = zipfile.ZipFile(tmp_path / "x.zip").infolist()
    assert [i.filename for i in infos] == ["tiny-sums/README.md", "tiny-sums/manifest.yaml"]
    assert {(i.date_time, i.external_attr >> 16, i.compress_type) for i in infos} == {
        ((1980, 1, 1, 0, 0, 0), stat.S_IFREG | 0o644, zipfile.ZIP_STORED)}  # fmt: skip


def _evil(path: Path, name: str, raw: bytes = b"x", mode: int = 0) -> Path:
    kit.zipped(path)
    with zipfile.ZipFile(path, "a") as made:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        made.writestr(info, raw)
    return path


@pytest.mark.parametrize("name", [
    "../evil.jsonl", "data/../../evil.jsonl", "/etc/evil.jsonl", "C:/evil.jsonl", "data\\..\\evil.jsonl", "../",
    "data//x.jsonl", "data/./x.jsonl", "data/x.jsonl ", "data/x\n.jsonl", "data/LEVEL1.jsonl", "DATA/level1.jsonl",
    "data/level1.jsonl/x.jsonl", "data/\u202ex.jsonl", "data/" + "x" * 300 + ".jsonl", "data/a/b/c/d/e/f.jsonl",
    "data/run.py", "setup.py", "data/.x.jsonl", "__pycache__/x.pyc", ".git/config", "data/con:x.jsonl",
])  # fmt: skip
def test_paths_that_leave_or_do_not_belong(tmp_path, name):
    source = _evil(tmp_path / "evil.zip", name)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ModuleError) as error:
        archive.install(source, tmp_path / "home/modules")
    assert str(error.value)
    made = set(tmp_path.rglob("*")) - before
    assert made == {tmp_path / "home", tmp_path / "home/modules", tmp_path / "home/modules/.lock"}


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip(tmp_path, mode):
    with pytest.raises(ModuleError, match="regular files only"):
        archive.install(_evil(tmp_path / "x.zip", "data/link.jsonl", b"/etc/passwd", mode | 0o777), tmp_path / "m")


def test_links_and_pipes_in_a_folder(tmp_path):
    for make in (lambda p: p.symlink_to("/etc/passwd"), lambda p: p.symlink_to("/etc"), os.mkfifo):
        folder = kit.folder(tmp_path / make.__qualname__ / str(id(make)))
        make(folder / "data/link.jsonl")
        with pytest.raises(ModuleError, match="regular files only"):
            archive.install(folder, tmp_path / "m")


def test_zip_bombs(tmp_path):
    bomb = tmp_path / "bomb.zip"
    kit.zipped(bomb, _with("data/zeros.jsonl", b"0" * 30_000_000), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModuleError, match="zip bomb"):
        archive.install(bomb, tmp_path / "m")
    many = kit.zipped(tmp_path / "many.zip", {**kit.files(), **{f"data/x{i}.jsonl": b"" for i in range(1100)}})
    with pytest.raises(ModuleError, match="at most 1000"):
        archive.install(many, tmp_path / "m")


def test_a_header_that_lies_about_the_size(tmp_path):
    """The announced size is small, the stream is not: reading ends at what was announced."""
    path = tmp_path / "lie.zip"
    kit.zipped(path, _with("data/zeros.jsonl", b"0" * 5_000_000), compression=zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = -1
        while (at := raw.find(signature, at + 1)) >= 0:
            if struct.unpack_from("<I", raw, at + offset)[0] == 5_000_000:
                struct.pack_into("<I", raw, at + offset, 10)
    path.write_bytes(raw)
    with pytest.raises(ModuleError):
        archive.install(path, tmp_path / "m")
    assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]


def test_archives_that_cannot_be_read(tmp_path):
    good = kit.zipped(tmp_path / "good.zip", compression=zipfile.ZIP_DEFLATED).read_bytes()
    (tmp_path / "text.zip").write_bytes(b"no zip at all")
    (tmp_path / "half.zip").write_bytes(good[: len(good) // 2])
    broken = bytearray(good)
    broken[120:160] = b"\xff" * 40
    (tmp_path / "flipped.zip").write_bytes(broken)
    for name in ("text.zip", "half.zip", "flipped.zip", "nowhere.zip"):
        with pytest.raises(ModuleError):
            archive.install(tmp_path / name, tmp_path / "m")
    assert shelf.folders(tmp_path / "m") == []


def test_installing_again_and_replacing(tmp_path):
    first, modules = kit.folder(tmp_path / "a"), tmp_path / "modules"
    archive.install(first, modules)
    stamp = (modules / "tiny-sums").stat().st_ino
    archive.install(first, modules)
    assert (modules / "tiny-sums").stat().st_ino == stamp, "the same module again is no change"
    second = kit.folder(tmp_path / "b", kit.files(changed(version="2.0")))
    with pytest.raises(ModuleError, match="--replace"):
        archive.install(second, modules)
    assert read_manifest(modules / "tiny-sums").version == "1.0"
    archive.install(second, modules, replace=True)
    assert read_manifest(modules / "tiny-sums").version == "2.0"
    (old,) = (modules / ".trash").iterdir()
    assert read_manifest(old).version == "1.0" and old.name.startswith("tiny-sums-1.0-")
    archive.remove(modules, "tiny-sums")
    assert shelf.folders(modules) == [] and len(list((modules / ".trash").iterdir())) == 2
    for name in ("tiny-sums", ".trash", "../modules", ""):
        with pytest.raises(ModuleError, match="is not installed"):
            archive.remove(modules, name)


def test_installed_files_are_never_executable(tmp_path):
    folder = kit.folder(tmp_path / "a")
    (folder / "README.md").chmod(0o777)
    archive.install(folder, tmp_path / "m")
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "m/tiny-sums").rglob("*") if p.is_file()} == {0o644}


KILLER = """
import os, sys
from pathlib import Path
from realm.guild.modules import archive
count, stop = 0, int(sys.argv[3])
def killing(name, real):
    def call(*args, **kwargs):
        global count
        if count == stop:
            os._exit(9)
        count += 1
        return real(*args, **kwargs)
    setattr(os, name, call)
for name in ("rename", "fsync", "fchmod", "mkdir", "rmdir", "unlink"):
    killing(name, getattr(os, name))
archive.install(Path(sys.argv[1]), Path(sys.argv[2]), replace=True)
os._exit(0)
"""


@pytest.mark.slow
def test_killed_at_any_instant_there_is_no_half_module(tmp_path):
    """Killed before the n-th change to the disk, for every n: the old module, the new one, or (recovered) the new."""
    old = kit.folder(tmp_path / "a")
    new = kit.folder(tmp_path / "b", kit.files(changed(version="2.0")))
    wanted = {"1.0": tree(old), "2.0": tree(new)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    seen = Counter()
    for stop in range(60):
        modules = tmp_path / f"m{stop}"
        archive.install(old, modules)
        code = subprocess.run([sys.executable, "-c", KILLER, new, modules, str(stop)], env=environment).returncode
        for folder in shelf.folders(modules):
            assert tree(folder) in wanted.values(), f"half a module after a kill before change {stop}"
        archive.recover(modules)
        (folder,) = shelf.folders(modules)
        version = read_manifest(folder).version
        assert tree(folder) == wanted[version]
        assert not [p for p in modules.iterdir() if p.name.startswith((".install", ".ready"))]
        seen[version] += 1
        if code == 0:
            break
    assert code == 0 and seen["1.0"] > 10 and seen["2.0"] >= 2, seen


# --- the shelf, the registry ------------------------------------------------------------------------------------------

def test_registry_sees_installed_modules(tmp_path):
    before = skills.skill_ids()
    skills.attach(tmp_path)
    assert skills.skill_ids() == before
    archive.install(kit.folder(tmp_path / "src"), tmp_path / "modules")
    assert set(skills.skill_ids()) - set(before) == {"module:tiny-sums"}
    skill = skills.get_skill("module:tiny-sums")
    assert skill is skills.get_skill("module:tiny-sums") and skill.version == "1.0"
    archive.install(kit.folder(tmp_path / "new", kit.files(changed(version="2.0"))), tmp_path / "modules", replace=True)
    assert skills.get_skill("module:tiny-sums").version == "2.0", "a running process sees what was installed"
    with pytest.raises(skills.SkillError, match="did you mean 'module:tiny-sums'"):
        skills.get_skill("module:tiny-sum")
    archive.remove(tmp_path / "modules", "tiny-sums")
    assert skills.skill_ids() == before
    with pytest.raises(skills.SkillError, match="installed: none"):
        skills.get_skill("module:tiny-sums")
    skills.attach(None)
    with pytest.raises(skills.SkillError):
        skills.get_skill("module:tiny-sums")


def test_one_broken_module_does_not_hide_the_others(tmp_path, caplog):
    archive.install(kit.folder(tmp_path / "src"), tmp_path / "modules")
    archive.install(shelf.shipped() / "carry-drill", tmp_path / "modules")
    (tmp_path / "modules/tiny-sums/data/level1.jsonl").unlink()
    kit.folder(tmp_path / "modules", {"notes.txt": b"x"}, "not-a-module")
    assert shelf.skill_ids(tmp_path / "modules") == ["module:carry-drill"]
    assert "left out" in caplog.text
    with pytest.raises(skills.SkillError, match="install the module again"):
        shelf.open_skill(tmp_path / "modules", "tiny-sums")


def test_shipped_modules_are_sound_and_where_the_contracts_say():
    assert [folder.name for folder in shelf.folders(shelf.shipped())] == SHIPPED
    for name in SHIPPED:
        report = check(shelf.shipped() / name)
        assert report.errors == [] and report.warnings == []
        assert (ROOT / "quests/modules" / name / "manifest.yaml").samefile(shelf.shipped() / name / "manifest.yaml")


def test_pattern_master_is_what_its_script_makes(tmp_path):
    from scripts.build_pattern_master import build

    build(tmp_path)
    for path in sorted(tmp_path.rglob("*.jsonl")):
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (shelf.shipped() / "pattern-master" / name).read_bytes(), name


# --- composition ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def both(tmp_path_factory):
    modules = tmp_path_factory.mktemp("both") / "modules"
    for name in SHIPPED:
        archive.install(shelf.shipped() / name, modules)
    return {name: [shelf.open_skill(modules, name)] for name in SHIPPED}


def test_composition_is_exact_and_repeatable(tmp_path, both):
    weights = {"pattern-master": 2, "carry-drill": 1}
    made = compose.write(tmp_path / "a.jsonl", both, weights, 301, seed=3)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert Counter(row["skill"] for row in rows) == {"module:pattern-master": 201, "module:carry-drill": 100}
    assert Counter((row["skill"], row["level"]) for row in rows) == {
        (skill, level): count for skill, wanted in made.counts.items() for level, count in wanted.items()}  # fmt: skip
    assert len({row["messages"][0]["content"] for row in rows}) == 301, "no row twice"
    for row in rows:
        (skill,) = both[row["skill"].removeprefix("module:")]
        assert skill.split_of(row["messages"][0]["content"]) == "train"
    assert compose.write(tmp_path / "b.jsonl", both, weights, 301, seed=3).sha256 == made.sha256
    assert compose.write(tmp_path / "c.jsonl", both, weights, 301, seed=4).sha256 != made.sha256


def test_composition_says_when_there_are_too_few_rows(tmp_path, both):
    with pytest.raises(ModuleError, match="300 different training problems, its share is 400"):
        compose.write(tmp_path / "x.jsonl", both, {"pattern-master": 1}, 2000)
    assert not (tmp_path / "x.jsonl").exists()
    for weights, rows, levels in (({"carry-drill": 0}, 5, None), ({}, 5, None), ({"carry-drill": 1}, 0, None),
                                  ({"carry-drill": 1}, 5, range(7, 9)), ({"carry-drill": float("nan")}, 5, None)):
        with pytest.raises(ModuleError):
            compose.write(tmp_path / "x.jsonl", both, weights, rows, levels=levels)


# --- commands ---------------------------------------------------------------------------------------------------------

def run(*arguments: str):
    from realm.cli import app

    return CliRunner().invoke(app, ["module", *arguments])


def test_commands(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = json.loads(run("list", "--json").output)
    assert [(row["id"], row["state"]) for row in listed] == [(name, "shipped") for name in SHIPPED]
    assert "is shipped but not installed" in str(run("compose", "carry-drill").exception)
    assert run("install", "carry-drill").exit_code == 0
    assert run("validate", "carry-drill").exit_code == 0
    info = run("info", "carry-drill").output
    assert "closed: 405 problems" in info and "a drill" in info and "may use it" in info
    assert run("export", "carry-drill").exit_code == 0 and (tmp_path / "carry-drill-1.0.zip").exists()
    made = json.loads(run("compose", "carry-drill", "--rows", "40", "--levels", "2-3", "--json").output)
    assert made["counts"] == {"module:carry-drill": {"2": 20, "3": 20}}
    assert Path(made["path"]).parent == home.inbox / "normal" and len(Path(made["path"]).read_text().splitlines()) == 40
    listed = CliRunner().invoke(__import__("realm.cli", fromlist=["app"]).app, ["skill", "list"]).output
    assert "module:carry-drill" in listed
    assert run("remove", "carry-drill").exit_code == 0
    for wrong in (["info", "nothing"], ["remove", "carry-drill"], ["compose", "x=1"], ["compose", "carry-drill=x"],
                  ["compose", "carry-drill", "--levels", "3-1"], ["install", "nowhere"], ["compose", "a", "a"],
                  ["compose", "../carry-drill"], ["info", ".trash"]):  # fmt: skip
        result = run(*wrong)
        assert result.exit_code != 0 and type(result.exception).__name__ == "Refused", (wrong, result.exception)


def test_unmet_requirements_are_an_error_at_use(tmp_path, home):
    manifest = changed(requirements={"min_level": 2, "prerequisites": ["bin:1"]})
    assert run("install", str(kit.folder(tmp_path / "src", kit.files(manifest)))).exit_code == 0
    error = str(run("compose", "tiny-sums", "--rows", "10").exception)
    assert "needs a total level of 2, the campaign has 0" in error and "train bin first" in error
    assert not [p for p in home.inbox.rglob("*") if p.is_file()]


def test_remove_waits_for_quests_on_the_board(home, engine):
    from realm import db
    from realm.quests import board

    assert run("install", "carry-drill").exit_code == 0
    with db.write(engine) as connection:
        board.enqueue(connection, board.NewQuest(id="Q1", name="x", kind="idle", lane="low", path="queue/low/x.jsonl",
                                                 rows=1, skill="module:carry-drill", level=1))  # fmt: skip
    assert "1 quests of it are on the board" in str(run("remove", "carry-drill").exception)
    assert run("remove", "carry-drill", "--force").exit_code == 0


def test_validate_reads_a_folder_and_fails_with_findings(tmp_path):
    result = run("validate", str(kit.folder(tmp_path, BROKEN["wrong count"][0])))
    assert result.exit_code == 1 and "29 rows" in result.output


