"""Scoring: the formula, signals that are absent with a reason, addresses in assembly, and files left as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from afs.generators.base import TrainingSample
from afs.jsonl import original_bytes
from afs.step import How, StepError, UsageError, read_manifest
from afs.training.entities import REGISTERS, SymbolTable, canonical, coverage, kind
from afs.training.scoring import (
    QualityScore,
    QualityScorer,
    ScoringConfig,
    ScoringError,
    ScoringWeights,
    Values,
    analyze_scores,
    score_jsonl,
    score_samples,
)
from afs.training.signals import AbsentScorer, EntityScorer, LengthScorer, length_score

ASM = "LDA.w $0D80, X\n STA $2100 ; screen\n JSL $0080B5\n LDA #$22 : STZ $4500\n"


class Fixed:
    """A stand-in signal: the value of a sample's input as a number, absent when there is none."""

    version, needs = "3", ("input",)

    def __init__(self, name):
        self.name = name

    def missing(self):
        return ""

    def score(self, batch):
        values = [float(item.input) if item.input else math.nan for item in batch]
        return Values(values, ["" if v == v else "no number" for v in values])


def sample(output, **more):
    return TrainingSample(instruction="q", output=output, **more)


def write(path, rows):
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


# --- the guide ------------------------------------------------------------------------------------------------------


def test_the_guides_snippet_runs_without_model_and_asar(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    config = ScoringConfig(weights=ScoringWeights(electra=0.4, asar=0.3, entity=0.2, length=0.1),
                           min_output_length=50, ideal_output_length=500, max_output_length=5000)  # fmt: skip
    scorer = QualityScorer(config=config)
    quality = scorer.score(TrainingSample(instruction="What does LDA do?", domain="asm",
                                          output="LDA loads the accumulator with a value from memory."))  # fmt: skip
    print(f"Overall: {quality.overall:.2f}")
    print(f"ELECTRA: {quality.electra_score:.2f}")
    print(f"Asar valid: {quality.asar_valid}")
    print(f"Entity coverage: {quality.entity_coverage:.2f}")
    assert capsys.readouterr().out == "Overall: 0.50\nELECTRA: nan\nAsar valid: nan\nEntity coverage: nan\n"
    assert quality.overall == quality.length_score == 0.5 + 0.5 / 450
    assert quality.reasons == {
        "electra": "no ELECTRA model: train one with `afs discriminator train`",
        "asar": "asar is not on PATH: install it, or leave the signal out",
        "entity": "not applicable: no 65816 instruction in the output names an address",
    }
    assert json.loads(json.dumps(quality.to_dict(), allow_nan=False))["electra_score"] is None


def test_asar_on_the_path_judges_assembly(tmp_path, monkeypatch):
    tool = tmp_path / "asar"
    tool.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Asar 1.91"\nexit 0\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    quality = QualityScorer().score(sample(ASM))
    assert quality.asar_valid is True and "asar" not in quality.reasons


def test_switches(tmp_path):
    scorer = QualityScorer(ScoringConfig(use_asar=False, use_electra=False))
    assert scorer.missing == {"electra": "switched off", "asar": "switched off"}
    assert "skip_asar_if_no_model" in QualityScorer(ScoringConfig(skip_asar_if_no_model=True)).missing["asar"]
    with pytest.raises(ScoringError, match=r"ELECTRA model .*nothing does not exist"):
        QualityScorer(ScoringConfig(electra_model_path=tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"is no trained discriminator .*afs discriminator train"):
        QualityScorer(ScoringConfig(electra_model_path=tmp_path))


def test_profiles_are_as_the_guide_says():
    generic, dialogue, asm = (ScoringConfig.from_profile(n).weights.to_dict() for n in ("generic", "dialogue", "asm"))
    assert len(set(generic.values())) == 1, "balanced"
    assert min(dialogue["length"], dialogue["entity"]) > max(dialogue["electra"], dialogue["asar"])
    assert min(asm["electra"], asm["asar"]) > max(asm["entity"], asm["length"])
    assert ScoringConfig.from_profile("asm", use_asar=False).use_asar is False
    with pytest.raises(ScoringError, match=r"no scoring profile 'dialog'; known: generic, dialogue, asm; did you mean"):
        ScoringConfig.from_profile("dialog")


def test_settings_from_flags():
    assert ScoringConfig.from_flags(electra_model_path=None, use_asar=None) == ScoringConfig()
    found = ScoringConfig.from_flags("asm", {"length": 0.5, "style": 1.0}, batch_size=128, use_asar=False)
    assert found.weights == ScoringWeights(0.45, 0.4, 0.1, 0.5, more={"style": 1.0})
    assert (found.batch_size, found.use_asar) == (128, False)


# --- the formula ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "value"), [(0, 0), (25, 0.25), (49, 0.49), (50, 0.5), (275, 0.75), (500, 1),
                                          (2750, 0.85), (5000, 0.7), (5001, 0.5), (10**6, 0.5)])  # fmt: skip
