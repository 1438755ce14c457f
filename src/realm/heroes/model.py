"""A hero's weights: born (embedded), loaded, saved, asked (greedy generation) and measured (loss on rows).

The only module of `heroes` that imports torch. Loading goes through transformers' Auto classes for every family, and
only safetensors files are read. CPU work uses one thread: two OpenMP threads beside a busy process run 20-100 times
slower (measured), and small models gain nothing from the second.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from realm.heroes import chat, modes  # noqa: E402
from realm.heroes.modes import LOGITS_AT_ONCE  # noqa: E402
from realm.heroes.profile import HeroProfile, ProfileError, weights_folder  # noqa: E402
from realm.settings import RealmHome  # noqa: E402

transformers_logging.disable_progress_bar()
torch.set_num_threads(int(os.environ.get("REALM_TORCH_THREADS", "1")))

IGNORE = -100  # label of a position that the loss does not count

Weigh = Callable[[Tensor, Tensor], Tensor]
"""(logits [n, vocabulary], targets [n]) → weights [n], without gradient."""


def device() -> torch.device:
    """Where heroes live: the first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_memory() -> int:
    """Bytes this process has held at most: reserved on the GPU with the context of CUDA, else resident host memory."""
    if not torch.cuda.is_available():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    free, total = torch.cuda.mem_get_info()
    context = max(0, total - free - torch.cuda.memory_reserved())  # of every process on it; it should be ours alone
    return torch.cuda.max_memory_reserved() + min(context, 2**31)


def shipped_tokenizer() -> Path:
    """Folder of the tokenizer that embedded heroes share."""
    return Path(str(resources.files("realm.heroes") / "tokenizer"))


def make_embedded(profile: HeroProfile, home: RealmHome, tokenizer_source: Path | None = None) -> Path:
    """Write `models/<hero>/` of an embedded hero once, from its config and seed; returns the folder.

    Same profile, same tokenizer, same torch: same bytes. Written to a temporary folder and renamed, so that a killed
    birth leaves nothing behind that looks like a hero.

    Raises:
        ProfileError: the hero is not embedded, or the tokenizer folder is missing.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if not profile.embedded:
        raise ProfileError(f"{profile.id}: {profile.model.path_or_hub_id} is not embedded; it needs weights of its own")
    target = weights_folder(profile, home)
    if (target / "config.json").is_file():
        return target
    source = tokenizer_source or shipped_tokenizer()
    if not (source / "tokenizer.json").is_file():
        raise ProfileError(f"{source}: no tokenizer.json; reinstall the package or run scripts/train_tokenizer.py")
    tokenizer = load_tokenizer(source)
    shape = profile.model.architecture
    stop = chat.stop_id(tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=profile.model.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        **shape.model_dump(exclude={"seed", "rope_theta"}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = Qwen3ForCausalLM(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{profile.id}-", dir=target.parent))
    try:
        save_model(model, tokenizer, temporary)
        temporary.chmod(0o755)
        os.rename(temporary, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (target / "config.json").is_file():  # else another process was faster, with the same bytes
            raise
    return target


def load_tokenizer(folder: Path, template: str = "tokenizer") -> Any:
    """Tokenizer of a folder; `template` is "tokenizer" or the path of a jinja file that replaces its chat template."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if template != "tokenizer":
        tokenizer.chat_template = Path(template).expanduser().read_text(encoding="utf-8")
    return tokenizer


def load_model(folder: Path, dtype: torch.dtype = torch.float32, four_bit: bool = False) -> Any:
    """Causal language model of a folder in Hugging Face layout, on `device()`; an adapter is merged into its base.

    precision: bf16 computes in bf16 (see `Hero.autocast`); what the weights are kept in is `modes.weights_dtype`.

    Args:
        four_bit: quantise the linear layers to NF4 with double quantisation (Dettmers 2023) while loading.

    Raises:
        ProfileError: no config.json or no *.safetensors (pickle files are never read), or an adapter without the
            base it was trained on.
    """
    if is_adapter(folder):
        if four_bit:
            raise ProfileError(f"{folder}: a new 4-bit base cannot begin on an adapter; export the merged model first, "
                               "then `training hero use HERO --model FOLDER`")  # fmt: skip
        from peft import PeftModel

        base = load_model(Base.of_adapter(folder).folder, dtype)
        return PeftModel.from_pretrained(base, str(folder)).merge_and_unload().requires_grad_(True).eval()
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ProfileError(f"{folder}: needs config.json and *.safetensors; convert the weights or use another folder")
    more: dict[str, Any] = {}
    if four_bit:
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
        more["device_map"] = {"": device()}
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False, **more
    )
    return (model if four_bit else model.to(device())).eval()


