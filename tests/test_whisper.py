"""The Whisper: its loss against ten lines, teachers that do not fit, predictions kept for a resume, text teachers."""

from __future__ import annotations

import json
from dataclasses import replace

import hero_kit as kit
import pytest
import sqlalchemy as sa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_battle import fresh, stop_after
from test_scribe import parameters
from test_teacher import endpoint, said
from torch.nn import functional

from realm import db
from realm.guild.skills import get_skill
from realm.heroes.model import IGNORE, Hero, row_tensors
from realm.quests.origin import origin_of
from realm.schools import chassis, scribe, whisper
from realm.schools.chassis import Context, Interrupted, OptimizerState, Segment, TrainingError
from realm.temple import cleric
from realm.vault import shelf


def reference(student, teacher, targets, temperature, hard):
    """The loss of Hinton 2015 with hard labels mixed in, over whole predictions; [n, V], [n, V], [n] → [n]."""
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, -1), functional.log_softmax(teacher / temperature, -1),
        log_target=True, reduction="none").sum(-1)  # fmt: skip
    return hard * functional.cross_entropy(student, targets, reduction="none") + (1 - hard) * temperature**2 * soft


def kept(student, teacher, temperature, top):
    likely, logs = whisper.soften(teacher, temperature, top)
    return whisper.divergence(student, likely, logs, temperature)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.0, 5.0]), st.sampled_from([0.1, 3.0, 30.0]))
def test_divergence_equals_the_reference_where_all_is_kept(seed, temperature, spread):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (spread * torch.randn(7, 40, generator=generator) for _ in range(2))
    expected = reference(student, teacher, torch.zeros(7, dtype=torch.long), temperature, hard=0.0)
    for top in (40, 99):
        assert torch.allclose(kept(student, teacher, temperature, top), expected, rtol=1e-5, atol=1e-5)
    last = torch.zeros(7)
    for top in (1, 5, 20, 39):  # the more is kept, the nearer, and never above
        bound = kept(student, teacher, temperature, top)
        assert (bound >= last - 1e-4).all() and (bound <= expected + 1e-4 * (1 + expected)).all()
        last = bound
    assert torch.allclose(last, expected, rtol=1e-4, atol=1e-4), "one token as the rest is that token"
    assert (kept(teacher, teacher, temperature, 5).abs() < 1e-4).all()


