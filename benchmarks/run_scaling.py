"""Linear against softmax attention by number of tokens: time, memory and operations.

Example:
    OMP_WAIT_POLICY=PASSIVE python benchmarks/run_scaling.py --threads 2

Two levels: the core alone, which reads queries, keys and values of one layer at a preset's width, and a network of
that width and few blocks whose self-attention is one or the other. Softmax attention is torch's fused one, which holds
no N x N matrix.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import finish, parse_numbers, program, run_facts, set_threads
from _networks import DTYPES, make_inputs, preset_shape, random_network, synchronise
from run_memory import MIB, LiveBytes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr.model.attention import LinearAttention, linear_attention
from linearsr.model.transformer import LinearDiT

Core = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, (1, N, h, d) each, to (1, N, h, d)."""


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own attention in the layout of `linear_attention`."""
    return F.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v))).transpose(1, 2)


CORES: dict[str, Core] = {"linear": linear_attention, "softmax": softmax_attention}


class SelfAttention(nn.Module):
    """The projections of a network's self-attention around another core."""

    def __init__(self, projections: LinearAttention, core: Core) -> None:
        super().__init__()
        self.projections, self.core = projections, core

    def forward(self, x: Tensor) -> Tensor:
        """(1, N, D) -> (1, N, D)."""
        q, k, v = (z.unflatten(-1, (-1, self.projections.head_dim)) for z in self.projections.project(x))
        return self.projections.to_out[0](self.core(q, k, v).flatten(2).to(v.dtype))


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width-from", default="sana-0.6b", help="preset whose heads are used (default: sana-0.6b)")
    parser.add_argument("--heads", type=int, default=0, help="of the layer; 0 for the preset's own (default: 0)")
    parser.add_argument("--depth", type=int, default=1, help="blocks of the network (default: 1)")
    parser.add_argument("--tokens", default="256,1024,4096,16384", help="square numbers (default: 256,1024,4096,16384)")
    parser.add_argument("--dtype", default="fp32", choices=tuple(DTYPES), help="of queries, keys and values (fp32)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: 5)")
    parser.add_argument("--budget-s", type=float, default=60.0, help="repeat no case longer than this (default: 60)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-scaling.json")
    return parser


