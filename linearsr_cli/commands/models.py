"""`linearsr models`: what there is, what it holds, fetching, checking, converting and publishing it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperOption

from linearsr.errors import ConfigError, WeightsError
from linearsr_cli.errors import ExitCode
from linearsr_cli.help import CONTEXT_SETTINGS, HelpCommand, HelpGroup
from linearsr_cli.models_fetch import DownloadBar, tell_licence
from linearsr_cli.models_make import CONVERT_EXAMPLES, PUSH_EXAMPLES, QuietOption, convert, push
from linearsr_cli.output import Output, clean

__all__ = ["app"]

HELP = """List, fetch, check, convert and publish models.

A MODEL is `compact`, a folder with a config.json, or `owner/name[@revision]` on the Hugging Face Hub.

Examples:

\b
  linearsr models list
  linearsr models info owner/name
  linearsr models download owner/name --to model/     a copy that needs no network
  linearsr models verify owner/name --repair
  linearsr models push runs/mine/export owner/name --dry-run
"""

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="compact, a folder, or a Hub id.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout instead of text.")]

app = typer.Typer(
    name="models",
    cls=HelpGroup,
    help=HELP,
    context_settings=CONTEXT_SETTINGS,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)


class ModelsCommand(HelpCommand):
    """A command of this group.

    Its options are read from LINEARSR_MODELS_NAME_OPTION alone: `--dtype`, `--output` or `--revision` mean something
    else here than in other commands, so one common variable would not fit both.
    """

    def __init__(self, name: str | None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(name, **settings)
        for param in self.params:
            if isinstance(param, TyperOption) and isinstance(param.envvar, list):
                param.envvar = f"LINEARSR_MODELS_{name}_{param.name}".upper()


def _command(name: str, examples: str) -> Any:  # noqa: ANN401
    """Register a command of the group; its help is the docstring and then the examples."""

    def register(function: Any) -> Any:  # noqa: ANN401
        about = "\n".join(line.strip() for line in function.__doc__.splitlines())
        listed = "\n".join(f"  {line}" for line in examples.strip().splitlines())
        text, short = f"{about}\n\nExamples:\n\n\b\n{listed}\n", about.partition("\n")[0]
        settings = {"max_content_width": CONTEXT_SETTINGS["max_content_width"]}
        return app.command(name, cls=ModelsCommand, help=text, short_help=short, context_settings=settings)(function)

    return register


@app.callback()
def models(ctx: typer.Context) -> None:
    """Show the help page when no command is given."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


