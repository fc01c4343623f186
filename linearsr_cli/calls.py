"""What the core is asked, made from the options in one place, so that a file alone and in a folder are done alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linearsr_cli.items import PlanItem
from linearsr_cli.settings import BUILTIN_MODEL, UpscaleOptions

if TYPE_CHECKING:
    from linearsr.image_io import Picture
    from linearsr.pipeline import Upscaler

__all__ = ["load_upscaler", "picture_settings", "shows_through", "write_settings"]


def shows_through(picture: Picture, options: UpscaleOptions) -> bool:
    """Whether the result will have transparency to keep; an alpha channel that is opaque everywhere does not count."""
    return picture.alpha is not None and options.alpha != "drop" and bool((picture.alpha < 1.0 - 1.0 / 512.0).any())


def load_upscaler(options: UpscaleOptions) -> Upscaler:
    """Load the model and let it check the settings that only it can judge.

    Raises:
        WeightsError, DeviceError: the model cannot be had, or not on this device.
        ConfigError: a setting does not fit the model.
    """
    from linearsr.pipeline import Upscaler

    upscaler = Upscaler.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    upscaler.validate(**network_settings(options))
    return upscaler


def picture_tags(options: UpscaleOptions) -> tuple[str, ...] | str | None:
    """Tags in the model's words; those of other models are left to the model."""
    if options.tags is None or options.model != BUILTIN_MODEL:
        return options.tags
    from linearsr.tags.vocabulary import parse_tags

    return parse_tags(options.tags)


def network_settings(options: UpscaleOptions) -> dict[str, Any]:
    """Keyword arguments that `Upscaler.validate` and `Upscaler.upscale_picture` share."""
    return {
        "steps": options.steps,
        "tags": picture_tags(options),
        "tile": options.tile,
        "tile_overlap": options.tile_overlap,
        "batch_size": options.batch_size,
        "alpha": options.alpha,
        "color_fix": None if options.color_fix == "auto" else options.color_fix,
        "color_strength": options.color_strength,
    }


def picture_settings(item: PlanItem, options: UpscaleOptions) -> dict[str, Any]:
    """Keyword arguments of `Upscaler.upscale_picture`: the same for a single file and within a folder."""
    return {"size": (item.width, item.height), "seed": options.seed, **network_settings(options)}


def write_settings(item: PlanItem, options: UpscaleOptions) -> dict[str, Any]:
    """Keyword arguments of `image_io.write`."""
    return {
        "format": item.format,
        "quality": options.quality,
        "lossless": options.lossless,
        "bit_depth": options.bit_depth,
        "metadata": options.metadata,
    }
