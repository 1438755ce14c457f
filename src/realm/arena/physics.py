"""Physics: what memory a hero's training takes, and whether this machine can do it at all (realm-rules §8). Torch-free.

One formula, `estimate`, answers the command, the API and the Settings page:

    python3 -m training vram --hero flo --mode qlora

Bytes are counted for the instant when most of them are in use: at the loss, at the end of the backward pass, or in a
trial. The numbers per token were measured on Qwen3 layers with every tensor of a step followed (benchmarks/gpu).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from realm.arena.shapes import Shape, shape_of
from realm.heroes import modes
from realm.heroes.profile import HeroProfile, ProfileError
from realm.settings import RealmHome
from realm.state import machine

GIB = 2**30
# Bytes per token of one layer, as factors of (hidden, queries, keys, intermediate). Kind: adapters or whole weights,
# what the weights are kept in, what is computed in. Least squares over 7-8 shapes, worst error 1.5 % (SAVED).
Factors = tuple[float, float, float, float]
SAVED: Mapping[tuple[bool, str, str], Factors] = {  # kept for the backward pass
    (False, "bfloat16", "bf16"): (16.7, 14.8, 6.1, 8.0), (False, "float32", "fp32"): (25.3, 25.5, 8.1, 16.0),
    (False, "float32", "bf16"): (26.7, 14.8, 6.1, 8.0),
    (True, "bfloat16", "bf16"): (18.3, 10.4, 8.1, 8.0), (True, "float32", "fp32"): (16.6, 12.7, 12.1, 16.0),
}  # fmt: skip
LIVE: Mapping[tuple[bool, str, str], Factors] = {  # one layer in its backward pass, its recomputation included
    (False, "bfloat16", "bf16"): (28.3, 12.8, 3.9, 6.5), (False, "float32", "fp32"): (21.4, 28.8, 3.8, 17.3),
    (False, "float32", "bf16"): (27.1, 16.8, 3.9, 8.7),
    (True, "bfloat16", "bf16"): (30.1, 10.5, 7.9, 13.8), (True, "float32", "fp32"): (20.1, 12.7, 11.8, 23.8),
}  # fmt: skip
# Bytes per logit: 10 in the forward pass in bf16 (2 + 4 + 4), 12 when its backward pass begins (measured).
LOGITS_FORWARD, LOGITS = 10, 12
NF4 = 0.5 + 0.127 / 8  # bytes per weight with double quantisation (Dettmers 2023, section 3)
STATE_8BIT = 1 + 4 / 256  # one fp32 scale per block of 256
FRAGMENTATION = 0.06  # of what is allocated on a GPU; the notes give 6 to 10 %
CONTEXT = int(0.8 * GIB)  # CUDA context and library workspaces; 0.5 to 1.4 GiB
HOST_PROCESS = {"cpu": int(0.55 * GIB), "cuda": int(2.5 * GIB)}  # the interpreter with torch and its libraries
TRIAL_ROWS, TRIAL_TOKENS = 40, 256  # answers written together in one look of a trial
# Sizes in 1e9 bytes that the table of memory modes gives for a 24 GB card; measured by nobody we know.
PUBLISHED_GB = {"qlora": 6, "lora": 12, "galore_8bit": 17, "deepspeed": 17, "full": 22}
PACKAGES = {"bitsandbytes": "bitsandbytes", "galore_torch": "galore-torch", "deepspeed": "deepspeed",
            "apollo_torch": "apollo-torch"}  # fmt: skip
PARTS = ("weights", "adapters", "optimizer", "gradients", "compute copies", "activations", "logits", "reference",
         "kv cache", "fragmentation", "context")  # fmt: skip


class PhysicsError(ProfileError):
    """A recipe that this machine cannot train; nothing was loaded."""

    code = "unsupported"


# --- Can it be done here at all? --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Machine:
    """What matters of a computer: GPUs that torch can use, bytes of the largest, host memory, installed extras."""

    gpus: int
    gpu_name: str
    gpu_bytes: int
    host_bytes: int
    packages: frozenset[str]
    why_no_gpu: str = ""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def this_machine() -> Machine:
    """The computer this runs on; torch is not imported."""
    import psutil

    found = machine.gpus()
    build = machine.torch_build()
    why = "" if found else "no NVIDIA GPU is seen here"
    if found and build == "CPU build":
        found, why = [], f"torch is a {build} here, so its GPU is not used"
    best = max(found, key=lambda gpu: gpu.total, default=None)
    packages = frozenset(name for name in PACKAGES if importlib.util.find_spec(name) is not None)
    return Machine(len(found), best.name if best else "", best.total if best else 0, psutil.virtual_memory().total,
                   packages, why)  # fmt: skip


def refusals(profile: HeroProfile, home: RealmHome, here: Machine | None = None) -> list[str]:
    """Why this recipe cannot be trained on this machine, one sentence each with the next action; empty when it can."""
    return [*_contradictions(profile, home), *_lacking(profile, here or this_machine())]


def _contradictions(profile: HeroProfile, home: RealmHome) -> list[str]:
    """What would be wrong on any machine."""
    said, kind, wanted = [], profile.optimizer.type, profile.training_defaults
    if profile.load_in_4bit != (profile.training_mode == "qlora"):
        said.append(f"training_mode: {profile.training_mode} with load_in_4bit: {str(profile.load_in_4bit).lower()}: "
                    "4-bit weights cannot be trained themselves, only adapters on them; set training_mode: qlora and "
                    "load_in_4bit: true, or neither")  # fmt: skip
    if modes.adapter(profile) and kind in modes.PROJECTED:
        said.append(f"optimizer.type: {kind} with training_mode: {profile.training_mode}: adapters are low-rank "
                    "already; set optimizer.type: adamw")  # fmt: skip
    if profile.deepspeed_config:
        if not modes.deepspeed_file(profile, home.root).is_file():
            said.append(f"deepspeed_config: {profile.deepspeed_config} is no file, neither in {home.root} nor shipped; "
                        "use configs/ds_zero2_offload.json")  # fmt: skip
        if kind != "adamw" or profile.load_in_4bit:
            said.append("deepspeed_config brings its own AdamW; set optimizer.type: adamw and load_in_4bit: false")
    if modes.fused(profile) and wanted.gradient_accumulation > 1:
        said.append(f"training_defaults.gradient_accumulation: {wanted.gradient_accumulation}: whole weights above "
                    f"{modes.FUSED_ABOVE_B:g}e9 parameters with {kind} are stepped inside the backward pass, where no "
                    "gradient is kept to be added to; set gradient_accumulation: 1 and, for as many rows per step, "
                    f"batch_size: {profile.rows_per_step}")  # fmt: skip
    return said


def _lacking(profile: HeroProfile, here: Machine) -> list[str]:
    """What this machine does not have."""
    kind, needs = profile.optimizer.type, []
    if profile.load_in_4bit:
        needs.append(("load_in_4bit: true", "bitsandbytes"))
    if kind in modes.EIGHT_BIT:
        needs.append((f"optimizer.type: {kind}", "bitsandbytes"))
    if profile.deepspeed_config:
        needs.append((f"deepspeed_config: {profile.deepspeed_config}", "deepspeed"))
    said = []
    if needs and not here.gpus:
        words = " and ".join(sorted({key for key, _ in needs}))
        said.append(f"{words} needs a GPU, and {here.why_no_gpu or 'there is none'}; on this machine use "
                    f"`training hero use {profile.id} --mode lora` or --mode adamw")  # fmt: skip
    wanted = {package for _, package in needs}
    wanted |= {"galore_torch"} if kind.startswith("galore") else {"apollo_torch"} if kind == "apollo" else set()
    for package in sorted(wanted - here.packages):
        fix = 'pip install -e ".[gpu]"' if package != "apollo_torch" else "pip install apollo-torch==1.0.3"
        said.append(f"the package {PACKAGES[package]} is not installed; {fix}")
    return said


def check(profile: HeroProfile, home: RealmHome, here: Machine | None = None) -> None:
    """Refuse, before anything is loaded, what cannot be trained here.

    Raises:
        PhysicsError: with every reason.
    """
    said = refusals(profile, home, here)
    if said:
        raise PhysicsError(f"{profile.name} cannot be trained here: " + ". ".join(said))


# --- The formula ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Load:
    """What is asked of the memory beside the hero's own recipe.

    `chunked`: logits are made in parts (`modes.LOGITS_AT_ONCE`), as the Scribe does; TRL's trainers make them whole.
    `reference`: a frozen copy of the whole weights (the Judge). `teacher`: parameters of a teacher held beside.
    """

    batch_size: int
    max_length: int
    gradient_accumulation: int
    gradient_checkpointing: bool
    chunked: bool = True
    reference: bool = False
    teacher: int = 0
    device: str = "cuda"

    @classmethod
    def of(cls, profile: HeroProfile, device: str = "cuda", **changes: Any) -> Load:
        """What a recipe asks for, with changes."""
        wanted = profile.training_defaults
        return replace(cls(wanted.batch_size, wanted.max_length, wanted.gradient_accumulation,
                           wanted.gradient_checkpointing, device=device), **changes)  # fmt: skip

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.batch_size * self.max_length


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device by part (they add up to `total`), bytes of host memory, and when that is.

    `correction`: measured / estimated on this machine so far; `total` is the formula's own, `corrected` with it.
    """

    parts: Mapping[str, int]
    host: Mapping[str, int]
    instant: str
    device: str
    notes: tuple[str, ...] = ()
    correction: float = 1.0
    pairs: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def corrected(self) -> int:
        return round(self.total * self.correction)

    @property
    def host_total(self) -> int:
        return sum(self.host.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total, "corrected": self.corrected, "host_total": self.host_total}


