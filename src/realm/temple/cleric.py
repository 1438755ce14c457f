"""The Cleric: the gate that every training row passes, and the report of what happened to each (realm-rules §9).

Two levels. QUICK: every line parses, has a known format, sound roles and texts that are not empty. STANDARD, with the
hero's own tokenizer: the row also renders to token ids and loss mask within the hero's length, exactly as the battle
will do it. At both levels problems of a skill's trial or probe split are taken out of any file, and exact duplicates.

Each row ends in exactly one of out / filtered / duplicate / quarantined; the counts balance or nothing is written.
Rows that need no change are copied byte for byte. Memory is flat: about 45 bytes per row for hashes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from afs.jsonl import AtomicWriter, BadRow, Counts, Quarantine, Row, file_sha256, read_rows
from afs.training.converters import ConversionError, detect, to_messages
from realm import schools
from realm.guild.skills import Skill, SkillError, all_skills, get_skill
from realm.heroes.chat import RenderError
from realm.quests import origin as origins
from realm.quests.sparring import is_sparring
from realm.temple.hashset import HashSet
from realm.temple.heldout import held_out, readings
from realm.temple.tokens import TokenCounter

log = logging.getLogger("realm.cleric")

MAX_LINE = 8 * 1024 * 1024
EXAMPLES = 3  # per reason in the report; the quarantine file holds all
REFUSE_BAD_SHARE = 0.5
WARN_DUPLICATES = 0.2
WARN_ONE_ANSWER = 0.5
SKILL_SHARE = 0.9  # of rows that are problems of one skill: the file is a skill quest
PROBE_SHARE, PROBE_MIN, PROBE_MAX = 0.05, 20, 200
PROBE_MIN_FILE = 100  # rows; a smaller file is not cut, its blessing stays "unproven"
GROUP_KEYS = ("group", "session_id", "conversation_id")


class GateError(RuntimeError):
    """Rows that came from inside (a skill) and do not pass the gate: a bug, never something to train on."""


def check_roles(messages: Any, empty_prompt: bool = False) -> str | None:
    """What is wrong with the messages of a chat row, or None.

    Args:
        empty_prompt: a user turn may be empty (plain text has no question).
    """
    if not messages:
        return "no messages: a row needs a user and an assistant turn"
    roles = [m["role"] for m in messages]
    if "assistant" not in roles:
        return "no assistant turn: there is nothing to train on"
    if roles[-1] != "assistant":
        return f"the last turn is from {roles[-1]}: it must be the assistant's answer"
    if "system" in roles[1:]:
        return "a system turn that is not the first"
    speech = roles[1:] if roles[0] == "system" else roles
    if speech[0] != "user":
        return "the assistant speaks before the user: there is no prompt"
    for before, after in zip(speech, speech[1:], strict=False):
        if before == after:
            return f"two {after} turns in a row: join them"
    for number, message in enumerate(messages, 1):
        if not message["content"].strip() and not (empty_prompt and message["role"] == "user"):
            return f"turn {number} ({message['role']}) is empty"
    return None


@dataclass
class _Findings:
    """Reasons with their fate, count and first examples."""

    reasons: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, fate: str, code: str, text: str, line: int, offset: int) -> None:
        entry = self.reasons.setdefault((fate, code), {"fate": fate, "code": code, "count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append({"line": line, "offset": offset, "text": text})

    def to_list(self) -> list[dict[str, Any]]:
        return sorted(self.reasons.values(), key=lambda r: (-r["count"], r["fate"], r["code"]))


class Rejection(Exception):
    """Why one row is not trained on: `fate` filtered | duplicate | quarantined; `code` is one word for counting."""

    def __init__(self, fate: str, code: str, text: str) -> None:
        super().__init__(text)
        self.fate, self.code, self.text = fate, code, text


def is_question(row: Mapping[str, Any]) -> bool:
    """Whether a row asks a teacher it names: `prompt`, `teacher` (and `model` for an address), no answer."""
    answers = ("messages", "completion", "response", "chosen", "rejected", "output")
    return all(isinstance(row.get(key), str) for key in ("prompt", "teacher")) and not any(a in row for a in answers)


def _plain(value: str | list[Any]) -> str:
    """The text of one side of a pair: a string, or messages."""
    if isinstance(value, str):
        return value
    parts = [item.get("content") if isinstance(item, dict) else item for item in value]
    return "\n".join(part if isinstance(part, str) else orjson.dumps(part).decode() for part in parts)


PROMPT = "prompt"  # the format of a row that is a prompt and nothing to answer it
QUESTION = "question"  # such a row that names the teacher who is to answer it


def _prompt_only(row: Mapping[str, Any]) -> str | None:
    prompt = row.get("prompt")
    alone = isinstance(prompt, str) and prompt.strip() and not {"completion", "response", "chosen"} & row.keys()
    return PROMPT if alone else None


_CAP_KEYS = {"self-verified": "max_self_verified", "self-unverified": "max_self_unverified"}


class Gate:
    """The checks of one file, row by row; keeps hashes and sums, never rows."""

    def __init__(
        self, skills: Sequence[Skill], tokens: TokenCounter | None, caps: Mapping[str, float] = origins.CAPS,
        over: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        self.skills = skills
        self.tokens = tokens
        self.caps, self.over = caps, over or {}
        self.origins: Counter[str] = Counter()
        self.capped: list[tuple[int, str]] = []  # (line, origin) of rows whose origin has a cap
        self._gone: set[bytes] = set()  # what the rows over a cap said
        self.school: str | None = None
        self.options: dict[str, Any] | None = None  # of the quest, for its school, where the rows say them
        self.formats: Counter[str] = Counter()
        self.skill_rows: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.lengths = array("I")  # tokens of each row
        self.rendered = array("H")  # rows that the battle makes of each row
        self.answers: Counter[int] = Counter()
        self.turns = self.answer_chars = self.prompt_chars = 0
        self._seen = HashSet()
        self._cleared: dict[str, str] = {}  # {skill: the last system turn that holds none of its held-out problems}

    def passes(self, row: Row) -> bytes:
        """The bytes to train on.

        Raises:
            Rejection: the row's other fate, with the reason.
        """
        name = QUESTION if is_question(row.value) else detect(row.value) or _prompt_only(row.value)
        if name is None:
            keys = ", ".join(sorted(map(str, row.value))[:8]) or "none"
            raise Rejection("quarantined", "unknown_format", f"no known training format has the keys: {keys}")
        school = schools.of_format(name)
        school = "mirror" if school == "scribe" and is_sparring(row.value) else school
        if self.school not in (None, school):
            raise Rejection("quarantined", "other_school", f"a row for school {school} in a file for {self.school}; "
                            "put it into a file of its own")  # fmt: skip
        read = {"preference": self._pair, PROMPT: self._prompt, QUESTION: self._ask}.get(name)
        raw, messages = read(row) if read else self._chat(row, name)
        self._drop_held_out(messages)
        digest = hashlib.blake2b(orjson.dumps(messages), digest_size=8).digest()
        origin = self._origin(row, digest)
        if not self._seen.add(int.from_bytes(digest, "big")):
            raise Rejection("duplicate", "exact", "the same conversation stands earlier in the file")
        if school != "judge" and name != QUESTION:
            self._measure(messages)
        self.school = school
        self.formats[name] += 1
        self.origins[origin] += 1
        if origin in self.caps:
            self.capped.append((row.line, origin))
        self._note_skill(row.value, messages)
        return raw

    def _origin(self, row: Row, digest: bytes) -> str:
        """Where the row comes from; what a model wrote itself may be a limited share of a file (realm-rules §13)."""
        origin = origins.origin_of(row.value)
        if origin not in self.caps:
            return origin
        if row.line in self.over:
            self._gone.add(digest)
        if digest in self._gone or not self.caps[origin]:  # its copy further down must not take its place
            share = f"at most {self.caps[origin]:.0%}" if self.caps[origin] else "none"
            raise Rejection("filtered", f"{origin.replace('-', '_')}_cap", f"{origin}: {share} of a file's rows may be "
                            f"that, beside other rows ({_CAP_KEYS.get(origin, 'caps')} in settings.yaml)")  # fmt: skip
        return origin

    def _chat(self, row: Row, name: str) -> tuple[bytes, list[dict[str, str]]]:
        try:
            made = to_messages(row.value, name)
        except ConversionError as error:
            raise Rejection("quarantined", "format", str(error)) from error
        fault = check_roles(made["messages"], empty_prompt=name == "text")
        if fault:
            raise Rejection("quarantined", "roles", fault)
        return (row.raw if made is row.value else orjson.dumps(made)), made["messages"]

    def _prompt(self, row: Row) -> tuple[bytes, list[dict[str, str]]]:
        """A prompt without an answer: the skill that can mark it gives the golden one, which nothing is trained on."""
        prompt = row.value["prompt"]
        skill = next((skill for skill in self.skills if skill.split_of(prompt) is not None), None)
        if skill is None:
            raise Rejection("quarantined", "no_grader", "a prompt without an answer is practised by reward, and no "
                            "skill here can mark answers to it; add the answer (prompt, completion)")  # fmt: skip
        problem = skill.problem_of(prompt)
        made = {"messages": problem.messages, "skill": skill.id, "level": problem.level, "id": problem.id}
        return orjson.dumps(made), problem.messages

    def _ask(self, row: Row) -> tuple[bytes, list[dict[str, str]]]:
        """A question for a teacher; one file has one teacher, whose name is an option of its quest."""
        prompt, own = row.value["prompt"], {key: row.value[key] for key in ("teacher", "model") if row.value.get(key)}
        if not prompt.strip():
            raise Rejection("quarantined", "format", "'prompt' is empty: there is nothing to ask the teacher")
        if self.options not in (None, own):
            raise Rejection("quarantined", "other_teacher", f"a question for {own}, the file's teacher is "
                            f"{self.options}; put it into a file of its own")  # fmt: skip
        self.options = own
        return row.raw, [{"role": "user", "content": prompt}]

    @staticmethod
    def _pair(row: Row) -> tuple[bytes, list[dict[str, str]]]:
        for key in ("prompt", "chosen", "rejected"):
            value = row.value.get(key)
            if not isinstance(value, str | list) or not value or isinstance(value, str) and not value.strip():
                raise Rejection("quarantined", "format", f"'{key}' must be a text or a list of messages, not empty")
        prompt, chosen, rejected = (_plain(row.value[key]) for key in ("prompt", "chosen", "rejected"))
        if chosen == rejected:
            raise Rejection("quarantined", "format", "chosen and rejected are the same")
        return row.raw, [{"role": "user", "content": prompt}, {"role": "assistant", "content": chosen},
                         {"role": "assistant", "content": rejected}]  # fmt: skip

    def _drop_held_out(self, messages: list[dict[str, str]]) -> None:
        """No turn may hold a held-out problem, whoever speaks and whatever stands around it (contracts B1)."""
        for message in messages:
            text, read = message["content"], None
            for skill in self.skills:
                if message["role"] == "system" and text == self._cleared.get(skill.id):
                    continue  # most files repeat one system turn in every row
                read = readings(text) if read is None else read
                split = held_out(skill, text, read)
                if split:
                    raise Rejection("filtered", f"{split}_split", f"belongs to the {split} split of {skill.id}")
                if message["role"] == "system":
                    self._cleared[skill.id] = text

    def _measure(self, messages: list[dict[str, str]]) -> None:
        if self.tokens is not None:
            try:
                lengths = self.tokens.lengths(messages)
            except RenderError as error:
                raise Rejection("quarantined", error.code, str(error)) from error
            self.lengths.append(sum(lengths))
            self.rendered.append(min(len(lengths), 65535))
        answer = messages[-1]["content"]
        self.turns += len(messages)
        self.answer_chars += len(answer)
        self.prompt_chars += sum(len(m["content"]) for m in messages) - len(answer)
        key = hash(answer)
        if key in self.answers or len(self.answers) < 1000:
            self.answers[key] += 1

    def _note_skill(self, value: dict[str, Any], messages: list[dict[str, str]]) -> None:
        prompt = next((m["content"] for m in messages if m["role"] == "user"), "")
        for skill in self.skills:
            if skill.split_of(prompt) is not None:
                self.skill_rows[skill.id] += 1
                level = value.get("level")
                if isinstance(level, int) and not isinstance(level, bool) and 1 <= level <= skill.max_level:
                    self.levels[str(level)] += 1
                break


def examine(
    source: Path, target: Path, quarantine: Path, *, name: str, skills: Sequence[Skill],
    tokens: TokenCounter | None = None, tokens_missing: str = "", probe: Path | None = None, seed: int = 0,
    max_line: int = MAX_LINE, caps: Mapping[str, float] = origins.CAPS, over: Mapping[int, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Send a file through the gate and return its report.

    Writes `target` (rows to train on) when the verdict is not "refused", `quarantine` (JSONL with file, line, byte
    offset, fate, reason and the original bytes of every row that is not in it) when there are such rows, and `probe`
    (rows held out for the blessing, contracts B7) when the file is large enough and no skill quest. All appear whole
    or not at all, so a killed run is simply done again.

    Args:
        name: the file's name as a person knows it, for reports and quarantine records.
        tokens: the hero's tokenizer, or None for a QUICK examination; then `tokens_missing` says why.
        seed: keys which rows the probe holds.
        caps: {origin: largest share of the rows}; other than `origins.CAPS` it is recorded in the report.
        over: {line: origin} of rows above a cap; found in a first pass, when there are any.
    """
    gate, counts, found = Gate(skills, tokens, caps, over), Counts(), _Findings()
    staging = target.with_name(f".{target.name}.staging.part")
    groups, finer = array("Q"), array("Q")
    with AtomicWriter(staging) as out, Quarantine(quarantine) as bad:

        def on_bad(row: BadRow) -> None:
            found.add("quarantined", row.reason.split(":")[0].replace(" ", "_"), row.reason, row.line, row.offset)
            bad.add(row, fate="quarantined")

        for row in read_rows(source, on_bad, counts, max_line, name):
            try:
                raw = gate.passes(row)
            except Rejection as no:
                _count(counts, no.fate)
                found.add(no.fate, no.code, no.text, row.line, row.offset)
                bad.add(BadRow(name, row.line, row.offset, len(row.raw), no.text, row.raw), fate=no.fate)
            else:
                counts.out += 1
                out.write_raw(raw)
                for hashes, value in zip((groups, finer), _group(raw, seed), strict=True):
                    hashes.append(value)
        counts.check()
    if over is None and (above := origins.over_cap(gate.capped, gate.origins, seed, caps)):
        # Once more without them, so that every number of the report is that of the rows that stay.
        staging.unlink()
        quarantine.unlink(missing_ok=True)
        return examine(source, target, quarantine, name=name, skills=skills, tokens=tokens, probe=probe, seed=seed,
                       tokens_missing=tokens_missing, max_line=max_line, caps=caps, over=above)  # fmt: skip
    report = _report(gate, counts, found, tokens_missing)
    report["file"], report["quarantine_rows"] = name, bad.count
    if report["verdict"] == "refused":
        staging.unlink()
        return report
    chosen: set[int] = set()
    if probe is not None and gate.school == "scribe" and report["skill"] is None:
        groups = finer if min(groups) == max(groups) else groups
        chosen = choose_groups(groups)
    held = _hold_out(staging, target, probe, groups, chosen) if chosen else 0
    if held:
        report["probe"], report["rows"]["probe"] = {"path": str(probe), "rows": held}, held
        staging.unlink()
    else:
        os.replace(staging, target)
    report["rows"]["train"] = counts.out - held
    if gate.rendered:
        # Steps are counted by these: a template may make one row of every assistant turn.
        report["rows"]["rendered"] = sum(n for n, group in zip(gate.rendered, groups, strict=True)
                                         if group not in chosen)  # fmt: skip
    report["sha256"], report["bytes"] = file_sha256(target), target.stat().st_size
    return report


