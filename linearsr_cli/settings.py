"""What `linearsr upscale` was asked to do, typed and checked before anything heavy is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linearsr.errors import ConfigError, WeightsError
from linearsr.sizing import check_scale, parse_size
from linearsr_cli.values import Tile

__all__ = ["FORMATS", "UpscaleOptions", "check_options"]

FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tiff": "TIFF",
    "tif": "TIFF",
    "avif": "AVIF",
    "heif": "HEIF",
    "bmp": "BMP",
    "ppm": "PPM",
}
"""`--format` besides auto, and how `linearsr.image_io` names it."""
LOSSY = ("JPEG", "AVIF", "HEIF")
"""Formats that cannot be written without loss."""
HOLDS_16 = ("PNG", "TIFF", "PPM")
"""Formats that hold 16 bits a channel."""

BUILTIN_MODEL = "compact"


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleOptions:
    """Every option of one run, one field a flag; `None` means not given."""

    inputs: tuple[str, ...]
    """Files, folders, globs or `-`, as typed."""
    files_from: str | None = None
    """File with one path a line, or `-` for stdin."""
    null: bool = False
    """The list is separated by zero bytes."""
    recursive: bool = False
    limit: int | None = None
    """At most this many pictures, in order."""
    output: str | None = None
    """Folder, file or `-`; beside the source when not given."""
    suffix: str | None = None
    """Added to the file name; by default `_x4` beside the source and nothing in another folder."""
    on_exists: Literal["skip", "overwrite", "error"] = "skip"
    on_error: Literal["continue", "stop"] = "continue"
    dry_run: bool = False
    compare: str | None = None
    """File for one side-by-side picture, or folder for one of every picture."""

    scale: float | None = None
    size: str | None = None
    """`WxH`, `Wx` or `xH` in pixels."""
    long_side: int | None = None
    """Pixels of the longer output side."""

    model: str = BUILTIN_MODEL
    steps: int | None = None
    seed: int = 0
    tags: str | None = None
    """Comma-separated; `None` leaves them to the tagger."""
    negative_tags: str | None = None
    """What guidance leads away from; `None` is the model's own."""
    tagger: str = "auto"
    """`auto`, `none` or `KIND:SOURCE`."""
    tag_vocabulary: str | None = None
    """File of names that a zero-shot tagger chooses from."""
    tags_from: str | None = None
    """CSV file with tags by path, for the pictures that it lists."""
    save_tags: str | None = None
    """CSV file to write the tags of what was done to."""
    cfg_scale: float | tuple[float, ...] | None = None
    """Weight of guidance towards the tags, 0 to 20, common or by expert; 1 is off."""
    lora: tuple[tuple[str, float], ...] | None = None
    """LoRA files and their weights."""
    tile: Tile = "auto"
    """Side in output pixels."""
    tile_overlap: int | None = None
    """Output pixels shared by neighbouring tiles."""
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "none"
    compile: bool = False
    vae_tile: Tile = "auto"
    """Of a learned autoencoder, in output pixels."""
    batch_size: int = 1
    """Tiles run at once."""
    alpha: str = "auto"
    color_fix: str = "auto"
    color_strength: float = 1.0
    """From 0, no fix, to 1."""

    format: str = "auto"
    quality: int = 95
    """1 to 100, for lossy formats."""
    lossless: bool = False
    bit_depth: str = "auto"
    metadata: str = "keep"

    progress: str = "auto"
    verbose: int = 0
    quiet: bool = False
    json: bool = False
    print0: bool = False

    @property
    def target_size(self) -> tuple[int | None, int | None] | None:
        """`size` as numbers, (width, height)."""
        return None if self.size is None else parse_size(self.size)

    @property
    def size_label(self) -> str:
        """The size request as the end of a name: `_x4`, `_1920x1080`, `_1920w`, `_1080h` or `_2048px`."""
        if self.size is not None:
            width, height = parse_size(self.size)
            if height is None:
                return f"_{width}w"
            return f"_{height}h" if width is None else f"_{width}x{height}"
        if self.long_side is not None:
            return f"_{self.long_side}px"
        return f"_x{4.0 if self.scale is None else self.scale:g}"


def check_options(options: UpscaleOptions) -> None:
    """Refuse values out of range and options that exclude one another, before any file is looked at.

    Raises:
        ConfigError: the first problem found, with the value and the nearest valid command.
        WeightsError: a LoRA file that is not there.
    """
    _check_inputs(options)
    _check_size(options)
    _check_network(options)
    _check_tags(options)
    _check_file_kind(options)
    _check_reporting(options)


