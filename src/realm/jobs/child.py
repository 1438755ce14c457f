"""One job in a process of its own: `python -m realm.jobs.child FOLDER` reads task.json, leaves outcome.json, ends."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from realm.guild.skills import attach
from realm.jobs.bench import Bench, Task, perform
from realm.jobs.depot import HomeDepot
from realm.jobs.local import OUTCOME, TASK
from realm.settings import RealmHome

PARENT_S = 0.5
NICE = 10  # the battle goes first


def main(folder: Path) -> None:
    """Work the task of a folder; the outcome appears whole or not at all."""
    told = json.loads((folder / TASK).read_text(encoding="utf-8"))
    # Not `getppid()` here: an arena that died while this process was importing is not its parent any more.
    threading.Thread(target=_follow, args=(told["parent"],), daemon=True).start()
    os.nice(NICE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    home = RealmHome(told["home"])
    attach(home.root)
    outcome = perform(Bench(Task(**told["task"]), HomeDepot(home), folder, home))
    part = folder / f".{OUTCOME}"
    part.write_text(json.dumps(outcome), encoding="utf-8")
    os.replace(part, folder / OUTCOME)


def _follow(parent: int) -> None:
    """Nobody waits for the outcome when the arena is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
