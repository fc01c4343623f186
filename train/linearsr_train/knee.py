"""Arithmetic on validation curves: smoothing, combined score, noise, swings, elbow and knee. Standard library only.

Curves are sequences in the order of evaluation, one value each. PSNR is in dB and better when higher, the perceptual
score (LPIPS, GMSD) is better when lower. Nothing here keeps state or knows about checkpoints; `esgf.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Scale",
    "evaluations_since_best",
    "find_elbow",
    "highest_rate",
    "joint_swing",
    "knee_weights",
    "leap_length",
    "line_fit",
    "median_of_3",
    "noise_floor",
    "onset_weights",
    "smooth",
]

MAD_TO_STD = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""
SECOND_DIFFERENCE_STD = math.sqrt(6.0)
"""Standard deviation of x[i] - 2 x[i - 1] + x[i - 2] for independent noise of standard deviation 1."""
LEAP_SHARE = 1 / 3
"""See `leap_length`; an exponential rise with a time constant of 2.5 evaluations just stays below it."""
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Growths of an oscillation that are tried, in noises for each evaluation."""
GROWTHS = (4, 10)
"""Evaluations for which it grows."""
PRIOR_LENGTH = 4.0
"""Evaluations, see `onset_weights`."""
EVIDENCE = 0.3
"""Share of the log-likelihood that counts, see `onset_weights`."""


def median_of_3(values: Sequence[float]) -> list[float]:
    """Median of each value and the two before it; the first is itself, the second the mean of two."""
    medians = list(values[:1])
    if len(values) > 1:
        medians.append((values[0] + values[1]) / 2)
    for a, b, c in zip(values, values[1:], values[2:], strict=False):
        medians.append(max(min(a, b), min(max(a, b), c)))
    return medians


def smooth(values: Sequence[float], decay: float) -> list[float]:
    """Median of three, then an exponential average without bias towards zero. Value i depends on values up to i only.

    Args:
        values: finite.
        decay: share of the average kept at each value, in [0, 1).
    """
    average, weight, smoothed = 0.0, 0.0, []
    for value in median_of_3(values):
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed.append(average / weight)
    return smoothed


def noise_floor(values: Sequence[float]) -> float:
    """Standard deviation of the noise on a smooth curve; 0 for fewer than three values.

    From the median of the absolute second differences, which neither a slope nor a few outliers change.
    """
    differences = sorted(abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False))
    if not differences:
        return 0.0
    middle = len(differences) // 2
    median = differences[middle] if len(differences) % 2 else (differences[middle - 1] + differences[middle]) / 2
    return MAD_TO_STD * median / SECOND_DIFFERENCE_STD


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What a score is measured by: 0 is the start, 1 the largest gain so far in both metrics."""

    psnr_weight: float
    """Share of PSNR in the score, in [0, 1]."""
    psnr_start: float
    psnr_gain: float
    """dB; above 0."""
    psnr_noise: float
    """Standard deviation, dB; above 0."""
    perceptual_start: float
    perceptual_gain: float
    """Fall of the perceptual score; above 0."""
    perceptual_noise: float

    @property
    def score_noise(self) -> float:
        """Standard deviation of the unsmoothed score."""
        a = self.psnr_weight * self.psnr_noise / self.psnr_gain
        b = (1 - self.psnr_weight) * self.perceptual_noise / self.perceptual_gain
        return math.hypot(a, b)

    def score(self, psnr: Sequence[float], perceptual: Sequence[float]) -> list[float]:
        """Weighted mean of both gains, each over its largest."""
        a, b = self.psnr_weight / self.psnr_gain, (1 - self.psnr_weight) / self.perceptual_gain
        zero = a * self.psnr_start - b * self.perceptual_start
        return [a * up - b * down - zero for up, down in zip(psnr, perceptual, strict=True)]


def line_fit(values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope in units per evaluation, and standard deviation about the line (n - 2 in the divisor).

    Args:
        values: at least three.
    """
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = count * (count * count - 1) / 12
    slope = sum((i - middle) * value for i, value in enumerate(values)) / spread
    total = sum((value - mean) ** 2 for value in values)
    return slope, math.sqrt(max(total - slope * slope * spread, 0.0) / (count - 2))


def joint_swing(curves: Sequence[Sequence[float]], noises: Sequence[float]) -> float:
    """Root mean square over the curves of their deviation from a straight line, in deviations of their noise.

    Args:
        curves: at least three values each.
        noises: standard deviation of each curve's noise; above 0.
    """
    swings = [line_fit(values)[1] / noise for values, noise in zip(curves, noises, strict=True)]
    return math.sqrt(sum(swing * swing for swing in swings) / len(swings))


