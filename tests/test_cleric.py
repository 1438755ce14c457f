"""The Cleric: roles, lengths as the battle renders them, held-out problems, duplicates, probe, report, flat memory."""

import json
import random
import time
import tracemalloc
from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.skills import all_skills, get_skill
from realm.heroes.profile import load_profile, parse_profile
from realm.quests import idle
from realm.temple import cleric
from realm.temple.cleric import check_roles, choose_groups, examine
from realm.temple.hashset import HashSet
from realm.temple.heldout import held_out
from realm.temple.tokens import LightTokenizer, TokenCounter, TokensMissing, token_counter

BIN = get_skill("bin")


def chat(question, answer, **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def run(tmp_path, rows, raw=b"", **options):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows) + raw)
    options.setdefault("skills", [])
    report = examine(source, target, tmp_path / "bad.jsonl", name="in.jsonl", probe=tmp_path / "probe.jsonl", **options)
    kept = [json.loads(x) for x in target.read_bytes().splitlines()] if target.exists() else None
    return report, kept


def reasons(report):
    return {(r["fate"], r["code"]): r["count"] for r in report["reasons"]}


@pytest.mark.parametrize("roles,fault", [
    ("ua", None), ("sua", None), ("uaua", None), ("suaua", None),
    ("", "no messages"), ("u", "no assistant"), ("su", "no assistant"), ("uau", "last turn is from user"),
    ("a", "before the user"), ("sa", "before the user"), ("usa", "system turn that is not the first"),
    ("uua", "two user turns"), ("uaa", "two assistant turns"),
])  # fmt: skip
def test_roles(roles, fault):
    names = {"u": "user", "a": "assistant", "s": "system"}
    found = check_roles([{"role": names[r], "content": "x"} for r in roles])
    assert found is None if fault is None else fault in found


def test_empty_turns():
    turns = chat("", "tale")["messages"]
    assert "turn 1 (user) is empty" in check_roles(turns) and check_roles(turns, empty_prompt=True) is None
    assert "turn 2" in check_roles(chat("q", " \n")["messages"], empty_prompt=True)


names = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.builds(dict, role=names, content=st.sampled_from(["x", "", " "])), max_size=6))
def test_what_passes_the_roles_alternates_and_ends_with_an_answer(messages):
    if check_roles(messages) is None:
        speech = [m["role"] for m in messages if m["role"] != "system"]
        assert speech == ["user", "assistant"] * (len(speech) // 2) and len(speech) >= 2
        assert all(m["content"].strip() for m in messages)


def test_the_report_says_what_happened_to_every_row(tmp_path):
    rows = [chat(f"q{n}", f"a{n}", id=n) for n in range(12)]
    rows += [chat("q1", "a1", id=99), {"instruction": "i", "output": "o"}, {"text": ""}, {"hello": 1},
             {"prompt": "p", "chosen": "c", "rejected": "r"}, chat("q", "")]  # fmt: skip
    report, kept = run(tmp_path, rows, raw=b"{oops\n\n")
    assert report["rows"] == {"in": 19, "out": 13, "filtered": 0, "duplicate": 1, "quarantined": 5, "blank": 1,
                              "probe": 0, "train": 13}  # fmt: skip
    assert len(kept) == 13 and report["formats"] == {"messages": 12, "alpaca": 1}
    assert reasons(report) == {("duplicate", "exact"): 1, ("quarantined", "roles"): 2, ("quarantined", "bad_JSON"): 1,
                               ("quarantined", "unknown_format"): 1, ("quarantined", "other_school"): 1}  # fmt: skip
    example = next(r for r in report["reasons"] if r["code"] == "unknown_format")["examples"][0]
    assert example["line"] == 16 and "hello" in example["text"]
    source = (tmp_path / "in.jsonl").read_bytes()
    assert source[example["offset"]:].startswith(b'{"hello"')
    assert (report["verdict"], report["level"], report["school"]) == ("accepted-with-warnings", "quick", "scribe")
    assert report["next_action"] and report["tokens"] == {"measured": False, "why": "no tokenizer was given"}
    assert sum(1 for _ in open(tmp_path / "bad.jsonl")) == 6


def test_good_rows_are_copied_byte_for_byte(tmp_path):
    odd = b'{"messages": [{"content": "q", "role": "user"}, {"role":"assistant","content":"\\u2460 1"}], "f": 1e2}\r\n'
    report, _ = run(tmp_path, [], raw=odd)
    assert (tmp_path / "out.jsonl").read_bytes() == odd.replace(b"\r\n", b"\n") and report["verdict"] == "accepted"


@pytest.mark.parametrize("bad,good,verdict", [(3, 3, "accepted-with-warnings"), (4, 3, "refused"), (0, 0, "refused")])
def test_a_file_of_mostly_bad_rows_is_refused(tmp_path, bad, good, verdict):
    report, kept = run(tmp_path, [chat(f"q{n}", "a") for n in range(good)], raw=b"{\n" * bad)
    assert report["verdict"] == verdict and (kept is None) == (verdict == "refused")
    assert not list(tmp_path.glob(".*")), "no half-made file is left"


def test_warnings(tmp_path):
    report, _ = run(tmp_path, [chat(f"q{n}", "yes") for n in range(30)] + [chat("q0", "yes")] * 10)
    assert [w.split("%")[0] for w in report["warnings"]] == ["25", "100"]
    assert report["balance"]["most_common_answer_share"] == 1.0 and report["balance"]["turns_mean"] == 2.0


# --- tokens -------------------------------------------------------------------------------------------------------

def test_lengths_are_those_of_the_battle(tmp_path, home):
    transformers = pytest.importorskip("transformers")
    from importlib import resources

    from realm.heroes import chat as chats

    counter = token_counter(load_profile("pip"), home)
    real = transformers.AutoTokenizer.from_pretrained(str(resources.files("realm.heroes") / "tokenizer"))
    rows = [p.messages for p in BIN.generate(3, 30, 1)] + [
        chat("Straße ⓪ 🛡️", "naïve\n\n")["messages"],
        [{"role": "system", "content": "s"}, *chat("q", "a")["messages"], *chat("q2", "a2")["messages"]]]  # fmt: skip
    for messages in rows:
        assert counter.count(messages) == sum(len(r.ids) for r in chats.render_turns(messages, real))


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma"])
def test_templates_of_other_families_render_the_same_without_transformers(tmp_path, name):
    pytest.importorskip("transformers")
    from hero_kit import CHATML, CHATML_MARKED, tokenizer, trl_template

    from realm.heroes import chat as chats

    try:
        templates = [CHATML, CHATML_MARKED, trl_template(name)]
    except FileNotFoundError:
        templates = [CHATML, CHATML_MARKED]
    for number, template in enumerate(templates):
        real = tokenizer(template=template)
        folder = tmp_path / str(number)
        real.save_pretrained(folder)
        light = LightTokenizer(folder)
        assert light.chat_template == template and set(light.all_special_tokens) == set(real.all_special_tokens)
        for messages in (chat("hello", "world")["messages"], chat("⓪①", "ok")["messages"]):
            texts = [t.apply_chat_template(messages, tokenize=False, add_generation_prompt=False, enable_thinking=False)
                     for t in (real, light)]  # fmt: skip
            assert texts[0] == texts[1]
        try:
            wanted = [r.ids for r in chats.render_turns(messages, real)]
        except chats.RenderError as error:
            with pytest.raises(chats.RenderError) as same:
                chats.render_turns(messages, light)
            assert same.value.code == error.code
        else:
            assert [r.ids for r in chats.render_turns(messages, light)] == wanted


def test_rows_that_the_battle_would_refuse_are_quarantined_with_its_reason(tmp_path, home):
    values = load_profile("pip").model_dump(mode="json")
    values["training_defaults"]["max_length"] = 40
    counter = token_counter(parse_profile(values), home)
    rows = [chat("short", "fine"), chat("good", "too"), chat("long", "word " * 80), chat("forged", "<|im_end|>")]
    report, kept = run(tmp_path, rows, tokens=counter)
    assert len(kept) == 2 and report["level"] == "standard"
    assert reasons(report) == {("quarantined", "too_long"): 1, ("quarantined", "special_token"): 1}
    facts = report["tokens"]
    assert facts["measured"] and facts["max_length"] == 40
    assert facts["max"] <= 40 and facts["max"] < facts["total"] <= 80


def test_without_a_tokenizer_the_report_says_why(tmp_path, home):
    values = load_profile("pip").model_dump(mode="json") | {"id": "far"}
    values["model"]["path_or_hub_id"] = "nobody/nothing"
    with pytest.raises(TokensMissing, match="hf download nobody/nothing"):
        token_counter(parse_profile(values), home)
    report, _ = run(tmp_path, [chat("q", "a")], tokens_missing="no weights")
    assert report["tokens"] == {"measured": False, "why": "no weights"} and report["level"] == "quick"


def test_a_template_that_refuses_a_row_is_a_reason_not_a_crash(home):
    counter = token_counter(load_profile("pip"), home)
    counter.tokenizer.chat_template = "{{ raise_exception('no ' + messages[0]['role']) }}"
    with pytest.raises(Exception, match="no user") as found:
        TokenCounter(counter.tokenizer, "x", 50, False).count(chat("q", "a")["messages"])
    assert found.value.code == "template"


def test_rows_are_counted_as_the_battle_renders_them(tmp_path):
    """Qwen3's template makes a row of every assistant turn; the steps of a quest are counted by these."""
    from hero_kit import tokenizer, trl_template

    from realm.heroes import chat as chats

    pytest.importorskip("trl")
    real = tokenizer(template=trl_template("qwen3"))
    rows = [{"messages": [m for turn in range(3) for m in chat(f"q{n} {turn}", f"a{n} {turn}")["messages"]]}
            for n in range(120)] + [chat(f"single {n}", "x") for n in range(80)]  # fmt: skip
    counter = TokenCounter(real, "stand-in", 2048, False)
    report, kept = run(tmp_path, rows, tokens=counter)
    made, dropped = chats.render_rows([k["messages"] for k in kept], real, max_length=2048)
    assert not dropped and report["rows"]["rendered"] == len(made) > 1.5 * len(kept)
    assert report["rows"]["probe"] >= 20 and report["rows"]["train"] == len(kept) == 200 - report["rows"]["probe"]
    counted, _ = run(tmp_path, rows)
    assert "rendered" not in counted["rows"], "without a tokenizer nobody knows"


# --- held-out problems, probe -------------------------------------------------------------------------------------

def test_trial_and_probe_problems_are_filtered_out_of_any_format(tmp_path):
    rows, held = [], set()
    for split in ("train", "trial", "probe", "public"):
        for problem in BIN.generate(5, 25, 3, split):
            rows.append({"instruction": problem.prompt, "output": problem.golden, "source": "web"})
            if split in ("trial", "probe"):
                held.add(problem.prompt)
    random.Random(1).shuffle(rows)
    report, kept = run(tmp_path, [*rows, chat("hello", "you")], skills=[BIN])
    prompts = [k["messages"][0]["content"] for k in kept]
    assert not held & set(prompts) and "hello" in prompts
    filtered = sum(r["instruction"] in held for r in rows)
    assert report["rows"]["filtered"] == filtered >= 40
    assert {c for f, c in reasons(report) if f == "filtered"} == {"trial_split", "probe_split"}
    assert "belongs to the trial split of bin" in json.dumps(report["reasons"])


DRESSED = {
    "text": lambda p, g: {"text": f"{p}\n{g}"},
    "alpaca input": lambda p, g: {"instruction": "Solve.", "input": p, "output": g},
    "system": lambda p, g: {"messages": [{"role": "system", "content": p}, *chat("Go.", g)["messages"]]},
    "sentence before": lambda p, g: chat(f"Please solve this for me.\n{p}", g),
    "sentence on the line": lambda p, g: chat(f"Please solve this: {p}", g),
    "numbered": lambda p, g: chat(f"Exercises:\n\n12) {p}.\n\nThank you.", g),
    "markup": lambda p, g: chat("Question:\n" + "".join(f"> **{line}**\n" for line in p.split("\n")), g),
    "answer turn": lambda p, g: chat("Make an exercise.", f"Here it is:\n{p}\nAnswer:\n{g}"),
    "sharegpt": lambda p, g: {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"},
                                                {"from": "human", "value": f"Next one:\n{p}"},
                                                {"from": "gpt", "value": g}]},
    "pair": lambda p, g: {"prompt": f"Solve.\n{p}", "chosen": g, "rejected": "I do not know"},
    "pair of chats": lambda p, g: {"prompt": [{"role": "user", "content": p}],
                                   "chosen": [{"role": "assistant", "content": g}],
                                   "rejected": [{"role": "assistant", "content": "no"}]},
}  # fmt: skip


