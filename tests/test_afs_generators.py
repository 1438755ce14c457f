"""TrainingSample round trips, generators and plug-ins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs import plugins
from afs.generators.base import (
    FIELDS,
    BaseGenerator,
    SampleError,
    TrainingSample,
    content_id,
    iter_samples,
    load_samples,
    write_samples,
)
from afs.generators.code import CodeGenerator
from afs.generators.docs import DocsGenerator, sections

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda x: st.lists(x, max_size=3)
                    | st.dictionaries(TEXT, x, max_size=3), max_leaves=6)  # fmt: skip
KNOWN = st.fixed_dictionaries(
    {"instruction": TEXT, "output": TEXT},
    optional={
        "input": TEXT, "thinking": TEXT, "domain": TEXT, "source": TEXT, "sample_id": TEXT.filter(bool),
        "quality_score": st.floats(0, 1) | st.integers(0, 1), "embedding": st.lists(st.floats(-1, 1), max_size=3),
        "teacher_model": TEXT, "teacher_prompt": TEXT, "timestamp": TEXT, "kg_entities": st.lists(TEXT, max_size=2),
        "kg_validated": st.booleans(), "_metadata": st.dictionaries(TEXT, JSON, max_size=3),
    },
)  # fmt: skip


def test_fields_in_their_order():
    assert FIELDS == ("instruction", "output", "input", "thinking", "domain", "source", "sample_id", "quality_score",
                      "embedding", "teacher_model", "teacher_prompt", "timestamp", "kg_entities", "kg_validated",
                      "_metadata")  # fmt: skip
    sample = TrainingSample(instruction="q", output="a")
    assert list(sample.to_dict()) == list(FIELDS)
    assert (sample.domain, sample.source, sample.quality_score, sample.timestamp) == ("general", "augmented", 0.0, "")


@given(KNOWN, st.dictionaries(TEXT.filter(lambda k: k not in FIELDS), JSON, max_size=3))
def test_round_trips_keep_every_key(known, unknown):
    """What went in comes out, unknown keys at the top level; a second trip changes nothing."""
    row = known | unknown
    back = TrainingSample.from_dict(orjson.loads(orjson.dumps(row))).to_dict()
    assert {key: back[key] for key in row} == row
    assert TrainingSample.from_dict(back).to_dict() == back
    assert orjson.loads(TrainingSample.from_dict(row).to_json()) == back


def test_ids_come_from_the_content():
    first, again = (TrainingSample(instruction="q", output="a", source=s) for s in ("x", "y"))
    assert first.sample_id == again.sample_id == content_id("q", "", "a", None) and len(first.sample_id) == 16
    assert TrainingSample(instruction="q", output="a", thinking="").sample_id != first.sample_id


@pytest.mark.parametrize(("row", "part"), [
    ({"output": "a"}, "'instruction' is missing"), ({"instruction": None, "output": "a"}, "'instruction' is null"),
    ({"instruction": "q", "output": 3}, "'output' must be a text, found 3"),
    ({"instruction": "q", "output": "a", "quality_score": True}, "finite number"),
    ({"instruction": "q", "output": "a", "quality_score": float("nan")}, "finite number"),
    ({"instruction": "q", "output": "a", "embedding": ["x"]}, "list of numbers"),
    ({"instruction": "q", "output": "a", "kg_entities": "x"}, "list of texts"),
    ({"instruction": "q", "output": "a", "kg_validated": 1}, "true or false"),
    ({"instruction": "q", "output": "a", "_metadata": []}, "an object"),
])  # fmt: skip
def test_wrong_types_are_named_with_their_line(row, part):
    with pytest.raises(SampleError, match="line 7: ") as caught:
        TrainingSample.from_dict(row, line=7)
    assert part in str(caught.value)


def test_null_stands_for_the_default():
    sample = TrainingSample.from_dict({"instruction": "q", "output": "a", "_metadata": None, "domain": None})
    assert sample._metadata == {} and sample.domain == "general"


def test_loading_sets_bad_rows_aside(tmp_path):
    path = tmp_path / "in.jsonl"
    assert write_samples([TrainingSample(instruction=f"q{n}", output="a") for n in range(3)], path) == 3
    with open(path, "ab") as out:
        out.write(b'{broken\n{"instruction":"q"}\n')
    assert [s.instruction for s in load_samples(path)] == ["q0", "q1", "q2"]
    bad = [orjson.loads(line) for line in (tmp_path / "in.quarantine.jsonl").read_bytes().splitlines()]
    assert [b["line"] for b in bad] == [4, 5] and "'output' is missing" in bad[1]["reason"]
    with pytest.raises(SampleError, match=r"in\.jsonl:4 \(byte \d+\): bad JSON"):
        list(iter_samples(path))
    (tmp_path / "none.jsonl").write_bytes(b"{}\n")
    with pytest.raises(SampleError, match="none of the 1 rows"):
        load_samples(tmp_path / "none.jsonl")


class Counting(BaseGenerator):
    def generate(self) -> Iterator[TrainingSample]:
        for n in range(5):
            yield TrainingSample(instruction=f"q{n}", output="a", domain=f"d{n % 2}")


def test_a_generator_writes(tmp_path):
    done = Counting("counting").write(tmp_path / "x.jsonl", limit=3)
    assert done.samples == 3 and done.by_domain == {"d0": 2, "d1": 1}
    assert len((tmp_path / "x.jsonl").read_bytes().splitlines()) == 3
    assert Counting("counting").write(tmp_path / "y.jsonl", limit=0).samples == 0
    with pytest.raises(NotImplementedError, match="BaseGenerator must define generate"):
        list(BaseGenerator("x").generate())


def test_sections_know_fences_and_trails():
    text = "# Top\nintro\n```\n# no heading\n```\n## Deep ##\nbody\n\n# Next\n"
    found = list(sections(text))
    assert [(s.title, s.level, s.trail, s.line) for s in found] == [
        ("Top", 1, (), 1), ("Deep", 2, ("Top",), 6), ("Next", 1, (), 9)]  # fmt: skip
    assert "# no heading" in found[0].body and found[1].body == "body" and found[2].body == ""


def test_generators_read_this_project(tmp_path):
    root = Path(__file__).parent.parent
    docs = list(DocsGenerator(root).generate())
    assert any(s.source == "docs:README.md" for s in docs) and all(s.output for s in docs)
    code = CodeGenerator(root / "src")
    found = list(code.generate())
    asked = {s.instruction: s.output for s in found}
    question = "What is the function `largest_remainder` in `afs/training/mixing.py` for?"
    assert asked[question].startswith("Whole counts that sum to `total`") and code.skipped == []
    assert "def largest_remainder(" in asked["Show the code of `largest_remainder` in `afs/training/mixing.py`."]
    (tmp_path / "a.py").write_text("def broken(:\n")
    (tmp_path / "b.py").write_text('def fine():\n    """Docs."""\n')
    code = CodeGenerator(tmp_path)
    assert len(list(code.generate())) == 2 and code.skipped[0][0] == "a.py"
    with pytest.raises(FileNotFoundError, match="name the folder"):
        CodeGenerator(tmp_path / "no")


def test_plug_ins_by_entry_point(tmp_path, monkeypatch):
    info = tmp_path / "demo_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[afs.generators]\ndemo = demo_plugin:Demo\nlost = demo_plugin:Lost\n")
    (tmp_path / "demo_plugin.py").write_text("class Demo:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.names("afs.generators") == ["demo", "lost"]
    assert plugins.load("afs.generators", "demo").__name__ == "Demo"
    with pytest.raises(plugins.PluginError, match="'lost' of demo-plugin"):
        plugins.load("afs.generators", "lost")
    with pytest.raises(KeyError, match="installed: demo, lost"):
        plugins.load("afs.generators", "other")


BODY = "A body that is long enough to be worth a question and its answer."


def test_documents_that_cannot_be_read_are_named_and_the_rest_goes_on(tmp_path):
    (tmp_path / "a.md").write_text(f"# One\n\n{BODY}")
    (tmp_path / "bom.md").write_text(f"\ufeff# Two\n\n{BODY}")
    (tmp_path / "latin.md").write_bytes(b"# Caf\xe9\n\n" + BODY.encode())
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    made = DocsGenerator(tmp_path).write(tmp_path / "out.jsonl")
    assert [where for where, _ in made.skipped] == ["gone.md", "latin.md"] and all(why for _, why in made.skipped)
    asked = [s.instruction for s in load_samples(tmp_path / "out.jsonl")]
    assert len(asked) == 2 and "One" in asked[0] and "Two" in asked[1]


def test_the_code_shown_is_the_code_of_the_function(tmp_path):
    (tmp_path / "a.py").write_text('import os\n\x0c\n\nclass A:\n    @property\n    def b(self):\n        """B."""\n'
                                   "        return 1\n")  # fmt: skip
    (tmp_path / "bom.py").write_bytes(b'\xef\xbb\xbfdef c():\n    """C."""\n')
    (tmp_path / "latin.py").write_bytes('# coding: latin-1\ndef d():\n    """\xe9"""\n'.encode("latin-1"))
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    maker = CodeGenerator(tmp_path)
    shown = [s.output for s in maker.generate() if s._metadata["asked"] == "code"]
    assert shown == ['    @property\n    def b(self):\n        """B."""\n        return 1', 'def c():\n    """C."""',
                     'def d():\n    """\xe9"""']  # fmt: skip
    assert [where for where, _ in maker.skipped] == ["gone.py"]


def test_a_source_without_samples_leaves_the_output_as_it_was(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "out.jsonl").write_text("earlier\n")
    assert DocsGenerator(tmp_path / "docs").write(tmp_path / "out.jsonl").samples == 0
    assert (tmp_path / "out.jsonl").read_text() == "earlier\n"
