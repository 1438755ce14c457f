"""What a quest module says about itself: `manifest.yaml` and `skills/<skill>.yaml` as frozen models.

    manifest = read_manifest(Path("quests/modules/pattern-master"))     # ModuleError lists every wrong key at once

The keys of the manifest are those of realm-rules §14 and no others; how a skill marks answers and makes problems
stands in `skills/<skill id>.yaml` (`SkillFile`), which a module of plain data does not need. An unknown key is an
error that names the nearest one. docs/MODULES.md explains every key; its table is made from these models.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from realm.settings import nearest

MANIFEST = "manifest.yaml"
YAML_AT_MOST = 128 * 1024  # bytes of one YAML file of a module; the shipped ones have 2 KB
DEPTH_AT_MOST = 20  # brackets in brackets
LEVELS_AT_MOST = 100
GENERATORS_AT_MOST = 200  # of a skill
PROMPTS_AT_MOST = 1_000  # of all generators of a skill
NAME = r"^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$"  # of modules and of skills: also a folder name and part of a skill id
VARIABLE = r"^[a-z][a-z0-9_]{0,23}$"

Name = Annotated[str, Field(pattern=NAME, min_length=2, max_length=40)]
Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Level = Annotated[int, Field(ge=1, le=LEVELS_AT_MOST, strict=True)]
Whole = Annotated[int, Field(ge=-(10**12), le=10**12, strict=True)]


class ModuleError(ValueError):
    """A module that cannot be used; the text holds one line per finding: value, rule and next action."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- manifest.yaml ----------------------------------------------------------------------------------------------------

class Primitives(_Model):
    """Which primitives (`seq_continue`, `logic_chain`, …) the module exercises."""

    required: tuple[Text, ...] = Field((), description="primitives that every problem of the module exercises")
    optional: tuple[Text, ...] = Field((), description="primitives that some of its problems exercise")


class Requirements(_Model):
    """What a campaign must have reached before the module is used; checked at use, not at installation."""

    min_level: int = Field(0, ge=0, strict=True, description="least total mastered level of the campaign")
    prerequisites: tuple[Text, ...] = Field(
        (), description="skills that must be mastered at least to level 1, or `skill:level`, such as `bin:3`")


class SkillEntry(_Model):
    """A skill that the module brings."""

    id: Name = Field(description="name of the skill; the only skill of a module may be called like the module")
    levels: tuple[Level, ...] = Field(min_length=1, description="the levels it has: 1, 2, … max_level")
    max_level: Level = Field(description="its highest level")

    @model_validator(mode="after")
    def _levels_are_whole(self) -> SkillEntry:
        if self.levels != tuple(range(1, self.max_level + 1)):
            raise ValueError(f"levels {list(self.levels)}: a skill has every level from 1 to max_level = "
                             f"{self.max_level}, in order; list them all or correct max_level")
        return self


class DataEntry(_Model):
    """One file of training rows, all of one level."""

    path: Text = Field(description="JSONL file inside the module, under `data/`")
    skill_level: Level | Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*:[1-9][0-9]{0,2}$")] = Field(
        description="the level of its rows; `skill:level` where the module brings several skills")
    examples: int = Field(ge=1, strict=True, description="exact number of rows in the file")
    difficulty: Share = Field(0.5, description="0 (easiest) to 1 (hardest), within its level")

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        return inside(value, "data")


class Evaluation(_Model):
    """How levels are examined. The Realm's one level rule decides; these keys can only make it stricter."""

    type: Literal["accuracy"] = Field("accuracy", description="share of right answers on held-out problems")
    threshold: Share = Field(0.8, description="accuracy to be shown with confidence; below 0.80 counts as 0.80")
    eval_set: str | None = Field(None, description="JSONL file, or folder of them, under `eval/`; every row names its "
                                 "`level`; none for skills that are generated")  # fmt: skip
    evals_required: int = Field(1, ge=1, le=20, strict=True,
                                description="trials that must be passed for a level; the level rule asks for one")

    @field_validator("eval_set")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        return None if value is None else inside(value, "eval")


class Curriculum(_Model):
    """How the hero moves through the levels."""

    progression: Literal["accuracy_gated"] = Field("accuracy_gated", description="a level opens when the one below is "
                                                   "mastered in a trial")  # fmt: skip
    min_accuracy_to_advance: Share = Field(0.8, description="like `evaluation.threshold`; the larger of both counts")
    cooldown_on_fail: int = Field(0, ge=0, strict=True, description="training steps to wait after a failed trial; the "
                                  "level rule waits at least one quest")  # fmt: skip


