"""A hero is a YAML recipe: which model, how it is trained, what it practises when idle, how it looks.

Shipped recipes are package data; files in `$REALM_HOME/heroes/` override them key by key (same id) or add heroes
(`extends: pip` starts from another recipe). An unknown key is an error that names the nearest one. Torch-free.
See them with `python3 -m training hero list`.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from realm import lore
from realm.settings import RealmHome, SettingsError, explain, nearest

EMBEDDED = "embedded:"  # model.path_or_hub_id of a hero whose weights are made here from config and seed
Family = Literal["qwen", "llama", "mistral", "gemma", "phi"]


class ProfileError(SettingsError):
    """A recipe that cannot be used; the message names the value, the rule and the next action."""


class WeightsMissing(ProfileError):
    """The recipe is right but its weights are not on this machine; the message holds the exact commands."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """Qwen3 configuration of an embedded hero; not read for any other. Sizes are counts, the rest plain numbers.

    `initializer_range` 0.05 instead of the usual 0.02 halved the steps to the first levels (AdamW, one seed: 650 →
    350 steps); `rope_theta` 1e4: with 100 the hero had not passed after 700 steps.
    """

    hidden_size: int = Field(96, ge=8)
    num_hidden_layers: int = Field(3, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    num_key_value_heads: int = Field(4, ge=1)
    head_dim: int = Field(24, ge=2, multiple_of=2)
    intermediate_size: int = Field(288, ge=8)
    initializer_range: float = Field(0.05, gt=0)
    rope_theta: float = Field(10_000.0, gt=0)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    tie_word_embeddings: bool = True
    seed: int = 0


class Model(_Frozen):
    """`path_or_hub_id`: folder in Hugging Face layout, hub id, or `embedded:<name>`; `size_b` in 1e9 parameters."""

    path_or_hub_id: str
    family: Family
    size_b: float = Field(gt=0)
    context_length: int = Field(gt=0, description="tokens")
    architecture: Architecture = Architecture()


class Chat(_Frozen):
    """`template`: "tokenizer" (its own chat template) or a path to a jinja file; `thinking` keeps reasoning blocks.

    Without thinking the empty think block of templates that have one belongs to the prompt, so that training text
    and inference prompt agree token for token.
    """

    template: str = "tokenizer"
    thinking: bool = False


class TrainingDefaults(_Frozen):
    """`batch_size` rows per micro-batch; `max_length` tokens; `save_steps` optimizer steps between checkpoints.

    `precision` is what is computed in; weights are kept in fp32 either way.
    """

    batch_size: int = Field(32, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    warmup_steps: int = Field(50, ge=0)
    max_length: int = Field(1024, ge=8)
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    save_steps: int = Field(500, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)


class Lora(_Frozen):
    """Low-rank adapters (Hu 2021); `target_modules` is "all-linear" or a list of module names."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


OptimizerType = Literal[
    "adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion_8bit", "galore", "galore_8bit", "apollo", "muon"
]


class Optimizer(_Frozen):
    """`muon` steps matrices by Muon at `matrix_learning_rate` and everything else by AdamW at the learning rate."""

    type: OptimizerType = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    matrix_learning_rate: float = Field(0.01, gt=0)
    rank: int = Field(128, ge=1)
    update_proj_gap: int = Field(200, ge=1)
    scale: float = Field(0.25, gt=0)


EyePolicy = Literal["uniform", "focal", "surprisal", "entropy", "dft", "eaft"]


class OracleEye(_Frozen):
    """Token weights over any school's loss (`schools/oracle_eye.py` has the formulas); uniform weighs nothing.

    A token's weight is clipped to [`floor`, `ceiling`] and then divided by the mean over the optimizer step's trained
    tokens. `gamma` is focal's exponent, `top_k` the tokens of EAFT's entropy.
    """

    policy: EyePolicy = "uniform"
    gamma: float = Field(2.0, ge=0)
    top_k: int = Field(20, ge=2)
    floor: float = Field(0.001, gt=0)
    ceiling: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> OracleEye:
        if self.floor >= self.ceiling:
            raise ValueError(f"oracle_eye.floor {self.floor} is not below oracle_eye.ceiling {self.ceiling}")
        return self


