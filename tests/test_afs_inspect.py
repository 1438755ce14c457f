"""Health, numbers, differences and views of data sets, with bad rows named and never fatal."""

from __future__ import annotations

import json
import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.generators.base import TrainingSample
from afs.step import StepError, UsageError
from afs.training.inspect import dataset_stats, diff_datasets, validate_jsonl, view_rows
from afs.training.view import Seen

CHAT = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}


def row(n, **changes):
    made = TrainingSample(f"question {n}", f"answer {n}", sample_id=f"id{n}", domain="asm", source="s",
                          quality_score=0.5).to_dict()  # fmt: skip
    return made | changes


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((r if isinstance(r, bytes) else orjson.dumps(r)) + b"\n" for r in rows))
    return path


def test_a_healthy_file(tmp_path):
    found = validate_jsonl(write(tmp_path / "x.jsonl", [row(1), row(2), CHAT]))
    assert found.ok and found.formats == {"training_sample": 2, "messages": 1} and found.counts.read == 3
    assert found.encoding == "UTF-8" and found.line_ends == "LF" and "0 problems" in found.summary()
    assert found.lengths["answer"] == {"min": 1, "median": 8, "p90": 8, "p99": 8, "max": 8}


BAD = [
    (b"{broken", "bad JSON", "bad JSON"),
    (b'{"instruction": "Q", "output": "\xff"}', "invalid UTF-8", "save the file as UTF-8"),
    (b'{"a\x00": 1}', "NUL byte", "binary data"),
    (b"[1, 2]", "not an object", "found a list"),
    (b'{"title": 1}', "missing fields", "title"),
    (b'{"instruction": "Q", "domain": "x"}', "missing field 'output'", "output"),
    (orjson.dumps(row(3, quality_score="high")), "wrong type", "quality_score"),
    (orjson.dumps(row(4, output=" ")), "empty answer", "nothing to learn"),
    (orjson.dumps(row(5, quality_score=1.5)), "quality_score out of range", "1.5"),
    (orjson.dumps({"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "A"}]}),
     "not usable as messages", "role 'wizard'"),
    (b'{"instruction": "\\ud800", "output": "A"}', "bad JSON", "surrogate"),
    (orjson.dumps(row(1)), "repeated sample_id", "earlier row"),
]  # fmt: skip


@pytest.mark.parametrize("raw,kind,words", BAD, ids=[b[1] for b in BAD])
def test_each_problem_has_its_line_byte_and_reason(tmp_path, raw, kind, words):
    first = orjson.dumps(row(1)) + b"\n\n"
    (tmp_path / "x.jsonl").write_bytes(first + raw + b"\n" + orjson.dumps(row(2)))
    found = validate_jsonl(tmp_path / "x.jsonl")
    assert not found.ok and found.kinds == {kind: 1} and found.counts.read == 3 and found.counts.blank == 1
    (problem,) = found.problems
    assert (problem.line, problem.offset) == (3, len(first)) and words in problem.reason
    assert f"x.jsonl:3 (byte {len(first)}): " in found.summary() and found.to_dict()["problem_counts"] == {kind: 1}


def test_all_problems_together_balance(tmp_path):
    found = validate_jsonl(write(tmp_path / "x.jsonl", [row(1), *[raw for raw, _, _ in BAD]]))
    assert sum(found.kinds.values()) == len(BAD) == len(found.problems)
    assert [p.line for p in found.problems] == list(range(2, len(BAD) + 2))


def test_schema_and_encoding(tmp_path):
    mixed = write(tmp_path / "x.jsonl", [row(1), CHAT])
    assert validate_jsonl(mixed).ok
    found = validate_jsonl(mixed, schema="sample")
    assert found.kinds == {"not training_sample": 1} and found.problems[0].line == 2
    assert validate_jsonl(write(tmp_path / "c.jsonl", [CHAT]), schema="messages").ok
    with pytest.raises(UsageError, match="did you mean 'messages'"):
        validate_jsonl(mixed, schema="mesages")
    with pytest.raises(UsageError, match="is no file"):
        validate_jsonl(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + orjson.dumps(row(1)) + b"\r\n")
    found = validate_jsonl(tmp_path / "b.jsonl")
    assert found.ok and found.encoding == "UTF-8 with byte-order mark" and found.line_ends == "CRLF"
    (tmp_path / "w.jsonl").write_bytes(json.dumps(row(1)).encode("utf-16"))
    assert "UTF-16" in validate_jsonl(tmp_path / "w.jsonl").encoding
    assert not validate_jsonl(write(tmp_path / "e.jsonl", [])).ok, "an empty file is not healthy"


def test_stats(tmp_path):
    scores = [0.0, 0.05, 0.1, 0.3, 0.7, 0.99, 1.0, None, 1.5]
    rows = [row(n, quality_score=s, domain="docs" if n < 2 else "asm", source=f"log_{n}", thinking="t" * (n % 2))
            for n, s in enumerate(scores)]  # fmt: skip
    first = write(tmp_path / "a.jsonl", [*rows, b"{broken"])
    second = write(tmp_path / "b.jsonl", [row(0), CHAT])
    found = dataset_stats([first, second])
    assert found.rows == 11 and [f["rows"] for f in found.files] == [9, 2]
    assert found.domains == {"asm": 8, "docs": 2, "general": 1}
    assert found.sources["log"] == 9 and found.bad == {"bad JSON": 1}
    # 0.1 and 0.3 in their own bins, 1.0 in the last.
    assert list(found.quality.values()) == [1, 1, 0, 1, 0, 1, 0, 1, 0, 2]
    assert found.unscored == 3 and found.out_of_range == 1
    assert sum(found.quality.values()) + found.unscored + found.out_of_range == found.rows
    assert found.with_thinking == 4 and found.repeated == 1
    assert "bad JSON 1" in found.summary() and "log 9" in found.summary()
    assert dataset_stats(first, workers=2).to_dict() == dataset_stats([first]).to_dict()
    with pytest.raises(StepError, match="no row"):
        dataset_stats(write(tmp_path / "e.jsonl", [b"x"]))


def test_diff_of_split_folders(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old / "train.jsonl", [row(1), row(2), row(3), row(3), b"{broken"])
    write(old / "val.jsonl", [row(4), row(5)])
    write(new / "train.jsonl", [row(1), row(4), dict(reversed(row(2).items()))])
    write(new / "valid.jsonl", [row(5, output="better", domain="docs"), row(6)])
    write(new / "new.quarantine.jsonl", [row(9)])
    found = diff_datasets(old, new)
    assert (found.added, found.removed, found.changed, found.unchanged) == (1, 1, 1, 3)
    assert found.moved == {"val → train": 1} and found.repeated == (1, 0) and found.bad == (1, 0)
    assert found.shown["changed"][0]["keys"] == ["output", "domain"] and not found.same
    text = found.summary()
    assert "1 added, 1 removed, 1 changed, 1 moved" in text and "question 6" in text and "[output, domain]" in text
    by_content = diff_datasets(old, new, key="content")
    assert (by_content.added, by_content.removed, by_content.changed) == (2, 2, 0)
    assert diff_datasets(new, new).same and json.dumps(found.to_dict())
    with pytest.raises(UsageError, match="holds no .jsonl"):
        diff_datasets(tmp_path, new)
    with pytest.raises(UsageError, match="no key 'line'"):
        diff_datasets(old, new, key="line")


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 1)), st.dictionaries(st.integers(0, 9), st.integers(0, 1)),
       st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_diff_counts_what_sets_say(tmp_path_factory, old, new, rng: random.Random):
    if not old or not new:
        return
    folder = tmp_path_factory.mktemp("diff")
    paths = []
    for name, side in (("a", old), ("b", new)):
        rows = [row(n, output=f"answer {v}") for n, v in side.items()]
        rng.shuffle(rows)
        paths.append(write(folder / f"{name}.jsonl", rows))
    found = diff_datasets(*paths)
    both = old.keys() & new.keys()
    changed = sum(old[n] != new[n] for n in both)
    assert (found.added, found.removed) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
    assert (found.changed, found.unchanged) == (changed, len(both) - changed) and not found.moved


