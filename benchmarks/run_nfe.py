"""Time one network evaluation, and a run of 20, beside diffusers' Sana with the same weights.

Example:
    OMP_WAIT_POLICY=PASSIVE python benchmarks/run_nfe.py --width-from sana-0.6b --depth 4 --sizes 1024 --threads 2

The two take turns in one process, so that whatever else the machine does hits both; the result is the median of the
ratios of neighbours, not the ratio of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _common import finish, parse_numbers, program, run_facts, set_threads
from _networks import (
    DTYPES,
    diffusers_sana,
    make_inputs,
    parse_dtypes,
    prepare,
    preset_shape,
    random_network,
    synchronise,
    with_stem,
)
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr.model.conditioning import Conditioning
from linearsr.model.transformer import LinearDiT

Evaluate = Callable[[Tensor, float, Conditioning], Tensor]
"""Prediction from latent, time and condition."""


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width-from", default="sana-0.6b", help="preset whose width is used (default: sana-0.6b)")
    parser.add_argument("--depth", type=int, default=4, help="transformer blocks; 0 for the preset's own (default: 4)")
    parser.add_argument("--sizes", default="1024", help="sides of the square results in pixels (default: 1024)")
    parser.add_argument("--tokens", default="300,64", help="text tokens that are no padding (default: 300,64)")
    parser.add_argument("--padded-to", type=int, default=300, help="text tokens given to both with a mask (300)")
    parser.add_argument("--dtype", default="fp32,bf16", help="some of fp32, bf16, fp16 (default: fp32,bf16)")
    parser.add_argument("--steps", type=int, default=20, help="evaluations of a whole run (default: 20)")
    parser.add_argument("--repeats", type=int, default=9, help="timed evaluations of each (default: 9)")
    parser.add_argument("--budget-s", type=float, default=180.0, help="time no whole run that takes longer (180)")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-nfe.json")
    return parser


def build(options: argparse.Namespace, dtype: str, stem: bool) -> tuple[dict[str, Evaluate], LinearDiT]:
    """Our prepared network and diffusers' with the same weights, as functions; and ours."""
    plain = random_network(preset_shape(options.width_from, options.depth, stem=False))
    theirs = diffusers_sana(plain).to(options.device, DTYPES[dtype])
    network = with_stem(plain, preset_shape(options.width_from, options.depth, stem=True)) if stem else plain
    if options.compile:
        if dtype != "fp32":
            network.cast_dense_(DTYPES[dtype])
        network.to(options.device).fuse_qkv()
        network.compile(mode="reduce-overhead" if options.device.startswith("cuda") else "default")
        theirs.compile(mode="reduce-overhead" if options.device.startswith("cuda") else "default")
    else:
        prepare(network, dtype, options.device)

    def ours_once(x: Tensor, t: float, cond: Conditioning) -> Tensor:
        return network(x, torch.tensor([t], device=x.device), cond)

    def theirs_once(x: Tensor, t: float, cond: Conditioning) -> Tensor:
        time = torch.tensor([1000.0 * t], device=x.device)
        mask = cond.tag_mask.to(DTYPES[dtype])
        tags, state = cond.tags.to(DTYPES[dtype]), x.to(DTYPES[dtype])
        out = theirs(state, encoder_hidden_states=tags, timestep=time, encoder_attention_mask=mask, return_dict=False)
        return out[0].float()

    return {"linearsr": ours_once, "diffusers": theirs_once}, network


def fresh(cond: Conditioning) -> Conditioning:
    """The same condition in new tensors, so that nothing is remembered of it."""
    return replace(cond, lr=cond.lr.clone(), tags=cond.tags.clone(), tag_mask=cond.tag_mask.clone())


