"""Boundaries in log-SNR, which expert serves which time, and when its weights load."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linearsr.errors import ConfigError, WeightsError
from linearsr.flow import log_snr
from linearsr.model.experts import PAPER_BOUNDARIES, ExpertBank, bisect_log_snr, expert_index

PAPER = tuple(float(log_snr(t)) for t in PAPER_BOUNDARIES)


class Loader:
    """Counts loads; a linear layer stands for a network."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, index: int) -> nn.Module:
        self.calls.append(index)
        return nn.Linear(1, 1).train()


def test_bisect_log_snr_reproduces_the_published_boundaries() -> None:
    assert bisect_log_snr() == pytest.approx((0.223, 0.875, 0.939), abs=5e-4)
    assert PAPER_BOUNDARIES == (0.223, 0.875, 0.939)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_bisect_log_snr_halves_every_interval(depth: int) -> None:
    times = bisect_log_snr(0.02, 0.97, None, depth)
    levels = [float(log_snr(t)) for t in (0.02, *times, 0.97)]
    assert len(times) == 2**depth - 1
    steps = [a - b for a, b in zip(levels, levels[1:], strict=False)]
    assert steps == pytest.approx([(levels[0] - levels[-1]) / 2**depth] * 2**depth, abs=1e-9)


def test_bisect_log_snr_cuts_at_the_anchor_first() -> None:
    assert bisect_log_snr(depth=1) == pytest.approx((0.875,), abs=1e-12)
    low, anchor, high = bisect_log_snr(0.1, 0.9, 0.3, 2)
    assert anchor == pytest.approx(0.3, abs=1e-12)
    assert float(log_snr(low)) == pytest.approx((float(log_snr(0.1)) + float(log_snr(0.3))) / 2, abs=1e-9)
    assert float(log_snr(high)) == pytest.approx((float(log_snr(0.9)) + float(log_snr(0.3))) / 2, abs=1e-9)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 0.9, 0.5, 2),
        (0.1, 1.0, 0.5, 2),
        (0.5, 0.4, None, 2),
        (0.1, 0.9, 0.95, 2),
        (0.1, 0.9, 0.1, 2),
        (0.1, 0.9, 0.5, -1),
    ],
)
def test_bisect_log_snr_refuses_ends_out_of_order(arguments: tuple) -> None:
    with pytest.raises(ConfigError, match="t_min < anchor < t_max"):
        bisect_log_snr(*arguments)


@pytest.mark.parametrize(
    ("t", "expert"),
    [(1e-9, 0), (0.01, 0), (0.222999, 0), (0.223, 1), (0.223001, 1), (0.5, 1), (0.874999, 1), (0.875, 2)]
    + [(0.875001, 2), (0.9, 2), (0.938999, 2), (0.939, 3), (0.939001, 3), (0.99, 3), (1.0, 3)],
)
def test_expert_index_gives_a_boundary_to_the_noisier_side(t: float, expert: int) -> None:
    assert expert_index(t, PAPER) == expert


@given(st.floats(1e-6, 1.0))
def test_expert_index_counts_the_boundaries_at_or_below_t(t: float) -> None:
    if min(abs(t - boundary) for boundary in PAPER_BOUNDARIES) > 1e-12:
        assert expert_index(t, PAPER) == sum(t > boundary for boundary in PAPER_BOUNDARIES)


@pytest.mark.parametrize("boundaries", [(), (0.0,), PAPER])
def test_expert_bank_holds_one_two_or_four_experts(boundaries: tuple[float, ...]) -> None:
    load = Loader()
    bank = ExpertBank(boundaries, load)
    assert bank.num_experts == len(boundaries) + 1
    for t in (1.0, 0.9, 0.5, 0.1):
        bank.at(t)
    assert sorted(load.calls) == list(range(bank.num_experts))


def test_expert_bank_loads_an_expert_at_its_first_step_and_once() -> None:
    load = Loader()
    bank = ExpertBank(PAPER, load)
    assert load.calls == []
    first = bank.at(1.0)
    assert load.calls == [3]
    assert bank.at(0.95) is first
    assert load.calls == [3], "a one-step run needs one file"
    bank.at(0.5)
    bank.at(0.99)
    assert load.calls == [3, 1]
    assert bank.loaded == (1, 3)


def test_expert_bank_keeps_at_most_that_many_and_drops_the_least_recently_used() -> None:
    load = Loader()
    bank = ExpertBank(PAPER, load, keep=2)
    for t in (1.0, 0.9, 1.0, 0.5):
        bank.at(t)
    assert bank.loaded == (3, 1)
    bank.at(0.9)
    assert load.calls == [3, 2, 1, 2]
    one = ExpertBank(PAPER, Loader(), keep=0)
    one.at(1.0)
    one.at(0.1)
    assert one.loaded == (0,)


def test_expert_bank_makes_room_before_it_loads() -> None:
    held: list[tuple[int, ...]] = []
    bank = ExpertBank(PAPER, lambda index: held.append(bank.loaded) or nn.Linear(1, 1), keep=1)
    bank.at(1.0)
    bank.at(0.1)
    assert held == [(), ()]


def test_expert_bank_gives_networks_ready_for_inference() -> None:
    network = ExpertBank((), Loader()).at(0.3)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_used_by_names_the_expert_of_each_step_and_leaves_the_end_out() -> None:
    assert ExpertBank(PAPER, Loader()).used_by(torch.tensor([1.0, 0.9, 0.65, 0.22, 0.0])) == [3, 2, 1, 0]
    assert math.isclose(PAPER[0], 2.4965, abs_tol=1e-4)


def test_the_next_expert_is_loaded_while_the_one_at_hand_computes() -> None:
    load, placed = Loader(), []
    bank = ExpertBank(PAPER, load, keep=1, place=lambda network: placed.append(bank.loaded) or network, ahead=True)
    grid = torch.tensor([1.0, 0.9, 0.65, 0.22, 0.0])
    bank.expect(grid)
    for t, known in ((1.0, [3, 2]), (0.9, [3, 2, 1]), (0.65, [3, 2, 1, 0]), (0.22, [3, 2, 1, 0])):
        bank.at(t)
        bank.at(t)
        if bank._next is not None:
            bank._next[1].result(timeout=10)
        assert load.calls == known
        assert bank.loaded == (bank.index(t),), "one at a time in place"
    assert placed == [(), (), (), ()], "room is made before the next one is placed"


def test_a_network_loaded_ahead_in_vain_is_not_used() -> None:
    load = Loader()
    bank = ExpertBank(PAPER, load, keep=1, ahead=True)
    bank.expect(torch.tensor([1.0, 0.9, 0.0]))
    bank.at(1.0)
    bank._next[1].result(timeout=10)
    bank.at(0.1)
    assert load.calls == [3, 2, 0] and bank.loaded == (0,)


def test_an_error_while_loading_ahead_comes_up_where_the_expert_is_needed() -> None:
    def load(index: int) -> nn.Module:
        if index == 2:
            raise WeightsError("expert-2.safetensors is missing")
        return nn.Linear(1, 1)

    bank = ExpertBank(PAPER, load, keep=1, ahead=True)
    bank.expect(torch.tensor([1.0, 0.9, 0.0]))
    bank.at(1.0)
    with pytest.raises(WeightsError, match="expert-2"):
        bank.at(0.9)


def test_an_expert_bank_that_is_cleared_holds_no_network() -> None:
    bank = ExpertBank(PAPER, Loader())
    seen = weakref.ref(bank.at(1.0))
    bank.clear()
    gc.collect()
    assert seen() is None and bank.loaded == ()
