"""Files into training formats and back: shapes, nothing lost, the same bytes for any number of workers."""

from __future__ import annotations

import json
import pickle

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.generators.base import FIELDS, TrainingSample
from afs.step import How, StepError, UsageError
from afs.training.converters import (
    ConversionError,
    available_converters,
    convert_back,
    convert_file,
    convert_folder,
    get_converter,
    list_formats,
    register_converter,
)
from afs.training.converters.files import line_of

SAMPLE = TrainingSample("Q", "A", "I", "T", domain="asm", _metadata={"n": 1}).to_dict()
LOSSLESS = ["alpaca", "sharegpt", "messages", "openai", "chatml", "chatml_text", "prompt_completion", "mlx",
            "mlx_completion", "llama_cpp", "unsloth_thinking", "parquet"]  # fmt: skip
QI = "Q\n\nI"
CHAT = [{"role": "user", "content": QI}, {"role": "assistant", "content": "A"}]
SHAPES = {
    "alpaca": {"instruction": "Q", "input": "I", "output": "A"},
    "sharegpt": {"conversations": [{"from": "human", "value": QI}, {"from": "gpt", "value": "A"}]},
    "messages": {"messages": CHAT}, "openai": {"messages": CHAT}, "chatml": {"messages": CHAT},
    "mlx": {"messages": CHAT},
    "prompt_completion": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "mlx_completion": {"prompt": "### Instruction:\nQ\n\nI\n\n### Response:\n", "completion": "A"},
    "chatml_text": {"text": "<|im_start|>user\nQ\n\nI<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"},
    "llama_cpp": {"text": "<|im_start|>user\nQ\n\nI<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"},
}  # fmt: skip


