"""`linearsr upscale`: from flags to `UpscaleOptions`, then plan, then work."""

from __future__ import annotations

import typer

from linearsr_cli import options as o
from linearsr_cli import options_guidance as g
from linearsr_cli import options_runtime as r
from linearsr_cli.errors import ExitCode
from linearsr_cli.output import Output
from linearsr_cli.settings import UpscaleOptions, check_options
from linearsr_cli.values import parse_cfg_scale, parse_lora, parse_tile, parse_vae_tile

__all__ = ["EXAMPLES", "upscale"]

EXAMPLES = """Examples:

\b
  linearsr upscale photo.jpg                        writes photo_x4.jpg
  linearsr upscale photo.jpg -s 2 -o big.png        twice as large, as PNG
  linearsr upscale old.jpg -s 1 --tags jpeg         restore only
  linearsr upscale *.jpg --long-side 3840 -o 4k/    fit a 4K screen
  linearsr upscale holiday/ -r -o large/            a tree; run again to resume
  linearsr upscale holiday/ -r -o large/ --dry-run  what would be done?
  linearsr upscale photo.jpg --compare side.png     beside bicubic
  curl -s URL | linearsr upscale - -o - -f png > big.png
  find holiday -name '*.jpg' -print0 | xargs -0 linearsr upscale -o out --json
"""


def upscale(
    inputs: o.InputsArgument = None,
    more_inputs: o.InputOption = None,
    output: o.OutputOption = None,
    recursive: o.RecursiveOption = False,
    files_from: o.FilesFromOption = None,
    null: o.NullOption = False,
    limit: o.LimitOption = None,
    suffix: o.SuffixOption = None,
    on_exists: o.OnExistsOption = "skip",
    on_error: o.OnErrorOption = "continue",
    dry_run: o.DryRunOption = False,
    compare: o.CompareOption = None,
    scale: o.ScaleOption = None,
    size: o.SizeOption = None,
    long_side: o.LongSideOption = None,
    model: o.ModelOption = "compact",
    steps: o.StepsOption = None,
    seed: o.SeedOption = 0,
    tags: g.TagsOption = None,
    negative_tags: g.NegativeTagsOption = None,
    tagger: g.TaggerOption = "auto",
    tag_vocabulary: g.TagVocabularyOption = None,
    tags_from: g.TagsFromOption = None,
    save_tags: g.SaveTagsOption = None,
    cfg_scale: g.CfgScaleOption = None,
    lora: g.LoraOption = None,
    alpha: o.AlphaOption = "auto",
    color_fix: o.ColorFixOption = "auto",
    color_strength: o.ColorStrengthOption = 1.0,
    tile: o.TileOption = "auto",
    tile_overlap: o.TileOverlapOption = None,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "auto",
    batch_size: o.BatchSizeOption = 1,
    offload: r.OffloadOption = "none",
    compile: r.CompileOption = False,
    vae_tile: r.VaeTileOption = "auto",
    format: o.FormatOption = "auto",
    quality: o.QualityOption = 95,
    lossless: o.LosslessOption = False,
    bit_depth: o.BitDepthOption = "auto",
    metadata: o.MetadataOption = "keep",
    progress: o.ProgressOption = "auto",
    json: o.JsonOption = False,
    print0: o.Print0Option = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = 0,
) -> None:
    """Enlarge and restore photographs."""
    given = dict(locals())
    given["inputs"] = tuple(name for names in (inputs, given.pop("more_inputs")) if names is not None for name in names)
    given["tile"], given["vae_tile"] = parse_tile(tile), parse_vae_tile(vae_tile)
    given["cfg_scale"] = None if cfg_scale is None else parse_cfg_scale(cfg_scale)
    given["lora"] = None if lora is None else tuple(parse_lora(text) for text in lora)
    raise typer.Exit(run(UpscaleOptions(**given)))


def run(options: UpscaleOptions) -> ExitCode:
    """Check, plan and do one run.

    Returns:
        The exit code of the finished run.

    Raises:
        LinearSRError: something that ends the run before any file is done.
    """
    check_options(options)
    out = Output(
        json=options.json,
        quiet=options.quiet,
        verbose=options.verbose,
        print0=options.print0,
        stdout_is_picture=options.output == "-",
    )
    from linearsr_cli.job import run_job
    from linearsr_cli.plan import make_plan, show_plan
    from linearsr_cli.stdio import spooled_stdin

    if options.verbose > 1:
        _show_library_log()
    with spooled_stdin("-" in options.inputs) as stdin_file:
        plan = make_plan(options, stdin_file, out)
        return show_plan(plan, out) if options.dry_run else run_job(plan, options, out)


def _show_library_log() -> None:
    """Send the library's own log to stderr."""
    import logging

    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("linearsr").setLevel(logging.DEBUG)
