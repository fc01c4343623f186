"""Which device and precision to compute on, and how much memory a tile needs."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

import torch

from linearsr.errors import ConfigError, DeviceError

__all__ = ["DTYPES", "autocast_dtype", "cpu_has_fast_bf16", "describe_devices", "resolve_device"]

DTYPES = ("auto", "fp32", "bf16", "fp16")


@lru_cache(maxsize=1)
def cpu_has_fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX); emulated it is slower than float32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    info = Path("/proc/cpuinfo")
    if platform.system() == "Linux" and info.is_file():
        text = info.read_text(encoding="utf-8", errors="replace")
        return "avx512_bf16" in text or "amx_bf16" in text
    return False


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Raises:
        ConfigError: no such kind of device.
        DeviceError: the device is not available on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device is {name!r}, expected auto, cpu, cuda, cuda:N or mps", hint="use `--device auto`")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= count:
        raise DeviceError(
            f"device {name!r} is not available; this machine has {', '.join(describe_devices())}",
            hint="use `--device auto`, or install a torch build for your accelerator",
        )
    return device


def autocast_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """Precision of the dense layers: a dtype for autocast, or None for float32 throughout.

    `auto` takes bfloat16 where the hardware multiplies it, else float32; float16 only on request and never on a CPU.

    Raises:
        ConfigError: unknown name.
        DeviceError: a precision that the device cannot do.
    """
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}, expected {', '.join(DTYPES)}", hint="use `--dtype auto`")
    if name == "fp32":
        return None
    if name == "fp16":
        if device.type == "cpu":
            raise DeviceError("dtype fp16 is not supported on the CPU", hint="use `--dtype auto`")
        return torch.float16
    able = cpu_has_fast_bf16() if device.type == "cpu" else device.type == "cuda" and torch.cuda.is_bf16_supported()
    if name == "bf16" or able:
        return torch.bfloat16
    return None


def describe_devices() -> list[str]:
    """Devices of this machine for a person, the CPU first."""
    names = [f"cpu ({torch.get_num_threads()} threads)"]
    names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return names + (["mps"] if torch.backends.mps.is_available() else [])
