"""A step is whole or not at all, says what became of every row, and writes the same bytes on every engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from afs import rows
from afs.engine import EngineError, run_parts
from afs.jsonl import AtomicWriter, ConservationError, file_sha256
from afs.step import How, Mapped, Step, StepError, UsageError, content_hash, map_rows, read_manifest


class Shout:
    """Upper case for even rows, the rest is filtered; rows without `n` are quarantined."""

    def __call__(self, batch):
        for row in batch:
            n = row.value.get("n")
            if n is None:
                yield Mapped("quarantined", {}, "no 'n'")
            elif n % 2:
                yield Mapped("filtered", {"rest": row.raw})
            else:
                yield Mapped("out", {"out": row.raw.upper()})


def data(path: Path, count: int = 2000) -> Path:
    with AtomicWriter(path) as out:
        for n in range(count):
            row = {"instruction": f"q{n}", "output": "a" * (n % 50), "source": f"s_{n:04d}", "domain": f"d{n % 3}"}
            out.write_raw(b"{bad" if n % 300 == 7 else orjson.dumps(row if n % 250 == 9 else row | {"n": n}))
    return path


def shout(source: Path, target: Path, **how):
    rest = target.with_name("rest.jsonl")
    with Step("shout", [source], [target, rest], {"loud": True}, seed=1, how=How(**how)) as step:
        if not step.current:
            with step.writer(target) as out, step.writer(rest) as other:
                map_rows(step, Shout(), {"out": out, "rest": other})
    return step.report


def test_counts_manifest_and_quarantine(tmp_path):
    source = data(tmp_path / "in.jsonl")
    report = shout(source, tmp_path / "out.jsonl")
    counts = report.counts
    assert (counts.read, counts.quarantined) == (2000, 7 + 8)
    assert counts.out + counts.filtered + counts.quarantined == 2000
    manifest = read_manifest(tmp_path / "out.jsonl.manifest.json")
    assert manifest["key"] == report.key and manifest["seed"] == 1 and manifest["parameters"] == {"loud": True}
    size = source.stat().st_size
    assert manifest["inputs"][0] == {"path": str(source), "xxh128": content_hash(source), "bytes": size}
    for found in manifest["outputs"]:
        path = tmp_path / found["path"]
        assert found["sha256"] == file_sha256(path) and found["rows"] == path.read_bytes().count(b"\n")
    records = [orjson.loads(line) for line in (tmp_path / "out.quarantine.jsonl").read_bytes().splitlines()]
    lines = source.read_bytes().splitlines()
    assert [r["line"] for r in records] == sorted(r["line"] for r in records) and len(records) == 15
    assert all(lines[r["line"] - 1] == r["raw"].encode() for r in records)
    assert {r["reason"] for r in records if "'n'" in r["reason"]} == {"no 'n'"}
    sources = report.by_source["s"]
    assert sources["read"] == sources["out"] + sources["filtered"] + sources["quarantined"] == 1993
    assert sum(report.by_domain.values()) == counts.out


@pytest.mark.parametrize("workers", [2, 7])
def test_the_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(rows, "PART_BYTES", 5_000)
    source = data(tmp_path / "in.jsonl")
    (tmp_path / "many").mkdir()
    (tmp_path / "one").mkdir()
    one = shout(source, tmp_path / "one" / "out.jsonl")
    many = shout(source, tmp_path / "many" / "out.jsonl", workers=workers)
    assert one.to_dict() == many.to_dict()
    for name in ("out.jsonl", "rest.jsonl", "out.quarantine.jsonl", "out.jsonl.manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster takes its time to begin on a busy machine
def test_the_same_bytes_on_ray(tmp_path, monkeypatch, ray_alone):
    monkeypatch.setattr(rows, "PART_BYTES", 5_000)
    # Workers of a cluster import the transform by name.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    source = data(tmp_path / "in.jsonl")
    for name in ("one", "ray"):
        (tmp_path / name).mkdir()
    one = shout(source, tmp_path / "one" / "out.jsonl")
    ray = shout(source, tmp_path / "ray" / "out.jsonl", engine="ray", workers=2)
    assert one.to_dict() == ray.to_dict()
    assert file_sha256(tmp_path / "one" / "out.jsonl") == file_sha256(tmp_path / "ray" / "out.jsonl")


def test_a_second_run_does_nothing_and_says_so(tmp_path):
    source, target = data(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    first = shout(source, target)
    stamp = target.stat().st_mtime_ns
    again = shout(source, target)
    assert again.current and "nothing to do" in again.summary() and target.stat().st_mtime_ns == stamp
    assert again.to_dict() == first.to_dict() and (tmp_path / "out.quarantine.jsonl").exists()
    assert not shout(source, target, force=True).current
    target.write_bytes(b"tampered\n")
    assert not shout(source, target).current and file_sha256(target) == first.outputs[0]["sha256"]
    (tmp_path / "rest.jsonl").unlink()
    assert not shout(source, target).current and (tmp_path / "rest.jsonl").exists()
    source.write_bytes(source.read_bytes() + b'{"instruction":"q","output":"a","n":2}\n')
    assert shout(source, target).counts.read == 2001


def test_a_dry_run_counts_and_writes_nothing(tmp_path):
    source = data(tmp_path / "in.jsonl")
    real = shout(source, tmp_path / "out.jsonl")
    before = sorted(tmp_path.iterdir())
    dry = shout(source, tmp_path / "other.jsonl", dry_run=True)
    assert dry.counts == real.counts and dry.dry_run and "dry run" in dry.summary()
    assert "would be" in dry.notes[-1] and sorted(tmp_path.iterdir()) == before


def test_strict_stops_at_the_first_bad_row_and_leaves_the_old_output(tmp_path):
    source, target = data(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    target.write_bytes(b"old\n")
    with pytest.raises(StepError, match=r"in\.jsonl:8 \(byte \d+\): bad JSON.*--strict"):
        shout(source, target, strict=True)
    assert target.read_bytes() == b"old\n" and sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_rows_that_do_not_balance_fail_the_step(tmp_path):
    source, target = data(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    with pytest.raises(ConservationError, match="10 rows were read but 9"):
        with Step("lossy", [source], [target], {}) as step, step.writer(target) as out:
            step.counts.read, step.counts.out = 10, 9
            out.write_raw(b"{}")
    assert read_manifest(tmp_path / "out.jsonl.manifest.json") is None
    with pytest.raises(ConservationError, match="source 'x'"):
        with Step("lossy", [source], [target], {}) as step:
            step.by_source["x"] = {"read": 2, "out": 1}


def test_inputs_are_never_overwritten(tmp_path):
    source = data(tmp_path / "in.jsonl", 10)
    (tmp_path / "link.jsonl").symlink_to(source)
    for target in (source, tmp_path / "x" / ".." / "in.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(UsageError, match="also an input"):
            Step("s", [source], [target], {})
    with pytest.raises(UsageError, match="does not exist"):
        Step("s", [tmp_path / "no.jsonl"], [tmp_path / "o.jsonl"], {})
    with pytest.raises(UsageError, match="is a folder"):
        Step("s", [tmp_path], [tmp_path / "o.jsonl"], {})


def test_engines_keep_the_order_and_pass_errors_on():
    assert list(run_parts(abs, [-3, -1, -2], workers=2)) == [3, 1, 2]
    with pytest.raises(EngineError, match="no engine 'spark'"):
        run_parts(abs, [], engine="spark")
    with pytest.raises(ValueError, match="workers"):
        run_parts(abs, [], workers=-1)
    with pytest.raises(TypeError):
        list(run_parts(abs, ["x"], workers=2))


SLOW_STEP = """
import sys, time
from pathlib import Path
from test_afs_step import Shout
from afs import rows
from afs.step import Step, map_rows

