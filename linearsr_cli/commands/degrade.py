"""`linearsr degrade`: from clean pictures to pairs, with what was done to each written beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from linearsr.errors import ConfigError
from linearsr_cli import options as o
from linearsr_cli.degrade_plan import DegradeOptions, make_degrade_plan
from linearsr_cli.degrade_run import run_degrade, show_degrade_plan
from linearsr_cli.errors import ExitCode
from linearsr_cli.output import Output

__all__ = ["EXAMPLES", "degrade"]

EXAMPLES = """Examples:

\b
  linearsr degrade photos/ -o LR                              bicubic, a quarter of each side
  linearsr degrade photos/ -o LR --hr-out HR                  and the originals, cropped to fit
  linearsr degrade photos/ -r -o LR --recipe real --seed 3    blur, noise and JPEG; another seed, other draws
  linearsr degrade photos/ -o LR --recipe mine.toml           with settings of your own
  linearsr upscale LR -o SR --tags-from LR/degradation.csv    tell the model what was done

A picture is the same whenever and beside whatever it is made: it depends on its pixels, its file name, recipe, scale
and seed. LR/degradation.csv has a row for each, LR/degradation.json all parameters.
"""

InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUT", help="Clean pictures, folders, or globs in quotes.", show_default=False),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", rich_help_panel=o.FILES, help="Folder for NAME.png and the tables. Required."
    ),
]
HrOutOption = Annotated[
    Path | None,
    typer.Option(
        "--hr-out", metavar="DIR", rich_help_panel=o.FILES, help="Also write the originals, cropped to the scale."
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", rich_help_panel=o.FILES, help="Print what would be done.")]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="bicubic|real|FILE",
        rich_help_panel=o.PICTURE,
        help="real: the chain the models are trained with. FILE: TOML or JSON, also a training recipe.",
    ),
]
ScaleOption = Annotated[
    float,
    typer.Option(
        "--scale",
        "-s",
        metavar="FACTOR",
        rich_help_panel=o.PICTURE,
        parser=o.number,
        help="1 to 64; sides shrink by it.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        rich_help_panel=o.PICTURE,
        parser=o.whole_number,
        help="Another seed, other draws; 0 is that of the benchmarks. No effect on bicubic.",
    ),
]


def degrade(
    inputs: InputsArgument = None,
    output: OutputOption = None,
    hr_out: HrOutOption = None,
    recursive: o.RecursiveOption = False,
    limit: o.LimitOption = None,
    on_exists: o.OnExistsOption = "skip",
    dry_run: DryRunOption = False,
    recipe: RecipeOption = "bicubic",
    scale: ScaleOption = 4.0,
    seed: SeedOption = 0,
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Make low-resolution pictures of clean ones, as in training."""
    if not inputs:
        raise ConfigError(
            "no input given, expected files, folders or globs", hint="try `linearsr degrade photos/ -o LR`"
        )
    if output is None or str(output) == "":
        raise ConfigError("no output folder given, expected --output", hint="try `-o LR`")
    options = DegradeOptions(
        inputs=tuple(inputs),
        output=output,
        hr_out=hr_out,
        recipe=recipe,
        scale=scale,
        seed=seed,
        recursive=recursive,
        on_exists=on_exists,
        limit=limit,
        dry_run=dry_run,
        json=json,
        quiet=quiet,
    )
    raise typer.Exit(run(options))


def run(options: DegradeOptions) -> ExitCode:
    """Plan and do one run.

    Returns:
        The exit code of the finished run.

    Raises:
        LinearSRError: something that ends the run before any picture is made.
    """
    out = Output(json=options.json, quiet=options.quiet)
    require_training()
    plan = make_degrade_plan(options)
    return show_degrade_plan(plan, out) if options.dry_run else run_degrade(plan, options, out)


def require_training() -> None:
    """Check that the training package is there, which owns the degradation.

    Raises:
        ConfigError: it is not, or does not import.
    """
    from linearsr.extras import require

    try:
        require("linearsr_train.data.pairs", "train", "degrading")
    except ConfigError as error:
        hint = "it is part of LinearSR: run `pip install --force-reinstall --no-deps linearsr`"
        raise ConfigError(error.message, hint=hint) from error
