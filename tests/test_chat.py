"""Ids and loss mask: proofs against the tokenizer's own template and against TRL's assistant masks."""

from __future__ import annotations

import hero_kit as kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.heroes import chat

CHATML = ("<|pad|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "chatml": dict(),
    "qwen2_5": dict(template=kit.trl_template("qwen2_5")),
    "qwen3": dict(template=kit.trl_template("qwen3"), added=("<think>", "</think>")),
    "llama3": dict(special=("<|pad|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
                            "<|end_of_text|>"), eos="<|end_of_text|>", template=kit.trl_template("llama3")),
    "gemma": dict(special=("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), eos="<eos>",
                  template=kit.trl_template("gemma")),
    "phi3": dict(special=("<pad>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"),
                 eos="<|endoftext|>", template=kit.trl_template("phi3")),
}  # fmt: skip
STOPS = {"chatml": "<|im_end|>", "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>",
         "gemma": "<end_of_turn>", "phi3": "<|end|>"}  # fmt: skip

# Letters, digits, glyphs, emoji, newlines, markup, control characters: all of it may stand in a training file.
texts = st.text(st.sampled_from(list("ab 01⓪①é漢🗡️\n\t<|>_{}[]\"'\\%#=") ) | st.characters(codec="utf-8"), min_size=1,
                max_size=40)  # fmt: skip


def turns(n):
    roles = ("user", "assistant") * n
    return st.tuples(*[texts] * (2 * n)).map(
        lambda ts: [{"role": r, "content": t} for r, t in zip(roles, ts, strict=True)]
    )


def trained_text(row, tokenizer):
    return tokenizer.decode([i for i, on in zip(row.ids, row.mask, strict=True) if on])


@pytest.mark.parametrize("family", FAMILIES)
def test_stop_token_is_learnt_from_the_template(family):
    tokenizer = kit.tokenizer(**FAMILIES[family])
    assert tokenizer.convert_ids_to_tokens(chat.stop_id(tokenizer)) == STOPS[family]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3).flatmap(turns))
def test_chatml_mask_is_answers_and_stops(messages):
    tokenizer = kit.tokenizer()
    try:
        row = chat.render(messages, tokenizer)
    except chat.RenderError as error:
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        assert (error.code == "empty_answer" and not all(a.strip() for a in answers)) or (
            error.code == "token_boundary" and any(a[0] in "\n\r\t \x0b\x0c" or a[0].isspace() for a in answers)
        ), error
        return
    assert trained_text(row, tokenizer) == "".join(
        m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert row.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert row.trained >= 2 and len(row.mask) == len(row.ids)
    for i in (i for i, m in enumerate(messages) if m["role"] == "assistant"):
        head = chat.prompt_ids(messages[:i], tokenizer)
        assert row.ids[: len(head)] == head, "the row must begin with what inference shows"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2).flatmap(turns))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_rows_begin_with_the_prompt(family, messages):
    """Whatever a template does to a text, each row is (inference prompt, answer, stop) or it is refused."""
    tokenizer = kit.tokenizer(**FAMILIES[family])
    try:
        rows = chat.render_turns(messages, tokenizer)
    except chat.RenderError as error:
        assert error.code in {"empty_answer", "token_boundary", "altered_answer", "template"}, error
        return
    wanted = [m["content"] for m in messages if m["role"] == "assistant"]
    got = [part for row in rows for part in trained_text(row, tokenizer).split(STOPS[family])[:-1]]
    assert ["".join(g.split()) for g in got] == ["".join(w.split()) for w in wanted]
    for row, i in zip(rows, range(1, len(messages), 2), strict=False):
        head = chat.prompt_ids(messages[:i], tokenizer)
        assert row.ids[: len(head)] == head
        assert not any(row.mask[: len(head)])


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_template_is_the_librarys(family):
    tokenizer = kit.tokenizer(**FAMILIES[family])
    messages = kit.conversations(3)[0] + kit.conversations(3)[1][:1]
    for thinking in (False, True):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True,
                                                 enable_thinking=thinking)  # fmt: skip
        assert chat.prompt_text(messages, tokenizer, thinking) == expected
    assert "library" not in chat._renderer(chat._Key(tokenizer)).__qualname__, "the fast path must serve this template"


def assistant_mask(messages, tokenizer, template):
    got = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True,
                                        return_assistant_tokens_mask=True)  # fmt: skip
    return got["input_ids"], [bool(x) for x in got["assistant_masks"]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(turns))
def test_mask_equals_generation_spans(messages):
    """Token for token what transformers' `return_assistant_tokens_mask` says of {% generation %} spans."""
    tokenizer = kit.tokenizer()
    try:
        row = chat.render(messages, tokenizer)
    except chat.RenderError:
        return
    assert (row.ids, row.mask) == assistant_mask(messages, tokenizer, kit.CHATML_MARKED)


@pytest.mark.parametrize(("family", "extra"), [
    ("llama3", ""), ("qwen2_5", "\n\n"), ("phi3", "\n<|endoftext|>"), ("qwen3", "<think>\n\n</think>\n\n\n"),
])  # fmt: skip
def test_mask_equals_trl_training_templates(family, extra):
    """TRL's own training templates: the same ids, and Llama 3's mask token for token. The others also train on what a
    hero never has to write: the prompt's newline or empty think block, and what follows the stop token."""
    tokenizer = kit.tokenizer(**FAMILIES[family])
    messages = kit.conversations(4)[3]
    row = chat.render(messages, tokenizer)
    ids, mask = assistant_mask(messages, tokenizer, kit.trl_template(f"{family}_training"))
    assert ids == row.ids
    assert all(theirs for ours, theirs in zip(row.mask, mask, strict=True) if ours)
    assert tokenizer.decode([i for i, a, b in zip(ids, row.mask, mask, strict=True) if b and not a]) == extra


