"""Agent logs: one fixture per edge of each format, and what must hold for any log."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import orjson
import pytest
import zstandard
from benchmarks.agent_logs import make_claude_logs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afs.cli import main
from afs.step import StepError, UsageError
from afs.training.exports.agents import export_claude_to_jsonl, export_codex_to_jsonl, export_gemini_to_jsonl
from afs.training.exports.antigravity import export_antigravity_to_jsonl
from afs.training.exports.history import export_history_to_jsonl
from afs.training.exports.memory import export_memory_to_jsonl
from afs.training.health import validate_jsonl
from afs.training.redaction import redact_jsonl

EMAIL = "jane@example.org"


def write(path: Path, lines: list, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + end, encoding="utf-8")
    return path


def rows(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


class Claude:
    """Builds a Claude Code log line by line; each line's parent is the line before unless it is given."""

    def __init__(self, session="s1", start=0):
        self.lines, self.session, self.count, self.last = [], session, start, None

    def add(self, kind, uuid=None, parent="", **more):
        self.count += 1
        uuid = uuid or f"{self.session}-{self.count}"
        line = {"type": kind, "uuid": uuid, "parentUuid": self.last if parent == "" else parent,
                "sessionId": self.session, "timestamp": f"2026-01-01T00:{self.count // 60:02}:{self.count % 60:02}Z",
                "cwd": "/home/jane/p", "isSidechain": False, **more}  # fmt: skip
        self.lines.append(line)
        self.last = uuid
        return uuid

    def user(self, content, **more):
        return self.add("user", message={"role": "user", "content": content}, **more)

    def say(self, text, mid=None, **more):
        return self.block({"type": "text", "text": text}, mid, **more)

    def block(self, block, mid=None, **more):
        mid = mid or f"msg-{self.session}-{self.count}"
        body = {"id": mid, "role": "assistant", "model": "m1", "content": [block]}
        return self.add("assistant", message=body, **more)

    def call(self, name, call, mid=None, result="done", **inputs):
        uuid = self.block({"type": "tool_use", "id": call, "name": name, "input": inputs}, mid)
        if result is not None:
            self.result(call, result)
        return uuid

    def result(self, call, text, **more):
        return self.user([{"type": "tool_result", "tool_use_id": call, "content": text}], **more)

    def write(self, root, slug="-home-jane-p", name=None):
        return write(root / "projects" / slug / f"{name or self.session}.jsonl", self.lines)


def claude(tmp_path, **options):
    out = tmp_path / "out" / "claude.jsonl"
    result = export_claude_to_jsonl(out, [tmp_path / "c"], **options)
    return rows(out), result


def test_claude_turn_with_split_message_tools_and_thinking(tmp_path):
    log = Claude()
    log.user(f"Fix the test of {EMAIL}")
    log.block({"type": "thinking", "thinking": "hm, the test"}, "m1")
    log.say("I'll look", "m1")
    log.say("I'll look at the test.", "m1")  # streaming wrote it twice, growing
    log.call("Read", "t1", "m1", result=None, path="/home/jane/p/a.py", key="gh" + "p_" + "aB3d" * 9)
    log.call("Bash", "t2", "m1", result=None, cmd="ls")  # parallel calls of one message
    log.result("t1", [{"type": "text", "text": "line 1"}, {"type": "image"}], parent="s1-5")
    log.result("t2", "x" * 5000, parent="s1-6")
    log.say("Fixed it: the test passes.", "m2")
    log.write(tmp_path / "c")
    [row], result = claude(tmp_path)
    assert row["instruction"] == "Fix the test of <EMAIL:1>" and row["output"] == "Fixed it: the test passes."
    assert row["thinking"] == "hm, the test" and row["source"] == "claude" and row["teacher_model"] == "m1"
    assert row["input"].startswith("[assistant] I'll look at the test.\n[call Read] ")
    assert "[result] line 1\n[image]" in row["input"] and "3,000 characters left out" in row["input"]
    assert row["input"].count("I'll look") == 1 and "<GITHUB_TOKEN:1>" in row["input"]
    about = row["_metadata"]
    assert about["session_id"] == "s1" and about["tools"] == ["Bash", "Read"] and about["cwd"] == "<HOME:1>/p"
    assert about["log"] == "<HOME:1>-p/s1.jsonl" and about["line"] == 1
    assert "jane" not in json.dumps(row)
    assert result.total == 1 and result.coverage.records["assistant"] == {"used": 2, "joined": 4}
    assert result.coverage.records["user"] == {"used": 1, "joined": 2}
    assert "EMAIL" in result.summary() and "record" in result.summary()
    [row], _ = claude(tmp_path, tools=False, thoughts=False, domain="d")
    assert (row["input"], row["thinking"], row["domain"]) == ("", None, "d")


def test_claude_resumed_session_is_no_duplicate(tmp_path):
    log = Claude("a1")
    log.user("First ask")
    log.say("First answer")
    log.write(tmp_path / "c")
    # The copy sorts before the original by name, holds the same uuids and goes on.
    copy = Claude("a0", start=2)
    copy.lines = [{**line, "sessionId": "a0"} for line in log.lines]
    copy.last = log.last
    copy.user("Second ask")
    copy.say("Second answer")
    copy.write(tmp_path / "c")
    found, result = claude(tmp_path)
    where = [(r["instruction"], r["_metadata"]["session_id"]) for r in found]
    assert where == [("First ask", "a1"), ("Second ask", "a0")]
    assert result.coverage.total("duplicate") == 2 and result.report.counts.duplicates == 1
    whole, result = claude(tmp_path, view="trajectory")
    assert [len(r["messages"]) for r in whole] == [2, 4] and whole[1]["_metadata"]["repeated_turns"] == 1