@_command("list", "linearsr models list\nlinearsr models list -q | xargs -n 1 linearsr models verify")
def list_(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show the bundled model, those in the Hub cache, and presets.

    A table on a terminal; in a pipe one line a model: name, kind, revision, bytes, experts, licence, what a
    preset is made of, with tabs between. -q gives names that other commands take. Nothing is fetched.
    """
    from linearsr.catalogue import list_models
    from linearsr_cli.models_show import show_models

    out = Output(json=json, quiet=quiet)
    listing = list_models()
    show_models(listing.models, out)
    for problem in listing.problems:
        out.warn(clean(problem))


@_command("info", "linearsr models info compact\nlinearsr models info owner/name@v1.0 --json | jq .experts")
def info(model: ModelArgument, json: JsonOption = False) -> None:
    """Show what a model is made of, and which of its files are here.

    Only config.json is fetched, never weights.
    """
    from linearsr.hub import open_model
    from linearsr.model_files import describe_model
    from linearsr.presets import refuse_preset
    from linearsr_cli.models_show import describe_lines

    refuse_preset(model)
    about = describe_model(open_model(model))
    out = Output(json=json)
    out.event({"event": "info", **about})
    if not json:
        for name, value in describe_lines(about):
            out.data(f"{name:14}{clean(value)}")


@_command("path", 'ls -l "$(linearsr models path owner/name)"')
def path_(model: ModelArgument) -> None:
    """Print the folder of a model's files.

    Exit code 5 if nothing of it is here. Nothing is fetched.
    """
    from linearsr.catalogue import local_folder
    from linearsr.hub import find_model

    Output().data(str(local_folder(find_model(model)).absolute()))


@_command(
    "download",
    """linearsr models download owner/name                  into the Hub cache
linearsr models download owner/name --to model/      a folder that needs no network
linearsr models download owner/name --expert 3       all that one step needs""",
)
def download(
    model: ModelArgument,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Copy it there, components included, for use offline.")
    ] = None,
    expert: Annotated[
        list[int] | None, typer.Option("--expert", metavar="N", help="Only this expert; may be given again.")
    ] = None,
    components: Annotated[
        bool, typer.Option("--all/--no-components", help="Also autoencoder, text encoder and tagger from elsewhere.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Fetch a model into the Hub cache, or copy it to a folder.

    Its licence is shown first, the folder printed at the end. What is whole already is not fetched again, so the same
    command goes on where it stopped.
    """
    from linearsr.hub import open_model
    from linearsr.local_copy import copy_model
    from linearsr.model_files import fetch_files, missing_bytes
    from linearsr.presets import refuse_preset

    out = Output(quiet=quiet)
    refuse_preset(model)
    with DownloadBar(out) as bar:
        opened = open_model(model, on_download=bar.update, on_licence=tell_licence(out, model))
        bar.expect(missing_bytes(opened, expert))
        out.info(f"licence of {clean(opened.source.name)}: {clean(opened.config.licence)}")
        if to is None:
            folder = fetch_files(opened, experts=expert, components=components)
        else:
            result = copy_model(opened, to, experts=expert, components=components)
            folder = result.folder
            out.info(f"{len(result.copied)} files copied, {len(result.kept)} were there")
    out.data(str(folder))


@_command(
    "verify",
    """linearsr models verify compact
linearsr models verify owner/name --repair           fetch again what is damaged
linearsr models verify model/ --all                  nothing may be missing""",
)
def verify(
    model: ModelArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch damaged files of the Hub cache again.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="A file that is not here is an error too.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check size and SHA-256 of a model's files.

    Weights of components in the Hub cache are checked too. One line a file; exit code 5 if one is damaged. Experts that
    were never needed are missing, which is no error without --all. Without --repair nothing is fetched.
    """
    from linearsr.catalogue import hub_address
    from linearsr.hub import find_model
    from linearsr.integrity import check_files, repair_file
    from linearsr_cli.models_show import check_event, check_line

    out = Output(json=json, quiet=quiet)
    bad = []
    source = find_model(model)
    for check in check_files(source):
        if repair and check.status == "damaged":
            out.info(f"{clean(check.title)} is damaged, fetching it again")
            with DownloadBar(out) as bar:
                check = repair_file(check, on_download=bar.update)
        if check.status == "damaged" or (all_ and check.status == "missing"):
            bad.append(check.title)
        out.event(check_event(check))
        if not json:
            out.data(check_line(check))
    if bad:
        fetch = f"`linearsr models download {model}` fetches what is missing, --repair what is damaged"
        hint = "copy or fetch the model again" if hub_address(source) is None else fetch
        raise WeightsError(f"{len(bad)} of the files of model {model!r} are not whole: {', '.join(bad)}", hint=hint)


@_command(
    "rm",
    """linearsr models rm owner/name --dry-run
linearsr models rm owner/name@v1.0 --yes             one revision""",
)
def rm(
    model: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Remove a model from the Hub cache.

    A folder of your own and the bundled model are never touched. Prints what went. Autoencoder and text encoder stay,
    since other models may share them: see `hf cache rm`.
    """
    from linearsr.catalogue import plan_removal
    from linearsr_cli.plan_checks import size_text

    out = Output(quiet=quiet)
    removal = plan_removal(model)
    size = size_text(removal.bytes)
    if dry_run:
        out.info(f"would free {size}")
    elif not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError("rm asks before it removes anything, and there is no terminal", hint="add --yes")
        if not typer.confirm(f"remove {len(removal.names)} revisions, {size}?", err=True):
            out.info("nothing was removed")
            raise typer.Exit(ExitCode.NOTHING_DONE)
    if not dry_run:
        removal.execute()
        out.info(f"freed {size}")
    for name in removal.names:
        out.data(name)


_command("convert", CONVERT_EXAMPLES)(convert)
_command("push", PUSH_EXAMPLES)(push)