# --- Qwen3's think block -------------------------------------------------------------------------------------------

def test_qwen3_empty_think_block_is_prompt_not_answer():
    tokenizer = kit.tokenizer(**FAMILIES["qwen3"])
    messages = kit.conversations(1)[0]
    row = chat.render(messages, tokenizer)
    assert chat.prompt_text(messages[:1], tokenizer).endswith("<think>\n\n</think>\n\n")
    assert "think" not in trained_text(row, tokenizer)
    assert "<think>" in tokenizer.decode(row.ids)


def test_qwen3_conversation_is_cut_into_turns_because_the_whole_differs_from_its_prompts():
    tokenizer = kit.tokenizer(**FAMILIES["qwen3"])
    messages = kit.conversations(1)[0] + kit.conversations(1, 5)[0]
    with pytest.raises(chat.RenderError, match="does not start with its inference prompt") as error:
        chat.render(messages, tokenizer)
    assert error.value.code == "prompt_mismatch"
    rows = chat.render_turns(messages, tokenizer)
    assert [trained_text(r, tokenizer) for r in rows] == [
        messages[1]["content"] + "<|im_end|>", messages[3]["content"] + "<|im_end|>"]  # fmt: skip


def test_qwen3_reasoning_without_thinking_is_refused_and_with_it_trained():
    tokenizer = kit.tokenizer(**FAMILIES["qwen3"])
    messages = [{"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": "<think>\none and one\n</think>\n\n2"}]  # fmt: skip
    with pytest.raises(chat.RenderError, match="chat.thinking: true"):
        chat.render_turns(messages, tokenizer)
    row = chat.render(messages, tokenizer, thinking=True)
    assert trained_text(row, tokenizer) == "<think>\none and one\n</think>\n\n2<|im_end|>"


def test_qwen3_thinking_hero_refuses_rows_without_reasoning():
    """Else it would learn to skip thinking under the thinking prompt."""
    tokenizer = kit.tokenizer(**FAMILIES["qwen3"])
    with pytest.raises(chat.RenderError, match="needs its reasoning") as error:
        chat.render(kit.conversations(1)[0], tokenizer, thinking=True)
    assert error.value.code == "altered_answer"


# --- Refusals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("messages", "code"), [
    ([], "empty"),
    ([{"role": "user", "content": "x"}], "no_assistant"),
    ([{"role": "user", "content": "x"}, {"role": "assistant", "content": " \n"}], "empty_answer"),
    ([{"role": "user", "content": "x"}, {"role": "robot", "content": "y"}], "role"),
    ([{"role": "user", "content": None}, {"role": "assistant", "content": "y"}], "content"),
    ([{"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant\nb"}, {"role": "assistant", "content": "y"}],
     "special_token"),
    ([{"role": "assistant", "content": "y"}], "prompt_mismatch"),
])  # fmt: skip
def test_refused_with_a_code(messages, code):
    with pytest.raises(chat.RenderError) as error:
        chat.render_turns(messages, kit.tokenizer())
    assert error.value.code == code


def test_long_row_is_refused_never_cut():
    tokenizer = kit.tokenizer()
    messages = kit.conversations(1)[0]
    whole = chat.render(messages, tokenizer)
    n = len(whole.ids)
    assert chat.render(messages, tokenizer, max_length=n) == whole
    with pytest.raises(chat.RenderError, match=f"the row has {n} tokens") as error:
        chat.render(messages, tokenizer, max_length=n - 1)
    assert error.value.code == "too_long"
    long = kit.conversations(1)[0]
    long[1]["content"] *= 50
    kept, dropped = chat.render_rows([messages, long, messages], tokenizer, max_length=n)
    assert len(kept) == 2 and [(i, code) for i, code, _ in dropped] == [(1, "too_long")]


def test_template_without_a_stop_token_is_refused():
    bare = "{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\n' }}{%- endfor %}" \
           "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"  # fmt: skip
    with pytest.raises(chat.RenderError, match="never learn to stop"):
        chat.stop_id(kit.tokenizer(template=bare))


def test_shipped_tokenizer_renders_bin_rows():
    from realm.guild.skills import get_skill
    from realm.heroes.model import load_tokenizer, shipped_tokenizer

    tokenizer = load_tokenizer(shipped_tokenizer())
    for problem in get_skill("bin").generate(9, 40, seed=3):
        row = chat.render(problem.messages, tokenizer)
        assert trained_text(row, tokenizer) == problem.golden + "<|im_end|>"


def test_span_tags_do_not_keep_a_template_from_being_compiled():
    """PIP's own template marks its answers for transformers; the tags write nothing."""
    tokenizer = kit.tokenizer(template=kit.CHATML_MARKED)
    renderer = chat._renderer(chat._Key(tokenizer))
    assert "library" not in renderer.__qualname__
    messages = [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "b "}]
    assert renderer(messages, False, False) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert chat._without_spans("{%- generation -%}x{% endgeneration %}") == "{%- if true -%}x{% endif %}"