def test_claude_what_is_no_speech(tmp_path):
    log = Claude()
    log.add("file-history-snapshot", parent=None, snapshot={})
    log.user("skill body that is long", isMeta=True)
    log.user("<command-name>/clear</command-name><command-args></command-args>")
    log.user("<local-command-stdout>cleared</local-command-stdout>")
    log.user("Caveat: The messages below were generated by the user while running local commands.")
    log.add("system", subtype="stop_hook_summary", content="hook ran")
    log.add("attachment", attachment={"type": "hook_success", "content": "hook output"})
    log.user("<system-reminder>be\nkind</system-reminder>What is it? [Image #1]")
    log.add("progress", data={})
    log.add("mystery-record", payload=1)
    log.say("API Error: 529", isApiErrorMessage=True)
    log.say("It is a parser.")
    log.user([{"type": "tool_result", "tool_use_id": "none", "content": "x"}, {"type": "text", "text": "And why?"}])
    log.say("Because files must be read.")
    log.user("Unanswered")
    log.say("API Error: 500", isApiErrorMessage=True)
    log.user("Stopped")
    log.say("I start")
    log.user("[Request interrupted by user]")
    log.user("Wrong answer wanted")
    log.say("Here it is")
    log.user("no, revert that")
    log.call("Bash", "t9", result=None)
    log.write(tmp_path / "c")
    found, result = claude(tmp_path)
    assert [(r["instruction"], r["output"]) for r in found] == [
        ("What is it?", "It is a parser."), ("And why?", "Because files must be read.")]  # fmt: skip
    assert result.coverage.left_out == {"turn: error": 1, "turn: interrupt": 1, "turn: corrected": 1, "turn: open": 1}
    assert result.coverage.records["mystery-record"] == {"unknown": 1}
    assert result.coverage.records["block tool_result without call"] == {"unknown": 1}
    assert result.coverage.records["system/stop_hook_summary"] == {"skipped": 1}
    records = [row for kind, row in result.coverage.records.items() if not kind.startswith("block")]
    total = sum(n for row in records for n in row.values())
    assert total == len(log.lines)  # every record has one fate


def test_claude_compaction(tmp_path):
    log = Claude()
    log.user("Long work")
    log.call("Bash", "t1", cmd="make")
    log.add("system", subtype="compact_boundary", parent=None, logicalParentUuid=log.last)
    log.user("This session is being continued from a previous conversation. Summary: …", isCompactSummary=True)
    log.call("Bash", "t2", cmd="test")
    log.say("All done.")
    log.write(tmp_path / "c")
    [row], result = claude(tmp_path)
    assert row["instruction"] == "Long work" and row["output"] == "All done."
    assert row["_metadata"]["compacted"] and row["_metadata"]["tool_calls"] == 2
    assert "continued from" not in json.dumps(row)
    assert result.coverage.records["system/compact_boundary"] == {"context": 1}


def test_claude_rewind_is_a_pair_and_never_gold(tmp_path):
    log = Claude()
    log.user("Hello")
    fork = log.say("Hi")
    log.user("Write it in Perl")
    log.say("print 1;")
    log.user("Write it in Python", parent=fork)
    log.say("print(1)")
    log.write(tmp_path / "c")
    found, _ = claude(tmp_path)
    assert [r["output"] for r in found] == ["Hi", "print(1)"]
    whole, _ = claude(tmp_path, view="trajectory")
    assert "print 1;" not in json.dumps(whole)
    [pair], _ = claude(tmp_path, view="preference")
    assert pair["prompt"] == [{"role": "user", "content": "Write it in Python"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "print(1)"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "print 1;"}]
    assert pair["_metadata"]["same_ask"] is False


@pytest.mark.parametrize(("second", "gold"), [
    ("Write the parser in Python please", ["print(1)"]), ("How is the weather?", ["print 1;", "print(1)"]),
])  # fmt: skip
def test_claude_rewind_to_the_first_ask(tmp_path, second, gold):
    log = Claude()
    log.user("Write the parser in Perl please")
    log.say("print 1;")
    log.user(second, parent=None)
    log.say("print(1)")
    log.write(tmp_path / "c")
    found, _ = claude(tmp_path)
    assert [r["output"] for r in found] == gold


def test_claude_queued_message_is_no_rewind(tmp_path):
    """A message typed while the agent works hangs at an older line, and the work beside it goes on."""
    log = Claude()
    ask = log.user("Do A")
    log.call("Bash", "t1", cmd="a")
    kept = log.last
    log.user("and B", parent=ask)
    log.last = kept
    log.call("Bash", "t2", cmd="b")
    log.say("Both done.")
    log.write(tmp_path / "c")
    found, _ = claude(tmp_path)
    assert [(r["instruction"], r["output"]) for r in found] == [("and B", "Both done.")]


