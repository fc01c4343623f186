"""The training loop: plain functions over a `TrainState`, nothing to subclass."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.denoiser import apply_network
from linearsr.errors import TrainingError
from linearsr.flow import add_noise
from linearsr.model.conditioning import Conditioning
from linearsr.model.transformer import LinearDiT
from linearsr_train.config import OptimConfig, TrainConfig
from linearsr_train.data.batches import Batch
from linearsr_train.ema import Ema
from linearsr_train.losses import draw_times, x0_loss
from linearsr_train.runlog import RunLog
from linearsr_train.state import TrainState, save_state

__all__ = ["build_state", "learning_rate", "train", "train_step"]

NORM_HISTORY = 200
Hook = Callable[[TrainState], None]


def learning_rate(step: int, max_steps: int, config: OptimConfig) -> float:
    """Warm-up, constant, then linear to zero over the last `decay_fraction` of the run."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (max_steps - step) / max(1.0, config.decay_fraction * max_steps)
    return config.learning_rate * warm * min(1.0, max(0.0, left))


def build_state(config: TrainConfig) -> TrainState:
    """A fresh run: seeded weights, optimizer, average and generator."""
    torch.manual_seed(config.loop.seed)
    model = LinearDiT(config.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": config.optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (config.optim.betas[0], config.optim.betas[1])
    optimizer = torch.optim.AdamW(groups, lr=config.optim.learning_rate, betas=betas, fused=True)
    generator = torch.Generator().manual_seed(config.loop.seed + 1)
    return TrainState(config, model, Ema(model, config.optim.ema_decay), optimizer, generator, grad_norms=[])


def _forward(state: TrainState, batch: Batch, autoencoder: PixelAutoencoder) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a batch, with its times and unweighted squared errors."""
    config = state.config
    std = torch.tensor([autoencoder.residual_std(float(s)) for s in batch.scale])  # (B,)
    x0 = autoencoder.encode(batch.hr, batch.lr_up, std)
    t = draw_times(x0.shape[0], config.loss, state.generator)  # (B,)
    eps = torch.randn(x0.shape, generator=state.generator)
    x_t = add_noise(x0, eps, t)
    if config.flow.prediction == "x0":
        # At t = 1 the state is fed as zeros, in training as in sampling: it tells nothing of the picture.
        x_t = torch.where(t.view(-1, 1, 1, 1) >= 1.0, torch.zeros(()), x_t)
    cond = Conditioning(
        lr=autoencoder.condition(batch.lr_up), tags=batch.tags, tag_mask=batch.tag_mask, log2_scale=batch.scale.log2()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.loop.mixed_precision == "bf16"):
        out = apply_network(state.model, config.flow, x_t, t, cond)
    x0_hat = out if config.flow.prediction == "x0" else x_t - t.view(-1, 1, 1, 1) * out
    loss, squared = x0_loss(x0_hat, x0, t, config.loss.max_weight)
    return loss, t, squared


def train_step(state: TrainState, batch: Batch, autoencoder: PixelAutoencoder) -> dict[str, float]:
    """One optimizer step; advances `state` in place.

    A finite gradient far above the running median is skipped and counted; anything non-finite is an error before the
    optimizer sees it.

    Raises:
        TrainingError: the loss or gradient is not finite.
    """
    config = state.config.optim
    rate = learning_rate(state.step, state.config.loop.max_steps, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    loss, t, squared = _forward(state, batch, autoencoder)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    value = float(loss.detach())
    norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm))
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise TrainingError(
            f"step {state.step}: loss is {value}, gradient norm {norm}, expected finite numbers",
            hint="resume from the last checkpoint with a lower optim.learning_rate",
        )
    history = state.grad_norms if state.grad_norms is not None else []
    skipped = len(history) >= 50 and norm > config.skip_grad_ratio * statistics.median(history)
    if not skipped:
        state.optimizer.step()
        state.ema.update(state.model)
    state.grad_norms = [*history, norm][-NORM_HISTORY:]
    state.step += 1
    at_one = t >= 1.0
    return {
        "loss": value,
        "mse_one": float(squared[at_one].mean()) if bool(at_one.any()) else float("nan"),
        "mse_below": float(squared[~at_one].mean()) if bool((~at_one).any()) else float("nan"),
        "grad_norm": norm,
        "learning_rate": rate,
        "skipped": float(skipped),
    }


def _means(seen: dict[str, list[float]]) -> dict[str, float]:
    """Mean of each value over the steps that had one; a batch may hold no time of a kind, which is NaN."""
    finite = {key: [value for value in values if math.isfinite(value)] for key, values in seen.items()}
    return {key: round(statistics.fmean(values), 6) for key, values in finite.items() if values}


def train(
    state: TrainState,
    data: Iterator[Batch],
    autoencoder: PixelAutoencoder,
    folder: Path,
    log: RunLog,
    *,
    on_validation: Hook,
    on_progress: Callable[[TrainState, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run until `loop.max_steps`, saving and validating on the way.

    Args:
        state: where to start from; advanced in place.
        data: batches from `state.step` on.
        folder: receives the checkpoint.
        should_stop: asked before every step; a True ends the run after saving.

    Returns:
        Whether the run reached its last step.
    """
    loop = state.config.loop
    seen: dict[str, list[float]] = {}
    waited = worked = 0.0
    for _ in range(state.step, loop.max_steps):
        if should_stop():
            save_state(state, folder)
            return False
        clock = time.perf_counter()
        try:
            batch = next(data)
        except RuntimeError:
            if not should_stop():
                raise
            save_state(state, folder)  # the signal that asks to stop took the loader first
            return False
        fetched = time.perf_counter()
        values = train_step(state, batch, autoencoder)
        waited += fetched - clock
        worked += time.perf_counter() - fetched
        for key, value in values.items():
            seen.setdefault(key, []).append(value)
        if on_progress is not None:
            on_progress(state, values)
        if state.step % loop.log_steps == 0:
            count = len(seen["loss"])  # fewer than log_steps after a resume between two lines
            seconds = {"s_loader": round(waited / count, 4), "s_network": round(worked / count, 4)}
            log.write("step", step=state.step, **_means(seen), **seconds)
            seen, waited, worked = {}, 0.0, 0.0
        if state.step % loop.validation_steps == 0 or state.step == loop.max_steps:
            on_validation(state)
        if state.step % loop.checkpoint_steps == 0 or state.step == loop.max_steps:
            save_state(state, folder)
    return True
