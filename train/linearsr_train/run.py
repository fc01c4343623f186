"""One run from a folder of photographs to an export: finds the data, resumes, trains, validates, keeps the best."""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.config import to_dict
from linearsr.device import cpu_has_fast_bf16
from linearsr.errors import TrainingError
from linearsr.metrics import Lpips, gmsd
from linearsr.model.transformer import LinearDiT
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import CropDataset, batches
from linearsr_train.data.sources import PhotoSet, find_photos
from linearsr_train.evaluate import PerceptualFn, ValidationSet, build_validation, validate
from linearsr_train.export import export_compact
from linearsr_train.loop import build_state, train
from linearsr_train.runlog import RunLog
from linearsr_train.state import CHECKPOINT_NAME, TrainState, load_state

__all__ = ["RunResult", "run_training"]

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    finished: bool
    step: int
    export: Path | None
    validation: dict[str, float]
    stop_signal: int | None


class _StopFlag:
    """Set by SIGINT, SIGTERM or a time limit; read by the loop before every step."""

    def __init__(self, max_hours: float | None) -> None:
        self.signal: int | None = None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours

    def __call__(self) -> bool:
        return self.signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals for the time of a run."""

        def handle(number: int, _: FrameType | None) -> None:
            self.signal = number

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _start(state: TrainState, folder: Path, resume: Literal["auto", "latest", "never"]) -> None:
    exists = (folder / CHECKPOINT_NAME).is_file()
    if resume == "latest" or (resume == "auto" and exists):
        load_state(state, folder)
    elif exists:
        raise TrainingError(
            f"{str(folder)!r} already holds a run", hint="use `--resume auto` to go on, or another `--output-dir`"
        )
    elif (folder / "config.json").exists() and not (folder / "log.jsonl").exists():
        raise TrainingError(
            f"{str(folder)!r} holds a config.json that is not of a run, expected a folder for this run alone",
            hint="use another `--output-dir`",
        )


def _read_data(config: TrainConfig, folder: Path, report: Callable[[str], None]) -> tuple[PhotoSet, ValidationSet]:
    """Photographs to train on, and the fixed pictures to validate with."""
    training, held_back = find_photos(folder, config.data.validation_fraction)
    photos = PhotoSet(training, config.data.crop, config.data.cache_gib)
    validation = build_validation(PhotoSet(held_back, config.loop.validation_crop, config.data.cache_gib), config)
    for name, reason in photos.skipped:
        report(f"left out {name}: {reason}")
    return photos, validation


def run_training(
    config: TrainConfig,
    data_folder: Path,
    folder: Path,
    *,
    resume: Literal["auto", "latest", "never"] = "auto",
    lpips_weights: Path | None = None,
    licence: str = "unstated",
    max_hours: float | None = None,
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Train, validate and export; the export always holds the best averaged weights so far.

    Args:
        config: resolved recipe.
        data_folder: photographs, split by hash of the file name.
        folder: run folder: config.json, log.jsonl, last.pt, export/.
        resume: `auto` goes on if there is something, `latest` insists on it, `never` refuses to mix runs.
        lpips_weights: file for `linearsr.metrics.Lpips`; without it the perceptual score is GMSD, and the log says so.
        licence: of the weights that come out.
        max_hours: stop after this time, saving first.
        progress: called with (step, max_steps, values) after every step.
        report: receives one-line messages for a person.

    Raises:
        TrainingError: no data, nothing to resume, or a non-finite loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos, validation = _read_data(config, data_folder, report)
    state = build_state(config)
    _start(state, folder, resume)
    (folder / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
    perceptual, perceptual_name = _perceptual(lpips_weights)
    autoencoder = PixelAutoencoder(config.autoencoder)
    log = RunLog(folder / "log.jsonl")
    log.write("start", step=state.step, photos=len(photos), perceptual=perceptual_name, torch=torch.__version__)
    if config.loop.mixed_precision == "bf16" and not cpu_has_fast_bf16():
        report("warning: this processor emulates bfloat16, which is slow; try --set loop.mixed_precision=no")
    report(f"{len(photos)} photographs, from step {state.step} of {config.loop.max_steps}")
    scores: dict[str, float] = {}

    def on_validation(state: TrainState) -> None:
        nonlocal scores
        network = _averaged(state)
        scores = validate(network, autoencoder, validation, config, perceptual=perceptual)
        log.write("validation", step=state.step, **scores)
        report(f"step {state.step}: " + ", ".join(f"{key} {value:g}" for key, value in scores.items()))
        score = sum(scores[f"{task}/psnr_1"] for task in validation.tasks)
        if score > state.best:
            state.best = score
            summary = _summary(scores, perceptual_name, len(photos))
            export_compact(state, folder / "export", summary=summary, licence=licence)

    stop = _StopFlag(max_hours)
    source = batches(
        CropDataset(photos, config.data, config.loop.seed),
        config.loop.batch_size,
        state.step,
        config.loop.max_steps,
        config.data.num_workers,
    )
    finished = False
    try:
        with stop.listening():
            finished = train(
                state,
                source,
                autoencoder,
                folder,
                log,
                on_validation=on_validation,
                on_progress=None if progress is None else lambda s, v: progress(s.step, config.loop.max_steps, v),
                should_stop=stop,
            )
    finally:
        log.write("end", step=state.step, finished=finished)
        log.close()
    export = folder / "export"
    return RunResult(finished, state.step, export if export.is_dir() else None, scores, stop.signal)


def _perceptual(weights: Path | None) -> tuple[PerceptualFn, str]:
    return (gmsd, "gmsd") if weights is None else (Lpips.from_file(weights), "lpips-alex-0.1")


def _averaged(state: TrainState) -> LinearDiT:
    """A network with the averaged weights."""
    network = LinearDiT(state.config.model)
    network.load_state_dict(state.ema.shadow)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _summary(scores: dict[str, float], perceptual_name: str, photos: int) -> dict[str, Any]:
    return {"validation": scores, "perceptual": perceptual_name, "photographs": photos, "machine": platform.machine()}
