"""ToolBench: both layouts, answers decoded as JSON, reasons of what is left out, broken files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.generators.base import load_samples
from afs.jsonl import Counts
from afs.step import How, StepError, UsageError
from afs.training.exports import json_rows
from afs.training.exports.json_rows import array_rows
from afs.training.exports.toolbench import (
    RowError,
    Turn,
    Unfinished,
    decode,
    export_toolbench_to_jsonl,
    final_answer,
    find_files,
    read_step,
    turns_of,
)
from afs.training.health import validate_jsonl

ANSWER = 'He said "hi", then left:\n{"a": [1, 2]} \\ ü'
SYSTEM = "You are AutoGPT, you can use many tools(functions). You have access to the following APIs: [{'name': 'w'}]"


def said(thought: str, action: str, arguments: str) -> dict[str, str]:
    return {"from": "assistant", "value": f"\nThought: {thought}\nAction: {action}\nAction Input: {arguments}"}


def finish(answer: object = ANSWER, how: str = "give_answer", thought: str = "I know it.") -> dict[str, str]:
    return said(thought, "Finish", json.dumps({"return_type": how, "final_answer": answer}, indent=2))


def talk(*more: dict[str, str], ask: str = "Weather in New York?") -> list[dict[str, str]]:
    return [{"from": "system", "value": SYSTEM}, {"from": "user", "value": f"\n{ask}\nBegin!\n"}, *more]


CALL = said("I ask the API.", "current.weather-v2_for_weather_api", '{"where": {"city": "New York", "in": ["US"]}}')
RESULT = {"from": "function", "value": '{"error": "", "response": "{\'temp\': 21}"}'}
DONE = talk(CALL, RESULT, finish())
ROWS = [
    {"id": "Step 1: Weather", "conversations": DONE},
    {"id": "Step 2: Weather", "conversations": talk(CALL)},
    {"id": "Step 3: Weather", "conversations": talk(CALL, RESULT, finish(how="give_up_and_restart"))},
    {"id": "Step 4: Weather", "conversations": talk(finish(answer=""))},
    {"id": "Step 5: Weather", "conversations": talk(said("x", "Finish", '{"return_type": "give_answer", "final_a'))},
    {"id": "Step 6: Weather", "conversations": [{"from": "wizard", "value": "?"}]},
    {"id": "Step 7: Weather", "conversations": talk(finish({"temp": 21, "list": ["a", 'b"']}), {"from": "function",
                                                                                               "value": "concluded"})},
    {"id": "Step 8: Weather", "conversations": talk({"from": "assistant", "value": "It is warm."})},
]  # fmt: skip
FATES = {"read": 8, "out": 2, "filtered": 4, "quarantined": 2}


def as_json(folder: Path, rows: list = ROWS, name: str = "toolllama_G123_dfs_train.json", **how: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows, **how), encoding="utf-8")
    return folder


def as_parquet(folder: Path, rows: list = ROWS, name: str = "train-00000-of-00001.parquet", lists: bool = True) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    source = folder / "rows.tmp"
    if lists:
        rows = [{**r, "conversations": {"from": [m["from"] for m in r["conversations"]],
                                        "value": [m["value"] for m in r["conversations"]]}} for r in rows]  # fmt: skip
    source.write_text("\n".join(json.dumps(row) for row in rows))
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT * FROM read_json('{source}', format='newline_delimited')) "
                   f"TO '{folder}/data/{name}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")  # fmt: skip
    source.unlink()
    return folder


def counts(result) -> dict[str, int]:
    c = result.report.counts
    return {"read": c.read, "out": c.out, "filtered": c.filtered, "quarantined": c.quarantined}


@pytest.mark.parametrize("layout", [as_json, as_parquet, lambda f: as_parquet(f, lists=False),
                                    lambda f: as_json(f, indent=4)])  # fmt: skip
def test_both_layouts_give_the_same_samples(layout, tmp_path):
    result = export_toolbench_to_jsonl(layout(tmp_path / "in"), tmp_path / "out.jsonl")
    assert counts(result) == FATES
    first, second = load_samples(tmp_path / "out.jsonl")
    assert first.instruction == "Weather in New York?"
    assert first.output == ANSWER
    assert first.thinking == "I ask the API.\n\nI know it."
    assert first.input == ('API endpoint: current.weather-v2_for_weather_api\n'
                           'Input: {"where": {"city": "New York", "in": ["US"]}}\n'
                           'Result: {"error": "", "response": "{\'temp\': 21}"}')  # fmt: skip
    assert (first.domain, first.source, second.source) == ("toolbench_api", "toolbench_train_000000",
                                                           "toolbench_train_000006")  # fmt: skip
    assert first.metadata["tools"] == ["current.weather-v2_for_weather_api"]
    assert (first.metadata["task_id"], first.metadata["system"]) == ("Step 1: Weather", SYSTEM)
    assert second.output == '{"temp":21,"list":["a","b\\""]}' and second.input == ""
    assert result.reasons == {
        "gave up and restarted": 1, "the final answer is empty": 1, "the last turn of the assistant calls nothing": 1,
        "the last step calls an API: the first steps of a longer conversation": 1,
    }  # fmt: skip
    assert result.report.by_source == {"toolbench_train": {**FATES, "duplicates": 0}}
    assert "filtered out: 1 gave up and restarted" in result.summary()
    turns = result.report.details["turns"]
    assert turns["user"]["used"] >= result.exported and turns["user"]["left out"] >= 1
    assert set(turns) <= {"system", "user", "assistant", "function"} and "turns of" in result.summary()


def test_a_conversation_that_stands_there_twice_is_one_sample(tmp_path):
    path = as_json(tmp_path / "in") / "toolllama_G123_dfs_train.json"
    rows = json.loads(path.read_bytes())
    path.write_text(json.dumps([*rows, rows[0]]))
    result = export_toolbench_to_jsonl(tmp_path / "in", tmp_path / "out.jsonl")
    assert counts(result) == {**FATES, "read": FATES["read"] + 1} and result.report.counts.duplicates == 1
    assert validate_jsonl(tmp_path / "out.jsonl").ok


def test_odd_roles_and_answers_are_named_not_fatal(tmp_path):
    def finish(answer):
        text = f'Action: Finish\nAction Input: {{"return_type": "give_answer", "final_answer": {answer}}}'
        return [{"from": "user", "value": "Q"}, {"from": "assistant", "value": text}]

    talks = [finish('"ok"'), finish('"\\ud83d cut"'), [{"from": ["a"], "value": "Q"}], finish("[" * 5000 + "]" * 5000)]
    path = tmp_path / "toolllama_train.json"
    path.write_text(json.dumps([{"id": str(n), "conversations": talk} for n, talk in enumerate(talks)]))
    result = export_toolbench_to_jsonl(path, tmp_path / "out.jsonl")
    assert [s.output for s in load_samples(tmp_path / "out.jsonl")] == ["ok", "\ufffd cut"]
    reasons = [orjson.loads(x)["reason"] for x in (tmp_path / "out.quarantine.jsonl").read_bytes().splitlines()]
    assert result.report.counts.quarantined == 2 and "unknown role" in reasons[0]


def test_bad_rows_are_named_by_line_and_byte(tmp_path):
    as_json(tmp_path / "in", indent=1)
    export_toolbench_to_jsonl(tmp_path / "in", tmp_path / "out.jsonl")
    records = [orjson.loads(x) for x in (tmp_path / "out.quarantine.jsonl").read_bytes().splitlines()]
    assert ["no JSON" in records[0]["reason"], "'wizard'" in records[1]["reason"]] == [True, True]
    data = (tmp_path / "in/toolllama_G123_dfs_train.json").read_bytes()
    for record, number in zip(records, (5, 6), strict=True):
        found = data[record["offset"] : record["offset"] + record["length"]]
        assert orjson.loads(found)["id"] == f"Step {number}: Weather"
        assert data.count(b"\n", 0, record["offset"]) + 1 == record["line"]


def test_limit_split_and_second_run(tmp_path):
    folder = as_json(as_json(tmp_path / "in"), [ROWS[0]], "toolllama_G123_dfs_eval.json")
    one = export_toolbench_to_jsonl(folder, tmp_path / "one.jsonl", limit=1)
    assert counts(one) == {"read": 1, "out": 1, "filtered": 0, "quarantined": 0}
    held = export_toolbench_to_jsonl(folder, tmp_path / "held.jsonl", split="validation")
    assert load_samples(tmp_path / "held.jsonl")[0].source == "toolbench_validation_000000" and held.exported == 1
    before = (tmp_path / "held.jsonl").read_bytes()
    again = export_toolbench_to_jsonl(folder, tmp_path / "held.jsonl", split="validation")
    assert again.report.current and again.exported == 1 and (tmp_path / "held.jsonl").read_bytes() == before
    dry = export_toolbench_to_jsonl(folder, tmp_path / "dry.jsonl", how=How(dry_run=True))
    assert dry.exported == 2 and not list(tmp_path.glob("dry*"))


def test_what_cannot_be_is_refused(tmp_path):
    folder = as_json(tmp_path / "in", [ROWS[1]])
    for call, words in [
        ({"dataset_dir": tmp_path / "none"}, "does not exist"), ({"split": "test"}, "no split 'test'"),
        ({"split": "validation"}, "no file of the split"), ({"limit": 0}, "--limit 0"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=words):
            export_toolbench_to_jsonl(**{"dataset_dir": folder, "output": tmp_path / "o.jsonl", **call})
    with pytest.raises(StepError, match="no finished conversation among 1 rows .1 the last step calls an API"):
        export_toolbench_to_jsonl(folder, tmp_path / "o.jsonl")
    (folder / "train.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(StepError, match="cannot be read as Parquet"):
        export_toolbench_to_jsonl(folder, tmp_path / "o.jsonl")
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT 1 AS x) TO '{folder}/train.parquet' (FORMAT parquet)")
    with pytest.raises(StepError, match="no column 'conversations'"):
        export_toolbench_to_jsonl(folder, tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_parquet_comes_before_json_and_says_so(tmp_path):
    folder = as_json(as_parquet(tmp_path / "in"))
    files, notes = find_files(folder, "train")
    assert [f.suffix for f in files] == [".parquet"] and "1 JSON files of the split were left alone" in notes[0]
    assert find_files(folder / "toolllama_G123_dfs_train.json", "train")[0][0].suffix == ".json"


def test_other_data_of_the_release_is_left_alone(tmp_path):
    folder = as_json(tmp_path / "in")
    as_json(folder / "toolenv/tools/Transport", [{"tool": 1}], "train_times.json")
    as_json(folder / "retrieval/G1", [{"query": 1}], "train.json")
    as_json(folder, [{"x": 1}], "train_extra.json")
    files, notes = find_files(folder, "train")
    assert [f.name for f in files] == ["toolllama_G123_dfs_train.json"] and "1 JSON files" in notes[0]


def test_names_with_pattern_characters_are_read(tmp_path):
    """`*` and `[` in a path are characters of its name."""
    folder = as_parquet(tmp_path / "in", [ROWS[0]], name="train-[a]*.parquet")
    as_parquet(tmp_path / "in", [ROWS[1]], name="valid-[a]b.parquet")
    assert counts(export_toolbench_to_jsonl(folder, tmp_path / "o.jsonl"))["out"] == 1


def test_redaction_is_there_when_asked_for(tmp_path):
    folder = as_json(tmp_path / "in", [{"conversations": talk(finish("Write to jane.doe@example-mail.org now"))}])
    export_toolbench_to_jsonl(folder, tmp_path / "plain.jsonl")
    export_toolbench_to_jsonl(folder, tmp_path / "clean.jsonl", redact=True)
    assert "jane.doe@" in (tmp_path / "plain.jsonl").read_text()
    assert "jane.doe@" not in (tmp_path / "clean.jsonl").read_text()


def test_command(tmp_path):
    code = ("import argparse, sys; from afs.cli import toolbench; p = argparse.ArgumentParser()\n"
            "toolbench.register_parsers(p.add_subparsers()); a = p.parse_args(sys.argv[1:]); sys.exit(a.func(a))")
    folder = as_json(tmp_path / "in")
    done = subprocess.run(
        [sys.executable, "-c", code, "toolbench-export", "--dataset-dir", str(folder), "--output",
         str(tmp_path / "o.jsonl"), "--split", "train", "--limit", "10000", "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["out"] == 2


# --- parsing --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
VALUE = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
                     lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=8)


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip), st.booleans())
def test_any_answer_comes_back_whole(answer, ascii_only):
    text = json.dumps({"return_type": "give_answer", "final_answer": answer}, ensure_ascii=ascii_only)
    step = read_step(Turn("assistant", f"Thought: t\nAction: Finish\nAction Input: {text}"))
    assert final_answer(step) == answer.strip()


@given(st.dictionaries(TEXT, VALUE, max_size=4), st.sampled_from([None, 2]))
def test_any_input_of_an_action_comes_back_whole(value, indent):
    step = read_step(Turn("assistant", f"Thought: Action: none\nAction: a.b-c for d\nAction Input: "
                                       f"{json.dumps(value, indent=indent)}\n"))  # fmt: skip
    assert (step.thought, step.action) == ("Action: none", "a.b-c for d")
    assert decode(step.input) == value


def test_odd_but_readable_inputs():
    raw = '{"return_type": "give_answer", "final_answer": "two\nlines, \\"quoted\\""} and more'
    assert final_answer(read_step(Turn("assistant", f"Action: Finish\nAction Input: {raw}"))) == 'two\nlines, "quoted"'
    single = "{'return_type': 'give_answer', 'final_answer': 'it\\'s'}"
    assert final_answer(read_step(Turn("assistant", f"Action: Finish\nAction Input: {single}"))) == "it's"
    called = turns_of([{"role": "assistant", "content": None, "function_call": {
        "name": "Finish", "arguments": '{"return_type":"give_answer","final_answer":"42"}'}}])  # fmt: skip
    assert final_answer(read_step(called[0])) == "42"
    with pytest.raises(Unfinished, match="return_type 'maybe'"):
        final_answer(read_step(Turn("assistant", 'Action: Finish\nAction Input: {"return_type": "maybe"}')))
    for text in ('[1]', '"x"', "{", "", "nan("):
        with pytest.raises(RowError):
            final_answer(read_step(Turn("assistant", f"Action: Finish\nAction Input: {text}")))


@pytest.mark.parametrize("value", [None, 3, [], "{", {"from": ["user"], "value": []}, [1], [{"from": "user"}]])
def test_no_conversation_is_an_error(value):
    with pytest.raises(RowError):
        turns_of(value)


# --- arrays ---------------------------------------------------------------------------------------------------------


def read(data: bytes, tmp: Path, **how):
    path = tmp / "rows.json"
    path.write_bytes(data)
    bad, tally = [], Counts()
    rows = list(array_rows(path, bad.append, tally, **how))
    assert tally.read == len(rows) + len(bad) and tally.quarantined == len(bad)
    for row in [*rows, *bad]:
        length = len(row.raw) if hasattr(row, "value") else row.length
        assert data[row.offset : row.offset + length].startswith(row.raw)
        assert data.count(b"\n", 0, row.offset) + 1 == row.line
    return rows, bad


@given(rows=st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=6), indent=st.sampled_from([None, 0, 3]),
       chunk=st.integers(1, 40))  # fmt: skip
def test_arrays_are_read_at_any_chunk_size(rows, indent, chunk, tmp_path_factory):
    tmp = tmp_path_factory.getbasetemp()
    before = json_rows._CHUNK
    json_rows._CHUNK = chunk
    try:
        found, bad = read(json.dumps(rows, indent=indent, ensure_ascii=False).encode(), tmp)
    finally:
        json_rows._CHUNK = before
    assert [row.value for row in found] == rows and not bad


GOOD = b'{"id": "%d", "conversations": [{"a": "\\"{ ]"}]}'


@pytest.mark.parametrize(("data", "ids", "reasons"), [
    (b"\xef\xbb\xbf[" + GOOD % 1 + b"]", ["1"], []),
    (GOOD % 1 + b"\n" + GOOD % 2, ["1", "2"], []),
    (b"[" + GOOD % 1 + b', 7, "a {b", ' + GOOD % 2 + b"]", ["1", "2"], ["no object"]),
    (b"[" + GOOD % 1 + b',\n{"id": 2, "x": nope},\n' + GOOD % 3 + b"]", ["1", "3"], ["bad JSON"]),
    (b"[" + GOOD % 1 + b',\n{"id": 2, "x": "lost quote},\n' + GOOD % 3 + b",\n" + GOOD % 4 + b"]", ["1", "3", "4"],
     ["bad JSON"]),
    (b"[" + GOOD % 1 + b',\n{"id": 2, "x": {},\n' + GOOD % 3 + b"]", ["1", "3"], ["cut off"]),
    (b"[" + GOOD % 1 + b',\n{"id": 2, "conversations": [{"from": "us', ["1"], ["cut off"]),
    (b"[" + GOOD % 1 + b',\n{"id": 2, "x": "' + b"y" * 900 + b'"},\n' + GOOD % 3 + b"]", ["1", "3"], ["over-long"]),
    (b"[]", [], []), (b"", [], []), (b"hello", [], ["no object"]),
])  # fmt: skip
def test_broken_arrays_lose_only_the_broken_row(data, ids, reasons, tmp_path):
    for chunk in (1 << 20, 7):
        before, json_rows._CHUNK = json_rows._CHUNK, chunk
        try:
            rows, bad = read(data, tmp_path, max_row=500)
        finally:
            json_rows._CHUNK = before
        assert [row.value["id"] for row in rows] == ids
        assert len(bad) == len(reasons)
        assert all(word in row.reason for word, row in zip(reasons, bad, strict=True))


def test_an_array_is_not_held_in_memory(tmp_path):
    """The buffer never grows far beyond the largest row."""
    data = b"[" + b",".join(GOOD % n for n in range(40000)) + b"]"
    scanner = json_rows._Scanner(io.BytesIO(data), 1 << 20)
    held = [len(scanner.buffer) for _ in scanner.pieces()]
    assert len(held) == 40000 and max(held) <= json_rows._CHUNK + 100 < len(data)
