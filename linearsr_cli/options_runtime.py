"""Types of the options that say how a large model computes and what stays in memory."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from linearsr_cli.options import MACHINE

__all__ = ["CompileOption", "OffloadOption", "VaeTileOption"]

OffloadOption = Annotated[
    Literal["none", "expert", "sequential"],
    typer.Option(
        "--offload",
        rich_help_panel=MACHINE,
        help="expert: one network on the device at a time; sequential: one block of it.",
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option("--compile", rich_help_panel=MACHINE, help="Compile the networks; pays from some pictures of a size."),
]
VaeTileOption = Annotated[
    str,
    typer.Option(
        "--vae-tile",
        metavar="auto|off|N",
        rich_help_panel=MACHINE,
        help="Side of a tile of a learned autoencoder in output pixels.",
    ),
]