class Manifest(_Model):
    """Everything a module says about itself."""

    id: Name = Field(description="also the name of its folder; lower case letters, digits and single hyphens")
    name: Text = Field(description="title for people")
    version: str = Field(pattern=r"^\d{1,6}(?:\.\d{1,6}){0,2}$", description="such as `\"1.0\"` (in quotes); a new "
                         "version makes new problems and a new held-out split")  # fmt: skip
    author: Text = Field(description="who made it")
    license: Text = Field(description="SPDX identifier, such as `MIT` or `CC-BY-4.0`")
    description: Text = Field(description="what the hero learns, in a sentence or two")
    primitives: Primitives = Field(Primitives(), description="primitives that it exercises")
    requirements: Requirements = Field(Requirements(), description="what a campaign needs first")
    skills: tuple[SkillEntry, ...] = Field(min_length=1, max_length=20, description="the skills it brings")
    data: tuple[DataEntry, ...] = Field((), description="training rows by level")
    evaluation: Evaluation = Field(Evaluation(), description="how levels are examined")
    curriculum: Curriculum = Field(Curriculum(), description="how levels follow each other")
    drill_mode: bool = Field(False, description="true: pure practice of one operation, made by declarative generators "
                             "alone; it brings no data files", strict=True)  # fmt: skip

    @model_validator(mode="after")
    def _hangs_together(self) -> Manifest:
        faults = [*self._twice(), *self._misplaced()]
        if self.drill_mode and self.data:
            faults.append("drill_mode is true and `data` lists files: a drill is made by generators alone; "
                          "remove one of the two")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _twice(self) -> list[str]:
        ids, paths = [skill.id for skill in self.skills], [entry.path for entry in self.data]
        return [f"{what} {value!r} is listed twice: each may stand once; remove one"
                for what, values in (("skill", ids), ("data file", paths))
                for value in sorted({v for v in values if values.count(v) > 1})]  # fmt: skip

    def _misplaced(self) -> list[str]:
        tops, faults = {skill.id: skill.max_level for skill in self.skills}, []
        for entry in self.data:
            skill, level = self.place(entry)
            if skill is None:
                faults.append(f"{entry.path}: skill_level {entry.skill_level} names no skill, and there are "
                              f"{len(tops)}; write skill:level, such as {self.skills[0].id}:{level}")
            elif skill not in tops:
                faults.append(f"{entry.path}: skill_level names the skill {skill!r}{nearest(skill, list(tops))}")
            elif level > tops[skill]:
                faults.append(f"{entry.path}: level {level} is above max_level {tops[skill]} of skill {skill}; "
                              "correct one of the two")
        return faults

    def place(self, entry: DataEntry) -> tuple[str | None, int]:
        """(skill, level) of a data file; the skill is None where it would have to be named and is not."""
        if isinstance(entry.skill_level, str):
            skill, _, level = entry.skill_level.partition(":")
            return skill, int(level)
        return (self.skills[0].id if len(self.skills) == 1 else None), entry.skill_level

    @property
    def threshold(self) -> float:
        """The accuracy that its levels demand: never below the Realm's own 0.80."""
        return max(0.80, self.evaluation.threshold, self.curriculum.min_accuracy_to_advance)

    def skill_id(self, skill: str) -> str:
        """The id under which the Guild knows a skill: `module:<module>`, or `module:<module>/<skill>` of several."""
        return f"module:{self.id}" if len(self.skills) == 1 else f"module:{self.id}/{skill}"


# --- skills/<skill>.yaml ----------------------------------------------------------------------------------------------

class Grader(_Model):
    """How an answer is marked. Blanks at both ends never count; an echo, an empty answer and a list of guesses fail."""

    type: Literal["exact", "numeric", "json", "regex", "set"] = Field("exact", description="exact: the same text · "
        "numeric: one number · json: the same JSON value · regex: the whole answer matches `pattern` · set: the same "
        "members in any order")  # fmt: skip
    ignore_case: bool = Field(False, strict=True, description="exact, regex, set: upper and lower case are alike")
    tolerance: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="numeric: largest accepted difference")
    pattern: str | None = Field(None, max_length=200, description="regex: describes the whole answer; no anchors, "
                                "back-references or look-around; `{golden}` stands for the golden answer's own text")
    separator: str = Field(",", min_length=1, max_length=3, description="set: between the members")

    @model_validator(mode="after")
    def _pattern_where_used(self) -> Grader:
        if (self.type == "regex") != (self.pattern is not None):
            raise ValueError(f"grader type {self.type!r} and pattern {self.pattern!r}: `pattern` belongs to type regex "
                             "and type regex needs it; correct one of the two")
        return self


