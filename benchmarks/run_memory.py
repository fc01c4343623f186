"""Peak memory of one network evaluation by setting, counted exactly on tensors without data; a real one beside it.

Example:
    python benchmarks/run_memory.py --real sana-0.6b:1024

Every tensor that an operation makes is counted from its making to its last reference, in fake tensors, so networks
larger than the machine's memory are counted too. What a kernel takes for itself while it runs is not seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import finish, parse_numbers, program, run_facts, set_threads
from _networks import DTYPES, make_inputs, parse_dtypes, preset_shape, random_network
from run_speed import memory_mib
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linearsr.evaluation.tables import markdown_table, number
from linearsr.model.transformer import LinearDiT
from linearsr.presets import get_preset

MIB = 2**20
LIMIT, TIME_LIMIT = 0.4, 17.6
"""The most that a picture of 4096 pixels in 16 chunks of rows may take: of the activations without chunks, and of the
time of one of 1024 pixels."""
PROTOCOL = {
    "activations_mib": "most bytes alive at once that the forward pass made, inputs and weights left out",
    "row_chunks": "0 is the plain forward pass, as in training; from 1 the one in place, in that many chunks of rows",
    "of_unchunked": "activations over those in one chunk, in place",
    "of_plain": "activations over those of the plain forward pass",
    "weights": "none: all experts; expert: one, the next is read into the host's memory; sequential: two blocks of one",
    "peak": "weights on the device and activations; the autoencoder's share comes before and after, not on top",
    "time": "median of turns in one process, weights packed, `ratio` in 16 chunks of rows against 1024 pixels whole",
    "real": "one plain evaluation in float32 in a process of its own; resident memory holds Python and torch too",
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made while it is on, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(  # the interface of torch, whose arguments may be anything
        self, func: Callable, types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        out = func(*args, **({} if kwargs is None else kwargs))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def given(self, tensors: Sequence[Tensor]) -> None:
        """Leave out storages that were there before."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--presets", default="sana-0.6b,sana-1.6b", help="networks (default: sana-0.6b,sana-1.6b)")
    parser.add_argument("--sizes", default="1024,2048,4096", help="sides of the results (default: 1024,2048,4096)")
    parser.add_argument("--dtype", default="fp32,bf16", help="some of fp32, bf16, fp16 (default: fp32,bf16)")
    parser.add_argument("--row-chunks", default="1,4,16", help="chunks of rows to try (default: 1,4,16)")
    parser.add_argument("--tokens", type=int, default=64, help="text tokens (default: 64)")
    parser.add_argument("--experts", type=int, default=4, help="experts of the model (default: 4)")
    parser.add_argument("--time-depth", type=int, default=2, help="blocks of the network that is timed; 0 for none (2)")
    parser.add_argument("--repeats", type=int, default=5, help="timed evaluations (default: 5)")
    parser.add_argument("--real", default="", help="also run a real network in fp32 on this machine: PRESET:SIDE")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-memory.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser


def count_peak(preset: str, side: int, dtype: str, row_chunks: int, tokens: int) -> tuple[int, int, int]:
    """Bytes of activations at their peak, of all weights, and of one block's weights; no number is computed.

    0 chunks is the plain forward pass, which training uses, rather than the one in place.
    """
    config = preset_shape(preset, 0, stem=True)
    with torch.device("meta"):
        network = LinearDiT(config)
    if dtype != "fp32":
        network.cast_dense_(DTYPES[dtype])
    with FakeTensorMode(), torch.no_grad():
        for module in network.modules():  # a network cannot be cast once its weights are fake
            for name, p in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=False))
        if row_chunks > 0:
            network.fuse_qkv()
            network.row_chunks = row_chunks
            # Which tags are padding is read from values, and a fake mask has none.
            network._embed_real_tags = lambda cond: (network.embed_tags(cond), cond.tag_mask)  # type: ignore[method-assign]
        x, t, cond = make_inputs(config, side, tokens)
        with LiveBytes() as counter:
            counter.given([*network.parameters(), x, t, cond.lr, cond.tags, cond.tag_mask])
            network(x, t, cond)
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        block = sum(p.numel() * p.element_size() for p in network.transformer_blocks[0].parameters())
    return counter.peak, weights, block


