"""One run from a folder of photographs to an export: every stage in order, each resumed or skipped as it stands."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from linearsr.atomic import write_bytes
from linearsr.errors import ConfigError
from linearsr.hub import open_model
from linearsr.metrics import Lpips, gmsd
from linearsr.tags.compact import TAGGER_NAME
from linearsr_train.components import find_components
from linearsr_train.config import TrainConfig
from linearsr_train.context import Progress, Run, open_latents
from linearsr_train.data.sidecar import read_content
from linearsr_train.data.sources import PhotoSet, find_photos
from linearsr_train.distributed import any_rank, build_accelerator
from linearsr_train.evaluate import PerceptualFn, autoencoder_ceiling, build_validation
from linearsr_train.experts import Stage, plan_stages, read_json, stage_folder
from linearsr_train.export import export_experts, export_run
from linearsr_train.loop import LossTerms
from linearsr_train.progress import draw_curves, say_throughput
from linearsr_train.rerun import Resume, check_folder, reopen_longer, sweep
from linearsr_train.runlog import RunLog, wants_tensorboard
from linearsr_train.stage import StageOutcome, run_stage
from linearsr_train.state import plain_config
from linearsr_train.stop import StopFlag
from linearsr_train.tagger import train_tagger
from linearsr_train.weights import DONE_NAME, START_NAME, WeightBook

__all__ = ["RunResult", "run_training"]

UNSTATED = "unstated"
Split = tuple[Sequence[Path], Sequence[Path]]
"""Photographs to train on, and those held back."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    finished: bool
    stage: str | None
    """Stage it stopped in; None when all are done."""
    step: int
    """Steps taken in that stage."""
    export: Path | None
    validation: dict[str, float]
    """Scores of the last finished stage."""
    stop_signal: int | None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each finished stage says of itself (`done.json`)."""


def _lpips(config: TrainConfig, weights: Path | None, device: torch.device) -> Lpips | None:
    if weights is not None:
        return Lpips.from_file(weights).to(device)
    if config.experts.perceptual_weight > 0:
        raise ConfigError(
            f"experts.perceptual_weight is {config.experts.perceptual_weight:g}, which needs LPIPS weights",
            hint="give them with `--lpips-weights FILE`, or set the weight to 0",
        )
    return None


def _fall_back(run: Run, stage: Stage) -> bool:
    """Make an expert start again from the elbow if it went wrong soon after the knee; whether that is to be done.

    Decided by what is on the disk alone, so that a run killed in between comes to the same.
    """
    folder, pretrain = stage_folder(run.folder, stage), run.folder / "stages" / "pretrain"
    if stage.kind != "expert" or (folder / START_NAME).is_file():
        return False
    done, elbow = read_json(folder / DONE_NAME), read_json(pretrain / DONE_NAME).get("verdict", {}).get("elbow")
    soon = done["steps"] <= run.config.experts.fall_back_steps
    got_worse = done["ending"] == "collapse" or (done["chosen"] == 0 and done["ending"] == "knee")
    path = pretrain / "keep" / f"step-{elbow or 0:08d}.safetensors"
    if not (soon and got_worse) or elbow is None or elbow == read_json(pretrain / DONE_NAME)["chosen"]:
        return False
    found = path.is_file()
    run.accelerator.wait_for_everyone()  # until all have read what is about to go
    if run.accelerator.is_main_process and found:
        (folder / DONE_NAME).unlink()  # first: a stage that is half removed is not done
        shutil.rmtree(folder)
        folder.mkdir()
        write_bytes(folder / START_NAME, json.dumps({"elbow_file": f"keep/{path.name}", "elbow": elbow}).encode())
        run.log.write("fall_back", stage=stage.name, ending=done["ending"], elbow=elbow)
    run.accelerator.wait_for_everyone()
    run.report(f"{stage.name} went wrong within {done['steps']} steps: starting again from the elbow, step {elbow}")
    return found


def _train_tagger(run: Run, data: tuple[PhotoSet, PhotoSet], stop: Callable[[], bool]) -> tuple[Path | None, bool]:
    """(tagger file or None, whether all is done); trained by the first process alone."""
    config, folder = run.config, run.folder / "stages" / "tagger"
    path = folder / TAGGER_NAME
    if config.tagger.max_steps == 0:
        return None, True
    finished = True
    if run.accelerator.is_main_process and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        photos, held_back = data
        result = train_tagger(
            photos, held_back, config.tagger, config.data.degradation, folder,
            seed=config.loop.seed, report=run.report, should_stop=stop,
        )  # fmt: skip
        finished = result is not None
        if result is not None:
            run.log.write("tagger", **result.summary())
    finished = not any_rank(run.accelerator, not finished)
    return (path if path.is_file() else None), finished


def run_training(
    config: TrainConfig,
    data: Path | Split,
    folder: Path,
    *,
    resume: Resume = "auto",
    lpips_weights: Path | None = None,
    licence: str = UNSTATED,
    max_hours: float | None = None,
    device: str = "auto",
    report_to: Literal["auto", "tensorboard", "none"] = "auto",
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Train all stages, then the tagger, and export; the export always holds the best averaged weights so far.

    Args:
        config: resolved recipe.
        data: folder of photographs, split by hash of the file name, or the two parts themselves (to train on, held
            back); content tags in a text file beside a photograph.
        folder: run folder: config.json, log.jsonl, stages/, samples/, curves.png, export/.
        resume: `auto` goes on if there is something, `latest` insists on it, `never` refuses to mix runs.
        lpips_weights: file for `linearsr.metrics.Lpips`; without it the perceptual score is GMSD, and the log says so.
        licence: of the weights that come out; `unstated` is that of the model they start from, which binds them.
        max_hours: stop after this time, saving first.
        device: `auto`, `cpu`, `cuda`, ...
        report_to: `auto` writes TensorBoard files where it is installed.
        progress: called with (stage, step, max_steps, values) after every step.
        report: receives one-line messages for a person.

    Raises:
        TrainingError: no data, nothing to resume, or a loss that is not finite with nothing to go back to.
        ConfigError: a setting that does not fit, or a missing package.
    """
    loop = config.loop
    accelerator = build_accelerator(mixed_precision=loop.mixed_precision, strategy=loop.strategy, device=device)
    say = report if accelerator.is_main_process else lambda _: None
    check_folder(config, folder, resume)
    accelerator.wait_for_everyone()
    lpips = _lpips(config, lpips_weights, accelerator.device)
    if licence == UNSTATED and config.init:
        licence = open_model(config.init).config.licence
    photos, checked = _read_photos(config, data, say)
    perceptual: PerceptualFn = gmsd if lpips is None else lpips
    components = find_components(config)
    latents, prompts = open_latents(config, components, accelerator, (photos, checked), say)
    log = RunLog(folder, tensorboard=wants_tensorboard(report_to), enabled=accelerator.is_main_process)
    if (
        accelerator.is_main_process
    ):  # after the log: a config alone, left by a kill between the two, would be taken for another program's
        write_bytes(folder / "config.json", (json.dumps(plain_config(config), indent=2) + "\n").encode())
    book = WeightBook(config, folder)
    stop = StopFlag(max_hours)
    summary = {
        "perceptual": "gmsd" if lpips is None else "lpips-alex-0.1",
        "photographs": len(photos),
        "machine": f"{platform.machine()}, {accelerator.device.type}, {accelerator.num_processes} process(es)",
    }

    def on_improved(ema: Mapping[str, Any], scores: dict[str, float]) -> None:
        if not book.has_experts:
            told = {**summary, "validation": scores}
            export_experts(config, [ema], folder / "export", summary=told, licence=licence, components=components)

    run = Run(
        config=config, folder=folder, photos=photos, prompts=prompts, components=components,
        content={} if prompts is not None else read_content(photos, config.data.content_tags),
        validation=build_validation(checked, config, prompts), terms=LossTerms(latents), lpips=lpips,
        perceptual=perceptual, accelerator=accelerator, log=log, book=book, should_stop=stop, progress=progress,
        report=say, on_improved=on_improved,
    )  # fmt: skip
    log.write("start", photos=len(photos), left_out=len(photos.skipped), torch=torch.__version__,
              precision=accelerator.mixed_precision, **summary)  # fmt: skip
    say(f"{len(photos)} photographs, {accelerator.num_processes} process(es) on {accelerator.device.type}, "
        f"precision {accelerator.mixed_precision}; the perceptual score is {summary['perceptual']}")  # fmt: skip
    _measure_ceiling(run, summary)
    try:
        with stop.listening():
            result = _run_all(run, (photos, checked), summary, licence, stop)
        # A process that left before the first one has exported would make a launcher end them all.
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return result
    finally:
        log.close()


