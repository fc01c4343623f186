"""Counting what a tagger gets right, and picking thresholds that make it sure. Pure functions on lists and arrays.

The counted event is the *presence* of a kind: it is named at either strength, and it is there at either strength. The
strict events are those of the vocabulary's entries, where the strength must be right too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linearsr.tags.compact import NEVER, TagThresholds
from linearsr.tags.vocabulary import COMPACT_VOCABULARY, DEGRADATIONS

__all__ = ["pick_threshold", "pick_thresholds", "score_tags"]

Tags = tuple[str, ...]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
BOOTSTRAPS = 1000
LEAST_SURE = 0.5
"""No tag is given that the network itself holds for the less likely, however few calibration samples speak against."""
STRENGTHS = ("none", "weak", "strong")


def pick_threshold(probability: Floats, truth: Flags, target: float) -> float:
    """Lowest threshold from `LEAST_SURE` up at which what is named is right in a share of at least `target`.

    Args:
        probability: (N,) of the tag.
        truth: (N,) whether it is there.
        target: in [0, 1].

    Returns:
        One of the probabilities; `NEVER` if none will do.
    """
    probability, truth = probability[probability >= LEAST_SURE], truth[probability >= LEAST_SURE]
    order = np.argsort(-probability, kind="stable")
    precision = np.cumsum(truth[order]) / np.arange(1, len(order) + 1)
    ranked = probability[order]
    # Equal probabilities pass together, so only the last of them is a place to cut.
    is_last = np.append(ranked[1:] < ranked[:-1], True)[: len(ranked)]
    fits = np.flatnonzero((precision >= target) & is_last)
    return float(ranked[fits[-1]]) if len(fits) else NEVER


def _strong_threshold(probability: Floats, truth: Flags) -> float:
    """The threshold with the fewest wrong strengths; half where there is nothing to learn from."""
    if not truth.any() or truth.all():
        return 0.5
    cuts = np.linspace(0.05, 0.95, 91)
    wrong = [np.count_nonzero((probability >= cut) != truth) for cut in cuts]
    return float(cuts[int(np.argmin(wrong))])


def pick_thresholds(probabilities: Floats, truth: Sequence[Tags], target: float) -> TagThresholds:
    """Thresholds for `linearsr.tags.compact.decide_tags`, from (N, 1 + 2 K) probabilities and N true tag sets."""
    kinds = len(DEGRADATIONS)
    presence, strong = {}, {}
    named = np.zeros(len(truth), bool)
    for number, kind in enumerate(DEGRADATIONS):
        is_strong = np.array([kind in tags for tags in truth])
        is_there = is_strong | np.array([f"{kind}:weak" in tags for tags in truth])
        presence[kind] = pick_threshold(probabilities[:, 1 + number], is_there, target)
        above = probabilities[:, 1 + number] >= presence[kind]
        named |= above
        seen = above & is_there
        strong[kind] = _strong_threshold(probabilities[seen, 1 + kinds + number], is_strong[seen])
    clean = np.array(["clean" in tags for tags in truth])
    unnamed = ~named
    threshold = pick_threshold(probabilities[unnamed, 0], clean[unnamed], target) if unnamed.any() else NEVER
    return TagThresholds(clean=threshold, presence=presence, strong=strong)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _counts(named: Flags, there: Flags, resample: list[NDArray[np.int64]]) -> dict[str, Any]:
    """Precision, recall and their 95 % intervals; None where nothing was named or nothing was there."""
    hits = named & there
    row: dict[str, Any] = {"named": int(named.sum()), "there": int(there.sum()), "right": int(hits.sum())}
    for name, whole in (("precision", named), ("recall", there)):
        row[name] = _ratio(hits.sum(), whole.sum())
        draws = [value for pick in resample if (value := _ratio(hits[pick].sum(), whole[pick].sum())) is not None]
        row[f"{name}_interval"] = [float(q) for q in np.quantile(draws, (0.025, 0.975))] if draws else None
    return row


def _draw_photos(photos: Sequence[str]) -> list[NDArray[np.int64]]:
    """Bootstrap of whole photographs: samples of one photograph are alike and count as a group."""
    rng = np.random.default_rng(0)
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(photos):
        groups.setdefault(name, []).append(index)
    members = [np.array(group) for _, group in sorted(groups.items())]
    draws = rng.integers(len(members), size=(BOOTSTRAPS, len(members)))
    return [np.concatenate([members[i] for i in draw]) for draw in draws]


def _strength(tags: Tags, kind: str) -> int:
    return 2 if kind in tags else int(f"{kind}:weak" in tags)


def _flags(tags: Sequence[Tags], test: Callable[[Tags], bool]) -> Flags:
    return np.array([test(t) for t in tags], bool)


def score_tags(named: Sequence[Tags], truth: Sequence[Tags], photos: Sequence[str]) -> dict[str, Any]:
    """Precision and recall by kind and by vocabulary entry, strengths confused, and how often the set is exact.

    Args:
        named: what the tagger said of N samples.
        truth: what was done to them.
        photos: names of their photographs; the intervals are of resampled photographs.

    Returns:
        Plain data: `presence` and `macro`, `strict`, `confusion` (true strength by rows, named by columns), `exact`
        (share whose tag set is right) and `silent` (share without any tag).
    """
    resample = _draw_photos(photos)
    presence = {
        kind: _counts(
            _flags(named, lambda t, k=kind: _strength(t, k) > 0),  # type: ignore[misc]
            _flags(truth, lambda t, k=kind: _strength(t, k) > 0),  # type: ignore[misc]
            resample,
        )
        for kind in DEGRADATIONS
    }
    strict = {
        entry: _counts(
            _flags(named, lambda t, e=entry: e in t),  # type: ignore[misc]
            _flags(truth, lambda t, e=entry: e in t),  # type: ignore[misc]
            resample,
        )
        for entry in COMPACT_VOCABULARY
    }
    confusion = {kind: [[0] * len(STRENGTHS) for _ in STRENGTHS] for kind in DEGRADATIONS}
    for said, true in zip(named, truth, strict=True):
        for kind in DEGRADATIONS:
            confusion[kind][_strength(true, kind)][_strength(said, kind)] += 1
    return {
        "samples": len(truth),
        "photographs": len(set(photos)),
        "presence": presence,
        "macro": {name: _macro(presence, name) for name in ("precision", "recall")},
        "strict": strict,
        "confusion": confusion,
        "exact": float(np.mean([set(a) == set(b) for a, b in zip(named, truth, strict=True)])),
        "silent": float(np.mean([not said for said in named])),
    }


def _macro(rows: dict[str, dict[str, Any]], name: str) -> float:
    """Mean over kinds; a kind that is never named has no wrong tag, one that is never there counts nothing missed."""
    return float(np.mean([1.0 if row[name] is None else row[name] for row in rows.values()]))
