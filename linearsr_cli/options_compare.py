"""Types of the options of `linearsr compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from linearsr_cli.options import FILES, PICTURE, whole_number
from linearsr_cli.options_eval import SCORES

__all__ = [
    "ComparedArgument",
    "ComparisonOption",
    "CropBorderOption",
    "CropOption",
    "HrOption",
    "LabelsOption",
    "LrOption",
    "MaxSizeOption",
    "MetricsOption",
    "OnExistsOption",
    "PlacesOption",
    "RecursiveOption",
    "RowsOption",
    "TitleOption",
    "ZoomOption",
]

ComparedArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]PATH", help="Pictures, or folders of pictures that pair; NAME is the label.", show_default=False
    ),
]
ComparisonOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=FILES,
        help="A sheet (.png, .jpg, .webp), a page to look through (.html), or - for a PNG on stdout.",
        show_default=False,
    ),
]
HrOption = Annotated[
    Path | None,
    typer.Option("--hr", metavar="PATH", rich_help_panel=FILES, help="Clean pictures: a column, and the scores."),
]
LrOption = Annotated[
    Path | None,
    typer.Option("--lr", metavar="PATH", rich_help_panel=FILES, help="Inputs: a column enlarged by bicubic."),
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-r", rich_help_panel=FILES, help="Look into sub-folders.")
]
OnExistsOption = Annotated[
    Literal["error", "overwrite"],
    typer.Option("--on-exists", rich_help_panel=FILES, help="What happens to a comparison that is there already."),
]

LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels", metavar="a,b,...", rich_help_panel=PICTURE, help="One for each; or NAME=PATH. Default: their names."
    ),
]
TitleOption = Annotated[
    str | None, typer.Option("--title", metavar="TEXT", rich_help_panel=PICTURE, help="Over the comparison.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME[,...]|none",
        rich_help_panel=SCORES,
        help="Default: psnr, ssim and lpips with --hr, lr_psnr with --lr, as far as they are installed.",
    ),
]
CropBorderOption = Annotated[
    int | None,
    typer.Option(
        "--crop-border",
        metavar="N",
        rich_help_panel=SCORES,
        parser=whole_number,
        help="Pixels left out at each side beside --hr. Default: the scale with --hr and --lr, else 0.",
    ),
]
PlacesOption = Annotated[
    int,
    typer.Option(
        "--places",
        metavar="N",
        rich_help_panel=PICTURE,
        parser=whole_number,
        help="Places that differ most, of each picture; 0 for none.",
    ),
]
CropOption = Annotated[
    int,
    typer.Option(
        "--crop", metavar="N", rich_help_panel=PICTURE, parser=whole_number, help="Side of a place in pixels."
    ),
]
ZoomOption = Annotated[
    str | None,
    typer.Option(
        "--zoom", metavar="auto|1..8", rich_help_panel=PICTURE, help="Of the places on a sheet. Default: auto."
    ),
]
RowsOption = Annotated[
    int | None,
    typer.Option(
        "--rows",
        metavar="N",
        rich_help_panel=PICTURE,
        parser=whole_number,
        help="Pictures on a sheet; further ones go to FILE-2.png and so on. Default: 4.",
    ),
]
MaxSizeOption = Annotated[
    str | None,
    typer.Option("--max-size", metavar="SIZE", rich_help_panel=PICTURE, help="Of the page, such as 6MB, the default."),
]