def write(path, rows, **options):
    path.write_bytes(b"".join(orjson.dumps(row, **options) + b"\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def same(found, expected):
    """Equal values of equal types, with the keys in the same order."""
    return json.dumps(found) == json.dumps(expected)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_without_thinking_and_without_a_made_up_system_prompt(name, tmp_path):
    assert get_converter(name, include_cot=False).convert(SAMPLE) == SHAPES[name]
    plain = TrainingSample("Q", "A", "I")
    assert get_converter(name).convert(plain) == SHAPES[name], "a sample object, no thinking to keep"
    made = convert_file(write(tmp_path / "x.jsonl", [plain.to_dict()]), tmp_path / "o.jsonl", name)
    assert read(made.output) == [SHAPES[name]]


@pytest.mark.parametrize("mode,answer", [
    ("embedded", "Let me analyze this step by step:\n\nT\n\nBased on this analysis, here is the solution:\n\nA"),
    ("special_tokens", "<think>\nT\n</think>\n\nA"),
])
def test_thinking_in_the_answer(mode, answer, tmp_path):
    for name in ("alpaca", "openai", "llama_cpp"):
        text = json.dumps(get_converter(name, cot_mode=mode).convert(SAMPLE))
        assert json.dumps(answer)[1:-1] in text
    made = convert_file(write(tmp_path / "x.jsonl", [SAMPLE]), format="alpaca", thinking=mode)
    assert made.output == tmp_path / "x_alpaca.jsonl" and read(made.output)[0]["output"] == answer
    assert get_converter("unsloth_thinking").convert(SAMPLE)["messages"][1]["content"].startswith("<think>\nT\n")


def test_separate_thinking_has_its_own_key_in_every_row(tmp_path):
    none = {**SAMPLE, "thinking": None}
    source = write(tmp_path / "x.jsonl", [none, SAMPLE])
    assert [r["thinking"] for r in read(convert_file(source, format="alpaca").output)] == ["", "T"]
    chats = read(convert_file(source, format="sharegpt").output)
    assert [c["conversations"][1]["thinking"] for c in chats] == ["", "T"]
    # Thinking that turns up after the first megabyte: written again with the key in all rows.
    late = write(tmp_path / "late.jsonl", [{**none, "output": "x" * 1000}] * 1200 + [SAMPLE])
    rows = read(convert_file(late, format="alpaca").output)
    assert {tuple(row) for row in rows} == {("instruction", "input", "output", "thinking")}
    assert rows[-1]["thinking"] == "T" and rows[0]["thinking"] == ""
    chat = {"messages": [CHAT[0], {**CHAT[1], "reasoning_content": "T"}]}
    late = write(tmp_path / "late.jsonl", [{**none, "output": "x" * 1000}] * 1200 + [chat])
    rows = read(convert_file(late, format="messages").output)
    assert rows[-1]["messages"][1]["thinking"] == "T" and rows[0]["messages"][1]["thinking"] == ""


@pytest.mark.parametrize("name,mode", [("alpaca", "none"), ("openai", "separate"), ("llama_cpp", "separate")])
def test_losing_thinking_needs_leave(name, mode, tmp_path):
    rows = [{**SAMPLE, "thinking": None}] * 2 + [SAMPLE, SAMPLE]
    source = write(tmp_path / "x.jsonl", rows)
    with pytest.raises(StepError, match=r"thinking of 2 rows .*x\.jsonl:3, .*x\.jsonl:4.*--allow-loss"):
        convert_file(source, format=name, thinking=mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.jsonl"], "nothing was written"
    made = convert_file(source, format=name, thinking=mode, allow_loss=True)
    assert made.lost == {"thinking": 2} and "thinking of 2 rows" in made.summary()
    assert b"T" not in made.output.read_bytes()
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), rows), "the meta file kept it"


def test_metadata_goes_to_the_meta_file_with_a_loss_report(tmp_path):
    made = convert_file(write(tmp_path / "x.jsonl", [SAMPLE, {**SAMPLE, "extra": 5}]), format="sharegpt")
    assert made.meta == tmp_path / "x_sharegpt.jsonl.meta.jsonl"
    head, first, second = read(made.meta)
    assert head["row"] == 0 and head["format"] == "sharegpt" and (first["row"], second["row"]) == (1, 2)
    assert first["kept"]["domain"] == "asm" and second["kept"]["extra"] == 5
    assert made.kept == {"_metadata": 2, "domain": 2, "extra": 1, "sample_id": 2, "source": 2}
    assert "domain (2)" in made.summary() and "kept in" in made.summary()
    again = convert_file(tmp_path / "x.jsonl", format="sharegpt")
    assert again.report.current and again.kept == made.kept and again.meta == made.meta


def test_a_row_that_the_format_holds_whole_needs_no_meta_file(tmp_path):
    rows = [{"instruction": "Q", "input": "", "output": "A"}, {"instruction": "Q", "input": "x", "output": ""}]
    (tmp_path / "o.jsonl.meta.jsonl").write_text("left by an earlier run\n")
    made = convert_file(write(tmp_path / "x.jsonl", rows), tmp_path / "o.jsonl", "alpaca")
    assert made.meta is None and not (tmp_path / "o.jsonl.meta.jsonl").exists() and read(made.output) == rows
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), rows)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\n", "a\r\nb", '"\\', "\0", " ", "<think>\n", "\n\n", "é漢𝄞", "### Response:\n", "<|im_end|>"])  # fmt: skip
json_values = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
                           | st.floats(allow_nan=False, allow_infinity=False),
                           lambda v: st.lists(v, max_size=2) | st.dictionaries(texts, v, max_size=2),
                           max_leaves=4)  # fmt: skip
unknown = st.dictionaries(st.sampled_from(["note", "text", "tags", "prompt", "é", "original", "kept", "row"]),
                          json_values, max_size=2)  # fmt: skip


@st.composite
def samples(draw):
    row = TrainingSample(draw(texts), draw(texts), draw(texts), draw(st.none() | texts), domain=draw(texts),
                         source=draw(texts), quality_score=draw(st.sampled_from([0.0, 0.5, 1.0])),
                         embedding=draw(st.none() | st.just([0.5, 1.0])), kg_entities=draw(st.lists(texts, max_size=2)),
                         _metadata=draw(st.dictionaries(texts, json_values, max_size=2))).to_dict()  # fmt: skip
    row |= draw(unknown)
    kind = draw(st.integers(0, 4))
    if kind == 1:  # another order, some keys missing
        keys = draw(st.permutations(list(row)))
        row = {k: row[k] for k in keys if k in ("instruction", "output") or draw(st.booleans())}
    elif kind == 2:
        row = {"instruction": row["instruction"], "input": draw(st.none() | texts), "output": row["output"]}
    return row