def _read_photos(config: TrainConfig, data: Path | Split, say: Callable[[str], None]) -> tuple[PhotoSet, PhotoSet]:
    """Photographs to train on and to validate with; those that are left out are said."""
    training, held_back = find_photos(data, config.data.validation_fraction) if isinstance(data, Path) else data
    photos = PhotoSet(list(training), config.data.crop, config.data.cache_gib)
    checked = PhotoSet(list(held_back), config.loop.validation_crop, config.data.cache_gib)
    for name, reason in (*photos.skipped, *checked.skipped):
        say(f"left out {name}: {reason}")
    return photos, checked


def _measure_ceiling(run: Run, summary: dict[str, Any]) -> None:
    """Say once what a learned autoencoder leaves of the originals, which no network in its latent can better."""
    latents = run.terms.latents
    if latents.is_lossless or not run.accelerator.is_main_process:
        return
    found = autoencoder_ceiling(latents, run.validation, perceptual=run.perceptual, device=run.accelerator.device)
    summary["autoencoder_ceiling"] = found
    run.log.write("ceiling", **found)
    run.report(f"the autoencoder alone: PSNR {found['psnr']:.3f} dB, perceptual {found['perceptual']:.4f}")


def _run_all(
    run: Run, data: tuple[PhotoSet, PhotoSet], summary: dict[str, Any], licence: str, stop: StopFlag
) -> RunResult:
    config, folder, main = run.config, run.folder, run.accelerator.is_main_process
    if main:
        sweep(folder)
        reopen_longer(config, folder)
    run.accelerator.wait_for_everyone()
    export = folder / "export"
    scores: dict[str, float] = {}

    def exported(tagger: Path | None) -> Path | None:
        stages = {s.name: read_json(stage_folder(folder, s) / DONE_NAME) for s in plan_stages(config)}
        full = {**summary, "stages": {name: done for name, done in stages.items() if done}, "validation": scores}
        if main:
            export_run(config, run.book, export, summary=full, licence=licence, tagger=tagger,
                       components=run.components)  # fmt: skip
        run.accelerator.wait_for_everyone()
        return export if export.is_dir() else None

    def result(finished: bool, stage: str | None, step: int) -> RunResult:
        done = {s.name: read_json(stage_folder(folder, s) / DONE_NAME) for s in plan_stages(config)}
        where = {} if stage is None else {"stage": stage, "step": step}
        run.log.write("end", **where, finished=finished)
        return RunResult(
            finished, stage, step, export if export.is_dir() else None, scores, stop.signal,
            {name: entry for name, entry in done.items() if entry},
        )  # fmt: skip

    for stage in plan_stages(config):
        outcome: StageOutcome | None = None
        while not run.book.is_done(stage.name) or _fall_back(run, stage):
            outcome = run_stage(run, stage)
            if outcome.ending == "stopped":
                return result(False, stage.name, outcome.step)
        scores = read_json(stage_folder(folder, stage) / DONE_NAME).get("scores", scores)
        if outcome is not None:
            say_throughput(run, stage)
            exported(None)
            draw_curves(run, stage)
    tagger, finished = _train_tagger(run, data, stop)
    if not finished:
        return result(False, "tagger", 0)
    exported(tagger)
    draw_curves(run)
    return result(True, None, 0)
