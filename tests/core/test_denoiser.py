"""From networks to velocities: guidance, preconditioning and the rule at t = 1, with networks that are formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from linearsr.config import FlowConfig
from linearsr.denoiser import velocity_fn
from linearsr.flow import precondition
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.experts import ExpertBank

X0, V = FlowConfig(prediction="x0"), FlowConfig(prediction="v")


class Formula(nn.Module):
    """A network given by a function; keeps the states and times it was asked for."""

    def __init__(self, function: Callable[[Tensor, Tensor, Conditioning], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.states: list[Tensor] = []
        self.times: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.states.append(x_t)
        self.times.append(t)
        return self.function(x_t, t, cond)


def _cond(batch: int = 2) -> Conditioning:
    tags, mask = pad_tag_ids([[3]] * batch)
    return Conditioning(lr=torch.rand(batch, 3, 2, 2), tags=tags, tag_mask=mask)


def _bank(network: nn.Module) -> ExpertBank:
    return ExpertBank((), lambda _: network)


def test_the_state_at_t_one_is_fed_as_zeros_for_x0_prediction_only() -> None:
    ones = torch.ones(2, 3, 2, 2)
    for flow, t, fed in ((X0, 1.0, torch.zeros_like(ones)), (V, 1.0, ones), (X0, 0.999, ones)):
        network = Formula(lambda x, t, cond: x)
        velocity_fn(_bank(network), flow, _cond())(ones, t)
        assert torch.equal(network.states[0], fed), (flow.prediction, t)


def test_one_step_from_t_one_depends_on_no_noise() -> None:
    v_fn = velocity_fn(_bank(Formula(lambda x, t, cond: x + 0.25)), X0, _cond())
    noise = torch.randn(2, 3, 2, 2)
    assert torch.allclose(noise - v_fn(noise, 1.0), torch.full((2, 3, 2, 2), 0.25), atol=1e-6)


def test_the_network_gets_the_time_in_float32_once_for_the_batch() -> None:
    network = Formula(lambda x, t, cond: x)
    velocity_fn(_bank(network), X0, _cond(), autocast_dtype=torch.bfloat16)(torch.ones(2, 3, 2, 2), 0.9985)
    assert network.times[0].dtype == torch.float32
    assert network.times[0].tolist() == pytest.approx([0.9985], abs=1e-7)


def test_velocity_of_x0_prediction_is_the_difference_over_t() -> None:
    network = Formula(lambda x, t, cond: 0.25 * x)
    v = velocity_fn(_bank(network), X0, _cond())(torch.full((2, 3, 2, 2), 2.0), 0.5)
    assert torch.equal(v, torch.full((2, 3, 2, 2), (2.0 - 0.5) / 0.5))


def test_velocity_of_v_prediction_is_the_networks_own() -> None:
    network = Formula(lambda x, t, cond: 3 * x)
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(velocity_fn(_bank(network), V, _cond())(x, 0.5), 3 * x)


@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
def test_preconditioned_network_gives_x0_from_its_three_factors(t: float) -> None:
    flow = FlowConfig(prediction="x0", preconditioned=True)
    network = Formula(lambda x, t, cond: 10 + x)
    x = torch.rand(2, 3, 2, 2)
    state = torch.zeros_like(x) if t == 1.0 else x
    c_in, c_skip, c_out = (float(c) for c in precondition(torch.tensor(t)))
    expected = c_skip * state + c_out * (10 + c_in * state)
    v = velocity_fn(_bank(network), flow, _cond())(x, t)
    assert torch.allclose(x - t * v, expected, atol=1e-5)
    assert torch.allclose(network.states[0], c_in * state, atol=1e-6)


def test_state_gate_takes_off_part_of_the_passed_on_state() -> None:
    flow = FlowConfig(prediction="x0", preconditioned=True)
    network = Formula(lambda x, t, cond: torch.cat([torch.full_like(x, 2.0), torch.full_like(x, 0.25)], dim=1))
    x, t = torch.rand(2, 3, 2, 2), 0.4
    _, c_skip, c_out = (float(c) for c in precondition(torch.tensor(t)))
    x0_hat = x - t * velocity_fn(_bank(network), flow, _cond())(x, t)
    assert torch.allclose(x0_hat, c_skip * 0.75 * x + c_out * 2.0, atol=1e-6)


def _tagged(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """1 with tags, 0.4 without."""
    return torch.full_like(x, 1.0 if int(cond.tag_mask.sum(1).max()) > 1 else 0.4)


@pytest.mark.parametrize(("scale", "expected", "calls"), [(1.0, 1.0, 1), (0.0, 0.4, 2), (2.0, 1.6, 2), (0.5, 0.7, 2)])
def test_guidance_extrapolates_from_the_null_tags(scale: float, expected: float, calls: int) -> None:
    network = Formula(_tagged)
    v = velocity_fn(_bank(network), V, _cond(), cfg_scale=scale)(torch.zeros(2, 3, 2, 2), 0.5)
    assert torch.allclose(v, torch.full((2, 3, 2, 2), expected))
    assert len(network.states) == calls


def test_guidance_may_differ_by_expert() -> None:
    networks = [Formula(_tagged) for _ in range(3)]
    bank = ExpertBank((2.0, -2.0), networks.__getitem__)
    v_fn = velocity_fn(bank, V, _cond(), cfg_scale=(1.0, 2.0, 0.5))
    x = torch.zeros(2, 3, 2, 2)
    assert [float(v_fn(x, t).max()) for t in (0.1, 0.5, 0.9)] == pytest.approx([1.0, 1.6, 0.7])
    assert [len(network.states) for network in networks] == [1, 2, 2]


def test_guidance_leads_away_from_the_null_tags_that_are_given() -> None:
    cond = replace(_cond(), null_tags=torch.zeros(2, 2, dtype=torch.int64), null_mask=torch.ones(2, 2).bool())
    v = velocity_fn(_bank(Formula(_tagged)), V, cond, cfg_scale=3.0)(torch.zeros(2, 3, 2, 2), 0.5)
    assert torch.equal(v, torch.ones(2, 3, 2, 2)), "null tags of two tokens count as tags here"


def test_velocity_asks_the_expert_of_the_time() -> None:
    networks = [Formula(lambda x, t, cond, index=index: torch.full_like(x, index)) for index in range(3)]
    v_fn = velocity_fn(ExpertBank((2.0, -2.0), networks.__getitem__), V, _cond())
    x = torch.zeros(2, 3, 2, 2)
    assert [float(v_fn(x, t).max()) for t in (0.1, 0.5, 0.9)] == [0.0, 1.0, 2.0]
