"""Redaction: every rule in every place, stable numbers, the same bytes for any number of workers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import afs
from afs.jsonl import read_rows
from afs.step import How, StepError, UsageError
from afs.training.redaction import Redactor, redact_jsonl
from afs.training.redaction_rules import PLACEHOLDER, RULES, CustomRule, RuleError, load_rules, rule_names


def j(*parts: str) -> str:
    """Put together here, so that no scanner takes this file for a leak."""
    return "".join(parts)


AB = "aB3d"
# rule → (text, what of it must not survive)
CANARIES = {
    "pem": (j("-----BEGIN RSA PRIVATE", " KEY-----\nMIIEow", AB * 8, "\n-----END RSA PRIVATE KEY-----"), AB * 8),
    "aws": (j("AK", "IAIOSFODNN7EXAMPLE"),) * 2,
    "github": (j("gh", "s_", AB * 9),) * 2,
    "anthropic": (j("sk-", "ant-api03-", AB * 6),) * 2,
    "openai": (j("sk-", "proj-", AB * 8),) * 2,
    "google": (j("AI", "za", "B3-d5" * 7),) * 2,
    "huggingface": (j("h", "f_", AB * 8),) * 2,
    "gitlab": (j("gl", "pat-", AB * 5),) * 2,
    "gitlab_deploy": (j("gl", "dt-", AB * 5),) * 2,
    "slack": (j("xo", "xb-123456789012-abcdefGHI"),) * 2,
    "slack_hook": (j("https://hooks.sla", "ck.com/services/T0000/B000/", AB * 4), AB * 4),
    "stripe": (j("sk_", "live_", AB * 5),) * 2,
    "npm": (j("np", "m_", AB * 9),) * 2,
    "pypi": (j("py", "pi-AgE", AB * 10),) * 2,
    "sendgrid": (j("S", "G.", AB * 5, ".", AB * 8),) * 2,
    "jwt": (j("ey", "JhbGciOiJI", ".", "ey", "JzdWIiOiIx", ".", AB * 3),) * 2,
    "bearer": (j("Bearer ", "t0k3n", AB * 3), AB * 3),
    "basic": (j("Authorization: Basic ", "dXNlcjpwYXNzd29yZA=="), "dXNlcjpwYXNzd29yZA"),
    "url": ("postgres://app:hunt3rrr@db.local/x", "hunt3rrr"),
    "named": (j("db_password = ", "'tr0ub4dor&3'"), "tr0ub4dor"),
    "email": ("jane.doe+x@mail.example.org", "jane.doe"),
    "home": ("/home/janedoe/src/x.py", "janedoe"),
}
MORE = {
    "github": [j("gh", kind, "_", AB * 9) for kind in "pour"] + [j("github", "_pat_", AB * 6)],
    "openai": [j("s", "k-", "a9Z8" * 10), j("sk-", "svcacct-", AB * 6)],
    "aws": [j("AS", "IAIOSFODNN7EXAMPLE")],
    "slack": [j("xa", "pp-1-A0123-456-abc"), j("xox", "p-1234567890-abc")],
    "home": ["/Users/janedoe", "C:\\Users\\janedoe\\x", "C:/Users/janedoe/x", "-home-janedoe-src", "-Users-janedoe-x",
             "/mnt/c/Users/janedoe/x", "/c/Users/janedoe", "/var/home/janedoe", "/System/Volumes/Data/Users/janedoe"],
    "named": [j("AWS_SECRET_ACCESS_KEY=", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
              j("DB_PASSWORD=", "correcthorse"), j('"api_key": ', '"abcdef123456"'),
              j("DB_PA", "SS=correcthorse"), j("smtp_pa", "ss: 'hunter22'"),
              j("client_secret: ", "'x1y2z3a4b5'"), j("--token ", "abcd1234efgh"), j("password: ", "hunter2"),
              j("token => ", '"abcdef123456"'), j("passphrase = ", '"four horses in a row"')],
}  # fmt: skip
PLACES = {
    "value": lambda t: t,
    "key": lambda t: {t: 1},
    "nested metadata": lambda t: {"_metadata": {"a": [{"b": {"c": t}}]}},
    "tool input": lambda t: {"type": "tool_use", "input": {"command": f"echo {t}\n"}},
    "JSON in a string": lambda t: {"arguments": json.dumps({"cmd": t})},
    "after a line end": lambda t: {"text": f"one\n{t}\nthree"},
    "after a tab": lambda t: {"text": f"one\t{t}\tthree"},
    "after an escaped line end": lambda t: {"text": json.dumps(f"one\n{t}\n")},
    "after a colour": lambda t: {"text": f"\x1b[32m{t}\x1b[0m"},
    "in quotes": lambda t: {"text": f'"{t}"'},
    "at a chunk's edge": lambda t: {"text": "x " * ((1 << 17) - 5) + t},
    "over a chunk's edge": lambda t: {"text": "é " * ((1 << 18) // 3) + t + " y" * 1000},
}


def test_every_rule_has_a_canary():
    assert set(CANARIES) == set(rule_names())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", CANARIES)
def test_canary(rule, place):
    text, secret = CANARIES[rule]
    value = PLACES[place](text)
    redactor = Redactor()
    done = redactor.redact(value)
    assert secret not in json.dumps(done, ensure_ascii=False)
    assert redactor.report().replaced
    assert redactor.redact(done) == done  # idempotent


@pytest.mark.parametrize(("rule", "text"), [(r, t) for r, texts in MORE.items() for t in texts])
def test_other_forms(rule, text):
    label = next(r.label for r in RULES if r.name == rule)
    redactor = Redactor()
    done = redactor.redact({"text": f"see {text} end" if not text.startswith("-") or " " in text else text})
    assert set(redactor.report().replaced) == {label}, done


@pytest.mark.parametrize("text", [
    "task-sk-", "tokenizer = Tokenizer()", "password: str", "token = tokens[3]", "git@github.com:x/y.git", "@property",
    "pip install a@1.2.3", "max_tokens=4096", "token=None", "basic understanding", "the bearer authentication",
    "password = os.environ['X']", "secret = get_secret('a1')", "http://localhost:8080/a@b", "src/home/index.html",
    "disk-usage of risk-averse", "the password is required", "pwd: /tmp", "input_tokens: 1234", "eyJ is how it begins",
    "-----BEGIN CERTIFICATE-----", "password = '${PASSWORD}'", "api_key=<YOUR_KEY>", "passenger = 'someone'",
    "https://example.org/path", "a://b", "btn-home-page", "secret", "token: ", "password=",
    "https://user:password@host/x", "s3://{}:{}@{host}", "ftp://user:$PASS@host",
    "first_pass = 12.345s", "second_pass: 'all 3 tests'", "by-pass: 'valve'",
    "two_pass = True", "PASS=12", "/repo/src/home/page", "/srv/www/home/a.html", "https://x.org/c/home/page",
])  # fmt: skip
def test_plain_text_stays(text):
    value = {"text": text}
    assert Redactor().redact(value) is value


def test_keys_of_the_json_itself():
    value = {"password": "hunter2!", "api_key": "abcdef123456", "tokens": 12, "secret": 5, "nested": {"token": AB * 4}}
    done = Redactor().redact(value)
    assert done == {"password": "<SECRET:1>", "api_key": "<SECRET:2>", "tokens": 12, "secret": 5,
                    "nested": {"token": "<SECRET:3>"}}  # fmt: skip


def test_same_secret_same_number_until_begin():
    redactor = Redactor()
    done = redactor.redact(["a@x.org", "b@x.org", {"a@x.org": "see a@x.org"}])
    assert done == ["<EMAIL:1>", "<EMAIL:2>", {"<EMAIL:1>": "see <EMAIL:1>"}]
    redactor.begin()
    assert redactor.redact("b@x.org") == "<EMAIL:1>"
    assert redactor.report().to_dict()["replaced"] == {"EMAIL": 5}
    assert redactor.report().to_dict()["distinct"] == {"EMAIL": 3}


def test_file_names_and_keep_and_rules():
    assert Redactor().redact_name("/home/jane/a/b.jsonl") == "<HOME:1>/a/b.jsonl"
    assert Redactor().redact_name("projects/-home-jane-src/x.jsonl") == "projects/<HOME:1>-src/x.jsonl"
    assert Redactor(keep=["a@x.org"]).redact(["a@x.org", "b@x.org"]) == ["a@x.org", "<EMAIL:1>"]
    assert Redactor(["home"]).redact(["a@x.org", "/home/jane"]) == ["a@x.org", "<HOME:1>"]
    with pytest.raises(UsageError, match="no redaction rule 'emial'"):
        Redactor(["emial"])


def test_escapes_that_hide_letters():
    hidden = b'{"t":"\\u0067hp_' + (AB * 9).encode() + b'","u":"http:\\/\\/a:p4ssw0rd@h"}'
    [done] = Redactor().redact_lines([hidden])
    assert orjson.loads(done) == {"t": "<GITHUB_TOKEN:1>", "u": "http://a:<URL_PASSWORD:1>@h"}
    clean = b'{"t":"\\u00e9t\\u00e9 \\/ caf\\u00e9"}'
    assert Redactor().redact_lines([clean])[0] is clean


def test_lone_surrogates_and_big_numbers():
    done = Redactor().redact({"a": "\ud83d jane@x.org", "n": 1 << 80})
    assert done == {"a": "\ud83d <EMAIL:1>", "n": 1 << 80}


@pytest.mark.parametrize("secret", [b'"ACME-1234 \\"x\\" \\u00e9"', b'"\\u006aane@x.org"'])
def test_all_but_the_secret_stays_as_it_is_written(secret):
    rest = b'{"big": 123456789012345678901234567890, "e":1.0e5,"k": 1, "k": 2, "deep":' + b"[" * 600 + b"]" * 600
    redactor = Redactor(custom=[CustomRule("ticket", r"ACME-\d{4}", "ACME-")])
    [done] = redactor.redact_lines([rest + b', "t": ' + secret + b"}"])
    assert done.startswith(rest) and redactor.report().rows_changed == 1
    assert b"ACME-" not in done and b"ane@x" not in done
    assert orjson.loads(done)["t"] in ('<TICKET:1> "x" é', "<EMAIL:1>")
    quoted = Redactor(custom=[CustomRule("said", r'say "(\w+)"', 'say "')])
    assert quoted.redact('you say "friend"') == 'you say "<SAID:1>"'


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=12),
       st.lists(st.sampled_from(sorted(CANARIES)), min_size=1, max_size=3))  # fmt: skip
def test_any_value_around(value, rules):
    texts = [CANARIES[rule][0] for rule in rules]
    whole = {"around": value, "texts": texts, "joined": " ".join(texts)}
    redactor = Redactor()
    done = redactor.redact(whole)
    for rule in rules:
        assert CANARIES[rule][1] not in json.dumps(done["texts"], ensure_ascii=False)
    assert redactor.redact(done) == done
    assert len(done["texts"]) == len(texts)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab@./:\\\"'= -_\n<>1sk password token://home/Users"), max_size=60))
def test_idempotent_on_anything(text):
    done = Redactor().redact({"k": text})
    assert Redactor().redact(done) == done or PLACEHOLDER.search(orjson.dumps(done))
    twice = Redactor().redact(Redactor().redact(done))
    assert Redactor().redact(twice) == twice


# --- rules of the user ---


def test_custom_rules(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "ticket"\npattern = \'ACME-\\d{4}\'\ncontains = "ACME-"\n\n'
                     '[[rule]]\nname = "staff no"\npattern = \'staff (\\d{5})\'\n')  # fmt: skip
    redactor = Redactor(custom=rules)
    done = redactor.redact({"ACME-1234": ['"ACME-1234" and staff 54321', "jane@x.org"]})
    assert done == {"<TICKET:1>": ['"<TICKET:1>" and staff <STAFF_NO:1>', "<EMAIL:1>"]}
    assert redactor.redact(done) == done
    greedy = Redactor(custom=[CustomRule("all", r"\w+@\w+|EMAIL")])
    assert greedy.redact("jane@x.org EMAIL") == "<EMAIL:1> <ALL:1>"


@pytest.mark.parametrize(("text", "word"), [
    ("", "no [[rule]]"), ("x = [", "no TOML"), ('[[rule]]\nname = "a"', "needs the texts"),
    ('[[rule]]\nname = "a"\npattern = "("', "bad pattern"), ('[[rule]]\nname = "a"\npattern = "x*"', "empty text"),
    ('[[rule]]\nname = "a"\npattern = "b"\nflags = 1', "needs the texts"),
    ('[[rule]]\nname = "7"\npattern = "b"', "begin with a letter"),
])  # fmt: skip
def test_bad_rules_files(tmp_path, text, word):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(RuleError, match=".*") as error:
        load_rules(path)
    assert word in str(error.value)
    with pytest.raises(RuleError, match="does not exist"):
        load_rules(tmp_path / "none.toml")


# --- the step ---


def rows_file(path, count=3000):
    texts = [text for text, _ in CANARIES.values()]
    with open(path, "wb") as out:
        for n in range(count):
            text = texts[n % len(texts)] if n % 3 == 0 else f"plain row {n} of the file\nwith lines"
            out.write(orjson.dumps({"instruction": text, "output": f"user{n % 50}@x.org {n}", "domain": f"d{n % 3}"}))
            out.write(b"\n")
            if n % 1000 == 500:
                out.write(b'{"broken": "jane@secret.org",\n')
    return path


def test_step(tmp_path, monkeypatch):
    monkeypatch.setattr("afs.rows.PART_BYTES", 20_000)
    source = rows_file(tmp_path / "in.jsonl")
    custom = tmp_path / "rules.toml"
    custom.write_text("[[rule]]\nname = 'row'\npattern = 'row \\d*7\\b'\n")
    outputs = []
    for workers in (1, 2, 7):
        target = tmp_path / f"out{workers}.jsonl"
        result = redact_jsonl(source, target, rules_file=custom, report_path=tmp_path / f"r{workers}.json",
                              how=How(workers=workers))  # fmt: skip
        outputs.append((target.read_bytes(), (tmp_path / f"out{workers}.quarantine.jsonl").read_bytes(),
                        (tmp_path / f"r{workers}.json").read_bytes()))  # fmt: skip
    assert outputs[0] == outputs[1] == outputs[2]
    assert result.report.counts.read == 3003 and result.report.counts.out == 3000
    assert b"\x01" not in outputs[0][0] and b"\\u0001" not in outputs[0][0]
    assert b"jane@secret" not in outputs[0][1] and b"<EMAIL:" in outputs[0][1]
    # One number per secret over the whole file, however it was cut.
    emails = {}
    for n, row in enumerate(read_rows(tmp_path / "out1.jsonl", pytest.fail)):
        emails.setdefault(n % 50, set()).add(row.value["output"].split()[0])
    assert all(len(found) == 1 for found in emails.values()) and len(set().union(*emails.values())) == 50
    assert result.redaction.replaced["EMAIL"] > 3000 and "EMAIL" in result.summary()
    again = redact_jsonl(source, tmp_path / "out7.jsonl", rules_file=custom, report_path=tmp_path / "r7.json")
    assert again.report.current and again.redaction.replaced == result.redaction.replaced
    twice = redact_jsonl(tmp_path / "out1.jsonl", tmp_path / "twice.jsonl", rules_file=custom)
    assert (tmp_path / "twice.jsonl").read_bytes() == outputs[0][0] and not twice.redaction.replaced


def test_step_without_rows(tmp_path):
    (tmp_path / "in.jsonl").write_text("nothing here\n")
    with pytest.raises(StepError, match="no usable row"):
        redact_jsonl(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_speed():
    """At least 40 MB per CPU-second on the package's own code, where one row in five holds a secret."""
    texts = [text for text, _ in CANARIES.values()]
    code = "".join(p.read_text(encoding="utf-8") for p in sorted(Path(afs.__file__).parent.rglob("*.py")))
    pieces = [code[at : at + 2000] for at in range(0, len(code), 2000)] * 30
    rows = [orjson.dumps({"cwd": "/home/jane/src", "text": piece + (texts[n % len(texts)] if n % 5 == 0 else "")})
            for n, piece in enumerate(pieces)]  # fmt: skip
    redactor, start = Redactor(), time.process_time()
    for at in range(0, len(rows), 200):
        redactor.redact_lines(rows[at : at + 200])
    assert sum(map(len, rows)) / 1e6 / (time.process_time() - start) > 40
