"""Exponential moving average of weights, float32, beside the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from linearsr_train.shards import copy_full_

__all__ = ["Ema"]


class Ema:
    """Shadow weights: shadow = d shadow + (1 - d) weight, with d rising from 0 so that the start is not remembered.

    Args:
        model: whose parameters are averaged, without the wrapper of DDP; shards stay sharded. Buffers are copied.
        decay: final fraction kept per step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.state_dict().items():
            self.shadow[name].lerp_(value.float(), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything needed to go on."""
        return {"updates": self.updates, **{f"shadow.{name}": value for name, value in self.shadow.items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Take up a saved average of whole tensors, at any number of processes."""
        self.updates = int(state["updates"])
        for name in self.shadow:
            value = state[f"shadow.{name}"]
            assert isinstance(value, Tensor), f"EMA entry {name} is no tensor"
            copy_full_(self.shadow[name], value)
