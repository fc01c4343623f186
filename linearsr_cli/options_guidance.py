"""Types of the options that tell the model about a picture: tags, where they come from, guidance and LoRA."""

from __future__ import annotations

from typing import Annotated

import typer

from linearsr_cli.options import PICTURE

__all__ = [
    "CfgScaleOption",
    "LoraOption",
    "NegativeTagsOption",
    "SaveTagsOption",
    "TagVocabularyOption",
    "TaggerOption",
    "TagsFromOption",
    "TagsOption",
]

TagsOption = Annotated[
    str | None,
    typer.Option(
        "--tags",
        metavar="LIST",
        rich_help_panel=PICTURE,
        help="What ails the input: clean, or any of blur, noise, jpeg, each with :weak or :strong; any words for a "
        "model with a text encoder.",
    ),
]
NegativeTagsOption = Annotated[
    str | None,
    typer.Option(
        "--negative-tags",
        metavar="LIST",
        rich_help_panel=PICTURE,
        help="Tags that guidance leads away from; needs --cfg-scale above 1, the model's own or yours.",
    ),
]
TaggerOption = Annotated[
    str,
    typer.Option(
        "--tagger",
        metavar="auto|none|KIND:SOURCE",
        rich_help_panel=PICTURE,
        help="Names tags where none are given. auto: the model's own; KIND is siglip, clip, florence2 or ram.",
    ),
]
TagVocabularyOption = Annotated[
    str | None,
    typer.Option(
        "--tag-vocabulary",
        metavar="FILE.txt",
        rich_help_panel=PICTURE,
        help="Tags that siglip and clip choose from, one a line.",
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
    str | None,
    typer.Option(
        "--cfg-scale",
        metavar="0..20[,...]",
        rich_help_panel=PICTURE,
        help="Weight of the tags, one or one for each expert; 1 is off, else a step costs two. Default: the model's.",
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="PATH[:WEIGHT]", rich_help_panel=PICTURE, help="Merge a LoRA for this model; repeatable."
    ),
]
