"""What the benchmark programs share: pictures, the model's interface, facts about the run, tables and JSON.

A result file must be readable by others: it names the machine's processor but no host, and no folder of the machine it
was made on.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from PIL import Image
from torch import Tensor

import linearsr
from linearsr.errors import ConfigError, ImageError, LinearSRError
from linearsr.evaluation.pictures import read_picture as read_picture
from linearsr.evaluation.tables import markdown_table as markdown_table
from linearsr.image_io import IMAGE_SUFFIXES
from linearsr.metrics import METRICS, Lpips, gmsd, psnr, quantise, ssim
from linearsr.metrics.planes import crop_pair
from linearsr.resize import resize

Tags = tuple[str, ...] | None
"""Canonical tags, or None to leave the choice to the model."""
Tile = str | int
"""`auto`, `off` or a side in output pixels."""

SCHEMA_VERSION = 1
REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = ("linearsr", "train/linearsr_train", "benchmarks/*.py")
"""What a result depends on, as git path patterns."""
RESULTS = Path(__file__).resolve().parent / "results"


class TensorUpscaler(Protocol):
    """The one method of `linearsr.pipeline.Upscaler` that the benchmarks use."""

    def upscale_tensor(
        self, lr: Tensor, *, size: tuple[int, int], steps: int, seed: int, tags: Tags, tile: Tile
    ) -> Tensor:
        """(3, h, w) in [0, 1] to (3, H, W) in [0, 1]; `size` is (W, H)."""
        ...


class BicubicUpscaler:
    """Stands where the model stands when `--model none` is given; ignores steps, seed, tags and tile."""

    def upscale_tensor(
        self, lr: Tensor, *, size: tuple[int, int], steps: int, seed: int, tags: Tags, tile: Tile
    ) -> Tensor:
        """MATLAB's bicubic, clamped to [0, 1]."""
        del steps, seed, tags, tile
        return resize(lr, (size[1], size[0])).clamp(0, 1)


def load_upscaler(model: str, device: str, dtype: str) -> TensorUpscaler:
    """`linearsr.Upscaler` from a preset name or a checkpoint folder; `none` gives the bicubic stand-in."""
    if model == "none":
        return BicubicUpscaler()
    from linearsr.pipeline import Upscaler

    return Upscaler.from_pretrained(model, device=device, dtype=dtype)


def model_name(model: str) -> str:
    """Preset name, or the last component of a checkpoint folder."""
    return Path(model).name if os.sep in model else model


def list_images(folder: Path) -> list[Path]:
    """Pictures directly in `folder`, by name.

    Raises:
        ImageError: the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder, expected a folder of pictures", hint="check the path")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ImageError(f"{folder} holds no picture", hint="known endings: " + " ".join(sorted(IMAGE_SUFFIXES)))
    return paths


def to_pil(x: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to an 8-bit RGB picture."""
    return Image.fromarray((quantise(x) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def parse_numbers(text: str, name: str, low: int, high: int) -> tuple[int, ...]:
    """Read `2,3,4` into whole numbers within [low, high], for an option called `name`.

    Raises:
        ConfigError: something else was given.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < low or max(numbers) > high:
        raise ConfigError(f"{name} is {text!r}, expected whole numbers from {low} to {high} with commas between")
    return numbers


def parse_tile(text: str) -> Tile:
    """Read `auto`, `off` or a size in output pixels.

    Raises:
        ConfigError: anything else.
    """
    return text if text in ("auto", "off") else parse_numbers(text, "--tile", 1, 65536)[0]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every program that runs the model."""
    parser.add_argument("--model", default="compact", help="preset, checkpoint folder, or `none` (default: compact)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--dtype", default="auto", help="auto, fp32, bf16 or fp16 (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="noise seed (default: 0)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")


def set_threads(threads: int | None) -> None:
    """Limit torch's threads.

    Raises:
        ConfigError: fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads is {threads}, expected at least 1")
    torch.set_num_threads(threads)


def processor_name() -> str:
    """Model of the processor, as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, versions, threads and load; no host name and no path."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def git_facts() -> dict[str, Any]:
    """Commit of the source tree and whether the sources differ from it; None outside a repository."""

    def run(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, status = run("rev-parse", "HEAD"), run("status", "--porcelain", "--", *SOURCES)
    return {"commit": commit, "dirty": bool(status) if commit is not None and status is not None else None}


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command as one line, every path of the arguments cut to its last component."""

    def shorten(word: str) -> str:
        if word.startswith("--") and "=" in word:
            option, value = word.split("=", 1)
            return f"{option}={shorten(value)}"
        return Path(word).name if os.sep in word else word

    return shlex.join(["python", script, *(shorten(word) for word in arguments)])


def without_folders(text: str) -> str:
    """A message with every absolute path in it cut to its last component."""
    return re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s'\"()/\\]+[/\\])+", "", text)


def run_facts(kind: str, arguments: Sequence[str] | None, device: str) -> dict[str, Any]:
    """The part of a result file that is the same for every benchmark; `arguments` None are the program's own."""
    words = sys.argv[1:] if arguments is None else arguments
    return {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "date": datetime.date.today().isoformat(),
        "command": command_line(f"benchmarks/run_{kind}.py", words),
        "linearsr": linearsr.__version__,
        "git": git_facts(),
        "machine": machine_facts(device),
    }


def metric_definitions(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of `linearsr.metrics.METRICS` as plain data."""
    return {name: asdict(METRICS[name]) for name in names}


def _plain(value: object) -> object:
    """JSON has no infinity: None stands for it, and for not a number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a result file; its folder is made. Values that are not finite become null.

    Raises:
        ImageError: it cannot be written.
    """
    text = json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}", hint="choose another --output") from error


def default_output(name: str) -> Path:
    """`benchmarks/results/DATE-NAME.json`."""
    return RESULTS / f"{datetime.date.today().isoformat()}-{name}.json"


def finish(output: Path | None, name: str, payload: Mapping[str, Any], *texts: str) -> None:
    """Write a program's result, to `benchmarks/results/DATE-NAME.json` unless told where, and print what it says.

    Raises:
        ImageError: it cannot be written.
    """
    write_json(default_output(name) if output is None else output, payload)
    print("\n\n".join(texts))


def measure(sr: Tensor, hr: Tensor, border: int, lpips: Lpips | None) -> dict[str, float]:
    """Every score of one 8-bit result, (3, H, W), on the picture without its border."""
    values = {"psnr_y": psnr(sr, hr, border=border), "ssim_y": ssim(sr, hr, border=border)}
    values["gmsd"] = gmsd(*crop_pair(sr, hr, border))
    return values if lpips is None else {**values, "lpips": lpips(*crop_pair(sr, hr, border))}


def fail(error: LinearSRError) -> NoReturn:
    """Print an error as the command line does and leave with exit code 2."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint is not None:
        print(f"hint: {error.hint}", file=sys.stderr)
    raise SystemExit(2) from error


def program(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """A program's main function that tells errors as the command line does."""

    @functools.wraps(main)
    def told(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except LinearSRError as error:
            fail(error)

    return told
