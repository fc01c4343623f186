"""Types of the command-line options, shared by the commands: names, help and where they stand in `--help`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = [
    "AlphaOption",
    "BatchSizeOption",
    "BitDepthOption",
    "ColorFixOption",
    "ColorStrengthOption",
    "CompareOption",
    "DeviceOption",
    "DryRunOption",
    "DtypeOption",
    "FilesFromOption",
    "FormatOption",
    "InputOption",
    "InputsArgument",
    "JsonOption",
    "LimitOption",
    "LongSideOption",
    "LosslessOption",
    "MetadataOption",
    "ModelOption",
    "NullOption",
    "OnErrorOption",
    "OnExistsOption",
    "OutputOption",
    "Print0Option",
    "ProgressOption",
    "QualityOption",
    "QuietOption",
    "RecursiveOption",
    "ScaleOption",
    "SeedOption",
    "SizeOption",
    "StepsOption",
    "SuffixOption",
    "TileOption",
    "TileOverlapOption",
    "VerboseOption",
]


def number(text: str | float) -> float:
    """Read a number; Typer's own words for a bad one leave out the value and change with its version."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def whole_number(text: str | int) -> int:
    """Read a whole number, as `number`."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


FILES = "Files"
SIZE = "Size"
PICTURE = "Picture"
MACHINE = "Machine"
SAVING = "Saving"
REPORT = "Reporting"

# -- files ------------------------------------------------------------------------------------------------------------

InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUT", help="Pictures, folders, globs in quotes, or - for stdin.", show_default=False),
]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="PATH", rich_help_panel=FILES, help="The same as INPUT.")
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=FILES,
        help="Folder, file, or - for stdout. Default: beside the source as NAME_x4.EXT, or FOLDER_x4/.",
    ),
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-r", rich_help_panel=FILES, help="Look into sub-folders and mirror the tree.")
]
FilesFromOption = Annotated[
    str | None,
    typer.Option(
        "--files-from", metavar="FILE", rich_help_panel=FILES, help="Read paths from FILE, one a line; - is stdin."
    ),
]
NullOption = Annotated[
    bool, typer.Option("--null", "-0", rich_help_panel=FILES, help="Paths in --files-from end in a zero byte.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", rich_help_panel=FILES, parser=whole_number, help="Take only the first N pictures."
    ),
]
SuffixOption = Annotated[
    str | None,
    typer.Option(
        "--suffix",
        metavar="TEXT",
        rich_help_panel=FILES,
        help="Added to names. Default: _x4 beside the source, else nothing.",
    ),
]
OnExistsOption = Annotated[
    Literal["skip", "overwrite", "error"],
    typer.Option(
        "--on-exists", rich_help_panel=FILES, help="skip: what is there is done if complete and of the right size."
    ),
]
OnErrorOption = Annotated[
    Literal["continue", "stop"],
    typer.Option("--on-error", rich_help_panel=FILES, help="Whether one bad file ends the run."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=FILES, help="Print what would be done; no model is loaded.")
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="PATH",
        rich_help_panel=FILES,
        help="Also write bicubic and result side by side: a file for the first picture, a folder for all.",
    ),
]

# -- size -------------------------------------------------------------------------------------------------------------

ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--scale",
        "-s",
        metavar="FACTOR",
        rich_help_panel=SIZE,
        parser=number,
        help="1 to 64; 1 only restores. Default: 4.",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", rich_help_panel=SIZE, help="Exact size; Wx or xH keeps the aspect ratio."),
]
LongSideOption = Annotated[
    int | None,
    typer.Option(
        "--long-side", metavar="N", rich_help_panel=SIZE, parser=whole_number, help="Pixels of the longer side."
    ),
]

# -- picture ----------------------------------------------------------------------------------------------------------

ModelOption = Annotated[
    str, typer.Option("--model", metavar="NAME", rich_help_panel=PICTURE, help="compact, a folder, or a Hub id.")
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        rich_help_panel=PICTURE,
        parser=whole_number,
        help="1 is the most faithful, more give more detail. Default: the model's.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        rich_help_panel=PICTURE,
        parser=whole_number,
        help="Another seed, other details; no effect on 1 step.",
    ),
]
AlphaOption = Annotated[
    Literal["auto", "resize", "model", "drop"],
    typer.Option("--alpha", rich_help_panel=PICTURE, help="How transparency is enlarged."),
]
ColorFixOption = Annotated[
    Literal["auto", "none", "wavelet", "adain"],
    typer.Option(
        "--color-fix", rich_help_panel=PICTURE, help="Take colours from the input; auto is the model's own choice."
    ),
]
ColorStrengthOption = Annotated[
    float,
    typer.Option(
        "--color-strength", metavar="0..1", rich_help_panel=PICTURE, parser=number, help="How much of the colour fix."
    ),
]

# -- machine ----------------------------------------------------------------------------------------------------------

TileOption = Annotated[
    str,
    typer.Option(
        "--tile", "-t", metavar="auto|off|N", rich_help_panel=MACHINE, help="Side of a tile in output pixels."
    ),
]
TileOverlapOption = Annotated[
    int | None,
    typer.Option(
        "--tile-overlap",
        metavar="N",
        rich_help_panel=MACHINE,
        parser=whole_number,
        help="Blended border. Default: the model's.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", rich_help_panel=MACHINE, help="auto, cpu, cuda, cuda:1 or mps.")
]
DtypeOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--dtype", rich_help_panel=MACHINE, help="Precision; auto takes what is fast and safe on the device."),
]
BatchSizeOption = Annotated[
    int,
    typer.Option("--batch-size", metavar="N", rich_help_panel=MACHINE, parser=whole_number, help="Tiles run at once."),
]

# -- saving -----------------------------------------------------------------------------------------------------------

FormatOption = Annotated[
    Literal["auto", "png", "jpg", "jpeg", "webp", "tiff", "tif", "avif", "heif", "bmp", "ppm"],
    typer.Option(
        "--format", "-f", rich_help_panel=SAVING, help="auto: as the input if it can hold the result, else png."
    ),
]
QualityOption = Annotated[
    int,
    typer.Option(
        "--quality", metavar="1..100", rich_help_panel=SAVING, parser=whole_number, help="Of jpg, webp and avif."
    ),
]
LosslessOption = Annotated[bool, typer.Option("--lossless", rich_help_panel=SAVING, help="For webp.")]
BitDepthOption = Annotated[
    Literal["auto", "8", "16"], typer.Option("--bit-depth", rich_help_panel=SAVING, help="auto: as the input.")
]
MetadataOption = Annotated[
    Literal["keep", "strip"], typer.Option("--metadata", rich_help_panel=SAVING, help="EXIF, XMP and IPTC.")
]

# -- reporting --------------------------------------------------------------------------------------------------------

ProgressOption = Annotated[
    Literal["auto", "bar", "plain", "none"],
    typer.Option(
        "--progress", rich_help_panel=REPORT, help="On stderr; auto: a bar on a terminal, else a line a file."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", rich_help_panel=REPORT, help="One JSON object a line on stdout instead of text.")
]
Print0Option = Annotated[
    bool, typer.Option("--print0", rich_help_panel=REPORT, help="Paths on stdout end in a zero byte.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=REPORT, help="Only errors on stderr.")]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        rich_help_panel=REPORT,
        help="More detail; twice for the library's log.",
    ),
]