def test_the_length_formula(n, value):
    assert length_score(n, 50, 500, 5000) == pytest.approx(value, abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
@example(n=5, low=5, more=0, most=0)
@example(n=0, low=0, more=0, most=0)
def test_the_length_formula_with_equal_bounds(n, low, more, most):
    value = length_score(n, low, low + more, low + more + most)
    assert 0 <= value <= 1
    if n == low + more:
        assert value == 1


@pytest.mark.parametrize("wrong", [
    {"min_output_length": 600}, {"min_output_length": -1}, {"max_output_length": 499}, {"batch_size": 0},
])  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(ScoringError):
        ScoringConfig(**wrong)


@pytest.mark.parametrize("wrong", [
    {"electra": -0.1}, {"length": math.nan}, {"electra": 0, "asar": 0, "entity": 0, "length": 0}, {"more": {"x": -1}},
    {"asar": "0.3"},
])  # fmt: skip
def test_wrong_weights(wrong):
    with pytest.raises(ScoringError):
        ScoringWeights(**wrong)


def test_weights():
    weights = ScoringWeights(2, 1, 1, 0, more={"x": 4})
    assert weights.normalize().to_dict() == {"electra": 0.25, "asar": 0.125, "entity": 0.125, "length": 0, "x": 0.5}
    assert ScoringWeights.from_dict(weights.to_dict()) == weights
    assert sum(ScoringWeights().to_dict().values()) == pytest.approx(1)


SIGNAL = st.one_of(st.none(), st.floats(0, 1))


@settings(deadline=None)
@given(SIGNAL, SIGNAL, st.integers(0, 6000), st.lists(st.floats(0.01, 5), min_size=3, max_size=3))
def test_absent_signals_give_their_weight_to_the_others(electra, asar, n, weights):
    """overall = the weighted mean of what is there, by a second, plain formula."""

    class Two(Fixed):
        def score(self, batch):
            value = {"electra": electra, "asar": asar}[self.name]
            return Values([math.nan if value is None else value] * len(batch), ["" if value is not None else "no"])

    config = ScoringConfig(weights=ScoringWeights(weights[0], weights[1], 0, weights[2]))
    quality = QualityScorer(config, [Two("electra"), Two("asar"), LengthScorer(50, 500, 5000)]).score(sample("x" * n))
    there = [(w, v) for w, v in zip(weights, (electra, asar, quality.length_score), strict=True) if v is not None]
    assert quality.overall == pytest.approx(sum(w * v for w, v in there) / sum(w for w, _ in there))
    assert 0 <= quality.overall <= 1
    assert set(quality.reasons) == {n for n, v in (("electra", electra), ("asar", asar)) if v is None}
    assert quality.asar_valid is (asar >= 0.5) if asar is not None else math.isnan(quality.asar_valid)
    assert quality.components["length@1"] == quality.length_score and "electra@3" in quality.components


def test_a_signal_that_cannot_run_alone_is_an_error():
    with pytest.raises(ScoringError, match="no signal with a weight above 0 can run: electra: no ELECTRA model"):
        QualityScorer(ScoringConfig(weights=ScoringWeights(1, 0, 0, 0)))
    with pytest.raises(ScoringError, match="weight for 'style', but no such scorer runs"):
        QualityScorer(ScoringConfig(weights=ScoringWeights(more={"style": 1})))
    with pytest.raises(StepError, match="electra cannot score: gone"):
        AbsentScorer("electra", "gone").score([])


def test_a_sample_that_no_signal_applies_to_has_no_score():
    scorer = QualityScorer(ScoringConfig(weights=ScoringWeights(0, 0, 1, 0)))
    prose = sample("It costs $50.")
    assert math.isnan(scorer.score_batch([prose])[0].overall)
    assert prose.quality_score == 0.0, "0.0 means not scored"
    assert scorer.score(sample("LDA $22")).overall == 1.0


def test_batches_write_into_samples_only_when_asked():
    samples = [sample("x" * 275), {"instruction": "a", "output": "y" * 500, "extra": 1},
               {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "z" * 25}]}]
    scorer = QualityScorer(ScoringConfig(batch_size=2))
    found = scorer.score_batch(samples, update_samples=False)
    assert [s.overall for s in found] == pytest.approx([0.75, 1.0, 0.25])
    assert samples[0].quality_score == 0.0 and "_metadata" not in samples[1]
    score_samples(samples)
    assert samples[0].quality_score == pytest.approx(0.75) and samples[1]["quality_score"] == 1.0
    assert samples[0].metadata["quality_components"] == {"electra": None, "asar": None, "entity@1": None,
                                                         "length@1": 0.75}  # fmt: skip
    with pytest.raises(ValueError, match="cannot be scored: missing fields"):
        scorer.score({"x": 1})


