"""Order of the Forge (critical): the machine under the training: VRAM, heat, RAM, disk. No GPU is examined as such."""

from __future__ import annotations

from collections.abc import Iterator

from realm import db
from realm.guild import campaigns
from realm.heroes.profile import load_profile
from realm.temple.orders.check import Asked, Check, Order
from realm.temple.orders.quick import disk

VRAM_LOW = 0.05  # free share below which the next longer batch may not fit
HEAT_MARGIN = 5.0  # °C below the limit at which the card slows itself down
CPU_HOT = 95.0
RAM_LOW, RAM_OUT = 500_000_000, 150_000_000  # bytes; a battle child of the embedded hero needs about 450 MB
CPU_SIZE_B = 1.0  # billions of parameters; more than that trains for days without a GPU


def _graphics(asked: Asked) -> Iterator[Check]:
    gpus = asked.machine().gpus
    if not gpus:
        yield _without(asked)
        return
    for number, gpu in enumerate(gpus):
        name = f"GPU {number}" if len(gpus) > 1 else "GPU"
        free = gpu.total - gpu.used
        low = free < VRAM_LOW * gpu.total
        yield Check(f"{name} memory", "warn" if low else "ok", f"{gpu.name}: {free / 1e9:.1f} of {gpu.total / 1e9:.1f} "
                    "GB free", "end other programs on the card, or choose a smaller batch, the mode lora or qlora"
                    if low else "")  # fmt: skip
        if gpu.temp is not None:
            yield _heat(f"{name} heat", gpu.temp, gpu.temp_limit or 90.0)


def _without(asked: Asked) -> Check:
    cores = asked.machine().cpu_count
    if not asked.home.database.exists():
        return Check("GPU", "ok", f"no GPU is seen; {cores} processor cores train")
    with db.read(asked.engine) as connection:
        hero = campaigns.value(connection, "hero") or asked.home.settings.default_hero
    profile = load_profile(hero, asked.home)
    if profile.model.size_b > CPU_SIZE_B:
        return Check("GPU", "warn", f"no GPU is seen, and {profile.name} has {profile.model.size_b:g} billion "
                     f"parameters: {cores} processor cores would need days",
                     "play a hero of this machine's size: python3 -m training hero use pip; or mend the driver "
                     "(`nvidia-smi`)")  # fmt: skip
    return Check("GPU", "ok", f"no GPU is seen; {profile.name} trains on {cores} processor cores")


def _heat(name: str, now: float, limit: float) -> Check:
    said, cool = f"{now:.0f} °C; it slows down at {limit:.0f} °C", "clear dust and airways, or pause: " \
        "python3 -m training battle pause"  # fmt: skip
    if now >= limit:
        return Check(name, "fail", said, cool)
    return Check(name, "warn" if now > limit - HEAT_MARGIN else "ok", said, cool if now > limit - HEAT_MARGIN else "")


def _processor(asked: Asked) -> Iterator[Check]:
    heat = asked.machine().cpu_temp
    if heat is None:
        yield Check("processor heat", "skip", "this machine does not tell")
    else:
        yield _heat("processor heat", heat, CPU_HOT)


def _memory(asked: Asked) -> Iterator[Check]:
    now = asked.machine()
    free = now.ram_total - now.ram_used
    said = f"{free / 1e9:.2f} of {now.ram_total / 1e9:.1f} GB free"
    act = "end other programs, or rest: python3 -m training battle stop"
    status = "fail" if free < RAM_OUT else "warn" if free < RAM_LOW else "ok"
    yield Check("RAM", status, said, "" if status == "ok" else act)


def _disk(asked: Asked) -> Iterator[Check]:
    yield disk(asked, asked.machine().disk_free)


FORGE = Order("forge", "Forge", "VRAM, temperature, RAM, disk", True, (_graphics, _processor, _memory, _disk))
