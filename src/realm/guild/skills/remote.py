"""A skill on somebody else's server, by the contract of `skills/server.py`: `get_skill("url:maths")`.

    skill_servers: {maths: "http://127.0.0.1:8090"}        (in settings.yaml; none is configured by default)
    python3 -m training skill levels url:maths

A server gives out train and public problems only, so the exams come from its **public** split, divided here by a hash
of the canonical problem: 70 % trial, 20 % probe, 10 % public. They are never trained on. The server itself knows them;
who runs it is trusted not to sell them, and that is all the trust it gets: whatever can be checked is checked, once per
level and on every row (`_inspect`, `_rows`), and a server that is down, slow, too talkative or wrong raises a
SkillError that says what, with the value and the next action. Only http and https, no redirects, no proxies of the
environment, 16 MB an answer, 10 s a call. A server is asked only when its name is used: none is configured by default.

What cannot be checked from outside: that public and train are disjoint beyond the problems that were seen, and that a
grader is right about wrong answers. `split_of` knows only what this process fetched.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import httpx

from realm.guild.skills.base import (
    CLOSED_BELOW,
    Grade,
    LevelInfo,
    Problem,
    SkillError,
    Split,
    check_level,
    check_request,
    keyed_hash,
    keyed_rng,
    no_table,
)
from realm.settings import RealmHome, SettingsError, nearest

CALL_S = 10.0  # a whole call, connection to last byte
CONNECT_S = 3.0
SLOW_S = 2.0  # mean of the last marking calls; a trial of 200 answers would take over six minutes
BYTES_AT_MOST = 16_000_000
COUNT_AT_MOST = 10_000
LEVELS_AT_MOST = 200
PROMPT_AT_MOST, GOLDEN_AT_MOST = 20_000, 8_000  # characters
LOOK = 100  # problems of each split that a level is judged by
REMEMBERED = 50_000
RETRY_S = 20.0  # a server that failed is not asked again within this time
EXAM_SHARES: tuple[tuple[Split, int], ...] = (("trial", 70), ("probe", 20), ("public", 10))


_OPEN: dict[tuple[str, str], RemoteSkill] = {}


def make(name: str, root: Path | None = None) -> RemoteSkill:
    """The skill behind a server name of the settings of a realm home (default: the usual one).

    Raises:
        SkillError: no such name in `skill_servers`, or settings that cannot be read.
    """
    try:
        home = RealmHome(root)
    except SettingsError as error:
        raise SkillError(f"skill 'url:{name}': {error}") from error
    servers = home.settings.skill_servers
    if name not in servers:
        hint = nearest(name, list(servers)) if servers else f"; add `skill_servers: {{{name or 'name'}: URL}}`"
        raise SkillError(f"skill 'url:{name}': no skill server of this name in {home.root / 'settings.yaml'}{hint}")
    return _OPEN.setdefault((name, servers[name]), RemoteSkill(name, servers[name]))


def exam_split(skill: str, version: str, canonical: str) -> Split:
    """Which exam a problem of a server's public split belongs to."""
    point = keyed_hash("remote exam", skill, version, canonical) % 100
    for split, share in EXAM_SHARES:
        point -= share
        if point < 0:
            return split
    raise AssertionError("the shares must add up to 100")


def _folded(text: str) -> str:
    return " ".join(text.split())