@dataclass
class _Sizes:
    """Everything the instants are made of, in bytes."""

    shape: Shape
    profile: HeroProfile
    load: Load
    kept: int = field(init=False)  # bytes of one weight

    def __post_init__(self) -> None:
        self.kept = 2 if modes.weights_dtype(self.profile) == "bfloat16" else 4

    @property
    def kind(self) -> tuple[bool, str, str]:
        profile = self.profile
        return modes.adapter(profile), modes.weights_dtype(profile), profile.training_defaults.precision

    @property
    def trained(self) -> int:
        lora = self.profile.lora
        if modes.adapter(self.profile):
            return self.shape.adapters(lora.r, lora.target_modules)
        return self.shape.parameters

    def weights(self) -> int:
        shape = self.shape
        if self.profile.load_in_4bit:
            return round(shape.linear * NF4) + self.kept * (shape.parameters - shape.linear)
        return self.kept * shape.parameters

    def gradients(self) -> int:
        if modes.adapter(self.profile):
            return 4 * self.trained
        if self.profile.deepspeed_config:
            return 2 * 2 * 100_000_000  # two buckets of reduce_bucket_size; the rest is on its way to the host
        if modes.fused(self.profile):
            return self.kept * self.shape.embedding  # one parameter at a time: the largest
        return self.kept * self.shape.parameters

    def optimizer(self) -> int:
        return 0 if self.profile.deepspeed_config else optimizer_bytes(self.profile, self.shape)

    def copies(self) -> int:
        """bf16 copies that autocast keeps of fp32 weights until the forward pass is over."""
        if self.profile.training_defaults.precision != "bf16":
            return 0
        if modes.adapter(self.profile):
            return 2 * self.trained
        return 2 * (self.shape.linear + self.shape.embedding) if self.copied else 0

    @property
    def copied(self) -> bool:
        """Whether fp32 weights are computed with in bf16."""
        return self.kept == 4 and self.profile.training_defaults.precision == "bf16"

    def per_layer(self, factors: Factors) -> float:
        sizes = (self.shape.hidden, self.shape.queries, self.shape.keys, self.shape.intermediate)
        return self.load.tokens * sum(f * size for f, size in zip(factors, sizes, strict=True))

    def held(self) -> int:
        """Activations that wait for the backward pass when the forward pass is over."""
        if self.load.gradient_checkpointing:
            return self.shape.layers * self.load.tokens * self.shape.hidden * self.kept
        return round(self.shape.layers * self.per_layer(SAVED[self.kind]))

    def live(self) -> int:
        return round(self.per_layer(LIVE[self.kind]))

    def logits(self) -> int:
        """Logits that exist at once. Of a head that is trained, chunks add up their gradients: the sum so far, the next
        and their new sum are there together (measured)."""
        if not self.load.chunked or self.load.tokens * self.shape.vocabulary <= modes.LOGITS_AT_ONCE:
            return LOGITS * self.load.tokens * self.shape.vocabulary
        if modes.adapter(self.profile):
            sums = 0
        elif self.copied:  # autocast keeps a bf16 copy of the head, whose gradients are summed in place
            sums = 2 * 2 * self.shape.embedding + 4 * modes.LOGITS_AT_ONCE
        else:
            sums = 3 * self.kept * self.shape.embedding
        return max(LOGITS * modes.LOGITS_AT_ONCE, sums)

    def tied(self) -> int:
        """Gradients of a tied embedding beyond its own: from head and input, before they are one (measured)."""
        return 2 * self.kept * self.shape.embedding if self.shape.tied and not modes.adapter(self.profile) else 0

    def cache(self) -> int:
        """Keys and values of a trial's answers; the buffer doubles, so it is at most twice what is filled."""
        width = 2 if self.profile.training_defaults.precision == "bf16" else 4
        tokens = min(TRIAL_TOKENS, self.profile.model.context_length)
        return 2 * 2 * self.shape.layers * self.shape.keys * width * TRIAL_ROWS * tokens


