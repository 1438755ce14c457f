"""Order of the Oracle (critical): local inference answers.

The Oracle service is asked over HTTP where it runs; else the current checkpoint answers in a child process on the
processor, so that a training hero keeps its GPU. What could not be asked is a warning.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import sqlalchemy as sa

from realm import db, services
from realm.temple.answer import TOKENS_AT_MOST, question
from realm.temple.orders.champion import NONE, current
from realm.temple.orders.check import Asked, Check, Order

HTTP_S = 60.0  # the service loads the model at the first question
CHILD_S = 240.0
LATELY_S = 3600.0
CHILD_BYTES = 700_000_000  # a process with torch, before any weights
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
              "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
LOG = "read the end of {}, then python3 -m training start-all"


def _inference(asked: Asked) -> Iterator[Check]:
    import httpx  # 0.3 s that the hero loop does without

    row = current(asked)
    if row is None:
        yield Check("inference", "skip", NONE)
        return
    answered = _lately(asked, row) if asked.sparing else ""
    if answered:
        yield Check("inference", "ok", answered)
        return
    try:
        yield _service(asked, row)
    except httpx.ConnectError:
        yield _child(asked, row)  # the service does not run: that is no fault of the hero


def _lately(asked: Asked, row: Mapping[str, Any]) -> str:
    """What the hero answered within the last hour in trials of this campaign; empty when it did not."""
    table = db.trials
    query = sa.select(sa.func.sum(table.c.n), sa.func.max(table.c.started_at)).where(
        table.c.campaign_id == row["campaign_id"], table.c.tokens > 0, table.c.started_at > db.now() - LATELY_S)
    with db.read(asked.engine) as connection:
        count, last = connection.execute(query).one()
    return f"{count} questions were answered in trials, the last {(db.now() - last) / 60:.0f} min ago" if count else ""


def _service(asked: Asked, row: Mapping[str, Any]) -> Check:
    import httpx

    settings = asked.home.settings
    port = settings.port("oracle")
    headers = {"Host": f"localhost:{port}"} | ({"Authorization": f"Bearer {settings.token}"} if settings.token else {})
    host = services.reachable_host(settings)
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=HTTP_S, trust_env=False) as client:
            listed = client.get("/v1/models")
            listed.raise_for_status()
            models = [model["id"] for model in listed.json()["data"]]
            model = next((m for m in models if row["id"] in m), models[0] if models else None)
            if model is None:
                return Check("inference", "fail", "the Oracle service lists no checkpoint to ask",
                             "python3 -m training vault list; python3 -m training temple champion")  # fmt: skip
            told = client.post("/v1/chat/completions", json={
                "model": model, "messages": question().messages[:-1], "max_tokens": TOKENS_AT_MOST,
                "temperature": 0})  # fmt: skip
            told.raise_for_status()
            text = told.json()["choices"][0]["message"]["content"]
    except httpx.ConnectError:
        raise
    except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
        return Check("inference", "fail", f"the Oracle service on port {port} gives no answer: "
                     f"{type(error).__name__}: {error}", LOG.format(asked.home.logs / "oracle.log"))  # fmt: skip
    return _heard(text, f"the Oracle service answers with {model}")


def _child(asked: Asked, row: Mapping[str, Any]) -> Check:
    need = CHILD_BYTES + 2 * row["bytes"]
    free = psutil.virtual_memory().available
    if row["state"] != "live":
        return Check("inference", "skip", f"checkpoint {row['id']} is {row['state']}: see the Order of the Champion")
    if free < need:
        return Check("inference", "skip", f"not asked: {need / 1e9:.1f} GB of memory are needed and {free / 1e9:.1f} "
                     "are free", "end other programs, then python3 -m training temple oracle")  # fmt: skip
    command = [sys.executable, "-m", "realm.temple.answer", "--home", str(asked.home.root), row["id"]]
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=errors,
                                 env={**os.environ, **ONE_THREAD})  # fmt: skip
        try:
            code = child.wait(CHILD_S)
        except subprocess.TimeoutExpired:
            return Check("inference", "skip", f"no answer within {CHILD_S:.0f} s: the machine is too slow or too busy",
                         "ask again when it is not: python3 -m training temple oracle")  # fmt: skip
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        for stream in (told, errors):
            stream.seek(0)
        said, wrong = told.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
    if code == -signal.SIGKILL:
        return Check("inference", "skip", "the process that asked was killed, most likely for its memory",
                     "end other programs, then python3 -m training temple oracle")  # fmt: skip
    if code:
        last = wrong.strip().splitlines()[-1] if wrong.strip() else f"exit code {code}"
        return Check("inference", "fail", f"checkpoint {row['id']} (step {row['step']:,}) does not answer: {last}",
                     f"verify it: python3 -m training vault verify {row['id']}; or go back: python3 -m training vault "
                     "rollback ID")  # fmt: skip
    found = json.loads(said)
    return _heard(found["text"], f"checkpoint {row['id']} (step {row['step']:,}) answers in {found['seconds']:.1f} s")


def _heard(text: str, said: str) -> Check:
    """A wrong answer is no fault of inference, and an untrained hero may well say nothing."""
    return Check("inference", "ok", f"{said}: {text[:60]!r}" if text.strip() else f"{said}, with nothing")


ORACLE = Order("oracle", "Oracle", "local inference answers", True, (_inference,))
