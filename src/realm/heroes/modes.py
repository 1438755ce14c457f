"""Memory modes: how a hero's weights, gradients and optimizer state are held (realm-rules §8). Torch-free.

The seed's keys decide (`training_mode`, `load_in_4bit`, `optimizer.type`, `deepspeed_config`); each row of the seed's
table is also a name for a bundle of them: `python3 -m training hero use flo --mode qlora`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from realm.heroes.profile import HeroProfile, ProfileError, merge, parse_profile
from realm.settings import nearest

_FULL = {"training_mode": "full", "load_in_4bit": False, "deepspeed_config": ""}
_ADAPTER = {
    # Adapters start at zero and want about ten times the rate of whole weights (Hu 2021, Dettmers 2023: 2e-4).
    "load_in_4bit": False, "deepspeed_config": "", "optimizer": {"type": "adamw"},
    "training_defaults": {"learning_rate": 2e-4},
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "qlora": {**_ADAPTER, "training_mode": "qlora", "load_in_4bit": True},
    "lora": {**_ADAPTER, "training_mode": "lora"},
    "galore_8bit": {**_FULL, "optimizer": {"type": "galore_8bit"}},
    "deepspeed": {**_FULL, "optimizer": {"type": "adamw"}, "deepspeed_config": "configs/ds_zero2_offload.json"},
    "full": {**_FULL, "optimizer": {"type": "adamw_8bit"}},
    "adamw": {**_FULL, "optimizer": {"type": "adamw"}},
}  # fmt: skip
TITLES = {
    "qlora": "QLoRA", "lora": "LoRA", "galore_8bit": "GaLore 8-bit", "deepspeed": "DeepSpeed ZeRO-2",
    "full": "Full, 8-bit Adam", "adamw": "Full, AdamW",
}  # fmt: skip
FUSED_ABOVE_B = 2.0  # 1e9 parameters (contracts C8)
FUSED_OPTIMIZERS = ("adamw_8bit", "galore_8bit")
PROJECTED = ("galore", "galore_8bit", "apollo")
# Logits made at once: 2^25 are 221 tokens of a vocabulary of 151,936. Logits cost about 10 bytes each with their
# gradient, so this is a third of a GB where a batch of 8 x 2,048 tokens would take 25 GB.
LOGITS_AT_ONCE = 2**25
EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit", "lion_8bit", "galore_8bit")


def adapter(profile: HeroProfile) -> bool:
    """Whether low-rank adapters are trained on frozen weights."""
    return profile.training_mode != "full"


def fused(profile: HeroProfile) -> bool:
    """Whether the optimizer steps inside backward, one parameter at a time, so that gradients are never all there.

    Above 2e9 parameters whole 8-bit training needs it to fit (contracts C8); GaLore saves nothing without it.
    """
    whole = profile.training_mode == "full" and profile.model.size_b > FUSED_ABOVE_B
    return whole and profile.optimizer.type in FUSED_OPTIMIZERS and not profile.deepspeed_config


def weights_dtype(profile: HeroProfile) -> str:
    """bfloat16 | float32: what the base weights are kept in (linear layers of QLoRA: 4 bits).

    Weights that an optimizer moves stay in fp32, or an AdamW step at 1e-5 would be rounded away; fused modes have no
    room for that and train bf16 weights, DeepSpeed keeps the fp32 copy in host memory. Frozen weights need no more
    than what is computed in.
    """
    low = profile.training_defaults.precision == "bf16"
    return "bfloat16" if low and (adapter(profile) or fused(profile) or profile.deepspeed_config) else "float32"


def mode_name(profile: HeroProfile) -> str:
    """The name of the profile's mode; a combination that is in no table is called by its keys."""
    for name, keys in MODES.items():
        same = (profile.training_mode, profile.load_in_4bit) == (keys["training_mode"], keys["load_in_4bit"])
        if same and bool(profile.deepspeed_config) == bool(keys["deepspeed_config"]):
            if adapter(profile) or profile.optimizer.type == keys["optimizer"]["type"]:
                return name
    return f"{profile.training_mode} + {profile.optimizer.type}"


def mode_keys(name: str, profile: HeroProfile) -> dict[str, Any]:
    """What a named mode lays over a hero's recipe.

    Raises:
        ProfileError: no such mode.
    """
    if name not in MODES:
        raise ProfileError(f"mode {name!r} does not exist{nearest(name, sorted(MODES))}; known: {', '.join(MODES)}")
    keys = merge({}, MODES[name])
    if fused(parse_profile(merge(profile.model_dump(), keys), profile.id)):
        keys = merge(keys, {"training_defaults": {"gradient_accumulation": 1}})
    return keys


def with_mode(profile: HeroProfile, name: str) -> HeroProfile:
    """The profile as it would be in a named mode.

    Raises:
        ProfileError: no such mode.
    """
    return parse_profile(merge(profile.model_dump(), mode_keys(name, profile)), profile.id)


def deepspeed_file(profile: HeroProfile, root: Path) -> Path:
    """The DeepSpeed configuration a profile names: of the realm home `root`, else as shipped, else an absolute path."""
    named = profile.deepspeed_config
    own, shipped = root / named, Path(str(resources.files("realm"))) / named
    return own if own.is_file() else shipped if shipped.is_file() else Path(named).expanduser()
