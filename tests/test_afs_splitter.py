"""Splits: exact counts, nothing that belongs together parted, and rows that stay where they were."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.step import How, StepError, UsageError, read_manifest
from afs.training.splitter import SPLITS, load_assignments, split_dataset, stratum_targets

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgmnrst"]
RATIOS = (Fraction(8, 10), Fraction(1, 10), Fraction(1, 10))


def said(seed, size=40):
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=size))


def row(n, text=None, **more):
    return {"instruction": f"question {n if text is None else text}", "output": said(n if text is None else text),
            "domain": "abc"[n % 3], "source": "oracle", "sample_id": f"id{n}", **more}  # fmt: skip


def write(path, rows):
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    return path


def rows_of(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def where(folder):
    """sample_id → split."""
    return {r["sample_id"]: name for name in SPLITS for r in rows_of(folder / f"{name}.jsonl")}


def split_of(folder, key):
    """Splits that each value of a key is in."""
    found = defaultdict(set)
    for name in SPLITS:
        for r in rows_of(folder / f"{name}.jsonl"):
            found[key(r)].add(name)
    return found


# --- counts ---------------------------------------------------------------------------------------------------------


def test_the_guides_command(tmp_path):
    source = write(tmp_path / "mixed.jsonl", [row(n) for n in range(300)])
    result = split_dataset(input_path=source, output_dir=tmp_path / "splits", train_ratio=0.8, val_ratio=0.1,
                           stratify_by="domain", seed=42)  # fmt: skip
    assert (result.train, result.val, result.test, result.total) == (240, 30, 30, 300)
    assert result.stats == {"train": dict.fromkeys("abc", 80), "val": dict.fromkeys("abc", 10),
                            "test": dict.fromkeys("abc", 10)}  # fmt: skip
    assert result.leaks == {"groups": 0, "texts": 0} and "leaks: 0 groups" in result.summary()
    lines = [line for name in SPLITS for line in (tmp_path / "splits" / f"{name}.jsonl").read_bytes().splitlines()]
    assert sorted(lines) == sorted(source.read_bytes().splitlines())
    manifest = read_manifest(tmp_path / "splits" / "manifest.json")
    assert [f["path"] for f in manifest["outputs"]] == ["train.jsonl", "val.jsonl", "test.jsonl", "assignments.jsonl"]


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 400), min_size=1),
    st.integers(0, 20), st.integers(0, 20),
)  # fmt: skip
def test_targets_keep_the_quota_in_every_stratum_and_over_all(sizes, val, test):
    ratios = (1 - Fraction(val + test, 40), Fraction(val, 40), Fraction(test, 40))
    found = stratum_targets(sizes, ratios)
    for name, size in sizes.items():
        assert sum(found[name].values()) == size
        for split, ratio in zip(SPLITS, ratios, strict=True):
            assert abs(found[name][split] - ratio * size) < 1
    for split, ratio in zip(SPLITS, ratios, strict=True):
        assert abs(sum(row[split] for row in found.values()) - ratio * sum(sizes.values())) < 2


@given(st.integers(0, 500), st.integers(0, 10), st.integers(0, 10))
def test_one_stratum_is_largest_remainder(size, val, test):
    from afs.training.mixing import largest_remainder

    ratios = (1 - Fraction(val + test, 20), Fraction(val, 20), Fraction(test, 20))
    weights = {name: float(ratio) for name, ratio in zip(SPLITS, ratios, strict=True)}
    assert stratum_targets({"all": size}, ratios)["all"] == largest_remainder(weights, size)


def test_small_strata_do_not_favour_a_split(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n, domain=f"d{n // 3}") for n in range(27)])
    result = split_dataset(source, tmp_path / "s")
    assert (result.train, result.val, result.test) in {(21, 3, 3), (22, 2, 3), (22, 3, 2)}
    singles = write(tmp_path / "singles.jsonl", [row(n, domain=f"d{n}") for n in range(100)])
    result = split_dataset(singles, tmp_path / "t")
    assert (result.train, result.val, result.test) == (80, 10, 10)


@pytest.mark.parametrize("count, expected", [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_at_least_one_per_split_where_possible(tmp_path, count, expected):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(count)])
    result = split_dataset(source, tmp_path / "s", stratify_by=None)
    assert sum(n > 0 for n in (result.train, result.val, result.test)) == expected and result.total == count


def test_no_test_split_and_no_train_split(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(30)])
    result = split_dataset(source, tmp_path / "s", train_ratio=0.9, val_ratio=0.1, stratify_by=None)
    assert (result.train, result.val, result.test) == (27, 3, 0)
    assert (tmp_path / "s" / "test.jsonl").read_bytes() == b""
    assert split_dataset(source, tmp_path / "t", 0.0, 0.5, 0.5, stratify_by=None).train == 0


@pytest.mark.parametrize(
    "wrong", [(-0.1, 0.5, None), (0.8, 0.3, None), (0.8, 0.1, 0.2), (0.5, 0.1, 0.1), (1.1, 0, None)]
)
def test_ratios_are_shares_of_one(tmp_path, wrong):
    source = write(tmp_path / "in.jsonl", [row(1)])
    with pytest.raises(UsageError, match="ratio"):
        split_dataset(source, tmp_path / "s", *wrong)


def test_unknown_keys_are_named_with_those_that_exist(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n, level=n % 2, _metadata={"tool": "x"}) for n in range(20)])
    with pytest.raises(UsageError, match="domian.*domain.*level.*tool"):
        split_dataset(source, tmp_path / "s", stratify_by="domian")
    with pytest.raises(UsageError, match="group by.*level"):
        split_dataset(source, tmp_path / "s", group_by=["lvel"])
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").glob("*.jsonl"))
    assert split_dataset(source, tmp_path / "l", stratify_by="level").stats["train"] == {"0": 8, "1": 8}
    assert split_dataset(source, tmp_path / "t", stratify_by="tool").stats["train"] == {"x": 16}


# --- groups ---------------------------------------------------------------------------------------------------------


def test_equal_texts_never_part(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n, text=n % 100) for n in range(200)])
    result = split_dataset(source, tmp_path / "s", near=None, stratify_by=None)
    assert all(len(names) == 1 for names in split_of(tmp_path / "s", lambda r: r["output"]).values())
    assert result.leaks["texts"] == 0 and (result.train, result.val, result.test) == (160, 20, 20)


def test_near_duplicates_never_part(tmp_path):
    rows = []
    for n in range(60):
        words = said(n, 60).split()
        for copy in range(3):
            words[20 * copy] = f"edit{copy}"
            rows.append(row(n, output=" ".join(words), sample_id=f"{n}-{copy}"))
    source = write(tmp_path / "in.jsonl", rows)
    split_dataset(source, tmp_path / "s", near=0.7)
    assert all(len(names) == 1 for names in split_of(tmp_path / "s", lambda r: r["instruction"]).values())


@pytest.mark.parametrize("place", ["_metadata.session_id", "_metadata.session", "session"])
def test_sessions_never_part(tmp_path, place):
    def with_session(n):
        name = place.split(".")[-1]
        return {"_metadata": {name: f"s{n // 4}"}} if "." in place else {name: f"s{n // 4}"}

    source = write(tmp_path / "in.jsonl", [row(n, **with_session(n)) for n in range(200)])
    result = split_dataset(source, tmp_path / "s")
    parted = split_of(tmp_path / "s", lambda r: r.get("session") or next(iter(r["_metadata"].values())))
    assert len(parted) == 50 and all(len(names) == 1 for names in parted.values())
    assert "session" in result.report.details["grouped_by"] and result.total == 200


def test_a_source_is_a_document_only_when_few_rows_name_it(tmp_path):
    def source_of(n):
        return "oracle" if n % 2 else f"docs/page{n // 8}.md"

    source = write(tmp_path / "in.jsonl", [row(n, source=source_of(n)) for n in range(400)])
    result = split_dataset(source, tmp_path / "s")
    parted = split_of(tmp_path / "s", lambda r: r["source"])
    assert parted.pop("oracle") == set(SPLITS)
    assert len(parted) == 50 and all(len(names) == 1 for names in parted.values())
    assert result.report.details["sources"] == {"documents": 50, "kinds": 1, "most_rows": 20}
    assert (result.train, result.val, result.test) == (320, 40, 40)


def test_group_by_is_taken_literally(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n, source=f"s{n % 4}", _metadata={"file": n % 5}) for n in range(100)])
    split_dataset(source, tmp_path / "s", group_by=["source"], stratify_by=None)
    assert all(len(names) == 1 for names in split_of(tmp_path / "s", lambda r: r["source"]).values())
    split_dataset(source, tmp_path / "t", group_by=["file"], stratify_by=None)
    assert all(len(names) == 1 for names in split_of(tmp_path / "t", lambda r: r["_metadata"]["file"]).values())


def test_one_large_group_goes_where_it_fits_and_the_miss_is_reported(tmp_path):
    rows = [row(n, **({"session": "long"} if n < 60 else {})) for n in range(100)]
    result = split_dataset(write(tmp_path / "in.jsonl", rows), tmp_path / "s", stratify_by=None)
    assert (result.train, result.val, result.test) == (80, 10, 10)
    rows = [row(n, session="ab"[n < 60]) for n in range(100)]
    result = split_dataset(write(tmp_path / "two.jsonl", rows), tmp_path / "t", stratify_by=None)
    assert sorted((result.train, result.val, result.test)) == [0, 40, 60]
    assert "cannot be reached with whole groups" in result.summary()


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    sessions=st.lists(st.integers(0, 12) | st.none(), min_size=60, max_size=60),
    seed=st.integers(0, 5),
    near=st.sampled_from([None, 0.8]),
)
def test_nothing_is_lost_and_nothing_that_belongs_together_parts(tmp_path_factory, texts, sessions, seed, near):
    folder = tmp_path_factory.mktemp("p")
    rows = [row(n, text=t, **({} if s is None else {"session": s}))
            for n, (t, s) in enumerate(zip(texts, sessions, strict=False))]  # fmt: skip
    result = split_dataset(write(folder / "in.jsonl", rows), folder / "s", seed=seed, near=near)
    counts = result.report.counts
    assert counts.read == counts.out == result.total == len(rows)
    assert sum(f["read"] for f in result.report.by_source.values()) == len(rows)
    written = Counter(orjson.dumps(r) for name in SPLITS for r in rows_of(folder / "s" / f"{name}.jsonl"))
    assert written == Counter(orjson.dumps(r) for r in rows)
    assert all(len(names) == 1 for names in split_of(folder / "s", lambda r: r["output"]).values())
    parted = split_of(folder / "s", lambda r: r.get("session"))
    parted.pop(None, None)
    assert all(len(names) == 1 for names in parted.values()) and result.leaks == {"groups": 0, "texts": 0}


# --- growth ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_added_rows_never_move_an_old_one(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("g")
    texts, session = st.integers(0, 40), st.none() | st.integers(0, 8)
    pairs = data.draw(st.lists(st.tuples(texts, session), min_size=1, max_size=30))
    more = data.draw(st.lists(st.tuples(texts, session), min_size=1, max_size=30))

    def made(found):
        return [row(n, text=t, **({} if s is None else {"session": s})) for n, (t, s) in enumerate(found)]

    split_dataset(write(folder / "in.jsonl", made(pairs)), folder / "s", near=None)
    before = where(folder / "s")
    result = split_dataset(write(folder / "in.jsonl", made(pairs + more)), folder / "s", near=None)
    after = where(folder / "s")
    assert {key: after.get(key) for key in before} == before
    assert result.leaks == {"groups": 0, "texts": 0}
    assert result.total + result.held_out == len(pairs) + len(more) == result.report.counts.read
    assert all(len(names) == 1 for names in split_of(folder / "s", lambda r: r["output"]).values())


def test_growth_fills_up_to_exact_counts(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(90)])
    split_dataset(source, tmp_path / "s", stratify_by=None)
    grown = write(tmp_path / "in.jsonl", [row(n) for n in range(200)])
    result = split_dataset(grown, tmp_path / "s", stratify_by=None)
    assert (result.train, result.val, result.test) == (160, 20, 20)
    assert "90 rows keep the split" in result.summary()


def test_a_row_that_joins_two_splits_is_left_out(tmp_path):
    rows = [row(n, _metadata={"session_id": f"s{n}"}) for n in range(40)]
    split_dataset(write(tmp_path / "in.jsonl", rows), tmp_path / "s", stratify_by=None)
    before = where(tmp_path / "s")
    in_train = next(n for n in range(40) if before[f"id{n}"] == "train")
    in_test = next(n for n in range(40) if before[f"id{n}"] == "test")
    bridge = row(100, text=in_train, _metadata={"session_id": f"s{in_test}"})
    edited = {**row(in_train), "sample_id": "edited", "output": said(in_train) + " tail"}
    bridge["output"] += " end"  # near the row in train, of the session in test
    follows = row(101, _metadata={"session_id": f"s{in_test}"})
    grown = write(tmp_path / "in.jsonl", [*rows, bridge])
    result = split_dataset(grown, tmp_path / "s", stratify_by=None)
    assert result.held_out == 1 and result.report.counts.filtered == 1 and result.leaks == {"groups": 0, "texts": 0}
    assert rows_of(tmp_path / "s" / "bridging.jsonl") == [bridge] and "different splits" in result.summary()
    assert where(tmp_path / "s") == before
    result = split_dataset(write(tmp_path / "in.jsonl", [*rows, edited, follows]), tmp_path / "s", stratify_by=None)
    assert result.held_out == 0 and not (tmp_path / "s" / "bridging.jsonl").exists()
    now = where(tmp_path / "s")
    assert now["edited"] == "train" and now["id101"] == "test"


def test_new_rows_of_an_old_session_follow_it_when_its_rows_are_gone(tmp_path):
    rows = [row(n, session=f"s{n}") for n in range(60)]
    split_dataset(write(tmp_path / "in.jsonl", rows), tmp_path / "s", stratify_by=None)
    before = where(tmp_path / "s")
    moved = [row(n, text=n + 500, session=f"s{n}") for n in range(60)]
    split_dataset(write(tmp_path / "in.jsonl", moved), tmp_path / "s", stratify_by=None)
    assert where(tmp_path / "s") == before


def test_fresh_forgets(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(100)])
    split_dataset(source, tmp_path / "s", seed=1)
    before = where(tmp_path / "s")
    split_dataset(source, tmp_path / "s", seed=2)
    assert where(tmp_path / "s") == before
    split_dataset(source, tmp_path / "s", seed=2, fresh=True)
    split_dataset(source, tmp_path / "t", seed=2)
    assert where(tmp_path / "s") == where(tmp_path / "t") != before


def test_a_damaged_assignments_file_is_an_error(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(10)])
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "assignments.jsonl").write_text('{"key":"text:00ff","split":"train"}\n{"key":"text:00"}\n')
    with pytest.raises(StepError, match="assignments.jsonl:2"):
        split_dataset(source, tmp_path / "s")


# --- runs -----------------------------------------------------------------------------------------------------------


def test_the_same_splits_in_any_order_and_for_any_number_of_workers(tmp_path):
    rows = [row(n, text=n % 150) for n in range(200)]
    write(tmp_path / "a.jsonl", rows)
    write(tmp_path / "b.jsonl", rows[::-1])
    split_dataset(tmp_path / "a.jsonl", tmp_path / "a")
    split_dataset(tmp_path / "b.jsonl", tmp_path / "b")
    split_dataset(tmp_path / "a.jsonl", tmp_path / "c", how=How(workers=2))
    assert where(tmp_path / "a") == where(tmp_path / "b")
    for name in (*SPLITS, "assignments"):
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (tmp_path / "c" / f"{name}.jsonl").read_bytes()


def test_without_shuffle_rows_keep_their_order(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(100)])
    split_dataset(source, tmp_path / "s", stratify_by=None, shuffle=False)
    ids = [[r["sample_id"] for r in rows_of(tmp_path / "s" / f"{name}.jsonl")] for name in SPLITS]
    assert sum(ids, []) == [f"id{n}" for n in range(100)]


def test_a_second_run_does_nothing_and_a_dry_run_writes_nothing(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(50)])
    dry = split_dataset(source, tmp_path / "s", how=How(dry_run=True))
    assert dry.total == 50 and not (tmp_path / "s").exists()
    first = split_dataset(source, tmp_path / "s")
    again = split_dataset(source, tmp_path / "s")
    assert again.report.current and (again.train, again.stats) == (first.train, first.stats)


def test_nothing_usable_is_an_error_and_bad_rows_are_set_aside(tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b"nothing\n")
    with pytest.raises(StepError, match="no usable row"):
        split_dataset(tmp_path / "bad.jsonl", tmp_path / "s")
    mixed = write(tmp_path / "in.jsonl", [row(n) for n in range(10)])
    mixed.write_bytes(mixed.read_bytes() + b"nothing\n")
    assert split_dataset(mixed, tmp_path / "t").report.counts.quarantined == 1
    with pytest.raises(UsageError, match="is a file"):
        split_dataset(mixed, mixed)


def test_fresh_deals_anew_even_when_the_outputs_are_current(tmp_path):
    few = write(tmp_path / "few.jsonl", [row(n) for n in range(20)])
    more = write(tmp_path / "more.jsonl", [row(n) for n in range(200)])
    split_dataset(few, tmp_path / "grown")
    split_dataset(more, tmp_path / "grown")
    result = split_dataset(more, tmp_path / "grown", fresh=True)
    split_dataset(more, tmp_path / "new")
    assert not result.report.current and where(tmp_path / "grown") == where(tmp_path / "new")
    # The manifest is that of the new files.
    assert split_dataset(more, tmp_path / "grown").report.current


def test_the_rows_that_were_held_out_are_no_input_of_their_own_folder(tmp_path):
    (tmp_path / "splits").mkdir()
    source = write(tmp_path / "splits" / "bridging.jsonl", [row(n) for n in range(9)])
    with pytest.raises(UsageError, match="never overwritten"):
        split_dataset(source, tmp_path / "splits")
    assert source.exists()


@pytest.mark.parametrize("key", ["other", "teacher_model", "timestamp"])
def test_a_key_that_no_row_has_is_no_stratum(tmp_path, key):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(9)])
    with pytest.raises(UsageError, match="no row has the key"):
        split_dataset(source, tmp_path / "splits", stratify_by=key)


def test_earlier_assignments_take_few_bytes_a_row(tmp_path):
    import tracemalloc

    count = 100_000
    (tmp_path / "assignments.jsonl").write_text("".join(
        f'{{"key":"text:{(n * 0x9E3779B97F4A7C15) % 2**64:016x}","split":"{SPLITS[n % 3]}"}}\n' for n in range(count)))
    tracemalloc.start()
    loaded = load_assignments(tmp_path / "assignments.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(loaded["text"][0]) == count and peak < 40 * count + 2**20