@pytest.mark.parametrize("dress", DRESSED.values(), ids=DRESSED)
def test_a_held_out_problem_passes_in_no_dress(tmp_path, dress):
    """Contracts B1: trial problems are dropped from any file; those of training pass in the same dress."""
    problems = {split: BIN.generate(8, 30, 4, split) for split in ("train", "trial", "probe")}
    assert {p.extra["symbol_key"] for p in problems["trial"]} == {True, False}, "with and without a header line"
    rows = [dress(p.prompt, p.golden) for part in problems.values() for p in part]
    distinct = {s: len({p.prompt for p in part}) for s, part in problems.items()}
    report, kept = run(tmp_path, rows, skills=[BIN])
    assert report["rows"]["filtered"] == 60 and len(kept) == report["rows"]["out"] == distinct["train"]


def test_closed_tables_may_be_trained_on(tmp_path):
    rows = [chat(p.prompt, p.golden, level=1) for p in BIN.table(1)]
    report, kept = run(tmp_path, rows, skills=[BIN])
    assert len(kept) == len(rows) and (report["skill"], report["mix"]) == ("bin", {"1": 1.0})
    assert report["probe"] is None, "a skill quest is proved by trials, not by a probe"


def test_probe_is_held_out_once_and_never_trained(tmp_path):
    rows = [chat(f"question {n // 2}", f"answer {n}") for n in range(1000)]
    report, kept = run(tmp_path, rows, seed=5)
    held = [json.loads(x) for x in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert len(held) == report["probe"]["rows"] == report["rows"]["probe"] and 50 <= len(held) <= 51
    assert len(kept) == report["rows"]["train"] == 1000 - len(held)

    def questions(part):
        return {r["messages"][0]["content"] for r in part}

    assert not questions(kept) & questions(held), "one question is on one side"
    again, _ = run(tmp_path, rows, seed=5)
    assert again["sha256"] == report["sha256"]
    other, _ = run(tmp_path, rows, seed=6)
    assert other["sha256"] != report["sha256"]


@pytest.mark.parametrize("row", [
    lambda n: {"text": f"Once upon a time there were {n} dragons."},
    lambda n: {"instruction": "Tell a tale.", "output": f"Once upon a time there were {n} dragons."},
])  # fmt: skip
def test_plain_text_and_one_question_for_all_get_a_probe_too(tmp_path, row):
    report, kept = run(tmp_path, [row(n) for n in range(400)])
    held = [json.loads(x) for x in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert len(held) == report["probe"]["rows"] == 20 and len(kept) == 380
    answers = [{r["messages"][-1]["content"] for r in part} for part in (held, kept)]
    assert not answers[0] & answers[1]


def test_a_named_group_is_never_cut_for_want_of_questions(tmp_path):
    report, _ = run(tmp_path, [chat("go on", f"part {n}", session_id="one") for n in range(400)])
    assert report["probe"] is None


def test_groups_stay_together_and_small_files_are_not_cut(tmp_path):
    rows = [chat(f"q{n}", "a", session_id=f"s{n // 3}") for n in range(300)]
    _, kept = run(tmp_path, rows)
    held = [json.loads(x)["session_id"] for x in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert set(Counter(held).values()) == {3} and not set(held) & {k["session_id"] for k in kept}
    (tmp_path / "probe.jsonl").unlink()
    report, kept = run(tmp_path, rows[:99])
    assert report["probe"] is None and len(kept) == 99 and not (tmp_path / "probe.jsonl").exists()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=500).flatmap(
    lambda groups: st.lists(st.sampled_from(groups or [0]), min_size=0, max_size=600)))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_probe_sizes(groups):
    chosen = choose_groups(groups)
    held = sum(g in chosen for g in groups)
    wanted = min(200, max(20, round(0.05 * len(groups))))
    if chosen:
        assert len(groups) >= 100 and 20 <= held < wanted + max(1, wanted // 4)
        sizes = Counter(groups)
        assert all(sizes[g] <= max(1, wanted // 4) for g in chosen)


# --- idle quests, memory ------------------------------------------------------------------------------------------

def test_idle_quests_pass_and_a_broken_generator_is_stopped(tmp_path):
    path = tmp_path / "idle.jsonl"
    order = idle.IdleOrder("bin", BIN.version, {1: 30, 3: 30}, 11)
    facts = idle.write(order, path)
    report = cleric.check_idle(path, BIN)
    assert report["rows"]["out"] == facts["rows"] == 60 and report["sha256"] == facts["sha256"]
    good = path.read_bytes()
    leak = BIN.generate(5, 1, 1, "trial")[0]
    for bad, word in [(orjson.dumps(chat(leak.prompt, leak.golden)), "split trial"), (b"{", "bad JSON"),
                      (orjson.dumps(chat("hello", "you")), "split None"),
                      (orjson.dumps(chat(leak.prompt, "")), "is empty"), (b'{"a": 1}', "no messages")]:  # fmt: skip
        path.write_bytes(good + bad + b"\n")
        with pytest.raises(cleric.GateError, match=f":61: .*{word}"):
            cleric.check_idle(path, BIN)


def test_idle_orders_are_pure_and_ease_makes_rows_easier(tmp_path):
    def rows(**more):
        path = tmp_path / "x.jsonl"
        idle.write(idle.IdleOrder("bin", BIN.version, {4: 200}, 3, **more), path)
        return [json.loads(x) for x in path.read_text().splitlines()]

    plain, eased = rows(), rows(ease=0.5)
    assert plain == rows() and eased == rows(ease=0.5)
    easy = [sum(r["difficulty"] == "easy" for r in part) for part in (plain, eased)]
    assert easy[1] > easy[0] + 20 and len(eased) == 200
    origin = json.loads(json.dumps(idle.IdleOrder("bin", "9", {4: 2}, 3).to_origin(reason="x")))
    assert idle.IdleOrder.from_origin(origin) == idle.IdleOrder("bin", "9", {4: 2}, 3)
    with pytest.raises(idle.IdleError, match="version"):
        list(idle.problems(idle.IdleOrder("bin", "0.0", {4: 2}, 3)))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5)))
def test_hash_set_is_a_set(values):
    made, model = HashSet(places=4), set()
    for value in values:
        assert made.add(value) == ((value or 1) not in model)
        model.add(value or 1)
    assert len(made) == len(model)


def test_memory_stays_flat(tmp_path):
    """15,000 rows of 500 bytes (7.5 MB) in a fraction of their size."""
    source = tmp_path / "big.jsonl"
    with open(source, "wb") as out:
        for n in range(15_000):
            out.write(orjson.dumps(chat(f"question {n}", f"{n} " + "x" * 420)) + b"\n")
    tracemalloc.start()
    report = examine(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl", name="big", skills=[],
                     probe=tmp_path / "p.jsonl")  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report["rows"]["in"] == 15_000 and report["rows"]["probe"] == 200
    assert peak < 15_000 * 250, f"{peak / 15_000:.0f} bytes per row"


# --- dress: what people and tools do to a text on its way ---------------------------------------------------------

def _html(text):
    return "<p>" + text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>") + "</p>"


WORN = {
    "no-break blanks": lambda p: p.replace(" ", "\u00a0"), "wide letters": lambda p: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in p),
    "translated signs": lambda p: p.replace(":", "\uff1a").replace("?", "\uff1f").replace(",", "\uff0c"),
    "look-alikes": lambda p: p.replace("a", "\u0430").replace("e", "\u0435").replace("o", "\u043e"),
    "invisible": lambda p: "\ufeff" + p.replace(" ", " \u200b")[:3] + "\u00ad" + p.replace(" ", " \u200b")[3:],
    "blank lines": lambda p: p.replace("\n", "\n\n"), "one line": lambda p: p.replace("\n", " "),
    "two blanks": lambda p: p.replace(" ", "  "), "indented": lambda p: "    " + p.replace("\n", "\r\n    "),
    "json": json.dumps, "json object": lambda p: json.dumps({"question": p, "answer": "?"}),
    "json in json": lambda p: json.dumps(json.dumps({"q": p})), "html": _html,
    "with its answer": lambda p: f"Question: {p} Answer:", "said": lambda p: f"Please solve {p} and think well",
    "code": lambda p: f"```{p}```", "small": str.lower, "large": str.upper,
}  # fmt: skip
DRESSED = ("bin", "sy", "seq_reverse", "attn_compare", "logic_chain", "fmt_json", "xfm_map", "mem_compose",
           "mem_recall")  # fmt: skip