def test_claude_subagents(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    log.user("Side prompt", isSidechain=True, parent=None)
    log.say("Side answer", isSidechain=True)
    log.write(tmp_path / "c")
    side = Claude("s1", start=50)
    side.user("Find files", isSidechain=True, agentId="ab12", parent=None)
    side.say("Two files.", isSidechain=True, agentId="ab12")
    folder = tmp_path / "c/projects/-home-jane-p/s1/subagents"
    write(folder / "agent-ab12.jsonl", side.lines)
    write(folder / "agent-acompact-9.jsonl", side.lines)
    write(folder / "journal.jsonl", [{"x": 1}])
    found, result = claude(tmp_path)
    assert [r["instruction"] for r in found] == ["Ask"]
    assert result.coverage.left_out == {"sub-agent": 2}
    assert result.coverage.files == {"session": 1, "sub-agent": 1, "journal (no transcript)": 1,
                                     "compaction by a sub-agent (no transcript)": 1}  # fmt: skip
    found, _ = claude(tmp_path, sidechains=True)
    assert {(r["instruction"], r["_metadata"].get("parent_session")) for r in found} == {
        ("Ask", None), ("Side prompt", "s1"), ("Find files", "s1")}  # fmt: skip


def test_claude_tool_view(tmp_path):
    log = Claude()
    log.user("Ask")
    log.call("Read", "t1", result="text", path="a")
    log.call("Edit", "t2", result=None, path="a")
    log.user([{"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True}])
    log.say("Done")
    log.write(tmp_path / "c")
    [row], result = claude(tmp_path, view="tools")
    assert row["messages"][0] == {"role": "user", "content": "Ask"}
    call = row["messages"][-1]["tool_calls"][0]
    assert call == {"id": "t1", "type": "function", "function": {"name": "Read", "arguments": '{"path": "a"}'}}
    assert result.coverage.left_out == {"call: error": 1}
    [whole], _ = claude(tmp_path, view="trajectory")
    assert [m["role"] for m in whole["messages"]] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]


def test_limit_views_and_options(tmp_path):
    make_claude_logs(tmp_path / "c", sessions=3, megabytes=0.1)
    everything, result = claude(tmp_path)
    assert result.total == len(everything) > 6
    some, result = claude(tmp_path, limit=4)
    assert some == everything[:4] and result.coverage.left_out["beyond --limit"] == len(everything) - 4
    with pytest.raises(UsageError, match="no view 'x'"):
        claude(tmp_path, view="x")
    with pytest.raises(UsageError, match="no option 'limits'"):
        claude(tmp_path, limits=3)
    scored, result = claude(tmp_path, require_quality=True, min_quality_score=0.6)
    assert all(r["quality_score"] >= 0.6 for r in scored)
    assert len(scored) + result.report.counts.filtered == len(everything)


def test_no_data_is_an_error(tmp_path):
    (tmp_path / "c").mkdir()
    for function in (export_claude_to_jsonl, export_codex_to_jsonl, export_gemini_to_jsonl):
        with pytest.raises(StepError, match="no data found"):
            function(tmp_path / "out.jsonl", [tmp_path / "c"])
        with pytest.raises(StepError, match="does not exist"):
            function(tmp_path / "out.jsonl", [tmp_path / "none"])
    log = Claude()
    log.user("<command-name>/x</command-name>")
    log.write(tmp_path / "c")
    with pytest.raises(StepError, match="not one row"):
        claude(tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_default_roots(tmp_path, monkeypatch):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    log.write(tmp_path / "user" / ".claude")
    assert export_claude_to_jsonl("~/out.jsonl").total == 1
    assert (tmp_path / "user/out.jsonl").exists()
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "other"))
    with pytest.raises(StepError, match="no data"):
        export_claude_to_jsonl("~/out2.jsonl")
    assert export_claude_to_jsonl("~/out2.jsonl", scan_roots=["~/"]).total == 1


# --- what must hold for any log ---


def made_logs(root, names=None):
    """Logs with secrets, a resume, a rewind, a bad line and a cut end."""
    make_claude_logs(root, sessions=6, megabytes=0.3, seed=3)
    first = sorted(root.rglob("*.jsonl"))[0]
    lines = first.read_text().splitlines()
    extra = Claude("zz", start=100)
    extra.user(f"Mail {EMAIL} and bob@example.org", parent=json.loads(lines[-1])["uuid"])
    extra.say("Sent to bob@example.org")
    write(first.parent / "zz.jsonl", [*lines, "{broken bob@example.org", *extra.lines, '{"type":"user","mess'], end="")


def test_idempotent_and_independent_of_file_names(tmp_path):
    outputs = []
    for n in range(3):
        root = tmp_path / f"r{n}"
        made_logs(root)
        files = sorted(root.rglob("*.jsonl"))
        for at, path in enumerate(files if n < 2 else reversed(files)):
            if n:  # other names and other folders; the session ids are in the lines
                target = root / "projects" / f"p{at % 2}" / f"{n}{at:03}.jsonl"
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
        out = tmp_path / f"o{n}.jsonl"
        result = export_claude_to_jsonl(out, [root])
        found = rows(out)
        for row in found:
            del row["_metadata"]["log"]
        outputs.append(sorted(json.dumps(row) for row in found))
        assert result.coverage.total("bad") == 2
        before = out.read_bytes()
        assert export_claude_to_jsonl(out, [root]).report.current and out.read_bytes() == before
    assert outputs[0] == outputs[1] == outputs[2]


def test_redaction_commutes_with_export(tmp_path):
    made_logs(tmp_path / "raw")
    for path in sorted((tmp_path / "raw").rglob("*.jsonl")):
        redact_jsonl(path, tmp_path / "clean" / path.relative_to(tmp_path / "raw"))
    for found in (tmp_path / "clean").rglob("*.quarantine.jsonl"):
        found.unlink()
    for view in ("turns", "trajectory", "tools"):
        first = export_claude_to_jsonl(tmp_path / f"a-{view}.jsonl", [tmp_path / "raw"], view=view)
        export_claude_to_jsonl(tmp_path / f"b-{view}.jsonl", [tmp_path / "clean"], view=view, redact=False)
        one, two = rows(tmp_path / f"a-{view}.jsonl"), rows(tmp_path / f"b-{view}.jsonl")
        for row in one + two:
            # The folder's name, which only the export redacts; lines, as the bad one is not in the redacted file.
            for key in ("log", "line", "last_line"):
                row["_metadata"].pop(key, None)
        assert one == two
        assert first.redaction.replaced["EMAIL"]
    text = (tmp_path / "a-turns.jsonl").read_text() + (tmp_path / "a-turns.quarantine.jsonl").read_text()
    assert "jane" not in text and "bob@" not in text and "<EMAIL:" in text


def test_no_redact(tmp_path):
    log = Claude()
    log.user(f"Mail {EMAIL}")
    log.say("Sent")
    log.write(tmp_path / "c")
    [row], result = claude(tmp_path, redact=False)
    assert row["instruction"] == f"Mail {EMAIL}" and result.redaction is None


def test_bad_input_is_named_and_never_fatal(tmp_path):
    root = tmp_path / "c/projects/p"
    log = Claude()
    log.user("Ask \ud83d half")
    log.say("Answer")
    path = log.write(tmp_path / "c", "p")
    with open(path, "ab") as out:
        out.write(b'{"a": "caf\xe9"}\n[1]\n' + b'{"x":"' + b"y" * 70_000 + b'"}\n{"type": "user", "mess')
    (root / "binary.jsonl").write_bytes(b"\0\1\2" * 100)
    (root / "secret.jsonl").write_text("{}\n")
    os.chmod(root / "secret.jsonl", 0)
    (tmp_path / "outside.jsonl").write_text('{"type":"user"}\n')
    (root / "escape.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (root / "escape").symlink_to(tmp_path)
    (root / "loop").symlink_to(root.parent)
    (root / "self").symlink_to(root / "self")
    (root / "dangling.jsonl").symlink_to(root / "nowhere")
    (root / "packed.jsonl.zst").write_bytes(zstandard.compress(os.urandom(9000))[:4000])
    found, result = claude(tmp_path, max_line=65_536)
    os.chmod(root / "secret.jsonl", 0o600)
    assert [r["output"] for r in found] == ["Answer"] and found[0]["instruction"] == "Ask \ufffd half"
    named = {Path(p["path"]).name: p["reason"] for p in result.problems}
    expected = {"binary.jsonl": "binary", "escape.jsonl": "out of the root", "escape": "out of the root",
                "loop": "loop", "self": "loop", "dangling.jsonl": "nowhere", "packed.jsonl.zst": "stopped"}  # fmt: skip
    if os.geteuid():
        expected["secret.jsonl"] = "cannot be read"
    for name, word in expected.items():
        assert word in named[name], (name, named)
    bad = rows(tmp_path / "out/claude.quarantine.jsonl")
    reasons = [b["reason"] for b in bad]
    assert "UTF-8" in reasons[0] and "not an object" in reasons[1] and "over-long" in reasons[2]
    assert "still being written" in reasons[3] and [b["line"] for b in bad] == [3, 4, 5, 6]
    assert result.coverage.records["(line)"] == {"bad": 4}
    assert result.report.counts.quarantined == 4


@pytest.mark.slow
def test_line_of_100_megabytes(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    path = log.write(tmp_path / "c")
    with open(path, "ab") as out:
        out.write(b'{"type":"user","big":"')
        for _ in range(100):
            out.write(b"z" * 1_000_000)
        out.write(b'"}\n')
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, result = claude(tmp_path)
    assert len(found) == 1 and result.coverage.records["(line)"] == {"bad": 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.slow
def test_claude_speed(tmp_path):
    """145 MB in 1,000 sessions, with redaction: at most 9 CPU-seconds (contracts D6)."""
    import time

    made = make_claude_logs(tmp_path / "c", sessions=250, megabytes=36.25)
    start = time.process_time()
    export_claude_to_jsonl(tmp_path / "out.jsonl", [tmp_path / "c"])
    assert (time.process_time() - start) / made < 9 / 145e6


# --- Codex ------------------------------------------------------------------------------------------------------------


def item(kind, **more):
    return {"timestamp": "2026-02-01T10:00:00Z", "type": "response_item", "payload": {"type": kind, **more}}


def said(role, text):
    return item("message", role=role, content=[{"type": "output_text" if role == "assistant" else "input_text",
                                                "text": text}])  # fmt: skip


def event(kind, **more):
    return {"timestamp": "2026-02-01T10:00:00Z", "type": "event_msg", "payload": {"type": kind, **more}}


def meta(session, **more):
    return {"timestamp": "2026-02-01T10:00:00Z", "type": "session_meta",
            "payload": {"id": session, "cwd": "/home/jane/p", "cli_version": "0.1", **more}}  # fmt: skip


TURN = [
    {"timestamp": "t", "type": "turn_context", "payload": {"model": "gpt-x", "cwd": "/home/jane/p"}},
    said("developer", "Be brief."),
    said("user", "<environment_context>\n<cwd>/home/jane/p</cwd>\n</environment_context>"),
    said("user", "# AGENTS.md instructions for /home/jane/p"),
    said("user", f"List the files, mail {EMAIL}"),
    event("user_message", message="List the files"),
    item("reasoning", summary=[{"type": "summary_text", "text": "I list them"}], encrypted_content="gAAA"),
    said("assistant", "I'll list them."),
    item("function_call", name="shell", call_id="c1", arguments='{"command": ["ls"]}'),
    item("function_call_output", call_id="c1", output='{"output": "README.md\\n", "metadata": {"exit_code": 0}}'),
    item("custom_tool_call", name="apply_patch", call_id="c2", input="*** Begin Patch"),
    item("custom_tool_call_output", call_id="c2", output='{"output": "failed", "metadata": {"exit_code": 1}}'),
    item("local_shell_call", call_id="c3", status="completed", action={"type": "exec", "command": ["pwd"]}),
    item("function_call_output", call_id="c3", output=[{"type": "input_text", "text": "/tmp"}]),
    event("token_count", info={}),
    said("assistant", "There is README.md."),
    event("agent_message", message="There is README.md."),
]


def codex(tmp_path, **options):
    out = tmp_path / "out" / "codex.jsonl"
    result = export_codex_to_jsonl(out, [tmp_path / "x"], **options)
    return rows(out), result


def rollout(tmp_path, name, lines, folder="sessions/2026/02/01", pack=False):
    path = write(tmp_path / "x" / folder / f"rollout-2026-02-01T{name}.jsonl", lines)
    if pack:
        path.with_name(path.name + ".zst").write_bytes(zstandard.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("pack", [False, True])
def test_codex_turn(tmp_path, pack):
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN, {"timestamp": "t", "type": "new_thing", "payload": {}}],
            pack=pack)  # fmt: skip
    [row], result = codex(tmp_path)
    assert row["instruction"] == "List the files, mail <EMAIL:1>" and row["output"] == "There is README.md."
    assert row["input"] == (
        "[assistant] I'll list them.\n[call shell] {\"command\": [\"ls\"]}\n[result] README.md\n\n"
        "[call apply_patch] *** Begin Patch\n[error] failed\n"
        "[call shell] {\"type\": \"exec\", \"command\": [\"pwd\"]}\n[result] /tmp")  # fmt: skip
    assert row["teacher_model"] == "gpt-x" and row["_metadata"]["tool_errors"] == 1 and row["thinking"] is None
    assert result.coverage.records["event_msg/user_message"] == {"duplicate": 1}
    assert result.coverage.records["new_thing"] == {"unknown": 1}
    assert sum(n for r in result.coverage.records.values() for n in r.values()) == len(TURN) + 2
    [row], _ = codex(tmp_path, thoughts=True)
    assert row["thinking"] == "I list them"
    [whole], _ = codex(tmp_path, view="trajectory", system=True)
    roles = [m["role"] for m in whole["messages"]]
    assert roles == ["system", "user", "assistant", "assistant", "tool", "assistant", "tool", "assistant", "tool",
                     "assistant"]  # fmt: skip


def test_codex_fork_rollback_abort_and_compaction(tmp_path):
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN])
    more = [said("user", "Make it red"), said("assistant", "Red now."), event("thread_rolled_back", num_turns=1),
            said("user", "Make it blue"), said("assistant", "Blue now."),
            {"timestamp": "t", "type": "compacted", "payload": {"message": "Summary", "replacement_history": []}},
            said("user", "Go on"), said("assistant", "I go"), event("turn_aborted", reason="interrupted"),
            said("user", "<turn_aborted>by the user</turn_aborted>"), said("user", "Last"),
            item("web_search_call", status="completed", action={"q": "q"}), said("assistant", "The end.")]  # fmt: skip
    # The fork's own first line holds an address more, so that its placeholders have other numbers.
    fork = [meta("s2", forked_from_id="s1", originator="x@example.org"), meta("s1"), *TURN, *more]
    rollout(tmp_path, "11-00-00-bbbb", fork, "archived_sessions")
    found, result = codex(tmp_path)
    assert [r["output"] for r in found] == ["There is README.md.", "Blue now.", "The end."]
    assert [r["_metadata"]["session_id"] for r in found] == ["s1", "s2", "s2"]
    assert result.report.counts.duplicates == 1 and result.coverage.left_out["turn: interrupt"] == 1
    [pair], _ = codex(tmp_path, view="preference")
    assert pair["rejected"][0]["content"] == "Red now." and pair["chosen"][0]["content"] == "Blue now."


def test_codex_subagent_and_copies(tmp_path):
    spawn = {"subagent": {"thread_spawn": {"parent_thread_id": "s1"}}}
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN])
    rollout(tmp_path, "10-30-00-cccc", [meta("s3", source=spawn), said("user", "Sub"), said("assistant", "Done")])
    rollout(tmp_path, "10-00-00-aaaa", [meta("s1"), *TURN], "archived_sessions", pack=True)
    found, result = codex(tmp_path)
    assert len(found) == 1 and result.coverage.files == {"session": 2, "other copy of a session": 1}
    assert result.coverage.left_out == {"sub-agent": 1}


