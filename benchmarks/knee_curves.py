"""Made-up validation curves of known kind, to measure how well a rule tells them apart.

A curve is PSNR (dB, up) and a perceptual score (like LPIPS, down) at equally spaced evaluations: a noise-free course
plus independent Gaussian noise of 0.02 to 0.05 dB on a gain of 1 to 3 dB, and of 0.002 to 0.005 on a fall of 0.1 to
0.2. What is right for a curve is derived from its noise-free course alone. Every number follows from (kind, seed).

Time constants are in evaluations; steps are evaluations times a spacing that no rule may depend on. One curve in four
begins with the untrained network at step 0, which is far below everything that follows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from linearsr_train.esgf import Esgf
from linearsr_train.knee import smooth

__all__ = [
    "FIRST_SEED",
    "KINDS",
    "NUM_CURVES",
    "REQUIRED_KINDS",
    "Curve",
    "Found",
    "find_with_esgf",
    "knee_share",
    "make_curve",
    "measure",
    "true_score",
]

REQUIRED_KINDS = ("oscillation", "plateau", "nan", "trade")
"""Growing oscillation; smooth plateau; NaN; PSNR falling while the perceptual score improves."""
KINDS = (*REQUIRED_KINDS, "rising", "restart", "fall")
"""Also: cut off while still rising; a later stage that starts at a knee and gains next to nothing; such a stage that
loses everything though all values are finite."""
SPACINGS = (500, 1000, 2000, 4000, 8000)
FIRST_SEED, NUM_CURVES = 10_000, 300
"""The curves of each kind that results are given for. The rule was tuned on seeds 1000 to 1599."""
FALL = 0.05
"""Share of the gain that the noise-free score must lose for its course to count as turned."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One made-up run."""

    kind: str
    seed: int
    steps: tuple[int, ...]
    psnr: tuple[float, ...]
    perceptual: tuple[float, ...]
    score: tuple[float, ...]
    """Noise-free combined score at each evaluation: 0 at the start, at most 1."""
    status: str
    """The right verdict: running, knee, plateau or collapse."""
    onset: int | None
    """Step from which the run is worse than before: first oscillation, first NaN, or fallen by `FALL`."""


def true_score(psnr: list[float], perceptual: list[float]) -> tuple[float, ...]:
    """Mean of both gains, each over its largest; a gain below 0.1 dB or 0.01 is measured against those."""
    up = [value - psnr[0] for value in psnr]
    down = [perceptual[0] - value for value in perceptual]
    top_up, top_down = max(*up, 0.1), max(*down, 0.01)
    return tuple(0.5 * a / top_up + 0.5 * b / top_down for a, b in zip(up, down, strict=True))


def _rise(rng: random.Random, count: int, fast: float) -> list[float]:
    """From 0 towards 1 with a time constant of `fast` evaluations, up to 20 % of it two to three times slower."""
    share, slow = rng.uniform(0.0, 0.2), fast * rng.uniform(2.0, 3.0)
    return [1 - (1 - share) * math.exp(-i / fast) - share * math.exp(-i / slow) for i in range(count)]


def _slow_rise(rng: random.Random, count: int) -> list[float]:
    """A power law that still gains at least 3 % of everything in its last 10 evaluations."""
    while True:
        power, scale = rng.uniform(0.3, 1.2), rng.uniform(1.0, 8.0)
        course = [1 - (1 + i / scale) ** -power for i in range(count)]
        if course[-1] - course[-11] >= 0.03 * course[-1]:
            return [value / course[-1] for value in course]


def _wobble(rng: random.Random, count: int, onset: int) -> tuple[list[float], list[float]]:
    """Growing dips from `onset`, as shares of each metric's gain; positive is worse.

    A wave of 2.5 to 8 evaluations mixed with irregular swings, its strength rising over 4 to 10 evaluations to 15 to
    50 % of the gain. In one curve of four the two metrics swing on their own.
    """
    period, growth, top = rng.uniform(2.5, 8.0), rng.uniform(4.0, 10.0), rng.uniform(0.15, 0.5)
    regular, sag, phase = rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.6), rng.uniform(0, 2 * math.pi)
    apart = rng.random() < 0.25
    other_phase = rng.uniform(0, 2 * math.pi) if apart else phase
    waves: tuple[list[float], list[float]] = ([], [])
    for i in range(count):
        strength = top * min(max((i - onset + 1) / growth, 0.0), 1.0)
        swing = rng.gauss(0, 0.7)
        own = rng.gauss(0, 0.7)
        for wave, angle, irregular in zip(waves, (phase, other_phase), (swing, own if apart else swing), strict=True):
            sine = math.sin(2 * math.pi * i / period + angle)
            wave.append(strength * (sag + regular * sine + (1 - regular) * irregular))
    return waves