class Slow(Shout):
    def __call__(self, batch):
        time.sleep(0.02)
        return super().__call__(batch)

rows.PART_BYTES = 3000
target = Path(sys.argv[2])
with Step("slow", [sys.argv[1]], [target, target.with_name("rest.jsonl")], {}) as step:
    with step.writer(target) as out, step.writer(target.with_name("rest.jsonl")) as rest:
        print("begun", flush=True)
        map_rows(step, Slow(), {"out": out, "rest": rest})
"""


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5])
def test_kill_9_leaves_the_old_output_and_the_next_run_cleans_up(tmp_path, seconds):
    source, target = data(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    target.write_bytes(b"old\n")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([sys.executable, "-c", SLOW_STEP, str(source), str(target)], env=env,
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout.readline() == b"begun\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert target.read_bytes() == b"old\n" and not (tmp_path / "out.jsonl.manifest.json").exists()
    assert list(tmp_path.glob(".*.part")), "the kill met the step at work"
    shout(source, target)
    assert not list(tmp_path.glob(".*.part")) and target.read_bytes() != b"old\n"


def test_an_input_is_never_a_file_that_the_step_removes_beside_its_output(tmp_path):
    source = data(tmp_path / "out.quarantine.jsonl", 5)
    with pytest.raises(UsageError, match="writes or removes beside its output"):
        shout(source, tmp_path / "out.jsonl")
    assert source.exists()


def test_two_outputs_of_one_name_are_refused(tmp_path):
    source = data(tmp_path / "in.jsonl", 5)
    with pytest.raises(UsageError, match="two outputs would be"):
        shout(source, tmp_path / "rest.jsonl")
    with pytest.raises(UsageError, match="writes beside its outputs"):
        Step("x", [source], [tmp_path / "a.jsonl", tmp_path / "a.quarantine.jsonl"], {})


def test_strict_does_not_accept_current_outputs_that_left_rows_aside(tmp_path):
    source = data(tmp_path / "in.jsonl")
    shout(source, tmp_path / "out.jsonl")
    assert shout(source, tmp_path / "out.jsonl").current
    with pytest.raises(StepError, match="--strict stops"):
        shout(source, tmp_path / "out.jsonl", strict=True)


def test_an_output_that_is_a_folder_is_refused_before_the_work(tmp_path):
    source = data(tmp_path / "in.jsonl", 5)
    with pytest.raises(UsageError, match="is a folder"):
        shout(source, tmp_path)


def _killed(part: int) -> int:
    if part == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def test_a_killed_worker_is_an_engine_error():
    with pytest.raises(EngineError, match="killed, or out of memory"):
        list(run_parts(_killed, range(6), 2))
