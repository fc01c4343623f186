"""`linearsr finetune`: from a model and photographs of one kind to an adapted model, and what that gained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linearsr.errors import ConfigError
from linearsr_cli.commands.train import (
    DataOption,
    DeviceOption,
    HoursOption,
    LpipsOption,
    PrintConfigOption,
    QuietOption,
    Resume,
    SetOption,
    prepare_environment,
    show_progress,
)
from linearsr_cli.errors import ExitCode
from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from linearsr_train.compare import Comparison
    from linearsr_train.finetune import FinetuneResult

__all__ = ["EXAMPLES", "finetune"]

EXAMPLES = """Examples:

\b
  linearsr finetune --data facades/ -o runs/facades                   a LoRA for the bundled model
  linearsr upscale house.jpg --lora runs/facades/lora.safetensors     use it; :0.5 behind it halves it
  linearsr upscale house.jpg --model runs/facades/export              the same as a whole model
  linearsr finetune --from runs/mine/export --data fur/ --val-data fur-test/ -o runs/fur --full

A part of the photographs is held back; at the end they are enlarged by the model before and after. Exit code 3: it got
worse on them (everything is written all the same). The same command again goes on where the run stopped.
"""

DEBUG_OVERRIDES = (
    "stages.experts.max_steps=4", "stages.experts.validation_steps=2", "loop.checkpoint_steps=2", "loop.log_steps=2",
    "loop.validation_photos=2", "loop.batch_size=4",
)  # fmt: skip


def finetune(
    from_: Annotated[str, typer.Option("--from", help="Model to adapt: compact, a folder or a Hub id.")] = "compact",
    data: DataOption = None,
    output_dir: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Run folder: export/, lora.safetensors, comparison.json.")
    ] = Path("runs/finetune"),
    val_data: Annotated[
        Path | None, typer.Option("--val-data", help="Held-back photographs; a fifth of --data without.")
    ] = None,
    lora: Annotated[bool, typer.Option("--lora/--full", help="Low-rank differences, or whole networks.")] = True,
    rank: Annotated[int | None, typer.Option("--rank", help="Of the LoRA, over the recipe.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Scale of the LoRA; the rank without.")] = None,
    experts: Annotated[str | None, typer.Option("--experts", help="Which to train, such as 3,0; all without.")] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-train-steps", help="Steps of each expert, over the recipe.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Over the recipe.")] = None,
    set_: SetOption = None,
    judge: Annotated[str, typer.Option("--judge", help="Measure that decides, a row of the table.")] = "x4/psnr_1",
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto: go on if there is something; latest: insist; never: refuse.")
    ] = Resume.auto,
    max_hours: HoursOption = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of data and LoRA, over the recipe.")] = None,
    device: DeviceOption = "auto",
    lpips_weights: LpipsOption = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Licence of the new weights; the model's own without.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="A few steps, to see that all works.")] = False,
    print_config: PrintConfigOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adapt a model to photographs of one kind, and measure what that gains on some that were held back."""
    prepare_environment()
    from linearsr.config import to_dict
    from linearsr_train.data.split import split_photos
    from linearsr_train.finetune import FULL_OVERRIDES, finetune_config, run_finetune

    out = Output(quiet=quiet)
    if not lora and (rank is not None or alpha is not None):
        raise ConfigError("--rank and --alpha are given with --full, expected --lora", hint="leave them out")
    flags = {
        "experts.lora_rank": rank,
        "experts.lora_alpha": alpha if alpha is not None else None if rank is None else float(rank),
        "stages.experts.max_steps": max_steps,
        "stages.experts.learning_rate": learning_rate,
        "loop.seed": seed,
    }
    overrides = [
        *(() if lora else FULL_OVERRIDES),
        *(DEBUG_OVERRIDES if debug else ()),
        *(() if set_ is None else set_),
    ]
    overrides += [f"{name}={value}" for name, value in flags.items() if value is not None]
    config, checkpoint = finetune_config(from_, overrides)
    if print_config:
        out.data(json.dumps(to_dict(config), indent=2))
        raise typer.Exit(ExitCode.DONE)
    _check(data, max_hours, judge, checkpoint.sampling.steps)
    assert data is not None, "checked"
    chosen = None if experts is None else _numbers(experts)
    split = split_photos(data, val_data, config)
    for note in split.notes:
        out.info(clean(note))
    out.info(
        f"{len(split.training)} photographs to train on, {len(split.watched)} watched, {len(split.held_back)} held back"
    )
    with show_progress(config.loop.log_steps, out) as progress:
        result = run_finetune(
            config, checkpoint, split, output_dir, experts=chosen, resume=resume.value, licence=licence,
            lpips_weights=lpips_weights, max_hours=max_hours, device=device, progress=progress, report=out.info,
        )  # fmt: skip
    if result.export is None:
        out.info(f"stopped in {result.run.stage}, step {result.run.step}; the same command goes on from there")
        raise typer.Exit(ExitCode.DONE if result.run.stop_signal is None else 128 + result.run.stop_signal)
    comparison = _compare((from_, result.export), split.held_back, device, lpips_weights, output_dir, out)
    out.data(str(result.export))
    raise typer.Exit(_judge(comparison, judge, result, out))


