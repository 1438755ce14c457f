"""Rehearsal buffers: what is kept, that ratios are reached or reported, and that no held-out row comes back."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.generators.base import TrainingSample
from afs.step import How, StepError, UsageError, read_manifest
from afs.training.rehearsal import (
    RehearsalBuffer,
    RehearsalBufferConfig,
    ShortBuffer,
    build_rehearsal,
    choose,
    load_rehearsal_buffer,
    mix_rehearsal,
    old_count,
    quotas,
)

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgmnrst"]


def said(seed, size=40):
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=size))


def row(n, **more):
    return {"instruction": f"question {n}", "output": said(n), "domain": "abc"[n % 3], "source": f"s{n % 2}",
            "sample_id": f"id{n}", "quality_score": (n * 37 % 100 + 1) / 101, **more}  # fmt: skip


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    return path


def rows_of(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def samples(numbers, **more):
    return [TrainingSample.from_dict(row(n, **more)) for n in numbers]


@pytest.fixture
def old(tmp_path):
    return write(tmp_path / "v4.jsonl", [row(n) for n in range(300)])


@pytest.fixture
def new(tmp_path):
    return write(tmp_path / "new.jsonl", [row(n) for n in range(1000, 1070)])


# --- the guide ------------------------------------------------------------------------------------------------------


def test_the_guides_snippet(tmp_path, old, new, monkeypatch):
    from afs.training import RehearsalBuffer as Exported
    from afs.training import load_samples

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    buffer = Exported()
    assert buffer.load_from_jsonl(Path(old), version="v4") == 300
    kept = buffer.select_top_samples(ratio=0.3)
    passed = sum(r["quality_score"] >= 0.5 for r in rows_of(old))
    assert kept == len(buffer.samples) == int(passed * 0.3)
    mixed = buffer.merge_with_new_data(load_samples(new), rehearsal_ratio=0.3, shuffle=True, seed=42)
    assert len(mixed) == 100 and sum("rehearsal_version" in s._metadata for s in mixed) == 30
    assert buffer.save(Path("~/.context/training/rehearsal/veran_v4.jsonl")) == kept
    again = load_rehearsal_buffer("~/.context/training/rehearsal/veran_v4.jsonl")
    assert again.version_counts == {"v4": 300}
    assert [s.to_dict() for s in again.samples] == [s.to_dict() for s in buffer.samples]


def test_mixing_is_seeded_and_leaves_the_global_state_alone():
    import random

    buffer = RehearsalBuffer(samples(range(50)))
    state = random.getstate()
    first, again, other = (
        [s.sample_id for s in buffer.merge_with_new_data(samples(range(100, 140)), 0.4, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other and random.getstate() == state
    plain = buffer.merge_with_new_data(samples(range(100, 103)), 0.4, shuffle=False)
    assert [s.sample_id for s in plain[:3]] == ["id100", "id101", "id102"]


# --- ratios ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3000), st.integers(0, 100))
def test_the_ratio_is_the_share_of_the_final_mix(new_rows, percent):
    ratio = percent / 100
    count = old_count(new_rows, ratio, 17)
    if percent == 100:
        assert count == 17
    else:
        assert count * (100 - percent) <= new_rows * percent < (count + 1) * (100 - percent)


@settings(max_examples=30, deadline=None)
@given(have=st.integers(1, 40), new_rows=st.integers(1, 40), percent=st.integers(0, 100))
def test_ratio_reached_or_reported(have, new_rows, percent):
    buffer = RehearsalBuffer(samples(range(have)))
    fresh = samples(range(100, 100 + new_rows))
    wanted = old_count(new_rows, percent / 100, have)
    if wanted > have:
        with pytest.warns(ShortBuffer, match="ratio"):
            mixed = buffer.merge_with_new_data(fresh, percent / 100)
    else:
        mixed = buffer.merge_with_new_data(fresh, percent / 100)
    from_buffer = sum(s.sample_id in {b.sample_id for b in buffer.samples} for s in mixed)
    assert from_buffer == min(wanted, have) == buffer.last_merge["used"]
    assert len(mixed) - from_buffer == (0 if percent == 100 else new_rows)
    assert buffer.last_merge["ratio_reached"] == (from_buffer / len(mixed) if mixed else 0)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_ratios_outside_are_refused(wrong):
    with pytest.raises(UsageError, match="rehearsal_ratio"):
        RehearsalBuffer(samples(range(3))).merge_with_new_data(samples([9]), wrong)


# --- selection ------------------------------------------------------------------------------------------------------


@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1),
    total=st.integers(0, 200),
    most=st.none() | st.integers(1, 50),
    even=st.booleans(),
)
def test_quotas_hand_out_all_that_the_limits_allow(sizes, total, most, even):
    found = quotas(sizes, total, most, even)
    room = {name: min(size, most or size) for name, size in sizes.items()}
    assert sum(found.values()) == min(total, sum(room.values()))
    assert all(0 <= found[name] <= room[name] for name in sizes)


def test_small_domains_shortfall_goes_to_the_others():
    rows = [TrainingSample("q", str(n), domain=d, quality_score=n / 3000) for d, size in
            (("small", 5), ("big", 1000), ("large", 1000)) for n in range(size)]  # fmt: skip
    buffer = RehearsalBuffer(rows)
    assert buffer.diversity_sample(300) == 300
    assert buffer.stats()["domains"] == {"big": 148, "large": 147, "small": 5}


def test_top_quality_takes_the_best_and_diversity_keeps_the_domains():
    rows = [TrainingSample("q", str(n), domain="ab"[n >= 80], quality_score=1 - n / 200) for n in range(100)]
    plain = RehearsalBuffer(rows, RehearsalBufferConfig(enable_diversity=False))
    assert plain.select_top_samples(0.2) == 20 and plain.stats()["domains"] == {"a": 20}
    assert min(s.quality_score for s in plain.samples) >= 1 - 19 / 200
    spread = RehearsalBuffer(rows, RehearsalBufferConfig(enable_diversity=True))
    assert spread.select_top_samples(0.2) == 20 and spread.stats()["domains"] == {"a": 16, "b": 4}
    assert {s.output for s in spread.samples} == {str(n) for n in (*range(16), *range(80, 84))}
    limited = RehearsalBuffer(rows, RehearsalBufferConfig(max_per_domain=10))
    assert limited.select_top_samples(0.2) == 20 and limited.stats()["domains"] == {"a": 10, "b": 10}


def test_choose_by_policy():
    quality, domains = np.linspace(1, 0, 100), np.arange(100) % 4
    random_one, other = (
        choose(quality, domains, list("abcd"), 40, policy="random-stratified", seed=seed) for seed in (1, 2)
    )
    assert not np.array_equal(random_one, other)
    assert np.bincount(domains[random_one]).tolist() == [10] * 4 and len(set(random_one.tolist())) == 40
    assert choose(quality, domains, list("abcd"), 8, spread=False).tolist() == list(range(8))


def test_unscored_data_names_the_command():
    buffer = RehearsalBuffer(samples(range(5), quality_score=0.0))
    with pytest.raises(StepError, match="afs training score"):
        buffer.select_top_samples()
    assert RehearsalBuffer(samples(range(5), quality_score=0.0)).select_top_samples(1.0, threshold=0) == 5
    with pytest.raises(StepError, match="the best has"):
        RehearsalBuffer(samples(range(5), quality_score=0.1)).select_top_samples()


def test_diverse_takes_one_of_each_group_of_near_duplicates():
    rows = [TrainingSample("q", said(n), quality_score=0.9) for n in range(10) for _ in range(3)]
    buffer = RehearsalBuffer(rows, RehearsalBufferConfig(policy="diverse"))
    assert buffer.select_top_samples(1.0) == 10


def test_versions_are_a_chain_and_survive_saving(tmp_path, old):
    first = RehearsalBuffer()
    first.load_from_jsonl(old, version="v4")
    first.save(tmp_path / "b4.jsonl")
    second = RehearsalBuffer()
    second.load_from_jsonl(tmp_path / "b4.jsonl", version="v5")
    assert second.samples[0]._metadata == {"rehearsal_version": "v5", "rehearsal_history": ["v4"]}
    second.load_from_jsonl(old, version="v6", max_samples=20)
    assert second.version_counts == {"v5": 300, "v6": 20}
    second.save(tmp_path / "b6.jsonl")
    loaded = load_rehearsal_buffer(tmp_path / "b6.jsonl")
    assert loaded.version_counts == {"v5": 300, "v6": 20} and loaded.stats()["held"] == {"v5": 300, "v6": 20}
    assert loaded.version_balance(100) == 100 and loaded.stats()["held"] == {"v5": 80, "v6": 20}
    with pytest.raises(UsageError, match="v5, v6"):
        loaded.version_balance(10, ["v9"])


def test_no_provenance_when_it_is_off(old):
    buffer = RehearsalBuffer(config=RehearsalBufferConfig(track_provenance=False))
    buffer.load_from_jsonl(old, version="v4")
    assert all(s._metadata == {} for s in buffer.samples) and buffer.version_counts == {"v4": 300}


def test_compressed_buffers_are_compressed_and_load(tmp_path, old):
    buffer = RehearsalBuffer(config=RehearsalBufferConfig(compress=True))
    buffer.load_from_jsonl(old, version="v4")
    buffer.save(tmp_path / "b.jsonl")
    assert len(gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes()).splitlines()) == 300
    assert len(load_rehearsal_buffer(tmp_path / "b.jsonl").samples) == 300
    with pytest.raises(FileNotFoundError):
        load_rehearsal_buffer(tmp_path / "none.jsonl")


def test_unknown_keys_and_bad_rows_do_not_stop_a_load(tmp_path):
    path = write(tmp_path / "x.jsonl", [row(1, _electra_score=0.3), row(2, _metadata=None)])
    path.write_bytes(path.read_bytes() + b"not json\n")
    buffer = RehearsalBuffer()
    assert buffer.load_from_jsonl(path, version="v1") == 2
    assert buffer.samples[0].to_dict()["_electra_score"] == 0.3
    assert buffer.samples[1]._metadata == {"rehearsal_version": "v1"}


def test_new_data_may_be_dicts_and_its_twins_are_left_out():
    buffer = RehearsalBuffer(samples(range(10)))
    edited = row(3)
    edited["output"] += " tail"
    mixed = buffer.merge_with_new_data([row(0), edited, *(row(n) for n in range(50, 58))], 0.4, seed=1)
    ids = [s.sample_id for s in mixed]
    assert sorted(ids).count("id0") == 1 and sorted(ids).count("id3") == 1 and buffer.last_merge["excluded"] == 2
    assert buffer.last_merge["used"] == 6


def test_configuration_is_checked():
    for wrong in ({"policy": "best"}, {"top_ratio": 0}, {"max_per_domain": 0}):
        with pytest.raises(UsageError):
            RehearsalBufferConfig(**wrong)


# --- files ----------------------------------------------------------------------------------------------------------


def test_build_and_mix_files(tmp_path, old, new):
    built = build_rehearsal(old, "v4", tmp_path / "buffer.jsonl")
    kept = rows_of(tmp_path / "buffer.jsonl")
    assert built.old == len(kept) == int(sum(r["quality_score"] >= 0.5 for r in rows_of(old)) * 0.3)
    assert all(r["_metadata"]["rehearsal_version"] == "v4" and r["quality_score"] >= 0.5 for r in kept)
    assert [r["quality_score"] for r in kept] == sorted((r["quality_score"] for r in kept), reverse=True)
    assert load_rehearsal_buffer(tmp_path / "buffer.jsonl").version_counts == {"v4": len(kept)}
    mixed = mix_rehearsal(tmp_path / "buffer.jsonl", new, tmp_path / "mix.jsonl", rehearsal_ratio=0.3)
    assert (mixed.old, mixed.new, mixed.ratio) == (30, 70, 0.3)
    lines = (tmp_path / "mix.jsonl").read_bytes().splitlines()
    sources = set(new.read_bytes().splitlines()) | set((tmp_path / "buffer.jsonl").read_bytes().splitlines())
    assert len(lines) == 100 and set(lines) <= sources
    assert mix_rehearsal(tmp_path / "buffer.jsonl", new, tmp_path / "mix.jsonl", rehearsal_ratio=0.3).report.current


def test_memory_and_files_choose_the_same(tmp_path, old):
    build_rehearsal(old, "v4", tmp_path / "buffer.jsonl", config=RehearsalBufferConfig(max_per_domain=7))
    buffer = RehearsalBuffer(config=RehearsalBufferConfig(max_per_domain=7))
    buffer.load_from_jsonl(old, version="v4")
    buffer.select_top_samples()
    assert {s.sample_id for s in buffer.samples} == {r["sample_id"] for r in rows_of(tmp_path / "buffer.jsonl")}


def test_twins_of_new_and_held_out_rows_stay_out(tmp_path, old, new):
    rows = rows_of(old)
    build_rehearsal(old, "v4", tmp_path / "buffer.jsonl", config=RehearsalBufferConfig(top_ratio=1.0))
    kept = {r["sample_id"] for r in rows_of(tmp_path / "buffer.jsonl")}
    usable = [r for r in rows if r["sample_id"] in kept]
    edited = {**usable[0], "output": usable[0]["output"] + " tail", "sample_id": "edited"}
    write(new, [*rows_of(new), usable[1]])
    write(tmp_path / "splits" / "val.jsonl", [edited])
    write(tmp_path / "splits" / "test.jsonl", [usable[2]])
    write(tmp_path / "splits" / "train.jsonl", [usable[3]])
    result = mix_rehearsal(tmp_path / "buffer.jsonl", new, tmp_path / "mix.jsonl", 1 - 1e-9,
                           exclude=[tmp_path / "splits"])  # fmt: skip
    assert result.report.details["excluded"] == {"new": 1, "held_out": 2, "each_other": 0}
    taken = [r["sample_id"] for r in rows_of(tmp_path / "mix.jsonl")]
    assert usable[0]["sample_id"] not in taken and usable[2]["sample_id"] not in taken
    assert taken.count(usable[1]["sample_id"]) == 1 and usable[3]["sample_id"] in taken
    assert result.ratio < 1 - 1e-9 and "ratio reached" in result.summary()
    counts = result.report.counts
    assert counts.read == len(kept) + 71 == counts.out + counts.duplicates + counts.filtered


def test_sessions_of_held_out_rows_stay_out(tmp_path, new):
    def meta(session):
        return {"_metadata": {"session_id": session}}

    buffer = write(tmp_path / "b.jsonl", [row(n, **meta(f"s{n % 2}")) for n in range(20)])
    held = write(tmp_path / "val.jsonl", [row(500, **meta("s1"))])
    result = mix_rehearsal(buffer, new, tmp_path / "mix.jsonl", 0.5, exclude=held)
    assert result.old == 10 and result.report.details["excluded"]["held_out"] == 10


def test_all_of_the_buffer_and_none_of_the_new_at_ratio_one(tmp_path, old, new):
    result = mix_rehearsal(old, new, tmp_path / "mix.jsonl", rehearsal_ratio=1.0)
    assert (result.old, result.new, result.ratio) == (300, 0, 1.0) and result.report.counts.filtered == 70
    nothing = mix_rehearsal(old, new, tmp_path / "new_only.jsonl", rehearsal_ratio=0.0, shuffle=False)
    assert nothing.old == 0 and (tmp_path / "new_only.jsonl").read_bytes() == new.read_bytes()


def test_a_buffer_that_is_all_in_the_new_data_is_an_error(tmp_path, new):
    with pytest.raises(StepError, match="near-duplicates of the new data"):
        mix_rehearsal(write(tmp_path / "b.jsonl", rows_of(new)), new, tmp_path / "mix.jsonl")
    assert not (tmp_path / "mix.jsonl").exists()


def test_several_versions_in_one_buffer(tmp_path, old, new):
    built = build_rehearsal([old, new], ["v4", "v5"], tmp_path / "b.jsonl", min_score=0.2)
    assert set(built.versions) == {"v4", "v5"} and sum(built.versions.values()) == built.old
    assert read_manifest(tmp_path / "b.jsonl.manifest.json")["details"]["versions"] == built.versions
    with pytest.raises(UsageError, match="one --version per --input"):
        build_rehearsal([old, new], ["a", "b", "c"], tmp_path / "b.jsonl")


def test_unscored_files_and_empty_folders_are_errors(tmp_path, new):
    bare = write(tmp_path / "bare.jsonl", [row(n, quality_score=0.0) for n in range(5)])
    with pytest.raises(StepError, match="afs training score"):
        build_rehearsal(bare, "v1", tmp_path / "b.jsonl")
    assert build_rehearsal(bare, "v1", tmp_path / "b.jsonl", min_score=0).old == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="neither val.jsonl nor test.jsonl"):
        mix_rehearsal(bare, new, tmp_path / "m.jsonl", exclude=tmp_path / "none")
    with pytest.raises(UsageError, match="policy"):
        mix_rehearsal(bare, new, tmp_path / "m.jsonl", policy="best")


@pytest.mark.parametrize("policy", ["top-quality", "random-stratified", "diverse"])
def test_the_same_bytes_for_any_number_of_workers(tmp_path, old, new, policy):
    found = []
    for workers in (1, 2):
        how, place = How(workers=workers), tmp_path / str(workers)
        build_rehearsal(old, "v4", place / "b.jsonl", config=RehearsalBufferConfig(policy=policy), how=how)
        mix_rehearsal(place / "b.jsonl", new, place / "m.jsonl", policy=policy, how=how)
        found.append(((place / "b.jsonl").read_bytes(), (place / "m.jsonl").read_bytes()))
    assert found[0] == found[1]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_counts_balance_per_source(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("p")
    numbers = st.lists(st.integers(0, 12), min_size=1, max_size=20)
    buffer = write(folder / "b.jsonl", [row(n) for n in data.draw(numbers)])
    fresh = write(folder / "n.jsonl", [row(n + 7) for n in data.draw(numbers)])
    ratio = data.draw(st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]))
    try:
        result = mix_rehearsal(buffer, fresh, folder / "m.jsonl", ratio)
    except StepError as error:
        assert "near-duplicates" in str(error)
        return
    counts = result.report.counts
    total = len(rows_of(buffer)) + len(rows_of(fresh))
    assert counts.read == total == counts.out + counts.filtered + counts.duplicates
    assert sum(f["read"] for f in result.report.by_source.values()) == total
    assert counts.out == result.total == len(rows_of(folder / "m.jsonl"))


def test_a_tagged_row_keeps_the_bytes_of_all_its_values(tmp_path):
    """A number beyond 64 bits or a long decimal is the same number afterwards."""
    kept = b'"uid":123456789012345678901234567890,"f":1.50,"t":"\\u00e4"'
    (tmp_path / "in.jsonl").write_bytes(b'{"instruction":"q","output":"a","quality_score":0.90,"_metadata":'
                                        b'{"rehearsal_version":"v0","n":10000000000000000000000},' + kept + b"}\n")
    build_rehearsal(tmp_path / "in.jsonl", "v1", tmp_path / "buffer.jsonl")
    made = (tmp_path / "buffer.jsonl").read_bytes()
    assert kept in made and b'"n":10000000000000000000000' in made and b'"quality_score":0.90,' in made
    assert orjson.loads(made)["_metadata"]["rehearsal_history"] == ["v0"]
    assert orjson.loads(made)["_metadata"]["rehearsal_version"] == "v1"


def test_held_out_texts_stay_out_without_a_search_for_near_duplicates(tmp_path):
    def file(name, rows):
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
        return tmp_path / name

    old = [{"instruction": f"old {n}", "output": f"answer {n}", "quality_score": 0.9} for n in range(20)]
    new = [{"instruction": f"new {n}", "output": f"reply {n}"} for n in range(20)]
    held = [{"instruction": f"Old  {n}", "output": f"answer {n}", "domain": "x"} for n in range(15)]
    result = mix_rehearsal(file("buffer.jsonl", old), file("new.jsonl", new), tmp_path / "mix.jsonl", 0.5, near=None,
                           exclude=file("test.jsonl", held))  # fmt: skip
    made = [orjson.loads(line)["instruction"] for line in (tmp_path / "mix.jsonl").read_bytes().splitlines()]
    assert sorted(m for m in made if m.startswith("old")) == [f"old {n}" for n in range(15, 20)]
    assert result.report.details["excluded"]["held_out"] == 15