# Documented in `realm.temple.heldout`: symbols told apart by case alone; a Greek symbol key in a Cyrillic disguise.
NOT_TOLD = {("mem_compose", "small"), ("mem_compose", "large"), ("bin", "look-alikes")}


@pytest.mark.parametrize(("skill_id", "worn"), [(s, w) for s in DRESSED for w in WORN if (s, w) not in NOT_TOLD])
def test_exams_are_known_in_what_people_and_tools_make_of_them(skill_id, worn):
    skill = get_skill(skill_id)
    level = skill.max_level // 2
    for split, expected in (("trial", {"trial", "probe"}), ("train", {None})):
        for problem in skill.generate(level, 6, 5, split):
            text = WORN[worn](problem.prompt)
            assert held_out(skill, text) in expected, text


def test_escaped_half_characters_and_endless_headers_do_no_harm():
    skill = get_skill("seq_reverse")
    assert held_out(skill, r'"seq_reverse: \ud83d 1 2 3"') in (None, "trial", "probe")
    started = time.process_time()
    assert held_out(skill, "seq_reverse: " * 20_000) is None
    held_out(get_skill("bin"), "Compute: f(" * 5_000)
    assert time.process_time() - started < 10


def test_looking_into_dresses_leaves_the_gate_fast(tmp_path):
    text = "Plain words, and a few more of them: it goes on (so it seems). " * 12
    skills, started = all_skills(), time.process_time()
    run(tmp_path, [chat(f"{n} {text}", f"{text} {n}") for n in range(300)], skills=skills)
    assert time.process_time() - started < 3, "over 100 rows of 1.5 kB a second on a slow machine"
