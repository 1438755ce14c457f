"""Training formats: recognised by shape, turned into chat rows without losing a key."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.training.converters import ConversionError, detect, format_names, is_preference, to_messages

U, A, S = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "A"), ("system", "S")))
CASES = [
    ("messages", {"messages": [S, U, A], "skill": "bin"}, [S, U, A]),
    ("openai", {"messages": [{"role": "developer", "content": "S"}, U, A]}, [S, U, A]),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, A], "tools": []}, [U, A]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "id": 1}, [U, A]),
    ("sharegpt", {"conversations": [U, A], "system": "S"}, [S, U, A]),
    ("sharegpt", {"conversation": [{"from": "user", "value": "Q"}, {"from": "model", "value": "A"}]}, [U, A]),
    ("training_sample", {"instruction": "Q", "output": "A", "input": "", "domain": "asm", "_metadata": {}}, [U, A]),
    ("training_sample", {"instruction": "Q", "output": "A", "thinking": "hm", "source": "s"}, [U, A]),
    ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, [U, A]),
    ("alpaca", {"instruction": "Q", "output": "A", "system": "S", "text": "Q A"}, [S, U, A]),
    ("prompt_completion", {"prompt": "Q", "completion": "A"}, [U, A]),
    ("prompt_completion", {"prompt": "Q", "response": "A", "lang": "en"}, [U, A]),
    ("prompt_completion", {"prompt": [S, U], "completion": [A]}, [S, U, A]),
    ("text", {"text": "A", "url": "u"}, [{"role": "user", "content": ""}, A]),
]  # fmt: skip
SPENT = {"messages", "conversations", "conversation", "instruction", "input", "output", "prompt", "completion",
         "response"}  # fmt: skip


@pytest.mark.parametrize("name,row,expected", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_each_format_is_recognised_and_nothing_is_lost(name, row, expected):
    before = copy.deepcopy(row)
    assert detect(row) == name
    made = to_messages(row, name)
    assert made["messages"] == expected and list(made)[0] == "messages"
    assert row == before, "the row that came in is not changed"
    for key in row.keys() - SPENT - {"system", "text"}:
        assert made[key] == row[key]
    assert detect(made) in ("messages", "openai") and to_messages(made, "messages")["messages"] == expected


def test_good_chat_rows_are_the_same_object_so_that_bytes_can_be_copied():
    row = {"skill": "bin", "messages": [U, A]}
    assert to_messages(row, "messages") is row


def test_a_stray_messages_key_does_not_win_over_the_text():
    assert to_messages({"prompt": "Q", "completion": "A", "messages": None}, "prompt_completion")["messages"] == [U, A]


def test_input_follows_the_instruction():
    made = to_messages({"instruction": "Add", "input": "1 2", "output": "3"}, "alpaca")
    assert made == {"messages": [{"role": "user", "content": "Add\n\n1 2"}, {"role": "assistant", "content": "3"}]}


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"instruction": "Q"}, {"prompt": "Q"}, {"messages": "Q"}, {"text": 3},
                                 {"conversations": {}}, {"chosen": "A"}])  # fmt: skip
def test_unknown_shapes_have_no_name(row):
    assert detect(row) is None


def test_preference_rows_are_told_apart_and_never_imitated():
    row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    assert is_preference(detect(row)) and not is_preference("alpaca")
    with pytest.raises(ConversionError, match="Judge"):
        to_messages(row, "preference")


@pytest.mark.parametrize("row,words", [
    ({"messages": [{"role": "wizard", "content": "x"}]}, "role 'wizard'"),
    ({"messages": [{"content": "x"}]}, "no 'role'"),
    ({"messages": ["x"]}, "messages\\[1\\] has no 'role'"),
    ({"messages": [U, {"role": "assistant", "content": None}]}, "messages\\[2\\] has content of type NoneType"),
    ({"messages": [U, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "calls a tool"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]}, "part of type 'image_url'"),
    ({"messages": [U, A, {"role": "tool", "content": "1"}]}, "role 'tool'"),
    ({"conversations": [{"from": "human", "value": 7}]}, "type int"),
    ({"instruction": "Q", "output": None}, "'output' must be a text, found NoneType"),
    ({"instruction": "Q", "input": [1], "output": "A"}, "'input' must be a text"),
    ({"prompt": "Q", "completion": 4}, "'completion' must be a text"),
])  # fmt: skip
def test_refusals_name_the_part_and_the_rule(row, words):
    with pytest.raises(ConversionError, match=words):
        to_messages(row, detect(row))
    with pytest.raises(KeyError, match="messages"):
        to_messages(row, "parchment")


leaves = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "user", "gpt"])
turns = st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]), leaves, max_size=3)
values = leaves | st.lists(leaves, max_size=2) | st.lists(turns, max_size=3)
keys = st.sampled_from([*sorted(SPENT), "text", "system", "domain", "chosen", "rejected", "tools"])


@given(st.dictionaries(keys, values, max_size=6))
def test_any_object_is_converted_or_refused_in_words(row):
    name = detect(row)
    assert name is None or name in format_names()
    if name:
        try:
            made = to_messages(row, name)
        except ConversionError as error:
            assert str(error)
        else:
            assert all(isinstance(m["content"], str) for m in made["messages"])
