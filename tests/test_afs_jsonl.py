"""The JSONL reader and writer: every cut, every kind of bad row, bytes kept, counts that balance."""

import json
import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs import jsonl
from afs.jsonl import AtomicWriter, ConservationError, Counts, Quarantine, original_bytes, read_rows

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
objects = st.dictionaries(texts, st.one_of(st.integers(-(2**53), 2**53), texts, st.booleans(), st.none()), max_size=4)
lines = st.one_of(
    objects.map(lambda o: json.dumps(o, ensure_ascii=False).encode()),
    st.sampled_from([b"", b"  ", b"{", b"[1]", b"null", b"7", b'"x"', b'{"a": NaN}', b"\xff\xfe{", b'{"a":"\xe4"}',
                     b'{"a":"\x00"}', b"{}}", b"\xef\xbb\xbf{}"]),
    st.binary(max_size=12).filter(lambda b: b"\n" not in b and b"\r" not in b),
)  # fmt: skip


def read(path, **options):
    bad, counts = [], Counts()
    rows = list(read_rows(path, bad.append, counts, **options))
    return rows, bad, counts


@given(st.lists(lines, max_size=12), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(6, 40))
@settings(max_examples=300, deadline=None)
def test_every_line_has_one_fate_and_its_own_place(tmp_path_factory, parts, end, closed, limit):
    whole = end.join(parts) + (end if closed else b"")
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    path.write_bytes(whole)
    rows, bad, counts = read(path, max_line=limit)
    # The truth, the simple way: split in memory.
    offset, expected = 0, []
    for number, line in enumerate(whole.split(b"\n"), 1):
        raw = line[:-1] if line.endswith(b"\r") and offset + len(line) < len(whole) else line
        start = offset
        if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
            raw, start = raw[3:], 3
        if raw.strip(b" \t\r\n"):
            expected.append((number, start, raw))
        offset += len(line) + 1
    found = sorted([(r.line, r.offset, len(r.raw)) for r in rows] + [(b.line, b.offset, b.length) for b in bad])
    assert found == [(number, start, len(raw)) for number, start, raw in expected]
    assert counts.read == len(expected) and counts.quarantined == len(bad)
    truth = {number: raw for number, _, raw in expected}
    for row in rows:
        assert row.raw == truth[row.line] == whole[row.offset : row.offset + len(row.raw)]
        assert row.value == orjson.loads(row.raw) and len(row.raw) <= limit
    for row in bad:
        assert truth[row.line].startswith(row.raw)
        if row.length <= limit:
            assert row.raw == truth[row.line]
            with pytest.raises((ValueError, AssertionError)):
                assert isinstance(orjson.loads(row.raw), dict)
        else:
            assert "over-long" in row.reason
        assert original_bytes(json.loads(orjson.dumps(row.to_dict()))) == row.raw


@pytest.mark.parametrize("raw,word", [
    (b'{"a": 1', "bad JSON"), (b'{"a": 1} x', "bad JSON"), (b'{"a": NaN}', "bad JSON"),
    (b'{"a": "\\ud800"}', "bad JSON"), (b"[1, 2]", "a list"), (b"null", "null"), (b"12", "a number"),
    (b'"text"', "a string"), (b"true", "true/false"), (b'{"a": "caf\xe9"}', "invalid UTF-8 at byte 10"),
    (b'{"a": "\x00"}', "NUL byte"),
    ('{"a": 1}'.encode("utf-16-le"), "UTF-16"), ('{"a": 1}'.encode("utf-16-be"), "UTF-16"),
    ('{"a": 1}'.encode("utf-16"), "UTF-16 (little endian)"), (b"\xef\xbb\xbf{}", "byte-order mark"),
])  # fmt: skip
def test_reasons_name_the_fault(tmp_path, raw, word):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"ok": 1}\n' + raw + b'\n{"ok": 2}\n')
    rows, bad, counts = read(path)
    assert [r.value["ok"] for r in rows] == [1, 2]
    assert [(b.line, b.offset) for b in bad] == [(2, 10)]
    assert word in bad[0].reason and bad[0].file == str(path)
    assert (counts.read, counts.quarantined) == (3, 1)


def test_a_mark_at_the_start_is_skipped_and_a_wide_file_is_refused_row_by_row(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}')
    rows, bad, _ = read(path)
    assert [(r.offset, r.raw) for r in rows] == [(3, b'{"a": 1}'), (13, b'{"a": 2}')] and not bad
    path.write_bytes('{"a": 1}\n{"a": 2}\n'.encode("utf-16"))
    rows, bad, counts = read(path)
    assert not rows and counts.read == counts.quarantined == len(bad) >= 2
    assert all("UTF-16" in b.reason or "NUL" in b.reason for b in bad)