def test_analyze():
    scores = [QualityScore(1.0, 0.5, True, length_score=1.0), QualityScore(0.05, asar_valid=False),
              QualityScore(math.nan)]
    found = analyze_scores(scores)
    assert found["count"] == 3 and found["overall"]["count"] == 2 and found["asar_pass_rate"] == 0.5
    assert found["overall"]["histogram"]["0.9-1.0"] == 1, "a score of 1.0 is in the last tenth"
    assert sum(found["overall"]["histogram"].values()) == 2
    assert found["electra"] == {"count": 1, "mean": 0.5, "min": 0.5, "max": 0.5}
    assert analyze_scores([])["overall"]["mean"] is None


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "total", "known", "unknown"), [
    ("LDA $7EF36C", 1, 1, ()),
    ("LDA.b $22 : STA $2100", 2, 2, ()),
    ("LDX #$22\nREP #$30", 0, 0, ()),
    ("CMP.w #$2100", 0, 0, ()),
    ("STA $2190", 1, 0, ("$002190",)),
    ("LDA ($10),Y\nLDA [$7E],Y\nLDA ($44,X)\nSTA $0D80, X", 4, 4, ()),
    ("LDA $03,S\nLDA ($05,S),Y", 0, 0, ()),
    ("JSL $0080B5\nBRA $8012\nJMP ($0010)\nMVN $7E,$7F\nPEA $2100\nBRK $00", 0, 0, ()),
    ("LDA $8000,X\nLDA.l $0DF123", 0, 0, ()),
    ("RTS ; LDA $4500 : STA $4501", 0, 0, ()),
    ("LDA $22 ; costs $5000", 1, 1, ()),
    ("// LDA $4500\nLDA $22", 1, 1, ()),
    ("Foo: LDA $4500\r\n.bar STA $2140\r\n- LDA $4212\r\n#_0081A2: STZ $420B\r\n", 4, 3, ("$004500",)),
    ("use `STZ $4200` for that", 1, 1, ()),
    ("```asm\n  sta a:$2116\n```", 1, 1, ()),
    ("It costs $50.", 0, 0, ()),
    ("It costs $50 and\nand $50", 0, 0, ()),
    ("Prices:\nbit $500\ndec $20", 0, 0, ()),
    ("lda $22\nand $50", 2, 2, ()),
    ("LDA $22 is a load and LDA $4500 is not", 0, 0, ()),
    ("LDA $0022\nSTA $7E0022\nSTA $800022", 1, 1, ()),
    ("LDA $700000\nLDA $4371\nSTA $437F", 3, 2, ("$00437F",)),
    ("", 0, 0, ()),
])  # fmt: skip
def test_which_operands_are_addresses(text, total, known, unknown):
    found = coverage(text)
    assert found == (total, known, unknown)
    assert math.isnan(found.share) if not total else found.share == known / total


