"""What a model's result costs: evaluations, parameters and operations, counted and not assumed."""

from __future__ import annotations

from typing import Any

import torch
from _common import TensorUpscaler, Tile
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from linearsr.errors import ConfigError
from linearsr.metrics import quantise
from linearsr.model.transformer import LinearDiT
from linearsr.resize import resize

__all__ = ["model_cost", "num_evaluations", "sample_picture"]


def _forward_calls(upscaler: TensorUpscaler, side: int, steps: int, tile: Tile) -> list[LinearDiT]:
    """Every network evaluation of one upscaling of a `side` x `side` result, in order."""
    calls: list[LinearDiT] = []

    def note(module: torch.nn.Module, _inputs: object, _output: object) -> None:
        if isinstance(module, LinearDiT):
            calls.append(module)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        upscaler.upscale_tensor(sample_picture(side // 4), size=(side, side), steps=steps, seed=0, tags=(), tile=tile)
    finally:
        hook.remove()
    return calls


def num_evaluations(upscaler: TensorUpscaler, steps: int) -> int:
    """Network evaluations that `steps` cost on a picture of one tile, counted and not assumed."""
    return len(_forward_calls(upscaler, 64, steps, "off"))


def model_cost(upscaler: TensorUpscaler, side: int = 1024) -> dict[str, Any]:
    """Parameters of one network, and operations of one evaluation for each output megapixel.

    Operations are matrix products and convolutions only, a multiplication and an addition counting as two, over the
    whole way from input to result, on a whole `side` x `side` result at one step.
    """
    with FlopCounterMode(display=False) as counter:
        calls = _forward_calls(upscaler, side, 1, "off")
    if not calls:
        raise ConfigError("the model made no network evaluation, expected at least one", hint="give --model none")
    return {
        "parameters_active": sum(p.numel() for p in calls[0].parameters()),
        "flops_per_output_megapixel_and_evaluation": counter.get_total_flops() / len(calls) / (side * side / 1e6),
        "flops_counted": f"matrix products and convolutions, 2 per multiply-add, at {side}x{side}, x4, one step",
    }


def sample_picture(side: int) -> Tensor:
    """A made-up input, (3, side, side) on the 8-bit grid: smooth shapes and grain, the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, max(side // 16, 2), max(side // 16, 2), generator=generator)
    return quantise(resize(coarse, (side, side)) + 0.03 * torch.randn(3, side, side, generator=generator))
