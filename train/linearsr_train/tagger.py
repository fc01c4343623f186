"""Training of the tagger, and the thresholds that make it sure: one file comes out, `tagger.safetensors`.

The network learns from samples whose tags are exact, because the training pipeline degraded them. Its thresholds are
picked on training photographs that it was not trained on, and measured on the held-back ones, which nothing was chosen
on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from linearsr.config import to_dict
from linearsr.errors import TrainingError
from linearsr.tags.compact import (
    NEVER,
    TAGGER_NAME,
    CompactTagger,
    TagThresholds,
    decide_tags,
    save_tagger,
)
from linearsr.tags.compact_network import TaggerNetwork
from linearsr.tags.vocabulary import DEGRADATIONS
from linearsr_train.data.batches import init_worker
from linearsr_train.data.degradation import DegradationConfig
from linearsr_train.data.sources import PhotoSet
from linearsr_train.data.tag_samples import Pictures, TagSamples, TrainingPieces, collate_pieces, split_photos
from linearsr_train.tagger_config import TaggerConfig
from linearsr_train.tagger_scores import pick_thresholds, score_tags
from linearsr_train.tagger_state import STATE_NAME, TaggerState, fresh_state, load_state, save_state

__all__ = ["TaggerResult", "measure_tagger", "train_tagger"]

T = TypeVar("T")
Report = Callable[[str], None]
Stop = Callable[[], bool]
TRAINING, CALIBRATION, REPORT = 0, 1, 2
"""Second key of the samples' draws."""


@dataclass(frozen=True, slots=True)
class TaggerResult:
    """A finished tagger."""

    path: Path
    thresholds: TagThresholds
    scores: dict[str, Any]
    """`linearsr_train.tagger_scores.score_tags` on the held-back photographs."""
    calibration_photos: list[str]
    """Names of the photographs that the thresholds were picked on."""

    def summary(self) -> dict[str, Any]:
        """Thresholds and the main scores as plain data, for logs."""
        rows = self.scores["presence"]
        return {
            "thresholds": to_dict(self.thresholds),
            "samples": self.scores["samples"],
            "photographs": self.scores["photographs"],
            "macro": self.scores["macro"],
            **{kind: {name: row[name] for name in ("precision", "recall")} for kind, row in rows.items()},
            "exact": self.scores["exact"],
        }


def _pieces(samples: TagSamples, state: TaggerState) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from the state's step on; those of a step are the same however often the training stopped."""
    config = state.config
    size = config.batch_size
    steps: list[Sequence[int]] = [range(s * size, (s + 1) * size) for s in range(state.step, config.max_steps)]
    loader = DataLoader(
        TrainingPieces(samples, state.seed),
        batch_sampler=steps,  # type: ignore[arg-type]
        collate_fn=collate_pieces,
        num_workers=config.num_workers,
        prefetch_factor=4 if config.num_workers else None,
        worker_init_fn=init_worker,
        generator=torch.Generator().manual_seed(0),  # else it draws from the generator that all share
    )
    return iter(loader)


