"""The training side of a LoRA: additions inside a network, and their names in its state dict.

A LoRA stands for delta W = alpha / rank * up @ down beside a frozen weight. It is a parametrization of `.weight`,
because some layers read their weight tensor rather than call the module; the state dict then has

    MODULE.parametrizations.weight.original        the frozen weight
    MODULE.parametrizations.weight.0.lora_down     (rank, fan_in)
    MODULE.parametrizations.weight.0.lora_up       (out, rank)

in place of MODULE.weight. Averages and whole-state checkpoints hold these names; all else works on plain ones, which
`base_state_dict`, `merged_state_dict` and `lora_state_dict` give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from linearsr.device import autocast
from linearsr.errors import ConfigError
from linearsr.state_dicts import some

__all__ = [
    "DEFAULT_TARGETS",
    "add_lora",
    "base_state_dict",
    "check_rank",
    "lora_state_dict",
    "merged_state_dict",
    "weight_delta",
]

DEFAULT_TARGETS = ("*blocks.*", "patch_embed.proj", "*_out")
"""All of the trunk, the convolutional stem and head, and the ways in and out; not the embeddings of time and tags."""
_PARAMETRIZED = ".parametrizations.weight."


def check_rank(rank: int, alpha: float) -> None:
    """Refuse a rank or scale that means nothing.

    Raises:
        ConfigError: rank below 1, or alpha not above 0.
    """
    if rank < 1:
        raise ConfigError(f"LoRA rank is {rank}, expected at least 1")
    if not 0.0 < alpha < math.inf:
        raise ConfigError(f"LoRA alpha is {alpha:g}, expected a number above 0", hint="use the rank")


def weight_delta(up: Tensor, down: Tensor, factor: float, shape: torch.Size) -> Tensor:
    """Factor * up @ down, (out, rank) @ (rank, fan_in), in the shape of the weight."""
    return (factor * (up @ down)).view(shape)


class LowRank(nn.Module):
    """weight + factor * up @ down, for `torch.nn.utils.parametrize`. `up` starts at zero, so nothing changes at first.

    Args:
        weight: (out, ...) that it is put on.
        rank: of the addition.
        factor: alpha / rank.
    """

    def __init__(self, weight: Tensor, rank: int, factor: float) -> None:
        super().__init__()
        out, fan_in = weight.shape[0], weight[0].numel()
        self.factor = factor
        self.lora_down = nn.Parameter(torch.empty(rank, fan_in, dtype=torch.float32, device=weight.device))
        self.lora_up = nn.Parameter(torch.zeros(out, rank, dtype=torch.float32, device=weight.device))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer uses; the addition is formed in float32 under autocast too."""
        with autocast(weight.device.type, None):
            return weight + weight_delta(self.lora_up, self.lora_down, self.factor, weight.shape)


def add_lora(network: nn.Module, rank: int, alpha: float, targets: tuple[str, ...] = DEFAULT_TARGETS) -> list[str]:
    """Put a LoRA on linear layers and convolutions, in place; afterwards nothing else is trained.

    Args:
        network: a `LinearDiT`, not yet wrapped for distributed training.
        rank: inner width, at least 1.
        alpha: scale; the addition is alpha / rank * up @ down.
        targets: patterns of module names, as `fnmatch`. Depth-wise convolutions are left out: of so few numbers
            an addition would hold more.

    Returns:
        Names of the modules, in the network's order.

    Raises:
        ConfigError: rank or alpha out of range, a pattern that no layer has, or a network that has a LoRA already.

    Source: Hu et al., arXiv:2106.09685, section 4.1.
    """
    check_rank(rank, alpha)
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    if any(parametrize.is_parametrized(module, "weight") for module in layers.values()):
        raise ConfigError("the network has a LoRA already, expected one without", hint="merge it first")
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(
                f"LoRA target {pattern!r} matches no layer, expected a pattern such as {DEFAULT_TARGETS[0]!r}",
                hint=f"layers are named like {some(sorted(layers))}",
            )
    names = [name for name in layers if any(fnmatchcase(name, pattern) for pattern in targets)]
    if not names:
        raise ConfigError("LoRA targets are empty, expected at least one pattern")
    network.requires_grad_(False)
    for name in names:
        addition = LowRank(layers[name].weight, rank, alpha / rank)
        parametrize.register_parametrization(layers[name], "weight", addition)
    return names


def _state(source: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return source.state_dict() if isinstance(source, nn.Module) else source


def lora_state_dict(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The additions alone, as MODULE.lora_down and MODULE.lora_up.

    Args:
        source: a network after `add_lora`, or its state dict or average.
    """
    return {
        key.replace(f"{_PARAMETRIZED}0.", "."): value
        for key, value in _state(source).items()
        if f"{_PARAMETRIZED}0." in key
    }


def base_state_dict(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The frozen weights under their plain names, as `lora_state_dict` takes its source."""
    return {
        key.replace(f"{_PARAMETRIZED}original", ".weight"): value
        for key, value in _state(source).items()
        if f"{_PARAMETRIZED}0." not in key
    }


def merged_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Weights as the network uses them, under plain names; equal to `merge_lora` of base and additions."""
    plain = base_state_dict(network)
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            plain[f"{name}.weight"] = module.weight.detach()  # type: ignore[union-attr, operator]
    return plain
