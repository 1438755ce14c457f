"""What is loaded and what must not be: hashes, memory, idle models, nothing but safetensors; text as it is written."""

from __future__ import annotations

import json
import random
import struct

import hero_kit
import oracle_kit as kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm import db
from realm.oracle import catalog, memory
from realm.oracle.engine import Engine
from realm.oracle.errors import OracleError
from realm.oracle.rows import Row
from realm.oracle.writing import Writer


@pytest.fixture
def realm(home, engine):
    made = kit.populated(home, engine)
    made.home, made.engine, made.oracle = home, engine, Engine(home)
    made.found = lambda name: catalog.resolve(home, engine, name)
    yield made
    made.oracle.close()


def ids(realm) -> list[str]:
    return [entry["id"] for entry in realm.oracle.status()]


def refused(realm, name: str) -> OracleError:
    with pytest.raises(OracleError) as error, realm.oracle.lease(realm.found(name)):
        pass
    return error.value


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
def test_a_flipped_byte_is_named_and_never_loaded(realm, file):
    path = realm.found(realm.first).folder / file
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    error = refused_or_unresolved(realm, realm.first)
    assert error.status == 503 and error.code == "checkpoint_corrupt" and file in str(error)
    assert ids(realm) == []
    path.write_bytes(whole)
    with realm.oracle.lease(realm.found(realm.first)) as model:
        assert model.found.id == realm.first


def refused_or_unresolved(realm, name: str) -> OracleError:
    try:
        return refused(realm, name)
    except OracleError as error:  # a manifest that is no JSON any more is found before a load is tried
        return error


def test_a_file_that_does_not_belong_is_named(realm):
    (realm.found(realm.first).folder / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin" in str(refused(realm, realm.first))


def test_a_condemned_checkpoint_is_not_served_even_when_loaded(realm):
    with realm.oracle.lease(realm.found(realm.first)):
        pass
    with db.write(realm.engine) as connection:
        connection.execute(db.checkpoints.update().where(db.checkpoints.c.id == realm.first).values(state="corrupt"))
    with pytest.raises(OracleError, match="state 'corrupt'") as error:
        realm.found(realm.first)
    assert error.value.status == 404


def test_too_little_memory_is_refused_with_the_sum(realm, monkeypatch):
    need = memory.model_bytes(realm.found(realm.first).folder)
    assert need == pytest.approx(1.1 * 4 * sum_of_weights(realm), rel=0.01)
    from realm.oracle.backends import local

    monkeypatch.setattr(local, "free_memory", lambda: (600_000_000, "this machine"))
    settings_ = realm.home.settings.model_copy(update={"oracle_min_free": 600_000_000})
    realm.home.settings = settings_
    error = refused(realm, realm.first)
    assert error.code == "insufficient_memory" and error.status == 503
    assert "600 MB is free" in str(error) and "600 MB must stay free" in str(error) and "battle stop" in str(error)
    realm.home.settings = settings_.model_copy(update={"oracle_min_free": 0})
    with realm.oracle.lease(realm.found(realm.first)):
        assert ids(realm) == [realm.first]


def sum_of_weights(realm) -> int:
    from safetensors import safe_open

    with safe_open(str(realm.found(realm.first).folder / "model.safetensors"), "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())


def test_idle_models_make_room_and_leave_by_themselves(realm):
    realm.home.settings = realm.home.settings.model_copy(update={"oracle_models": 2})
    for name in (realm.first, realm.second, "base"):
        with realm.oracle.lease(realm.found(name)):
            pass
    assert set(ids(realm)) == {realm.second, "base:pip"}, "the one that was idle for longest gave way"
    with realm.oracle.lease(realm.found(realm.second)), realm.oracle.lease(realm.found("base")):
        assert refused(realm, realm.first).code == "busy"
        with pytest.raises(OracleError, match="answers 1 requests"):
            realm.oracle.unload(realm.second)
    assert realm.oracle.unload_idle(3600) == []
    assert realm.oracle.unload(realm.second) and not realm.oracle.unload(realm.second)
    assert realm.oracle.unload_idle(0) == ["base:pip"] and ids(realm) == []


def test_what_is_no_safetensors_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    for content in (b"", b"short", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"null",
                    struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 12) + b'{"a": {"b":1'):
        file.write_bytes(content)
        with pytest.raises(OracleError, match="model.safetensors is no safetensors"):
            memory.model_bytes(tmp_path)
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "BF16", "shape": [10, 100], "data_offsets": [0, 2000]}})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert memory.model_bytes(tmp_path) == 4400, "counted as it will be held: fp32"