@st.composite
def chats(draw):
    turns = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 3))):
        turns += [{"role": "user", "content": draw(texts)}, {"role": "assistant", "content": draw(texts)}]
        if draw(st.booleans()):
            turns[-1]["thinking"] = draw(texts)
    names = {"system": "system", "user": draw(st.sampled_from(["human", "user"])), "assistant": "gpt"}
    row = {"messages": turns} if draw(st.booleans()) else {
        "conversations": [{"from": names[t["role"]], "value": t["content"]} for t in turns]}  # fmt: skip
    return {**draw(st.dictionaries(st.sampled_from(["id", "domain", "note"]), json_values, max_size=2)), **row}


@pytest.mark.parametrize("name", LOSSLESS)
@given(rows=st.lists(samples() | chats(), min_size=1, max_size=6), spaced=st.booleans(), crlf=st.booleans(),
       mode=st.sampled_from(["none", "separate", "embedded", "special_tokens"]), system=st.none() | texts)
@settings(max_examples=15, deadline=None)
def test_the_way_back_is_exact(tmp_path_factory, name, rows, spaced, crlf, mode, system):
    folder = tmp_path_factory.mktemp("round")
    end = b"\r\n" if crlf else b"\n"
    lines = [json.dumps(row).encode() if spaced else orjson.dumps(row) for row in rows]
    (folder / "x.jsonl").write_bytes(end.join(lines) + end)
    target = folder / ("o.parquet" if name == "parquet" else "o.jsonl")
    try:
        made = convert_file(folder / "x.jsonl", target, name, mode, system, allow_loss=True)
    except StepError as error:
        assert "no row of" in str(error)
        return
    report = convert_back(made.output, output=folder / "back.jsonl")
    bad = folder / "o.quarantine.jsonl"
    refused = {record["line"] for record in read(bad)} if bad.exists() else set()
    expected = [row for number, row in enumerate(rows, 1) if number not in refused]
    assert same(read(folder / "back.jsonl"), expected)
    assert report.counts.out == len(expected) == made.rows
    if name not in ("alpaca", "parquet"):
        assert not refused


@pytest.mark.parametrize("name", [n for n in LOSSLESS if n != "parquet"])
@given(row=samples(), mode=st.sampled_from(["separate", "embedded", "special_tokens"]), system=st.none() | texts)
@settings(max_examples=20, deadline=None)
def test_bytes_and_values_give_the_same_row(tmp_path_factory, name, row, mode, system):
    """The file way (on bytes) and `convert` (on values) agree."""
    folder = tmp_path_factory.mktemp("ways")
    made = convert_file(write(folder / "x.jsonl", [row]), folder / "o.jsonl", name, mode, system, allow_loss=True)
    assert read(made.output) == [get_converter(name, cot_mode=mode, system=system).convert(row)]


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral", "alpaca"])
def test_templates(template, tmp_path):
    rows = [{"messages": [{"role": "system", "content": "S"}, *CHAT, *CHAT]}, SAMPLE | {"thinking": None}]
    made = convert_file(write(tmp_path / "x.jsonl", rows), tmp_path / "o.jsonl", "llama_cpp", template=template)
    expected = {
        "chatml": "<|im_start|>user\nQ\n\nI<|im_end|>\n<|im_start|>assistant\nA<|im_end|>",
        "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ\n\nI<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
        "mistral": "<s>[INST] Q\n\nI [/INST] A</s>",
        "alpaca": "### Instruction:\nQ\n\nI\n\n### Response:\nA",
    }  # fmt: skip
    assert read(made.output)[1]["text"] == expected[template]
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), rows)
    with pytest.raises(UsageError, match="no template 'vicuna'"):
        convert_file(tmp_path / "x.jsonl", format="llama_cpp", template="vicuna")


LONG = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
                     {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
                     {"role": "assistant", "content": "d"}], "id": 7}  # fmt: skip


