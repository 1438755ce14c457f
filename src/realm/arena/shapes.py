"""The sizes of a hero's architecture, as far as memory goes: read from config.json, else from a table. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from realm.heroes.profile import HeroProfile, ProfileError, WeightsMissing, weights_folder
from realm.settings import RealmHome


@dataclass(frozen=True)
class Shape:
    """A dense decoder: counts; `queries` and `keys` are heads x head_dim; `norms` are norm weights of one layer."""

    layers: int
    hidden: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    tied: bool
    norms: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "config.json") -> Shape:
        """From a Hugging Face configuration; a multimodal one is asked for its text part.

        Raises:
            ProfileError: a size is missing, as it is for architectures that are no dense decoder.
        """
        config = config.get("text_config", config)
        wanted = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
        missing = [name for name in wanted if not isinstance(config.get(name), int)]
        if missing:
            raise ProfileError(f"{where}: no {', '.join(missing)}; memory can be estimated for dense decoders only")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        head = config.get("head_dim") or hidden // heads
        kind = str(config.get("model_type", ""))
        inside = 2 * head if kind.startswith(("qwen3", "gemma3")) else 0  # norms on queries and keys
        outside = 4 if kind.startswith(("gemma2", "gemma3")) else 2
        return cls(config["num_hidden_layers"], hidden, heads * head,
                   (config.get("num_key_value_heads") or heads) * head, config["intermediate_size"],
                   config["vocab_size"], bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
                   outside * hidden + inside)  # fmt: skip

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of one layer's linear maps."""
        h, q, k, i = self.hidden, self.queries, self.keys, self.intermediate
        return (q, h), (k, h), (k, h), (h, q), (i, h), (i, h), (h, i)

    @property
    def linear(self) -> int:
        """Parameters of all linear maps, the head left out."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding."""
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """Parameters of an output head of its own."""
        return 0 if self.tied else self.embedding

    @property
    def parameters(self) -> int:
        return self.embedding + self.head + self.linear + self.layers * self.norms + self.hidden

    def adapters(self, r: int, target: str | list[str] = "all-linear") -> int:
        """Parameters of rank-r adapters on the named linear maps (by their usual names)."""
        names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        chosen = names if target == "all-linear" else [target] if isinstance(target, str) else target
        sizes = zip(names, self.matrices, strict=True)
        return self.layers * sum(r * (rows + columns) for name, (rows, columns) in sizes if name in chosen)


def known_shapes() -> dict[str, dict[str, Any]]:
    """Configurations of the shipped heroes' models, for when the weights are not on this machine."""
    return json.loads((Path(str(resources.files("realm"))) / "configs" / "shapes.json").read_text(encoding="utf-8"))


def shape_of(profile: HeroProfile, home: RealmHome) -> Shape:
    """The shape of a hero's weights: their own config.json, an embedded hero's recipe, or the table.

    Raises:
        ProfileError: neither is there.
    """
    try:
        file = weights_folder(profile, home) / "config.json"
    except WeightsMissing as missing:
        found = known_shapes().get(profile.model.path_or_hub_id)
        if found is None:
            raise ProfileError(f"the shape of {profile.model.path_or_hub_id} is not known: {missing}") from missing
        return Shape.from_config(found, profile.model.path_or_hub_id)
    if file.is_file():
        return Shape.from_config(json.loads(file.read_text(encoding="utf-8")), str(file))
    return Shape.from_config({**profile.model.architecture.model_dump(), "model_type": "qwen3",
                              "vocab_size": _shipped_vocabulary()})  # fmt: skip


def _shipped_vocabulary() -> int:
    file = Path(str(resources.files("realm.heroes"))) / "tokenizer" / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    return len({*told["model"]["vocab"].values(), *(token["id"] for token in told["added_tokens"])})
