"""Rebalancing: names find their rows or stop the run, counts are exact, rows are copied verbatim."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.step import How, StepError, UsageError, read_manifest
from afs.training import rebalance
from afs.training.mixing import largest_remainder
from afs.training.rebalancer import parse_weights, rebalance_dataset, rebalance_datasets


def row(n, domain="general", source="augmented", quality=0.9, **more):
    return {"instruction": f"q{n}", "output": f"a{n}", "domain": domain, "source": source, "sample_id": f"{source}-{n}",
            "quality_score": quality, **more}  # fmt: skip


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def lines(path):
    return Path(path).read_bytes().splitlines()


def domains(path):
    return Counter(json.loads(line)["domain"] for line in lines(path))


@pytest.fixture
def guide(tmp_path):
    """The files of the guide's section "Rebalance and mix"."""
    data = tmp_path / "training_data"
    oracle = [row(i, f"oracle_{('docs', 'asm', 'memory')[i % 3]}", f"Docs/page{i}.md") for i in range(90)]
    oracle[3]["quality_score"] = 0.1
    kept = [row(i, "oracle_docs", f"Docs/old{i}.md", _metadata={"rehearsal_version": "v1"}) for i in range(40)]
    return {
        "oracle": write(data / "oracle_scored.jsonl", oracle),
        "memory": write(data / "memory_scored.jsonl", [row(i, "memory", f"note-{i}") for i in range(60)]),
        "toolbench": write(data / "toolbench_scored.jsonl",
                           [row(i, "toolbench_api", f"toolbench_train_{i:06}") for i in range(70)]),
        "rehearsal": write(tmp_path / ".context/training/rehearsal/majora_v1.jsonl", kept),
        "out": data / "mixed.jsonl",
    }  # fmt: skip


def test_the_guides_mix_with_a_rehearsal_buffer(guide):
    """The buffer's rows have Oracle's domains too; with a weight for rehearsal they count as rehearsal only."""
    weights = parse_weights(["oracle=0.35", "memory=0.20", "toolbench=0.25", "rehearsal=0.20"])
    inputs = [guide[name] for name in ("oracle", "memory", "toolbench", "rehearsal")]
    found = rebalance_dataset(inputs, guide["out"], weights=weights, min_quality_score=0.5)
    # The buffer is the scarcest: 40 / 0.20 = 200.
    assert found.group_counts_out == {"oracle": 70, "memory": 40, "toolbench": 50, "rehearsal": 40}
    assert found.mapping == {"oracle": "domain oracle_*", "memory": "domain memory",
                             "toolbench": "source toolbench*", "rehearsal": "_metadata.rehearsal_version"}  # fmt: skip
    assert {g.name: g.eligible for g in found.groups}["oracle"] == 89, "one row is below the threshold"
    written = lines(guide["out"])
    assert len(written) == len(set(written)) == 200 and set(written) <= {x for p in inputs for x in lines(p)}
    for name in weights:
        assert name in found.summary()


def test_the_guides_other_two_mixes(guide):
    found = rebalance_dataset([guide["toolbench"], guide["oracle"], guide["memory"]], guide["out"],
                              weights={"toolbench": 0.3, "oracle": 0.4, "memory": 0.3})  # fmt: skip
    assert found.group_counts_out == {"toolbench": 60, "oracle": 80, "memory": 60}
    found = rebalance_datasets([guide["oracle"], guide["memory"]], guide["out"], weights={"oracle": 0.5, "memory": 0.5})
    assert found.group_counts_out == {"oracle": 60, "memory": 60}
    assert rebalance.rebalance_dataset is rebalance_dataset