class Judge(_Frozen):
    """Preference training (DPO, Rafailov 2023). `beta`: how strongly the hero is held to what it was when the quest
    began; `likelihood`: weight of the chosen answers' own loss (0: DPO alone); `rate`: factor of the learning rates."""

    beta: float = Field(0.1, gt=0)
    likelihood: float = Field(1.0, ge=0)
    rate: float = Field(0.1, gt=0)


class Champion(_Frozen):
    """Reward training (GRPO, Shao 2024): `generations` answers to each prompt, sampled at `temperature`. `rate`: factor
    of the learning rates; `probed`: prompts whose pass rate is measured when a quest begins."""

    generations: int = Field(8, ge=2)
    temperature: float = Field(1.0, gt=0)
    rate: float = Field(0.1, gt=0)
    probed: int = Field(512, ge=1)


class Schools(_Frozen):
    """What single schools need to know of the hero; the others train by `training_defaults` as they stand."""

    judge: Judge = Judge()
    champion: Champion = Champion()


class IdleGeneration(_Frozen):
    """`samples` rows per idle quest, made when fewer than `min_queue_depth` quests wait."""

    samples: int = Field(1000, ge=1)
    min_queue_depth: int = Field(1, ge=0)


class Display(_Frozen):
    """How pages show the hero; `portrait` is a name in the Tavern's static folder."""

    color: str = "#c9a227"
    portrait: str = ""
    emoji: str = ""


