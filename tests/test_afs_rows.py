"""Rows seen by keys: parts tile a file, the index finds every row, copies are verbatim, for any number of workers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afs import rows
from afs.jsonl import AtomicWriter, Counts, read_rows
from afs.rows import NAME, copy_rows, family, parts_of, plain_files, read_at, scan, see, views

GOOD = {"instruction": "q", "output": "a"}
SAME = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def by_domain(view, raw):
    return view.domain or "general", view.quality_score or 0.0


COLUMNS = {"domain": NAME, "quality": "f4"}

LINES = st.lists(
    st.sampled_from([
        b'{"instruction":"q","output":"a"}',
        b'{"instruction":"q","output":"a","domain":"asm","quality_score":0.5}',
        '{"instruction":"frage ä","output":"漢字","domain":"de"}'.encode(),
        b'{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"domain":"chat"}',
        b"", b"   ", b"{broken", b'{"instruction":"q","output":"\xff"}', b'{"instruction":1,"output":"a"}', b"[1]",
        b'{"instruction":"' + b"l" * 90 + b'","output":"long"}',
    ]), max_size=12,
)  # fmt: skip


def write(path: Path, found: list[bytes], ends: list[bytes], last: bool) -> Path:
    body = b"".join(line + end for line, end in zip(found, ends, strict=True))
    path.write_bytes(body if last or not found else body[: len(body) - len(ends[-1])])
    return path


@SAME
@given(LINES, st.data(), st.integers(1, 60), st.booleans(), st.booleans())
def test_parts_tile_the_file_at_every_cut(tmp_path, found, data, size, last, mark):
    """Any part size gives the rows, bad rows, offsets and counts of one pass (CRLF, no final newline, empty lines)."""
    ends = [data.draw(st.sampled_from([b"\n", b"\r\n"])) for _ in found]
    path = write(tmp_path / "a.jsonl", found, ends, last)
    if mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    whole, bad_whole, counts_whole = [], [], Counts()
    for row in read_rows(path, bad_whole.append, counts_whole):
        whole.append((row.offset, row.raw))
    got, bad, counts = [], [], Counts()
    for part in parts_of([path], ["a"], size):
        got += [(offset, raw) for _, offset, raw, _ in views(part, bad.append, counts)]
    assert [g for g in got if g in whole] == got, "a row that one pass does not see"
    # `views` also refuses rows of a wrong type, which `read_rows` leaves to its caller.
    refused = {b.offset for b in bad} - {b.offset for b in bad_whole}
    assert [w for w in whole if w[0] not in refused] == got
    assert counts.read == counts_whole.read and counts.blank == counts_whole.blank
    assert all(isinstance(see(raw), str) for offset, raw in whole if offset in refused)
    assert counts.quarantined == len(bad)
    again, counts_parts = [], Counts()
    for part in parts_of([path], ["a"], size):
        parted = read_rows(path, lambda _: None, counts_parts, part=(part.start, part.end))
        again += [(row.offset, row.raw) for row in parted]
    assert again == whole and counts_parts == counts_whole


def test_a_line_longer_than_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PART_BYTES", 64)
    path = tmp_path / "a.jsonl"
    giant = orjson.dumps({"instruction": "g" * 1000, "output": "a"})
    path.write_bytes(b"\n".join([orjson.dumps(GOOD), giant, orjson.dumps(GOOD)]))
    counts, got = Counts(), []
    for part in parts_of([path], ["a"], 64):
        got += [raw for _, _, raw, _ in views(part, pytest.fail, counts)]
    assert got == [orjson.dumps(GOOD), giant, orjson.dumps(GOOD)] and counts.read == 3
    bad = []
    for part in parts_of([path], ["a"], 64):
        list(views(part, bad.append, Counts(), max_line=500))
    assert [b.line for b in bad] == [2] and f"over-long: {len(giant)} bytes" in bad[0].reason


def sample_file(path: Path, count: int = 3000) -> Path:
    rng = np.random.default_rng(5)
    with AtomicWriter(path) as out:
        for n in range(count):
            row = {"instruction": f"question {n} {'x' * int(rng.integers(0, 60))}", "output": f"answer {n} ä",
                   "domain": f"d{n % 7}", "source": f"src_{n:05d}", "quality_score": float(rng.random())}  # fmt: skip
            out.write_raw(b"{bad" if n % 500 == 3 else orjson.dumps(row))
    return path


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_index_is_the_same_for_any_number_of_workers(tmp_path, monkeypatch, workers):
    path = sample_file(tmp_path / "a.jsonl")
    monkeypatch.setattr(rows, "PART_BYTES", 10_000)
    one_bad, bad = [], []
    one = scan([path], COLUMNS, by_domain, on_bad=one_bad.append)
    index = scan([path], COLUMNS, by_domain, on_bad=bad.append, workers=workers)
    assert len(index) == 2994 and index.counts == one.counts and index.counts.quarantined == 6
    assert [(b.line, b.offset) for b in bad] == [(b.line, b.offset) for b in one_bad]
    assert [b.line for b in bad] == [4 + 500 * n for n in range(6)], "lines of the file, not of the part"
    for name in ("file", "offset", "length"):
        assert np.array_equal(getattr(index, name), getattr(one, name))
    assert index.names == one.names and np.array_equal(index.columns["quality"], one.columns["quality"])
    lines = path.read_bytes().splitlines()
    assert list(read_at(index, range(len(index)))) == [x for x in lines if x != b"{bad"]
    assert index.tally("domain") == {f"d{d}": sum(n % 7 == d and n % 500 != 3 for n in range(3000)) for d in range(7)}


@SAME
@given(st.data())
def test_copies_are_verbatim_in_any_order(tmp_path, data):
    first = write(tmp_path / "a.jsonl", [b'{"instruction":"1","output":"a"}'] * 3, [b"\n", b"\r\n", b"\n"], True)
    second = write(tmp_path / "b.jsonl", [b'{ "output":"a",  "instruction":"2"}'] * 2, [b"\n", b"\n"], False)
    index = scan([first, second], COLUMNS, by_domain, on_bad=pytest.fail)
    order = data.draw(st.lists(st.integers(0, 4), max_size=12))
    rows_in = [b'{"instruction":"1","output":"a"}'] * 3 + [b'{ "output":"a",  "instruction":"2"}'] * 2
    with AtomicWriter(tmp_path / "out.jsonl") as out:
        copy_rows(index, order, out)
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(rows_in[n] + b"\n" for n in order)
    assert out.rows == len(order)


def test_a_file_that_shrinks_under_the_copy_is_noticed(tmp_path):
    path = sample_file(tmp_path / "a.jsonl", 10)
    index = scan([path], COLUMNS, by_domain, on_bad=lambda _: None)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OSError, match="changed while it was read"), AtomicWriter(tmp_path / "out.jsonl") as out:
        copy_rows(index, [5], out)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_files_are_read_as_plain_ones(tmp_path, ending):
    plain = sample_file(tmp_path / "a.jsonl", 200)
    packed = tmp_path / f"a.jsonl.{ending}"
    with AtomicWriter(packed) as out:
        for line in plain.read_bytes().splitlines():
            out.write_raw(line)
    if ending == "gz":
        assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    with plain_files([packed]) as files:
        index = scan(files, COLUMNS, by_domain, on_bad=lambda _: None)
        assert list(read_at(index, range(len(index)))) == [
            x for x in plain.read_bytes().splitlines() if x != b"{bad"]  # fmt: skip
    assert not files[0].exists(), "the unpacked copy is gone"
    before = packed.read_bytes()
    with AtomicWriter(packed) as out:
        out.write_bytes(plain.read_bytes(), 200)
    with plain_files([packed]) as files:
        assert files[0].read_bytes() == plain.read_bytes()
    assert len(before) < len(plain.read_bytes())


@pytest.mark.parametrize(("raw", "part"), [
    (b'{"instruction":"q"}', "missing field 'output'"), (b'{"output":"q"}', "missing field 'instruction'"),
    (b'{"instruction":"q","output":"a","quality_score":"high"}', "quality_score"),
    (b'{"instruction":"q","output":"a","kg_entities":[1]}', "kg_entities"), (b'{"foo":1}', "found foo"),
    (b"{}", "found nothing"), (b'{"instruction":"q","output":"a","x":"\xff"}', "invalid UTF-8"),
    (b"null", "not an object"), (b"{", "bad JSON"), (b'{"instruction":"a\x00","output":"b"}', "NUL"),
])  # fmt: skip
def test_bad_rows_say_what_is_wrong(raw, part):
    assert part in see(raw)


@pytest.mark.parametrize(("value", "asked", "said"), [
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "q", "a"),
    ({"prompt": "q", "completion": "a"}, "q", "a"), ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", "a"),
    ({"text": "a"}, "", "a"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
                   {"role": "assistant", "content": "a"}]}, "q", "a"),
])  # fmt: skip
def test_other_formats_are_seen_through_the_same_keys(value, asked, said):
    view = see(orjson.dumps(value | {"domain": "d", "quality_score": 0.25}))
    assert (view.instruction, view.output, view.domain, view.quality_score) == (asked, said, "d", 0.25)


def test_families_of_sources():
    assert family("toolbench_train_001234") == "toolbench_train" and family("docs:README.md") == "docs:README.md"
    assert family("2024") == "2024" and family(None) == family("") == "unknown"


def test_names_beyond_the_limit_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_NAMES", 3)
    path = sample_file(tmp_path / "a.jsonl", 100)
    index = scan([path], COLUMNS, by_domain, on_bad=lambda _: None)
    tally = index.tally("domain")
    assert set(tally) == {"d0", "d1", "d2", "(other)"} and sum(tally.values()) == len(index)