def optimizer_bytes(profile: HeroProfile, shape: Shape) -> int:
    """Optimizer state. 8-bit optimizers keep input embeddings in 32 bits, as transformers tells bitsandbytes to."""
    kind, rank = profile.optimizer.type, profile.optimizer.rank
    if modes.adapter(profile):
        trained = shape.adapters(profile.lora.r, profile.lora.target_modules)
        return round({"adamw": 8.0, "muon": 4.0, "lion_8bit": STATE_8BIT, "adafactor": 0.1}.get(
            kind, 2 * STATE_8BIT) * trained)  # fmt: skip
    small = shape.layers * shape.norms + shape.hidden
    rest = shape.head + small
    if kind in ("galore", "galore_8bit", "apollo"):
        state = 2 * STATE_8BIT if kind == "galore_8bit" else 8
        width = 2 if modes.weights_dtype(profile) == "bfloat16" else 4
        low = sum(min(rank, *m) * (max(m) * state + (0 if kind == "apollo" else min(m) * width))
                  for m in shape.matrices)  # fmt: skip
        return round(shape.layers * low + 8 * shape.embedding + (state * rest if kind == "galore_8bit" else 8 * rest))
    if kind == "muon":
        return 4 * shape.linear + 8 * (shape.embedding + rest)
    if kind == "adafactor":
        rows = shape.layers * sum(r + c for r, c in shape.matrices) + 2 * (shape.vocabulary + shape.hidden)
        return 4 * (rows + small)
    if kind == "lion_8bit":
        return round(4 * shape.embedding + STATE_8BIT * (shape.linear + rest))
    if kind in ("adamw_8bit", "paged_adamw_8bit"):
        return round(8 * shape.embedding + 2 * STATE_8BIT * (shape.linear + rest))
    return 8 * shape.parameters