def _trade(rng: random.Random, rise: list[float], fast: float) -> tuple[list[float], list[float]]:
    """PSNR falls from some point on while the perceptual score keeps improving, by less than what PSNR loses."""
    count = len(rise)
    turn = round(fast * rng.uniform(2.0, 3.5))
    loss, regained = rng.uniform(0.2, 1.0), rng.uniform(0.05, 0.25)
    length = count - turn
    ups = [value - loss * max(i - turn, 0) / length for i, value in enumerate(rise)]
    downs = [(1 - regained) * value + regained * (1 - math.exp(-i / (0.25 * count))) for i, value in enumerate(rise)]
    return ups, downs


def _drop(rng: random.Random, count: int, onset: int, size: float) -> list[float]:
    """From 0 to `size` within one to three evaluations from `onset` on."""
    length = rng.randint(1, 3)
    return [size * min(max((i - onset + 1) / length, 0.0), 1.0) for i in range(count)]


def _right(kind: str, score: tuple[float, ...], onset: int | None) -> tuple[str, int | None]:
    """The right verdict and the evaluation from which the run is worse."""
    if kind == "trade":
        top = max(range(len(score)), key=score.__getitem__)
        fallen = [i for i in range(top, len(score)) if score[i] < score[top] - FALL]
        return "plateau", fallen[0] if fallen else None
    return {"oscillation": "knee", "nan": "collapse", "fall": "collapse", "rising": "running"}.get(
        kind, "plateau"
    ), onset


