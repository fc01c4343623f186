"""The training loop of a stage: plain functions over a `TrainState`, nothing to subclass.

Every process draws the times and the noise of the whole batch from the same generator and takes its own rows, so that
the loss does not depend on how many processes share the batch, nor on how many parts it is accumulated from.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.denoiser import apply_network
from linearsr.flow import add_noise, x0_from_v
from linearsr_train.data.batches import Batch
from linearsr_train.distributed import any_rank, clip_gradients, mean_over_ranks, rank_slice, unwrap
from linearsr_train.latents import Latents, latents_of
from linearsr_train.losses import draw_times, perceptual_term, velocity_loss, x0_loss
from linearsr_train.runlog import RunLog
from linearsr_train.stage_config import StageConfig
from linearsr_train.state import TrainState, save_state

__all__ = ["Ending", "LossTerms", "learning_rate", "train", "train_step"]

NORM_HISTORY = 200
Ending = Literal["budget", "knee", "plateau", "collapse", "stopped"]
DistanceFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LossTerms:
    """What turns a batch into a loss, beside the network."""

    autoencoder: PixelAutoencoder | Latents
    """Or what else the family has between pictures and network; see `latents.py`."""
    perceptual: DistanceFn | None = None
    """LPIPS of the decoded prediction, (B, 3, H, W) twice -> (B,); None leaves the term out."""

    @property
    def latents(self) -> Latents:
        """The family's way between batches and the network."""
        return latents_of(self.autoencoder)