def load_gguf(file: Path, config: Any) -> tuple[Any, Any]:
    """(model with fp32 weights, tokenizer) as transformers reads them out of a GGUF file.

    Args:
        config: of the model it was written from. transformers takes no head size of this family from the file.
    """
    where = {"gguf_file": file.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), config=config, dtype=torch.float32, **where)
    return model.to(device()).eval(), AutoTokenizer.from_pretrained(str(file.parent), **where)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights (of an adapted model: the adapter), configuration and tokenizer in Hugging Face layout; safetensors."""
    if core(model) is model:
        model.save_pretrained(str(folder))
    else:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a template of the library that says nothing
    tokenizer.save_pretrained(str(folder))


# --- Adapters ---------------------------------------------------------------------------------------------------------

ADAPTER_FILE = "adapter_config.json"
BASE_FILE = "base.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter (PEFT's format) and not whole weights."""
    return (folder / ADAPTER_FILE).is_file()


def core(model: Any) -> Any:
    """The causal language model itself, without the adapter library's wrapper; adapters stay in place."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@dataclass(frozen=True)
class Base:
    """The frozen weights below an adapter: a folder, and its files' (name, bytes, sha256) by which it is known."""

    folder: Path
    files: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, folder: Path) -> Base:
        """A folder with weights, or with an adapter that is merged before another begins on it."""
        names = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors" or p.name == "config.json"
                       or p.name in (ADAPTER_FILE, BASE_FILE))  # fmt: skip
        return cls(folder, tuple((name, (folder / name).stat().st_size, _sha256(folder / name)) for name in names))

    @classmethod
    def of_adapter(cls, folder: Path) -> Base:
        """The base of a saved adapter, found where it was, relative to the adapter first: a realm home may move.

        Raises:
            ProfileError: it is not there any more, or other weights are.
        """
        told = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        wanted = tuple((f["name"], f["bytes"], f["sha256"]) for f in told["files"])
        places = [Path(os.path.normpath(folder / told["relative"])), Path(told["path"])]
        found = next((p for p in places if all((p / name).is_file() for name, _, _ in wanted)), None)
        if found is None:
            raise ProfileError(f"{folder}: the weights below this adapter are not at {places[0]} nor at {places[1]}; "
                               "put them back")  # fmt: skip
        here = cls.of(found)
        wrong = [f"{found / name}" for name, *facts in wanted if (name, *facts) not in here.files]
        if wrong:
            raise ProfileError(f"{wrong[0]} is not the file that the adapter {folder} was trained on (sha256 differs); "
                               "restore it, or begin a new campaign on the weights that are there")  # fmt: skip
        return here

    def write(self, folder: Path, lora: dict[str, Any]) -> None:
        """Note this base beside an adapter, and the shape that the recipe asked for."""
        files = [{"name": name, "bytes": size, "sha256": digest} for name, size, digest in self.files]
        note = {"path": str(self.folder.resolve()), "relative": os.path.relpath(self.folder, folder), "files": files,
                "lora": lora}  # fmt: skip
        (folder / BASE_FILE).write_text(json.dumps(note, indent=1), encoding="utf-8")


