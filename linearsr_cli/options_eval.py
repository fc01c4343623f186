"""Types of the options of `linearsr eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from linearsr_cli.options import FILES, MACHINE, PICTURE, REPORT, number, whole_number

__all__ = [
    "BaselineOption",
    "BootstrapOption",
    "CacheOption",
    "ColorOption",
    "CropBorderOption",
    "DegradeOption",
    "DegradeSeedOption",
    "DifferencesOption",
    "FailUnderOption",
    "HrOption",
    "LpipsOption",
    "LrOption",
    "MetricsOption",
    "ModelsOption",
    "OutputsOption",
    "PairByOption",
    "PerImageOption",
    "ProtocolOption",
    "SaveOption",
    "ScaleOption",
    "SrOption",
    "StepsListOption",
    "StepsProgressOption",
    "TableOption",
    "TagsOption",
    "YRangeOption",
]

SCORES = "Scores"

HrOption = Annotated[
    list[Path],
    typer.Option("--hr", metavar="DIR", rich_help_panel=FILES, help="Clean pictures; repeatable, one set each."),
]
SrOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sr",
        metavar="[NAME=]DIR",
        rich_help_panel=FILES,
        help="Results to score; repeatable. With several sets, one for each --hr under the same NAME.",
    ),
]
LrOption = Annotated[
    list[Path] | None,
    typer.Option("--lr", metavar="DIR", rich_help_panel=FILES, help="Inputs, one for each --hr; or --degrade."),
]
DegradeOption = Annotated[
    str | None,
    typer.Option(
        "--degrade",
        metavar="bicubic|real|FILE",
        rich_help_panel=FILES,
        help="Make the inputs from the clean pictures, as `linearsr degrade` does.",
    ),
]
DegradeSeedOption = Annotated[
    int,
    typer.Option(
        "--degrade-seed", metavar="N", rich_help_panel=FILES, parser=whole_number, help="Another seed, other draws."
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--scale",
        "-s",
        metavar="FACTOR",
        rich_help_panel=FILES,
        parser=number,
        help="Default: 4 with --degrade, the ratio of the sizes with --lr; say it for --sr alone.",
    ),
]
PairByOption = Annotated[
    Literal["name", "order"],
    typer.Option("--pair-by", rich_help_panel=FILES, help="order: first with first, if the counts are equal."),
]
SaveOption = Annotated[
    Path | None,
    typer.Option("--save", metavar="DIR", rich_help_panel=FILES, help="Keep what is made, as SET/METHOD/NAME.png."),
]

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="[NAME=]MODEL", rich_help_panel=PICTURE, help="compact, a folder, or a Hub id; repeatable."
    ),
]
StepsListOption = Annotated[
    list[str] | None,
    typer.Option("--steps", metavar="N[,...]", rich_help_panel=PICTURE, help="One row each. Default: the model's own."),
]
TagsOption = Annotated[
    str,
    typer.Option(
        "--tags",
        metavar="auto|none|true|LIST",
        rich_help_panel=PICTURE,
        help="auto: the model's tagger; true: what was done to inputs made by --degrade or `linearsr degrade`; "
        "else tags for every picture.",
    ),
]
BaselineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="NAME[,...]",
        rich_help_panel=PICTURE,
        help="bicubic, lanczos, bilinear, nearest, autoencoder, the NAME of an --sr or --model (NAME@STEPS), or none; "
        "differences are from the first.",
    ),
]

MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="NAME[,...]",
        rich_help_panel=SCORES,
        help="Such as psnr,ssim,ms_ssim,lpips,seam. Default: psnr, ssim, lr_psnr and what is installed.",
    ),
]
ColorOption = Annotated[
    Literal["y", "rgb"] | None,
    typer.Option("--color", rich_help_panel=SCORES, help="Of psnr, ssim and ms_ssim. Default: y."),
]
YRangeOption = Annotated[
    Literal["limited", "full"] | None,
    typer.Option("--y-range", rich_help_panel=SCORES, help="Of luma: 16 to 235, or 0 to 255. Default: limited."),
]
CropBorderOption = Annotated[
    int | None,
    typer.Option(
        "--crop-border",
        metavar="N",
        rich_help_panel=SCORES,
        parser=whole_number,
        help="Pixels left out at each side. Default: the protocol's, or the scale; 1 where none is known.",
    ),
]
LpipsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips-weights", metavar="FILE", rich_help_panel=SCORES, help="For LPIPS without the `lpips` package."
    ),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        rich_help_panel=SCORES,
        help="classical-x2, -x3, -x4 or real-x4: sets what is not given. See docs/benchmarks.md.",
    ),
]
FailUnderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="LIST",
        rich_help_panel=SCORES,
        help="Such as psnr_y=27,lpips<0.2: exit 3 if a model or folder is worse on a set.",
    ),
]
BootstrapOption = Annotated[
    int,
    typer.Option(
        "--bootstrap",
        metavar="N",
        rich_help_panel=SCORES,
        parser=whole_number,
        help="Resamples for the 95 % intervals; 0 for none.",
    ),
]

CacheOption = Annotated[
    bool, typer.Option("--cache/--no-cache", rich_help_panel=MACHINE, help="Score only what changed since last time.")
]

TableOption = Annotated[
    Literal["auto", "table", "md", "csv", "json", "latex"],
    typer.Option(
        "--format", "-f", rich_help_panel=REPORT, help="On stdout. auto: a table on a terminal, JSON in a pipe."
    ),
]
OutputsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=REPORT,
        help="Also write .json, .csv, .md, .tex or .txt; repeatable.",
    ),
]
PerImageOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--per-image",
        metavar="FILE",
        rich_help_panel=REPORT,
        help="Scores of every picture, .csv or .json; repeatable.",
    ),
]
StepsProgressOption = Annotated[
    Literal["auto", "bar", "plain", "none"],
    typer.Option(
        "--progress",
        rich_help_panel=REPORT,
        help="On stderr; auto: a bar on a terminal, else a line now and then; plain: a line a result.",
    ),
]
DifferencesOption = Annotated[
    bool,
    typer.Option(
        "--differences", rich_help_panel=REPORT, help="Also a table of differences from the baseline, with a sign test."
    ),
]
