"""The knowledge shelf: chunks with their places, BM25 against its formula, what is not read and why, the commands."""

from __future__ import annotations

import json
import math
import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.vault import shelf as shelves
from realm.vault.shelf import CHUNK_CHARS, Chunk, Shelf, ShelfError, open_shelf, words

GUIDE = """# Numbers

Two's complement negates a number by flipping its bits and adding one.

## Shifts

A shift to the left doubles a number. A shift to the right halves it, and rounds down.

Binary digits are written ① and ⓪.
"""


def put(home, **texts):
    for name, text in texts.items():
        path = shelves.folder(home) / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def okapi(corpus, query, k1=1.5, b=0.75):
    """BM25 with Lucene's idf, word by word (Kamphuis 2020, table 1)."""
    mean = sum(map(len, corpus)) / len(corpus)
    scores = []
    for text in corpus:
        counts, score = Counter(text), 0.0
        for word in query:
            holds = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - holds + 0.5) / (holds + 0.5))
            score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


TEXTS = st.lists(st.lists(st.sampled_from("add and bit carry sum ① shift".split()), min_size=1, max_size=12),
                 min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.sampled_from("add bit carry nothing ①".split()), min_size=1, max_size=4))
def test_scores_are_okapis(corpus, query):
    chunks = [Chunk("d", i, i, "", " ".join(text)) for i, text in enumerate(corpus)]
    found = Shelf((), chunks).search(" ".join(query), 99)
    expected = {i: s for i, s in enumerate(okapi(corpus, query)) if s > 0}
    assert {p.first: p.score for p in found} == pytest.approx(expected, abs=1e-9)
    assert [p.first for p in found] == sorted(expected, key=lambda i: (-round(expected[i], 9), i))


def test_a_question_finds_its_passage_with_file_line_and_heading(home):
    put(home, guide_md=GUIDE, sub__other_txt="Carrots are orange.\n")
    best = open_shelf(home).search("What does a SHIFT to the right do?", 2)[0]
    assert (best.source, best.first, best.last, best.heading) == ("guide.md", 7, 9, "Shifts")
    assert best.text.startswith("A shift to the left")
    assert open_shelf(home).search("carrots")[0].place == "sub/other.txt:1"
    assert open_shelf(home).search("①")[0].heading == "Shifts", "a single sign is a word"
    for nothing in ("zebra", "", "?!", "\0"):
        assert open_shelf(home).search(nothing) == []
    assert "[1] (guide.md:7, Shifts)\nA shift" in shelves.ground([best])
    assert shelves.ground([]) == ""


def test_an_empty_shelf_and_a_missing_folder_find_nothing(home):
    assert open_shelf(home).search("anything") == [] and open_shelf(home).documents == ()
    shelves.folder(home).rmdir()
    assert open_shelf(home).documents == ()


def test_a_changed_file_is_read_anew_and_an_unchanged_shelf_is_not(home):
    put(home, a_txt="apples")
    first = open_shelf(home)
    assert open_shelf(home) is first and first.search("apples")
    put(home, a_txt="pears and plums")
    assert open_shelf(home).search("apples") == [] and open_shelf(home).search("plums")


PARAGRAPHS = st.lists(st.text("ab c.\n#é", max_size=900), max_size=6).map("\n\n".join)


@settings(max_examples=150, deadline=None)
@given(PARAGRAPHS)
def test_chunks_lose_no_word_and_are_never_too_long(text):
    chunks = list(shelves.chunk(text, "d"))
    headings = [m.group(1) for line in text.splitlines() if (m := shelves._HEADING.fullmatch(line))]
    if not headings:
        whole = "".join("".join(c.text.split()) for c in chunks)
        assert whole == "".join(text.split()), "nothing is lost and nothing doubled"
    lines = text.splitlines()
    for piece in chunks:
        assert 0 < len(piece.text) <= CHUNK_CHARS and 1 <= piece.first <= piece.last <= len(lines)
        spoken = set("".join(lines[piece.first - 1 : piece.last]))
        assert set("".join(piece.text.split())) <= spoken