def test_the_registers():
    assert len([a for a in REGISTERS if 0x2100 <= a <= 0x213F]) == 64, "the PPU has no hole"
    assert REGISTERS[0x2100] == "INIDISP" and REGISTERS[0x213F] == "STAT78" and REGISTERS[0x2143] == "APUIO3"
    assert REGISTERS[0x2118] == "VMDATAL" and REGISTERS[0x2134] == "MPYL" and REGISTERS[0x2183] == "WMADDH"
    assert REGISTERS[0x420B] == "MDMAEN" and REGISTERS[0x4212] == "HVBJOY" and REGISTERS[0x421F] == "JOY4H"
    assert REGISTERS[0x4305] == "DASL0" and REGISTERS[0x437A] == "NTRL7" and REGISTERS[0x4016] == "JOYSER0"
    assert not {0x420E, 0x420F, 0x430B, 0x2144, 0x2184} & REGISTERS.keys()


@given(st.integers(0, 0xFFFFFF))
def test_mirrors_are_one_place(address):
    place = canonical(address)
    assert canonical(place) == place and kind(place) == kind(address)
    bank, low = address >> 16, address & 0xFFFF
    if bank < 0x40 and low < 0x8000:
        assert canonical(address | 0x800000) == place, "banks $80-$BF mirror $00-$3F"
    if bank < 0x40 and low < 0x2000:
        assert place == 0x7E0000 | low


def test_symbols_of_a_project(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "ram.asm").write_text(
        "; equates\nLinkX = $7E0022 ; x\n!Table = $0DF123\n!define Speed $04D0\n.define Flag = $7EF36C\n"
        "OAM equ $0800\nca65_style := $9000\nLDA $8888\nLabel: STA $9999\n!count #= $05\n", "utf-8")  # fmt: skip
    (tmp_path / "sub" / "b.inc").write_text("Door = $00A123\n")
    (tmp_path / "notes.md").write_text("Ignored = $00B000\n")
    table = SymbolTable.load([tmp_path])
    assert table.by_name == {"linkx": 0x7E0022, "table": 0x0DF123, "speed": 0x7E04D0, "flag": 0x7EF36C, "oam": 0x7E0800,
                             "ca65_style": 0x9000, "count": 0x7E0005, "door": 0xA123}  # fmt: skip
    assert coverage("LDA.l $0DF123\nLDA $0DF124", table) == (1, 1, ()), "ROM counts only when a symbol names it"
    assert coverage("LDA LinkX\nSTA !Table,X\nLDA SomeLabel\nASL A", table) == (2, 2, ())
    assert coverage("LDA !Nowhere\n!Here = $10\nSTA !Here", table) == (1, 0, ("!Nowhere",))
    assert coverage("LDA !Nowhere") == (0, 0, ()), "without symbols a name says nothing"
    quality = QualityScorer(ScoringConfig(symbols=(tmp_path,))).score(sample("LDA !Nowhere\nLDA LinkX"))
    assert quality.entity_coverage == 0.5 and (quality.entity_count, quality.known_entity_count) == (2, 1)
    for wrong in (tmp_path / "none.asm", tmp_path / "notes.md/../sub/../empty"):
        with pytest.raises(ScoringError, match="does not exist"):
            QualityScorer(ScoringConfig(symbols=(wrong,)))
    (tmp_path / "bare.asm").write_text("RTS\n")
    with pytest.raises(ScoringError, match="no equate"):
        QualityScorer(ScoringConfig(symbols=(tmp_path / "bare.asm",)))


@given(st.text(st.sampled_from("LDASTX $#:;/`\n.,!()[]0123abF-"), max_size=80))
def test_any_text_is_looked_at(text):
    found = coverage(text)
    assert 0 <= found.known <= found.total and len(found.unknown) == found.total - found.known