def test_the_first_kind_that_finds_rows_is_taken(tmp_path):
    rows = [row(1, "x", "memory"), row(2, "memory", "y"), row(3, "z", "memory_a"), row(4, "z", "other")]
    path = write(tmp_path / "memory.jsonl", rows)
    out = tmp_path / "out.jsonl"

    def ids():
        return sorted(json.loads(line)["sample_id"] for line in lines(out))

    assert rebalance_dataset(path, out, weights={"memory": 1}).mapping == {"memory": "source memory"}
    assert ids() == ["memory-1"]
    assert rebalance_dataset(path, out, weights={"memory": 1}, group_by="domain").mapping == {"memory": "domain memory"}
    assert ids() == ["y-2"]
    write(path, rows[2:])
    assert rebalance_dataset(path, out, weights={"memory": 1}).mapping == {"memory": "source memory*"}
    assert ids() == ["memory_a-3"]
    write(path, rows[3:])
    assert rebalance_dataset(path, out, weights={"memory": 1}).mapping == {"memory": "file memory.jsonl"}
    assert ids() == ["other-4"]


def test_a_name_matches_whole_words_only(tmp_path):
    path = write(tmp_path / "toolbench_scored.jsonl", [row(1, "d", "toolbench_1")])
    with pytest.raises(UsageError, match=r"weight 'tool' matches nothing; close: toolbench"):
        rebalance_dataset(path, tmp_path / "out.jsonl", weights={"tool": 1})
    assert not (tmp_path / "out.jsonl").exists() and list(tmp_path.iterdir()) == [path], "nothing was written"


def test_rows_that_two_weights_want_stop_the_run(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1, "docs", "wiki"), row(2, "docs", "blog")])
    with pytest.raises(UsageError, match=r"ambiguous: 1 rows belong to both weights 'wiki' .* and 'docs'"):
        rebalance_dataset(path, tmp_path / "out.jsonl", weights={"wiki": 1, "docs": 1})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("texts", [["oracle"], ["oracle="], ["=0.4"], ["oracle=x"], ["a=1", "a=2"]])
def test_weights_that_cannot_be_read(texts):
    with pytest.raises(UsageError, match="weight '"):
        parse_weights(texts)


def test_weights_that_can_be_read():
    assert parse_weights(["a=b=0.5", " c =2"]) == {"a=b": 0.5, "c": 2.0}


@pytest.mark.parametrize("wrong", [
    {"weights": {"docs": -1}}, {"weights": {"docs": float("nan")}}, {"weights": {"docs": 0}}, {"max_total": 0},
    {"max_repeats": 0}, {"group_by": "origin"}, {"min_quality_score": float("nan")}, {"seed": -1},
])  # fmt: skip
def test_wrong_settings_are_refused(tmp_path, wrong):
    path = write(tmp_path / "a.jsonl", [row(1, "docs")])
    with pytest.raises(UsageError):
        rebalance_dataset(path, tmp_path / "out.jsonl", **{"weights": {"docs": 1}, **wrong})


def test_an_input_named_twice_and_an_output_that_is_an_input(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1, "docs")])
    with pytest.raises(UsageError, match="named twice"):
        rebalance_dataset([path, tmp_path / "." / "a.jsonl"], tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="is also an input"):
        rebalance_dataset(path, path)


def test_quality(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1, "a", quality=0.7), row(2, "a", quality=0.69), row(3, "a", quality=None)])
    out = tmp_path / "out.jsonl"
    assert rebalance_dataset(path, out, weights={"a": 1}, min_quality_score=0.7).total_output == 1
    with pytest.raises(UsageError, match="none of the 3 rows of 'a' reaches min_quality_score 0.8"):
        rebalance_dataset(path, out, weights={"a": 1}, min_quality_score=0.8)
    unscored = write(tmp_path / "b.jsonl", [row(1, "a", quality=0.0)])
    with pytest.raises(UsageError, match="run `afs training score` first"):
        rebalance_dataset(unscored, out, weights={"a": 1}, min_quality_score=0.3)
    assert rebalance_dataset(unscored, out, weights={"a": 1}, min_quality_score=0.0).total_output == 1


