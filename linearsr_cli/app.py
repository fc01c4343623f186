"""The `linearsr` program: the table of commands and the one place where errors become exit codes.

A command's module is imported only when that command runs, so `linearsr --help` costs no more than Typer itself and a
command that is not installed is simply not listed. Such a module holds either `app`, a `typer.Typer`, or a function
with the command's name and, if it likes, its `EXAMPLES` text.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from typing import Annotated, Any

import typer
import typer.main

from linearsr_cli.errors import ExitCode, exit_code_of, report
from linearsr_cli.help import CONTEXT_SETTINGS, HelpCommand, HelpGroup
from linearsr_cli.signals import Stopped, StopSignals

__all__ = ["COMMANDS", "app", "main", "program"]

COMMANDS: dict[str, tuple[str, str]] = {
    "upscale": ("linearsr_cli.commands.upscale", "Enlarge and restore photographs."),
    "train": ("linearsr_cli.commands.train", "Train a model from a recipe."),
    "finetune": ("linearsr_cli.commands.finetune", "Adapt a model to photographs of one kind."),
    "eval": ("linearsr_cli.commands.eval", "Score pictures or models against clean pictures."),
    "knee": ("linearsr_cli.commands.knee", "Replay a training curve and show its knee."),
    "degrade": ("linearsr_cli.commands.degrade", "Make low-resolution pictures of clean ones."),
    "compare": ("linearsr_cli.commands.compare", "Show pictures side by side, and where they differ."),
    "models": ("linearsr_cli.commands.models", "List, fetch, check, convert and publish models."),
    "doctor": ("linearsr_cli.commands.doctor", "Show versions, devices and memory, and try a small picture."),
}
"""Command -> module and one line of help. A module that does not exist is left out."""

HELP = """Photorealistic super-resolution at linear cost.

Examples:

\b
  linearsr upscale photo.jpg                  writes photo_x4.jpg beside it
  linearsr upscale holiday/ -r -o large/      a whole tree
  linearsr doctor                             is everything in place?

Results (paths, JSON lines) go to stdout, everything else to stderr. Exit codes: 0 done, 1 unexpected error,
2 usage, 3 some files failed, 4 nothing done, 5 weights, 6 device or memory, 130 and 143 interrupted.
Options, but for repeatable ones, can be set in the environment, for example LINEARSR_TILE_OVERLAP=64;
LINEARSR_DEBUG=1 shows tracebacks.
"""


class LazyGroup(HelpGroup):
    """Finds commands in `COMMANDS` and imports the one that is asked for."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        # Known names serve the "did you mean" of a misspelt command; `get_command` never takes one from here.
        self.commands = {name: self._stub(name) for name in COMMANDS if _is_installed(name)}

    @staticmethod
    def _stub(name: str) -> HelpCommand:
        return HelpCommand(name, short_help=COMMANDS[name][1])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - Typer's classes are private
        """The command of that name, built from its module; None if there is none."""
        return _build(cmd_name) if cmd_name in self.commands else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the list of commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.commands])


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(COMMANDS[name][0]) is not None


def _build(name: str) -> Any:  # noqa: ANN401
    """Import a command's module and make the command that Typer runs."""
    module = importlib.import_module(COMMANDS[name][0])
    single = getattr(module, "app", None)
    if single is None:
        function = getattr(module, name.replace("-", "_"))
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        text = f"{inspect.getdoc(function)}\n\n{getattr(module, 'EXAMPLES', '')}"
        settings = {"max_content_width": CONTEXT_SETTINGS["max_content_width"]}
        single.command(name, cls=HelpCommand, help=text, context_settings=settings)(function)
    command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    name="linearsr",
    cls=LazyGroup,
    help=HELP,
    context_settings=CONTEXT_SETTINGS,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from linearsr import __version__

        typer.echo(f"linearsr {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Show the help page when no command is given."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; the `linearsr` console script.

    Args:
        arguments: as in `sys.argv[1:]`, which is the default.

    Returns:
        The exit code. Errors are on stderr by then; no traceback unless `LINEARSR_DEBUG=1`.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names that are not valid Unicode come out as they are
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdout else "backslashreplace")
    try:
        with StopSignals():
            result = app(args=arguments, prog_name="linearsr", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except Stopped as stop:
        sys.stderr.write("interrupted\n")
        return stop.exit_code
    except BrokenPipeError:
        # The reader of stdout went away; closing it again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNEXPECTED
    except Exception as error:
        report(error)
        return exit_code_of(error)


def program() -> None:
    """The `linearsr` console script."""
    code = main()
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        # A thread may be reading or fetching an expert, which the interpreter would wait for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