def test_view_by_line_condition_and_chance(tmp_path):
    rows = [row(n, quality_score=n / 10, domain="docs" if n % 2 else "asm", _metadata={"n": n}) for n in range(10)]
    path = write(tmp_path / "x.jsonl", [*rows, b"{broken", CHAT])
    lines = lambda **options: [r.line for r in view_rows(path, **options).rows]  # noqa: E731
    assert lines() == [1, 2, 3] and lines(line=9, count=9) == [9, 10, 11, 12] and lines(line=11, count=1) == [11]
    assert lines(where="domain=docs", count=2) == [2, 4] and lines(where="quality_score>=0.8", count=9) == [9, 10]
    assert lines(where=["domain=asm", "_metadata.n!=0"], count=9) == [3, 5, 7, 9, 12][:4]
    assert lines(where="kg_validated=false", count=1) == [1]
    drawn = lines(sample=True, where="domain=docs", count=3)
    assert drawn == lines(sample=True, where="domain=docs", count=3) and set(drawn) < {2, 4, 6, 8, 10}
    assert len({tuple(lines(sample=True, count=3, seed=s)) for s in range(9)}) > 3
    text = view_rows(path, line=10).summary()
    assert "x.jsonl:10" in text and "[user]\nquestion 9" in text and "domain docs" in text
    assert "bad row: bad JSON" in text
    with pytest.raises(StepError, match="no row of .* matches 'domain=x'"):
        lines(where="domain=x")
    with pytest.raises(UsageError, match="KEY=VALUE"):
        lines(where="domain")
    with pytest.raises(UsageError, match="1 or more, not 0"):
        lines(line=0)


def test_view_is_safe_for_a_terminal_and_cuts_long_texts(tmp_path):
    path = write(tmp_path / "x.jsonl", [row(1, output="\x1b[2Jgone\n" + "y" * 5000, thinking="hm", domain="a\x1b[0m")])
    text = view_rows(path).summary()
    assert "\x1b" not in text and "\\x1b[2Jgone\n" in text and "more characters" in text and "[thinking]\nhm" in text
    pair = write(tmp_path / "p.jsonl", [{"prompt": "Q", "chosen": "a", "rejected": "b"}, {"nothing": 1}])
    shown = view_rows(pair).summary()
    assert "[rejected]\nb" in shown and "unknown format" in shown and '"nothing": 1' in shown


def test_a_view_of_bad_rows_holds_no_more_than_it_shows(tmp_path, monkeypatch):
    from afs.training import view

    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"{nope\n" * 1000)
    made = []
    monkeypatch.setattr(view, "Seen", lambda *a: made.append(a) or Seen(*a))
    assert [row.line for row in view_rows(path, count=3).rows] == [1, 2, 3] and len(made) == 3
