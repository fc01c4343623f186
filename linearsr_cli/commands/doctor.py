"""`linearsr doctor`: what is installed, what it runs on, and whether a small picture comes out right."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from linearsr_cli import options as o
from linearsr_cli.errors import ExitCode, describe
from linearsr_cli.memory import memory_bytes
from linearsr_cli.output import Output

__all__ = ["EXAMPLES", "doctor"]

EXAMPLES = """Examples:

\b
  linearsr doctor                  for people
  linearsr doctor --json           for a bug report
  linearsr doctor --device cuda    does the GPU work?
"""

PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "safetensors", "huggingface_hub", "typer", "rich")
EXTRAS = ("tifffile", "imagecodecs", "pillow-heif", "accelerate", "diffusers", "transformers")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
SIDE = 64
"""Pixels a side of the picture that is tried."""


def doctor(
    model: o.ModelOption = "compact",
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "auto",
    json: o.JsonOption = False,
) -> None:
    """Show versions, devices and memory, and try a small picture."""
    out = Output(json=json)
    report: dict[str, Any] = {"event": "doctor", **_versions(), **_machine()}
    error: Exception | None = None
    try:
        report["devices"] = _devices()
        report["run"] = _small_run(model, device, dtype)
    except Exception as problem:
        error = problem
        message, hint = describe(problem)
        report["run"] = {"ok": False, "error": message, "hint": hint}
    out.event(report)
    if not json:
        _print(report, out)
    if error is not None:
        raise error
    raise typer.Exit(ExitCode.DONE)


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, Any]:
    from linearsr import __version__

    return {
        "linearsr": __version__,
        "python": platform.python_version(),
        "packages": {name: _version_of(name) for name in PACKAGES},
        "extras": {name: _version_of(name) for name in EXTRAS},
    }


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": {key: round(count / 1e9, 1) for key, count in memory_bytes().items()},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _processor() -> str:
    """Name of the CPU; Linux tells it in a file of its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {"name": "cpu", "description": _processor(), "threads": torch.get_num_threads()},
    ]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        about = {"description": torch.cuda.get_device_name(index), "free_gb": round(free / 1e9, 1)}
        devices.append({"name": f"cuda:{index}", **about, "total_gb": round(total / 1e9, 1)})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "description": "Apple GPU"})
    return devices


def _small_run(model: str, device: str, dtype: str) -> dict[str, Any]:
    """Upscale a smooth 64-pixel picture by 4 and compare its shape and brightness with the input.

    Raises:
        LinearSRError: no weights, no device, or a result that is not a picture of the input.
    """
    import numpy as np
    from PIL import Image

    from linearsr.device import autocast_dtype
    from linearsr.errors import DeviceError
    from linearsr.image_io import read
    from linearsr.pipeline import Upscaler

    started = time.perf_counter()
    upscaler = Upscaler.from_pretrained(model, device=device, dtype=dtype)
    precision = autocast_dtype(dtype, upscaler.device)
    across, down = np.meshgrid(np.linspace(40, 215, SIDE), np.linspace(40, 215, SIDE))
    pixels = np.stack([across, down, np.full((SIDE, SIDE), 128.0)], axis=2).round().astype(np.uint8)
    with tempfile.TemporaryDirectory(prefix="linearsr-") as folder:
        path = Path(folder) / "ramp.png"
        Image.fromarray(pixels).save(path)
        picture = read(path)
    upscaler.upscale_picture(picture, scale=4.0)  # weights load and kernels are chosen in the first run
    first = time.perf_counter()
    result = upscaler.upscale_picture(picture, scale=4.0)
    seconds = time.perf_counter() - first
    difference = float(np.abs(result.rgb.mean(axis=(0, 1)) - picture.rgb.mean(axis=(0, 1))).max())
    if result.rgb.shape != (4 * SIDE, 4 * SIDE, 3) or not difference < 0.05:
        raise DeviceError(
            f"the small run gave a {result.rgb.shape} result {difference:.3f} off in brightness, expected "
            f"{(4 * SIDE, 4 * SIDE, 3)} and less than 0.05",
            hint="try `--device cpu --dtype fp32`",
        )
    return {
        "ok": True,
        "model": model,
        "device": str(upscaler.device),
        "dtype": "float32" if precision is None else str(precision).removeprefix("torch."),
        "first_s": round(first - started, 2),
        "seconds": round(seconds, 3),
        "output": f"{4 * SIDE}x{4 * SIDE}",
        "brightness_error": round(difference, 4),
    }


def _print(report: dict[str, Any], out: Output) -> None:
    """The report as aligned lines on stdout."""
    memory = report["memory_gb"]
    lines = [("linearsr", report["linearsr"]), ("python", report["python"]), ("platform", report["platform"])]
    lines += [(name, version if version is not None else "missing") for name, version in report["packages"].items()]
    extras = [f"{name} {version}" for name, version in report["extras"].items() if version is not None]
    lines.append(("extras", ", ".join(extras) if extras else "none"))
    lines.append(("cores", str(report["cores"])))
    lines.append(("memory", ", ".join(f"{count} GB {key}" for key, count in memory.items()) if memory else "unknown"))
    for device in report.get("devices", []):
        about = ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("name", "description"))
        lines.append(("device", f"{device['name']} {device['description']} ({about})" if about else device["name"]))
    lines += [(name, value) for name, value in report["environment"].items()]
    run = report["run"]
    if run["ok"]:
        size = f"{SIDE}x{SIDE} to {run['output']}"
        where = f"on {run['device']} in {run['dtype']}"
        lines.append(("small run", f"ok, {size} in {run['seconds']} s {where} (the first {run['first_s']} s)"))
    for name, value in lines:
        out.data(f"{name:24}{value}")
