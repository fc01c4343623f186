"""What the core is asked, made from the options in one place, so that a file alone and in a folder are done alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr_cli.items import PlanItem
from linearsr_cli.output import Output, clean
from linearsr_cli.progress import Progress
from linearsr_cli.settings import UpscaleOptions
from linearsr_cli.tags import TagTable, UsedTags, check_rows

if TYPE_CHECKING:
    from linearsr.image_io import Picture
    from linearsr.pipeline import Upscaler

__all__ = ["find_tags", "given_tags", "load_upscaler", "picture_settings", "shows_through", "write_settings"]


def shows_through(picture: Picture, options: UpscaleOptions) -> bool:
    """Whether the result will have transparency to keep; an alpha channel that is opaque everywhere does not count."""
    return picture.alpha is not None and options.alpha != "drop" and bool((picture.alpha < 1.0 - 1.0 / 512.0).any())


def load_upscaler(options: UpscaleOptions, table: TagTable | None, progress: Progress, out: Output) -> Upscaler:
    """Load the model and let it check the settings that only it can judge.

    Args:
        options: of the run.
        table: tags of `--tags-from`.
        progress: shows what is fetched.
        out: tells licences.

    Raises:
        WeightsError, DeviceError: the model or a LoRA cannot be had, or not on this device.
        ConfigError: a setting, or a tag of the table, does not fit the model.
    """
    from linearsr.pipeline import Upscaler

    upscaler = Upscaler.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        offload=options.offload,
        compile=options.compile,
        vae_tile=options.vae_tile,
        tagger=options.tagger,
        tag_vocabulary=_vocabulary(options.tag_vocabulary),
        loras=() if options.lora is None else options.lora,
        on_download=progress.download,
        on_licence=lambda name, licence: out.info(f"licence of {clean(name)}: {clean(licence)}"),
    )
    upscaler.validate(tags=options.tags, **network_settings(options))
    if table is not None:
        check_rows(table, lambda tags: upscaler.validate(tags=tags))
    return upscaler


def _vocabulary(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    from linearsr.tags.open_taggers import read_vocabulary

    return read_vocabulary(Path(path))


def given_tags(item: PlanItem, options: UpscaleOptions) -> str | None:
    """Tags that the user gives for a picture; None leaves them to the tagger."""
    return options.tags if item.row is None else item.row.tags


def find_tags(item: PlanItem, picture: Picture | None, upscaler: Upscaler, options: UpscaleOptions) -> UsedTags:
    """Tags of one picture, which need not be read where they are given or nothing names any, and where they come from.

    Raises:
        WeightsError: the model's own tagger cannot be had.
    """
    given = given_tags(item, options)
    names = upscaler.find_tags(picture, () if given is None and picture is None else given)
    if given is not None:
        return UsedTags(names=names, origin="user" if item.row is None else "csv")
    return UsedTags(names=names, origin="none" if upscaler.tagger is None else "tagger")


def network_settings(options: UpscaleOptions) -> dict[str, Any]:
    """Keyword arguments that `Upscaler.validate` and `Upscaler.upscale_picture` share."""
    return {
        "steps": options.steps,
        "negative_tags": options.negative_tags,
        "cfg_scale": options.cfg_scale,
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
