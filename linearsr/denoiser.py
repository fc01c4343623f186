"""From networks to the velocity that a sampler integrates; the same function in validation and for users."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from linearsr.config import FlowConfig
from linearsr.device import autocast
from linearsr.flow import precondition, v_from_x0
from linearsr.model.conditioning import Conditioning
from linearsr.model.experts import ExpertBank
from linearsr.samplers import VelocityFn

__all__ = ["apply_network", "velocity_fn"]


def apply_network(network: nn.Module, flow: FlowConfig, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """x0_hat or v_hat of a network, preconditioned if the flow says so; shared by training and sampling.

    A network with a state gate also says where the data have less than unit variance, so that less of the noisy state
    should pass: in flat places the clean latent is zero, and without the gate all the noise there would have to travel
    through the network to be subtracted again.

    Args:
        network: a `LinearDiT`, possibly wrapped for training.
        flow: what it predicts.
        x_t: (B, C, H, W) float32 state.
        t: (B,) or (1,).
        cond: condition of the batch.
    """
    if not flow.preconditioned:
        return network(x_t, t, cond)
    c_in, c_skip, c_out = (c.view(-1, 1, 1, 1) for c in precondition(t))
    out = network(c_in * x_t, t, cond)
    if out.shape[1] == x_t.shape[1]:
        return c_skip * x_t + c_out * out
    out, gate = out.chunk(2, dim=1)
    return c_skip * (1.0 - gate) * x_t + c_out * out


def velocity_fn(
    bank: ExpertBank,
    flow: FlowConfig,
    cond: Conditioning,
    *,
    cfg_scale: float | Sequence[float] = 1.0,
    autocast_dtype: torch.dtype | None = None,
) -> VelocityFn:
    """Velocity of the guided model as a function of state and time.

    Args:
        bank: the experts.
        flow: what they predict.
        cond: condition of the batch.
        cfg_scale: weight w in null + w (tags - null), applied to the prediction; 1 runs the network once a step. One
            for all times, or one for each expert.
        autocast_dtype: precision of the dense layers; None is float32.
    """

    def v_fn(x: Tensor, t: float) -> Tensor:
        # With x0 prediction the state at t = 1 is pure noise and tells nothing of the picture. It is fed as zeros, as
        # in training, so that a one-step result depends on neither seed nor noise.
        state = torch.zeros_like(x) if flow.prediction == "x0" and t >= 1.0 else x
        time = torch.tensor([t], dtype=torch.float32, device=x.device)
        scale = cfg_scale if isinstance(cfg_scale, float | int) else cfg_scale[bank.index(t)]
        with autocast(x.device.type, autocast_dtype):
            out = apply_network(bank.at(t), flow, state, time, cond)
            if scale != 1.0:
                null = apply_network(bank.at(t), flow, state, time, cond.without_tags())
                out = null + scale * (out - null)
        return out if flow.prediction == "v" else v_from_x0(x, out, time.expand(x.shape[0]))

    return v_fn