def _sha256(path: Path) -> str:
    facts = path.stat()
    return _sha256_of(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapted(profile: HeroProfile, folder: Path) -> tuple[Any, Base]:
    """The base of a recipe with the adapter of a folder, or with a fresh one that changes nothing yet.

    A folder with an adapter of the recipe's own shape is continued. One of another shape (r, alpha, modules) is merged
    into its base, and a fresh adapter begins on that.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    wanted = profile.lora
    config = LoraConfig(r=wanted.r, lora_alpha=wanted.alpha, lora_dropout=wanted.dropout, bias="none",
                        target_modules=wanted.target_modules, task_type="CAUSAL_LM")  # fmt: skip
    goes_on = is_adapter(folder) and _same_shape(profile, folder)
    base = Base.of_adapter(folder) if goes_on else Base.of(folder)
    model = load_model(base.folder, getattr(torch, modes.weights_dtype(profile)), profile.load_in_4bit)
    if goes_on:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval(), base
    with torch.random.fork_rng(devices=[]):
        # The same fresh adapter each time: a battle killed before its first checkpoint begins with the same numbers.
        torch.manual_seed(profile.seed)
        adapted = get_peft_model(model, config)
    (folder_note,) = adapted.peft_config.values()
    folder_note.base_model_name_or_path = profile.model.path_or_hub_id
    return adapted.eval(), base


def _same_shape(profile: HeroProfile, folder: Path) -> bool:
    told = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    return told["lora"] == _shape(profile)


def _shape(profile: HeroProfile) -> dict[str, Any]:
    return profile.lora.model_dump(exclude={"dropout"})


class _GrownLayer(DynamicLayer):
    """Keys and values in a buffer that doubles: transformers' own layer copies all of it for every new token."""

    _room = 0
    _filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        new = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room, self._filled = 0, 0
        if self._filled + new > self._room:
            self._grow(key_states, value_states, max(2 * self._room, self._filled + new + 64))
        at = slice(self._filled, self._filled + new)
        self.keys[:, :, at] = key_states
        self.values[:, :, at] = value_states
        self._filled += new
        return self.keys[:, :, : self._filled], self.values[:, :, : self._filled]

    def _grow(self, keys: Tensor, values: Tensor, room: int) -> None:
        for name, like in (("keys", keys), ("values", values)):
            made = like.new_empty(*like.shape[:2], room, like.shape[-1])
            if self._filled:
                made[:, :, : self._filled] = getattr(self, name)[:, :, : self._filled]
            setattr(self, name, made)
        self._room = room

    def get_seq_length(self) -> int:
        return self._filled if self.is_initialized else 0

    def batch_select_indices(self, indices: Tensor) -> None:
        # Only the filled part is copied; the rest of the buffer holds nothing.
        for name in ("keys", "values"):
            old = getattr(self, name)
            made = old.new_empty(len(indices), *old.shape[1:])
            made[:, :, : self._filled] = old[indices, :, : self._filled]
            setattr(self, name, made)


def _cache(model: Any) -> Cache:
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds == {"full_attention"}:
        return Cache(layer_class_to_replicate=_GrownLayer)
    return DynamicCache(config=model.config)


Pick = Callable[[Tensor], Tensor]  # logits [rows, vocabulary] → one token id per row


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def sampled(temperature: float, seed: int) -> Pick:
    """Draws from the softmax at this temperature, with a generator of its own."""
    chance = torch.Generator(device=device()).manual_seed(seed)

    def pick(logits: Tensor) -> Tensor:
        shares = torch.softmax(logits.float() / temperature, -1)
        return torch.multinomial(shares, 1, generator=chance)[:, 0]

    return pick


@torch.inference_mode()
def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    batch_rows: int = 128,
    interrupted: Callable[[], bool] = lambda: False,
    pick: Pick = greedy,
) -> list[list[int]]:
    """Answers (greedy, unless `pick` draws), without the stop token, in the order of the prompts.

    Rows are sorted by length, left-padded and decoded together with a KV cache; a row leaves the batch when it writes
    its stop token. In fp32 an answer does not depend on its neighbours (tested), in bf16 near-ties may.

    Args:
        prompts: token ids, each at least one.
        interrupted: asked between tokens; True ends early and leaves the answers that are there.
    """
    stop = chat.stop_id(tokenizer)
    was_training = model.training
    model.eval()
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    try:
        for begin in range(0, len(order), batch_rows):
            rows = order[begin : begin + batch_rows]
            _decode(model, [prompts[i] for i in rows], [answers[i] for i in rows], max_new_tokens, stop, interrupted,
                    pick)  # fmt: skip
            if interrupted():
                break
    finally:
        model.train(was_training)
    return answers


def _decode(
    model: Any, prompts: list[Sequence[int]], answers: list[list[int]], room: int, stop: int,
    interrupted: Callable[[], bool], pick: Pick,
) -> None:  # fmt: skip
    """Append to `answers`, in place, what the model writes after each prompt."""
    decoder = Decoder(model, prompts, room)
    done: set[int] = set()
    for t in range(room):
        chosen = pick(decoder.logits())
        for row, token in zip(decoder.rows, chosen.tolist(), strict=True):
            if token == stop:
                done.add(row)
            elif row not in done:
                answers[row].append(token)
        if len(done) == len(prompts) or t + 1 == room or interrupted():
            return
        decoder.push(chosen, done)


