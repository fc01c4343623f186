"""Measure what an autoencoder alone loses: decode(encode(picture)) against the picture.

Example:
    python benchmarks/run_ceiling.py --autoencoder SANA/vae --data bench/Kodak24 bench/BSD100 \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

No network that works in the autoencoder's latent can be asked for more. With random weights, such as a stand-in's, the
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from _common import finish, list_images, measure, metric_definitions, program, run_facts, set_threads

from linearsr.autoencoders.dcae import DcaeAutoencoder, load_dcae
from linearsr.autoencoders.dcae_weights import build_autoencoder
from linearsr.config import AutoencoderConfig
from linearsr.device import DTYPES, autocast_dtype, resolve_device
from linearsr.errors import ConfigError
from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.tables import markdown_table, number
from linearsr.metrics import Lpips, quantise

NOTE = "true of trained weights only: with random weights these numbers mean nothing"
LEAST_PSNR = 20.0
"""A trained DC-AE stays well above this on photographs; below it the weights are hardly trained ones."""


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], epilog=f"The result is {NOTE}.")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="FOLDER", help="as diffusers saves it")
    parser.add_argument("--decoder", type=Path, metavar="FOLDER", help="another one whose decoder is used")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="clean pictures")
    parser.add_argument("--border", type=int, default=4, help="pixels cut from every side (default: 4, as at x4)")
    parser.add_argument("--lpips-weights", type=Path, metavar="FILE", help="safetensors; without it no LPIPS")
    parser.add_argument("--limit", type=int, help="first N pictures of each folder only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the weights (default: fp32)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-ceiling.json")
    return parser


def load(options: argparse.Namespace) -> DcaeAutoencoder:
    """The autoencoder with what its own config.json says."""
    device = resolve_device(options.device)
    described = build_autoencoder(options.autoencoder)
    config = AutoencoderConfig(
        kind="dcae",
        factor=described.spatial_compression_ratio,
        source=str(options.autoencoder),
        scaling_factor=described.config["scaling_factor"],
    )
    return load_dcae(options.autoencoder, config, device, autocast_dtype(options.dtype, device), options.decoder)


def run_set(
    folder: Path, autoencoder: DcaeAutoencoder, lpips: Lpips | None, border: int, limit: int | None
) -> dict[str, Any]:
    """The row of one folder, with every picture's own values."""
    images: dict[str, dict[str, float]] = {}
    seconds = megapixels = 0.0
    for path in list_images(folder)[:limit]:
        hr = read_picture(path)
        megapixels += hr.shape[-1] * hr.shape[-2] / 1e6
        start = time.perf_counter()
        result = quantise(autoencoder.reconstruct(hr[None])[0])
        seconds += time.perf_counter() - start
        images[path.name] = measure(result, hr, border, lpips)
    names = next(iter(images.values())).keys()
    return {
        "dataset": folder.resolve().name,
        "method": "autoencoder",
        "num_images": len(images),
        "megapixels": round(megapixels, 3),
        "seconds_per_megapixel": seconds / megapixels,
        **{name: fmean([image[name] for image in images.values()]) for name in names},
        "images": images,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("set", "pictures", "PSNR-Y", "SSIM-Y", "LPIPS", "GMSD")
    lines = [
        (
            row["dataset"],
            str(row["num_images"]),
            number(row["psnr_y"], 2),
            number(row["ssim_y"], 4),
            number(row.get("lpips"), 4),
            number(row["gmsd"], 4),
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def check(options: argparse.Namespace) -> None:
    """Check what argparse cannot, before any weights load.

    Raises:
        ConfigError: a setting is out of range.
        ImageError: a folder without pictures.
    """
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}, expected at least 1")
    if options.border < 1:
        raise ConfigError(f"--border is {options.border}, expected at least 1 pixel")
    for folder in options.data:
        list_images(folder)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    check(options)
    set_threads(options.threads)
    facts = run_facts("ceiling", arguments, options.device)
    autoencoder = load(options)
    lpips = None if options.lpips_weights is None else Lpips.from_file(options.lpips_weights)
    rows = []
    for folder in options.data:
        rows.append(run_set(folder, autoencoder, lpips, options.border, options.limit))
        print(f"{folder.name} done", file=sys.stderr)
    model = {
        "name": options.autoencoder.resolve().name,
        "decoder": None if options.decoder is None else options.decoder.resolve().name,
        "dtype": str(autoencoder.dtype).removeprefix("torch."),
    }
    protocol = {
        "crop": f"border of {options.border} pixels cut for every metric",
        "size": f"sides brought to multiples of {autoencoder.factor} by reflection and cut back",
        "rounding": "result rounded to 8 bits",
        "note": NOTE,
    }
    names = [name for name in ("psnr_y", "ssim_y", "gmsd", "lpips") if name in rows[0]]
    payload = {
        **facts, "model": model, "protocol": protocol, "definitions": metric_definitions(names), "rows": rows,
    }  # fmt: skip
    finish(options.output, "ceiling", payload, table(rows), f"This is {NOTE}.")
    if min(row["psnr_y"] for row in rows) < LEAST_PSNR:
        print(f"Below {LEAST_PSNR:g} dB: these weights look random.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