def make_curve(kind: str, seed: int) -> Curve:
    """Draw the curve that belongs to (kind, seed)."""
    rng = random.Random(f"{kind}-{seed}")
    count = rng.randint(20, 40) if kind == "rising" else rng.randint(60, 80)
    spacing = rng.choice(SPACINGS)
    fast = rng.uniform(3.0, 6.0)
    gain, fall = rng.uniform(1.0, 3.0), rng.uniform(0.1, 0.2)
    if kind in ("restart", "fall"):
        gain, fall = rng.uniform(0.0, 0.15), rng.uniform(0.0, 0.01)
    start_psnr, start_perceptual = rng.uniform(22.0, 29.0), rng.uniform(0.3, 0.5)
    psnr_noise, perceptual_noise = rng.uniform(0.02, 0.05), rng.uniform(0.002, 0.005)
    rise = _slow_rise(rng, count) if kind == "rising" else _rise(rng, count, fast)
    ups, downs = rise, rise
    onset: int | None = None
    if kind == "oscillation":
        onset = round(fast * rng.uniform(4.0, 6.0))
        waves = _wobble(rng, count, onset)
        ups, downs = ([a - b for a, b in zip(rise, wave, strict=True)] for wave in waves)
    elif kind == "nan":
        onset = rng.randint(3, round(3 * fast) + 12)
    elif kind == "trade":
        ups, downs = _trade(rng, rise, fast)
    clean_psnr = [start_psnr + gain * value for value in ups]
    clean_perceptual = [start_perceptual - fall * value for value in downs]
    if kind == "fall":
        onset = rng.randint(1, 15)
        lost_psnr, lost_perceptual = (
            _drop(rng, count, onset, size) for size in (rng.uniform(1.5, 8), rng.uniform(0.1, 0.4))
        )
        clean_psnr = [a - b for a, b in zip(clean_psnr, lost_psnr, strict=True)]
        clean_perceptual = [a + b for a, b in zip(clean_perceptual, lost_perceptual, strict=True)]
    score = true_score(clean_psnr, clean_perceptual)
    status, onset = _right(kind, score, onset)
    steps = [spacing * (i + 1) for i in range(count)]
    if kind not in ("restart", "fall") and rng.random() < 0.25:
        # The untrained network at step 0: what it gains in the first interval is no part of the curve that follows.
        far = rng.uniform(0.3, 3.0)
        clean_psnr.insert(0, start_psnr - far * gain)
        clean_perceptual.insert(0, start_perceptual + far * fall)
        steps, score, onset = [0, *steps], (0.0, *score), None if onset is None else onset + 1
    lost = onset if kind == "nan" and onset is not None else len(steps)
    psnr = [value + rng.gauss(0, psnr_noise) if i < lost else math.nan for i, value in enumerate(clean_psnr)]
    perceptual = [
        value + rng.gauss(0, perceptual_noise) if i < lost else math.nan for i, value in enumerate(clean_perceptual)
    ]
    onset_step = None if onset is None else steps[onset]
    return Curve(kind, seed, tuple(steps), tuple(psnr), tuple(perceptual), score, status, onset_step)


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule said to a curve; evaluations by index."""

    status: str | None
    """None from a rule that gives no verdict."""
    knee: int | None
    stop: int
    """Last evaluation it looked at."""


def find_with_esgf(curve: Curve) -> Found:
    """The verdict of the controller, fed as the trainer feeds it."""
    watch, points = Esgf(), zip(curve.steps, curve.psnr, curve.perceptual, strict=True)
    stop = next((i for i, point in enumerate(points) if watch.update(*point).status != "running"), len(curve.steps) - 1)
    verdict = watch.verdict
    return Found(verdict.status, None if verdict.knee is None else curve.steps.index(verdict.knee), stop)


def knee_share(curve: Curve, knee: int, end: int) -> float:
    """Smoothed score at a knee over the best smoothed score before `end`; the untrained network is left out.

    Smoothed as method and controller do it: median of three, then an exponential average keeping 0.6.
    """
    first = 1 if curve.steps[0] == 0 else 0
    if knee < first:
        return 0.0
    last = max(end, knee + 1)
    psnr, perceptual = smooth(curve.psnr[first:last], 0.6), smooth(curve.perceptual[first:last], 0.6)
    top_up = max(*(value - psnr[0] for value in psnr[: end - first]), 0.1)
    top_down = max(*(perceptual[0] - value for value in perceptual[: end - first]), 0.01)
    scores = [
        0.5 * (a - psnr[0]) / top_up + 0.5 * (perceptual[0] - b) / top_down
        for a, b in zip(psnr, perceptual, strict=True)
    ]
    best = max(scores[: end - first])
    return scores[knee - first] / best if best > 0 else 1.0


def measure(kind: str, rule: Callable[[Curve], Found], seeds: Iterable[int]) -> dict[str, Any]:
    """Rates of a rule over the curves of a kind, each a share of all of them.

    Returns:
        `right`, the right verdict; `knee`, `plateau`, `collapse`, `running`, each verdict; `before`, a knee before the
        onset; `share`, one whose smoothed score is at least 0.95 of the best before the onset (before the stop, where
        there is none); `good`, both; `noise_free`, the same of the noise-free score; `delay`, median evaluations from
        the onset, or from the start where there is none, to the stop.
    """
    names = ("right", "knee", "plateau", "collapse", "running", "before", "share", "good", "noise_free")
    counts, delays, total = dict.fromkeys(names, 0), [], 0
    for seed in seeds:
        curve = make_curve(kind, seed)
        found, total = rule(curve), total + 1
        onset = None if curve.onset is None else curve.steps.index(curve.onset)
        delays.append(found.stop - (0 if onset is None else onset))
        if found.status is not None:
            counts[found.status] += 1
            counts["right"] += found.status == curve.status
        if found.knee is None:
            continue
        end = found.stop + 1 if onset is None else onset
        before, share = found.knee < end, knee_share(curve, found.knee, end) >= 0.95
        counts["before"] += before
        counts["share"] += share
        counts["good"] += before and share
        counts["noise_free"] += before and curve.score[found.knee] >= 0.95 * max(curve.score[:end])
    return {"curves": total, **{name: count / total for name, count in counts.items()}, "delay": median(delays)}
