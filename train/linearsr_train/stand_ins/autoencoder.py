"""A tiny random DC-AE with the interface of the published one: factor 32, 32 latent channels, the same kinds of block.

What it makes of a picture has nothing to do with the picture. Latents and pictures have the usual range, though, so
that a whole run through it stays finite and is neither black nor white.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linearsr.extras import require

__all__ = ["SCALING_FACTOR", "write_autoencoder"]

SCALING_FACTOR = 0.41407
"""As SANA uses its f32c32 autoencoder; the stand-in's latents times this have about unit variance too."""
PROBE_PX = 128
PICTURE_STD = 0.4


def write_autoencoder(folder: Path, *, seed: int = 0, lite: bool = False) -> None:
    """Write config.json and diffusion_pytorch_model.safetensors as diffusers does; equal for equal arguments.

    Args:
        folder: made if need be.
        seed: of the weights.
        lite: with a narrower decoder, as dc-ae-lite has one.

    Raises:
        ConfigError: diffusers is not installed.
    """
    diffusers = require("diffusers", "full", "the DC-AE autoencoder")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = diffusers.AutoencoderDC(**_settings(lite)).eval()
        pictures = torch.rand(1, 3, PROBE_PX, PROBE_PX) * 2 - 1
        _rescale(model.encoder.conv_out, model.encoder(pictures), 1 / SCALING_FACTOR)
        latent = torch.randn(1, 32, PROBE_PX // 32, PROBE_PX // 32) / SCALING_FACTOR
        _rescale(model.decoder.conv_out, model.decoder(latent), PICTURE_STD)
    model.save_pretrained(folder, safe_serialization=True)


def _settings(lite: bool) -> dict[str, Any]:
    """Convolutions in five stages, an EfficientViT block in the deepest, one layer each."""
    widths = (8, 8, 16, 16, 32, 32)
    blocks = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    scales: tuple[tuple[int, ...], ...] = ((),) * 5 + ((5,),)
    return {
        "latent_channels": 32,
        "attention_head_dim": 8,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": (4, 4, 8, 8, 16, 32) if lite else widths,
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "upsample_block_type": "interpolate",
        "downsample_block_type": "conv",
        "scaling_factor": SCALING_FACTOR,
    }


def _rescale(layer: nn.Conv2d, output: Tensor, std: float) -> None:
    """Make the last layer's output about `std` wide and centred on zero.

    Rounded, for the last digits of a sum differ from run to run, and equal arguments shall give equal files.
    """
    gain = round(std / float(output.std()), 3)
    layer.weight.mul_(gain)
    assert layer.bias is not None, "diffusers' last layers have a bias"
    layer.bias.sub_(output.mean(dim=(0, 2, 3)).round(decimals=3)).mul_(gain)
