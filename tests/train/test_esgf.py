"""The early-stopping rule: its rates on curves of known kind, what it keeps, its state, and its edges."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import random
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.config import from_dict, to_dict
from linearsr.errors import ConfigError
from linearsr_train.esgf import Esgf, EsgfConfig, Evaluation, Verdict

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


FROZEN = (
    ("oscillation", 27.2824914959, 0.4148470452),
    ("plateau", 27.3155386371, 0.3733289104),
    ("nan", 27.5627943171, 0.2560343473),
    ("trade", 29.6656577808, 0.2932563078),
    ("rising", 27.2226126650, 0.3785630283),
    ("restart", 28.9508315276, 0.3412899049),
    ("fall", 19.0234259648, 0.7621596991),
)
"""PSNR and perceptual score of the sixth evaluation of seed 10000: another value means other curves."""


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generator of made-up curves, from the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("knee_curves")


def feed(watch: Esgf, points: list[tuple[int, float, float]]) -> Verdict:
    for point in points:
        watch.update(*point)
    return watch.verdict


def rise(count: int, *, noise: float = 0.0, seed: int = 0) -> list[tuple[int, float, float]]:
    rng = random.Random(seed)
    shares = [1 - math.exp(-i / 4) for i in range(count)]
    return [
        (500 * (i + 1), 25 + 2 * s + rng.gauss(0, noise), 0.4 - 0.15 * s + rng.gauss(0, noise / 10))
        for i, s in enumerate(shares)
    ]


@pytest.mark.parametrize("kind", [kind for kind, _, _ in FROZEN])
def test_rates_on_three_hundred_curves_of_each_kind(kind: str, curves: ModuleType) -> None:
    seeds = range(curves.FIRST_SEED, curves.FIRST_SEED + curves.NUM_CURVES)
    rates = curves.measure(kind, curves.find_with_esgf, seeds)
    assert rates["curves"] == 300
    assert rates["right"] >= 0.98, rates
    assert rates["good"] >= 0.95 or kind not in curves.REQUIRED_KINDS, rates
    assert rates["knee"] <= 0.02 or kind == "oscillation", rates


def test_the_page_shows_the_newest_result(curves: ModuleType) -> None:
    page = (BENCHMARKS.parent / "docs" / "experiments" / "knee-detection.md").read_text(encoding="utf-8")
    newest = max((BENCHMARKS / "results").glob("*-knee.json"))
    result = json.loads(newest.read_text(encoding="utf-8"))
    assert result["first_seed"] == curves.FIRST_SEED
    assert importlib.import_module("run_knee").table(result["rows"]) in page
    # Recomputed here, so that page and file are those of the code.
    stored = next(row for row in result["rows"] if (row["kind"], row["rule"]) == ("oscillation", "esgf"))
    measured = curves.measure("oscillation", curves.find_with_esgf, range(curves.FIRST_SEED, curves.FIRST_SEED + 300))
    assert {name: stored[name] for name in measured} == pytest.approx(measured)


def test_curves_are_frozen(curves: ModuleType) -> None:
    assert [kind for kind, _, _ in FROZEN] == list(curves.KINDS)
    for kind, psnr, perceptual in FROZEN:
        curve = curves.make_curve(kind, 10_000)
        assert (curve.psnr[5], curve.perceptual[5]) == pytest.approx((psnr, perceptual), abs=1e-9), kind


def test_curves_are_of_their_kind(curves: ModuleType) -> None:
    for seed in range(10_000, 10_050):
        made = {kind: curves.make_curve(kind, seed) for kind in curves.KINDS}
        assert math.isnan(made["nan"].psnr[-1])
        rising = made["rising"].score
        assert rising[-1] - rising[-11] >= 0.03
        assert 20 <= len(rising) <= 41
        trade = made["trade"]
        peak = trade.score.index(max(trade.score))
        assert trade.psnr[-1] < trade.psnr[peak] and trade.perceptual[-1] < trade.perceptual[peak] + 0.02
        smooth_one = made["plateau"].score
        assert smooth_one[-1] - smooth_one[-20] < 0.03
        assert made["plateau"].onset is None
        assert made["oscillation"].onset in made["oscillation"].steps


def test_a_curve_without_noise_is_no_special_case() -> None:
    watch = Esgf()
    verdict = feed(watch, rise(80))
    assert verdict.status == "plateau"
    assert verdict.onset is None
    scores = dict(zip((e.step for e in watch.evaluations), watch.scores, strict=True))
    assert scores[verdict.knee] >= 0.95 * max(scores.values())
    assert verdict.elbow < verdict.knee


def test_a_flat_curve_is_a_plateau_and_a_straight_rise_is_not() -> None:
    assert feed(Esgf(), [(i, 25.0, 0.3) for i in range(40)]).status == "plateau"
    assert feed(Esgf(), [(i, 25.0 + 0.05 * i, 0.3 - 0.002 * i) for i in range(80)]).status == "running"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_values_that_are_not_finite_are_a_collapse_at_once(bad: float) -> None:
    for psnr, perceptual, finite in ((bad, 0.3, True), (26.0, bad, True), (26.0, 0.3, False)):
        watch = Esgf()
        feed(watch, rise(12))
        verdict = watch.update(7000, psnr, perceptual, finite)
        assert verdict.status == "collapse"
        assert verdict.onset == 7000
        assert verdict.elbow <= verdict.knee < 7000
        assert len(watch.evaluations) == 12


def test_a_collapse_before_any_evaluation_has_nothing_to_go_back_to() -> None:
    assert Esgf().update(10, math.nan, math.nan) == Verdict("collapse", "not finite at step 10", 10, None, None)
    watch = Esgf()
    watch.update(0, 25.0, 0.3)
    assert watch.update(40, 0.0, 0.0, finite=False) == Verdict("collapse", "not finite at step 40", 40, 0, 0)


def test_a_loss_that_is_not_finite_may_come_at_the_step_just_evaluated() -> None:
    watch = Esgf()
    feed(watch, rise(10))
    verdict = watch.update(5000, math.nan, math.nan, finite=False)
    assert (verdict.status, verdict.onset) == ("collapse", 5000)
    assert verdict.knee <= 5000


def test_a_stage_that_loses_what_it_started_with_goes_back_to_its_start() -> None:
    watch = Esgf()
    points = [(0, 27.0, 0.20), (500, 26.2, 0.25), (1000, 25.1, 0.3), (1500, 24.9, 0.31)]
    verdict = feed(watch, points)
    assert verdict.status == "collapse"
    assert (verdict.elbow, verdict.knee) == (0, 0)
    assert verdict.onset == 500


def test_one_bad_evaluation_is_no_collapse() -> None:
    watch = Esgf()
    feed(watch, rise(12))
    assert watch.update(6500, 20.0, 0.8).status == "running"
    assert watch.update(7000, 27.0, 0.25).status == "running"


def test_an_untrained_start_does_not_make_later_gains_look_small() -> None:
    """PSNR at step 0 is 17 dB below; the stage then gains 0.01 dB an evaluation and is not done."""
    rng = random.Random(2)
    points = [(0, 9.0, 0.9)]
    points += [
        (500 * i, 26.0 + 0.01 * i + rng.gauss(0, 0.005), 0.3 - 0.001 * i + rng.gauss(0, 5e-4)) for i in range(1, 60)
    ]
    assert feed(Esgf(), points).status == "running"


def test_nothing_is_taken_in_after_a_verdict() -> None:
    watch = Esgf()
    feed(watch, rise(12))
    verdict = watch.update(7000, math.nan, math.nan)
    kept, state = watch.kept_steps(), watch.state_dict()
    assert watch.update(7500, 99.0, 0.0) is verdict
    assert (watch.kept_steps(), watch.state_dict()) == (kept, state)


def test_steps_must_rise() -> None:
    watch = Esgf()
    watch.update(500, 25.0, 0.3)
    for step in (500, 400):
        with pytest.raises(ConfigError, match=f"step is {step} after 500"):
            watch.update(step, 25.0, 0.3)
    assert watch.evaluations == (Evaluation(500, 25.0, 0.3),)


@pytest.mark.parametrize("spacing", [1, 250, 4000])
def test_the_verdict_does_not_depend_on_spacing_or_units(spacing: int, curves: ModuleType) -> None:
    for seed in range(1000, 1010):
        curve = curves.make_curve("oscillation", seed)
        verdicts = []
        for factor, psnr_start in ((1, 0.0), (spacing, 3.0)):
            watch = Esgf()
            pairs = zip(curve.psnr, curve.perceptual, strict=True)
            feed(watch, [(factor * i, a + psnr_start, b) for i, (a, b) in enumerate(pairs)])
            verdict = watch.verdict
            verdicts.append(
                (verdict.status, *(step // factor for step in (verdict.onset, verdict.elbow, verdict.knee)))
            )
        assert verdicts[0] == verdicts[1]


WALKS = st.tuples(
    st.integers(0, 10_000), st.integers(1, 90), st.sampled_from([0.0, 0.02, 0.3]), st.sampled_from([0.0, 0.2, 2.0])
)


def walk(seed: int, count: int, noise: float, wander: float) -> list[tuple[int, float, float]]:
    """A rise with noise, a random walk on top and now and then a value that is not finite."""
    rng, points, drift = random.Random(seed), rise(count, noise=noise, seed=seed), 0.0
    walked = []
    for step, psnr, perceptual in points:
        drift += rng.gauss(0, wander) / 4
        lost = rng.random() < 0.005
        walked.append((step, math.nan if lost else psnr + drift, perceptual - drift / rng.choice((10, 20, -30))))
    return walked


@settings(deadline=None, max_examples=150)
@given(WALKS, st.sampled_from([10, 16, 30]))
def test_what_a_verdict_names_was_always_kept(shape: tuple[int, int, float, float], keep_last: int) -> None:
    watch = Esgf(EsgfConfig(keep_last=keep_last))
    kept: list[set[int]] = []
    steps: list[int] = []
    for step, psnr, perceptual in walk(*shape):
        verdict = watch.update(step, psnr, perceptual)
        steps = [evaluation.step for evaluation in watch.evaluations]
        kept.append(set(watch.kept_steps()))
        assert list(watch.kept_steps()) == sorted(kept[-1])
        assert set(steps[-keep_last:]) <= kept[-1] <= set(steps)
        assert len(kept) < 2 or kept[-1] <= kept[-2] | {step}
        if verdict.status != "running":
            break
    for named in (watch.verdict.elbow, watch.verdict.knee):
        if watch.verdict.status != "running" and steps:
            assert named is not None
            assert all(named in at for at in kept[steps.index(named) :])
    if watch.verdict.knee is not None:
        assert watch.verdict.elbow <= watch.verdict.knee
        assert watch.verdict.onset is None or watch.verdict.knee < watch.verdict.onset


def test_far_fewer_checkpoints_are_kept_than_made_on_a_long_curve() -> None:
    """An unending rise, where every evaluation is the best so far: what is archived rises by 0.01 each."""
    watch = Esgf()
    feed(watch, [(i, 25 + 0.01 * i, 0.4 - 0.0005 * i) for i in range(600)])
    assert watch.verdict.status == "running"
    assert len(watch.kept_steps()) <= 16 + 101


@settings(deadline=None, max_examples=60)
@given(WALKS, st.integers(0, 90))
def test_a_state_in_json_goes_on_as_if_nothing_had_happened(shape: tuple[int, int, float, float], cut: int) -> None:
    points = walk(*shape)
    whole, first, second = Esgf(), Esgf(), Esgf()
    feed(whole, points)
    feed(first, points[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert second.verdict == first.verdict
    assert second.kept_steps() == first.kept_steps()
    feed(second, points[cut:])
    assert second.verdict == whole.verdict
    assert second.state_dict() == whole.state_dict()
    assert second.scores == whole.scores


def test_a_state_of_other_settings_or_none_is_refused_and_changes_nothing() -> None:
    watch = Esgf()
    feed(watch, rise(5))
    with pytest.raises(ConfigError, match=r"another esgf\.patience, esgf\.window"):
        watch.load_state_dict(Esgf(EsgfConfig(patience=13, window=9)).state_dict())
    with pytest.raises(ConfigError, match="'config' is missing"):
        watch.load_state_dict({})
    assert len(watch.evaluations) == 5


def test_config_round_trips_and_refuses_what_it_cannot_use() -> None:
    config = EsgfConfig(patience=20, tolerance=0.1)
    assert from_dict(EsgfConfig, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ConfigError, match="unknown setting 'esgf.patienze'") as caught:
        from_dict(EsgfConfig, {"patienze": 3}, where="esgf")
    assert caught.value.hint == "did you mean 'esgf.patience'?"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EsgfConfig)])
def test_every_setting_has_a_range(field: str) -> None:
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=rf"esgf\.{field} is {bad:g}, expected"):
            EsgfConfig(**{field: bad})


def test_the_ring_covers_the_window() -> None:
    with pytest.raises(ConfigError, match=r"esgf\.keep_last is 13, expected at least 14"):
        EsgfConfig(window=12, confirmations=2, keep_last=13)
