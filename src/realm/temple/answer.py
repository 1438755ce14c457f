"""One answer of a checkpoint, in a process of its own: `python -m realm.temple.answer --home HOME CHECKPOINT_ID`.

Prints one JSON object: {text, tokens, correct, loss, seconds}. The Order of the Oracle asks this where no Oracle
service runs; the model and torch go with the process.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.skills import Problem, get_skill
from realm.heroes.profile import parse_profile
from realm.settings import RealmHome

TOKENS_AT_MOST = 64


def question() -> Problem:
    """A problem of the public split: an answer to it may be seen by anybody."""
    return get_skill("bin").generate(3, 1, seed=0, split="public")[0]


def answer(home: RealmHome, checkpoint_id: str) -> dict[str, Any]:
    """Load the checkpoint and let it answer one question.

    Raises:
        LookupError: no such checkpoint in the ledger.
        ValueError: its loss on the question is not finite: the weights are broken although their bytes are right.
    """
    engine = db.connect(home)
    with db.read(engine) as connection:
        table = db.checkpoints
        row = connection.execute(sa.select(table).where(table.c.id == checkpoint_id)).mappings().first()
        if row is None:
            raise LookupError(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
        profile = parse_profile(campaigns.get(connection, row["campaign_id"])["config"], "campaign")
    engine.dispose()
    from realm.heroes.model import Hero

    begun, problem = time.monotonic(), question()
    hero = Hero.load(profile, home.root / row["path"])
    rows, _dropped = hero.render([problem.messages])
    loss = hero.loss(rows)
    if not math.isfinite(loss):
        raise ValueError(f"the loss of checkpoint {checkpoint_id} on a plain question is {loss}: broken weights")
    [(text, tokens)] = hero.answer([problem.messages[:-1]], TOKENS_AT_MOST)
    return {"text": text, "tokens": tokens, "correct": get_skill("bin").grade(problem, text).correct, "loss": loss,
            "seconds": time.monotonic() - begun}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m realm.temple.answer", description=__doc__.split("\n")[0])
    parser.add_argument("--home", required=True)
    parser.add_argument("checkpoint_id")
    given = parser.parse_args()
    print(json.dumps(answer(RealmHome(given.home), given.checkpoint_id)))


if __name__ == "__main__":
    main()