def count_rows(options: argparse.Namespace, preset: str, side: int, dtype: str) -> list[dict[str, Any]]:
    """Rows of all chunks and offloads for one network, size and precision."""
    depth = get_preset(preset).model.depth
    rows = []
    for chunks in (0, *parse_numbers(options.row_chunks, "--row-chunks", 1, 4096)):
        activations, weights, block = count_peak(preset, side, dtype, chunks, options.tokens)
        on_device = {
            "none": options.experts * weights,
            "expert": weights,
            "sequential": weights - (depth - 2) * block,
        }
        rows.append(
            {
                "preset": preset,
                "side": side,
                "dtype": dtype,
                "row_chunks": chunks,
                "activations_mib": activations / MIB,
                **{f"weights_{name}_mib": value / MIB for name, value in on_device.items()},
                **{f"peak_{name}_mib": (value + activations) / MIB for name, value in on_device.items()},
            }
        )
    for row in rows:
        row["of_unchunked"] = row["activations_mib"] / rows[1]["activations_mib"]
        row["of_plain"] = row["activations_mib"] / rows[0]["activations_mib"]
    return rows


@torch.no_grad()
def time_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds at 1024 pixels whole, and at 4096 whole and in 16 chunks, in turns; and their ratios."""
    network = random_network(preset_shape("sana-0.6b", options.time_depth, stem=True)).pack_()
    cases = [(1024, 1), (4096, 16), (4096, 1)]
    inputs = {side: make_inputs(network.config, side, options.tokens) for side, _ in cases}
    seconds: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for index in range(options.repeats + 1):
        for case in cases:
            network.row_chunks = case[1]
            start = time.perf_counter()
            network(*inputs[case[0]])
            if index > 0:
                seconds[case].append(time.perf_counter() - start)
    median = {case: statistics.median(values) for case, values in seconds.items()}
    return {
        "depth": options.time_depth,
        "dtype": "fp32",
        "repeats": options.repeats,
        **{f"seconds_{side}_in_{chunks}": median[side, chunks] for side, chunks in cases},
        "ratio_4096_over_1024": median[4096, 16] / median[1024, 1],
        "ratio_4096_over_1024_unchunked": median[4096, 1] / median[1024, 1],
    }


@torch.no_grad()
def run_real(case: str, tokens: int) -> dict[str, Any]:
    """One evaluation of a whole network in float32, in this process; `case` is PRESET:SIDE."""
    preset, _, side = case.partition(":")
    network = random_network(preset_shape(preset, 0, stem=True))
    inputs = make_inputs(network.config, int(side), tokens)
    before = memory_mib("VmRSS")
    start = time.perf_counter()
    out = network(*inputs)
    return {
        "preset": preset,
        "side": int(side),
        "dtype": "fp32",
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": time.perf_counter() - start,
        "resident_before_mib": before,
        "peak_resident_mib": memory_mib("VmHWM"),
        "finite": bool(torch.isfinite(out).all()),
    }


def spawn_real(options: argparse.Namespace) -> dict[str, Any] | None:
    """`run_real` in a process of its own, whose peak is then its own too."""
    if not options.real:
        return None
    preset, _, side = options.real.partition(":")
    get_preset(preset)
    parse_numbers(side, "--real", 32, 32768)
    command = [sys.executable, str(Path(__file__).resolve()), "--case", options.real, "--tokens", str(options.tokens)]
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"preset": preset, "side": int(side), "error": f"ended with {done.returncode}; -9 is out of memory"}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, in GiB."""
    header = ("network", "side", "dtype", "row chunks", "activations", "of one", "none", "expert", "sequential")
    lines = []
    for row in rows:
        chunks = str(row["row_chunks"]) if row["row_chunks"] else "plain"
        gib = [number(row[key] / 1024, 2) for key in ("peak_none_mib", "peak_expert_mib", "peak_sequential_mib")]
        middle = (number(row["activations_mib"] / 1024, 3), number(row["of_unchunked"], 2))
        lines.append((row["preset"], str(row["side"]), row["dtype"], chunks, *middle, *gib))
    return markdown_table(header, lines)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    set_threads(options.threads)
    if options.case is not None:
        print(json.dumps(run_real(options.case, options.tokens)))
        return 0
    presets, sizes = options.presets.split(","), parse_numbers(options.sizes, "--sizes", 32, 32768)
    facts = run_facts("memory", arguments, "cpu")
    rows = []
    for preset in presets:
        for side in sizes:
            for dtype in parse_dtypes(options.dtype):
                rows += count_rows(options, preset, side, dtype)
                print(f"{preset}, {side} px, {dtype}: counted", file=sys.stderr)
    payload = {
        **facts,
        "protocol": PROTOCOL,
        "limits": {"of_unchunked_at_4096_in_16": LIMIT, "ratio_4096_over_1024": TIME_LIMIT},
        "experts": options.experts,
        "text_tokens": options.tokens,
        "rows": rows,
        "time": time_sizes(options) if options.time_depth > 0 else None,
        "real": spawn_real(options),
    }
    others = {name: payload[name] for name in ("time", "real")}
    finish(options.output, "memory", payload, table(rows), json.dumps(others, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