class RemoteSkill:
    """One server. Facts about it are read at first use and kept; problems are fetched when they are asked for."""

    def __init__(self, name: str, url: str, call_s: float = CALL_S, slow_s: float = SLOW_S) -> None:
        self.id, self.url = f"url:{name}", url.rstrip("/")
        self.call_s, self.slow_s = call_s, slow_s
        self._facts: dict[str, Any] | None = None
        self._inspected: set[int] = set()
        self._exams: dict[int, set[str]] = {}  # {level: canonicals and folded prompts of its public problems seen}
        self._seen: dict[str, Problem] = {}  # {folded prompt: problem}
        self._failed: tuple[float, str] = (-RETRY_S, "")
        self._marking: list[float] = []
        self._lock = RLock()
        self._client: httpx.Client | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteSkill, (self.id.partition(":")[2], self.url, self.call_s, self.slow_s)

    # --- what it says of itself ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._about["name"]

    @property
    def version(self) -> str:
        return self._about["version"]

    @property
    def description(self) -> str:
        return f"{self._about['description']} (on {self.url})"

    @property
    def max_level(self) -> int:
        return self._about["max_level"]

    @property
    def threshold(self) -> float:
        return self._about["threshold"]

    @property
    def _about(self) -> dict[str, Any]:
        with self._lock:
            if self._facts is None:
                self._facts = self._read_facts()
            return self._facts

    def _read_facts(self) -> dict[str, Any]:
        info, listed = self._call("GET", "/info"), self._call("GET", "/levels")
        for key, kind in (("skill", str), ("name", str), ("version", str), ("description", str), ("max_level", int)):
            if not isinstance(info.get(key), kind) or isinstance(info.get(key), bool):
                raise self._lie(f"GET /info has {key} = {info.get(key)!r}, a {kind.__name__} is asked for")
        top, rows = info["max_level"], listed.get("levels")
        if not 1 <= top <= LEVELS_AT_MOST:
            raise self._lie(f"max_level = {top}, 1 to {LEVELS_AT_MOST} levels are possible")
        threshold = info.get("threshold", 0.80)
        if not isinstance(threshold, int | float) or not 0.5 <= threshold <= 1.0:
            raise self._lie(f"threshold = {threshold!r}, a share from 0.5 to 1 is asked for")
        numbers = [row.get("level") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None
        if numbers != list(range(1, top + 1)):
            raise self._lie(f"GET /levels lists {str(numbers)[:60]}, /info says levels 1 to {top}")
        levels = tuple(self._level_info(row, float(threshold)) for row in rows)
        return {**{key: info[key][:500] for key in ("skill", "name", "version", "description")}, "max_level": top,
                "threshold": float(threshold), "levels": levels}  # fmt: skip

    def _level_info(self, row: dict[str, Any], threshold: float) -> LevelInfo:
        level, closed, distinct, room = (row.get(key) for key in ("level", "closed", "distinct", "max_new_tokens"))
        whole = isinstance(distinct, int) and not isinstance(distinct, bool) and 1 <= distinct < CLOSED_BELOW
        if not isinstance(closed, bool) or (closed and not whole) or (not closed and distinct is not None):
            raise self._lie(f"level {level} says closed = {closed!r} with distinct = {distinct!r}; a closed level "
                            f"counts fewer than {CLOSED_BELOW}, an open one has null")  # fmt: skip
        if not isinstance(room, int) or isinstance(room, bool) or not 1 <= room <= 8192:
            raise self._lie(f"level {level} says max_new_tokens = {room!r}, 1 to 8192 are possible")
        return LevelInfo(level, str(row.get("name", level))[:80], str(row.get("description", ""))[:300], closed=closed,
                         distinct=distinct, max_new_tokens=room, threshold=threshold)  # fmt: skip

    def levels(self) -> list[LevelInfo]:
        """Every level as the server lists them."""
        return list(self._about["levels"])

    def closed(self, level: int) -> bool:
        check_level(self.id, level, self.max_level)
        return self._about["levels"][level - 1].closed

    # --- problems -----------------------------------------------------------------------------------------------

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems. Exams come from the server's public split, see the module's text.

        Raises:
            SkillError: an impossible request, a server that is down or slow, or one that was caught at a lie.
        """
        check_request(self.id, level, count, seed, split, self.max_level)
        self._inspect(level)
        if split != "train":
            return self._exam(level, count, seed, split)
        found: list[Problem] = []
        for part, start in enumerate(range(0, count, COUNT_AT_MOST)):
            key = seed if part == 0 else keyed_hash("part", seed, part) % 2**31
            found += self._rows(level, min(COUNT_AT_MOST, count - start), key, "train")
        return found

    def _exam(self, level: int, count: int, seed: int, split: Split) -> list[Problem]:
        if self.closed(level):
            table = self.table(level)
            keyed_rng(self.id, self.version, "walk", level, seed, split).shuffle(table)
            return [replace(table[i % len(table)], split=split) for i in range(count)]
        share = dict(EXAM_SHARES)[split]
        found: dict[str, Problem] = {}
        asked = min(COUNT_AT_MOST, 20 + 2 * count * 100 // share)
        while count:
            rows = self._rows(level, asked, seed, "public")
            found = {}
            for problem in rows:
                if problem.split == split:
                    found.setdefault(problem.canonical, problem)
            if len(found) >= count or asked >= COUNT_AT_MOST:
                break
            asked = min(COUNT_AT_MOST, 4 * asked)
        if count and not found:
            raise SkillError(f"{self.id} level {level}: none of {asked} public problems of {self.url} falls to the "
                             f"{split} part; ask whoever runs it for more public problems")  # fmt: skip
        problems = list(found.values())
        return [problems[i % len(problems)] for i in range(count)]

    def table(self, level: int) -> list[Problem]:
        """Every problem of a closed level, drawn from the server until its own count is reached."""
        if not self.closed(level):
            raise no_table(level)
        wanted, found = self._about["levels"][level - 1].distinct, {}
        for seed in range(4):
            for problem in self._rows(level, min(COUNT_AT_MOST, 4 * wanted + 200), seed, "public"):
                found.setdefault(problem.canonical, problem)
            if len(found) >= wanted:
                break
        if len(found) != wanted:
            raise self._lie(f"level {level} is said to have {wanted} different problems, {len(found)} were found")
        return [replace(found[key], split="train") for key in sorted(found)]

    def _rows(self, level: int, count: int, seed: int, asked: str) -> list[Problem]:
        """Problems of the server, each checked; public ones carry the exam they belong to."""
        body = {"level": level, "count": count, "seed": seed, "split": asked}
        answer = self._call("POST", "/generate", body)
        rows = answer.get("samples")
        if not isinstance(rows, list) or len(rows) != count:
            found = len(rows) if isinstance(rows, list) else type(rows).__name__
            raise self._lie(f"level {level}: {count} {asked} problems were asked for, {found} came")
        problems = [self._checked(row, level, asked) for row in rows]
        with self._lock:
            self._keep_apart(level, problems, asked)
            self._seen |= {_folded(problem.prompt): problem for problem in problems}
            for prompt in list(self._seen)[: max(0, len(self._seen) - REMEMBERED)]:
                del self._seen[prompt]
        return problems

    def _checked(self, row: Any, level: int, asked: str) -> Problem:
        try:
            problem = Problem.from_dict(row if isinstance(row, dict) else {})
        except SkillError as error:
            raise self._lie(f"level {level}: {error}") from error
        if problem.level != level or problem.split != asked or problem.skill != self._about["skill"]:
            told = f"skill {problem.skill!r}, level {problem.level}, split {problem.split!r}"
            raise self._lie(f"level {level}, split {asked!r} was asked for, a problem came that says {told}")
        if not problem.golden.strip() or not problem.prompt.strip() or not problem.canonical:
            raise self._lie(f"level {level}: a problem came without a prompt, a golden answer or a canonical form")
        if len(problem.prompt) > PROMPT_AT_MOST or len(problem.golden) > GOLDEN_AT_MOST:
            raise self._lie(f"level {level}: a prompt of {len(problem.prompt)} and a golden answer of "
                            f"{len(problem.golden)} characters; {PROMPT_AT_MOST} and {GOLDEN_AT_MOST} are the most")
        split = "train" if asked == "train" else exam_split(self.id, self.version, problem.canonical)
        return replace(problem, skill=self.id, split=split)

    def _keep_apart(self, level: int, problems: list[Problem], asked: str) -> None:
        """Public and train must never meet on an open level, by the server's canonical form or by the very text."""
        if self.closed(level):
            return
        exams = self._exams.setdefault(level, set())
        for problem in problems:
            marks = {problem.canonical, _folded(problem.prompt)}
            known = self._seen.get(_folded(problem.prompt))
            trained = asked == "public" and known is not None and known.split == "train"
            if trained or (asked == "train" and marks & exams):
                raise self._lie(f"level {level}: the problem {problem.prompt[:60]!r} is given out for training and as "
                                "public: a trial of it would prove nothing")  # fmt: skip
            if asked == "public":
                exams |= marks

    def _inspect(self, level: int) -> None:
        """Once per level and process: a look at both splits, the same again, and the grader on its own answers."""
        with self._lock:
            if level in self._inspected:
                return
            for asked in ("public", "train"):
                rows = self._rows(level, LOOK, 0, asked)
                if rows[:20] != self._rows(level, 20, 0, asked):
                    raise self._lie(f"level {level}: the same seed gives other {asked} problems the second time, so no "
                                    "trial could be repeated")  # fmt: skip
                for problem in rows[:3]:
                    if not self.grade(problem, problem.golden).correct:
                        raise self._lie(f"level {level}: its grader rejects its own golden answer "
                                        f"{problem.golden[:60]!r} to {problem.prompt[:60]!r}")  # fmt: skip
                    for what, text in (("an empty answer", ""), ("an echo of the prompt", problem.prompt)):
                        if self.grade(problem, text).correct:
                            raise self._lie(f"level {level}: its grader accepts {what} to {problem.prompt[:60]!r}")
            self._inspected.add(level)

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt that this process has fetched."""
        found = self._seen.get(_folded(prompt))
        if found is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no problem that {self.url} gave to this process; grade it with "
                             "its problem row, as generate() gave it")  # fmt: skip
        return found

    def split_of(self, prompt: str) -> Split | None:
        """The split of a problem that this process has fetched, else None; it never asks the server."""
        found = self._seen.get(_folded(prompt))
        return None if found is None else found.split

    def grade(self, problem: Problem, response: str) -> Grade:
        """The server's verdict.

        Raises:
            SkillError: the server is down, slow on average, or answers with something that is no grade.
        """
        theirs = replace(problem, skill=self._about["skill"], split="train" if problem.split == "train" else "public")
        started = time.monotonic()
        verdict = self._call("POST", "/grade", {"problem": theirs.to_dict(), "response": response[:100_000]})
        with self._lock:
            self._marking = [*self._marking[-19:], time.monotonic() - started]
            mean = sum(self._marking) / len(self._marking)
        if len(self._marking) >= 5 and mean > self.slow_s:
            raise self._fault(f"marks an answer in {mean:.1f} s on average, {self.slow_s:.1f} s is the limit",
                              "give it more power, or leave this skill out")  # fmt: skip
        correct, score = verdict.get("correct"), verdict.get("score")
        sound = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1
        if not isinstance(correct, bool) or not sound:
            raise self._lie(f"POST /grade answered correct = {correct!r}, score = {score!r}; true or false and a "
                            "number from 0 to 1 are asked for")  # fmt: skip
        return Grade(correct, float(score), str(verdict.get("reason", ""))[:300])

    # --- the wire -----------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        since, why = self._failed
        if time.monotonic() - since < RETRY_S:
            raise SkillError(f"{why} (not asked again for {RETRY_S:.0f} s)")
        deadline = time.monotonic() + self.call_s
        raw = bytearray()
        try:
            with self._open().stream(method, self.url + path, json=body) as response:
                for chunk in response.iter_bytes():
                    raw += chunk
                    if len(raw) > BYTES_AT_MOST:
                        raise self._lie(f"{path} answers with over {BYTES_AT_MOST:,} bytes")
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the answer trickles")
                status = response.status_code
        except httpx.TimeoutException as error:
            raise self._down(f"gave no whole answer to {path} within {self.call_s:.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._down(f"did not answer {path} ({type(error).__name__}: {error})") from error
        return self._parsed(bytes(raw), status, path)

    def _open(self) -> httpx.Client:
        """One client for all calls: making one takes a fifth of a second."""
        with self._lock:
            if self._client is None:
                limits = httpx.Timeout(min(CONNECT_S, self.call_s), read=self.call_s)
                # trust_env off: a proxy of the environment must not see the answers, nor break loopback
                self._client = httpx.Client(timeout=limits, follow_redirects=False, trust_env=False)
            return self._client

    def _parsed(self, raw: bytes, status: int, path: str) -> dict[str, Any]:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if status != 200:
            told = value.get("error") if isinstance(value, dict) else None
            words = str(told or raw[:120].decode("utf-8", "replace"))[:300]
            if status >= 500:
                raise self._down(f"fails on {path} (status {status}: {words})")
            raise self._fault(f"refused {path} (status {status}: {words})", "the server is not of this contract")
        if not isinstance(value, dict):
            raise self._lie(f"{path} answers with something that is no JSON object: {raw[:60]!r}")
        return value

    def _down(self, what: str) -> SkillError:
        error = self._fault(what, "start it, or take its line out of settings.yaml")
        self._failed = (time.monotonic(), str(error))
        return error

    def _lie(self, what: str) -> SkillError:
        suite = f"`python -m realm.guild.skills.conformance {self.url}`"
        return self._fault(what, f"mend it; {suite} lists every broken rule")

    def _fault(self, what: str, action: str) -> SkillError:
        return SkillError(f"skill server {self.id} at {self.url}: {what}; {action}")
