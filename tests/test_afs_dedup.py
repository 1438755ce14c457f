"""Duplicates: what counts as equal and as near, which row stays, and that nothing else goes."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.rows import scan
from afs.step import How, StepError, UsageError
from afs.training.dedup import check_planted, dedup_jsonl, explain_duplicate, measure_planted, plant
from afs.training.neardup import (
    TextColumn,
    bands_for,
    clusters,
    jaccard,
    normal,
    shingles,
    similarity,
)

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgmnrst"]


def text_of(rng, size=80):
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=size))


def write(path, rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def rows_of(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def sample(n, output, **more):
    return {"instruction": f"question {n}", "output": output, "sample_id": f"id{n}", "source": f"s{n % 3}", **more}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    rng = np.random.default_rng(5)
    rows = [sample(n, text_of(rng), domain="ab"[n % 2], quality_score=n % 7 / 7) for n in range(1500)]
    return write(tmp_path_factory.mktemp("base") / "base.jsonl", rows)


@pytest.mark.parametrize(
    "one, two",
    [
        ("Hello  World", "hello world"),
        (" a\tb\r\nc ", "A B C"),
        ("ﬁle", "FILE"),  # a ligature, under NFKC
        ("Straße", "STRASSE"),
        ("e\u0301tude", "\u00e9tude"),
    ],
)
def test_normal_form_joins_what_reads_the_same(one, two):
    assert normal(one) == normal(two)


@given(st.text())
def test_normal_form_is_stable_and_has_single_spaces(text):
    once = normal(text)
    assert normal(once.decode("utf-8", "surrogatepass")) == once
    assert b"  " not in once and once == once.strip()


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab 漢字", max_size=60), min_size=1, max_size=6))
def test_shingles_of_a_batch_are_those_of_each_text_alone(texts):
    normalised = [normal(t) for t in texts]
    together = shingles(normalised)
    for place, one in enumerate(normalised):
        assert np.array_equal(together.of(place), shingles([one]).of(0))


@settings(deadline=None)
@given(*[st.lists(st.sampled_from("abc"), min_size=8, max_size=40)] * 2)
def test_similarity_is_the_jaccard_of_word_runs(one, two):
    a, b = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (one, two))
    assert similarity(" ".join(one), " ".join(two)) == pytest.approx(len(a & b) / len(a | b))


def test_texts_without_spaces_are_compared_by_characters():
    one = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    assert similarity(one, one[:-1]) == pytest.approx(19 / 20)
    assert similarity(one, one[::-1]) == 0


def test_bands_find_99_of_100_pairs_at_the_threshold():
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
        bands, width = bands_for(threshold)
        assert 1 - (1 - threshold**width) ** bands >= 0.99


def test_exact_duplicates_go_and_are_explained(tmp_path):
    source = write(tmp_path / "in.jsonl", [
        sample(1, "One two  three"), sample(2, "other"), {**sample(1, "one TWO three"), "sample_id": "copy"},
    ])  # fmt: skip
    result = dedup_jsonl(source, tmp_path / "out.jsonl")
    assert (result.kept, result.exact, result.near) == (2, 1, 0)
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(source.read_bytes().splitlines(True)[:2])
    (record,) = rows_of(tmp_path / "out.duplicates.jsonl")
    assert record["kind"] == "exact" and record["line"] == 3 and record["row"]["sample_id"] == "copy"
    assert record["matched"] == {"file": str(source), "line": 1, "sample_id": "id1"}
    found = explain_duplicate(source, "copy")
    assert (found.line, found.twin_line, found.exact, found.only_here) == (3, 1, True, [])
    assert "equal" in found.summary()


def test_what_differs_only_outside_the_view_is_no_duplicate(tmp_path):
    def chat(city):
        return {"messages": [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": "",
                "tool_calls": [{"function": {"name": "get", "arguments": city}}]}]}  # fmt: skip

    pairs = [{"prompt": "q", "chosen": "good", "rejected": r} for r in ("bad", "worse")]
    source = write(tmp_path / "in.jsonl", [chat("Rome"), chat("Oslo"), chat("Rome"), *pairs])
    assert dedup_jsonl(source, tmp_path / "out.jsonl").kept == 4


def test_rows_without_the_compared_text_stay(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"instruction": f"q{n}", "output": ""} for n in range(3)])
    for near in (None, 0.8):
        assert dedup_jsonl(source, tmp_path / f"{near}.jsonl", text="output", near=near).kept == 3


def test_planted_duplicates_are_found_and_nothing_else(base, tmp_path):
    made = plant(base, tmp_path / "planted.jsonl", every=5, seed=1)
    assert min(made.values()) >= 75
    result = dedup_jsonl(tmp_path / "planted.jsonl", tmp_path / "out.jsonl", near=0.8)
    found = check_planted(tmp_path / "out.jsonl", result.duplicates_path)
    assert found.recall >= 0.99 and found.precision == 1.0, found
    assert result.kept == 1500 + made["decoy"]


def test_every_near_duplicate_is_near_the_row_that_stays(tmp_path):
    """A chain a ~ b ~ c with a far from c: c stays, since the row that stays is not like it."""
    rng = np.random.default_rng(2)
    words = text_of(rng, 100).split()
    chain = [words[k : k + 90] for k in range(0, 10, 2)]
    chain = [" ".join(w) for w in chain]
    source = write(tmp_path / "in.jsonl", [{"instruction": "", "output": t} for t in chain])
    result = dedup_jsonl(source, tmp_path / "out.jsonl", near=0.93, text="output")
    kept = [row["output"] for row in rows_of(tmp_path / "out.jsonl")]
    assert 1 < result.kept < 5
    for record in rows_of(result.duplicates_path):
        alike = similarity(record["row"]["output"], chain[record["matched"]["line"] - 1])
        assert alike >= 0.93 and record["similarity"] == pytest.approx(alike, abs=0.12)
        assert chain[record["matched"]["line"] - 1] in kept


def test_best_keeps_the_same_rows_in_any_order(base, tmp_path):
    plant(base, tmp_path / "planted.jsonl", every=4)
    rows = rows_of(tmp_path / "planted.jsonl")
    for n, row in enumerate(rows):
        row["quality_score"] = n % 3 / 3
    kept = []
    for turn in range(3):
        order = np.random.default_rng(turn).permutation(len(rows))
        source = write(tmp_path / f"{turn}.jsonl", [rows[i] for i in order])
        dedup_jsonl(source, tmp_path / f"{turn}.out.jsonl", near=0.8, keep="best")
        kept.append(sorted((tmp_path / f"{turn}.out.jsonl").read_bytes().splitlines()))
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) < len(rows)


def test_best_keeps_the_better_row(tmp_path):
    source = write(tmp_path / "in.jsonl", [sample(1, "same", quality_score=q) for q in (0.2, 0.9, 0.5)])
    dedup_jsonl(source, tmp_path / "out.jsonl", keep="best")
    assert rows_of(tmp_path / "out.jsonl")[0]["quality_score"] == 0.9


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_counts_balance_per_source_and_the_same_rows_come_out(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("p")
    lines = data.draw(st.lists(st.sampled_from(
        [orjson.dumps(sample(n, f"answer {n % 3}")) for n in range(5)] + [b"not json", b"", b'{"instruction": 1}']
    ), min_size=1, max_size=30))  # fmt: skip
    (folder / "in.jsonl").write_bytes(b"\n".join(lines))
    good = [line for line in lines if line.startswith(b'{"instruction":"')]
    if not good:
        with pytest.raises(StepError):
            dedup_jsonl(folder / "in.jsonl", folder / "out.jsonl")
        return
    report = dedup_jsonl(folder / "in.jsonl", folder / "out.jsonl").report
    counts = report.counts
    assert counts.read == counts.out + counts.duplicates + counts.quarantined == len([x for x in lines if x])
    assert (folder / "out.jsonl").read_bytes().splitlines() == list(dict.fromkeys(good))
    for fates in report.by_source.values():
        assert fates["read"] == fates["out"] + fates["duplicates"]


def test_the_same_bytes_for_any_number_of_workers(base, tmp_path):
    plant(base, tmp_path / "planted.jsonl", every=5)
    found = []
    for workers in (1, 2):
        target = tmp_path / f"w{workers}" / "out.jsonl"
        result = dedup_jsonl(tmp_path / "planted.jsonl", target, near=0.8, how=How(workers=workers))
        found.append((target.read_bytes(), result.duplicates_path.read_bytes()))
    assert found[0] == found[1]


def test_compressed_input_and_output(base, tmp_path):
    import gzip

    plant(base, tmp_path / "p.jsonl.gz", every=5)
    result = dedup_jsonl(tmp_path / "p.jsonl.gz", tmp_path / "o.jsonl.gz", near=0.8)
    assert result.duplicates_path.name == "o.duplicates.jsonl.gz"
    assert len(gzip.decompress((tmp_path / "o.jsonl.gz").read_bytes()).splitlines()) == result.kept


def test_a_second_run_does_nothing_and_a_dry_run_writes_nothing(base, tmp_path):
    dry = dedup_jsonl(base, tmp_path / "out.jsonl", near=0.8, how=How(dry_run=True))
    assert dry.kept == 1500 and not list(tmp_path.iterdir())
    first = dedup_jsonl(base, tmp_path / "out.jsonl", near=0.8)
    again = dedup_jsonl(base, tmp_path / "out.jsonl", near=0.8)
    assert not first.report.current and again.report.current and again.kept == first.kept


def test_explain_names_the_nearest_row_and_what_differs(base, tmp_path):
    rows = rows_of(base)[:40]
    words = rows[7]["output"].split()
    words[40] = "changed"
    rows.append(sample(7, " ".join(words)) | {"sample_id": "edited"})
    source = write(tmp_path / "in.jsonl", rows)
    found = explain_duplicate(source, "edited")
    assert (found.twin_line, found.twin_id, found.exact) == (8, "id7", False)
    assert len(found.only_here) == len(found.only_there) == 5 and all("changed" in s for s in found.only_here)
    both = len(found.shared)
    assert found.similarity == pytest.approx(both / (both + 10))
    assert explain_duplicate(source, 8).twin_id == "edited" and explain_duplicate(source, "8").line == 8
    assert "duplicates at 0.8" in found.summary() and found.to_dict()["twin_line"] == 8
    with pytest.raises(UsageError, match="nobody"):
        explain_duplicate(source, "nobody")


def test_options_are_checked(base, tmp_path):
    for wrong in ({"near": 0.1}, {"keep": "last"}, {"text": "thinking"}):
        with pytest.raises(UsageError):
            dedup_jsonl(base, tmp_path / "out.jsonl", **wrong)
    with pytest.raises(UsageError, match="also an input"):
        dedup_jsonl(base, base)


def test_clusters_number_rows_by_first_appearance(base):
    index = scan([base], {"text": "u8"}, TextColumn(), on_bad=print)
    assert np.array_equal(clusters(index, None), np.arange(1500))
    assert np.array_equal(clusters(index, 0.8), np.arange(1500))


def test_jaccard_of_nothing_is_nothing():
    none = np.zeros(0, "u8")
    assert jaccard(none, none) == 0


def test_the_benchmark_measures_on_its_own_rows(tmp_path):
    found = measure_planted(tmp_path / "planted", rows=600)
    assert found.recall >= 0.99 and found.precision >= 0.99
    assert all(sum(fate.values()) == 30 for fate in found.by_kind.values())
    assert found.by_kind["decoy"] == {"removed": 0, "kept": 30}


def test_chats_with_one_last_turn_and_different_turns_before_are_different(tmp_path):
    last = {"instruction": "Thanks, go on", "input": "", "output": "You are welcome; here is the rest of it."}
    rows = [{**last, "system": "", "history": [[f"question {n}", f"answer {n}"]]} for n in range(3)]
    rows += [{**last, "system": "Answer as a pirate.", "history": []}, {**last, "system": "", "history": []}, last]
    (tmp_path / "in.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in [*rows, rows[0]]))
    result = dedup_jsonl(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (result.kept, result.exact) == (5, 2)