class IntVariable(_Model):
    """A whole number, uniform from `min` to `max`, both included."""

    type: Literal["int"]
    min: Whole
    max: Whole

    @model_validator(mode="after")
    def _range(self) -> IntVariable:
        return _ordered(self)


class ChoiceVariable(_Model):
    """One of the given values, all equally likely; all are texts or all are whole numbers."""

    type: Literal["choice"]
    values: tuple[Whole, ...] | tuple[Annotated[str, Field(min_length=1, max_length=200, strict=True)], ...] = Field(
        min_length=1, max_length=1_000)

    @model_validator(mode="after")
    def _distinct(self) -> ChoiceVariable:
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"values {list(self.values)[:8]}: a value stands twice; remove one")
        return self


class ListVariable(_Model):
    """`min_length` to `max_length` whole numbers from `min` to `max`; written `3, 1, 4` in a prompt."""

    type: Literal["list"]
    min: Whole
    max: Whole
    min_length: Annotated[int, Field(ge=1, le=40, strict=True)] = 1
    max_length: Annotated[int, Field(ge=1, le=40, strict=True)]

    @model_validator(mode="after")
    def _range(self) -> ListVariable:
        return _ordered(_ordered(self), "min_length", "max_length")


class StringVariable(_Model):
    """`min_length` to `max_length` characters out of `alphabet`."""

    type: Literal["string"]
    alphabet: Annotated[str, Field(min_length=1, max_length=200)]
    min_length: Annotated[int, Field(ge=1, le=40, strict=True)] = 1
    max_length: Annotated[int, Field(ge=1, le=40, strict=True)]

    @model_validator(mode="after")
    def _range(self) -> StringVariable:
        if len(set(self.alphabet)) < len(self.alphabet) or any(c.isspace() for c in self.alphabet):
            raise ValueError(f"alphabet {self.alphabet!r}: every character once and no blanks; remove the others")
        return _ordered(self, "min_length", "max_length")


Variable = Annotated[IntVariable | ChoiceVariable | ListVariable | StringVariable, Field(discriminator="type")]


def _ordered(model: Any, low: str = "min", high: str = "max") -> Any:
    if getattr(model, low) > getattr(model, high):
        raise ValueError(f"{low} {getattr(model, low)} is above {high} {getattr(model, high)}; swap them")
    return model


class Generator(_Model):
    """A declarative generator: variables are drawn, wordings are filled, the answer is computed.

    `operation` names what is asked. The same operation at another level, with other ranges, makes the same problems:
    12 + 7 of level 2 is 12 + 7 of level 3 and stays on its side of the held-out split.
    """

    operation: Annotated[str, Field(pattern=VARIABLE)]
    prompts: tuple[Text, ...] = Field(min_length=1, max_length=50, description="wordings; `{name}` is a variable, "
        "`{a + b}` an expression; every variable must stand alone in its braces at least once")  # fmt: skip
    variables: dict[Annotated[str, Field(pattern=VARIABLE)], Variable] = Field(min_length=1, max_length=12)
    answer: Text = Field(description="expression of the golden answer")
    where: str = Field("", max_length=500, description="expression that must be true for the drawn values")
    symmetric: tuple[tuple[str, ...], ...] = Field((), description="groups of variables whose order does not matter")
    difficulty: Share = 0.5
    primitives: tuple[Text, ...] = ()
    weight: float = Field(1.0, gt=0, le=1_000, allow_inf_nan=False, description="share within the level")


class LevelEntry(_Model):
    """One level of a skill."""

    level: Level
    name: Text = Field("", validate_default=False)
    description: str = Field("", max_length=2_000)
    generators: tuple[Generator, ...] = Field((), max_length=50, description="none: the level's problems are its data")


class SkillFile(_Model):
    """How a skill is marked and, if its problems are generated, how they are made."""

    name: Text
    description: str = Field("", max_length=2_000)
    grader: Grader = Grader()
    levels: tuple[LevelEntry, ...] = Field((), max_length=LEVELS_AT_MOST)

    @model_validator(mode="after")
    def _once(self) -> SkillFile:
        numbers = [entry.level for entry in self.levels]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"levels {numbers}: a level stands twice; join its entries")
        generators = [generator for entry in self.levels for generator in entry.generators]
        prompts = sum(len(generator.prompts) for generator in generators)
        if len(generators) > GENERATORS_AT_MOST or prompts > PROMPTS_AT_MOST:
            raise ValueError(f"{len(generators)} generators with {prompts} prompts: a skill has at most "
                             f"{GENERATORS_AT_MOST} with {PROMPTS_AT_MOST}, for every one is tried on every text that "
                             "the Cleric reads; join some or make a second skill")  # fmt: skip
        return self

    def level(self, number: int) -> LevelEntry | None:
        """The entry of a level, None where the file does not mention it."""
        return next((entry for entry in self.levels if entry.level == number), None)


