"""What the machine itself says: GPU memory and heat, RAM, processor load, disk. Never an error, at worst None.

`pynvml` and `psutil` are imported when first asked, so that light commands stay light.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
_lock = threading.Lock()
_nvml: Any = None  # None: not tried, False: no GPU here, else the module after nvmlInit
_samples: dict[Path, tuple[float, MachineSample]] = {}
_cpu_asked = False
FRESH_S = 1.0  # processor load over a shorter time is noise, and tabs share one sample


@dataclass(frozen=True)
class GpuSample:
    """One GPU now. Bytes, percent, °C, watts; None where the driver does not say."""

    name: str
    used: int
    total: int
    load: float | None
    temp: float | None
    temp_limit: float | None
    watts: float | None
    watts_limit: float | None


@dataclass(frozen=True)
class MachineSample:
    """The machine now. Bytes and percent; `cpu_load` is None at the first look (it needs two)."""

    gpus: tuple[GpuSample, ...]
    ram_used: int
    ram_total: int
    cpu_load: float | None
    cpu_count: int
    cpu_temp: float | None
    disk_free: int
    disk_total: int

    @property
    def ram_free(self) -> int:
        return self.ram_total - self.ram_used

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _driver() -> Any:
    """The initialised `pynvml` module, or False when this machine has no NVIDIA driver (asked once)."""
    global _nvml
    with _lock:
        if _nvml is None:
            _nvml = False
            try:
                import pynvml
            except ImportError as error:
                log.debug("no GPU facts: %s", error)
                return _nvml
            try:
                pynvml.nvmlInit()
                _nvml = pynvml
            except (pynvml.NVMLError, OSError) as error:  # no driver, no permission: all mean "no GPU facts"
                log.debug("no GPU facts: %s", error)
        return _nvml


def gpus() -> list[GpuSample]:
    """All NVIDIA GPUs, empty when there is none or the driver does not answer."""
    driver = _driver()
    if not driver:
        return []
    try:
        handles = [driver.nvmlDeviceGetHandleByIndex(i) for i in range(driver.nvmlDeviceGetCount())]
        return [_sample(driver, handle) for handle in handles]
    except driver.NVMLError as error:
        log.warning("GPU facts are missing: %s", error)
        return []


def _sample(driver: Any, handle: Any) -> GpuSample:
    def ask(call: str, *arguments: Any) -> Any:
        try:
            return getattr(driver, call)(handle, *arguments)
        except driver.NVMLError:
            return None  # this card does not tell; the page shows "not told"

    memory = driver.nvmlDeviceGetMemoryInfo(handle)
    name = ask("nvmlDeviceGetName") or "GPU"
    load = ask("nvmlDeviceGetUtilizationRates")
    watts, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    return GpuSample(
        name=name.decode() if isinstance(name, bytes) else name, used=int(memory.used), total=int(memory.total),
        load=None if load is None else float(load.gpu),
        temp=ask("nvmlDeviceGetTemperature", driver.NVML_TEMPERATURE_GPU),
        temp_limit=ask("nvmlDeviceGetTemperatureThreshold", driver.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        watts=None if watts is None else watts / 1000, watts_limit=None if limit is None else limit / 1000,
    )  # fmt: skip


def torch_build() -> str:
    """CPU build | CUDA x build | ROCm x build, from the text of torch's own `version.py`.

    A wheel's version need not name its build: the suffix `+cpu` or `+cu130` is there from some sources only.
    """
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.is_file():
        return "unknown build"
    text = file.read_text(encoding="utf-8")
    for name, title in (("cuda", "CUDA"), ("hip", "ROCm")):
        found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        if found:
            return f"{title} {found[1]} build"
    return "CPU build" if re.search(r"^cuda\b[^=\n]*=\s*None", text, re.MULTILINE) else "unknown build"


def sample(folder: Path) -> MachineSample:
    """Everything at once, at most a second old; `folder` says which disk."""
    with _lock:
        known = _samples.get(folder)
    if known and time.monotonic() - known[0] < FRESH_S:
        return known[1]
    made = _measure(folder)
    with _lock:
        _samples[folder] = (time.monotonic(), made)
    return made


def _measure(folder: Path) -> MachineSample:
    global _cpu_asked
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(folder)
    load = psutil.cpu_percent(None) if _cpu_asked else None
    if not _cpu_asked:
        psutil.cpu_percent(None)  # the first answer is always 0: it has nothing to compare with
        _cpu_asked = True
    return MachineSample(
        gpus=tuple(gpus()), ram_used=int(memory.total - memory.available), ram_total=int(memory.total),
        cpu_load=load, cpu_count=psutil.cpu_count() or 1, cpu_temp=_cpu_temp(psutil),
        disk_free=disk.free, disk_total=disk.total,
    )  # fmt: skip


def _cpu_temp(psutil: Any) -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    for chip in ("coretemp", "k10temp", "cpu_thermal", "zenpower"):
        if sensors.get(chip):
            return max(reading.current for reading in sensors[chip])
    return None