def test_max_total_and_unweighted_rows(tmp_path):
    rows = [row(i, "a") for i in range(50)] + [row(i, "b") for i in range(50)] + [row(i, "c") for i in range(7)]
    path, out = write(tmp_path / "x.jsonl", rows), tmp_path / "out.jsonl"
    found = rebalance_dataset(path, out, weights={"a": 3, "b": 1}, max_total=40)
    assert domains(out) == {"a": 30, "b": 10}
    assert "7 rows belong to no weight and were left out" in found.summary()
    found = rebalance_dataset(path, out, weights={"a": 3, "b": 1}, max_total=47, include_unweighted=True)
    assert domains(out) == {"a": 30, "b": 10, "c": 7}
    with pytest.raises(UsageError, match="leaves no room"):
        rebalance_dataset(path, out, weights={"a": 3, "b": 1}, max_total=7, include_unweighted=True)
    found = rebalance_dataset(path, out, weights={"a": 1, "b": 1}, max_total=1000)
    assert found.total_output == 100 and "fewer than max_total 1,000" in found.summary()


def test_without_weights_the_groups_get_equal_shares(tmp_path):
    rows = [row(i, "d", f"big_{i}") for i in range(40)] + [row(i, "e", f"small_{i}") for i in range(9)]
    path, out = write(tmp_path / "x.jsonl", rows), tmp_path / "out.jsonl"
    found = rebalance_dataset(path, out)
    assert found.group_counts_out == {"big": 9, "small": 9}
    assert rebalance_dataset(path, out, group_by="domain", max_total=10).group_counts_out == {"d": 5, "e": 5}


def test_oversampling_uses_every_row_before_any_row_again(tmp_path):
    """2 rows for 5 places: both twice, one a third time. The reference drew with replacement."""
    rows = [row(i, "few") for i in range(2)] + [row(i, "many") for i in range(8)]
    path, out = write(tmp_path / "x.jsonl", rows), tmp_path / "out.jsonl"
    found = rebalance_dataset(path, out, weights={"few": 1, "many": 1}, allow_oversample=True)
    used = Counter(lines(out))
    assert found.total_output == 10 and domains(out) == {"few": 5, "many": 5}
    assert sorted(n for line, n in used.items() if b'"few"' in line) == [2, 3]
    few = found.groups[0]
    assert (few.got, few.repeats, few.most) == (5, 3, 3)
    manifest = read_manifest(str(out) + ".manifest.json")
    assert manifest["details"]["repeats"] == 3 and manifest["outputs"][0]["rows"] == 10
    assert manifest["counts"] == {"read": 10, "out": 7, "filtered": 3, "duplicates": 0, "quarantined": 0, "blank": 0}


def test_repeats_are_capped(tmp_path):
    rows = [row(i, "few") for i in range(2)] + [row(i, "many") for i in range(100)]
    path, out = write(tmp_path / "x.jsonl", rows), tmp_path / "out.jsonl"
    found = rebalance_dataset(path, out, weights={"few": 1, "many": 1}, allow_oversample=True)
    assert found.group_counts_out == {"few": 8, "many": 8}, "a row at most 4 times"
    found = rebalance_dataset(path, out, weights={"few": 1, "many": 1}, allow_oversample=True, max_repeats=10)
    assert found.group_counts_out == {"few": 20, "many": 20}


def test_a_share_that_rounds_to_nothing_is_an_error(tmp_path):
    path = write(tmp_path / "x.jsonl", [row(1, "a"), *(row(i, "b") for i in range(5))])
    with pytest.raises(StepError, match="bad rows|no row"):
        rebalance_dataset(write(tmp_path / "bad.jsonl", []), tmp_path / "out.jsonl")
    # 1 row at 100 times the share of the others: a total of 1, which goes to the largest share.
    found = rebalance_dataset(path, tmp_path / "o.jsonl", weights={"a": 100, "b": 1})
    assert found.group_counts_out == {"a": 1, "b": 0}