def _check(data: Path | None, max_hours: float | None, judge: str, steps: int) -> None:
    if data is None:
        raise ConfigError("--data is missing, expected a folder of photographs", hint="add `--data photos/`")
    if max_hours is not None and not 0 <= max_hours < math.inf:
        raise ConfigError(f"--max-hours is {max_hours:g}, expected a number of hours, 0 or more", hint="leave it out")
    known = [f"{task}/{m}_{n}" for task in ("x4", "real4") for n in sorted({1, steps}) for m in ("psnr", "perceptual")]
    if judge not in known:
        raise ConfigError(f"--judge is {judge!r}, expected one of {', '.join(known)}")


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--experts is {text!r}, expected numbers with commas between, such as 3,0")
    return tuple(int(part) for part in parts)


def _compare(
    models: tuple[str, Path],
    held_back: tuple[Path, ...],
    device: str,
    lpips_weights: Path | None,
    folder: Path,
    out: Output,
) -> Comparison:
    """Run both models on the held-back photographs; the table to stderr, all values to comparison.json."""
    from linearsr.atomic import write_bytes
    from linearsr.metrics import Lpips, gmsd
    from linearsr.pipeline import Upscaler
    from linearsr_train.compare import compare_models

    before, after = (Upscaler.from_pretrained(m, device=device) for m in models)
    out.info(f"comparing on {len(held_back)} held-back photographs")
    comparison = compare_models(
        before, after, held_back,
        perceptual=gmsd if lpips_weights is None else Lpips.from_file(lpips_weights),
        perceptual_name="gmsd" if lpips_weights is None else "lpips-alex-0.1", report=out.warn,
    )  # fmt: skip
    write_bytes(folder / "comparison.json", (json.dumps(comparison.to_dict(), indent=2) + "\n").encode())
    for line in comparison.table():
        out.info(line)
    return comparison


def _judge(comparison: Comparison, judge: str, result: FinetuneResult, out: Output) -> int:
    """Say whether it got better on the measure that decides; gives the exit code."""
    row, count = comparison.row(judge), len(comparison.photographs)
    if result.lora is not None:
        out.info(f"LoRA alone: {result.lora}")
    interval = f"95 % interval {row.low:+.3f} to {row.high:+.3f}"
    found = f"{judge} {row.difference:+.3f} on {count} held-back photographs, {interval}"
    if not result.has_changed:
        out.info("no step was better than the start on the watched photographs, so the model is as it was")
    elif row.verdict == "worse":
        out.warn(f"the model got worse: {found}; it is written all the same")
        return ExitCode.SOME_FAILED
    elif row.verdict == "unclear":
        few = " (too few photographs to say; give more with --val-data)" if count < 5 else ""
        out.info(f"no clear change: {found}{few}")
    else:
        out.info(f"better: {found}")
    return ExitCode.DONE