def seconds_of(run: Callable[[], object], repeats: int, budget_s: float, wait: Callable[[], None]) -> list[float]:
    """Seconds of each run after the first: `repeats` or as many as a second holds, at least one, within the budget."""
    seconds: list[float] = []
    begin = time.perf_counter()

    def goes_on() -> bool:
        spent = time.perf_counter() - begin
        return len(seconds) < 2 or spent < 1.0 or (len(seconds) <= repeats and spent < budget_s)

    while goes_on():
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def count_gflop(run: Callable[[], object]) -> float:
    """Matrix products of a run in 10^9 operations; softmax attention as its two products, which the fused one hides."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def live_mib(run: Callable[[], object], given: Sequence[Tensor]) -> float:
    """Most memory alive at once that a run made."""
    with LiveBytes() as live:
        live.given(given)
        run()
    return live.peak / MIB


def core_row(options: argparse.Namespace, name: str, heads: int, head_dim: int, tokens: int) -> dict[str, Any]:
    """The core alone, at one number of tokens."""
    core, dtype = CORES[name], DTYPES[options.dtype]
    qkv = [torch.randn(1, tokens, heads, head_dim).to(options.device, dtype) for _ in range(3)]
    seconds = seconds_of(lambda: core(*qkv), options.repeats, options.budget_s, synchronise(options.device))
    with FakeTensorMode():
        fake = [torch.empty(1, tokens, heads, head_dim, dtype=dtype) for _ in range(3)]
        gflop = count_gflop(lambda: core(*fake))
    return {
        **facts_of("core", name, tokens, seconds, gflop),
        "activations_mib": live_mib(lambda: core(*qkv), qkv),
        "scores_mib": heads * tokens**2 * qkv[0].element_size() / MIB if name == "softmax" else 0.0,
    }


def network_row(options: argparse.Namespace, name: str, tokens: int) -> dict[str, Any]:
    """A network of few blocks, at one number of tokens; the forward pass is the plain one for both."""
    network = random_network(preset_shape(options.width_from, options.depth, stem=False)).to(options.device)
    for block in network.transformer_blocks:
        block.attn1 = SelfAttention(block.attn1, CORES[name])
    if options.dtype != "fp32":
        network.cast_dense_(DTYPES[options.dtype])
    inputs = make_inputs(network.config, 32 * math.isqrt(tokens), 64, options.device)
    seconds = seconds_of(lambda: network(*inputs), options.repeats, options.budget_s, synchronise(options.device))
    with torch.device("meta"):
        empty = LinearDiT(network.config)
        for block in empty.transformer_blocks:
            block.attn1 = SelfAttention(block.attn1, CORES[name])
        x, t, cond = (z.to("meta") if isinstance(z, Tensor) else z for z in inputs)
        given = {key: getattr(cond, key).to("meta") for key in ("lr", "tags", "tag_mask")}
        gflop = count_gflop(lambda: empty(x, t, replace(cond, **given)))
    kept = [*network.parameters(), *inputs[:2], inputs[2].lr, inputs[2].tags, inputs[2].tag_mask]
    return {
        **facts_of("network", name, tokens, seconds, gflop),
        "activations_mib": live_mib(lambda: network(*inputs), kept),
    }


def facts_of(level: str, name: str, tokens: int, seconds: Sequence[float], gflop: float) -> dict[str, Any]:
    """What rows of both levels have."""
    return {
        "level": level,
        "attention": name,
        "tokens": tokens,
        "side": 32 * math.isqrt(tokens),
        "runs": len(seconds),
        "seconds": statistics.median(seconds),
        "gflop": gflop,
    }


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Power of the tokens that the time grows with, from the two largest numbers of tokens."""
    found: dict[str, dict[str, float]] = {"core": {}, "network": {}}
    for level, values in found.items():
        for name in CORES:
            a, b = [row for row in rows if (row["level"], row["attention"]) == (level, name)][-2:]
            values[name] = math.log(b["seconds"] / a["seconds"]) / math.log(b["tokens"] / a["tokens"])
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("level", "attention", "tokens", "side", "s", "GFLOP", "MiB")
    cells = []
    for row in rows:
        values = (number(row["seconds"], 4), number(row["gflop"], 2), number(row["activations_mib"], 1))
        cells.append((row["level"], row["attention"], str(row["tokens"]), f"{row['side']} px", *values))
    return markdown_table(header, cells)


@program
@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON; make_all.py draws the figure."""
    options = build_parser().parse_args(arguments)
    if options.repeats < 1 or min(options.heads, options.depth - 1) < 0:
        raise ConfigError("--repeats, --depth or --heads is too small, expected at least 1, 1 and 0")
    tokens = sorted(parse_numbers(options.tokens, "--tokens", 16, 2**20))
    if len(tokens) < 2 or any(math.isqrt(count) ** 2 != count for count in tokens):
        raise ConfigError(f"--tokens is {options.tokens!r}, expected two or more square numbers to compare")
    set_threads(options.threads)
    config = preset_shape(options.width_from, 0, stem=False)
    heads = options.heads if options.heads > 0 else config.width // config.head_dim
    facts = run_facts("scaling", arguments, options.device)
    rows = [core_row(options, name, heads, config.head_dim, count) for count in tokens for name in CORES]
    print("core measured", file=sys.stderr)
    rows += [network_row(options, name, count) for count in tokens for name in CORES]
    protocol = {
        "level": "core: queries, keys and values are given; network: the whole forward pass, with 64 text tokens",
        "seconds": "median of the timed runs after a first one",
        "gflop": "matrix products and convolutions by torch's FlopCounterMode, two for a multiply-add",
        "activations_mib": "most bytes alive at once that the run made, what it was given left out",
        "scores_mib": "what the N x N matrix of softmax attention would take, which torch's fused kernel avoids",
        "side": "of a picture in pixels with that many tokens, at 32 pixels a token",
        "time_exponent": "power of the tokens that the time grows with, between the two largest",
    }
    payload = {
        **facts,
        "layer": {"heads": heads, "head_dim": config.head_dim, "dtype": options.dtype},
        "network": {"width_from": options.width_from, "depth": options.depth},
        "protocol": protocol,
        "time_exponent": exponents(rows),
        "rows": rows,
    }
    finish(options.output, "scaling", payload, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
