"""Types of the options that tell the model about a picture: tags, where they come from, guidance and LoRA."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from linearsr_cli.options import PICTURE, number

__all__ = ["CfgScaleOption", "LoraOption", "SaveTagsOption", "TaggerOption", "TagsFromOption", "TagsOption"]

TagsOption = Annotated[
    str | None,
    typer.Option(
        "--tags",
        metavar="LIST",
        rich_help_panel=PICTURE,
        help="What ails the input: clean, or any of blur, noise, jpeg, each with :weak or :strong.",
    ),
]
TaggerOption = Annotated[
    Literal["auto", "none"],
    typer.Option(
        "--tagger", rich_help_panel=PICTURE, help="auto: the model's own, if it has one, where no tags are given."
    ),
]
TagsFromOption = Annotated[
    str | None,
    typer.Option(
        "--tags-from",
        metavar="FILE.csv",
        rich_help_panel=PICTURE,
        help="Tags by path or file name, columns path and tags; the rest is left to the tagger.",
    ),
]
SaveTagsOption = Annotated[
    str | None,
    typer.Option(
        "--save-tags",
        metavar="FILE.csv",
        rich_help_panel=PICTURE,
        help="Write the tags of what was done, for --tags-from. With --on-exists skip, rows that are there stay.",
    ),
]
CfgScaleOption = Annotated[
    float | None,
    typer.Option(
        "--cfg-scale",
        metavar="0..20",
        rich_help_panel=PICTURE,
        parser=number,
        help="Weight of the tags; 1 is off, else a step costs two. Default: the model's.",
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="PATH[:WEIGHT]", rich_help_panel=PICTURE, help="Merge a LoRA for this model; repeatable."
    ),
]
