"""Early-stopping guided fine-tuning (ESGF): when a stage should stop, and which checkpoint the next one starts from.

Owns the verdict on one stage and the list of checkpoints that it may still need. Knows no model, no device and no file;
the trainer evaluates, asks, saves and deletes. How well it does is measured in docs/experiments/knee-detection.md.

Words: the elbow (k) is where the smoothed score bends, the knee (j) the first evaluation nearly as good as the best
before the onset, the onset where the run begins to oscillate or to fail.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

from linearsr.config import to_dict
from linearsr.errors import ConfigError
from linearsr_train.esgf_config import EsgfConfig
from linearsr_train.knee import (
    Scale,
    evaluations_since_best,
    find_elbow,
    highest_rate,
    joint_swing,
    knee_weights,
    leap_length,
    noise_floor,
    onset_weights,
    smooth,
)

__all__ = ["Esgf", "EsgfConfig", "Evaluation", "Status", "Verdict"]

Status = Literal["running", "knee", "plateau", "collapse"]
SMALLEST_NOISE = 0.003
"""Noise is taken to be at least this share of the gain, so that a curve without any is no special case."""
LEAST_WEIGHT = 0.003
"""Possible onsets less likely than this are left out."""
FEWEST_FOR_NOISE = 6
"""Evaluations from the start whose noise is measured even if they are within the window."""
LARGEST = 1e9
"""Metrics beyond this count as infinite."""
COLLAPSE_DB = 0.5
"""A collapse of a stage that gained next to nothing is at least this fall of PSNR."""
LEAP_DB = 0.5
"""Smallest rise of PSNR in one interval that may be the end of an untrained network."""
LONGEST_OSCILLATION = 22
"""Evaluations among which the onset is looked for."""
EARLIEST_ONSET = 3
"""Evaluations at the start that cannot be an onset."""
BEFORE_STALL = 4
"""Evaluations before a stall that its line fit also goes through; the best itself is high by luck."""
ARCHIVE_SPACING = 0.2
"""Least rise of the score between archived evaluations, in tolerances."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one checkpoint on the fixed validation set."""

    step: int
    psnr: float
    """dB."""
    perceptual: float
    """LPIPS or GMSD: lower is better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evaluations so far say about the stage."""

    status: Status
    """`running`: go on. The others mean stop: `knee` on an oscillation, `plateau` when nothing more is gained,
    `collapse` on a value that is not finite or a gain that is lost."""
    reason: str
    """One line, for people."""
    onset: int | None
    """Step of the first evaluation that is taken to oscillate or to have failed; None if none is."""
    elbow: int | None
    """Step of the bend, k: what to fall back to if the stage after the knee collapses. None without evaluations."""
    knee: int | None
    """Step of the checkpoint to roll back to, j; never before the elbow nor after the onset."""