def test_bad_rows_are_set_aside_and_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    good = json.dumps(row(1, "a")).encode()
    path.write_bytes(good + b"\n{broken\n\n" + good.replace(b'"a1"', b"5") + b"\r\n" + good)
    found = rebalance_dataset(path, tmp_path / "out.jsonl", weights={"a": 1})
    assert found.report.counts.quarantined == 2 and found.total_output == 2
    records = [json.loads(line) for line in lines(tmp_path / "out.quarantine.jsonl")]
    assert [r["line"] for r in records] == [2, 4]
    with pytest.raises(StepError, match=r"x\.jsonl:2"):
        rebalance_dataset(path, tmp_path / "out2.jsonl", weights={"a": 1}, how=How(strict=True))


def test_same_bytes_for_any_number_of_workers_and_a_second_run_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("afs.rows.PART_BYTES", 2000)
    paths = [write(tmp_path / f"in{k}.jsonl", [row(i, "ab"[i % 2], f"s{k}_{i}") for i in range(120)]) for k in range(2)]
    outputs = {}
    for workers in (1, 2, 7):
        out = tmp_path / f"out{workers}.jsonl"
        args = {"weights": {"a": 2, "b": 1}, "allow_oversample": True, "max_total": 300, "how": How(workers=workers)}
        first = rebalance_dataset(paths, out, **args)
        outputs[workers] = out.read_bytes()
        again = rebalance_dataset(paths, out, **args)
        assert not first.report.current and again.report.current and again.groups == first.groups
    assert outputs[1] == outputs[2] == outputs[7]
    assert rebalance_dataset(paths, out, **{**args, "weights": {"b": 1, "a": 2}}).report.current is True
    other = rebalance_dataset(paths, tmp_path / "seed.jsonl", **{**args, "how": How()}, seed=7)
    assert other.group_counts_out == first.group_counts_out and (tmp_path / "seed.jsonl").read_bytes() != outputs[1]


def test_compressed_inputs_dry_run_and_order(tmp_path):
    import gzip

    rows = [row(i, "ab"[i % 2]) for i in range(20)]
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in rows)))
    out = tmp_path / "out.jsonl"
    found = rebalance_dataset(packed, out, weights={"a": 1}, how=How(dry_run=True))
    assert found.total_output == 10 and not out.exists() and "domain a" in found.summary()
    rebalance_dataset(packed, out, weights={"a": 1}, shuffle=False)
    assert [json.loads(line)["instruction"] for line in lines(out)] == [f"q{i}" for i in range(0, 20, 2)]


WEIGHTS = st.sampled_from([0.1, 0.2, 0.25, 1, 3])
GROUPS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 25), WEIGHTS), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.one_of(st.none(), st.integers(1, 80)), st.booleans(), st.integers(1, 5), st.integers(0, 9))
def test_counts_are_exact_and_no_row_is_lost_or_invented(tmp_path_factory, groups, max_total, oversample, cap, seed):
    folder = tmp_path_factory.mktemp("mix")
    rows = [row(i, name) for name, (n, _w) in groups.items() for i in range(n)]
    path, out = write(folder / "in.jsonl", rows), folder / "out.jsonl"
    weights = {name: w for name, (_n, w) in groups.items()}
    found = rebalance_dataset(path, out, weights=weights, max_total=max_total, allow_oversample=oversample,
                              max_repeats=cap, seed=seed)  # fmt: skip
    used, got = Counter(lines(out)), domains(out)
    total = sum(got.values())
    assert {name: got.get(name, 0) for name in weights} == largest_remainder(weights, total) == found.group_counts_out
    assert set(used) <= {json.dumps(r).encode() for r in rows}
    allowed = cap if oversample else 1
    whole = sum(Fraction(repr(float(w))) for w in weights.values())
    reach = min(n * allowed * whole / Fraction(repr(float(w))) for n, w in groups.values())
    limit = max_total if max_total is not None else len(rows) if allowed > 1 else reach
    assert total == min(int(reach), int(limit)), "the largest total that keeps the shares"
    for name, (n, _w) in groups.items():
        copies = sorted(used[json.dumps(row(i, name)).encode()] for i in range(n))
        assert copies[-1] - copies[0] <= 1 and copies[-1] <= allowed, "no row is used again before all were used"
    for fates in found.report.by_source.values():
        assert fates["read"] == fates["out"] + fates["filtered"]