def learning_rate(step: int, settings: StageConfig) -> float:
    """Warm-up, constant, then linear to zero over the last `decay_fraction` of the stage."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = (settings.max_steps - step) / max(1.0, settings.decay_fraction * settings.max_steps)
    return settings.learning_rate * warm * min(1.0, max(0.0, left))


def _rows(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """Some samples of a batch, on the device of the network."""
    names = ("hr", "lr_up", "scale", "tags", "tag_mask", *(() if batch.lr is None else ("lr",)))
    return replace(batch, **{name: getattr(batch, name)[rows].to(device, non_blocking=True) for name in names})


def _forward(state: TrainState, batch: Batch, t: Tensor, eps: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """Loss of a batch, with its unweighted squared errors."""
    config, latents = state.config, terms.latents
    x0 = latents.encode(batch)
    x_t = add_noise(x0, eps, t)
    if config.flow.prediction == "x0":
        # At t = 1 the state is fed as zeros, in training as in sampling: it tells nothing of the picture.
        x_t = torch.where(t.view(-1, 1, 1, 1) >= 1.0, torch.zeros((), device=x_t.device), x_t)
    cond = latents.condition(batch)
    with state.accelerator.autocast():
        out = apply_network(state.model, config.flow, x_t, t, cond)
    if config.flow.prediction == "v":
        loss, squared = velocity_loss(out, x0, eps)
    else:
        loss, squared = x0_loss(out, x0, t, config.loss.max_weight)
    if terms.perceptual is not None:
        sr = latents.decode(out if config.flow.prediction == "x0" else x0_from_v(x_t, out, t), batch)
        loss = loss + config.experts.perceptual_weight * perceptual_term(terms.perceptual, sr, batch.hr, t)
    return loss, squared


def _draw(state: TrainState, batch: Batch, factor: int) -> tuple[Tensor, Tensor]:
    """Times and noise of this process's rows of the global batch."""
    config, accelerator = state.config, state.accelerator
    total = config.loop.batch_size
    t = draw_times(total, config.loss, state.generator, state.stage.interval)
    shape = (total, config.model.in_channels, batch.hr.shape[2] // factor, batch.hr.shape[3] // factor)
    eps = torch.randn(shape, generator=state.generator)
    rows = rank_slice(accelerator, total)
    return t[rows], eps[rows]


def _accumulate(state: TrainState, batch: Batch, terms: LossTerms) -> tuple[float, Tensor, Tensor]:
    """Gradients of a batch; its mean loss over all processes, times and squared errors of this one.

    A loss that is not finite anywhere ends the accumulation everywhere, before its gradient is formed.
    """
    accelerator, parts = state.accelerator, state.config.loop.gradient_accumulation_steps
    t, eps = _draw(state, batch, terms.latents.factor)
    size = t.shape[0] // parts
    losses, errors = [], []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        own = _rows(batch, rows, accelerator.device)
        with accelerator.no_sync(state.model) if part < parts - 1 else nullcontext():
            loss, squared = _forward(state, own, t[rows].to(own.hr.device), eps[rows].to(own.hr.device), terms)
            losses.append(float(loss.detach()))
            errors.append(squared.cpu())
            if any_rank(accelerator, not math.isfinite(losses[-1])):
                return float("nan"), t, torch.cat(errors)
            accelerator.backward(loss / parts)
    return mean_over_ranks(accelerator, statistics.fmean(losses)), t, torch.cat(errors)


def train_step(state: TrainState, batch: Batch, terms: LossTerms) -> dict[str, float]:
    """One optimizer step; advances `state` in place.

    A finite gradient far above the running median is skipped and counted, a non-finite one too; with a loss that is
    not finite nothing is stepped, and the caller ends the stage.

    Returns:
        Loss and instruments; `loss` is NaN when it was not finite.
    """
    optim = state.config.optim
    rate = learning_rate(state.step, state.stage.settings)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    value, t, squared = _accumulate(state, batch, terms)
    values = {"loss": value, "learning_rate": rate, "grad_norm": float("nan"), "skipped": 0.0}
    if not math.isfinite(value):
        state.optimizer.zero_grad(set_to_none=True)
        return values
    norm = clip_gradients(state.accelerator, state.model, state.optimizer, optim.max_grad_norm)
    if math.isfinite(norm):
        history = state.grad_norms
        skipped = len(history) >= 50 and norm > optim.skip_grad_ratio * statistics.median(history)
        state.grad_norms = [*history, norm][-NORM_HISTORY:]
    elif state.accelerator.scaler is None:
        skipped = True
        state.nonfinite += 1
    else:
        skipped = False  # float16's scaler skips the step by itself and lowers its factor
    if not skipped:
        state.optimizer.step()
    if not (skipped or getattr(state.optimizer, "step_was_skipped", False)):
        state.ema.update(unwrap(state.accelerator, state.model))
    state.step += 1
    at_one = t >= 1.0
    values["mse_one"] = float(squared[at_one].mean()) if bool(at_one.any()) else float("nan")
    values["mse_below"] = float(squared[~at_one].mean()) if bool((~at_one).any()) else float("nan")
    return {**values, "grad_norm": norm, "skipped": float(skipped)}


def _means(seen: dict[str, list[float]]) -> dict[str, float]:
    """Mean of each value over the steps that had one; a batch may hold no time of a kind, which is NaN."""
    finite = {key: [value for value in values if math.isfinite(value)] for key, values in seen.items()}
    return {key: round(statistics.fmean(values), 6) for key, values in finite.items() if values}


class _Meter:
    """Collects what the steps give until the next line of the log."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.seen: dict[str, list[float]] = {}
        self.waited = self.worked = 0.0

    def add(self, values: dict[str, float], waited: float, worked: float) -> None:
        self.waited += waited
        self.worked += worked
        for key, value in values.items():
            self.seen.setdefault(key, []).append(value)

    def flush(self, log: RunLog, state: TrainState) -> None:
        count = len(self.seen["loss"])  # fewer than log_steps after a resume between two lines
        seconds = {"s_loader": round(self.waited / count, 4), "s_network": round(self.worked / count, 4)}
        total = {"nonfinite_skips": state.nonfinite}
        log.write("step", stage=state.stage.name, step=state.step, **_means(self.seen), **seconds, **total)
        self.clear()


def _next_batch(data: Iterator[Batch], should_stop: Callable[[], bool]) -> Batch | None:
    """The next batch; None if the signal that asks to stop took the loader first."""
    try:
        return next(data)
    except RuntimeError:
        if not should_stop():
            raise
        return None


def _ending(state: TrainState) -> Ending | None:
    """Why the stage is over; None while it is not."""
    status = state.esgf.verdict.status
    if status != "running":
        return status
    return "budget" if state.step >= state.stage.settings.max_steps else None


def train(
    state: TrainState,
    data: Iterator[Batch],
    terms: LossTerms,
    folder: Path,
    log: RunLog,
    *,
    on_validation: Callable[[TrainState], None],
    on_nonfinite: Callable[[TrainState, Batch], None],
    on_progress: Callable[[TrainState, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Ending:
    """Run a stage until its budget is spent or its controller ends it, saving and validating on the way.

    Args:
        state: where to start from; advanced in place.
        data: batches from `state.step` on.
        terms: the loss.
        folder: receives the checkpoint.
        on_validation: gives the controller in `state` its next point; called before the first step too.
        on_nonfinite: called with the batch whose loss is not finite; tells the controller, or raises.
        should_stop: asked before every step; a True ends the run after saving.
    """
    loop, settings, meter = state.config.loop, state.stage.settings, _Meter()

    if state.step == 0 and not state.esgf.evaluations:
        on_validation(state)
    while (ending := _ending(state)) is None:
        if any_rank(state.accelerator, should_stop()):
            save_state(state, folder)
            return "stopped"
        clock = time.perf_counter()
        if (batch := _next_batch(data, should_stop)) is None:
            save_state(state, folder)
            return "stopped"
        fetched = time.perf_counter()
        values = train_step(state, batch, terms)
        if not math.isfinite(values["loss"]) or state.nonfinite > state.config.optim.max_nonfinite_skips:
            on_nonfinite(state, batch)
            continue
        meter.add(values, fetched - clock, time.perf_counter() - fetched)
        if on_progress is not None:
            on_progress(state, values)
        if state.step % loop.log_steps == 0:
            meter.flush(log, state)
        if state.step % settings.validation_steps == 0 or state.step == settings.max_steps:
            on_validation(state)
        if state.step % loop.checkpoint_steps == 0 or _ending(state) is not None:
            save_state(state, folder)
    return ending
