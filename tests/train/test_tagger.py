"""Training of the tagger: exact samples, thresholds that keep their word, and a stop that changes nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from linearsr.config import from_dict, to_dict
from linearsr.errors import ConfigError, TrainingError
from linearsr.tags.compact import NEVER, TAGGER_NAME, TagThresholds, load_tagger, save_tagger
from linearsr.tags.compact_network import TaggerNetwork
from linearsr.tags.vocabulary import DEGRADATIONS
from linearsr_train.data.degradation import DegradationConfig
from linearsr_train.data.sources import PhotoSet, is_validation
from linearsr_train.data.tag_samples import TagSamples, TrainingPieces, split_photos, tag_targets
from linearsr_train.tagger import TaggerResult, train_tagger
from linearsr_train.tagger_config import TaggerConfig
from linearsr_train.tagger_scores import pick_threshold, pick_thresholds, score_tags
from linearsr_train.tagger_state import STATE_NAME

ROOT = Path(__file__).resolve().parents[2]
TINY = TaggerConfig(
    max_steps=6,
    batch_size=4,
    mixed_precision="no",
    crop=32,
    margin=8,
    widths=(8, 12),
    hidden=8,
    num_samples=10,
    num_workers=0,
    checkpoint_steps=2,
    calibration_samples=12,
    report_samples=8,
)
CHAIN = DegradationConfig()


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(p for p in photos.iterdir() if p.stem not in ("lamp", "street")), 32, 1.0)


@pytest.fixture(scope="module")
def held_back(photos: Path) -> PhotoSet:
    return PhotoSet([photos / "lamp.png", photos / "street.png"], 32, 1.0)


def _train(photo_set: PhotoSet, held_back: PhotoSet, folder: Path, stop_at: int | None = None, **changes):
    """A run that asks to stop before step `stop_at`."""
    asked = iter(range(10_000))
    return train_tagger(
        photo_set,
        held_back,
        dataclasses.replace(TINY, **changes),
        CHAIN,
        folder,
        seed=5,
        should_stop=lambda: next(asked) == stop_at,
    )


def _samples(photo_set: PhotoSet, **settings) -> TagSamples:
    return TagSamples(photo_set, range(len(photo_set)), TINY, CHAIN, (1, 0), **settings)


def test_samples_follow_from_their_index_alone(photo_set: PhotoSet) -> None:
    forward, backward = _samples(photo_set), _samples(photo_set)
    first = [forward[index] for index in range(8)]
    second = [backward[index] for index in reversed(range(8))][::-1]

    for (lr, tags, name), (again, tags_again, name_again) in zip(first, second, strict=True):
        assert np.array_equal(lr, again)
        assert (tags, name) == (tags_again, name_again)
    assert len({lr.tobytes() for lr, _, _ in first}) == 8


def test_bicubic_samples_are_clean_and_of_the_asked_scale(photo_set: PhotoSet) -> None:
    config = dataclasses.replace(TINY, real_probability=0.0)
    whole = TagSamples(photo_set, [0], config, CHAIN, (1, 0), scale=2.0, whole=True)

    lr, tags, name = whole[0]

    assert tags == ("clean",)
    assert name == photo_set.name(0)
    assert lr.shape == (photo_set.pixels(0).shape[0] // 2, photo_set.pixels(0).shape[1] // 2, 3)


def test_pieces_show_every_sample_once_a_turn(photo_set: PhotoSet) -> None:
    pieces = TrainingPieces(_samples(photo_set), 1)
    orders = [[pieces._sample_of(turn * 10 + place) for place in range(10)] for turn in (0, 1, 0)]

    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] == orders[2] != orders[1]


def test_piece_is_a_turned_part_of_its_sample_with_its_tags(photo_set: PhotoSet) -> None:
    samples = _samples(photo_set)
    pieces = TrainingPieces(samples, 1)
    for index in range(6):
        piece, targets = pieces[index]
        lr, tags, _ = samples[pieces._sample_of(index)]
        values = set(map(tuple, lr.reshape(-1, 3).tolist()))

        assert piece.shape == (3, 32, 32)
        assert set(map(tuple, piece.reshape(3, -1).T.tolist())) <= values
        assert targets.tolist() == tag_targets(tags)


@pytest.mark.parametrize(
    ("tags", "targets"),
    [
        (("clean",), [1, 0, 0, 0, 0, 0, 0]),
        (("blur:weak", "jpeg"), [0, 1, 0, 1, 0, 0, 1]),
        (("noise",), [0, 0, 1, 0, 0, 1, 0]),
    ],
)
def test_tag_targets(tags: tuple[str, ...], targets: list[float]) -> None:
    assert tag_targets(tags) == targets


def test_split_keeps_photographs_apart(photo_set: PhotoSet) -> None:
    training, calibration = split_photos(photo_set, 0.25)

    assert len(calibration) == 1
    assert sorted(training + calibration) == list(range(len(photo_set)))
    assert split_photos(photo_set, 1.0)[0] != []
    assert split_photos(photo_set, 0.0)[1] == calibration


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30), st.sampled_from((0.5, 0.8, 1.0)))
def test_pick_threshold_is_the_lowest_that_is_precise_enough(pairs: list[tuple[int, bool]], target: float) -> None:
    probability = np.array([p / 8 for p, _ in pairs])
    truth = np.array([t for _, t in pairs])
    cuts = [cut for cut in sorted(set(probability.tolist())) if cut >= 0.5]
    precise = [cut for cut in cuts if truth[probability >= cut].mean() >= target]

    assert pick_threshold(probability, truth, target) == (precise[0] if precise else NEVER)


def test_pick_thresholds_separates_presence_strength_and_clean() -> None:
    truth = [("clean",)] * 10 + [("blur:weak",)] * 10 + [("blur",)] * 10 + [("noise",)] * 10
    rows = [[0.9, 0.1, 0.1, 0.1, 0, 0, 0]] * 10 + [[0.2, 0.7, 0.1, 0.1, 0.3, 0, 0]] * 10
    rows += [[0.0, 0.8, 0.1, 0.1, 0.6, 0, 0]] * 10 + [[0.1, 0.2, 0.6, 0.1, 0, 0.5, 0]] * 10

    found = pick_thresholds(np.array(rows, float), truth, 0.95)

    assert found.presence == {"blur": 0.7, "noise": 0.6, "jpeg": NEVER}
    assert 0.3 < found.strong["blur"] <= 0.6
    assert found.clean == 0.9


def test_score_tags_counts_by_hand() -> None:
    truth = [("blur",), ("blur:weak", "jpeg"), ("clean",), ("noise",)]
    named = [("blur",), ("blur",), ("blur:weak",), ()]

    scores = score_tags(named, truth, ["a", "a", "b", "c"])

    blur = scores["presence"]["blur"]
    assert (blur["named"], blur["there"], blur["right"]) == (3, 2, 2)
    assert (blur["precision"], blur["recall"]) == (2 / 3, 1.0)
    assert scores["presence"]["jpeg"]["precision"] is None
    assert scores["macro"] == {"precision": pytest.approx((2 / 3 + 1 + 1) / 3), "recall": pytest.approx(1 / 3)}
    assert scores["strict"]["blur"]["precision"] == 0.5
    assert scores["confusion"]["blur"] == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert scores["exact"] == 0.25
    assert scores["silent"] == 0.25
    low, high = blur["precision_interval"]
    assert 0.0 <= low <= 2 / 3 <= high <= 1.0


def test_stopped_run_ends_as_one_that_never_stopped(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    result = _train(photo_set, held_back, whole)
    assert _train(photo_set, held_back, parts, stop_at=3) is None
    assert not (parts / TAGGER_NAME).exists()
    assert torch.load(parts / STATE_NAME, weights_only=True)["step"] == 3
    # Shared random numbers drawn in between, and another number of loaders, must not matter either.
    torch.rand(7)
    resumed = _train(photo_set, held_back, parts, num_workers=1)

    assert isinstance(result, TaggerResult)
    assert isinstance(resumed, TaggerResult)
    assert (parts / TAGGER_NAME).read_bytes() == (whole / TAGGER_NAME).read_bytes()
    assert resumed.scores == result.scores


def test_stop_while_measuring_writes_no_tagger(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    assert _train(photo_set, held_back, tmp_path, stop_at=10) is None
    assert torch.load(tmp_path / STATE_NAME, weights_only=True)["step"] == TINY.max_steps
    assert not (tmp_path / TAGGER_NAME).exists()


def test_result_is_what_the_file_says(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    result = _train(photo_set, held_back, tmp_path)
    loaded = load_tagger(tmp_path / TAGGER_NAME)

    assert loaded.thresholds == result.thresholds
    assert result.calibration_photos == [photo_set.name(i) for i in split_photos(photo_set, 0.08)[1]]
    assert result.scores["photographs"] == 2
    assert result.summary()["macro"] == result.scores["macro"]


def test_changed_settings_are_refused_by_name(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    _train(photo_set, held_back, tmp_path, stop_at=2)

    with pytest.raises(TrainingError, match=r"resume in hidden, learning_rate$"):
        _train(photo_set, held_back, tmp_path, hidden=9, learning_rate=1e-3)
    assert _train(photo_set, held_back, tmp_path, target_precision=0.5) is not None


def test_damaged_state_is_refused(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_bytes(b"no archive")

    with pytest.raises(TrainingError, match="cannot be read"):
        _train(photo_set, held_back, tmp_path)


def test_network_learns_to_tell_noise(photo_set: PhotoSet, held_back: PhotoSet, tmp_path: Path) -> None:
    noisy = DegradationConfig(
        blur_stage_prob=0.0,
        noise_stage_prob=1.0,
        jpeg_stage_prob=0.0,
        noise_sigma=(20.0, 25.0),
        noise_sigma2=(20.0, 25.0),
        gaussian_prob=1.0,
        gaussian_prob2=1.0,
    )
    config = dataclasses.replace(
        TINY,
        max_steps=60,
        batch_size=8,
        num_samples=100,
        learning_rate=5e-3,
        fixed_scales={"2": 1.0},  # the painted photographs have a grain of their own, which shrinking takes away
        real_probability=0.5,
        calibration_samples=60,
        report_samples=60,
    )

    result = train_tagger(photo_set, held_back, config, noisy, tmp_path, seed=0)

    noise = result.scores["presence"]["noise"]
    assert noise["precision"] >= 0.9
    assert noise["recall"] >= 0.7
    assert result.scores["presence"]["blur"]["named"] == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop": 33}, "crop is 33"),
        ({"batch_size": 1}, "batch_size is 1, expected at least 2"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"real_probability": 1.5}, "real_probability is 1.5"),
        ({"target_precision": float("nan")}, "target_precision is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"fixed_scales": {"5": 0.1}}, "fixed_scales.5"),
        ({"fixed_scales": {"2": 0.6, "4": 0.6}}, "sums to 1.2"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'"),
        ({"num_sample": 5}, "unknown setting 'num_sample'"),
    ],
)
def test_config_refuses(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_dict(TaggerConfig, values)


def test_config_survives_plain_data() -> None:
    assert from_dict(TaggerConfig, to_dict(TINY)) == TINY


def test_benchmark_measures_held_back_photographs(photos: Path, tmp_path: Path) -> None:
    names = [name for index in range(200) if is_validation(name := f"photo{index}.png", 0.05)][:2]
    data = tmp_path / "secret" / "Photos"
    data.mkdir(parents=True)
    for name in (*names, next(n for index in range(200) if not is_validation(n := f"photo{index}.png", 0.05))):
        Image.open(photos / "lamp.png").resize((130, 140)).save(data / name)
    torch.manual_seed(0)
    always, half = dict.fromkeys(DEGRADATIONS, 0.0), dict.fromkeys(DEGRADATIONS, 0.5)
    thresholds = TagThresholds(clean=0.5, presence=always, strong=half)
    save_tagger(tmp_path / TAGGER_NAME, TaggerNetwork(TINY.model(), 3), thresholds)
    output = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "run_tagger.py"), "--data", str(data)]
    command += ["--tagger", str(tmp_path / TAGGER_NAME), "--samples", "4", "--whole", "2", "--output", str(output)]

    done = subprocess.run([*command, "--fixed", str(data)], capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    text = output.read_text()
    cases = json.loads(text)["cases"]
    assert [case["samples"] for case in cases.values()] == [4, 4, 4, 2, 3]
    assert max(case["photographs"] for name, case in cases.items() if "fixed" not in name) == 2
    # Every kind is always named by these thresholds, so nothing is missed.
    assert all(row["recall"] in (1.0, None) for case in cases.values() for row in case["presence"].values())
    assert "secret" not in text
    assert "| macro " in done.stdout
