"""`linearsr compare`: pictures of several methods beside each other, for the eye."""

from __future__ import annotations

import typer

from linearsr_cli import options as o
from linearsr_cli import options_compare as c
from linearsr_cli.compare_settings import CompareOptions, check_compare_options, parse_bytes, parse_inputs, parse_zoom
from linearsr_cli.errors import ExitCode
from linearsr_cli.options_eval import LpipsOption, PairByOption
from linearsr_cli.output import Output

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """Examples:

\b
  linearsr compare before.png after.png -o sheet.png
  linearsr compare bicubic/ mine/ theirs/ --hr clean/ -o sheet.png    with scores
  linearsr compare mine/ theirs/ --lr inputs/ -o report.html          a page with a slider
  linearsr compare "1 step=mine/" "mine, 4 steps=theirs/" --limit 4 -o sheet.png
  linearsr compare a.png b.png -o - | display

A sheet shows whole pictures, a map of how much each differs from the first column, and the places where they
differ most, zoomed. Smaller pictures are enlarged by bicubic, and their label says so.
"""


def compare(
    inputs: c.ComparedArgument,
    output: c.ComparisonOption,
    hr: c.HrOption = None,
    lr: c.LrOption = None,
    pair_by: PairByOption = "name",
    recursive: c.RecursiveOption = False,
    limit: o.LimitOption = None,
    on_exists: c.OnExistsOption = "error",
    labels: c.LabelsOption = None,
    title: c.TitleOption = None,
    places: c.PlacesOption = 3,
    crop: c.CropOption = 96,
    zoom: c.ZoomOption = None,
    rows: c.RowsOption = None,
    max_size: c.MaxSizeOption = None,
    metrics: c.MetricsOption = None,
    crop_border: c.CropBorderOption = None,
    lpips_weights: LpipsOption = None,
    progress: o.ProgressOption = "auto",
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Show pictures side by side, with the places where they differ most, on sheets or a page."""
    paths, names = parse_inputs(inputs, labels)
    options = CompareOptions(
        inputs=paths,
        output=output,
        hr=hr,
        lr=lr,
        pair_by=pair_by,
        recursive=recursive,
        limit=limit,
        on_exists=on_exists,
        labels=names,
        title=title,
        places=places,
        crop=crop,
        zoom=parse_zoom(zoom),
        rows=rows,
        max_bytes=None if max_size is None else parse_bytes(max_size),
        metrics=metrics,
        crop_border=crop_border,
        lpips_weights=lpips_weights,
        progress=progress,
        json=json,
        quiet=quiet,
    )
    raise typer.Exit(run(options))


def run(options: CompareOptions) -> ExitCode:
    """Check, plan and make one comparison.

    Returns:
        The exit code of the finished run.

    Raises:
        LinearSRError: something that ends the run before it has begun, or the result cannot be written.
    """
    check_compare_options(options)
    out = Output(json=options.json, quiet=options.quiet, stdout_is_picture=options.output == "-")
    from linearsr_cli.compare_job import check_output_files, run_comparison
    from linearsr_cli.compare_plan import make_compare_plan

    plan = make_compare_plan(options)
    check_output_files(plan, options)
    return run_comparison(plan, options, out)
