"""Networks of paper-scale width with random weights, and inputs for them, as the programs on speed and memory use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from linearsr.config import ModelConfig
from linearsr.errors import ConfigError
from linearsr.extras import require
from linearsr.model.conditioning import Conditioning
from linearsr.model.sana import to_diffusers, widen_patch_embed
from linearsr.model.sana_config import plain_sana
from linearsr.model.transformer import LinearDiT
from linearsr.presets import get_preset

FACTOR = 32
"""Pixels along one side that a latent pixel covers."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def preset_shape(width_from: str, depth: int, *, stem: bool) -> ModelConfig:
    """The shape of a preset with another depth, 0 for its own; with the stem on low-resolution pixels or as SANA."""
    model = get_preset(width_from).model
    model = model if depth == 0 else replace(model, depth=depth)
    return model if stem else plain_sana(model)


def parse_dtypes(text: str) -> tuple[str, ...]:
    """Read `fp32,bf16`.

    Raises:
        ConfigError: another name.
    """
    names = tuple(text.split(","))
    if not set(names) <= set(DTYPES):
        raise ConfigError(f"--dtype is {text!r}, expected some of {', '.join(DTYPES)} with commas between")
    return names


def random_network(config: ModelConfig) -> LinearDiT:
    """A network with weights as at the start of a training."""
    torch.manual_seed(0)
    return LinearDiT(config).eval().requires_grad_(False)


def with_stem(plain: LinearDiT, config: ModelConfig) -> LinearDiT:
    """The network with the stem on low-resolution pixels that computes what the plain one does."""
    with torch.device("meta"):
        network = LinearDiT(config)
    network.load_state_dict(widen_patch_embed(plain.state_dict(), config), assign=True)
    return network.eval().requires_grad_(False)


def prepare(network: LinearDiT, dtype: str, device: str) -> LinearDiT:
    """As inference prepares it: dense layers cast, projections fused, on a processor weights packed."""
    if dtype != "fp32":
        network.cast_dense_(DTYPES[dtype])
    return network.to(device).pack_()


def diffusers_sana(network: LinearDiT) -> Any:  # noqa: ANN401 - a class of an optional package
    """The `SanaTransformer2DModel` of diffusers with the same weights."""
    diffusers = require("diffusers", "full", "the comparison with diffusers")
    config = network.config
    theirs = diffusers.SanaTransformer2DModel(
        num_attention_heads=config.width // config.head_dim,
        attention_head_dim=config.head_dim,
        num_layers=config.depth,
        num_cross_attention_heads=config.width // config.cross_attention_head_dim,
        cross_attention_head_dim=config.cross_attention_head_dim,
        cross_attention_dim=config.width,
        caption_channels=config.caption_channels,
        mlp_ratio=config.mlp_ratio,
        qk_norm="rms_norm_across_heads" if config.qk_norm else None,
    )
    theirs.load_state_dict(to_diffusers(network.state_dict()))
    return theirs.eval().requires_grad_(False)


def make_inputs(
    config: ModelConfig, side: int, tokens: int, device: str = "cpu"
) -> tuple[Tensor, Tensor, Conditioning]:
    """Latent, time and condition of one picture.

    Args:
        config: of the network.
        side: of the result in pixels.
        tokens: of text, none of them padding.
        device: to make them on.
    """
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    latent = (1, config.in_channels, side // FACTOR, side // FACTOR)
    cond = Conditioning(
        lr=noise(*config.lr_shape(latent)),
        tags=noise(1, tokens, config.caption_channels),
        tag_mask=torch.ones(1, tokens, dtype=torch.bool, device=device),
    )
    return noise(*latent), torch.tensor([0.7], device=device), cond


def synchronise(device: str) -> Callable[[], None]:
    """Waits for an accelerator, so that its work is in the time."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None