def test_long_chats_survive(tmp_path):
    source = write(tmp_path / "x.jsonl", [LONG])
    assert [t["from"] for t in read(convert_file(source, format="sharegpt").output)[0]["conversations"]] == [
        "system", "human", "gpt", "human", "gpt"]  # fmt: skip
    for name in ("messages", "openai", "chatml", "mlx"):
        assert read(convert_file(source, format=name).output) == [{"messages": LONG["messages"]}]
    assert read(convert_file(source, format="alpaca").output) == [
        {"instruction": "c", "input": "", "output": "d", "system": "S", "history": [["a", "b"]]}]  # fmt: skip


def test_chats_that_trainers_would_drop_are_refused_with_the_reason(tmp_path):
    odd = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    source = write(tmp_path / "x.jsonl", [LONG, odd])
    made = convert_file(source, format="sharegpt")
    assert made.report.counts.quarantined == 1 and made.rows == 1
    (bad,) = read(tmp_path / "x_sharegpt.quarantine.jsonl")
    assert bad["line"] == 2 and "turn 2 is from 'user'" in bad["reason"]
    assert convert_file(source, format="messages").rows == 2
    for row in read(made.output):  # LLaMA-Factory: after the system turn, odd places human, even places gpt
        turns = [t["from"] for t in row["conversations"] if t["from"] != "system"]
        assert turns[0::2] == ["human"] * len(turns[0::2]) and turns[1::2] == ["gpt"] * len(turns[1::2])
        assert len(turns) % 2 == 0


def test_tool_chats_stay_as_they_are_where_they_can(tmp_path):
    row = {"messages": [{"role": "user", "content": "2+2"},
                        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                        {"role": "tool", "content": "4", "tool_call_id": "1"}], "tools": [], "id": 3}  # fmt: skip
    source = write(tmp_path / "x.jsonl", [row])
    made = convert_file(source, format="openai")
    assert read(made.output) == [{"messages": row["messages"], "tools": []}]
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), [row])
    with pytest.raises(StepError, match="no row of .* could be converted"):
        convert_file(source, format="alpaca")


PAIR = {"prompt": "Q", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize("row,expected", [
    (PAIR | {"id": 1}, PAIR),
    ({"instruction": "Q", "input": "I", "chosen": "a", "rejected": "b"},
     {"prompt": QI, "chosen": "a", "rejected": "b"}),
    ({"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "a"},
      "rejected": {"from": "gpt", "value": "b"}},
     {"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "a"}],
      "rejected": [{"role": "assistant", "content": "b"}]}),
    ({"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "B"}]},
     {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "B"}]}),
])  # fmt: skip
def test_pairs(row, expected, tmp_path):
    made = convert_file(write(tmp_path / "x.jsonl", [row]), format="dpo")
    assert read(made.output) == [expected]
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), [row])


def test_a_pair_is_no_text_to_imitate_without_leave(tmp_path):
    source = write(tmp_path / "x.jsonl", [PAIR])
    with pytest.raises(StepError, match="would lose rejected of 1 rows"):
        convert_file(source, format="messages")
    made = convert_file(source, format="messages", allow_loss=True)
    assert read(made.output)[0]["messages"][1]["content"] == "good"
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), [PAIR])
    with pytest.raises(StepError, match="no row"):
        convert_file(write(tmp_path / "y.jsonl", [SAMPLE]), format="dpo")


def test_bad_rows_are_set_aside_and_half_surrogates_refused(tmp_path):
    source = tmp_path / "x.jsonl"
    good = orjson.dumps(SAMPLE)
    source.write_bytes(b'{"instruction": "\\ud800", "output": "A"}\n' + good + b"\n{broken\n\n"
                       + good.replace(b'"T"', b"[1]") + b"\n" + good.replace(b'"I"', b'"\xff"') + b"\n")  # fmt: skip
    made = convert_file(source, format="alpaca")
    counts = made.report.counts
    assert (counts.read, counts.out, counts.quarantined, counts.blank) == (5, 1, 4, 1)
    bad = read(tmp_path / "x_alpaca.quarantine.jsonl")
    assert [b["line"] for b in bad] == [1, 3, 5, 6]
    assert "surrogate" in bad[0]["reason"] and "'thinking' must be a text" in bad[2]["reason"]
    with pytest.raises(ConversionError, match="half a surrogate pair"):
        get_converter("alpaca").convert({"instruction": "\ud800", "output": "A"})


