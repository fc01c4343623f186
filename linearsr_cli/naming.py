"""Where each result goes: one rule for files, folders and pipes. Touches the disk only to ask what exists."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linearsr.errors import ConfigError
from linearsr_cli.inputs import Source, is_glob
from linearsr_cli.settings import FORMATS, HOLDS_16, LOSSY, UpscaleOptions

if TYPE_CHECKING:
    from linearsr.image_io import ImageInfo

__all__ = ["Place", "format_and_ending", "is_picture_name", "output_path", "resolve_place"]

OWN_ENDINGS = frozenset((".apng", ".mpo", ".dib", ".pbm"))
"""Endings of inputs that would be wrong for what is written: not an animation, one picture, more than 1 bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the results of a run go."""

    kind: Literal["stdout", "file", "folder", "beside"]
    path: Path | None = None
    """The file or folder; None for the other kinds."""


def is_picture_name(path: Path) -> bool:
    """Whether a name ends like a picture of a kind that can be written."""
    return _format_of(path) is not None


def _format_of(path: Path) -> str | None:
    from linearsr.image_io import format_of

    kind = format_of(path)
    return None if kind == "GIF" else kind


def format_and_ending(info: ImageInfo, source: Source, place: Place, options: UpscaleOptions) -> tuple[str, str]:
    """Format of one result, as `image_io` names it, and the ending of its name.

    `auto` keeps the input's format if that can hold what is asked for, and then also the spelling of its ending, so
    that inputs of different names have results of different names.

    Raises:
        ConfigError: the format cannot hold the depth that is asked for, or not without loss.
        ImageError: a format needs a package that is missing.
    """
    from linearsr.image_io import choose_format, extension

    depth = info.bit_depth if options.bit_depth == "auto" else int(options.bit_depth)
    wanted = replace(info, bit_depth=depth, has_alpha=info.has_alpha and options.alpha != "drop")
    named = None if place.path is None or place.kind != "file" else _format_of(place.path)
    kind = choose_format(wanted, options.format if named is None else named)
    if named is None and options.format == "auto" and options.lossless and kind in LOSSY:
        kind = "PNG"
    if options.lossless and kind in LOSSY:
        raise ConfigError(f"{kind} cannot be lossless", hint="`-f png`, or `-f webp --lossless`")
    if options.bit_depth == "16" and kind not in HOLDS_16:
        raise ConfigError(f"{kind} cannot hold 16 bits", hint="use `-f png` or `-f tiff`")
    own = source.path.suffix
    keep = _format_of(source.path) == kind and own.lower() not in OWN_ENDINGS
    return kind, own if keep else extension(kind)


def resolve_place(options: UpscaleOptions, tokens: list[str]) -> Place:
    """Decide whether `-o` is a file, a folder or stdout.

    A folder is what exists as one, ends in a slash or has no file ending; a name with a picture's ending is a file,
    which needs exactly one input.

    Raises:
        ConfigError: `-o` does not fit the inputs or the other options.
    """
    several = len(tokens) > 1 or any(os.path.isdir(token) or is_glob(token) for token in tokens)
    if options.output is None:
        if "-" in tokens:
            raise ConfigError("input is -, so there is no name for the output", hint="add `-o -`, or `-o result.png`")
        return Place(kind="beside")
    if options.output == "-":
        if several:
            raise ConfigError("output is - but there are several inputs, expected one", hint="use `-o FOLDER`")
        return _single(Place(kind="stdout"), options)
    return _file_or_folder(options.output, several, options)


def _file_or_folder(output: str, several: bool, options: UpscaleOptions) -> Place:
    path = Path(output)
    is_picture = is_picture_name(path)
    if output.endswith(("/", os.sep)) or path.is_dir():
        return Place(kind="folder", path=path)
    if several and (is_picture or path.exists()):
        raise ConfigError(
            f"output is {output!r}, one file, but there are several inputs",
            hint=f"use `-o {path.with_suffix('')}/` for a folder",
        )
    if is_picture:
        return _single(Place(kind="file", path=path), options)
    if not path.exists() and (several or path.suffix == ""):
        return Place(kind="folder", path=path)
    raise ConfigError(
        f"output is {output!r}, expected a folder or a name that ends like a picture, such as .png or .jpg",
        hint=f"write `-o {output}/` for a folder" if not path.exists() else "use `-o FOLDER`",
    )


def _single(place: Place, options: UpscaleOptions) -> Place:
    """Refuse options that one given name leaves no room for."""
    if options.suffix is not None:
        raise ConfigError(
            f"suffix is {options.suffix!r} but the output has a name of its own",
            hint="drop `--suffix`, or use `-o FOLDER`",
        )
    if place.path is not None and options.format != "auto" and _format_of(place.path) != FORMATS[options.format]:
        raise ConfigError(
            f"format is {options.format} but the output is {str(place.path)!r}",
            hint="drop `-f`, or change the file ending",
        )
    return place


def output_path(source: Source, place: Place, options: UpscaleOptions, ending: str) -> Path | None:
    """Full path of one result; None for stdout.

    Args:
        ending: of the file name, with its dot, such as `.png`.
    """
    if place.kind == "stdout":
        return None
    if place.kind == "file":
        return place.path
    beside = place.path is None and source.root is None
    usual = options.size_label if beside else ""
    name = f"{source.relative.stem}{usual if options.suffix is None else options.suffix}{ending}"
    if place.path is not None:
        return place.path / source.relative.parent / name
    if source.root is None:
        return source.path.parent / name
    return beside_folder(source.root, options) / source.relative.parent / name


def beside_folder(root: Path, options: UpscaleOptions) -> Path:
    """The folder for the results of an input folder without `-o`: `holiday_x4` beside `holiday`."""
    named = root if root.name not in ("", "..") else root.resolve()
    return named.parent / f"{named.name}{options.size_label}"
