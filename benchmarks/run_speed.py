"""Measure seconds and memory for each output megapixel, by size, steps and tiling.

Example:
    OMP_WAIT_POLICY=PASSIVE python benchmarks/run_speed.py --sides 512,1024,2048,4096 --steps 1,4 --tiles auto,off

Every case runs in a process of its own, so that one case's memory is not another's. The protocol is in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import (
    Tile,
    add_model_options,
    finish,
    load_upscaler,
    model_name,
    parse_numbers,
    parse_tile,
    program,
    run_facts,
    set_threads,
    to_pil,
    without_folders,
)
from _cost import sample_picture
from PIL import Image

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number

POLL_S = 0.005
SCALING_SIDES = (2048, 1024)


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sides", default="512,1024,2048,4096", help="sides of the square results in pixels")
    parser.add_argument("--steps", default="1,4", help="solver steps to try (default: 1,4)")
    parser.add_argument("--tiles", default="auto,off", help="auto, off and sizes, with commas between")
    parser.add_argument("--scale", type=int, default=4, help="whole number from 1 to 8 (default: 4)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of a case (default: 5)")
    parser.add_argument("--budget-s", type=float, default=120.0, help="start no further timed run after this (120)")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="give a case up after this (1800)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-speed.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_model_options(parser)
    return parser


def time_runs(run: Callable[[], object], repeats: int, budget_s: float) -> tuple[float, list[float]]:
    """Seconds of the first run, and of each warm run after it: at least one, at most `repeats`."""
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 2 or (len(seconds) <= repeats and time.perf_counter() - begin < budget_s):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1:]


def memory_mib(field: str, process: int | str = "self") -> float | None:
    """One memory field of a process in MiB, such as RssAnon or VmHWM; None where the system has no such file."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(found[0]) / 1024 if found else None


def synchronise(device: str) -> None:
    """Wait for an accelerator, so that its work is in the time."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device.startswith("mps"):
        torch.mps.synchronize()


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    """Time one case in this process; `--case` is SIDE:STEPS:TILE."""
    side_text, steps_text, tile_text = options.case.split(":")
    side, steps, tile = int(side_text), int(steps_text), parse_tile(tile_text)
    set_threads(options.threads)
    lr = sample_picture(side // options.scale)
    small = to_pil(lr)
    _, pil_seconds = time_runs(lambda: small.resize((side, side), Image.Resampling.BICUBIC), 5, options.budget_s)
    upscaler = load_upscaler(options.model, options.device, options.dtype)
    before_mib = memory_mib("RssAnon")

    def run() -> None:
        upscaler.upscale_tensor(lr, size=(side, side), steps=steps, seed=options.seed, tags=None, tile=tile)
        synchronise(options.device)

    first, seconds = time_runs(run, options.repeats, options.budget_s)
    megapixels, median, pil_median = side * side / 1e6, statistics.median(seconds), statistics.median(pil_seconds)
    return {
        "side": side,
        "scale": options.scale,
        "steps": steps,
        "tile": tile,
        "runs": len(seconds),
        "seconds_median": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "seconds_per_output_megapixel": median / megapixels,
        "pil_bicubic_seconds_per_output_megapixel": pil_median / megapixels,
        "times_pil_bicubic": median / pil_median,
        "seconds_first": first,
        "before_anonymous_mib": before_mib,
        "peak_resident_mib": memory_mib("VmHWM"),
    }


def forwarded(options: argparse.Namespace) -> list[str]:
    """The options a case needs, for its own process."""
    words = ["--scale", str(options.scale), "--repeats", str(options.repeats), "--budget-s", str(options.budget_s)]
    words += ["--model", options.model, "--device", options.device, "--dtype", options.dtype]
    words += ["--seed", str(options.seed)]
    return words if options.threads is None else [*words, "--threads", str(options.threads)]


def reason(stderr: str, returncode: int) -> str:
    """One line on why a case failed: its `error:` line, or the last line of a traceback."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if returncode < 0:
        return f"ended by signal {-returncode}; 9 is what a system out of memory sends"
    return without_folders((told or lines or [f"exit code {returncode}"])[-1])


