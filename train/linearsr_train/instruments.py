"""Health of the linear attention, measured while a network runs: the signals that precede its collapse.

The output of linear attention does not change when a query is scaled, so its gradient grows as the query shrinks. As
ReLU features get sparse late in training, denominators fall, queries die and the output loses rank. Everything is read
by hooks from what the layers compute anyway; the network's results stay the same to the bit.

Letters: B batch, N tokens, h heads, d head width, D = h * d.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from linearsr.device import autocast
from linearsr.errors import TrainingError
from linearsr.model.attention import LinearAttention

__all__ = ["attention_health", "effective_rank"]

ROWS = 65_536
"""Tokens turned to float64 at a time."""
_COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min_denominator": torch.minimum,
    "max_activation": torch.maximum,
    "dead": torch.add,
    "unmatched": torch.add,
    "queries": torch.add,
    "moment": torch.add,
}
"""How a measure of one more forward pass joins those before; all of them spread a NaN."""


def effective_rank(moment: Tensor) -> float:
    """Effective rank of features from the sum of their outer products: exp of the entropy of the normalised spectrum.

    The spectrum is that of the squared singular values of the (tokens, D) feature matrix, which are the eigenvalues of
    `moment`. The source normalises the singular values themselves; squared they are shares of energy, on which the
    rounding of bfloat16 features leaves no mark. Features are not centred: where all tokens collapse onto one common
    vector the result is 1, which centring would hide.

    Args:
        moment: (D, D) float64, X^T X.

    Returns:
        From 1 (all features along one direction) to D (alike in all); 0 if all features are zero, NaN if one is not
        finite.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, definition 1.
    """
    if not bool(torch.isfinite(moment).all()):
        return math.nan
    energy = torch.linalg.eigvalsh(moment).clamp_min(0.0)  # (D,); rounding makes zeros slightly negative
    total = energy.sum()
    if float(total) == 0.0:
        return 0.0
    return math.exp(float(torch.special.entr(energy / total).sum()))


def _moment(features: Tensor) -> Tensor:
    """Sum of the outer products of all tokens, (B, N, D) -> (D, D) float64."""
    rows = features.flatten(0, -2)  # (B * N, D)
    device = torch.device("cpu") if rows.device.type == "mps" else rows.device  # MPS has no float64
    total = torch.zeros(rows.shape[-1], rows.shape[-1], dtype=torch.float64, device=device)
    for part in rows.split(ROWS):
        part = part.to(device).double()
        total += part.T @ part
    return total


class _Probe:
    """What one attention layer has shown so far. Tensors stay on the device, so that nothing waits for it."""

    def __init__(self, attention: LinearAttention) -> None:
        self._attention = attention
        self._seen: dict[str, Tensor] = {}
        self.found: dict[str, Tensor] = {}

    def attach(self) -> list[RemovableHandle]:
        """Hook the layer and the parts whose outputs enter its core."""
        attention = self._attention
        q, k = (attention.norm_q, attention.norm_k) if attention.qk_norm else (attention.to_q, attention.to_k)
        return [
            q.register_forward_hook(self._keep("q")),
            k.register_forward_hook(self._keep("k")),
            attention.to_v.register_forward_hook(self._keep("v")),
            attention.to_out[0].register_forward_hook(self._keep_core),
            attention.register_forward_hook(self._finish),
        ]

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self._seen[name] = out.detach()

        return hook

    def _keep_core(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self._seen["core"], self._seen["out"] = args[0].detach(), out.detach()

    def _finish(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        with torch.no_grad(), autocast(out.device.type, None):
            found = self._measure()
        self._seen.clear()
        self.found = (
            {name: _COMBINE[name](self.found[name], new) for name, new in found.items()} if self.found else found
        )

    def _measure(self) -> dict[str, Tensor]:
        split = (-1, self._attention.head_dim)
        q = F.relu(self._seen["q"].float()).unflatten(-1, split)  # (B, N, h, d)
        k = F.relu(self._seen["k"].float()).unflatten(-1, split)  # (B, N, h, d)
        live = (q != 0.0).any(dim=-1)  # (B, N, h)
        denominator = torch.einsum("bnhd,bhd->bnh", q, k.sum(dim=1))  # (B, N, h)
        largest = [self._seen[name].abs().amax().float() for name in ("q", "k", "v", "out")]
        return {
            "min_denominator": torch.where(denominator == 0.0, math.inf, denominator).amin(),
            "max_activation": torch.stack(largest).amax(),
            "dead": (~live).sum(),
            "unmatched": (live & (denominator == 0.0)).sum(),
            "queries": torch.tensor(live.numel(), device=live.device),
            "moment": _moment(self._seen["core"]),
        }


def attention_health(network: nn.Module, run: Callable[[], object]) -> dict[str, float]:
    """Measure every linear attention of a network while `run` uses it.

    Args:
        network: may be wrapped for training, but not compiled: compiled code skips hooks.
        run: makes the network compute, for example a validation; any number of forward passes, in any precision.

    Returns:
        For the layer i, in the order of the network, the keys `attn/i/NAME`, and `attn/NAME` for all layers. A layer
        that did not run is left out. The names:

        - `min_denominator`: smallest sum of attention weights that is above zero, before `eps` is added; infinite where
          there is none. It grows with the number of tokens, so compare it on pictures of one size. A sum of exactly
          zero gives exactly zero output and gradient, so it is counted below instead. Overall the smallest.
        - `dead_queries`: share in [0, 1] of queries, counted by token and head, whose features are all zero after ReLU.
        - `unmatched_queries`: share of queries that are not dead, but share no feature with any key. Flat pictures have
          some: of plain blue water, a head of a sound network may leave all tokens unmatched.
        - `effective_rank`: of the core's output, all heads side by side, before the output projection, over all tokens
          of all passes; see `effective_rank`. Overall the mean of the layers.
        - `max_activation`: largest absolute value of q, k, v and the layer's output. Overall the largest.

        A NaN in the network is a NaN here.

    Raises:
        TrainingError: `run` used none of the layers.
    """
    probes = [_Probe(module) for module in network.modules() if isinstance(module, LinearAttention)]
    with ExitStack() as stack:
        for probe in probes:
            for handle in probe.attach():
                stack.callback(handle.remove)
        run()
    if probes and not any(probe.found for probe in probes):
        raise TrainingError(
            f"none of the {len(probes)} attention layers ran while they were measured",
            hint="measure the network that is evaluated, and not a compiled one",
        )
    return _summary({index: probe.found for index, probe in enumerate(probes) if probe.found})


def _summary(layers: dict[int, dict[str, Tensor]]) -> dict[str, float]:
    """Numbers by layer and over all, from what the probes have found."""
    values: dict[str, float] = {}
    for index, found in layers.items():
        values[f"attn/{index}/min_denominator"] = float(found["min_denominator"])
        for name in ("dead", "unmatched"):
            values[f"attn/{index}/{name}_queries"] = float(found[name]) / float(found["queries"])
        values[f"attn/{index}/effective_rank"] = effective_rank(found["moment"])
        values[f"attn/{index}/max_activation"] = float(found["max_activation"])
    if not layers:
        return values

    def every(name: str) -> list[float]:
        return [values[f"attn/{index}/{name}"] for index in layers]

    queries = sum(float(found["queries"]) for found in layers.values())
    # torch, since Python's min and max lose a NaN that is not the first value.
    values["attn/min_denominator"] = float(torch.tensor(every("min_denominator")).amin())
    for name in ("dead", "unmatched"):
        values[f"attn/{name}_queries"] = sum(float(found[name]) for found in layers.values()) / queries
    values["attn/effective_rank"] = statistics.fmean(every("effective_rank"))
    values["attn/max_activation"] = float(torch.tensor(every("max_activation")).amax())
    return values
