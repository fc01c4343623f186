"""Help pages in plain text: examples first, options in sections, the same on every run.

Typer's own page draws boxes with rich, which costs 40 ms and reads badly when piped; its option list is unsorted.
"""

from __future__ import annotations

import os
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

__all__ = ["CONTEXT_SETTINGS", "HelpCommand", "HelpGroup", "hyphens", "set_by_environment"]

ENV_PREFIX = "LINEARSR"
RESERVED = ("LINEARSR_CACHE", "LINEARSR_DATA", "LINEARSR_DEBUG")
"""Variables with a meaning of their own: folder of what can be made again, photographs for the tests, tracebacks."""
OWN_MEANING = ("LINEARSR_EVAL_FORMAT",)
"""Options that share only their name with those of other commands: these have the long variable alone."""


def set_by_environment(ctx: Any) -> tuple[str, ...]:  # noqa: ANN401 - Typer's classes are private
    """Options that a variable has set and the command line has not, each as "LINEARSR_STEPS=1", by name."""
    found = []
    for param in ctx.command.params:
        if getattr(ctx.get_parameter_source(param.name), "name", "") == "ENVIRONMENT":
            names = [param.envvar] if isinstance(param.envvar, str) else param.envvar
            name = next(name for name in names if os.environ.get(name))
            found.append(f"{name}={os.environ[name]}")
    return tuple(sorted(found))


def hyphens(name: str) -> str:
    """Let `--tile_size` stand for `--tile-size`, as research scripts write it."""
    return name.replace("_", "-")


CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": hyphens,
}
"""For the root command; its children inherit all but the width."""


class HelpCommand(TyperCommand):
    """A command whose options stand in sections, by their `rich_help_panel`, and have environment variables.

    An option `--tile-overlap` of `upscale` is read from LINEARSR_UPSCALE_TILE_OVERLAP, then LINEARSR_TILE_OVERLAP.
    """

    def __init__(self, name: str | None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(name, **settings)
        command = hyphens(name if name is not None else "").replace("-", "_").upper()
        for param in self.params:
            if isinstance(param, TyperOption) and param.envvar is None and not param.multiple:
                option = param.name.upper()
                long, short = f"{ENV_PREFIX}_{command}_{option}", f"{ENV_PREFIX}_{option}"
                param.envvar = [long] if short in RESERVED or long in OWN_MEANING else [long, short]
                param.show_envvar = False

    def get_help_option_names(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Names in a fixed order; the base class takes them from a set."""
        return sorted(super().get_help_option_names(ctx), key=len)

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's classes are private
        """Write arguments, then one section of options after another."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                sections.setdefault("Arguments", []).append((param.metavar or param.name.upper(), record[1]))
                continue
            title = getattr(param, "rich_help_panel", None)
            sections.setdefault("Options" if title is None else title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class HelpGroup(TyperGroup):
    """A group with its help option in a fixed order."""

    def get_help_option_names(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Names in a fixed order; the base class takes them from a set."""
        return sorted(super().get_help_option_names(ctx), key=len)