class HeroProfile(_Frozen):
    """The whole recipe (realm-rules §3, contracts C4)."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    name: str
    rpg_name: str
    description: str = ""
    model: Model
    chat: Chat = Chat()
    training_defaults: TrainingDefaults = TrainingDefaults()
    training_mode: Literal["full", "lora", "qlora"] = "full"
    load_in_4bit: bool = False
    lora: Lora = Lora()
    optimizer: Optimizer = Optimizer()
    oracle_eye: OracleEye = OracleEye()
    schools: Schools = Schools()
    scheduler: Literal["warmup_constant"] = "warmup_constant"
    epochs: int = Field(1, ge=1, description="passes over a file quest when it does not say how many steps")
    seed: int = 0
    origin: Literal["base", "instruct", "chat", "fine-tuned"] = "base"
    deepspeed_config: str = ""
    skill_priorities: dict[str, float] = Field(default_factory=dict)
    idle_generation: IdleGeneration = IdleGeneration()
    display: Display = Display()

    @model_validator(mode="after")
    def _one_context(self) -> HeroProfile:
        if self.training_defaults.max_length > self.model.context_length:
            raise ValueError(
                f"training_defaults.max_length {self.training_defaults.max_length} exceeds model.context_length "
                f"{self.model.context_length}; lower the first"
            )
        if any(weight < 0 for weight in self.skill_priorities.values()):
            raise ValueError(f"skill_priorities {self.skill_priorities}: weights are 0 or more")
        return self

    @property
    def embedded(self) -> bool:
        """True when the weights are made here and nothing is downloaded."""
        return self.model.path_or_hub_id.startswith(EMBEDDED)

    @property
    def rows_per_step(self) -> int:
        """Training rows that one optimizer step consumes."""
        return self.training_defaults.batch_size * self.training_defaults.gradient_accumulation

    @property
    def race(self) -> str:
        return lore.RACES[self.model.family]

    @property
    def stature(self) -> str:
        return lore.stature(self.model.size_b)

    @property
    def rpg_class(self) -> str:
        return lore.CLASSES[self.origin]


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("realm.heroes") / "profiles"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _own(home: RealmHome | None) -> dict[str, Path]:
    if home is None or not home.heroes.is_dir():
        return {}
    return {path.stem: path for path in sorted(home.heroes.glob("*.yaml"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid YAML ({error}); mend the file or delete it") from error
    if not isinstance(values, dict):
        raise ProfileError(f"{path}: expected 'key: value' lines, found {type(values).__name__}; mend the file")
    return values


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mappings merged key by key; lists and numbers are replaced whole, and so are the skills:
    whoever names what a hero practises names all of it."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "skill_priorities"
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _values(hero_id: str, home: RealmHome | None, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    shipped, own = _shipped(), _own(home)
    if hero_id in seen:
        raise ProfileError(f"hero recipes extend each other in a circle: {' → '.join((*seen, hero_id))}; break it")
    if hero_id not in shipped and hero_id not in own:
        raise ProfileError(f"no hero '{hero_id}'{nearest(hero_id, sorted({*shipped, *own}))}")
    values = _read(shipped[hero_id]) if hero_id in shipped else {}
    if hero_id in own:
        over = _read(own[hero_id])
        parent = over.pop("extends", None)
        if parent is not None and parent != hero_id:
            values = merge(values, _values(parent, home, (*seen, hero_id)))
        values = merge(values, over)
    return {**values, "id": hero_id}


def parse_profile(values: dict[str, Any], where: str = "hero") -> HeroProfile:
    """A profile from plain values, for example `battles.config["hero"]`.

    Raises:
        ProfileError: unknown key (with the nearest known one) or a value that breaks a rule.
    """
    try:
        return HeroProfile.model_validate(values)
    except ValidationError as error:
        raise ProfileError(explain(error, HeroProfile, where)) from error


def load_profile(hero_id: str, home: RealmHome | None = None) -> HeroProfile:
    """One hero by id, shipped recipe with the home's own file laid over it.

    Raises:
        ProfileError: no such hero, bad YAML, unknown key or a value that breaks a rule.
    """
    where = str(_own(home).get(hero_id) or _shipped().get(hero_id, hero_id))
    return parse_profile(_values(hero_id, home), where)


def list_profiles(home: RealmHome | None = None) -> list[HeroProfile]:
    """Every hero, by id. One bad file of a person makes this an error, so that it is not silently missing."""
    return [load_profile(hero_id, home) for hero_id in sorted({*_shipped(), *_own(home)})]


def changed(home: RealmHome, hero_id: str, model: str | None = None, keys: dict[str, Any] | None = None) -> HeroProfile:
    """A hero's profile as it would be with other weights and other keys; nothing is written.

    Raises:
        ProfileError: no such hero, or the changed recipe would not be valid.
    """
    return parse_profile(merge(_values(hero_id, home), _laid_over(model, keys)), hero_id)


def _laid_over(model: str | None, keys: dict[str, Any] | None) -> dict[str, Any]:
    if model is None:
        return keys or {}
    local = _folder(model)
    return merge(keys or {}, {"model": {"path_or_hub_id": str(local.resolve()) if local is not None else model}})


def _folder(text: str) -> Path | None:
    """The folder that a person named, or None when there is none: also `~nobody/x` and names no disk can hold."""
    try:
        path = Path(text).expanduser()
        return path if path.is_dir() else None
    except (RuntimeError, OSError, ValueError):
        return None


def change(home: RealmHome, hero_id: str, model: str | None = None, keys: dict[str, Any] | None = None) -> HeroProfile:
    """Note in the home's own recipe where a hero's weights are, and other keys; returns the profile as it is now.

    Raises:
        ProfileError: no such hero, or the changed recipe would not be valid.
    """
    profile = changed(home, hero_id, model, keys)
    file = home.heroes / f"{hero_id}.yaml"
    own = merge(_read(file) if file.exists() else {}, _laid_over(model, keys))
    home.heroes.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(own, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(temporary, file)
    return profile


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def weights_folder(profile: HeroProfile, home: RealmHome) -> Path:
    """Folder with the hero's base weights in Hugging Face layout; an embedded hero's may not exist yet.

    Looks at `model.path_or_hub_id` as a folder, then `models/<hero>/` of the home, then the hub's local cache.

    Raises:
        WeightsMissing: none of them holds config.json and *.safetensors; the message gives the exact commands.
    """
    own = home.models / profile.id
    if profile.embedded:
        return own
    for folder in (_folder(profile.model.path_or_hub_id), own, _cached(profile.model.path_or_hub_id)):
        if folder is not None and _has_weights(folder):
            return folder
    raise WeightsMissing(missing_weights(profile, home))


def _cached(hub_id: str) -> Path | None:
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def missing_weights(profile: HeroProfile, home: RealmHome) -> str:
    """What to type when a hero's weights are not here; shown by doctor and the first-run card."""
    model = profile.model.path_or_hub_id
    hub = model if model.count("/") == 1 and not model.startswith((".", "/", "~")) else None
    lines = [f"the weights of {profile.name} ({model}) are not on this machine: no folder with config.json and "
             "*.safetensors was found."]  # fmt: skip
    if hub:
        lines.append(f"Download them:  hf download {hub} --local-dir {home.models / profile.id}")
    lines.append(f"Or point to a folder you have:  python3 -m training hero use {profile.id} --model PATH")
    return "\n".join(lines)
