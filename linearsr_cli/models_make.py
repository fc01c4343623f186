"""`linearsr models convert` and `push`: making a model of public weights, and publishing one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from linearsr_cli.models_fetch import DownloadBar, tell_licence
from linearsr_cli.output import Output, clean

__all__ = ["CONVERT_EXAMPLES", "PUSH_EXAMPLES", "QuietOption", "convert", "push"]

CONVERT_EXAMPLES = """linearsr models convert --from-sana sana/ -o models/sana
linearsr models convert --from-sana Efficient-Large-Model/Sana_600M_1024px_diffusers -o models/sana --dtype bf16
linearsr train --recipe paper_pretrain --init models/sana --data photos/"""
PUSH_EXAMPLES = """linearsr models push runs/mine/export owner/name --dry-run
linearsr models push runs/mine/export owner/name --private --message "First model" """

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]


def convert(
    from_sana: Annotated[
        str, typer.Option("--from-sana", metavar="FOLDER|HUB_ID", help="diffusers' folder, or a file of NVlabs names.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to make.")],
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Size it must have, such as sana-0.6b.")
    ] = None,
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"] | None, typer.Option("--dtype", help="Of the stored weights; theirs without.")
    ] = None,
    experts: Annotated[int, typer.Option("--experts", metavar="1|4", help="4 are one file until trained apart.")] = 1,
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", metavar="SOURCE", help="Folder or Hub id; the preset's without.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="SOURCE", help="Text encoder; the preset's without.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the new stem's weights.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a LinearSR model of public SANA weights.

    The start of training: the stem that reads the low-resolution picture is new, so the model does not enlarge yet. Of
    a Hub id only transformer/ is fetched. Prints the folder.
    """
    import torch

    from linearsr.convert import convert_sana

    out = Output(quiet=quiet)
    config = convert_sana(
        _sana_folder(from_sana, out),
        output,
        preset=preset,
        experts=experts,
        dtype=None if dtype is None else getattr(torch, DTYPES[dtype]),
        seed=seed,
        autoencoder=_place(autoencoder),
        encoder=_place(encoder),
        overwrite=overwrite,
    )
    out.info(f"licence of the weights: {clean(config.licence)}; train the model before use")
    out.data(str(output))


def _sana_folder(source: str, out: Output) -> Path:
    """Folder or file of SANA weights, fetched if it is named by its Hub id."""
    from linearsr.hub_repo import HubRepo, fetch_folder, is_hub_id, split_hub_id

    if Path(source).exists() or not is_hub_id(source):
        return Path(source)
    with DownloadBar(out) as bar:
        repo, revision = split_hub_id(source)
        hub = HubRepo(repo, revision, what="SANA model", on_download=bar.update, on_licence=tell_licence(out))
        return fetch_folder(hub, ("transformer",))


def _place(source: str | None) -> str | None:
    """A folder as an absolute path, since `./` stands for the model's own in its config; anything else as it is."""
    return str(Path(source).resolve()) if source is not None and Path(source).is_dir() else source


def push(
    export: Annotated[Path, typer.Argument(metavar="RUN_EXPORT", help="Folder of a model.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the Hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Create it for you alone, if it is new.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch, made if need be; main without.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and list what would go up.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Publish a model on the Hugging Face Hub, and print its address.

    Everything is checked before: every file against config.json, no pickles, nothing that is not of the checkpoint.
    MODEL_CARD.md becomes the page, with what the Hub wants to know on top. One commit; needs a token (HF_TOKEN).
    """
    from linearsr.publish import check_export, publish
    from linearsr_cli.plan_checks import size_text

    out = Output(quiet=quiet)
    publication = check_export(export, repo)
    count, size = len(publication.files) + 1, size_text(publication.bytes)
    if dry_run:
        for name in ("README.md", *publication.files):
            out.data(name)
        out.info(f"would upload {count} files, {size}, to {repo}")
        return
    out.info(f"uploading {count} files, {size}, to {repo}")
    if quiet or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    out.data(publish(publication, private=private, revision=revision, message=message))