# --- Gemini -----------------------------------------------------------------------------------------------------------


def gemini(tmp_path, **options):
    out = tmp_path / "out" / "gemini.jsonl"
    result = export_gemini_to_jsonl(out, [tmp_path / "g"], **options)
    return rows(out), result


TOOL = {"id": "g2", "type": "gemini", "content": "", "model": "gem", "thoughts": [{"subject": "S", "description": "D"}],
        "toolCalls": [{"id": "k1", "name": "read_file", "args": {"path": "/home/jane/README"}, "status": "success",
                       "result": [{"functionResponse": {"response": {"output": "README text"}}}]}]}  # fmt: skip


def test_gemini_append_log(tmp_path):
    chats = tmp_path / "g/tmp/abc/chats"
    write(chats / "session-2026-01-01-aa.jsonl", [
        {"sessionId": "q1", "projectHash": "abc", "startTime": "t", "kind": "main"},
        {"id": "u0", "type": "user", "content": [{"text": "<session_context>\ntree"}]},
        {"id": "u1", "type": "user", "content": [{"text": "Which licence? "}, {"text": EMAIL}]},
        {"id": "g2", "type": "gemini", "content": "", "toolCalls": []},
        TOOL,
        {"id": "g3", "type": "gemini", "content": "Apach", "model": "gem"},
        {"id": "g3", "type": "gemini", "content": "It is MIT.", "model": "gem"},
        {"id": "u4", "type": "user", "content": "Say it in French"},
        {"id": "g5", "type": "gemini", "content": "C'est MIT.", "model": "gem"},
        {"$rewindTo": "u4"},
        {"$set": {"lastUpdated": "t2"}},
        {"id": "u6", "type": "user", "content": "Say it in German"},
        {"id": "i7", "type": "info", "content": "Update available"},
        {"id": "g8", "type": "gemini", "content": "Es ist MIT.", "model": "gem"},
        {"id": "u9", "type": "user", "content": "More"},
        {"id": "e1", "type": "error", "content": "quota"},
        {"odd": 1},
    ])  # fmt: skip
    write(chats / "session-2026-01-01-aa.json", [{"sessionId": "q1", "messages": []}])
    found, result = gemini(tmp_path)
    assert [(r["instruction"], r["output"]) for r in found] == [
        ("Which licence? <EMAIL:1>", "It is MIT."), ("Say it in German", "Es ist MIT.")]  # fmt: skip
    assert "README text" in found[0]["input"] and "<HOME:1>/README" in found[0]["input"] and not found[0]["thinking"]
    assert result.coverage.records["keys odd"] == {"unknown": 1}
    assert result.coverage.records["gemini (rewritten)"] == {"duplicate": 2}
    assert result.coverage.left_out == {"turn: error": 1}
    assert result.coverage.files == {"session": 1, "older copy of a session": 1}
    found, _ = gemini(tmp_path, thoughts=True)
    assert found[0]["thinking"] == "S\nD"
    [pair], _ = gemini(tmp_path, view="preference")
    assert pair["rejected"][0]["content"] == "C'est MIT." and pair["chosen"][0]["content"] == "Es ist MIT."