def _step(state: TaggerState, x: Tensor, targets: Tensor) -> float:
    config = state.config
    warm = min(1.0, (state.step + 1) / max(1, config.warmup_steps))
    left = (config.max_steps - state.step) / max(1.0, config.decay_fraction * config.max_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * warm * min(1.0, left)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        logits = state.network(x)
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"tagger step {state.step}: loss is {value}, expected a finite number",
            hint="resume with a lower tagger.learning_rate",
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.step += 1
    return value


def _next(data: Iterator[T], should_stop: Stop) -> T | None:
    """What comes next; None if the training is asked to stop, also where a signal to do so took the loader first."""
    if should_stop():
        return None
    try:
        return next(data)
    except RuntimeError:
        if not should_stop():
            raise
        return None


def _train(state: TaggerState, samples: TagSamples, folder: Path, report: Report, should_stop: Stop) -> bool:
    """Run to the last step; False if stopped before, with the state saved."""
    if state.step >= state.config.max_steps:
        return True
    state.network.train()
    data = _pieces(samples, state)
    losses: list[float] = []
    for _ in range(state.step, state.config.max_steps):
        batch = _next(data, should_stop)
        if batch is None:
            save_state(state, folder)
            return False
        losses.append(_step(state, *batch))
        if state.step % state.config.checkpoint_steps == 0 or state.step == state.config.max_steps:
            save_state(state, folder)
            report(f"tagger step {state.step} of {state.config.max_steps}: loss {np.mean(losses):.4f}")
            losses = []
    return True


class _Seen(NamedTuple):
    """What a tagger makes of N samples."""

    probabilities: NDArray[np.float64]
    """(N, 1 + 2 K), as `CompactTagger.probabilities`."""
    truth: list[tuple[str, ...]]
    photos: list[str]

    def scores(self, thresholds: TagThresholds) -> dict[str, Any]:
        """`score_tags` at given thresholds."""
        named = [decide_tags(row.tolist(), DEGRADATIONS, thresholds) for row in self.probabilities]
        return score_tags(named, self.truth, self.photos)


def _look(tagger: CompactTagger, samples: TagSamples, count: int, should_stop: Stop) -> _Seen | None:
    """At the first samples, made by loader processes as in training; None if stopped."""
    workers = samples.config.num_workers
    loader = DataLoader(
        Pictures(samples, count),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=16 if workers else None,
        worker_init_fn=init_worker,
        generator=torch.Generator().manual_seed(0),
    )
    data = iter(loader)
    found, truth, photos = [], [], []
    for _ in range(count):
        picture = _next(data, should_stop)
        if picture is None:
            return None
        found.append(tagger.probabilities(picture[0]).double().numpy())
        truth.append(picture[1])
        photos.append(picture[2])
    return _Seen(np.stack(found), truth, photos)


def _as_stored(network: TaggerNetwork) -> TaggerNetwork:
    """A copy with matrices rounded to float16, as a file holds them."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for value in copied.parameters():
            if value.dim() > 1:
                value.copy_(value.half())
    return copied


def measure_tagger(tagger: CompactTagger, samples: TagSamples, count: int) -> dict[str, Any]:
    """`score_tags` of a tagger on the first samples."""
    seen = _look(tagger, samples, count, lambda: False)
    return {} if seen is None else seen.scores(tagger.thresholds)


def train_tagger(
    photos: PhotoSet,
    held_back: PhotoSet,
    config: TaggerConfig,
    degradation: DegradationConfig,
    folder: Path,
    *,
    seed: int,
    report: Report = lambda _: None,
    should_stop: Stop = lambda: False,
) -> TaggerResult | None:
    """Train, pick thresholds, measure; goes on where `folder/tagger-last.pt` stands.

    Args:
        photos: training photographs; a few of them are kept for the thresholds (`split_photos`).
        held_back: for the reported numbers alone.
        config: settings; the same samples and steps for any number of loader processes.
        degradation: the chain's recipe.
        folder: receives the state and, at the end and in one step, `tagger.safetensors`.
        seed: of weights and samples.
        report: receives one-line messages for a person.
        should_stop: asked before every step; a True saves the state and ends.

    Returns:
        What came out, or None if stopped.

    Raises:
        TrainingError: the state is damaged or of other settings, or a loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training, calibration = split_photos(photos, config.calibration_fraction)
    state = fresh_state(config, seed)
    if (folder / STATE_NAME).is_file():
        load_state(state, folder)
    report(
        f"tagger: {len(training)} photographs, {len(calibration)} more for its thresholds, from step {state.step} "
        f"of {config.max_steps}"
    )
    samples = TagSamples(photos, training, config, degradation, (seed, TRAINING))
    if not _train(state, samples, folder, report, should_stop):
        return None
    return _calibrate(
        state,
        TagSamples(photos, calibration, config, degradation, (seed, CALIBRATION)),
        TagSamples(held_back, range(len(held_back)), config, degradation, (seed, REPORT)),
        folder / TAGGER_NAME,
        report,
        should_stop,
    )


def _calibrate(
    state: TaggerState,
    calibration: TagSamples,
    held_back: TagSamples,
    path: Path,
    report: Report,
    should_stop: Stop,
) -> TaggerResult | None:
    """Thresholds for the weights as they are stored, their scores, and the file."""
    config = state.config
    silent = {kind: NEVER for kind in DEGRADATIONS}
    tagger = CompactTagger(_as_stored(state.network), TagThresholds(clean=NEVER, presence=silent, strong=silent))
    seen = _look(tagger, calibration, config.calibration_samples, should_stop)
    unseen = None if seen is None else _look(tagger, held_back, config.report_samples, should_stop)
    if seen is None or unseen is None:
        return None
    tagger.thresholds = pick_thresholds(seen.probabilities, seen.truth, config.target_precision)
    scores = unseen.scores(tagger.thresholds)
    save_tagger(path, tagger.network, tagger.thresholds)
    found = ", ".join(f"{name} {value:.3f}" for name, value in scores["macro"].items())
    report(f"tagger: {found} on {scores['samples']} samples of {scores['photographs']} held-back photographs")
    return TaggerResult(path, tagger.thresholds, scores, [calibration.photos.name(i) for i in calibration.indices])