class Esgf:
    """Watches one stage. Feed it every evaluation; stop when the verdict is not `running`.

    The same evaluations always give the same verdict. After a verdict nothing more is taken in.
    """

    def __init__(self, config: EsgfConfig = EsgfConfig()) -> None:  # noqa: B008 - frozen
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self._steps: list[int] = []
        self._psnr: list[float] = []
        self._perceptual: list[float] = []
        self._smooth_psnr: list[float] = []
        self._smooth_perceptual: list[float] = []
        self._last_step = -math.inf
        self._failed: int | None = None
        self._archive: list[int] = []
        self._swings = self._falls = 0
        self._verdict = Verdict("running", "no evaluation yet", None, None, None)

    @property
    def verdict(self) -> Verdict:
        """The verdict after the last evaluation."""
        return self._verdict

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The finite evaluations taken in, in order."""
        return tuple(map(Evaluation, self._steps, self._psnr, self._perceptual))

    @property
    def scores(self) -> tuple[float, ...]:
        """Smoothed score of each of `evaluations`, by the gain of all of them: 0 at the start, about 1 at the best."""
        return tuple(self._scores_before(len(self._steps))) if self._steps else ()

    def update(self, step: int, psnr: float, perceptual: float, finite: bool = True) -> Verdict:
        """Take in the evaluation of the checkpoint at `step` and judge.

        Args:
            step: optimizer steps of the stage; above the step before, or equal to it if something is not finite.
            psnr: dB; may be NaN or infinite, which is a collapse.
            perceptual: lower is better; likewise.
            finite: False if the loss, the weights or too many gradients in a row were not finite: a collapse whatever
                the metrics say.

        Raises:
            ConfigError: the step does not rise.
        """
        is_finite = finite and abs(psnr) < LARGEST and abs(perceptual) < LARGEST
        if step < self._last_step or (step == self._last_step and is_finite):
            raise ConfigError(f"step is {step} after {self._last_step}, expected steps to rise")
        if self._verdict.status != "running":
            return self._verdict
        self._last_step = step
        if is_finite:
            self._steps.append(step)
            self._psnr.append(psnr)
            self._perceptual.append(perceptual)
            self._smooth_psnr, self._smooth_perceptual = self._smooth()
            self._leave_ring()
            self._verdict = self._judge()
        else:
            self._failed = step
            self._verdict = self._stop("collapse", f"not finite at step {step}", {len(self._steps): 1.0}, step)
        return self._verdict

    def kept_steps(self) -> tuple[int, ...]:
        """Evaluated steps whose checkpoints must stay on disk, rising.

        The last `keep_last`, and older ones that may become elbow or knee. A step that is not in here once is never
        named by a later verdict.
        """
        return tuple(self._steps[index] for index in self._kept())

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain data for JSON; no NaN in it."""
        return {
            "config": to_dict(self.config),
            "evaluations": [list(row) for row in zip(self._steps, self._psnr, self._perceptual, strict=True)],
            "failed": self._failed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, by judging the same evaluations again.

        Raises:
            ConfigError: the state was made with other settings, or is not such a state.
        """
        try:
            settings, evaluations, failed = state["config"], state["evaluations"], state["failed"]
        except (KeyError, TypeError) as error:
            raise ConfigError(f"the state of the knee detection is incomplete: {error} is missing") from error
        if settings != to_dict(self.config):
            differing = sorted(k for k, v in to_dict(self.config).items() if settings.get(k) != v)
            raise ConfigError(f"the state of the knee detection was made with another esgf.{', esgf.'.join(differing)}")
        self._reset()
        for step, psnr, perceptual in evaluations:
            self.update(step, psnr, perceptual)
        if failed is not None:
            self.update(failed, math.nan, math.nan)

    def _kept(self) -> list[int]:
        return [*self._archive, *range(len(self._steps))[-self.config.keep_last :]]

    def _smooth(self) -> tuple[list[float], list[float]]:
        """Both metrics smoothed; evaluations before a leap from an untrained network count as the start."""
        skip = leap_length(self._psnr, LEAP_DB)
        a, b = (smooth(values[skip:], self.config.smoothing) for values in (self._psnr, self._perceptual))
        return [a[0]] * skip + a, [b[0]] * skip + b

    def _scale(self, end: int, calm: int) -> Scale:
        """Scale of the first `end` evaluations, noise measured on the first `calm`."""
        config, psnr, perceptual = self.config, self._psnr[:calm], self._perceptual[:calm]
        psnr_noise, perceptual_noise = noise_floor(psnr), noise_floor(perceptual)
        up = max(self._smooth_psnr[:end]) - self._smooth_psnr[0]
        down = self._smooth_perceptual[0] - min(self._smooth_perceptual[:end])
        psnr_gain = max(up, config.least_psnr_gain, config.noise_gain * psnr_noise)
        perceptual_gain = max(down, config.least_perceptual_gain, config.noise_gain * perceptual_noise)
        return Scale(
            psnr_weight=config.psnr_weight,
            psnr_start=self._smooth_psnr[0],
            psnr_gain=psnr_gain,
            psnr_noise=max(psnr_noise, SMALLEST_NOISE * psnr_gain),
            perceptual_start=self._smooth_perceptual[0],
            perceptual_gain=perceptual_gain,
            perceptual_noise=max(perceptual_noise, SMALLEST_NOISE * perceptual_gain),
        )

    def _scores_before(self, end: int) -> list[float]:
        """Smoothed scores of the first `end` evaluations, from these alone."""
        return self._scale(end, end).score(self._smooth_psnr[:end], self._smooth_perceptual[:end])

    def _leave_ring(self) -> None:
        """Archive the evaluation that is no longer one of the last, if it may become elbow or knee.

        It may if it is above all before it. What came after is left out: an oscillation would move the elbow beyond it.
        """
        leaving = len(self._steps) - 1 - self.config.keep_last
        if leaving < 0:
            return
        scores = self._scores_before(leaving + 1)
        spacing, archive = ARCHIVE_SPACING * self.config.tolerance, self._archive[:1]
        for index in (*self._archive[1:], leaving):
            if not archive or scores[index] > scores[archive[-1]] + spacing:
                archive.append(index)
        elbow = find_elbow(self._steps[: leaving + 1], scores, archive)
        self._archive = [index for index in archive if index >= elbow]

    def _judge(self) -> Verdict:
        """Collapse, oscillation, plateau or none of them, in this order."""
        config, count = self.config, len(self._steps)
        if self._has_lost_its_gain():
            text = f"PSNR fell from {max(self._psnr):.2f} to {self._psnr[-1]:.2f} dB"
            return self._stop("collapse", text, {count - 2: 1.0}, self._steps[-2])
        if count < config.least_evaluations:
            return _running(f"{count} of at least {config.least_evaluations} evaluations")
        calm = max(count - config.window, FEWEST_FOR_NOISE)
        scale = self._scale(count, calm)
        smoothed = scale.score(self._smooth_psnr, self._smooth_perceptual)
        stalled = evaluations_since_best(smoothed, max(config.improvement, scale.score_noise))
        idle = f"{stalled} evaluations without progress"
        last = self._psnr[-config.window :], self._perceptual[-config.window :]
        swing = joint_swing(last, (scale.psnr_noise, scale.perceptual_noise))
        is_swinging = swing > config.oscillation_factor * (1 + config.early_caution / calm)
        self._swings = self._swings + 1 if is_swinging and stalled >= config.stall - 1 else 0
        if self._swings >= config.confirmations and stalled >= config.stall:
            return self._stop_swinging(scale, f"swings {swing:.1f} times the noise, {idle}")
        if stalled >= config.patience * (1 if swing < config.restless_factor else 2):
            last_scores = scale.score(self._psnr, self._perceptual)[-(stalled + BEFORE_STALL) :]
            rate = highest_rate(last_scores, scale.score_noise, config.plateau_caution)
            if rate * config.patience < config.plateau_gain:
                text = f"{idle}, best score {max(smoothed):.2f}, now {smoothed[-1]:.2f}"
                return self._stop("plateau", text, {count: 1.0}, None)
        return _running("rising" if stalled == 0 else idle)

    def _has_lost_its_gain(self) -> bool:
        """Whether the last two evaluations have each lost more than the whole gain, and not by noise."""
        fallen = self._psnr[-1] < max(self._psnr) - COLLAPSE_DB
        if fallen:
            # Without the noise: it cannot be told from the fall itself in the first few evaluations.
            scores = self._scale(len(self._steps), 0).score(self._psnr, self._perceptual)
            fallen = scores[-1] < max(scores) - self.config.collapse_fall
        self._falls = self._falls + 1 if fallen else 0
        return self._falls == 2

    def _stop_swinging(self, scale: Scale, reason: str) -> Verdict:
        """End on an oscillation; its onset is known only by likelihood."""
        first = max(len(self._steps) - LONGEST_OSCILLATION, EARLIEST_ONSET)
        found = len(self._steps) - self.config.window - self.config.confirmations
        noises = scale.psnr_noise, scale.perceptual_noise
        weights = dict(enumerate(onset_weights((self._psnr, self._perceptual), noises, first, found), start=first))
        totals = zip(weights, itertools.accumulate(weights.values()), strict=True)
        median = next(onset for onset, total in totals if total >= 0.5)
        likely = {onset: weight for onset, weight in weights.items() if weight >= LEAST_WEIGHT}
        return self._stop("knee", reason, likely, self._steps[median])

    def _stop(self, status: Status, reason: str, onsets: dict[int, float], onset_step: int | None) -> Verdict:
        """End: choose elbow and knee among the checkpoints that are kept, before the likely onsets."""
        scores_before = {onset: self._scores_before(onset) for onset in onsets if onset > 0}
        if not scores_before:
            return Verdict(status, reason, onset_step, None, None)
        sure = knee_weights(scores_before, onsets, self.config.tolerance)
        kept = self._kept()
        knee = max(kept, key=lambda index: sure[index] if index < len(sure) else -1.0)
        end = max(*scores_before, knee + 1)
        elbow = find_elbow(self._steps[:end], self._scores_before(end), [index for index in kept if index <= knee])
        if onset_step is not None and knee + 1 < len(self._steps):
            onset_step = max(onset_step, self._steps[knee + 1])
        return Verdict(status, reason, onset_step, self._steps[elbow], self._steps[knee])


def _running(reason: str) -> Verdict:
    return Verdict("running", reason, None, None, None)