@pytest.mark.parametrize("name", ["alpaca", "llama_cpp", "parquet"])
def test_same_bytes_for_any_number_of_workers(name, tmp_path, monkeypatch):
    rows = [{**SAMPLE, "thinking": None, "output": f"{n} " + "word " * (n % 700), "sample_id": f"s{n}"}
            for n in range(5000)]  # fmt: skip
    write(tmp_path / "x.jsonl", [*rows, LONG, {"nothing": 1}])
    assert (tmp_path / "x.jsonl").stat().st_size > 5 << 20, "more than one part"
    made = {}
    for workers in (1, 2, 7):
        folder = tmp_path / str(workers)
        result = convert_file(tmp_path / "x.jsonl", folder / f"o{'.parquet' if name == 'parquet' else '.jsonl'}", name,
                              how=How(workers=workers))  # fmt: skip
        made[workers] = {p.name: p.read_bytes() for p in folder.iterdir() if "manifest" not in p.name}
        assert result.report.by_source["augmented"]["out"] == 5000
    assert made[1] == made[2] == made[7] and len(made[1]) == (2 if name == "parquet" else 3)


def test_folders_and_the_layout_of_mlx(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / "data" / f"{split}.jsonl", [SAMPLE]) if (tmp_path / "data").mkdir(exist_ok=True) is None else 0
    made = convert_folder(tmp_path / "data", format="mlx")
    assert [r.output.relative_to(tmp_path).as_posix() for r in made] == [
        "data_mlx/test.jsonl", "data_mlx/train.jsonl", "data_mlx/valid.jsonl"]  # fmt: skip
    assert convert_folder(tmp_path / "data", format="alpaca")[2].output == tmp_path / "data_alpaca" / "val.jsonl"
    one = convert_file(tmp_path / "data" / "val.jsonl", tmp_path / "other", "mlx")
    assert one.output == tmp_path / "other" / "valid.jsonl"
    with pytest.raises(UsageError, match="holds no train"):
        convert_folder(tmp_path, format="mlx")


def test_usage_errors_name_the_near_ones(tmp_path):
    source = write(tmp_path / "x.jsonl", [SAMPLE])
    with pytest.raises(UsageError, match="did you mean 'sharegpt'"):
        convert_file(source, format="shareGPT")
    with pytest.raises(UsageError, match="no thinking policy 'loud'"):
        convert_file(source, format="alpaca", thinking="loud")
    with pytest.raises(UsageError, match="also an input"):
        convert_file(source, source)
    made = convert_file(source, format="alpaca")
    write(tmp_path / "o.jsonl", [{"messages": CHAT}])
    with pytest.raises(StepError, match="do not belong together"):
        convert_back(tmp_path / "o.jsonl", meta=write(tmp_path / "m.jsonl", [read(made.meta)[0], {"row": 2}]))
    with pytest.raises(UsageError, match="name its format"):
        convert_back(tmp_path / "o.jsonl")
    assert convert_back(tmp_path / "o.jsonl", format="messages").counts.out == 1
    assert read(tmp_path / "o_restored.jsonl") == [{"instruction": QI, "input": "", "output": "A"}]


class Shout:
    """A format of another package."""

    drops = ("thinking",)

    def __init__(self, **options):
        self.options = options

    def convert(self, sample):
        return {"loud": sample.output.upper()}


def test_foreign_formats(tmp_path):
    register_converter("shout", Shout, overwrite=True)
    with pytest.raises(ValueError, match="exists"):
        register_converter("alpaca", Shout)
    assert "shout" in available_converters() and "shout" in {f["name"] for f in list_formats()}
    source = write(tmp_path / "x.jsonl", [SAMPLE])
    with pytest.raises(StepError, match="--allow-loss"):
        convert_file(source, format="shout")
    made = convert_file(source, format="shout", allow_loss=True)
    assert read(made.output) == [{"loud": "A"}]
    convert_back(made.output, output=tmp_path / "back.jsonl")
    assert same(read(tmp_path / "back.jsonl"), [SAMPLE])
    assert pickle.loads(pickle.dumps(get_converter("llama_cpp", template="mistral"))).convert(SAMPLE)["text"]


