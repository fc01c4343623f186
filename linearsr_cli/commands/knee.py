"""`linearsr knee`: what the early-stopping rule says to a curve that was written down."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linearsr.errors import ConfigError
from linearsr_cli import options as o
from linearsr_cli.errors import ExitCode
from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from linearsr_train.curves import Curve
    from linearsr_train.esgf import Esgf

__all__ = ["EXAMPLES", "knee"]

EXAMPLES = """Examples:

\b
  linearsr knee runs/mine                          every stage of a run
  linearsr knee runs/mine --plot knee.png          draw it as well
  linearsr knee curve.csv --perceptual-column lpips_alex
  linearsr knee curve.csv --json | jq .knee

A table needs the columns step, psnr and one of perceptual, lpips, gmsd, dists (lower is better).
"""

SourceArgument = Annotated[
    Path, typer.Argument(metavar="RUN|CSV", help="Folder of a run, or a CSV file with a header.", show_default=False)
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw curves, score, elbow, knee and onset.")
]
PsnrColumnOption = Annotated[str | None, typer.Option("--psnr-column", help="Column of the PSNR, in dB.")]
PerceptualColumnOption = Annotated[
    str | None, typer.Option("--perceptual-column", help="Column of the perceptual score.")
]


def knee(
    source: SourceArgument,
    plot: PlotOption = None,
    psnr_column: PsnrColumnOption = None,
    perceptual_column: PerceptualColumnOption = None,
    json: o.JsonOption = False,
) -> None:
    """Replay a training curve and show its knee.

    The verdict is what `linearsr train` would say: running, knee (it oscillates: stop and go back to the knee), plateau
    (nothing more is gained) or collapse.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot is {str(plot)!r}, expected a name that ends in .png", hint="for example knee.png")
    from linearsr_train.curves import read_curves, read_esgf_config, replay

    curves = read_curves(source, psnr_column=psnr_column, perceptual_column=perceptual_column)
    config = read_esgf_config(source)
    drawn = [(curve, replay(curve, config)) for curve in curves]
    if plot is not None:
        from linearsr_train.plots import draw_curve

        draw_curve(plot, drawn)
    out = Output(json=json)
    for index, (curve, watch) in enumerate(drawn):
        if json:
            out.event(_event(curve, watch))
            continue
        if index > 0:
            out.data("")
        for name, value in _lines(curve, watch):
            out.data(f"{name:16}{clean(value)}")
    if plot is not None:
        out.info(f"wrote {clean(plot)}")
    raise typer.Exit(ExitCode.DONE)


def _event(curve: Curve, watch: Esgf) -> dict[str, Any]:
    return {
        "event": "knee",
        "stage": curve.name,
        **asdict(watch.verdict),
        "evaluations": len(curve.evaluations),
        "judged": len(watch.evaluations),
        "last_step": curve.evaluations[-1].step,
        "stopped_at": _stopped_at(curve, watch),
        "kept_steps": list(watch.kept_steps()),
    }


def _stopped_at(curve: Curve, watch: Esgf) -> int | None:
    """Step of the evaluation at which the verdict was given; None while it runs."""
    if watch.verdict.status == "running":
        return None
    judged = len(watch.evaluations)
    last = curve.evaluations[judged - 1] if judged else curve.evaluations[0]
    following = curve.evaluations[judged] if judged < len(curve.evaluations) else last
    is_failure = watch.verdict.status == "collapse" and following.step == watch.verdict.onset
    return following.step if is_failure else last.step


def _lines(curve: Curve, watch: Esgf) -> list[tuple[str, str]]:
    """Names and values of one stage, for people."""
    verdict, first, last = watch.verdict, curve.evaluations[0].step, curve.evaluations[-1].step
    at = {e.step: f"PSNR {e.psnr:.3f} dB, {curve.perceptual_name} {e.perceptual:.4f}" for e in watch.evaluations}
    lines = [("stage", curve.name), ("verdict", verdict.status), ("reason", verdict.reason)]
    lines.append(("evaluations", f"{len(curve.evaluations)}, steps {first} to {last}"))
    stopped = _stopped_at(curve, watch)
    if stopped is not None:
        lines.append(("stopped at", f"step {stopped}"))
    for name, step in (("onset", verdict.onset), ("elbow (k)", verdict.elbow), ("knee (j)", verdict.knee)):
        if step is not None:
            lines.append((name, f"step {step}, {at[step]}" if step in at else f"step {step}"))
    return lines
