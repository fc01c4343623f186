"""Values of options that are more than a number or a word. Read and checked before anything heavy is imported."""

from __future__ import annotations

import math
from typing import Literal

from linearsr.errors import ConfigError

__all__ = ["Tile", "parse_cfg_scale", "parse_lora", "parse_tile", "parse_vae_tile"]

Tile = Literal["auto", "off"] | int


def parse_tile(text: str) -> Tile:
    """Read `auto`, `off` or a tile side in output pixels.

    Raises:
        ConfigError: anything else, and 0, which means off to some tools and auto to others.
    """
    word = text.strip().lower()
    if word in ("auto", "off"):
        return "auto" if word == "auto" else "off"
    try:
        side = int(word)
    except ValueError:
        side = 0
    if side < 1:
        raise ConfigError(
            f"tile is {text!r}, expected auto, off or a side in output pixels such as 512",
            hint="use `--tile off` for the whole picture at once, `--tile auto` for the size that suits the model",
        )
    return side


def parse_lora(text: str) -> tuple[str, float]:
    r"""Read `PATH` or `PATH:WEIGHT`; what follows the last colon is a weight only if it is a number, so `C:\x` works.

    Raises:
        ConfigError: no path, or a weight that is not finite.
    """
    path, colon, last = text.rpartition(":")
    try:
        weight = float(last) if colon else None
    except ValueError:
        weight = None
    if weight is None:
        path, weight = text, 1.0
    if not path or not math.isfinite(weight):
        raise ConfigError(f"lora is {text!r}, expected PATH or PATH:WEIGHT", hint="`--lora faces.safetensors:0.7`")
    return path, weight


def parse_cfg_scale(text: str) -> float | tuple[float, ...]:
    """Read one weight of guidance, or one for each expert separated by commas, expert 0 first.

    Raises:
        ConfigError: a part that is no number, or out of range.
    """
    from linearsr.config import check_cfg_scale

    values = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise ConfigError(
                f"cfg-scale is {text!r}, expected a number, or one for each expert", hint="`--cfg-scale 1,4.5,4.5,4.5`"
            ) from None
        check_cfg_scale(value, "cfg-scale")
        values.append(value)
    return values[0] if len(values) == 1 else tuple(values)


def parse_vae_tile(text: str) -> Tile:
    """Read `auto`, `off` or the side of an autoencoder's tile in pixels.

    Raises:
        ConfigError: anything else.
    """
    try:
        side = parse_tile(text)
    except ConfigError as error:
        raise ConfigError(
            f"vae-tile is {text!r}, expected auto, off or a side in output pixels", hint="use `--vae-tile auto`"
        ) from error
    if isinstance(side, int) and (side < 256 or side % 64):
        nearest = max(256, round(side / 64) * 64)
        raise ConfigError(
            f"vae-tile is {side}, expected a multiple of 64 pixels, at least 256", hint=f"use `--vae-tile {nearest}`"
        )
    return side