def test_gemini_older_file_set_messages_and_subagent(tmp_path):
    chats = tmp_path / "g/tmp/abc/chats"
    old = {"sessionId": "q2", "messages": [{"id": "1", "type": "user", "content": "Old ask"},
                                           {"id": "2", "type": "gemini", "content": "Old answer"}]}  # fmt: skip
    write(chats / "session-2025-01-01-bb.json", [old])
    write(chats / "session-2026-01-02-cc.jsonl", [
        {"sessionId": "q3"}, {"id": "x", "type": "user", "content": "gone"},
        {"$set": {"messages": [{"id": "1", "type": "user", "content": "Set ask"},
                               {"id": "2", "type": "gemini", "content": "Set answer"}]}},
        {"$rewindTo": "unknown-id"}, {"id": "5", "type": "user", "content": "Anew"},
        {"id": "6", "type": "gemini", "content": "New answer"}])  # fmt: skip
    write(chats / "q3/sub1.jsonl", [{"sessionId": "sub1"}, {"id": "1", "type": "user", "content": "Sub"},
                                    {"id": "2", "type": "gemini", "content": "Sub answer"}])  # fmt: skip
    write(chats / "session-2026-01-03-dd.json", ["{broken"])
    found, result = gemini(tmp_path)
    assert [r["output"] for r in found] == ["Old answer", "New answer"]
    assert result.coverage.left_out == {"sub-agent": 1} and "no JSON" in result.problems[0]["reason"]