def take_turns(
    runs: dict[str, Callable[[], object]], repeats: int, wait: Callable[[], None], warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each function, one after the other in every round, after `warm` rounds that are not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(repeats + warm):
        for name, run in runs.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            if index >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def whole_run(evaluate: Evaluate, x: Tensor, cond: Conditioning, steps: int) -> Tensor:
    """`steps` evaluations along a uniform grid by Euler's rule, without guidance; the condition is new."""
    cond = fresh(cond)
    for index in range(steps):
        x = x - evaluate(x, 1.0 - index / steps, cond) / steps
    return x


def ratio(seconds: dict[str, list[float]], name: str) -> float:
    """Median over the rounds of diffusers' time over ours."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds["diffusers"], strict=True))


def measure(options: argparse.Namespace, dtype: str, stem: bool, side: int, tokens: int) -> dict[str, Any]:
    """One row: a precision, with or without the stem, a size and a number of text tokens."""
    evaluate, network = build(options, dtype, stem)
    x, _, cond = make_inputs(network.config, side, options.padded_to, options.device)
    cond.tag_mask[:, tokens:] = False
    ours, theirs, wait = evaluate["linearsr"], evaluate["diffusers"], synchronise(options.device)
    a, b = ours(x, 0.7, cond), theirs(x, 0.7, cond)
    runs = {
        "next": lambda: ours(x, 0.7, cond),
        "diffusers": lambda: theirs(x, 0.7, cond),
        "first": lambda: ours(x, 0.7, fresh(cond)),
    }
    seconds = take_turns(runs, options.repeats, wait)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    total = None
    if options.steps * median["diffusers"] <= options.budget_s:
        whole = {
            "next": lambda: whole_run(ours, x, cond, options.steps),
            "diffusers": lambda: whole_run(theirs, x, cond, options.steps),
        }
        total = {name: statistics.median(v) for name, v in take_turns(whole, 1, wait, warm=0).items()}
    return {
        "dtype": dtype,
        "side": side,
        "image_tokens": x.shape[2] * x.shape[3],
        "text_tokens": tokens,
        "text_tokens_padded": options.padded_to,
        "lr_stem": stem,
        "difference": float((a - b).abs().max() / b.abs().max()),
        "seconds_first": median["first"],
        "seconds": median["next"],
        "seconds_min": min(seconds["next"]),
        "diffusers_seconds": median["diffusers"],
        "diffusers_seconds_min": min(seconds["diffusers"]),
        "times_faster_first": ratio(seconds, "first"),
        "times_faster": ratio(seconds, "next"),
        "total_seconds": None if total is None else total["next"],
        "diffusers_total_seconds": None if total is None else total["diffusers"],
        "total_times_faster": None if total is None else total["diffusers"] / total["next"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("dtype", "side", "text", "stem", "s first", "s", "diffusers s", "x first", "x", "total s", "x total")
    keys = ("seconds_first", "seconds", "diffusers_seconds", "times_faster_first", "times_faster")
    lines = []
    for row in rows:
        start = (row["dtype"], str(row["side"]), str(row["text_tokens"]), "yes" if row["lr_stem"] else "no")
        values = [number(row[key], 3) for key in (*keys, "total_seconds", "total_times_faster")]
        lines.append((*start, *values))
    return markdown_table(header, lines)


def check(options: argparse.Namespace) -> list[tuple[str, bool, int, int]]:
    """Check what argparse cannot; returns the cases.

    Raises:
        ConfigError: a setting is out of range.
    """
    if min(options.repeats, options.steps, options.depth + 1) < 1:
        raise ConfigError("--repeats, --steps or --depth is too small, expected at least 1 (--depth: 0)")
    sizes = parse_numbers(options.sizes, "--sizes", 32, 32768)
    texts = parse_numbers(options.tokens, "--tokens", 1, options.padded_to)
    return [
        (dtype, stem, side, tokens)
        for dtype in parse_dtypes(options.dtype)
        for side in sizes
        for tokens in texts
        for stem in (False, True)
    ]


@program
@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    cases = check(options)
    set_threads(options.threads)
    facts = run_facts("nfe", arguments, options.device)
    rows = []
    for case in cases:
        rows.append(measure(options, *case))
        print(f"{case[0]}, {case[2]} px, {case[3]} text tokens, stem {case[1]}: done", file=sys.stderr)
    protocol = {
        "seconds": "median evaluation of a run but its first, tags and picture being the same tensors as before",
        "seconds_first": "median evaluation with tags and picture that were not seen before",
        "times_faster": "median over the rounds of diffusers' seconds over these of the same round",
        "text_tokens": "both get the padded number and a mask; SANA's pipeline pads every prompt to 300",
        "diffusers": "SanaTransformer2DModel of the same weights, eager, in the same dtype, without the stem",
        "difference": "largest difference of the two predictions over the largest prediction of diffusers'",
        "total": f"{options.steps} evaluations by Euler's rule with new tags, without guidance, once",
        "lr_stem": "the row's own network reads low-resolution pixels too, through zero columns",
    }
    model = {"width_from": options.width_from, "depth": options.depth, "compiled": options.compile}
    payload = {**facts, "model": model, "protocol": protocol, "rows": rows}
    finish(options.output, "nfe", payload, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