def _check_inputs(options: UpscaleOptions) -> None:
    if not options.inputs and options.files_from is None:
        raise ConfigError(
            "no input given, expected files, folders, globs or -", hint="try `linearsr upscale photo.jpg`"
        )
    if any(not name for name in options.inputs):
        raise ConfigError("an input is '', expected a path", hint="an unset shell variable is the usual cause")
    if options.null and options.files_from is None:
        raise ConfigError(
            "null is given without files-from", hint="`find DIR -print0 | linearsr upscale --files-from - -0 -o OUT`"
        )
    if options.files_from == "-" and "-" in options.inputs:
        raise ConfigError("stdin is asked for twice, as a picture and as a list of files", hint="drop one of them")
    for name in ("output", "compare", "files_from", "model", "tags_from", "save_tags", "tag_vocabulary"):
        value = getattr(options, name)
        if value is not None and value.startswith("-") and value != "-":
            flag = name.replace("_", "-")
            raise ConfigError(f"{flag} is {value!r}, which looks like an option", hint=f"write `./{value}` for a path")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}, expected at least 1", hint="drop `--limit` to take all pictures")
    if options.output == "":
        raise ConfigError(
            "output is '', expected a folder, a file or -", hint="an unset shell variable is the usual cause"
        )
    if options.suffix is not None and (os.sep in options.suffix or "/" in options.suffix):
        raise ConfigError(f"suffix is {options.suffix!r}, expected no slash", hint="name the folder with `-o`")


def _check_size(options: UpscaleOptions) -> None:
    given = [
        name
        for name, value in (("--scale", options.scale), ("--size", options.size), ("--long-side", options.long_side))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are both given, expected one of them", hint="drop all but one")
    if options.scale is not None:
        check_scale(options.scale)
    if options.size is not None:
        parse_size(options.size)
    if options.long_side is not None and options.long_side < 1:
        raise ConfigError(f"long-side is {options.long_side}, expected at least 1 pixel", hint="`--long-side 2048`")


def _check_network(options: UpscaleOptions) -> None:
    if options.steps is not None and options.steps < 1:
        raise ConfigError(
            f"steps is {options.steps}, expected at least 1", hint="1 is the most faithful, 4 gives more detail"
        )
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"seed is {options.seed}, expected 0 to 2^63 - 1", hint="use a small number such as 0")
    if options.tile_overlap is not None and options.tile_overlap < 0:
        raise ConfigError(f"tile-overlap is {options.tile_overlap}, expected 0 or more pixels", hint="leave it out")
    if isinstance(options.tile, int) and options.tile_overlap is not None and options.tile_overlap >= options.tile:
        raise ConfigError(
            f"tile-overlap is {options.tile_overlap}, expected less than the tile of {options.tile} pixels",
            hint=f"`--tile-overlap {max(options.tile // 8, 1)}`",
        )
    if options.batch_size < 1:
        raise ConfigError(f"batch-size is {options.batch_size}, expected at least 1", hint="`--batch-size 1`")
    if not 0.0 <= options.color_strength <= 1.0:
        raise ConfigError(
            f"color-strength is {options.color_strength:g}, expected 0 to 1", hint="`--color-fix none` turns it off"
        )
    for path, _ in () if options.lora is None else options.lora:
        if not Path(path).is_file():
            what = "is a folder, expected a file" if Path(path).is_dir() else "does not exist"
            raise WeightsError(f"lora is {path!r}, which {what}", hint="give the file that `linearsr finetune` wrote")


def _check_tags(options: UpscaleOptions) -> None:
    if options.tags is not None and options.tags_from is not None:
        raise ConfigError("--tags and --tags-from are both given, expected one of them", hint="drop one of them")
    if options.tags is not None and options.model == BUILTIN_MODEL:
        from linearsr.tags.vocabulary import parse_tags

        parse_tags(options.tags)
    for flag, path in (("tags-from", options.tags_from), ("save-tags", options.save_tags)):
        if path in ("", "-"):
            raise ConfigError(f"{flag} is {path!r}, expected the name of a CSV file", hint=f"`--{flag} tags.csv`")
    if options.tagger not in ("auto", "none"):
        from linearsr.tags.open_taggers import split_tagger

        split_tagger(options.tagger)
    if options.tag_vocabulary is not None and not Path(options.tag_vocabulary).is_file():
        raise ConfigError(
            f"tag-vocabulary is {options.tag_vocabulary!r}, expected a text file with one tag a line",
            hint="leave it out for the list that comes with LinearSR",
        )


def _check_file_kind(options: UpscaleOptions) -> None:
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"quality is {options.quality}, expected 1 to 100", hint="95 is the default")
    kind = FORMATS.get(options.format)
    if options.lossless and kind in LOSSY:
        raise ConfigError(f"{kind} cannot be lossless", hint="`-f png`, or `-f webp --lossless`")
    if options.bit_depth == "16" and kind is not None and kind not in HOLDS_16:
        raise ConfigError(f"{kind} cannot hold 16 bits", hint="use `-f png` or `-f tiff`")


def _check_reporting(options: UpscaleOptions) -> None:
    if options.quiet and options.verbose:
        raise ConfigError("quiet and verbose are both given, expected one of them", hint="drop `-q` or `-v`")
    if options.print0 and options.json:
        raise ConfigError("print0 and json are both given, expected one of them", hint="JSON lines need no zero bytes")
    if options.dry_run and options.print0:
        raise ConfigError("print0 and dry-run are both given, expected one of them", hint="`--dry-run --json` is exact")
    if options.compare is not None and Path(options.compare).name in ("", ".."):
        raise ConfigError(f"compare is {options.compare!r}, expected a file or a folder", hint="`--compare side.png`")
