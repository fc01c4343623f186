"""A stage's state from nothing or from given weights: network, optimizer, average, generator, controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from linearsr.errors import ConfigError
from linearsr.model.lora import add_lora
from linearsr.model.transformer import LinearDiT
from linearsr_train.config import TrainConfig
from linearsr_train.distributed import prepare, unwrap
from linearsr_train.ema import Ema
from linearsr_train.esgf import Esgf
from linearsr_train.experts import Stage
from linearsr_train.shards import full_tensors
from linearsr_train.state import TrainState
from linearsr_train.weights import Weights

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["averaged_network", "build_state", "set_lora"]


def _freeze(network: nn.Module, prefixes: tuple[str, ...]) -> None:
    for name, parameter in network.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


def _optimizer(network: nn.Module, config: TrainConfig, rate: float) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.optim.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    betas = (config.optim.betas[0], config.optim.betas[1])
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, fused=True)


def build_state(
    config: TrainConfig,
    stage: Stage,
    accelerator: Accelerator,
    start: Weights | None = None,
    lora: Weights | None = None,
) -> TrainState:
    """A fresh stage: seeded or given weights, optimizer, average and generator.

    Args:
        config: of the run.
        stage: decides interval, budget, and with the run's seed all draws.
        accelerator: from `build_accelerator`.
        start: plain weights; None is the network's own seeded initialisation.
        lora: low-rank part to go on from, where experts are LoRA.
    """
    loop, parts = config.loop, config.loop.gradient_accumulation_steps * accelerator.num_processes
    if loop.batch_size % parts:
        raise ConfigError(
            f"loop.batch_size is {loop.batch_size}, expected a multiple of {parts}: {accelerator.num_processes} "
            f"processes times {loop.gradient_accumulation_steps} accumulated parts"
        )
    seed = loop.seed + 1000 * stage.index
    torch.manual_seed(seed)
    network = LinearDiT(config.model)
    network.gradient_checkpointing = loop.gradient_checkpointing
    if start is not None:
        network.load_state_dict(start)
    if stage.kind != "pretrain" and config.experts.mode == "lora":
        add_lora(network, config.experts.lora_rank, config.experts.lora_alpha)
        if lora is not None:
            set_lora(network, lora)
    elif stage.kind != "pretrain":
        _freeze(network, config.experts.frozen)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    accelerator.free_memory()  # of the stage before
    rate = stage.settings.learning_rate
    strategy = config.loop.strategy
    model, optimizer = prepare(accelerator, network, lambda m: _optimizer(m, config, rate), strategy)
    if config.loop.compile:
        unwrap(accelerator, model).compile()
    generator = torch.Generator().manual_seed(seed + 1)
    ema = Ema(unwrap(accelerator, model), config.optim.ema_decay)
    return TrainState(config, stage, accelerator, model, ema, optimizer, generator, Esgf(config.esgf))


def set_lora(network: nn.Module, lora: Weights) -> None:
    """Set the low-rank parts of a network made by `add_lora` from what `lora_state_dict` gave."""
    parts = dict(network.named_parameters())
    for key, value in lora.items():
        module, _, part = key.rpartition(".")
        parts[f"{module}.parametrizations.weight.0.{part}"].data.copy_(value)


def averaged_network(state: TrainState) -> LinearDiT:
    """A plain copy of the network with the averaged weights, on the device of the run. All processes must call it."""
    network = LinearDiT(state.config.model)
    if state.stage.kind != "pretrain" and state.config.experts.mode == "lora":
        add_lora(network, state.config.experts.lora_rank, state.config.experts.lora_alpha)
    network.load_state_dict(full_tensors(state.ema.shadow))
    return network.to(state.accelerator.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
