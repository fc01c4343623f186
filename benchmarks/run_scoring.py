"""Time `linearsr eval` on results that lie there: PSNR, SSIM and LPIPS, from the start of the process to its end.

Example:
    OMP_WAIT_POLICY=PASSIVE python benchmarks/run_scoring.py --data bench/BSD100 \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

The results are the pictures shrunk by 4 and enlarged again by bicubic, written to a temporary folder. The run over a
tenth of the pictures says whether memory grows with their number.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import finish, list_images, program, read_picture, run_facts, to_pil

from linearsr.errors import ImageError
from linearsr.evaluation.tables import markdown_table
from linearsr.metrics import mod_crop, quantise
from linearsr.resize import resize

SCALE = 4


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="clean pictures")
    parser.add_argument("--lpips-weights", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--runs", type=int, default=2, help="of each number of pictures (default: 2)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/DATE-scoring.json")
    return parser


def write_pairs(data: Path, folder: Path) -> int:
    """Clean pictures cut to the scale in `hr/`, their bicubic results in `sr/`; how many."""
    for name in ("hr", "sr"):
        (folder / name).mkdir()
    paths = list_images(data)
    for path in paths:
        hr = mod_crop(read_picture(path), SCALE)
        size = (hr.shape[1], hr.shape[2])
        lr = quantise(resize(hr, (size[0] // SCALE, size[1] // SCALE)))
        to_pil(hr).save(folder / "hr" / f"{path.stem}.png")
        to_pil(resize(lr, size)).save(folder / "sr" / f"{path.stem}.png")
    return len(paths)


def time_run(folder: Path, weights: Path, count: int) -> dict[str, Any]:
    """Seconds and peak memory of one run over the first `count` pictures.

    Raises:
        ImageError: it did not score them all.
    """
    words = ["eval", "--sr", "sr", "--hr", "hr", "--scale", str(SCALE), "--metrics", "psnr,ssim,lpips", "--no-cache"]
    words += ["--limit", str(count), "--lpips-weights", str(weights.resolve()), "-f", "csv", "-q"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "linearsr_cli.app", *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise ImageError(f"scoring ended with status {status}, expected 0", hint="see above")
    return {"num_images": count, "seconds": seconds, "peak_mib": peak_mib(usage)}


def peak_mib(usage: resource.struct_rusage) -> float:
    """Largest resident memory; Linux counts it in KiB, macOS in bytes."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    facts = run_facts("scoring", arguments, "cpu")
    with tempfile.TemporaryDirectory(prefix="linearsr-") as folder:
        count = write_pairs(options.data, Path(folder))
        counts = [max(1, count // 10), count]
        rows = [time_run(Path(folder), options.lpips_weights, n) for _ in range(options.runs) for n in counts]
    payload = {**facts, "dataset": options.data.resolve().name, "metrics": ["psnr_y", "ssim_y", "lpips"], "rows": rows}
    cells = [(str(row["num_images"]), f"{row['seconds']:.1f}", f"{row['peak_mib']:.0f}") for row in rows]
    finish(options.output, "scoring", payload, markdown_table(("pictures", "seconds", "peak MiB"), cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