# --- reading ----------------------------------------------------------------------------------------------------------

def read_manifest(folder: Path) -> Manifest:
    """The manifest of the module in `folder`.

    Raises:
        ModuleError: no manifest, no YAML mapping, or wrong keys; one line per finding.
    """
    return parse_manifest(_read(folder / MANIFEST), f"{folder.name}/{MANIFEST}")


def parse_manifest(text: str, where: str = MANIFEST) -> Manifest:
    """A manifest from its text; `where` names it in errors."""
    return _parse(text, where, Manifest)


def read_skill_file(folder: Path, skill: str) -> SkillFile | None:
    """`skills/<skill>.yaml` of the module in `folder`, or None where there is none."""
    path = folder / "skills" / f"{skill}.yaml"
    return _parse(_read(path), f"{folder.name}/skills/{skill}.yaml", SkillFile) if path.is_file() else None


def dump(model: Manifest | SkillFile) -> str:
    """YAML of a model in the order of its keys; parsing it gives the model back."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def inside(path: str, top: str) -> str:
    """The path, if it is a plain relative POSIX path below the folder `top` of a module. Raises ValueError."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in parts[:-1]) \
            or parts[-1] in (".", ".."):
        raise ValueError(f"path {path!r} leaves the module or is not plain: use a relative path such as {top}/level1"
                         ".jsonl, with '/' between folders")  # fmt: skip
    if parts[0] != top:
        raise ValueError(f"path {path!r} is not under {top}/: move the file there and correct the path")
    return str(PurePosixPath(path))


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping of plain values. Refuses anchors (a few bytes of them unfold to gigabytes) and double keys."""
    try:
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader with less
    except yaml.YAMLError as error:
        raise ModuleError(f"{where}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    except RecursionError as error:
        raise ModuleError(f"{where}: nested too deeply; a module's YAML is a few levels deep") from error
    except ValueError as error:  # an impossible date, a number of a million digits
        raise ModuleError(f"{where}: a value that YAML cannot hold ({error}); put it in quotes") from error
    if not isinstance(value, dict):
        raise ModuleError(f"{where}: expected 'key: value' lines, found {type(value).__name__}; mend the file")
    return value


class _PlainLoader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, kind: Any) -> None:
        # The scanner's time grows with the square of the nesting: 200 KB of "[" would take hours.
        if self.flow_level >= DEPTH_AT_MOST:
            raise yaml.YAMLError(f"line {self.line + 1}: brackets nested more than {DEPTH_AT_MOST} deep")
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: alias *{event.anchor}: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {key.value!r} stands twice; remove one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ModuleError(f"{path.parent.name}/{path.name}: there is no such file; a module needs it")
    if path.stat().st_size > YAML_AT_MOST:
        raise ModuleError(f"{path.parent.name}/{path.name}: {path.stat().st_size} bytes, at most {YAML_AT_MOST} are "
                          "allowed; put rows into data/")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModuleError(f"{path.parent.name}/{path.name}: byte {error.start} is not UTF-8; save it as UTF-8") \
            from error


def _parse(text: str, where: str, model: type[_Model]) -> Any:
    try:
        return model.model_validate(load_yaml(text, where))
    except ValidationError as error:
        raise ModuleError("\n".join(_explained(error, model, where))) from error


def _explained(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """Pydantic's findings as one line each; unlike `settings.explain` it also looks inside lists, maps and unions."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        at = f"{where}: {key}" if key else where
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key '{key}'{nearest(str(item['loc'][-1]), _known(model, item['loc']))}")
        elif item["type"] == "missing":
            lines.append(f"{at} is missing: a module needs it; add it")
        elif item["type"] == "value_error":
            lines += [f"{at}: {line}" for line in item["msg"].removeprefix("Value error, ").split("\n")]
        else:
            lines.append(f"{at} = {re.sub(chr(10), ' ', repr(item.get('input')))[:120]}: {item['msg']}; correct it")
    return lines


def _known(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed where `loc` points to, for the hint of the nearest one."""
    here: Any = model
    for part in loc[:-1]:
        models = _models(here)
        tagged = [m for m in models if "type" in m.model_fields and part in get_args(m.model_fields["type"].annotation)]
        found = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        here = tagged[0] if tagged else found[0] if found else here
    return sorted({name for m in _models(here) for name in m.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None and not isinstance(annotation, UnionType | type(Union[int, str])):  # noqa: UP007
        return []
    return [model for inner in get_args(annotation) for model in _models(inner)]
