"""`linearsr eval`: score pictures, or what models make, against clean pictures."""

from __future__ import annotations

import typer

from linearsr.errors import ConfigError
from linearsr_cli import options as o
from linearsr_cli import options_eval as e
from linearsr_cli import options_guidance as g
from linearsr_cli import options_runtime as r
from linearsr_cli.errors import ExitCode
from linearsr_cli.eval_settings import EvalOptions, check_eval_options, parse_steps, split_names
from linearsr_cli.help import set_by_environment
from linearsr_cli.output import Output
from linearsr_cli.values import parse_cfg_scale, parse_tile

__all__ = ["EXAMPLES", "eval"]

EXAMPLES = """Examples:

\b
  linearsr eval --sr results/ --hr clean/                     score what is there
  linearsr eval --model compact --hr clean/ --degrade bicubic make, run and score
  linearsr eval --model compact --steps 1,2,4,8 --hr Set5 --hr Set14 --protocol classical-x4 -f md
  linearsr eval --model mine/ --model compact --lr small/ --hr clean/ --tags none
  linearsr eval --sr a=old/ --sr b=new/ --hr clean/ --metrics psnr,ssim,ms_ssim --per-image scores.csv
  linearsr eval --sr new/ --hr clean/ --fail-under 'psnr_y=27,lpips<0.2'     a gate: exit 3
"""


NEED_A_MODEL = ("steps", "tags", "cfg_scale", "color_fix", "tile", "dtype", "offload", "seed")
"""Options that say how a model runs."""


def eval(  # noqa: A001 - the command's name
    ctx: typer.Context,
    hr: e.HrOption,
    sr: e.SrOption = None,
    lr: e.LrOption = None,
    degrade: e.DegradeOption = None,
    degrade_seed: e.DegradeSeedOption = 0,
    scale: e.ScaleOption = None,
    pair_by: e.PairByOption = "name",
    recursive: o.RecursiveOption = False,
    limit: o.LimitOption = None,
    save: e.SaveOption = None,
    model: e.ModelsOption = None,
    steps: e.StepsListOption = None,
    seed: o.SeedOption = 0,
    tags: e.TagsOption = "auto",
    cfg_scale: g.CfgScaleOption = None,
    color_fix: o.ColorFixOption = "auto",
    baseline: e.BaselineOption = None,
    metrics: e.MetricsOption = None,
    color: e.ColorOption = None,
    y_range: e.YRangeOption = None,
    crop_border: e.CropBorderOption = None,
    lpips_weights: e.LpipsOption = None,
    protocol: e.ProtocolOption = None,
    fail_under: e.FailUnderOption = None,
    bootstrap: e.BootstrapOption = 10_000,
    tile: o.TileOption = "auto",
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "auto",
    offload: r.OffloadOption = "none",
    cache: e.CacheOption = True,
    format: e.TableOption = "auto",
    output: e.OutputsOption = None,
    per_image: e.PerImageOption = None,
    differences: e.DifferencesOption = False,
    progress: e.StepsProgressOption = "auto",
    quiet: o.QuietOption = False,
) -> None:
    """Score pictures, or what models make, against clean pictures."""
    given = {name: value for name, value in locals().items() if name != "ctx"}
    if not model:
        _refuse_unused(ctx)
    for name in ("hr", "sr", "lr", "model", "output", "per_image"):
        given[name] = () if given[name] is None else tuple(given[name])
    for name in ("steps", "baseline", "metrics", "fail_under"):
        given[name] = ",".join(given[name]) if given[name] else None  # given twice, both count
    given["steps"] = None if given["steps"] is None else parse_steps(given["steps"])
    given["baseline"] = None if given["baseline"] is None else split_names(given["baseline"])
    given["tile"] = parse_tile(tile)
    given["cfg_scale"] = None if cfg_scale is None else parse_cfg_scale(cfg_scale)
    raise typer.Exit(run(EvalOptions(**given, environment=set_by_environment(ctx))))


def _refuse_unused(ctx: typer.Context) -> None:
    """Refuse options of models where there is none; what the environment sets for all commands is left alone."""
    typed = [name for name in NEED_A_MODEL if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if typed:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in typed)
        raise ConfigError(
            f"{flags} given without --model: what lies in a folder is made already",
            hint="drop them, or give `--model compact` and `--lr` or `--degrade`",
        )


def run(options: EvalOptions) -> ExitCode:
    """Check, plan, score and report one run.

    Returns:
        The exit code: 3 if a picture could not be scored or a threshold of `--fail-under` is missed.

    Raises:
        LinearSRError: something that ends the run before any picture is scored.
    """
    check_eval_options(options)
    out = Output(quiet=options.quiet)
    from linearsr_cli.eval_report import report_evaluation
    from linearsr_cli.eval_run import score

    plan, evaluation = score(options, out)
    return report_evaluation(evaluation, plan.thresholds, options, out)