def test_line_of_a_byte(tmp_path):
    (tmp_path / "x").write_bytes(b"a\nbb\nc")
    assert [line_of(tmp_path / "x", at) for at in (0, 2, 5)] == [1, 2, 3]


def test_every_field_is_a_parquet_column(tmp_path):
    import duckdb

    made = convert_file(write(tmp_path / "x.jsonl", [SAMPLE, SAMPLE | {"note": 1}]), format="parquet")
    found = duckdb.sql(f"SELECT * FROM '{made.output}'")
    assert set(FIELDS) < set(found.columns)
    assert duckdb.sql(f"SELECT domain, count(*) FROM '{made.output}' GROUP BY ALL").fetchall() == [("asm", 2)]


@pytest.mark.slow
def test_outputs_load_in_datasets_and_train_in_trl(tmp_path):
    """Files as they are: `datasets` reads every format, TRL trains two steps on three of them."""
    datasets = pytest.importorskip("datasets")
    from hero_kit import CHATML_MARKED, MICRO, tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    rows = [{**SAMPLE, "instruction": f"add {n}", "thinking": "hm" if n % 3 else None} for n in range(12)]
    source = write(tmp_path / "x.jsonl", rows)
    pairs = write(tmp_path / "p.jsonl", [PAIR | {"prompt": f"add {n}"} for n in range(12)])
    loaded = {}
    for name in (*[n for n in LOSSLESS if n != "parquet"], "dpo"):
        made = convert_file(pairs if name == "dpo" else source, format=name, allow_loss=True)
        loaded[name] = datasets.load_dataset("json", data_files=str(made.output), split="train",
                                             cache_dir=str(tmp_path / "cache"))  # fmt: skip
        assert len(loaded[name]) == 12
    words = tokenizer(template=CHATML_MARKED)
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = Qwen3Config(vocab_size=len(words), **ends, **MICRO)
    options = dict(output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, report_to=[],
                   use_cpu=True, save_strategy="no", logging_steps=1, bf16=False)  # fmt: skip
    for name in ("messages", "prompt_completion"):
        trainer = SFTTrainer(model=Qwen3ForCausalLM(config), args=SFTConfig(max_length=64, **options),
                             train_dataset=loaded[name], processing_class=words)  # fmt: skip
        assert trainer.train().global_step == 2
    trainer = DPOTrainer(model=Qwen3ForCausalLM(config), ref_model=Qwen3ForCausalLM(config),
                         args=DPOConfig(**options), train_dataset=loaded["dpo"],
                         processing_class=words)  # fmt: skip
    assert trainer.train().global_step == 2


@pytest.mark.parametrize("place", ['"_metadata":{"x":%s}', '"_metadata":{},"more":%s'])
def test_a_row_nested_too_deeply_is_set_aside_and_the_rest_goes_on(tmp_path, place):
    good = orjson.dumps(TrainingSample("q", "a").to_dict())
    deep = good.replace(b'"_metadata":{}', place.encode() % (b"[" * 5000 + b"]" * 5000))
    (tmp_path / "in.jsonl").write_bytes(good + b"\n" + deep + b"\n" + good + b"\n")
    counts = convert_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="sharegpt").report.counts
    assert (counts.read, counts.out, counts.quarantined) == (3, 2, 1)


def test_a_folder_with_an_empty_split_is_converted(tmp_path):
    rows = b"".join(orjson.dumps(TrainingSample(f"q{n}", "a").to_dict()) + b"\n" for n in range(3))
    for name, content in (("train", rows), ("val", rows), ("test", b"")):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    made = convert_folder(tmp_path, tmp_path / "out", format="openai")
    assert sorted(r.output.name for r in made) == ["train.jsonl", "val.jsonl"]


def test_two_files_of_one_split_are_refused(tmp_path):
    row = orjson.dumps(TrainingSample("q", "a").to_dict()) + b"\n"
    for name in ("train.jsonl", "val.jsonl", "valid.jsonl"):
        (tmp_path / name).write_bytes(row)
    assert len(convert_folder(tmp_path, tmp_path / "out", format="openai")) == 3
    with pytest.raises(UsageError, match="would both become valid.jsonl"):
        convert_folder(tmp_path, tmp_path / "mlx", format="mlx")