def highest_rate(values: Sequence[float], noise: float, errors: float) -> float:
    """Slope of a line fit plus `errors` of its standard errors, in units per evaluation.

    Args:
        values: at least three.
        noise: standard deviation of a value; that about the line is taken if it is larger.
        errors: 0 or more.
    """
    slope, deviation = line_fit(values)
    count = len(values)
    return slope + errors * max(deviation, noise) * math.sqrt(12 / (count * (count * count - 1)))


def leap_length(psnr: Sequence[float], least: float) -> int:
    """How many values at the start stand apart from the rest: 0, or all before the last leap.

    A leap is a rise by more than `LEAP_SHARE` of all that is gained from there on, and by more than `least`. The rise
    from an untrained network would otherwise make every later gain look small.

    Args:
        psnr: dB.
        least: dB.
    """
    length = 0
    for index in range(min(len(psnr) // 4, 3)):
        rise = psnr[index + 1] - psnr[index]
        if rise > max(least, LEAP_SHARE * (max(psnr[index:]) - psnr[index])):
            length = index + 1
    return length


def evaluations_since_best(scores: Sequence[float], least: float) -> int:
    """Evaluations since a score beat the best one before by more than `least`."""
    best, since = -math.inf, 0
    for score in scores:
        if score > best + least:
            best, since = score, 0
        else:
            since += 1
    return since


def find_elbow(steps: Sequence[int], scores: Sequence[float], candidates: Sequence[int]) -> int:
    """Candidate farthest above the diagonal of the unit square into which steps and scores are scaled.

    Args:
        steps: rising.
        scores: smoothed.
        candidates: indices, rising, at least one.

    Source: Kneedle (Satopaa et al. 2011, doi:10.1109/ICDCSW.2011.20), section III, its largest local maximum.
    """
    low, high = min(scores), max(scores)
    across, up = max(steps[-1] - steps[0], 1), max(high - low, 1e-12)
    return max(candidates, key=lambda i: (scores[i] - low) / up - (steps[i] - steps[0]) / across)


def onset_weights(curves: Sequence[Sequence[float]], noises: Sequence[float], first: int, found: int) -> list[float]:
    """How likely a growing oscillation began at each evaluation from `first` to the last but one; they sum to 1.

    The second differences of every curve are taken as normal with the variance of noise before the onset. From it on
    a swing is added whose strength grows by `rate` noises an evaluation for `GROWTHS` evaluations; rate and length are
    averaged over. The log-likelihood is scaled by `EVIDENCE`: neighbouring second differences are not independent.

    Args:
        curves: of equal length, above `first` + 1.
        noises: standard deviation of each curve's noise; above 0.
        first: at least 2.
        found: first evaluation of the window in which the oscillation was found. Had it begun much earlier, it would
            have been found earlier: every `PRIOR_LENGTH` evaluations before this an onset is less likely by e.
    """
    count = len(curves[0])
    powers = [
        sum(((x[i] - 2 * x[i - 1] + x[i - 2]) / noise) ** 2 for x, noise in zip(curves, noises, strict=True)) / 6
        for i in range(first, count)
    ]
    logs: list[list[float]] = [[] for _ in range(count - 1 - first)]
    for rate in RATES:
        for growth in GROWTHS:
            variances = [1 + (rate * min(i + 1, growth)) ** 2 for i in range(len(powers))]
            gains = [(1 - 1 / v) / 2 for v in variances]
            costs = [len(curves) / 2 * math.log(v) for v in variances]
            for onset, values in enumerate(logs):
                after = powers[onset:]
                values.append(EVIDENCE * sum(p * g - c for p, g, c in zip(after, gains, costs, strict=False)))
    top = max(max(values) for values in logs)
    priors = [math.exp(min(first + onset - found, 0) / PRIOR_LENGTH) for onset in range(len(logs))]
    weights = [prior * sum(math.exp(v - top) for v in values) for prior, values in zip(priors, logs, strict=True)]
    return [weight / sum(weights) for weight in weights]


def knee_weights(
    scores_before: Mapping[int, Sequence[float]], weights: Mapping[int, float], tolerance: float
) -> list[float]:
    """How sure it is, for each index, that it lies before the onset and is nearly as good as the best before it.

    Args:
        scores_before: for each possible onset the smoothed scores of the evaluations before it; at least one each.
        weights: probability of each of those onsets.
        tolerance: share of the best score that may be missing, in [0, 1).

    Returns:
        One number in [0, 1] for each index below the last onset. The earliest largest one is the knee: with a single
        onset, the first evaluation whose score is within the tolerance of the best.
    """
    sure = [0.0] * max(scores_before)
    for onset, scores in scores_before.items():
        enough = (1 - tolerance) * max(scores)
        first = next(index for index, score in enumerate(scores) if score >= enough)
        for index in range(first, onset):
            sure[index] += weights[onset]
    return sure