def test_a_long_line_takes_no_long_time():
    import time

    for text in ("LDA $" * 40_000, ":" * 200_000 + "$", "\n" + " " * 200_000 + "$", "\n" + "-" * 200_000 + "$",
                 "`- " * 60_000 + "$", ("\n-" + " " * 99) * 2000 + "$", "LDA " + " " * 200_000 + "$",
                 ":." * 100_000 + "$", "`LDA A" * 40_000 + "$"):  # fmt: skip
        started = time.process_time()
        coverage(text)
        assert time.process_time() - started < 2.0, text[:10]


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file(tmp_path):
    rows = [{"instruction": "q", "output": "x" * n, "domain": "d", "source": f"s_{n}"} for n in (10, 275, 500)]
    rows.append({"instruction": "q", "output": ASM * 5})
    path = write(tmp_path / "raw.jsonl", rows)
    found = score_jsonl(input_path=path, output_path=tmp_path / "scored.jsonl",
                        config=ScoringConfig.from_profile("generic"), min_score=0.5)  # fmt: skip
    out = rows_of(tmp_path / "scored.jsonl")
    assert [r["quality_score"] for r in out][:2] == [0.75, 1.0] and len(out) == 3
    assert out[2]["_metadata"]["quality_components"]["entity@1"] == 0.666667
    assert (found.input_count, found.output_count, found.filtered_count) == (4, 3, 1)
    assert found.signals["entity"]["ran"] == 1 and found.signals["electra"]["ran"] == 0
    assert list(found.signals["entity"]["absent"].values()) == [3]
    assert sum(found.histogram.values()) == 4 and found.max_score == 1.0 and found.min_score == 0.1
    assert "no ELECTRA model" in found.summary() and "entity (weight 0.25) ran on 1 rows" in found.summary()
    assert read_manifest(tmp_path / "scored.jsonl.manifest.json")["details"]["mean"] == found.mean_score
    again = score_jsonl(path, tmp_path / "scored.jsonl", ScoringConfig.from_profile("generic"), 0.5)
    assert again.report.current and again.mean_score == found.mean_score


def test_rejected_rows_keep_their_scores(tmp_path):
    path = write(tmp_path / "raw.jsonl", [{"instruction": "q", "output": "x" * n} for n in (10, 500)])
    found = score_jsonl(path, tmp_path / "out.jsonl", min_score=0.5, rejected=tmp_path / "rejected.jsonl")
    assert [r["quality_score"] for r in rows_of(tmp_path / "rejected.jsonl")] == [0.1]
    assert found.output_count == 1
    with pytest.raises(UsageError, match="need a threshold"):
        score_jsonl(path, tmp_path / "out.jsonl", rejected=tmp_path / "r.jsonl")


def test_nothing_left_is_an_error_and_leaves_no_file(tmp_path):
    path = write(tmp_path / "raw.jsonl", [{"instruction": "q", "output": "x" * 10}])
    with pytest.raises(StepError, match=r"none of 1 rows reaches min_score 0.9: the best score is 0.100"):
        score_jsonl(path, tmp_path / "out.jsonl", min_score=0.9, rejected=tmp_path / "rejected.jsonl")
    with pytest.raises(StepError, match="no row could be scored"):
        score_jsonl(write(tmp_path / "empty.jsonl", []), tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="is also an input"):
        score_jsonl(path, path)
    with pytest.raises(ScoringError, match="from 0 to 1"):
        score_jsonl(path, tmp_path / "out.jsonl", min_score=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.jsonl", "raw.jsonl"]


def test_a_row_without_any_score_does_not_pass_a_threshold(tmp_path):
    path = write(tmp_path / "raw.jsonl", [{"instruction": "q", "output": t} for t in ("prose", "LDA $22")])
    config = ScoringConfig(weights=ScoringWeights(0, 0, 1, 0))
    score_jsonl(path, tmp_path / "all.jsonl", config)
    assert [r["quality_score"] for r in rows_of(tmp_path / "all.jsonl")] == [None, 1.0]
    assert score_jsonl(path, tmp_path / "good.jsonl", config, min_score=0.0).filtered_count == 1
    assert TrainingSample.from_dict(rows_of(tmp_path / "all.jsonl")[0]).quality_score == 0.0


def test_bad_rows_are_set_aside(tmp_path):
    path = tmp_path / "raw.jsonl"
    deep = b'{"instruction":"q","output":"a","x":' + b"[" * 1000 + b"]" * 1000 + b"}"
    bad = [b"{", b'{"instruction":"q"}', b'{"instruction":"q","output":5}', b"\xff\xfe", b"[]",
           b'{"instruction":"q","output":"a","_metadata":[1]}']  # fmt: skip
    path.write_bytes(b"\n".join([b'{"instruction":"q","output":"a"}', *bad, deep]))
    found = score_jsonl(path, tmp_path / "out.jsonl")
    records = rows_of(tmp_path / "out.quarantine.jsonl")
    assert [original_bytes(r) for r in records][:6] == bad and all(r["reason"] for r in records)
    c = found.report.counts
    assert c.read == 8 == c.out + c.quarantined and c.out >= 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), TEXT,
                  st.floats(allow_nan=False, allow_infinity=False))  # fmt: skip