def test_an_over_long_line_is_never_held_whole(tmp_path):
    path = tmp_path / "big.jsonl"
    with open(path, "wb") as out:
        out.write(b'{"a": 1}\n{"b": "')
        for _ in range(64):
            out.write(b"x" * (1 << 20))
        out.write(b'"}\r\n{"a": 2}\n')
    tracemalloc.start()
    rows, bad, counts = read(path, max_line=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(r.line, r.value["a"]) for r in rows] == [(1, 1), (3, 2)]
    length = 64 * (1 << 20) + len(b'{"b": ""}')
    assert [(b.line, b.offset, b.length, len(b.raw)) for b in bad] == [(2, 9, length, 4096)]
    assert rows[1].offset == 9 + length + 2 and bad[0].to_dict()["truncated"] is True
    assert peak < 8 * (1 << 20), "64 MiB line, at most a few MiB held"


@pytest.mark.parametrize("over", [0, 1, 2])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_on_the_row_not_on_its_line_end(tmp_path, over, end):
    path = tmp_path / "x.jsonl"
    row = b'{"a": "' + b"x" * over + b'"}'
    path.write_bytes(row + end)
    rows, bad, _ = read(path, max_line=9)
    assert (len(rows), len(bad)) == ((1, 0) if over == 0 else (0, 1))
    assert not bad or bad[0].length == len(row)


def test_writer_keeps_bytes_and_appears_whole(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    odd = b'{"b":  1.0, "a": "\\u00e9"}'
    with AtomicWriter(path) as out:
        out.write_raw(odd)
        out.write({"ä": "⓪", "n": None})
        assert not path.exists(), "nothing is visible before the rename"
    assert path.read_bytes() == odd + b"\n" + '{"ä":"⓪","n":null}\n'.encode()
    assert (out.rows, out.bytes, out.sha256) == (2, path.stat().st_size, jsonl.file_sha256(path))
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), AtomicWriter(path) as out:
        out.write_raw(b"{}")
        raise RuntimeError("half way")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["out.jsonl"], "no temporary file is left"


def test_quarantine_file_appears_only_for_bad_rows(tmp_path):
    source, kept = tmp_path / "in.jsonl", tmp_path / "bad.jsonl"
    source.write_bytes(b'{"a": 1}\n')
    with Quarantine(kept) as bad:
        list(read_rows(source, bad.add))
    assert bad.count == 0 and not kept.exists()
    source.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{\n')
    with Quarantine(kept) as bad:
        list(read_rows(source, lambda row: bad.add(row, fate="quarantined"), name="in.jsonl"))
    records = [json.loads(line) for line in kept.read_bytes().splitlines()]
    assert [(r["file"], r["line"], r["offset"], r["fate"]) for r in records] == [
        ("in.jsonl", 2, 9, "quarantined"), ("in.jsonl", 3, 20, "quarantined")]  # fmt: skip
    assert [original_bytes(r) for r in records] == [b'{"a": "\xff"}', b"{"]


def test_counts_must_balance():
    Counts(read=4, out=1, filtered=1, duplicates=1, quarantined=1, blank=9).check()
    with pytest.raises(ConservationError, match="5 rows were read but 4"):
        Counts(read=5, out=1, filtered=1, duplicates=1, quarantined=1).check()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_file_is_named(tmp_path, ending, damage):
    path = tmp_path / f"in.jsonl{ending}"
    with AtomicWriter(path) as out:
        for n in range(2000):
            out.write({"n": n * n * 7919 % 10007})
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        for at in range(len(data) // 2, len(data) // 2 + 40):
            data[at] ^= 0xFF
    else:
        data = bytearray(b"plain text, wrongly named\n" * 3)
    path.write_bytes(data)
    with pytest.raises((OSError, EOFError), match="in.jsonl") as found:
        list(read_rows(path, lambda bad: None))
    assert "fetch it again" in str(found.value)


def test_an_over_long_row_that_begins_with_spaces_is_no_blank_line(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b" " * 5000 + b'{"a":1}\n')
    bad, counts = [], Counts()
    assert not list(read_rows(path, bad.append, counts, max_line=100))
    assert (counts.read, counts.quarantined, counts.blank) == (1, 1, 0) and bad[0].length == 5007
