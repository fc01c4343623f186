"""`linearsr train`: from flags to a recipe and a run folder."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linearsr.errors import ConfigError
from linearsr_cli.errors import ExitCode
from linearsr_cli.output import Output

if TYPE_CHECKING:
    from linearsr_train.config import TrainConfig
    from linearsr_train.run import RunResult

__all__ = ["EXAMPLES", "train"]

EXAMPLES = """Examples:

\b
  linearsr train --data photos/ --output-dir runs/mine              the packaged recipe
  linearsr train --data photos/ --output-dir runs/mine --max-hours 8
  linearsr train --recipe compact_cpu --set loop.batch_size=8 --print-config
  linearsr upscale photo.jpg --model runs/mine/export               use what came out

The same command again goes on where the run stopped. Ctrl-C saves first.
"""

DEBUG_OVERRIDES = (
    "loop.max_steps=20", "loop.validation_steps=10", "loop.checkpoint_steps=10", "loop.log_steps=5",
    "loop.validation_photos=2", "loop.batch_size=4",
)  # fmt: skip
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of photographs, searched with its subfolders.")]
RunOption = Annotated[Path, typer.Option("--output-dir", help="Run folder: config, log, checkpoint, export/.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Name of a packaged recipe, or a TOML file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.field=value.")]


class Resume(StrEnum):
    """What to do about an earlier run in the folder."""

    auto = "auto"
    latest = "latest"
    never = "never"


def train(
    data: DataOption = None,
    output_dir: RunOption = Path("runs/compact"),
    recipe: RecipeOption = "compact_cpu",
    set_: SetOption = None,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto: go on if there is something; latest: insist; never: refuse.")
    ] = Resume.auto,
    max_steps: Annotated[
        int | None, typer.Option("--max-train-steps", help="Length of the run, over the recipe.")
    ] = None,
    max_hours: Annotated[float | None, typer.Option("--max-hours", help="Save and stop after this time.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and data, over the recipe.")] = None,
    lpips_weights: Annotated[
        Path | None, typer.Option("--lpips-weights", help="LPIPS weights for validation; GMSD without.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the weights, written to the export.")
    ] = "unstated",
    debug: Annotated[bool, typer.Option("--debug", help="Twenty steps end to end, to see that all works.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
) -> None:
    """Train a model from a folder of photographs.

    This version trains the first stage: one network for all noise levels.
    """
    # Loader processes filter small crops; BLAS threads in them only take the cores from the network. Read at import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from linearsr.config import to_dict
    from linearsr_train.config import load_recipe

    overrides = [*(DEBUG_OVERRIDES if debug else ()), *(set_ if set_ is not None else ())]
    overrides += [f"loop.max_steps={max_steps}"] if max_steps is not None else []
    overrides += [f"loop.seed={seed}"] if seed is not None else []
    config = load_recipe(recipe, overrides)
    out = Output(quiet=quiet)
    if print_config:
        out.data(json.dumps(to_dict(config), indent=2))
        raise typer.Exit(ExitCode.DONE)
    if max_hours is not None and not 0 <= max_hours < math.inf:
        raise ConfigError(f"--max-hours is {max_hours:g}, expected a number of hours, 0 or more", hint="leave it out")
    if data is None:
        raise ConfigError("--data is missing, expected a folder of photographs", hint="add `--data photos/`")
    result = _run(config, data, output_dir, resume, lpips_weights, licence, max_hours, out)
    raise typer.Exit(_finish(result, output_dir, out))


def _run(
    config: TrainConfig,
    data: Path,
    folder: Path,
    resume: Resume,
    lpips_weights: Path | None,
    licence: str,
    max_hours: float | None,
    out: Output,
) -> RunResult:
    from linearsr_train.run import run_training

    with _progress(config.loop.log_steps, out) as progress:
        return run_training(
            config,
            data,
            folder,
            resume=resume.value,
            lpips_weights=lpips_weights,
            licence=licence,
            max_hours=max_hours,
            progress=progress,
            report=out.info,
        )


def _finish(result: RunResult, folder: Path, out: Output) -> int:
    """Say how the run ended; the path of a usable export is the product."""
    if result.export is not None:
        out.data(str(result.export))
    if result.finished:
        return ExitCode.DONE
    out.info(f"stopped at step {result.step}; the same command goes on from there ({folder})")
    return ExitCode.DONE if result.stop_signal is None else 128 + result.stop_signal


@contextmanager
def _progress(log_steps: int, out: Output) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar on a terminal, a plain line every few steps elsewhere, nothing when quiet."""
    if out.quiet or not sys.stderr.isatty():

        def plain(step: int, steps: int, values: dict[str, float]) -> None:
            if step % log_steps == 0:
                out.info(f"step {step} of {steps}, loss {values['loss']:.4f}, gradient norm {values['grad_norm']:.3f}")

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"))
        yield lambda step, steps, values: bar.update(task, completed=step, total=steps, loss=values["loss"])
