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
    from linearsr_train.run import RunResult

__all__ = ["EXAMPLES", "Resume", "finish", "prepare_environment", "show_progress", "train"]

EXAMPLES = """Examples:

\b
  linearsr train --data photos/ --output-dir runs/mine              every stage of the packaged recipe
  linearsr train --data photos/ --output-dir runs/mine --max-hours 8
  linearsr train --data photos/ --output-dir runs/mine --init compact --set stages.pretrain.max_steps=0
  linearsr train --recipe compact_cpu --set loop.batch_size=8 --print-config
  linearsr train --recipe paper_moe --debug --data photos/ --output-dir runs/try
  linearsr upscale photo.jpg --model runs/mine/export               use what came out

The same command again goes on where the run stopped. Ctrl-C saves first. Several processes: see docs/guides.
"""

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of photographs, searched with its subfolders.")]
RunOption = Annotated[Path, typer.Option("--output-dir", help="Run folder: config, log, stages, samples, export/.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Name of a packaged recipe, or a TOML file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.field=value.")]
LpipsOption = Annotated[
    Path | None, typer.Option("--lpips-weights", help="LPIPS weights for validation and the loss; GMSD without.")
]
LicenceOption = Annotated[str, typer.Option("--licence", help="Licence of the weights, written to the export.")]
HoursOption = Annotated[float | None, typer.Option("--max-hours", help="Save and stop after this time.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")]
PrintConfigOption = Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")]


class Resume(StrEnum):
    """What to do about an earlier run in the folder."""

    auto = "auto"
    latest = "latest"
    never = "never"


class ExpertMode(StrEnum):
    """How experts differ from the shared network."""

    full = "full"
    lora = "lora"


class Precision(StrEnum):
    """Precision of the dense layers."""

    auto = "auto"
    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class ReportTo(StrEnum):
    """Where numbers go beside the JSON lines and CSV tables."""

    auto = "auto"
    tensorboard = "tensorboard"
    none = "none"


def train(
    data: DataOption = None,
    output_dir: RunOption = Path("runs/compact"),
    recipe: RecipeOption = "compact_cpu",
    set_: SetOption = None,
    init: Annotated[
        str | None, typer.Option("--init", help="Start from a model: compact, a folder or a Hub id.")
    ] = None,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto: go on if there is something; latest: insist; never: refuse.")
    ] = Resume.auto,
    max_steps: Annotated[
        int | None, typer.Option("--max-train-steps", help="Length of the pretraining, over the recipe.")
    ] = None,
    max_hours: HoursOption = None,
    expert_mode: Annotated[
        ExpertMode | None, typer.Option("--expert-mode", help="full: a network each; lora: low-rank differences.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Crops a step, over the recipe.")] = None,
    accumulation: Annotated[
        int | None, typer.Option("--gradient-accumulation-steps", help="Parts a batch is computed in.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Of the pretraining, over the recipe.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--mixed-precision", help="auto: bf16 where the device multiplies it.")
    ] = None,
    num_workers: Annotated[int | None, typer.Option("--num-workers", help="Loader processes, over the recipe.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and data, over the recipe.")] = None,
    device: DeviceOption = "auto",
    lpips_weights: LpipsOption = None,
    licence: LicenceOption = "unstated",
    report_to: Annotated[ReportTo, typer.Option("--report-to", help="TensorBoard beside JSONL and CSV.")] = (
        ReportTo.auto
    ),
    debug: Annotated[
        bool, typer.Option("--debug", help="A few steps on four photographs, to see that all works.")
    ] = False,
    print_config: PrintConfigOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model from a folder of photographs: pretraining, experts, fine-tuning, tagger, export.

    Each stage ends at its knee, found on the validation curve, or with its steps; the next one starts from there.
    """
    prepare_environment()
    from linearsr.config import to_dict
    from linearsr_train.config import parse_recipe, read_toml
    from linearsr_train.debug import debug_recipe, debug_split, write_stand_ins

    flags = {
        "init": init,
        "stages.pretrain.max_steps": max_steps,
        "experts.mode": None if expert_mode is None else expert_mode.value,
        "loop.batch_size": batch_size,
        "loop.gradient_accumulation_steps": accumulation,
        "stages.pretrain.learning_rate": learning_rate,
        "loop.mixed_precision": None if precision is None else precision.value,
        "data.num_workers": num_workers,
        "tagger.num_workers": num_workers,
        "loop.seed": seed,
    }
    overrides = [] if set_ is None else list(set_)
    overrides += [f"{name}={_toml(value)}" for name, value in flags.items() if value is not None]
    plain = read_toml(recipe)
    if debug:
        plain = debug_recipe(plain, output_dir, plain.get("init", "") if init is None else init)
    config = parse_recipe(plain, overrides)
    out = Output(quiet=quiet or not first_process())
    if print_config:
        out.data(json.dumps(to_dict(config), indent=2))
        raise typer.Exit(ExitCode.DONE)
    if max_hours is not None and not 0 <= max_hours < math.inf:
        raise ConfigError(f"--max-hours is {max_hours:g}, expected a number of hours, 0 or more", hint="leave it out")
    if data is None:
        raise ConfigError("--data is missing, expected a folder of photographs", hint="add `--data photos/`")
    from linearsr_train.run import run_training

    photos = debug_split(data) if debug else data
    if debug:
        write_stand_ins(config, output_dir)
    with show_progress(config.loop.log_steps, out) as progress:
        result = run_training(
            config, photos, output_dir, resume=resume.value, lpips_weights=lpips_weights, licence=licence,
            max_hours=max_hours, device=device, report_to=report_to.value, progress=progress, report=out.info,
        )  # fmt: skip
    raise typer.Exit(finish(result, output_dir, out))


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


def prepare_environment() -> None:
    """Keep loader processes to one thread each: BLAS reads this at import, and only takes cores from the network."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def first_process() -> bool:
    """Whether this one of the processes that a launcher started speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def finish(result: RunResult, folder: Path, out: Output) -> int:
    """Say how the run ended; the path of a usable export is the product."""
    if result.export is not None and first_process():
        out.data(str(result.export))
    if result.finished:
        return ExitCode.DONE
    where = f"stage {result.stage}, step {result.step}"
    out.info(f"stopped in {where}; the same command goes on from there ({folder})")
    return ExitCode.DONE if result.stop_signal is None else 128 + result.stop_signal


@contextmanager
def show_progress(log_steps: int, out: Output) -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """A bar on a terminal, a plain line every few steps elsewhere, nothing when quiet."""
    if out.quiet or not sys.stderr.isatty():

        def plain(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
            if step % log_steps == 0:
                norm = values["grad_norm"]
                out.info(f"{stage} step {step} of {steps}, loss {values['loss']:.4f}, gradient norm {norm:.3f}")

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"))
        yield lambda stage, step, steps, values: bar.update(
            task, description=stage, completed=step, total=steps, loss=values["loss"]
        )
