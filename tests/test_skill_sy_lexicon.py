"""SY's lexicon: the file is the one that was reviewed, its words and hints keep the rules, its licences are there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from realm.guild.skills.sy.lexicon import LONGEST_TILE, PREFIXES, ROOTS, SUFFIXES, affixes, load, raw_bytes, roots

ROOT = Path(__file__).parent.parent
LEXICON = load()
# Changing the lexicon changes every puzzle: raise SySkill.version together with this hash.
SHA256 = "204557f447282121c201edbd6c35d33f4a72e9a037b132ec2d8ab347cb2d03a8"
KINDS = {"definition", "synonym", "category", "example", "hypernym", "hyponym", "antonym", "domain", "morphology",
         "etymology"}  # fmt: skip


def builder():
    spec = importlib.util.spec_from_file_location("build_lexicon", ROOT / "scripts" / "build_lexicon.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["build_lexicon"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script


BUILDER = builder()


def test_the_file_is_the_reviewed_one_and_compact():
    assert hashlib.sha256(raw_bytes()).hexdigest() == SHA256
    assert len(raw_bytes()) < 1_800_000
    assert json.loads(raw_bytes())["sources"] == {"wordnet": "3.0", **BUILDER.PINS}


def test_licences_of_all_four_sources_stand_beside_it():
    text = files("realm.guild.skills.sy").joinpath("lexicon_licence.txt").read_text(encoding="utf-8")
    for needle in ("WordNet 3.0 Copyright 2006 by Princeton University", "Carnegie Mellon University. All rights",
                   "Attribution-ShareAlike 4.0", "wordfreq", "SUBTLEX", "pyphen", "PROVIDED \"AS IS\""):
        assert needle in text


def test_words_have_syllables_frequency_and_enough_kinds_of_hints():
    assert len(LEXICON.words) > 7_000 and len(LEXICON.by_text) == len(LEXICON.words)
    have = Counter(kind for word in LEXICON.words for kind in word.clues)
    assert set(have) == KINDS and have["definition"] == have["category"] == len(LEXICON.words)
    for word in LEXICON.words:
        assert "".join(word.syllables) == word.text and 2 <= len(word.syllables) <= 6
        assert re.fullmatch("[a-z]{4,16}", word.text) and max(map(len, word.syllables)) <= LONGEST_TILE
        assert BUILDER.ZIPF_FROM[len(word.syllables)] <= word.zipf < 7
        assert word.family in LEXICON.by_text and LEXICON.by_text[word.family].family == word.family
        assert word.index not in word.rivals


def test_hints_do_not_hold_the_word_or_its_stem():
    for word in LEXICON.words:
        stem = BUILDER.stem(word.text)
        for kind, texts in word.clues.items():
            assert texts and len(set(texts)) == len(texts)
            for text in texts:
                if kind in ("category", "morphology", "etymology"):
                    continue  # areas of WordNet, affixes and meanings of roots: the same for many words
                tokens = re.findall("[a-z]+", text.replace("____", " "))
                assert word.text not in text and stem not in tokens, (word.text, text)
                assert not any(BUILDER.stem(token) == stem for token in tokens), (word.text, text)
            if kind == "example":
                assert all(text.count("____") == 1 for text in texts)


def test_unwanted_words_are_in_no_word_and_no_hint():
    assert BUILDER.unwanted("to murder") and not BUILDER.unwanted("hello there, analyst")
    for word in LEXICON.words:
        assert not BUILDER.unwanted(word.text)
        assert not any(BUILDER.unwanted(text) for kind, texts in word.clues.items() if kind != "etymology"
                       for text in texts), word


def test_every_hint_is_true_of_its_own_word_and_faded_hints_of_all_that_begin_so():
    for word in LEXICON.words:
        for kind, texts in word.clues.items():
            assert all(word.index in LEXICON.holding(kind, text) for text in texts)
    text = LEXICON.by_text["kitten"].clues["definition"][0]
    start = text.split()[0]
    faded = LEXICON.holding("definition", f"{start} ...")
    begin = {word.index for word in LEXICON.words for t in word.clues["definition"] if t.startswith(start + " ")}
    assert begin <= faded and LEXICON.holding("definition", text) <= faded
    assert LEXICON.holding("definition", "no such hint ...") == LEXICON.holding("synonym", "no such") == frozenset()


def test_synonyms_and_words_of_one_synset_are_rivals():
    monkey, primate = LEXICON.by_text["monkey"], LEXICON.by_text["primate"]
    assert primate.index in monkey.rivals
    assert primate.index in LEXICON.holding("definition", monkey.clues["definition"][0])


def test_spelling_and_root_hints_are_computed():
    assert affixes("attention") == ("9 letters, ends in -tion",)
    assert affixes("unhappily") == ("9 letters, ends in -ly", "9 letters, ends in -y", "9 letters, begins with un-")
    assert roots("telegraph") == ("a Greek part that means far", "a Greek part that means writing")
    assert roots("window") == () and len(SUFFIXES) == len(set(SUFFIXES)) and len(PREFIXES) == len(set(PREFIXES))
    assert all(part in " ".join(ROOTS) for part in ("tele", "-ology"))


def test_families_hold_what_is_derived():
    text = LEXICON.by_text
    assert text["commit"].family == text["commitment"].family
    assert text["forest"].family != text["kitten"].family
    assert max(Counter(word.family for word in LEXICON.words).values()) <= 12


def test_the_script_names_what_it_lacks(tmp_path):
    script = str(ROOT / "scripts" / "build_lexicon.py")
    done = subprocess.run([sys.executable, script, "--check", "--wordnet", str(tmp_path)], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2 and "install wordnet-base" in done.stdout


@pytest.mark.slow
def test_the_sources_give_the_committed_file():
    """Only where the sources are installed; the hash above stands in for it elsewhere."""
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "build_lexicon.py"), "--check"], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode in (0, 2), done.stdout
    assert done.returncode == 0 or "install" in done.stdout