class Decoder:
    """Prompts written on together: left-padded, with a KV cache, one forward for each new token of every row.

    Args:
        prompts: token ids, each at least one.
        room: most tokens that a row may get.

    `rows` are the indices of the prompts that are still in the batch, in its order.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], room: int) -> None:
        self.model, self.cache, self.rows = model, _cache(model), list(range(len(prompts)))
        width = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros(len(prompts), width + room, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.tensor(list(prompt))
            seen[i, width - len(prompt) :] = 1  # later columns are cut off until they are written
        where = next(model.parameters()).device
        self._tokens, self._seen, self._width = tokens.to(where), seen.to(where), width
        self._position = (self._seen[:, :width].cumsum(1) - 1).clamp(min=0)
        self._padded = len(set(map(len, prompts))) > 1

    def logits(self) -> Tensor:
        """What the model says about the next token of each row: [rows, vocabulary]."""
        out = self.model(
            input_ids=self._tokens, attention_mask=self._seen[:, : self._width] if self._padded else None,
            position_ids=self._position, past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1]

    def push(self, chosen: Tensor, done: set[int]) -> None:
        """Go on with these tokens, int64 [rows]. Rows that are `done` leave when they are an eighth of the batch."""
        self._tokens, self._position = chosen[:, None], self._position[:, -1:] + 1
        self._width += 1
        finished = sum(row in done for row in self.rows)
        if finished >= max(1, len(self.rows) // 8):  # dropping rows copies the cache, so it waits for an eighth
            kept = torch.tensor([k for k, row in enumerate(self.rows) if row not in done], device=chosen.device)
            self.cache.batch_select_indices(kept)
            self._tokens, self._position, self._seen = self._tokens[kept], self._position[kept], self._seen[kept]
            self.rows = [row for row in self.rows if row not in done]


def row_tensors(row: chat.Rendered) -> tuple[Tensor, Tensor]:
    """(ids, labels) of one row, both int64 [length]; labels are IGNORE where the mask is off."""
    ids = torch.tensor(row.ids, dtype=torch.long)
    return ids, ids.masked_fill(~torch.tensor(row.mask), IGNORE)


def pad_rows(rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Right-padded (ids, labels), both int64 [rows, longest]; labels of the padding are IGNORE.

    Padding needs no attention mask: in a causal model nothing real comes after it.
    """
    longest = max(len(ids) for ids, _ in rows)
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORE, dtype=torch.long)
    for i, (row_ids, row_labels) in enumerate(rows):
        padded[i, : len(row_ids)] = row_ids
        labels[i, : len(row_ids)] = row_labels
    return padded, labels


def plain_head(model: Any) -> bool:
    """Whether logits are just `lm_head(decoder(ids))`, so that the head may run on the trained positions only.

    Asked of the model itself with one short row: soft caps and logit scales (Gemma 2, Granite) answer no.
    """
    model = core(model)
    decoder, head = getattr(model, "model", None), model.get_output_embeddings()
    if decoder is None or head is None:
        return False
    ids = torch.arange(8, device=next(model.parameters()).device)[None] % model.config.vocab_size
    was_training = model.training
    model.eval()
    with torch.no_grad():
        same = torch.equal(head(decoder(input_ids=ids, use_cache=False).last_hidden_state), model(input_ids=ids).logits)
    model.train(was_training)
    return same


