"""Which device and precision to compute on, and how much memory a tile needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, DeviceError, OutOfMemoryError

__all__ = [
    "DTYPES",
    "autocast",
    "autocast_dtype",
    "cpu_has_fast_bf16",
    "describe_devices",
    "empty_cache",
    "free_memory",
    "is_out_of_memory",
    "memory_errors",
    "resolve_device",
    "tile_memory",
]

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
    able = cpu_has_fast_bf16() if device.type == "cpu" else device.type == "cuda" and _cuda_has_bf16(device)
    if name == "bf16" or able:
        return torch.bfloat16
    return None


def _cuda_has_bf16(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 in hardware; torch's own answer counts emulation, which older ones do."""
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or switched off for None; no context where torch has none (Apple's GPU before 2.5)."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def describe_devices() -> list[str]:
    """Devices of this machine for a person, the CPU first."""
    names = [f"cpu ({torch.get_num_threads()} threads)"]
    names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return names + (["mps"] if torch.backends.mps.is_available() else [])


def free_memory(device: torch.device) -> int | None:
    """Bytes that a run may take on the device now; None where the system does not say."""
    if device.type == "cuda":
        # torch keeps freed blocks for itself; they are free for this run.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "mps":
        if not hasattr(torch.mps, "recommended_max_memory"):  # before torch 2.5
            return None
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    for line in info.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


@contextmanager
def memory_errors(what: str, *, hint: str) -> Iterator[None]:
    """Turn a device's want of memory into an error that says what did not fit.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory in {what}", hint=hint) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class of its own for it; Apple's GPU and the CPU's allocator say it in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)


def empty_cache(device: torch.device) -> None:
    """Give what torch keeps for itself back to the device."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def tile_memory(config: CheckpointConfig, height: int, width: int, dtype: torch.dtype | None) -> int:
    """Bytes that one tile needs at its peak, weights left out.

    Counts the tensors that live at once: pixels in and out, the latent and its condition, the stem's features with
    both convolutions' results, and in the trunk the hidden layer of the feed-forward, whose depth-wise convolution runs
    in float32 on a processor. Within a factor of two of what was measured at 512 and 1024 pixels.

    Args:
        config: of the checkpoint.
        height, width: of the tile in output pixels.
        dtype: precision of the dense layers; None is float32.
    """
    model, half = config.model, 4 if dtype is None else 2
    pixels = height * width
    latent = pixels // config.autoencoder.factor**2
    tokens = latent // model.patch_size**2
    hidden = 2 * int(model.mlp_ratio * model.width)
    picture = 4 * 3 * 4 * pixels
    state = 4 * 2 * (model.in_channels + model.cond_channels) * latent
    stem = (4 + 3 * half) * model.stem_width * latent
    trunk = (4 + 4 + 2 * half) * hidden * tokens + 6 * 4 * model.width * tokens
    return picture + state + stem + trunk