VALUES = st.recursive(
    PLAIN, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(TEXT, v, max_size=3)), max_leaves=6
)


@settings(max_examples=60, deadline=None)
@given(more=st.dictionaries(TEXT, VALUES, max_size=4), spaces=st.booleans(), text=TEXT.map(lambda t: t * 9),
       metadata=st.one_of(st.none(), st.dictionaries(TEXT, VALUES, max_size=3)))  # fmt: skip
def test_everything_but_the_score_stays(tmp_path_factory, more, metadata, text, spaces):
    assume(not {"instruction", "output", "_metadata", "quality_score", "source", "domain", "messages"} & more.keys())
    folder = tmp_path_factory.mktemp("score")
    row = {**more, "instruction": "q", "quality_score": "any", "output": text}
    if metadata is not None:
        row["_metadata"] = metadata
    raw = json.dumps(row, ensure_ascii=spaces, separators=None if spaces else (",", ":"))
    (folder / "in.jsonl").write_bytes(raw.encode() + b"\n")
    score_jsonl(folder / "in.jsonl", folder / "out.jsonl")
    out = rows_of(folder / "out.jsonl")[0]
    assert out["_metadata"].pop("quality_components")["length@1"] == round(length_score(len(text), 50, 500, 5000), 6)
    assert out.pop("_metadata") == (metadata or {})
    assert isinstance(out.pop("quality_score"), float)
    del row["quality_score"]
    row.pop("_metadata", None)
    assert out == row and list(out) == list(row)