def summed_loss(model: Any, ids: Tensor, labels: Tensor, plain: bool) -> Tensor:
    """Cross-entropy summed over the labels that count, in nats; label t is predicted from position t - 1.

    Args:
        ids, labels: int64 [rows, length], see `pad_rows`.
        plain: result of `plain_head`; then logits are made for the trained positions only, and a part of them at a
            time where there are more than `LOGITS_AT_ONCE` (equal to 1e-6; memory instead of a second head pass).
    """

    def measure(logits: Tensor, targets: Tensor) -> tuple[Tensor]:
        return (torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"),)

    losses = [loss for (loss,) in over_labels(model, ids, labels, plain, measure)]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def weighted_losses(
    model: Any, ids: Tensor, labels: Tensor, plain: bool, weigh: Weigh
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of weight x cross-entropy, weights [n], cross-entropies [n]) over the n labels that count.

    Only the first has a gradient. Arguments as for `summed_loss`.
    """

    def measure(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = weigh(logits, targets)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        return (weights * losses).sum(), weights, losses.detach()

    sums, weights, losses = zip(*over_labels(model, ids, labels, plain, measure), strict=True)
    return torch.stack(sums).sum(), torch.cat(weights), torch.cat(losses)


def over_labels(model: Any, ids: Tensor, labels: Tensor, plain: bool, measure: Callable[..., Any]) -> list[Any]:
    """`measure(logits, targets)` of the labels that count, in as many parts as memory asks for.

    Args:
        measure: takes [n, vocabulary] and [n]; returns a tuple of tensors.
    """
    counted = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][counted]
    if not plain:
        return [measure(model(input_ids=ids, use_cache=False).logits[:, :-1][counted], targets)]
    model = core(model)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][counted]
    head = model.get_output_embeddings()
    rows = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    if len(targets) <= rows:
        return [measure(head(hidden), targets)]

    def part(hidden: Tensor, targets: Tensor) -> Any:
        return measure(head(hidden), targets)

    # Checkpointed: a part's logits are thrown away and made again in the backward pass.
    return [checkpoint(part, h, t, use_reentrant=False)
            for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)]  # fmt: skip


@torch.inference_mode()
def sequence_loss(model: Any, rows: Sequence[chat.Rendered], *, batch_rows: int = 64) -> float:
    """Mean loss over all trained tokens of the rows, in nats per token; NaN when there are no rows."""
    if not rows:
        return float("nan")
    where = next(model.parameters()).device
    was_training = model.training
    model.eval()
    plain = plain_head(model)
    order = sorted(rows, key=lambda row: len(row.ids))
    total = 0.0
    for begin in range(0, len(order), batch_rows):
        ids, labels = pad_rows([row_tensors(row) for row in order[begin : begin + batch_rows]])
        total += float(summed_loss(model, ids.to(where), labels.to(where), plain))
    model.train(was_training)
    return total / sum(row.trained for row in rows)


@dataclass
class Hero:
    """A loaded hero: what every part of a battle passes around."""

    profile: HeroProfile
    model: Any
    tokenizer: Any
    base: Base | None = None  # of an adapted hero: the frozen weights below its adapter

    @classmethod
    def load(cls, profile: HeroProfile, folder: Path) -> Hero:
        """Weights or adapter, and tokenizer, of one folder; see `load_model` and `load_tokenizer` for the errors."""
        tokenizer = load_tokenizer(folder, profile.chat.template)
        if modes.adapter(profile):
            model, base = _adapted(profile, folder)
            return cls(profile, model, tokenizer, base)
        return cls(profile, load_model(folder, getattr(torch, modes.weights_dtype(profile))), tokenizer)

    def save(self, folder: Path) -> None:
        """What a checkpoint holds: whole weights, or the adapter and a note of its base."""
        save_model(self.model, self.tokenizer, folder)
        if self.base is not None:
            self.base.write(folder, _shape(self.profile))

    @property
    def trainable_bytes(self) -> int:
        """Size of what training moves, and so of a checkpoint's weights."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)

    def autocast(self) -> AbstractContextManager:
        """Computing precision of the profile, for training, answers and losses alike."""
        return torch.autocast(device().type, torch.bfloat16, enabled=self.profile.training_defaults.precision == "bf16")

    def render(self, rows: Sequence[Sequence[chat.Message]]) -> tuple[list[chat.Rendered], list[tuple[int, str, str]]]:
        """Training rows of conversations under this hero's rules: (rows, [(index, code, reason)] of the dropped)."""
        limit, thinking = self.profile.training_defaults.max_length, self.profile.chat.thinking
        return chat.render_rows(rows, self.tokenizer, max_length=limit, thinking=thinking)

    def answer(
        self, conversations: Sequence[Sequence[chat.Message]], max_new_tokens: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[tuple[str, int]]:  # fmt: skip
        """Greedy answers as (text, tokens written), in order."""
        thinking = self.profile.chat.thinking
        prompts = [chat.prompt_ids(messages, self.tokenizer, thinking) for messages in conversations]
        with self.autocast():
            written = generate_batch(self.model, self.tokenizer, prompts, max_new_tokens, interrupted=interrupted)
        return [(self.tokenizer.decode(ids, skip_special_tokens=True), len(ids)) for ids in written]

    def loss(self, rows: Sequence[chat.Rendered]) -> float:
        """Nats per trained token; see `sequence_loss`."""
        with self.autocast():
            return sequence_loss(self.model, rows)