def test_a_model_whose_numbers_broke_says_so(realm):
    import torch

    with realm.oracle.lease(realm.found(realm.first)) as model:
        with torch.no_grad():
            next(model.hero.model.parameters()).fill_(float("nan"))
        row = row_of(model, [5, 6, 7])
        realm.oracle.submit(model, [row])
        kit.until(lambda: row.over, "the row ended")
        assert row.error.code == "broken_weights" and realm.first in str(row.error)


def test_a_failure_while_writing_ends_the_rows_and_not_the_thread(realm, monkeypatch):
    from realm.oracle.backends import local

    with realm.oracle.lease(realm.found(realm.first)) as model:
        bad = row_of(model, [5, 6])
        with monkeypatch.context() as patch:
            patch.setattr(local, "choose", lambda *_: 1 / 0)
            realm.oracle.submit(model, [bad])
            kit.until(lambda: bad.over, "the bad row ended")
        assert bad.error.status == 500 and "ZeroDivisionError" in str(bad.error)
        good = row_of(model, [5, 6])
        realm.oracle.submit(model, [good])
        kit.until(lambda: good.over, "the good row ended")
        assert good.error is None and len(good.tokens) == 8


def row_of(model, prompt, temperature=0.0, seed=0, index=0, top_p=1.0, limit=8) -> Row:
    return Row(index, prompt, limit, temperature, top_p, seed, None, False, Writer(model.tokenizer))


def test_a_seeded_answer_is_the_same_in_any_company(realm):
    """Alone, with fifty others of other lengths, and with some of them hung up on the way."""
    with realm.oracle.lease(realm.found(realm.first)) as model:
        def ask(rows):
            realm.oracle.submit(model, rows)
            kit.until(lambda: all(row.over for row in rows), "all ended")

        alone = [row_of(model, [5, 6, 7 + k], 1.0, k, top_p=0.9 if k % 2 else 1.0) for k in range(4)]
        for row in alone:
            ask([row])
        rng = random.Random(3)
        crowd = [row_of(model, [rng.randrange(300) for _ in range(rng.randrange(1, 30))], 1.2, k) for k in range(50)]
        again = [row_of(model, row.prompt, 1.0, k, top_p=row.top_p) for k, row in enumerate(alone)]
        for row in crowd[::3]:
            row.cancelled = True
        ask([*crowd[:25], *again, *crowd[25:]])
        assert [row.tokens for row in again] == [row.tokens for row in alone]


def test_sampling_follows_the_probabilities():
    """10,000 draws from three known distributions; each count is within five standard deviations of its mean."""
    import torch

    from realm.oracle.backends.local import choose

    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 10_000
    for top_p, temperature, expected in ((1.0, 1.0, [0.5, 0.3, 0.15, 0.05]), (0.7, 1.0, [0.625, 0.375, 0, 0]),
                                         (1.0, 0.5, [0.6849, 0.2466, 0.0616, 0.0068])):  # fmt: skip
        rows = [Row(k, [1], 1, temperature, top_p, 9, None, False, None) for k in range(n)]
        counts = torch.bincount(choose(probs.log().expand(n, 4), rows), minlength=4).tolist()
        for count, p in zip(counts, expected, strict=True):
            assert abs(count - n * p) <= 5 * (n * p * (1 - p)) ** 0.5 + 2, (top_p, temperature, counts)


# --- text as it is written


TOKENIZER = hero_kit.tokenizer()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_before_the_first_stop(text, stops):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    whole = TOKENIZER.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    writer, pieces = Writer(TOKENIZER, stops), []
    for token in tokens:
        pieces.append(writer.push(token))
        if writer.stopped:
            break
    pieces.append(writer.end())
    cuts = [whole.find(stop) for stop in stops if stop in whole]
    assert "".join(pieces) == writer.text == (whole[: min(cuts)] if cuts else whole)
    assert writer.stopped == bool(cuts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=30))
def test_any_tokens_give_the_decoder_s_text(tokens):
    """Half characters and control tokens included, as an untrained hero writes them."""
    writer = Writer(TOKENIZER)
    pieces = [writer.push(token) for token in tokens] + [writer.end()]
    assert "".join(pieces) == TOKENIZER.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
