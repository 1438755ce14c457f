"""Does a skill server keep the contract? A suite that any third-party skill can run against its own server.

    python -m realm.guild.skills.conformance http://127.0.0.1:8090

Every rule is checked over HTTP alone, from outside, on a sample of levels. All failures are listed at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx

FIELDS = ("messages", "prompt", "golden", "skill", "level", "difficulty", "primitives", "id", "canonical", "split")
LEVEL_FIELDS = ("level", "name", "description", "closed", "distinct", "max_new_tokens")
CLOSED_BELOW = 2_000
SAMPLE = 40


class ConformanceError(AssertionError):
    """The server breaks the skill contract; `failures` lists every rule that it breaks."""

    def __init__(self, failures: list[str]) -> None:
        self.failures = failures
        listed = "\n".join(f"  - {failure}" for failure in failures)
        super().__init__(f"{len(failures)} rules of the skill contract are broken:\n{listed}\nmend them and run again")


class _Suite:
    """Collects failures; `client` needs get(path, params=) and post(path, json=) as httpx and its test clients have."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.failures: list[str] = []

    def expect(self, holds: object, rule: str) -> bool:
        if not holds:
            self.failures.append(rule)
        return bool(holds)

    def get(self, path: str, **params: object) -> Any:
        return self._json(self.client.get(path, params=params), f"GET {path} {params or ''}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json(self.client.post(path, json=body), f"POST {path} {str(body)[:80]}")

    def _json(self, response: Any, what: str) -> Any:
        if self.expect(response.status_code == 200, f"{what} must answer 200, answered {response.status_code}"):
            return response.json()
        return {}

    def samples(self, level: int, count: int = SAMPLE, seed: int = 7, split: str = "train") -> list[dict[str, Any]]:
        body = {"level": level, "count": count, "seed": seed, "split": split}
        return self.post("/generate", body).get("samples", [])

    def grade(self, problem: dict[str, Any], response: str) -> dict[str, Any]:
        return self.post("/grade", {"problem": problem, "response": response})


def check(base_url_or_client: str | Any, levels: list[int] | None = None) -> None:
    """Runs the suite against a base URL or a client; raises ConformanceError that lists every failure.

    `levels` are the levels to sample; without it the first, the middle and the last.
    """
    if isinstance(base_url_or_client, str):
        with httpx.Client(base_url=base_url_or_client, timeout=60) as client:
            return check(client, levels)
    suite = _Suite(base_url_or_client)
    top = _check_description(suite)
    if top:
        chosen = levels or sorted({1, (top + 1) // 2, top})
        for level in chosen:
            for rule in (_check_generation, _check_public_set, _check_grading):
                _guarded(suite, rule, level)
        _check_refusals(suite, top)
    if suite.failures:
        raise ConformanceError(suite.failures)


def _guarded(suite: _Suite, rule: Callable[[_Suite, int], None], level: int) -> None:
    """A rule that meets an answer of another shape counts as broken; the other rules still run."""
    try:
        rule(suite, level)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        suite.expect(False, f"level {level}: {rule.__name__.strip('_')} met an answer of another shape: {error!r}")


def _check_description(suite: _Suite) -> int:
    """/health, /info, /levels and the published OpenAPI; returns the highest level, 0 where there is none."""
    suite.expect(suite.get("/health").get("status") == "ok", "GET /health must say status ok")
    info = suite.get("/info")
    for name in ("skill", "name", "version", "description", "max_level"):
        suite.expect(name in info, f"GET /info must hold {name!r}")
    levels = suite.get("/levels").get("levels", [])
    numbers = [level.get("level") for level in levels]
    top = info.get("max_level", 0)
    suite.expect(numbers == list(range(1, top + 1)), "GET /levels must list every level from 1 to max_level in order")
    for level in levels:
        lacking = [name for name in LEVEL_FIELDS if name not in level]
        suite.expect(not lacking, f"level {level.get('level')} lacks {lacking}")
        known = isinstance(level.get("distinct"), int) and level["distinct"] < CLOSED_BELOW
        suite.expect(known if level.get("closed") else level.get("distinct") is None,
                     f"level {level.get('level')}: a closed level counts fewer than {CLOSED_BELOW} distinct problems, "
                     f"an open level has distinct null")
    paths = suite.get("/openapi.json").get("paths", {})
    for path in ("/health", "/info", "/levels", "/generate", "/eval", "/eval/{level}", "/grade"):
        suite.expect(path in paths, f"GET /openapi.json must publish {path}")
    return top if numbers else 0


def _check_generation(suite: _Suite, level: int) -> None:
    first, again = suite.samples(level), suite.samples(level)
    if not suite.expect(len(first) == SAMPLE, f"level {level}: count {SAMPLE} must give {SAMPLE} samples"):
        return
    suite.expect(first == again, f"level {level}: the same seed must give the same samples")
    suite.expect(first[:10] == suite.samples(level, count=10), f"level {level}: a short call must be a prefix")
    suite.expect(first != suite.samples(level, seed=8), f"level {level}: another seed must give other samples")
    for row in first:
        lacking = [name for name in FIELDS if name not in row]
        if not suite.expect(not lacking, f"level {level}: a sample lacks {lacking}"):
            return
        roles = [message["role"] for message in row["messages"]]
        suite.expect(roles[-2:] == ["user", "assistant"], f"level {level}: messages must end with user, assistant")
        suite.expect(row["messages"][-2]["content"] == row["prompt"], f"level {level}: user message must be the prompt")
        suite.expect(row["messages"][-1]["content"] == row["golden"],
                     f"level {level}: assistant message must be golden")
        suite.expect(row["split"] == "train" and row["level"] == level, f"level {level}: split and level must be named")
        suite.expect(row["golden"].strip() and row["golden"] not in row["prompt"],
                     f"level {level}: the golden answer must not stand in the prompt: {row['prompt'][:60]!r}")


def _check_public_set(suite: _Suite, level: int) -> None:
    by_path, by_query = suite.get(f"/eval/{level}"), suite.get("/eval", level=level)
    suite.expect(by_path == by_query, f"level {level}: /eval/{level} and /eval?level={level} must agree")
    problems = by_path.get("problems", [])
    suite.expect(problems, f"level {level}: the public set must not be empty")
    suite.expect(by_path == suite.get(f"/eval/{level}"), f"level {level}: the public set must be fixed")
    suite.expect(all(row["split"] == "public" for row in problems), f"level {level}: /eval must serve public only")
    if by_path and not next(x for x in suite.get("/levels")["levels"] if x["level"] == level)["closed"]:
        trained = {row["canonical"] for row in suite.samples(level, count=1_000)}
        shared = trained & {row["canonical"] for row in problems}
        suite.expect(not shared, f"level {level}: {len(shared)} public problems are also given out for training")


def _check_grading(suite: _Suite, level: int) -> None:
    rows = suite.samples(level, count=8, seed=3)
    for row in rows:
        golden, prompt = row["golden"], row["prompt"]
        verdict = suite.grade(row, golden)
        suite.expect(set(verdict) >= {"correct", "score", "reason"},
                     f"level {level}: a grade has correct, score, reason")
        suite.expect(verdict.get("correct") is True, f"level {level}: golden must pass: {golden[:60]!r}")
        others = "\n".join([*(other["golden"] for other in rows if other["golden"] != golden), golden])
        for name, response in (("an empty answer", ""), ("blanks", "  \n "), ("an echo of the prompt", prompt),
                               ("a list of candidates", others), ("a twice given answer", f"{golden}\n{golden}"),
                               ("talk around the answer", f"I think it is {golden}, is it not?")):
            suite.expect(suite.grade(row, response).get("correct") is False,
                         f"level {level}: {name} must fail: {prompt[:60]!r}")


def _check_refusals(suite: _Suite, top: int) -> None:
    for split in ("trial", "probe"):
        body = {"level": 1, "count": 1, "seed": 0, "split": split}
        suite.expect(suite.client.post("/generate", json=body).status_code in (400, 403, 422),
                     f"POST /generate must refuse split {split!r}: exams are not given out over HTTP")
    for body in ({"level": 0, "count": 1}, {"level": top + 1, "count": 1}, {"level": 1, "count": -1},
                 {"level": 1, "count": 1, "split": "nonsense"}, {"level": "one", "count": 1}):
        answer = suite.client.post("/generate", json=body)
        suite.expect(400 <= answer.status_code < 500 and answer.text.strip(),
                     f"POST /generate {body} must be refused with a reason, answered {answer.status_code}")
    answer = suite.client.get(f"/eval/{top + 1}")
    suite.expect(400 <= answer.status_code < 500, f"GET /eval/{top + 1} must be refused, there is no such level")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m realm.guild.skills.conformance BASE_URL, for example http://127.0.0.1:8090")
        return 2
    try:
        check(arguments[0])
    except (ConformanceError, httpx.HTTPError) as error:
        print(error if isinstance(error, ConformanceError) else f"{arguments[0]}: no answer ({error}); is it running?")
        return 1
    print(f"{arguments[0]} keeps the skill contract")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
