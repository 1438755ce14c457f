"""Memory, history, raw snapshots, and the commands of all exports."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import orjson
import pytest
from test_afs_exports import EMAIL, TURN, Claude, meta, rollout, rows, write

from afs.cli import exports as commands
from afs.step import StepError, UsageError
from afs.training.exports.history import export_history_to_jsonl, import_codex_history
from afs.training.exports.memory import export_memory_to_jsonl
from afs.training.exports.snapshot import snapshot_logs, verify_snapshot


def memory(tmp_path, **options):
    result = export_memory_to_jsonl("~/m.jsonl", **options)
    return rows(tmp_path / "user/m.jsonl"), result


@pytest.fixture
def entries(tmp_path):
    root = tmp_path / "user/.context/memory"
    write(root / "a.jsonl", [
        {"id": "e1", "instruction": "Who?", "output": f"Write to {EMAIL}", "tags": ["x"], "confidence": 0.9,
         "_metadata": {"who": EMAIL}, "quality_score": 0.7, "timestamp": "2026-01-01T00:00:00Z"},
        {"prompt": "Short?", "response": "Yes", "label": 1, "tags": "y"},
        {"content": "A raw note", "tags": ["allow_raw"]},
        {"content": "Another note"},
        {"odd": True},
        "{broken",
    ])  # fmt: skip
    write(root / "deep/b.json", [json.dumps({"entries": [{"user": "U?", "assistant": "A.", "domain": "d"}, 5]})])
    write(root / "note.md", ["# Title", "text"])
    (root / "latin.txt").write_bytes(b"caf\xe9")
    return root


def test_memory(tmp_path, entries):
    found, result = memory(tmp_path)
    assert [(r["instruction"], r["output"]) for r in found] == [
        ("Who?", "Write to <EMAIL:1>"), ("Short?", "Yes"), ("U?", "A.")]  # fmt: skip
    first = found[0]
    assert first["domain"] == "memory" and first["source"] == "memory" and first["quality_score"] == 0.7
    assert first["_metadata"] == {"who": "<EMAIL:1>", "memory_source_path": "a.jsonl", "memory_tags": ["x"],
                                  "memory_confidence": 0.9, "line": 1, "memory_id": "e1"}  # fmt: skip
    assert found[2]["domain"] == "d"
    assert result.coverage.left_out == {"note without a question (--allow-raw takes them)": 3, "entry without text": 1}
    assert result.coverage.total("bad") == 2 and result.report.counts.quarantined == 2
    assert "cannot be read as txt" in result.problems[0]["reason"]
    result.report.counts.check()


def test_memory_notes_and_tags(tmp_path, entries):
    found, _ = memory(tmp_path, allow_raw=True)
    assert found[2]["output"] == "A raw note" and len(found) == 4
    found, _ = memory(tmp_path, allow_raw=True, allow_raw_tags=[], default_instruction="Tell me")
    notes = [r["output"] for r in found if r["instruction"] == "Tell me"]
    assert notes == ["A raw note", "Another note", "# Title\ntext\n"]
    found, _ = memory(tmp_path, include_tags=["x"])
    assert len(found) == 1
    found, _ = memory(tmp_path, exclude_tags=["x"])
    assert len(found) == 2
    found, result = memory(tmp_path, require_quality=True, min_quality_score=0.1)
    assert [r["instruction"] for r in found] == ["Who?"] and found[0]["quality_score"] >= 0.1
    assert result.coverage.left_out["quality below 0.1"] == 2
    with pytest.raises(StepError, match="memory-export: no data found"):
        export_memory_to_jsonl("~/m2.jsonl", tmp_path / "none")


def events(root):
    long = json.dumps({"prompt": "Long?", "response": f"Long answer to {EMAIL}"})
    write(root / "payloads/p1.json", [long], end="")
    write(root.parent / "secret.json", [long])
    digest = hashlib.sha256(long.encode()).hexdigest()
    write(root / "events_20260101.jsonl", [
        {"id": "1", "timestamp": "2026-01-01T00:00:00Z", "type": "model", "op": "chat", "metadata": {"model": "m"},
         "payload": {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}],
                     "response": "A"}},
        {"id": "2", "type": "model", "payload_ref": "payloads/p1.json", "payload_sha256": digest},
        {"id": "3", "type": "model", "payload_ref": "../secret.json"},
        {"id": "4", "type": "model", "payload_ref": str(root.parent / "secret.json")},
        {"id": "5", "type": "model", "payload_ref": "payloads/p1.json", "payload_sha256": "0" * 64},
        {"id": "6", "type": "model", "payload_ref": "payloads/none.json"},
        {"id": "7", "type": "tool", "op": "ls", "payload": {"input": {"path": "."}, "output": "a\nb"}},
        {"id": "8", "type": "tool", "op": "ls", "metadata": {"success": False}, "payload": {"input": 1, "output": "x"}},
        {"id": "9", "type": "fs", "metadata": {"path": "a.py"}, "payload": {"content": "x = 1"}},
        {"id": "10", "type": "cli", "metadata": {"argv": ["afs", "status"]}, "payload": {}},
        {"id": "11", "type": "dream"},
        {"id": "12", "type": "model", "payload_ref": "payloads/a\0b.json"},
        {"id": "13", "type": "model", "payload_ref": "payloads/loop.json"},
        {"id": "14", "type": "model", "payload_ref": "payloads/pipe.json"},
        {"id": "15", "type": "model", "payload_ref": "payloads/link.json"},
    ])  # fmt: skip
    (root / "payloads/link.json").symlink_to(root.parent / "secret.json")
    (root / "payloads/loop.json").symlink_to("loop.json")
    os.mkfifo(root / "payloads/pipe.json")  # reading it would wait for ever


def test_history(tmp_path):
    root = tmp_path / "user/.context/history"
    events(root)
    result = export_history_to_jsonl(tmp_path / "h.jsonl")
    found = rows(tmp_path / "h.jsonl")
    assert [(r["instruction"], r["output"]) for r in found] == [("Q", "A"), ("Long?", "Long answer to <EMAIL:1>")]
    assert found[0]["teacher_model"] == "m" and found[0]["_metadata"]["history_event"] == "1"
    named = {p["path"]: p["reason"] for p in result.problems}
    assert "leads out" in named["events_20260101.jsonl:3"] and "leads out" in named["events_20260101.jsonl:4"]
    assert "hash" in named["events_20260101.jsonl:5"] and "cannot be read" in named["events_20260101.jsonl:6"]
    assert "nowhere" in named["events_20260101.jsonl:12"] and "nowhere" in named["events_20260101.jsonl:13"]
    assert "no plain file" in named["events_20260101.jsonl:14"] and "leads out" in named["events_20260101.jsonl:15"]
    assert result.coverage.records["event dream"] == {"unknown": 1}
    export_history_to_jsonl(tmp_path / "t.jsonl", root, include_tools=True, include_fs=True, include_cli=True)
    found = rows(tmp_path / "t.jsonl")
    asked = [r["instruction"] for r in found[2:]]
    assert asked == ['Tool ls input:\n{"path": "."}', "What does the file a.py contain?"]
    assert found[2]["domain"] == "history_tools" and found[2]["output"] == "a\nb"


def test_codex_import_writes_nowhere_else(tmp_path):
    turn = [{**line, "timestamp": "../../../a"} for line in TURN]
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *turn])
    rules = write(tmp_path / "rules.toml", ['[[rule]]', 'name = "file"', 'pattern = "README"'])
    before = {p for p in tmp_path.rglob("*")}
    assert import_codex_history(tmp_path / "h/history", [tmp_path / "x"], rules_file=rules).added == 4
    made = {str(p.relative_to(tmp_path)) for p in set(tmp_path.rglob("*")) - before}
    assert made == {"h", "h/history", "h/history/events_00000000.jsonl"}
    assert b"<FILE:1>.md" in (tmp_path / "h/history/events_00000000.jsonl").read_bytes()
    with pytest.raises(UsageError, match="--limit 0"):
        import_codex_history(tmp_path / "h/history", [tmp_path / "x"], limit=0)


def test_codex_import_with_system_messages(tmp_path):
    told = {"timestamp": "2026-02-01T00:00:00Z", "type": "response_item",
            "payload": {"type": "message", "role": "developer", "content": [{"text": f"Be brief, {EMAIL}"}]}}
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), told, *TURN])
    command = ["codex-history-import", "--root", str(tmp_path / "x"), "--history-root", str(tmp_path / "h")]
    assert run(*command, "--include-system") == 0
    found = [e for path in (tmp_path / "h").glob("*.jsonl") for e in rows(path) if e["type"] == "model"]
    assert found and all(e["payload"]["system"].startswith("Be brief, <EMAIL:1>") for e in found)


def test_snapshot_takes_what_a_database_has_not_yet_put_away(tmp_path):
    base = tmp_path / "db"
    base.mkdir()
    (base / "state.vscdb").write_bytes(b"1")
    (base / "state.vscdb-wal").write_bytes(b"2")
    found = snapshot_logs(tmp_path / "set", {"antigravity": [base]})
    assert found.copied == 2


def test_a_payload_that_came_back_is_read(tmp_path):
    root = tmp_path / "user/.context/history"
    events(root)
    kept = (root / "payloads/p1.json").rename(tmp_path / "p1.json")
    assert export_history_to_jsonl(tmp_path / "h.jsonl").total == 1
    assert export_history_to_jsonl(tmp_path / "h.jsonl").report.current
    kept.rename(root / "payloads/p1.json")
    assert export_history_to_jsonl(tmp_path / "h.jsonl").total == 2


def test_codex_import_is_idempotent_and_exports_again(tmp_path):
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN])
    root = tmp_path / "history"
    seen = import_codex_history(root, [tmp_path / "x"], dry_run=True)
    assert seen.added == 4 and not root.exists()
    first = import_codex_history(root, [tmp_path / "x"])
    assert first.added == 4 and "4 events added" in first.summary()
    day = root / "events_20260201.jsonl"
    before = day.read_bytes()
    again = import_codex_history(root, [tmp_path / "x"])
    assert again.added == 0 and again.known == 4 and day.read_bytes() == before
    with open(day, "ab") as out:
        out.write(b'{"id": "mine"}\n{cut')
    assert import_codex_history(root, [tmp_path / "x"]).added == 0
    os.unlink(day)
    assert import_codex_history(root, [tmp_path / "x"], tools=False, limit=5).added == 1
    result = export_history_to_jsonl(tmp_path / "h.jsonl", root)
    assert result.total == 1 and rows(tmp_path / "h.jsonl")[0]["output"] == "There is README.md."
    assert EMAIL.encode() not in before
    with pytest.raises(StepError, match="no data found"):
        import_codex_history(root, [tmp_path / "none"])


def test_snapshot_is_incremental_and_keeps_what_is_gone(tmp_path):
    log = Claude()
    log.user("Ask")
    path = log.write(tmp_path / "user/.claude")
    other = Claude("s2")
    other.user("Other")
    gone = other.write(tmp_path / "user/.claude")
    assert snapshot_logs(dry_run=True).copied == 2
    first = snapshot_logs()
    assert (first.copied, first.unchanged) == (2, 0) and first.by_source == {"claude": 2}
    folder = first.folder
    assert folder == tmp_path / "user/.context/training/raw_logs" and not verify_snapshot(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert snapshot_logs().copied == 0
    with open(path, "ab") as out:
        out.write(b'{"type":"user"}\n')
    gone.unlink()
    second = snapshot_logs()
    assert (second.copied, second.kept_old, second.gone) == (1, 0, 1)
    path.write_text("rewritten\n")
    third = snapshot_logs()
    assert (third.copied, third.kept_old) == (1, 1) and not verify_snapshot(folder)
    copies = {p.name.split(".jsonl")[0] for p in folder.rglob("*.jsonl*")}
    assert copies == {"s1", "s2"} and len(list(folder.rglob("s1.jsonl*"))) == 2
    next(iter(folder.rglob("s2.jsonl"))).write_text("damaged")
    assert len(verify_snapshot(folder)) == 1
    with pytest.raises(StepError, match="lies inside"):
        snapshot_logs(tmp_path / "user/.claude/projects/set")
    with pytest.raises(StepError, match="no logs found"):
        snapshot_logs(tmp_path / "new", {"claude": [tmp_path / "none"]})


# --- commands ---


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    commands.register_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in argv])
    return args.func(args)


def test_commands(tmp_path, entries, capsys):
    log = Claude()
    log.user("Ask")
    log.call("Bash", "t1", cmd="ls")
    log.say(f"Answer to {EMAIL}")
    log.write(tmp_path / "user/.claude")
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN])
    chats = tmp_path / "user/.gemini/tmp/abc/chats"
    said = [{"type": "user", "content": "Q"}, {"type": "gemini", "content": "A"}]
    write(chats / "session-1.json", [{"messages": said}])
    events(tmp_path / "user/.context/history")
    assert run("claude-export", "--output", tmp_path / "c.jsonl", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exported"] == 1 and told["details"]["coverage"]["records"]["user"] == {"used": 1, "joined": 1}
    assert told["details"]["redaction"]["replaced"]["EMAIL"] == 1
    assert run("claude-export", "--output", tmp_path / "t.jsonl", "--view", "trajectory", "--no-tools", "--no-redact",
               "--limit", "5", "--domain", "d", "--max-scan-depth", "2", "--no-thoughts") == 0  # fmt: skip
    [row] = rows(tmp_path / "t.jsonl")
    assert row["messages"][-1]["content"] == f"Answer to {EMAIL}" and row["domain"] == "d"
    assert run("codex-export", "--root", tmp_path / "x", "--output", tmp_path / "x.jsonl", "--include-system") == 0
    assert run("gemini-export", "--output", tmp_path / "g.jsonl", "--include-thoughts") == 0
    assert run("memory-export", "--output", tmp_path / "m.jsonl", "--allow-raw", "--allow-raw-tag", "allow_raw",
               "--require-quality", "--min-quality-score", "0") == 0  # fmt: skip
    assert run("history-export", "--output", tmp_path / "h.jsonl", "--include-tools", "--event-type", "tool") == 0
    assert run("codex-history-import", "--root", tmp_path / "x", "--limit", "1") == 0
    assert run("snapshot", "--root", f"codex={tmp_path / 'x'}", "--output", tmp_path / "set") == 0
    rules = tmp_path / "r.toml"
    rules.write_text("[[rule]]\nname='ans'\npattern='Answer'\n")
    capsys.readouterr()
    clean = tmp_path / "r.jsonl"
    assert run("redact", "--input", tmp_path / "t.jsonl", "--output", clean, "--rules", rules, "--report") == 0
    assert json.loads(capsys.readouterr().out)["replaced"] == {"ANS": 1, "EMAIL": 1, "HOME": 2}
    assert rows(tmp_path / "r.jsonl")[0]["messages"][-1]["content"] == "<ANS:1> to <EMAIL:1>"
    for name, count in (("c", 1), ("x", 1), ("g", 1), ("m", 4), ("h", 1)):
        assert len(rows(tmp_path / f"{name}.jsonl")) == count, name
        manifest = orjson.loads(Path(tmp_path / f"{name}.jsonl.manifest.json").read_bytes())
        assert manifest["details"]["coverage"]["records"]