def test_what_is_kept_is_a_distribution_and_extreme_logits_are_finite():
    logits = torch.tensor([[0.0, 200.0, -200.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    likely, logs = whisper.soften(logits, 1.0, 2)
    assert torch.allclose(logs.exp().sum(-1), torch.ones(2)) and likely[0].tolist()[0] == 1
    student = torch.tensor([[0.0, -200.0, 200.0, 1.0], [5.0, 0.0, 0.0, -5.0]], requires_grad=True)
    loss = whisper.divergence(student, likely, logs, 1.0).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all() and student.grad.abs().max() > 0.1


# --- a teacher that predicts --------------------------------------------------------------------------------------


@pytest.fixture
def hero(home):
    profile = kit.micro_profile(optimizer={"type": "adamw", "weight_decay": 0.0})
    return Hero.load(profile, kit.born(home, profile))


def teacher_folder(home, name="sage", seed=5, **changes):
    """Another hero of the same tokenizer, in a folder of its own."""
    profile = kit.micro_profile(name, model={"architecture": {"seed": seed, "initializer_range": 0.3}}, **changes)
    return kit.born(home, profile)


@pytest.fixture
def context(home, tmp_path):
    folder = tmp_path / "live"
    folder.mkdir()
    notes = []
    options = {"teacher": str(teacher_folder(home)), "top": 400}
    made = Context(folder=folder, seed=7, steps=4, quest_id="Q", home=home, options=options,
                   note=lambda kind, text, level, **payload: notes.append((kind, text, level, payload)))  # fmt: skip
    return made, notes


def raws(n=13):
    return [{"messages": m} for m in kit.conversations(n)]


def with_options(context, **more):
    return replace(context, options={**context.options, **more})


def test_predictions_are_the_teachers_at_exactly_the_trained_tokens(hero, context):
    rows, dropped = whisper.prepare(hero, raws(), with_options(context[0], temperature=3.0))
    teacher = Hero.load(hero.profile, whisper.Path(context[0].options["teacher"]))
    assert dropped == [] and len(rows) == 13
    for row in rows:
        ids, labels = row_tensors(row)
        with torch.no_grad():
            logits = teacher.model(ids[None]).logits[0, :-1][labels[1:] != IGNORE]
        expected = torch.log_softmax(logits / 3.0, -1)
        assert row.likely.shape == (row.trained, len(hero.tokenizer))
        assert torch.allclose(expected.gather(-1, row.likely.long()), row.logs[:, :-1], atol=1e-5)
        stop = hero.tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert [t for t, on in zip(row.ids, row.mask, strict=True) if on][-1] == stop
    told = context[1][-1]
    assert told[0] == "lesson" and told[3]["predictions"] == sum(row.trained for row in rows)


def learn(hero, rows, context, steps=4, **changes):
    facts = []
    segment = Segment("c", "q", 7, 0, steps, 0)
    whisper.train(hero, rows, segment, OptimizerState(), context.folder, lambda f: facts.append(f) or True, context)
    return facts


@pytest.mark.parametrize("hard,temperature", [(0.5, 2.0), (0.0, 1.0)])
def test_training_equals_a_plain_loop(hero, context, hard, temperature):
    asked = with_options(context[0], hard=hard, temperature=temperature)
    rows, _ = whisper.prepare(hero, raws(), asked)
    teacher = Hero.load(hero.profile, whisper.Path(asked.options["teacher"]))
    twin = Hero.load(hero.profile, kit.born(context[0].home, hero.profile))
    facts = learn(hero, rows, asked)
    wanted, size = twin.profile.training_defaults, twin.profile.rows_per_step
    order = list(chassis.stream("c", "q", len(rows), 0, 4 * size))
    optimizer = torch.optim.AdamW(twin.model.parameters(), lr=wanted.learning_rate,
                                  betas=twin.profile.optimizer.betas, weight_decay=0.0)  # fmt: skip
    twin.model.train()
    for step in range(4):
        batch = [rows[i] for i in order[step * size : (step + 1) * size]]
        trained, loss, plain = sum(r.trained for r in batch), 0.0, 0.0
        for row in batch:
            ids, labels = row_tensors(row)
            on = labels[1:] != IGNORE
            with torch.no_grad():
                said_there = teacher.model(ids[None]).logits[0, :-1][on]
            logits = twin.model(ids[None]).logits[0, :-1][on]
            part = reference(logits, said_there, labels[1:][on], temperature, hard).sum() / trained
            part.backward()
            loss += float(part.detach())
            plain += float(functional.cross_entropy(logits, labels[1:][on], reduction="sum").detach()) / trained
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), wanted.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = wanted.learning_rate * min(1.0, (step + 1) / wanted.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        assert facts[step].facts["trained_loss"] == pytest.approx(loss, rel=1e-4)
        assert facts[step].loss == pytest.approx(plain, rel=1e-4), "strain is told from the plain loss"
    assert torch.allclose(parameters(hero), parameters(twin), atol=2e-4)


def test_accumulation_changes_nothing(home, context):
    results = []
    for size, times in ((12, 1), (4, 3)):
        profile = kit.micro_profile(training_defaults={"batch_size": size, "gradient_accumulation": times})
        hero = Hero.load(profile, kit.born(home, profile))
        rows, _ = whisper.prepare(hero, raws(), context[0])
        facts = learn(hero, rows, context[0])
        results.append(([f.facts["trained_loss"] for f in facts], [f.loss for f in facts], parameters(hero)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-4)


def test_hard_labels_alone_are_the_scribe(hero, home, context):
    asked = with_options(context[0], hard=1.0)
    rows, _ = whisper.prepare(hero, raws(), asked)
    learn(hero, rows, asked)
    twin = Hero.load(hero.profile, kit.born(home, hero.profile))
    plain, _ = scribe.prepare(twin, raws())
    scribe.train(twin, plain, Segment("c", "q", 7, 0, 4, 0), OptimizerState(), context[0].folder, lambda f: True)
    assert torch.allclose(parameters(hero), parameters(twin), atol=1e-5)


def test_the_oracles_eye_weighs_a_whispered_token(hero, context):
    asked = with_options(context[0], oracle_eye="focal")
    rows, _ = whisper.prepare(hero, raws(), asked)
    facts = learn(hero, rows, asked)
    assert 1 <= facts[0].facts["effective_tokens"] < facts[0].trained_tokens
    assert facts[0].facts["teacher_divergence"] > 0


def test_kept_predictions_are_read_and_the_teacher_is_not_loaded(hero, context, monkeypatch):
    first, _ = whisper.prepare(hero, raws(), context[0])
    monkeypatch.setattr(whisper, "_ask_model", lambda *_: pytest.fail("asked again"))
    again, _ = whisper.prepare(hero, raws(), replace(context[0], fresh=False))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.logs, b.logs) and torch.equal(a.likely, b.likely)
    for other in (raws(12), raws()[::-1]):
        with pytest.raises(TrainingError, match="made of other rows or options"):
            whisper.prepare(hero, other, context[0])
    with pytest.raises(TrainingError, match="made of other rows or options"):
        whisper.prepare(hero, raws(), with_options(context[0], temperature=1.0))
    (context[0].folder / whisper.TOLD).write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="delete the file and go on"):
        whisper.prepare(hero, raws(), context[0])


def test_told_to_stop_it_keeps_nothing_half(hero, context):
    with pytest.raises(Interrupted):
        whisper.prepare(hero, raws(), replace(context[0], interrupted=lambda: True))
    assert not list(context[0].folder.iterdir())


def test_rows_that_are_all_masked_are_refused(hero, context):
    rows, dropped = whisper.prepare(hero, [{"messages": [{"role": "user", "content": "a"}]}], context[0])
    assert rows == [] and len(dropped) == 1


# --- teachers that do not fit -------------------------------------------------------------------------------------


def test_another_vocabulary_is_refused_before_its_weights_are_loaded(hero, home, context, monkeypatch):
    folder = teacher_folder(home, "stranger")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocab = told["model"]["vocab"]
    vocab["yes"], vocab["no"] = vocab.get("no", 398), vocab.get("yes", 399)
    path.write_text(json.dumps(told))
    monkeypatch.setattr(whisper, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(TrainingError, match="another vocabulary .*(yes|no).* is .* there and .* here.*http address"):
        whisper.prepare(hero, raws(), with_options(context[0], teacher=str(folder)))


def test_vocabulary_of_another_size_names_the_first_other_token():
    class Fake:
        def __init__(self, vocab):
            self.vocab = vocab

        def get_vocab(self):
            return self.vocab

    own = {"a": 0, "b": 1}
    whisper.check_vocabulary(Fake(dict(own)), Fake(own), "t")
    for theirs, says in (({"a": 0}, "'b' is missing there and 1 here"), ({"b": 0, "a": 1}, "'a' is 1 there and 0 here"),
                         ({"a": 0, "b": 1, "c": 2}, "'c' is 2 there and missing here")):  # fmt: skip
        with pytest.raises(TrainingError, match=says):
            whisper.check_vocabulary(Fake(theirs), Fake(own), "t")


def test_a_padded_output_of_the_teacher_is_cut_off(hero, home, context):
    """Qwen's larger models have more outputs than tokens; those are no tokens of the hero."""
    from transformers import AutoModelForCausalLM

    folder = teacher_folder(home, "padded")
    before, _ = whisper.prepare(hero, raws(), with_options(context[0], teacher=str(folder)))
    (context[0].folder / whisper.TOLD).unlink()
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    model.resize_token_embeddings(model.config.vocab_size + 64, mean_resizing=False)
    model.save_pretrained(str(folder))
    after, _ = whisper.prepare(hero, raws(), with_options(context[0], teacher=str(folder)))
    assert all(torch.allclose(a.logs, b.logs, atol=1e-5) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("options,says", [
    ({}, "names no teacher"), ({"teacher": ""}, "names no teacher"),
    ({"teacher": "nobody"}, "no teacher 'nobody'.*training vault list"),
    ({"teacher": "x", "temprature": 2}, "unknown key 'temprature'; did you mean 'temperature'"),
    ({"teacher": "x", "temperature": 0}, "temperature = 0"), ({"teacher": "x", "hard": 1.5}, "hard = 1.5"),
    ({"teacher": "http://host/v1"}, "no model is named"),
    ({"teacher": "http://a:b@host/v1", "model": "m"}, "REALM_TEACHER_KEY"),
])  # fmt: skip
def test_options_that_cannot_be(hero, context, options, says):
    with pytest.raises(TrainingError, match=says):
        whisper.prepare(hero, raws(3), replace(context[0], options=options))


def test_a_broken_teacher_is_named(hero, home, context):
    folder = teacher_folder(home, "broken")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="teacher .*broken"):
        whisper.prepare(hero, raws(3), with_options(context[0], teacher=str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="needs config.json and .*safetensors"):
        whisper.prepare(hero, raws(3), with_options(context[0], teacher=str(folder)))


# --- in a battle --------------------------------------------------------------------------------------------------


def test_a_plus_b_equals_c(tmp_path):
    """The teacher's folder is gone after the first part: what it said is kept."""
    profile = kit.micro_profile()
    found = []
    for name, stops in (("whole", (None,)), ("parts", (2, 4, None))):
        home, engine = fresh(tmp_path, name)
        ids, parent = kit.campaign(engine), None
        kit.born(home, profile)
        data = kit.quest(home, engine, ids, "w", kit.conversations(13))
        sage = teacher_folder(home)
        for stop in stops:
            battle = kit.order_battle(engine, profile, ids, data=data, steps=6, school="whisper", parent=parent,
                                      options={"teacher": "models/sage", "top": 16})  # fmt: skip
            row = stop_after(home, engine, battle, stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
            if sage.exists():
                sage.rename(sage.with_name("gone"))
        found.append((kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, parent)))
        with engine.connect() as connection:
            told = [e.payload for e in connection.execute(sa.select(db.events).where(db.events.c.kind == "lesson"))]
        assert len(told) == 1 and told[0]["what"] == "teacher" and told[0]["rows"] == 13
    assert found[0] == found[1]


def test_a_checkpoint_of_the_vault_teaches(tmp_path):
    profile = kit.micro_profile()
    home, engine = fresh(tmp_path, "home")
    ids = kit.campaign(engine)
    kit.born(home, profile)
    first = kit.quest(home, engine, ids, "a", kit.conversations(9))
    battle = kit.order_battle(engine, profile, ids, data=first, steps=3)
    sage = kit.serve_here(home, engine, battle)["checkpoint_id"]
    second = kit.quest(home, engine, ids, "b", kit.conversations(9, 40))
    battle = kit.order_battle(engine, profile, ids, data=second, steps=3, begin=3, parent=sage, school="whisper",
                              options={"teacher": sage})  # fmt: skip
    row = kit.serve_here(home, engine, battle)
    assert row["outcome"] == "trained", row["error"]
    battle = kit.order_battle(engine, profile, ids, data=second, steps=3, begin=6, parent=row["checkpoint_id"],
                              school="whisper", options={"teacher": "nobody"})  # fmt: skip
    row = kit.serve_here(home, engine, battle)
    assert row["state"] == "failed" and "no teacher 'nobody'" in row["error"]


# --- a teacher that writes ----------------------------------------------------------------------------------------


def questions(count=4, split="train"):
    problems = list({p.prompt: p for p in get_skill("attn_count").generate(2, 12, 1, split)}.values())[:count]
    return problems, [p.to_dict() for p in problems]


@pytest.fixture
def asking(hero, context):
    """`asking(at, rows, **options)` → (the rows' messages, dropped, the kept rows, notes)."""
    examiners = cleric.examiners()

    def ask(at, rows, **options):
        made = replace(context[0], options={"teacher": at.url, "model": "sage", "timeout_s": 5, **options},
                       held_out=lambda messages: cleric.exam_within(examiners, messages))  # fmt: skip
        rendered, dropped = whisper.prepare(hero, rows, made)
        path = made.folder / whisper.SAID
        return rendered, dropped, [json.loads(line) for line in path.read_bytes().splitlines()], context[1]

    return ask


def test_a_liar_is_found_out_by_the_grader(asking, hero):
    problems, rows = questions()
    golden = {p.prompt: p.golden for p in problems}
    lie = problems[2].prompt

    def reply(body, handler, n):
        asked = body["messages"][-1]["content"]
        return 200, {}, said("= 77" if asked == lie else golden[asked])

    with endpoint(reply) as (at, seen):
        rendered, dropped, kept_rows, notes = asking(at, rows)
    assert [(i, code) for i, code, _ in dropped] == [(2, "teacher_wrong")] and "rejects the teacher's" in dropped[0][2]
    assert len(rendered) == 3 and all(row["verified"] and origin_of(row) == "teacher" for row in kept_rows)
    assert not any(g in json.dumps(body) for body, _, _ in seen for g in golden.values() if len(g) > 3), "not shown"
    trained = [hero.tokenizer.decode([t for t, on in zip(r.ids, r.mask, strict=True) if on]) for r in rendered]
    assert trained == [golden[p.prompt] + "<|im_end|>" for p in problems if p.prompt != lie]
    assert notes[-1][3] | {"teacher": 0} == {"what": "teacher", "teacher": 0, "model": "sage", "kept": 3, "asked": 4,
                                             "grounded": 0, "refused": {"teacher_wrong": 1}}  # fmt: skip


def test_a_teacher_that_lies_mostly_is_told_as_trouble(asking):
    _, rows = questions()
    with endpoint(lambda *_: (200, {}, said("= 77"))) as (at, _):
        rendered, dropped, _, notes = asking(at, rows)
    assert rendered == [] and len(dropped) == 4 and notes[-1][2] == "trouble"


def test_empty_cut_and_exam_answers_are_left_out(asking):
    secret = get_skill("attn_count").generate(2, 1, 3, "trial")[0]
    replies = {"a": said(""), "b": said("half", "length"), "c": said(f"Try this: {secret.prompt}"), "d": said("fine")}
    rows = [{"messages": [{"role": "user", "content": q}]} for q in "abcd"]
    with endpoint(lambda body, *_: (200, {}, replies[body["messages"][-1]["content"]])) as (at, _):
        rendered, dropped, kept_rows, _ = asking(at, rows)
    assert {i: code for i, code, _ in dropped} == {0: "teacher_empty", 1: "teacher_cut", 2: "exam"}
    assert len(rendered) == 1 and kept_rows[0]["verified"] is False


def test_an_exam_question_is_not_learnt_either(asking):
    problems, rows = questions(1, "trial")
    with endpoint(lambda *_: (200, {}, said(problems[0].golden))) as (at, _):
        rendered, dropped, _, _ = asking(at, rows)
    assert rendered == [] and dropped[0][1] == "exam"


def test_the_shelf_grounds_the_teacher_and_never_the_hero(asking, home):
    (shelf.folder(home) / "moon.md").write_text("# Moon\n\nThe moon is made of basalt and anorthosite.\n")
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the moon?"},
                          {"role": "assistant", "content": "cheese"}]},
            {"prompt": "zzz qqq"}]  # fmt: skip
    with endpoint(lambda *_: (200, {}, said("basalt"))) as (at, seen):
        _, _, kept_rows, notes = asking(at, rows)
        told = {body["messages"][-1]["content"]: body["messages"] for body, _, _ in seen}
        (home.queue / "answers").rename(home.queue / "moved")
    moon = told["What is the moon?"]
    assert [m["role"] for m in moon] == ["system", "user"] and "cheese" not in json.dumps(moon)
    assert moon[0]["content"].startswith("Be brief.")
    assert "[1] (moon.md:3, Moon)\nThe moon is made" in moon[0]["content"]
    assert "Passages" not in told["zzz qqq"][0]["content"]
    assert kept_rows[0]["messages"] == [*rows[0]["messages"][:2], {"role": "assistant", "content": "basalt"}]
    assert kept_rows[0]["sources"] == [{"source": "moon.md", "first": 3, "last": 3}] and kept_rows[1]["sources"] == []
    assert notes[-1][3]["grounded"] == 1


def test_answers_are_kept_for_a_resume_and_for_the_next_try(asking, context):
    problems, rows = questions()
    golden = {p.prompt: p.golden for p in problems}
    with endpoint(lambda body, *_: (200, {}, said(golden[body["messages"][-1]["content"]]))) as (at, seen):
        first, *_ = asking(at, rows)
        assert asking(at, rows)[0] == first and len(seen) == 4
        (context[0].folder / whisper.SAID).unlink()  # the quest begins anew: the battle empties its folder
        assert asking(at, rows)[0] == first and len(seen) == 4, "a try that failed later asks nothing twice"


def test_a_dead_teacher_fails_the_quest_with_its_sentence(asking, monkeypatch):
    monkeypatch.setattr(whisper.Teacher, "__init__", _quick(whisper.Teacher.__init__))
    with endpoint(lambda *_: (200, {}, b"<html>login</html>")) as (at, _), pytest.raises(TrainingError) as error:
        asking(at, questions()[1])
    assert error.value.code == "teacher" and "answered with a web page" in str(error.value)


def _quick(init):
    return lambda self, endpoint, notes=None: init(self, endpoint, notes, retry_s=(0.01,))


def test_a_row_without_a_question_is_refused(asking):
    with endpoint(lambda *_: (200, {}, said("x"))) as (at, seen), pytest.raises(TrainingError, match="no question"):
        asking(at, [{"prompt": "  "}])
    assert not seen


# --- a checkpoint that writes -------------------------------------------------------------------------------------


def test_a_checkpoint_answers_where_a_row_does_not_and_is_marked_too(hero, home, context, monkeypatch):
    problems, rows = questions()
    bare = [{"prompt": p.prompt, "teacher": "x"} for p in problems]
    golden = {p.prompt: p.golden for p in problems}
    lie = problems[1].prompt
    real = Hero.answer

    def answer(self, conversations, room, interrupted=lambda: False):
        assert len(real(self, conversations[:1], 3)) == 1, "the teacher can be asked"
        return [("= 77" if c[-1]["content"] == lie else golden[c[-1]["content"]], 4) for c in conversations]

    monkeypatch.setattr(Hero, "answer", answer)
    made, dropped = whisper.prepare(hero, bare, context[0])
    assert [(i, code) for i, code, _ in dropped] == [(1, "teacher_wrong")] and len(made) == 3
    assert all(isinstance(row, whisper.Taught) for row in made), "and its predictions are learnt"
    monkeypatch.setattr(whisper, "_load_teacher", lambda *_: pytest.fail("loaded again"))
    again, _ = whisper.prepare(hero, bare, replace(context[0], fresh=False))
    assert [row.ids for row in again] == [row.ids for row in made]


def test_a_lora_hero_is_whispered_to(home, context):
    profile = kit.micro_profile(training_mode="lora", optimizer={"type": "adamw"})
    hero = Hero.load(profile, kit.born(home, profile))
    rows, _ = whisper.prepare(hero, raws(), context[0])
    facts = learn(hero, rows, context[0], steps=3)
    assert facts[-1].facts["trained_loss"] < facts[0].facts["trained_loss"]