def test_numbers_and_escapes_keep_their_bytes(tmp_path):
    raw = (b'{"instruction":"caf\\u00e9","output":"a","n":1.10e5,"big":123456789012345678901234567890,'
           b'"_metadata":{"x":1.0e-3}}')  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(raw + b"\r\n")
    score_jsonl(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    out = (tmp_path / "out.jsonl").read_bytes()
    for part in (b'"caf\\u00e9"', b"1.10e5", b"123456789012345678901234567890", b"1.0e-3"):
        assert part in out
    assert out.count(b"\n") == 1 and b"\r" not in out


def test_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("afs.rows.PART_BYTES", 20_000)
    rows = [{"instruction": "q", "output": (ASM if i % 3 else "prose ") * (i % 40), "n": i} for i in range(400)]
    path = write(tmp_path / "in.jsonl", rows)
    found = {}
    for workers in (1, 2, 7):
        out = tmp_path / f"out{workers}.jsonl"
        report = score_jsonl(path, out, min_score=0.3, rejected=tmp_path / f"bad{workers}.jsonl", workers=workers)
        assert report.report.parameters["min_score"] == 0.3
        found[workers] = out.read_bytes(), (tmp_path / f"bad{workers}.jsonl").read_bytes(), report.details
    assert found[1] == found[2] == found[7] and found[1][1]
    assert report.input_count == 400 == report.output_count + report.filtered_count


def test_changed_symbols_are_scored_again(tmp_path):
    path = write(tmp_path / "in.jsonl", [{"instruction": "q", "output": "LDA !Foo"}])
    equates = tmp_path / "ram.asm"
    equates.write_text("!Bar = $7E0010\n")
    config = ScoringConfig(symbols=(equates,))
    first = score_jsonl(path, tmp_path / "out.jsonl", config)
    equates.write_text("!Foo = $7E0010\n")
    second = score_jsonl(path, tmp_path / "out.jsonl", config)
    assert not second.report.current and second.mean_score > first.mean_score


def test_own_scorers_and_plug_ins(tmp_path, monkeypatch):
    rows = [{"instruction": "q", "output": "x" * 500, "input": value} for value in ("0.5", "", "1")]
    path = write(tmp_path / "in.jsonl", rows)
    config = ScoringConfig(weights=ScoringWeights(0, 0, 0, 1, more={"style": 1}))
    scorers = [Fixed("style"), LengthScorer(50, 500, 5000), EntityScorer(SymbolTable.load([]))]
    score_jsonl(path, tmp_path / "out.jsonl", config, scorers=scorers)
    out = rows_of(tmp_path / "out.jsonl")
    assert [r["quality_score"] for r in out] == [0.75, 1.0, 1.0]
    assert [r["_metadata"]["quality_components"]["style@3"] for r in out] == [0.5, None, 1.0]
    # By entry point: named in the config, or in the place of a signal of that name.
    monkeypatch.setattr("afs.plugins.names", lambda group: ["asar", "style"])
    monkeypatch.setattr("afs.plugins.load", lambda group, name: lambda config: Fixed(name))
    found = QualityScorer(ScoringConfig(scorers=("style",), weights=ScoringWeights(more={"style": 1})))
    assert [s.name for s in found.scorers] == ["electra", "asar", "entity", "length", "style"]
    assert found.score(sample("x", input="0.25")).asar_valid is False
    with pytest.raises(ScoringError, match="no plug-in scorer 'tone'; installed: asar, style"):
        QualityScorer(ScoringConfig(scorers=("tone",)))
    monkeypatch.setattr("afs.plugins.load", lambda group, name: lambda config: object())
    with pytest.raises(ScoringError, match="gives no scorer of that name"):
        QualityScorer(ScoringConfig(scorers=("style",)))


def test_a_scorer_that_loses_samples_fails_the_run(tmp_path):
    class Short(Fixed):
        def score(self, batch):
            return Values([], [])

    path = write(tmp_path / "in.jsonl", [{"instruction": "q", "output": "x"}])
    config = ScoringConfig(weights=ScoringWeights(0, 0, 0, 1))
    with pytest.raises(StepError, match="scorer style gave 0 values for 1 samples"):
        score_jsonl(path, tmp_path / "out.jsonl", config, scorers=[Short("style"), LengthScorer(50, 500, 5000)])
    assert not (tmp_path / "out.jsonl").exists()


def test_dry_run_and_strict(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"instruction":"q","output":"x"}\n{\n')
    found = score_jsonl(path, tmp_path / "out.jsonl", how=How(dry_run=True))
    assert found.output_count == 1 and not (tmp_path / "out.jsonl").exists()
    with pytest.raises(StepError, match=r"in\.jsonl:2"):
        score_jsonl(path, tmp_path / "out.jsonl", how=How(strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


class Chatty:
    """A signal whose reason is another one for every row."""

    name, version, needs = "asar", "1", ("output",)

    def missing(self) -> str:
        return ""

    def score(self, batch):
        return Values([math.nan] * len(batch), [f"not applicable: {item.output}" for item in batch])


def test_a_report_holds_a_few_of_many_reasons_and_counts_the_rest(tmp_path):
    rows = [sample(f"answer {n}").to_dict() for n in range(3000)]
    (tmp_path / "in.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    absent = score_jsonl(tmp_path / "in.jsonl", tmp_path / "out.jsonl",
                         scorers=[Chatty(), LengthScorer(50, 500, 5000)]).signals["asar"]["absent"]  # fmt: skip
    assert sum(absent.values()) == 3000 and len(absent) == 21 and absent["other reasons"] == 2980