# --- anything at all ---

GEMINI = [{"sessionId": "q1"}, {"id": "u", "type": "user", "content": [{"text": "Ask"}]}, TOOL,
          {"id": "g3", "type": "gemini", "content": "Answer"}, {"$set": {"messages": [TOOL]}},
          {"$rewindTo": "u"}]  # fmt: skip
ODD = st.sampled_from([None, 5, "text", [], {}, [1], ["a"], {"a": 1}, True, 1.5, [None], {"type": 3}, [[]]])


def spoil(value, data):
    """The record with one of its values, at any depth, replaced by one of another type."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: spoil(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoil(value[at], data), *value[at + 1 :]]
    return data.draw(ODD)


@settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_spoilt_records_are_counted_and_never_fatal(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("spoilt")
    log = Claude()
    log.user("Keep")
    log.say("Kept")
    log.user([{"type": "text", "text": "Ask"}, {"type": "image"}])
    log.call("Bash", "t1", result=[{"type": "text", "text": "x"}], cmd="ls")
    log.add("system", subtype="compact_boundary", parent=None, logicalParentUuid=log.last)
    log.say("Answer")
    kind = data.draw(st.sampled_from(["claude", "codex", "gemini"]))
    lines = {"claude": log.lines, "codex": [meta("s1"), *TURN], "gemini": GEMINI}[kind]
    lines = [dict(line) for line in lines]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = spoil(lines[at], data) if isinstance(lines[at], dict) else lines[at]
    if data.draw(st.booleans()):
        lines = data.draw(st.permutations(lines))
    name = {"claude": "projects/p/s1.jsonl", "codex": "sessions/rollout-1-a.jsonl", "gemini": "tmp/a/session-1.jsonl"}
    write(folder / "r" / name[kind], lines, end=data.draw(st.sampled_from(["\n", "", '\n{"type": "us'])))
    functions = {"claude": export_claude_to_jsonl, "codex": export_codex_to_jsonl, "gemini": export_gemini_to_jsonl}
    function = functions[kind]
    for view in ("turns", "trajectory", "tools", "preference"):
        try:
            result = function(folder / f"{view}.jsonl", [folder / "r"], view=view, sidechains=True)
        except StepError as error:
            assert "not one row" in str(error)
        else:
            result.report.counts.check()
            for row in rows(folder / f"{view}.jsonl"):
                assert view != "turns" or (isinstance(row["instruction"], str) and isinstance(row["output"], str))


# --- Antigravity ---


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def state(path, tasks, key="antigravityUnifiedStateSync.trajectorySummaries"):
    import base64

    path.parent.mkdir(parents=True, exist_ok=True)
    packed = b"".join(field(1, field(2, base64.b64encode(field(3, json.dumps(t, ensure_ascii=False).encode()))))
                      for t in tasks) + varint(4 << 3) + varint(300)  # fmt: skip
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE ItemTable (key TEXT UNIQUE, value BLOB)")
    base.execute("INSERT INTO ItemTable VALUES (?, ?)", (key, base64.b64encode(packed).decode()))
    base.commit()
    return base


def test_antigravity(tmp_path, monkeypatch):
    notes = tmp_path / "user/notes.md"
    write(notes, [f"Grüße an {EMAIL}"])
    task = {"TaskName": "Übersetze „Grüße“", "TaskSummary": f"Fertig für {EMAIL} ✓", "TaskStatus": "%SAME%",
            "Mode": "x", "PathsToReview": [str(notes), "/etc/passwd", "~no-such-user/a", "a\0b",
                                       str(tmp_path / "user/loop")]}  # fmt: skip
    (tmp_path / "user/loop").symlink_to("loop")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user/.config"))
    path = tmp_path / "user/.config/Antigravity/User/globalStorage/state.vscdb"
    state(path, [task, task, {"TaskName": "No outcome"}]).close()
    before = path.read_bytes()
    result = export_antigravity_to_jsonl(tmp_path / "a.jsonl", include_paths_content=True)
    [row] = rows(tmp_path / "a.jsonl")
    assert row["instruction"] == "Übersetze „Grüße“" and row["output"] == "Fertig für <EMAIL:1> ✓"
    assert row["input"] == "[file notes.md]\nGrüße an <EMAIL:1>\n" and row["_metadata"]["antigravity"]["Mode"] == "x"
    assert result.coverage.records["task"] == {"used": 1, "duplicate": 1, "skipped": 1}
    assert path.read_bytes() == before and sorted(p.name for p in path.parent.iterdir()) == ["state.vscdb"]
    assert {p["path"] for p in result.problems} >= {"~no-such-user/a", "a\\0b"}
    assert export_antigravity_to_jsonl(tmp_path / "d.jsonl", path).total == 1


def test_antigravity_value_nested_without_end(tmp_path):
    state(tmp_path / "state.vscdb", [{"TaskName": "a", "TaskSummary": "b"}]).close()
    base = sqlite3.connect(tmp_path / "state.vscdb")
    base.execute("INSERT INTO ItemTable VALUES (?, ?)", ("deep", '{"a":' * 100_000))
    base.commit()
    base.close()
    result = export_antigravity_to_jsonl(tmp_path / "a.jsonl", tmp_path / "state.vscdb", state_keys=["deep",
                                         "antigravityUnifiedStateSync.trajectorySummaries"])  # fmt: skip
    assert result.total == 1 and result.report.counts.quarantined == 1


def test_gemini_session_with_half_an_emoji(tmp_path):
    said = [{"id": "1", "type": "user", "content": "Cut here: @@"}, {"id": "2", "type": "gemini", "content": "Yes"}]
    session = json.dumps({"sessionId": "q1", "messages": said})
    write(tmp_path / "g/tmp/x/chats/session-1.json", [session.replace("@@", "\\ud83d")])
    assert export_gemini_to_jsonl(tmp_path / "g.jsonl", [tmp_path / "g"]).total == 1
    assert rows(tmp_path / "g.jsonl")[0]["instruction"] == "Cut here: \ufffd"


def test_antigravity_locked_or_no_database(tmp_path):
    base = state(tmp_path / "state.vscdb", [{"TaskName": "a", "TaskSummary": "b"}])
    base.execute("PRAGMA locking_mode=EXCLUSIVE")
    base.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StepError, match="locked"):
        export_antigravity_to_jsonl(tmp_path / "a.jsonl", tmp_path / "state.vscdb")
    base.close()
    (tmp_path / "text.vscdb").write_text("hello, this is no database at all, not even nearly one")
    with pytest.raises(StepError, match="not a database"):
        export_antigravity_to_jsonl(tmp_path / "a.jsonl", tmp_path / "text.vscdb")
    with pytest.raises(StepError, match="no data found"):
        export_antigravity_to_jsonl(tmp_path / "a.jsonl", tmp_path / "none.vscdb")


def test_pipes_deep_folders_and_links_are_named(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    log.write(tmp_path / "c", name="../p/real.log")
    folder = tmp_path / "c/projects/p"
    (folder / "real.log.jsonl").rename(folder / "real.log")
    (folder / "s1.jsonl").symlink_to("real.log")  # wanted by its own name only
    os.mkfifo(folder / "pipe.jsonl")  # reading it would wait for ever
    (folder / "link.jsonl").symlink_to("pipe.jsonl")
    deep = folder / "/".join("abcdefghijklmn")
    log.write(tmp_path / "c", slug=str(deep.relative_to(tmp_path / "c/projects")))
    [row], result = claude(tmp_path)
    assert row["instruction"] == "Ask" and row["_metadata"]["log"] == "p/s1.jsonl"
    found = {Path(p["path"]).name: p["reason"] for p in result.problems}
    assert set(found) == {"pipe.jsonl", "link.jsonl", "l"}
    assert "pipe" in found["pipe.jsonl"] and "12 folders deep" in found["l"]


def test_two_sessions_that_say_the_same_are_one_row(tmp_path):
    for name in ("a", "b"):
        log = Claude(name)
        log.user("hi")
        log.say("Hi! How can I help?")
        log.write(tmp_path / "c")
    [row], result = claude(tmp_path)
    assert result.report.counts.duplicates == 1 and "says the same" in result.summary()
    assert validate_jsonl(tmp_path / "out/claude.jsonl").ok


def test_every_view_is_valid(tmp_path):
    log = Claude()
    log.user("List the files")
    log.call("Bash", "t1", cmd="ls")  # a call without a word of speech
    log.say("There are none.")
    log.write(tmp_path / "c")
    for view in ("turns", "trajectory", "tools"):
        claude(tmp_path, view=view)
        found = validate_jsonl(tmp_path / "out/claude.jsonl")
        assert found.ok, found.summary()


def test_a_secret_cut_by_the_limit_does_not_stay_in_the_quarantine(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    head = '{"type":"user","big":"'
    log.lines.append(head + "z " * ((4096 - len(head) - 16) // 2) + "gh" + "p_" + "aB3d" * 9 + " z" * 4000 + '"}')
    log.write(tmp_path / "c")
    _, result = claude(tmp_path, max_line=5000)
    kept = (tmp_path / "out/claude.quarantine.jsonl").read_text()
    assert result.report.counts.quarantined == 1 and "over-long" in kept and "z z z" in kept
    assert "aB3d" not in kept


def test_a_renamed_log_is_exported_anew(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    path = log.write(tmp_path / "c", slug="p")
    claude(tmp_path)
    assert claude(tmp_path)[1].report.current
    path.rename(path.with_name("other.jsonl"))
    [row], result = claude(tmp_path)
    assert row["_metadata"]["log"] == "p/other.jsonl" and not result.report.current


def test_a_threshold_asks_for_the_filter_and_a_limit_is_checked(tmp_path, capsys):
    log = Claude()
    log.user("hi")
    log.say("yes")
    log.user("Explain the loop")
    log.say("The loop runs over all files, reads each of them line by line, and counts what it finds there. " * 4)
    log.write(tmp_path / "c")
    command = ["training", "claude-export", "--root", str(tmp_path / "c"), "--output", str(tmp_path / "o.jsonl")]
    assert main([*command, "--min-quality-score", "0.5"]) == 0
    assert [r["instruction"] for r in rows(tmp_path / "o.jsonl")] == ["Explain the loop"]
    assert main([*command, "--no-require-quality", "--min-quality-score", "0.5"]) == 0
    assert len(rows(tmp_path / "o.jsonl")) == 2
    assert main([*command, "--limit", "0"]) == 2 and "--limit 0" in capsys.readouterr().err


def test_names_of_files_that_become_ids_are_redacted(tmp_path):
    log = Claude()
    log.user("Ask")
    log.say("Answer")
    for line in log.lines:
        del line["sessionId"]
    log.write(tmp_path / "c", name=EMAIL)
    [row], _ = claude(tmp_path)
    assert row["_metadata"]["session_id"] == "<EMAIL:1>"
    write(tmp_path / f"x/sessions/rollout-{EMAIL}.jsonl", [
        {"type": "response_item", "payload": {"type": "message", "role": role, "content": [{"text": role}]}}
        for role in ("user", "assistant")])  # fmt: skip
    export_codex_to_jsonl(tmp_path / "x.jsonl", [tmp_path / "x"])
    said = [{"id": "1", "type": "user", "content": "Ask"}, {"id": "2", "type": "gemini", "content": "Yes"}]
    write(tmp_path / f"g/tmp/p/chats/session-{EMAIL}.json", [json.dumps({"messages": said})])
    export_gemini_to_jsonl(tmp_path / "g.jsonl", [tmp_path / "g"])
    for name in ("x.jsonl", "g.jsonl"):
        assert b"jane" not in (tmp_path / name).read_bytes() and len(rows(tmp_path / name)) == 1


@pytest.mark.parametrize("depth", [300, 1010])
def test_nesting_deeper_than_can_be_written_is_counted(depth, tmp_path):
    log = Claude()
    log.user("Ask")
    log.block({"type": "tool_use", "id": "t1", "name": "X", "input": "@@"})
    log.result("t1", "r")
    log.say("Answer")
    path = log.write(tmp_path / "c")
    nested = "[" * depth + "]" * depth
    path.write_text(path.read_text().replace('"@@"', nested))
    for view in ("turns", "trajectory", "tools"):
        assert claude(tmp_path, view=view)[1].total == 1
    good = '{"type":"model","payload":{"prompt":"p","response":"r"},"instruction":"q","output":"a"}'
    tool = f'{{"type":"tool","op":"x","payload":{{"input":{nested},"output":"b"}}}}'
    write(tmp_path / "h/events_1.jsonl", [tool, good])
    result = export_history_to_jsonl(tmp_path / "h.jsonl", tmp_path / "h", include_tools=True)
    assert result.total == (2 if depth < 900 else 1) and result.report.counts.quarantined == (depth > 900)
    write(tmp_path / "m/m.jsonl", [f'{{"instruction":"a","output":"b","_metadata":{{"x":{nested}}}}}', good])
    result = export_memory_to_jsonl(tmp_path / "m.jsonl", tmp_path / "m")
    assert result.total == 1 and result.report.counts.filtered == 1 and "cannot be written" in result.summary()


def test_codex_arguments_with_half_an_emoji(tmp_path):
    def item(**payload):
        return {"type": "response_item", "payload": payload}

    write(tmp_path / "x/sessions/rollout-1.jsonl", [
        item(type="message", role="user", content=[{"text": "Ask"}]),
        item(type="function_call", name="shell", call_id="k",
             arguments='{"cmd": "\\ud83d", "n": 123456789012345678901}'),
        item(type="function_call_output", call_id="k", output='{"output": "cut \\udc00", "metadata": {}}'),
        item(type="message", role="assistant", content=[{"text": "Answer"}])])  # fmt: skip
    result = export_codex_to_jsonl(tmp_path / "x.jsonl", [tmp_path / "x"])
    [row] = rows(tmp_path / "x.jsonl")
    assert "\ufffd" in row["input"] and "[result] cut \ufffd" in row["input"]
    assert "123456789012345678901" in row["input"] and not result.coverage.left_out