def test_what_cannot_be_read_is_named_with_the_reason(home, tmp_path):
    folder = shelves.folder(home)
    put(home, good_md="fine words", empty_txt=" \n")
    (folder / "book.pdf").write_bytes(b"%PDF-1.7")
    (folder / "latin.txt").write_bytes("größe".encode("latin-1"))
    (folder / "zero.txt").write_bytes(b"a\0b")
    (folder / ".hidden.txt").write_text("secret")
    (tmp_path / "private.txt").write_text("password hunter2")
    os.symlink(tmp_path / "private.txt", folder / "link.txt")
    os.symlink(tmp_path, folder / "folder")
    os.symlink(tmp_path / "nowhere", folder / "dangling.txt")
    shelf = open_shelf(home)
    told = {d.name: d.problem for d in shelf.documents}
    assert told.pop("good.md") is None
    assert {name: why.split(";")[0].split("(")[0].strip() for name, why in told.items()} == {
        "book.pdf": "book.pdf is no .md, .markdown, .txt, .text, .rst, .org, .adoc file",
        "latin.txt": "latin.txt is not UTF-8", "zero.txt": "zero.txt holds zero bytes, so it is no text",
        "link.txt": "link.txt is a link", "folder": "folder is a link", "dangling.txt": "dangling.txt is a link",
        "empty.txt": "it holds no text"}  # fmt: skip
    assert shelf.search("password hunter2 secret") == []
    (folder / "large.txt").write_bytes(b"a " * (shelves.MAX_BYTES // 2 + 1))
    assert "the limit is 16,000,000" in {d.name: d.problem for d in open_shelf(home).documents}["large.txt"]


def test_a_document_is_added_whole_and_never_overwrites_another(home, tmp_path):
    mine = tmp_path / "notes.md"
    mine.write_text("alpha")
    assert shelves.add(home, mine) == "notes.md" == shelves.add(home, mine)
    mine.write_text("beta")
    with pytest.raises(ShelfError, match="on the shelf already with another text"):
        shelves.add(home, mine)
    bad = ((".x.md", "a", "begins with a dot"), ("x.pdf", "a", "convert it"), ("y.md", "# T\n", "no text"))
    for name, text, why in bad:
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ShelfError, match=why):
            shelves.add(home, path)
    with pytest.raises(ShelfError, match="not a file"):
        shelves.add(home, tmp_path)
    assert [d.name for d in open_shelf(home).documents] == ["notes.md"]
    with pytest.raises(ShelfError, match="no document '../realm.db' on the shelf; there are: notes.md"):
        shelves.remove(home, "../realm.db")
    shelves.remove(home, "notes.md")
    assert open_shelf(home).documents == () and home.database.exists()


def test_commands(run, home, tmp_path):
    code, out, _ = run("shelf", "list")
    assert code == 0 and str(shelves.folder(home)) in out and "It is empty." in out
    assert "the shelf is empty" in run("shelf", "search", "bits")[1]
    note = tmp_path / "guide.md"
    note.write_text(GUIDE, encoding="utf-8")
    assert run("shelf", "add", str(note))[0] == 0
    code, out, _ = run("shelf", "search", "halves a number", "--json")
    assert code == 0 and json.loads(out)[0]["source"] == "guide.md"
    assert "guide.md:" in run("shelf", "search", "halves a number")[1]
    assert "no passage has a word" in run("shelf", "search", "zebra")[1]
    told = json.loads(run("shelf", "list", "--json")[1])
    assert told["documents"][0]["chunks"] == 2
    code, _, err = run("shelf", "add", str(tmp_path / "none.md"))
    assert code == 1 and "not a file" in err
    assert run("shelf", "remove", "guide.md")[0] == 0
    assert run("shelf", "remove", "guide.md")[0] == 1
    assert str(shelves.folder(home)) in run("status")[1]


def test_words():
    assert words("Two's ①⓪ add(x, 2)!") == ["two", "s", "①⓪", "add", "x", "2"]
