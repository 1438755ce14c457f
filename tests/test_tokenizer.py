"""The shipped tokenizer: any text survives, digits and glyphs stand alone, the chat template marks the assistant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import realm
from realm.guild.skills import get_skill
from realm.guild.skills.bin.notation import DIGITS, KEY_DIGITS, KEY_NAMES
from realm.guild.skills.bin.operations import OPERATIONS

transformers = pytest.importorskip("transformers")
FOLDER = Path(realm.__file__).parent / "heroes" / "tokenizer"
SCRIPT = Path(__file__).parent.parent / "scripts" / "train_tokenizer.py"
GLYPHS = "0123456789" + DIGITS + KEY_DIGITS + KEY_NAMES


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in encode(tokenizer, text)]


def test_special_tokens_and_size(tokenizer):
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) <= 512
    assert [len(encode(tokenizer, text)) for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")] == [1, 1, 1]
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    special = json.loads((FOLDER / "special_tokens_map.json").read_text())
    assert config["eos_token"] == special["eos_token"] == "<|im_end|>"


@given(text=st.text(max_size=60) | st.text(alphabet=GLYPHS + " ,:=()[]\nabz_é漢🜁", max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text), skip_special_tokens=False) == text


def test_every_byte_has_a_token(tokenizer):
    alphabet = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(encode(tokenizer, alphabet)) == alphabet


@given(run=st.text(alphabet=GLYPHS, min_size=1, max_size=40),
       neighbour=st.sampled_from(["", " ", "a", "(", ")", ", ", ":", "-", "_"]))
@settings(max_examples=200, deadline=None)
def test_digits_and_glyphs_never_merge_with_a_neighbour(tokenizer, run, neighbour):
    made = pieces(tokenizer, f"{neighbour}{run}{neighbour}")
    assert [piece for piece in made if any(char in GLYPHS for char in piece)] == list(run)


def test_operation_names_tags_and_separators_are_single_tokens(tokenizer):
    for name in OPERATIONS:
        assert pieces(tokenizer, f"{name}(①)") == [name, "(", "①", ")"]
    assert pieces(tokenizer, "Compute [show-work]: add(①, ⓪)") == [
        "Compute", " [show-work]", ": ", "add", "(", "①", ", ", "⓪", ")"]
    assert pieces(tokenizer, "not(⓪①) = ①⓪") == ["not", "(", "⓪", "①", ")", " = ", "①", "⓪"]


def test_words_of_the_skill_take_at_most_two_tokens(tokenizer):
    for problem in get_skill("bin").generate(9, 400, 77):
        for text in (problem.prompt, problem.golden):
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for word in re.finditer(r"\[[a-z-]+\]|[A-Za-z]+(?:_[a-z0-9]+)*", text):
                overlapping = [span for span in spans if span[0] < word.end() and word.start() < span[1]]
                assert 1 <= len(overlapping) <= 2, word[0]


def test_chat_template_masks_the_answer_and_its_stop_token_only(tokenizer):
    problem = get_skill("bin").generate(3, 1, 0)[0]
    out = tokenizer.apply_chat_template(problem.messages, return_dict=True, return_assistant_tokens_mask=True)
    text = tokenizer.decode(out["input_ids"])
    assert text == f"<|im_start|>user\n{problem.prompt}<|im_end|>\n<|im_start|>assistant\n{problem.golden}<|im_end|>\n"
    marked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == f"{problem.golden}<|im_end|>"
    prompt = tokenizer.apply_chat_template(problem.messages[:1], add_generation_prompt=True, return_dict=True)
    ids = prompt["input_ids"]
    assert out["input_ids"][:len(ids)] == ids
    assert out["assistant_masks"].index(1) == len(ids)


@pytest.mark.parametrize("level", [1, 2, 3, 7, 8, 15, 24, 30])
def test_golden_answers_fit_the_published_budget(tokenizer, level):
    info = get_skill("bin").levels()[level - 1]
    longest = max(len(encode(tokenizer, p.golden)) + 1 for p in get_skill("bin").generate(level, 400, 5))
    assert longest <= info.max_new_tokens


@pytest.mark.slow
def test_committed_tokenizer_is_what_training_makes():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True,
                          env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"})
    assert done.returncode == 0, done.stdout + done.stderr
