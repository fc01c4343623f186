"""SNR experts: which network serves which noise level, and when its weights are loaded.

Expert 0 has the highest SNR (least noise). A step's expert depends on its time alone, so exactly one network runs at
any step: capacity times E, cost times one. Memory is that of the networks kept, by default all of up to four.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from linearsr.errors import ConfigError
from linearsr.flow import log_snr, t_from_log_snr
from linearsr.model.transformer import LinearDiT

__all__ = ["PAPER_BOUNDARIES", "PAPER_T_MAX", "PAPER_T_MIN", "ExpertBank", "bisect_log_snr", "expert_index"]

PAPER_BOUNDARIES = (0.223, 0.875, 0.939)
"""The published boundaries in t: detail polishing, texture generation, structural refinement, structural generation."""
PAPER_T_MIN, PAPER_T_MAX, PAPER_ANCHOR = 0.01163, 0.97131, 0.875
"""The ends that reproduce the published triple; fitted to it, as the paper does not state them."""


def bisect_log_snr(
    t_min: float = PAPER_T_MIN, t_max: float = PAPER_T_MAX, anchor: float | None = PAPER_ANCHOR, depth: int = 2
) -> tuple[float, ...]:
    """Cut [t_min, t_max] into 2^depth intervals by hierarchical bisection in log-SNR.

    The anchor (or the middle) cuts the whole range, then each part is halved again.

    Returns:
        2^depth - 1 rising times.

    Raises:
        ConfigError: not 0 < t_min < anchor < t_max < 1, or depth below 0.

    Source: LinearSR, arXiv:2510.08771, SNR-based mixture of experts. The defaults give 0.223, 0.875, 0.939.
    """
    if not 0.0 < t_min < t_max < 1.0 or depth < 0 or (anchor is not None and not t_min < anchor < t_max):
        raise ConfigError(f"t_min {t_min}, anchor {anchor}, t_max {t_max}: expected 0 < t_min < anchor < t_max < 1")
    low, high = float(log_snr(t_max)), float(log_snr(t_min))
    middle = (low + high) / 2 if anchor is None else float(log_snr(anchor))

    def cut(a: float, b: float, at: float, left: int) -> list[float]:
        if left == 0:
            return []
        return [*cut(a, at, (a + at) / 2, left - 1), at, *cut(at, b, (at + b) / 2, left - 1)]

    return tuple(sorted(float(t_from_log_snr(value)) for value in cut(low, high, middle, depth)))


def expert_index(t: float, boundaries_log_snr: tuple[float, ...]) -> int:
    """Index of the expert that serves time t; a boundary itself belongs to the noisier side."""
    rising = [-value for value in boundaries_log_snr]
    return bisect_right(rising, -float(log_snr(t)))


class ExpertBank:
    """Routes a time to its network, loading each at its first use and keeping the last `keep` of them.

    Args:
        boundaries_log_snr: E - 1 falling values; empty for a single network.
        load: gives the network of an expert.
        keep: how many networks stay placed; the least recently used goes first, before its successor is placed.
        place: puts a loaded network where it computes; by default `load` has done so.
        ahead: load the next expert of `expect` in a thread while the one at hand computes.
    """

    def __init__(
        self,
        boundaries_log_snr: tuple[float, ...],
        load: Callable[[int], LinearDiT],
        *,
        keep: int = 4,
        place: Callable[[LinearDiT], LinearDiT] = lambda network: network,
        ahead: bool = False,
    ) -> None:
        self.boundaries_log_snr = boundaries_log_snr
        self.row_chunks = 1
        """Given to each network as it is used, see `LinearDiT.row_chunks`."""
        self._load, self._place = load, place
        self._keep = max(1, keep)
        self._loaded: dict[int, LinearDiT] = {}
        self._order: list[int] = []
        self._threads = ThreadPoolExecutor(1, "linearsr-expert") if ahead else None
        self._next: tuple[int, Future[LinearDiT]] | None = None

    @property
    def num_experts(self) -> int:
        """Number of networks, loaded or not."""
        return len(self.boundaries_log_snr) + 1

    @property
    def loaded(self) -> tuple[int, ...]:
        """Experts in place, least recently used first."""
        return tuple(self._loaded)

    def index(self, t: float) -> int:
        """Expert that serves time t."""
        return expert_index(t, self.boundaries_log_snr)

    def at(self, t: float) -> LinearDiT:
        """Network that serves time t, loaded if need be."""
        index = self.index(t)
        network = self._loaded.pop(index, None)
        if network is None:
            while len(self._loaded) >= self._keep:
                self._loaded.pop(next(iter(self._loaded)))
            network = self._place(self._take(index)).eval().requires_grad_(False)
        self._loaded[index] = network
        self._look_ahead(index)
        network.row_chunks = self.row_chunks
        return network

    def used_by(self, ts: torch.Tensor) -> list[int]:
        """Experts of each step of a time grid, in order; the end of the grid is not evaluated."""
        return [self.index(float(t)) for t in ts[:-1]]

    def expect(self, ts: torch.Tensor) -> None:
        """Announce a time grid, so that experts can be loaded before their first step."""
        self._order = list(dict.fromkeys(self.used_by(ts)))

    def clear(self) -> None:
        """Let go of every network; each loads again when it is needed."""
        self._loaded.clear()
        ahead, self._next = self._next, None
        if ahead is not None:
            ahead[1].cancel()  # one that is under way ends by itself and is dropped

    def _take(self, index: int) -> LinearDiT:
        """A loaded network that is not in place yet: the one loaded ahead, or one loaded now."""
        ahead, self._next = self._next, None
        return ahead[1].result() if ahead is not None and ahead[0] == index else self._load(index)

    def _look_ahead(self, index: int) -> None:
        if self._threads is None or self._next is not None or index not in self._order:
            return
        for later in self._order[self._order.index(index) + 1 :][:1]:
            if later not in self._loaded:
                self._next = (later, self._threads.submit(self._load, later))