def _count(counts: Counts, fate: str) -> None:
    if fate == "filtered":
        counts.filtered += 1
    elif fate == "duplicate":
        counts.duplicates += 1
    else:
        counts.quarantined += 1


def _group(raw: bytes, seed: int) -> tuple[int, int]:
    """Hashes of what must stay on one side of the hold-out: a named group, else the first question; and a finer one
    for files whose questions are all the same. A row without a question (plain text) is a group of its own."""
    value = orjson.loads(raw)
    key = whole = next((f"{k}={value[k]}" for k in GROUP_KEYS if value.get(k)), None)
    if key is None:
        turns = value.get("messages") or []
        key = " ".join(next((m["content"] for m in turns if m["role"] == "user"), "").casefold().split())
        whole = "\x1f".join(" ".join(m["content"].casefold().split()) for m in turns)
        key = key or whole
    keyed = [hashlib.blake2b(f"{seed}\x1f{text}".encode(), digest_size=8).digest() for text in (key, whole)]
    return int.from_bytes(keyed[0], "big"), int.from_bytes(keyed[1], "big")


def choose_groups(groups: Sequence[int]) -> set[int]:
    """Groups for the probe: in hash order until 5 % (20-200 rows) are held; no group of more than a quarter of it.

    Empty for a file of fewer than 100 rows, or when whole groups cannot give 20 rows.
    """
    if len(groups) < PROBE_MIN_FILE:
        return set()
    wanted = min(PROBE_MAX, max(PROBE_MIN, round(PROBE_SHARE * len(groups))))
    sizes = Counter(groups)
    chosen: set[int] = set()
    held = 0
    for group in sorted(sizes):
        if held >= wanted:
            break
        if sizes[group] <= max(1, wanted // 4):
            chosen.add(group)
            held += sizes[group]
    return chosen if held >= PROBE_MIN else set()


def _hold_out(staging: Path, target: Path, probe: Path, groups: array, chosen: set[int]) -> int:
    with AtomicWriter(probe) as held, AtomicWriter(target) as kept, open(staging, "rb") as rows:
        for group, line in zip(groups, rows, strict=True):
            (held if group in chosen else kept).write_raw(line.rstrip(b"\n"))
    return held.rows


def _report(gate: Gate, counts: Counts, found: _Findings, tokens_missing: str) -> dict[str, Any]:
    rows = {"in": counts.read, "out": counts.out, "filtered": counts.filtered, "duplicate": counts.duplicates,
            "quarantined": counts.quarantined, "blank": counts.blank, "probe": 0}  # fmt: skip
    skill = next((s for s, n in gate.skill_rows.most_common(1) if n >= SKILL_SHARE * counts.out), None)
    mix = {n: c / counts.out for n, c in gate.levels.items()} if sum(gate.levels.values()) == counts.out else None
    warnings = _warnings(gate, counts)
    verdict, next_action = "accepted", "Nothing to do: the file waits on the board."
    if counts.out == 0 or counts.quarantined > REFUSE_BAD_SHARE * counts.read:
        verdict, next_action = "refused", _remedy(counts, found)
    elif warnings or counts.quarantined or counts.filtered:
        verdict = "accepted-with-warnings"
        next_action = "Look at the reasons; mended rows can be dropped into the inbox as a new file."
    told = {origin: gate.origins[origin] for origin in origins.ORIGINS if gate.origins[origin]}
    caps = None if dict(gate.caps) == dict(origins.CAPS) else dict(gate.caps)
    if caps:
        warnings.append("the caps on rows that a hero wrote itself are set by hand: " + ", ".join(
            f"{origin} up to {share:.0%}" for origin, share in caps.items()))  # fmt: skip
    return {
        "verdict": verdict, "level": "standard" if gate.tokens else "quick", "rows": rows, "origins": told,
        "origin_caps": caps,
        "format": "+".join(sorted(gate.formats)) or None, "formats": dict(gate.formats), "school": gate.school,
        "options": gate.options, "skill": skill if verdict != "refused" else None, "mix": mix if skill else None,
        "reasons": found.to_list(),
        "tokens": _token_facts(gate, tokens_missing), "balance": _balance(gate, counts), "warnings": warnings,
        "next_action": next_action, "probe": None,
    }  # fmt: skip


def _remedy(counts: Counts, found: _Findings) -> str:
    if counts.read == 0:
        return "The file has no rows. Write one JSON object per line and drop it again."
    worst = found.to_list()[0]
    first = worst["examples"][0]
    return (f"{worst['count']} of {counts.read} rows: {first['text']} (first at line {first['line']}, byte "
            f"{first['offset']}). Mend the file and drop it again.")  # fmt: skip


def _warnings(gate: Gate, counts: Counts) -> list[str]:
    said = []
    if counts.duplicates > WARN_DUPLICATES * counts.read:
        said.append(f"{counts.duplicates / counts.read:.0%} of the rows are exact duplicates and were left out")
    if counts.out and gate.answers:
        top = gate.answers.most_common(1)[0][1]
        if counts.out >= 20 and top > WARN_ONE_ANSWER * counts.out:
            said.append(f"{top / counts.out:.0%} of the answers are the same text: the hero may learn only that one")
    return said


def _token_facts(gate: Gate, missing: str) -> dict[str, Any]:
    if gate.tokens is None:
        return {"measured": False, "why": missing or "no tokenizer was given"}
    lengths = sorted(gate.lengths)
    facts: dict[str, Any] = {"measured": True, "max_length": gate.tokens.max_length, "tokenizer": gate.tokens.name}
    if lengths:
        facts |= {"total": sum(lengths), "median": lengths[len(lengths) // 2],
                  "p95": lengths[int(0.95 * (len(lengths) - 1))], "max": lengths[-1]}  # fmt: skip
    return facts


def _balance(gate: Gate, counts: Counts) -> dict[str, Any]:
    if not counts.out or gate.school != "scribe":
        return {}
    return {"turns_mean": gate.turns / counts.out, "answer_chars_mean": gate.answer_chars / counts.out,
            "prompt_chars_mean": gate.prompt_chars / counts.out,
            "most_common_answer_share": gate.answers.most_common(1)[0][1] / counts.out if gate.answers else 0.0}


def examiners(goals: Iterable[str] = ()) -> list[Skill]:
    """Every skill that may examine a hero: those on the shelf, the passives, and `goals` beyond them (`rg:`, `url:`);
    one that cannot be reached now is left out, its problems cannot be told from other text."""
    found = {skill.id: skill for skill in (*all_skills(), get_skill("passives"))}
    for name in goals:
        try:
            found.setdefault(name, get_skill(name))
        except SkillError as error:
            log.warning("rows are examined without skill %s: %s", name, error)
    return list(found.values())


def exam_within(skills: Sequence[Skill], messages: Iterable[Mapping[str, str]]) -> str | None:
    """Which exam stands in a conversation, in words, or None."""
    for text in (message["content"] for message in messages):
        read = readings(text)
        for skill in skills:
            if split := held_out(skill, text, read):
                return f"the {split} split of {skill.id}"
    return None


def _exam_of(owner: Skill, messages: Sequence[Mapping[str, str]]) -> str | None:
    """Which other skill holds a problem of these turns out, or None: modules and servers are written by others."""
    return exam_within([skill for skill in examiners() if skill.id != owner.id], messages)


def check_idle(path: Path, skill: Skill) -> dict[str, Any]:
    """The QUICK gate for a quest that skills made: every row sound and of the training split of its own skill.

    Rows name their skill where it is not `skill` itself (rehearsal); rows of no skill (out of the rehearsal buffer)
    passed the gate with their file and must only be no exam problem of `skill`. Duplicates are allowed: closed
    levels are tables that repeat.

    Raises:
        GateError: a single row that fails; rows from inside are right or the skill is broken.
    """
    counts = Counts()

    def on_bad(row: BadRow) -> None:
        raise GateError(f"{path}:{row.line}: {row.reason}; skill {skill.id} wrote a bad row, mend its generator")

    for row in read_rows(path, on_bad, counts, MAX_LINE):
        messages = row.value.get("messages")
        old = bool(row.value.get("rehearsal"))  # plain text has no question, and passed the gate with its file
        fault = check_roles(messages, empty_prompt=old) if isinstance(messages, list) else "no messages"
        of = row.value.get("skill", None if row.value.get("rehearsal") else skill.id)
        owner = skill if of in (None, skill.id) else get_skill(of)
        split = None if fault else owner.split_of(messages[0]["content"])
        if fault or split != "train" and not (of is None and split is None):
            what = fault or f"split {split}, only train may be trained on"
            raise GateError(f"{path}:{row.line}: {what}; skill {skill.id} wrote a bad row, mend its generator")
        if ":" in owner.id and not old and (theirs := _exam_of(owner, messages)):
            raise GateError(f"{path}:{row.line}: {owner.id} practises a problem that {theirs} examines; take the row "
                            "out of the module or server, or do not practise it")  # fmt: skip
        counts.out += 1
    counts.check()
    return {"verdict": "accepted", "level": "quick", "format": "messages", "school": "scribe", "skill": skill.id,
            "rows": {"in": counts.read, "out": counts.out, "train": counts.out, "filtered": 0, "duplicate": 0,
                     "quarantined": 0, "blank": 0, "probe": 0},
            "reasons": [], "warnings": [], "sha256": file_sha256(path), "next_action": "", "probe": None}  # fmt: skip