def spawn_case(case: tuple[int, int, Tile], options: argparse.Namespace) -> dict[str, Any]:
    """Run one case in a process of its own and watch its anonymous memory from outside."""
    side, steps, tile = case
    command = [sys.executable, str(Path(__file__).resolve()), "--case", f"{side}:{steps}:{tile}", *forwarded(options)]
    failed = {"side": side, "scale": options.scale, "steps": steps, "tile": tile}
    begin, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_mib("RssAnon", process.pid) or 0.0)
            if time.monotonic() - begin > options.timeout_s:
                process.kill()
                process.wait()
                return {**failed, "error": f"not done after {options.timeout_s:g} s"}
            time.sleep(POLL_S)
        stdout, stderr = process.communicate()
    if process.returncode != 0:
        return {**failed, "error": reason(stderr, process.returncode)}
    row: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    row["peak_anonymous_mib"] = peak if peak > 0 else None
    return row


def scaling(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time of 2048 x 2048 over 1024 x 1024 for each way of running; 4 is linear in pixels."""
    seconds = {(row["side"], row["steps"], row["tile"]): row["seconds_median"] for row in rows if "error" not in row}
    large, small = SCALING_SIDES
    return [
        {"steps": steps, "tile": tile, "ratio_2048_over_1024": value / seconds[small, steps, tile]}
        for (side, steps, tile), value in seconds.items()
        if side == large and (small, steps, tile) in seconds
    ]


def help_seconds(repeats: int = 5) -> float | None:
    """Median wall time of `linearsr --help`; None if the program is not installed beside this Python."""
    beside = Path(sys.executable).with_name("linearsr")
    program = str(beside) if beside.is_file() else shutil.which("linearsr")
    if program is None:
        return None

    def run() -> None:
        subprocess.run([program, "--help"], capture_output=True, check=True, timeout=60)

    try:
        return statistics.median(time_runs(run, repeats, 60.0)[1])
    except (OSError, subprocess.SubprocessError):
        return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("result", "steps", "tile", "runs", "s", "s/MP", "x PIL bicubic", "peak anonymous MiB")
    lines = []
    for row in rows:
        start = (f"{row['side']}x{row['side']}", str(row["steps"]), str(row["tile"]))
        if "error" in row:
            lines.append((*start, "-", "-", "-", "-", row["error"]))
            continue
        values = (
            str(row["runs"]),
            number(row["seconds_median"], 3),
            number(row["seconds_per_output_megapixel"], 3),
            number(row["times_pil_bicubic"], 1),
            number(row["peak_anonymous_mib"], 0),
        )
        lines.append((*start, *values))
    return markdown_table(header, lines)


def check(options: argparse.Namespace) -> list[tuple[int, int, Tile]]:
    """Check what argparse cannot; returns the cases, smallest first.

    Raises:
        ConfigError: a setting is out of range.
    """
    if not 1 <= options.scale <= 8:
        raise ConfigError(f"--scale is {options.scale}, expected a whole number from 1 to 8")
    if options.repeats < 1:
        raise ConfigError(f"--repeats is {options.repeats}, expected at least 1")
    sides = parse_numbers(options.sides, "--sides", 64, 32768)
    steps = parse_numbers(options.steps, "--steps", 1, 1000)
    tiles = [parse_tile(word) for word in options.tiles.split(",")]
    return [(side, count, tile) for side in sorted(sides) for count in steps for tile in tiles]


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    if options.case is not None:
        print(json.dumps(run_case(options)))
        return 0
    cases = check(options)
    set_threads(options.threads)
    facts = run_facts("speed", arguments, options.device)
    rows = []
    for case in cases:
        rows.append(spawn_case(case, options))
        print(f"{case[0]}x{case[0]}, {case[1]} steps, tile {case[2]} done", file=sys.stderr)
    ratios, help_s = scaling(rows), help_seconds()
    protocol = {
        "seconds": "median of the timed runs of a warm process (one run done); input tensor to result tensor, no "
        "files read or written",
        "seconds_first": "the first run, which also loads the weights",
        "peak_anonymous_mib": f"largest RssAnon of the process, read every {POLL_S * 1000:g} ms from outside",
        "peak_resident_mib": "VmHWM, files mapped into memory included",
        "help_seconds": "median wall time of `linearsr --help`, warm file cache",
    }
    payload = {
        **facts,
        "model": {"name": model_name(options.model), "dtype": options.dtype},
        "protocol": protocol,
        "help_seconds": help_s,
        "scaling": ratios,
        "rows": rows,
    }
    finish(options.output, "speed", payload, table(rows))
    for entry in ratios:
        print(
            f"2048x2048 over 1024x1024, {entry['steps']} steps, tile {entry['tile']}: "
            f"{entry['ratio_2048_over_1024']:.2f}"
        )
    print(f"linearsr --help: {number(help_s, 3)} s")
    return 0 if all("error" not in row for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