def instants(
    profile: HeroProfile, shape: Shape, load: Load, every_gradient: bool = False
) -> dict[str, dict[str, int]]:  # fmt: skip
    """What comes and goes, by instant. `every_gradient`: as if no gradient were freed early (fused, DeepSpeed)."""
    sizes = _Sizes(shape, profile, load)
    gradients = sizes.kept * shape.parameters if every_gradient and not modes.adapter(profile) else sizes.gradients()
    waiting = gradients if load.gradient_accumulation > 1 or (profile.deepspeed_config and not every_gradient) else 0
    live, held, copies = sizes.live(), sizes.held(), sizes.copies()
    head = sizes.kept * shape.embedding if not modes.adapter(profile) else 0
    return {
        "at the loss": {"compute copies": copies, "activations": held, "logits": sizes.logits(),
                        "gradients": waiting},
        "when the backward pass begins": {
            "activations": held + live if load.gradient_checkpointing else held, "gradients": max(waiting, head),
            "compute copies": 0 if load.gradient_checkpointing else copies},
        "at the end of the backward pass": {"gradients": gradients + sizes.tied(), "activations": live},
        "in a trial": {"kv cache": sizes.cache(), "compute copies": copies},
    }  # fmt: skip


def estimate(profile: HeroProfile, shape: Shape, load: Load, trial: bool = True) -> Estimate:
    """Bytes at the worst instant of training and, with `trial`, of the trial after it.

    total = weights + adapters + optimizer + the worst of `instants` + reference + teacher + fragmentation + context.
    """
    sizes, found = _Sizes(shape, profile, load), instants(profile, shape, load)
    if not trial:
        del found["in a trial"]
    instant = max(found, key=lambda name: sum(found[name].values()))
    copy = 2 * load.teacher + (sizes.weights() if load.reference and not modes.adapter(profile) else 0)
    bytes_of = {
        "weights": sizes.weights(), "adapters": 4 * sizes.trained if modes.adapter(profile) else 0,
        "optimizer": sizes.optimizer(), "reference": copy, **found[instant],
    }  # fmt: skip
    on_gpu = load.device == "cuda"
    bytes_of["fragmentation"] = round(FRAGMENTATION * sum(bytes_of.values())) if on_gpu else 0
    bytes_of["context"] = CONTEXT if on_gpu else HOST_PROCESS["cpu"]
    parts = {name: bytes_of.get(name, 0) for name in PARTS}
    return Estimate(parts, _host(sizes, parts), instant, load.device)


def _host(sizes: _Sizes, parts: Mapping[str, int]) -> dict[str, int]:
    """Host memory: of a CPU everything is there; beside a GPU what loading and offloading need."""
    if sizes.load.device == "cpu":
        return {"training": sum(parts.values())}
    host = {"process": HOST_PROCESS["cuda"]}
    if sizes.profile.deepspeed_config:
        host["optimizer"] = 16 * sizes.shape.parameters  # fp32 weights, two moments and gradients
    elif not sizes.profile.load_in_4bit:
        host["loading"] = parts["weights"]  # once, on the way to the GPU
    return host


def estimate_of(profile: HeroProfile, home: RealmHome, here: Machine | None = None, **changes: Any) -> Estimate:
    """The estimate of a recipe as this machine would train it.

    Raises:
        ProfileError: the shape of its weights is not known.
    """
    device = (here or this_machine()).device
    return estimate(profile, shape_of(profile, home), Load.of(profile, **{"device": device, **changes}))
