"""Samples as a pure function of (seed, index), the same for any number of loader processes."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.errors import ConfigError, TrainingError
from linearsr.model.conditioning import pad_tag_ids
from linearsr.resize import resize
from linearsr.tags.vocabulary import closed_vocabulary, tag_ids
from linearsr_train.config import DataConfig
from linearsr_train.data.batches import Batch, CropDataset, batches, collate
from linearsr_train.data.degradation import degrade_bicubic
from linearsr_train.data.samples import enlarge, make_sample
from linearsr_train.data.sources import PhotoSet

CONTENT = {"bridge.png": ("water",), "lamp.png": ("night street", "water"), "roofs.png": ("facade",)}


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


@pytest.fixture
def config() -> DataConfig:
    scales = {"4": 0.62, "2": 0.1, "3": 0.08, "1": 0.04}
    return DataConfig(crop=32, real_probability=0.35, fixed_scales=scales, tag_dropout=0.12, num_workers=0)


@pytest.fixture
def lossy(photos: Path, tmp_path: Path) -> PhotoSet:
    """The photographs, read again for every crop; `roofs` and `river` went away after they were found."""
    folder = Path(shutil.copytree(photos, tmp_path / "copy"))
    photo_set = PhotoSet(sorted(folder.iterdir()), 32, 0.0)
    (folder / "roofs.png").unlink()
    (folder / "river.png").write_bytes(b"no longer a picture")
    return photo_set


def _equal(a: object, b: object) -> bool:
    pairs = zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_sample_is_a_pure_function_of_seed_and_index(photo_set: PhotoSet, config: DataConfig) -> None:
    forward = [CropDataset(photo_set, config, 3)[index] for index in range(6)]
    dataset = CropDataset(photo_set, config, 3)
    np.random.seed(99)
    torch.manual_seed(99)
    backward = [dataset[index] for index in reversed(range(6))][::-1]
    assert all(_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(_equal(a, b) for a, b in zip(forward, forward[1:], strict=False))
    other = [CropDataset(photo_set, config, 4)[index] for index in range(6)]
    assert not any(_equal(a, b) for a, b in zip(forward, other, strict=True))


def test_samples_stay_what_they_were(photo_set: PhotoSet, config: DataConfig) -> None:
    samples = [CropDataset(photo_set, config, 0)[index] for index in (5, 6, 7, 8)]
    levels = [np.rint(sample.hr.numpy() * 255).astype(np.uint8) for sample in samples]
    assert [hashlib.sha256(crop.tobytes()).hexdigest()[:16] for crop in levels] == [
        "880a543b5755d6c3",
        "2e289de4bc8b3e7c",
        "51bb9247dd35686f",
        "91646dff10728024",
    ]
    assert [sample.scale for sample in samples] == [4.0, 4.0, 32 / 9, 4.0]
    assert [sample.tags for sample in samples] == [(), ("clean",), ("blur:weak", "noise:weak"), ("clean",)]
    sums = [float(sample.lr_up.double().sum()) for sample in samples]
    # One level of one low-resolution pixel, which rounding may tip on another processor, is 0.06.
    assert sums == pytest.approx([1270.1490544, 1390.6196396, 1463.9902375, 1539.2000302], abs=0.2)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_enlarge_equals_resize_bit_for_bit(height: int, width: int, more_rows: int, more_cols: int) -> None:
    lr = np.random.default_rng(height * 64 + width).random((height, width, 3), dtype=np.float32)
    size = (height + more_rows, width + more_cols)
    expected = resize(torch.from_numpy(lr.transpose(2, 0, 1).copy()), size)
    assert torch.equal(enlarge(lr, size), expected)
    assert enlarge(lr, size).is_contiguous()


def test_crops_are_pieces_of_the_photographs_in_any_of_eight_views(photo_set: PhotoSet, config: DataConfig) -> None:
    dataset = CropDataset(photo_set, config, 0)
    views = set()
    for index in range(24):
        hr = dataset[index].hr
        assert hr.shape == (3, 32, 32)
        pixels = np.rint(hr.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        np.testing.assert_array_equal(pixels.astype(np.float32) / 255, hr.numpy().transpose(1, 2, 0))
        views.add(_find(pixels, photo_set))
    assert None not in views
    assert len({view for _, view in views}) >= 6
    assert len({photo for photo, _ in views}) >= 4


def _find(crop: np.ndarray, photo_set: PhotoSet) -> tuple[int, int] | None:
    """(photograph, view) that a crop was cut from."""
    for view in range(8):
        turned = np.rot90(crop[:, ::-1] if view >= 4 else crop, -(view % 4))
        for index in range(len(photo_set)):
            windows = np.lib.stride_tricks.sliding_window_view(photo_set.pixels(index)[:, :, 0], (32, 32))
            if (windows[:, :, ::8, ::8] == turned[::8, ::8, 0]).all((2, 3)).any():
                return index, view
    return None


def test_scales_are_drawn_with_their_probabilities(photo_set: PhotoSet, config: DataConfig) -> None:
    fixed = dataclasses.replace(config, fixed_scales={"4": 0.5, "2": 0.2, "1": 0.1})
    dataset = CropDataset(photo_set, fixed, 0)
    rng = np.random.default_rng(0)
    drawn = np.array([dataset._draw_scale(rng) for _ in range(20_000)])
    for scale, probability in ((4.0, 0.5), (2.0, 0.2), (1.0, 0.1)):
        assert np.mean(drawn == scale) == pytest.approx(probability, abs=0.015)
    rest = np.log2(drawn[(drawn != 4.0) & (drawn != 2.0) & (drawn != 1.0)])
    assert rest.min() > 0 and rest.max() < 2
    assert np.histogram(rest, bins=4, range=(0, 2))[0] / len(rest) == pytest.approx([0.25] * 4, abs=0.03)


def test_a_bicubic_sample_is_the_photograph_shrunk_and_enlarged(config: DataConfig) -> None:
    hr = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    sample = make_sample(hr, 3.0, False, config, np.random.default_rng(1))
    lr = degrade_bicubic(hr, (11, 11)).lr
    assert torch.equal(sample.lr_up, resize(torch.from_numpy(lr.transpose(2, 0, 1).copy()), (32, 32)))
    assert torch.equal(sample.hr, torch.from_numpy(hr.transpose(2, 0, 1)))
    assert sample.tags == ("clean",)


@pytest.mark.parametrize(("scale", "exact"), [(4.0, 4.0), (3.0, 32 / 11), (1.0, 1.0), (1.7, 32 / 19), (40.0, 32.0)])
def test_a_sample_states_the_exact_ratio_of_the_rounded_sizes(config: DataConfig, scale: float, exact: float) -> None:
    hr = np.zeros((32, 32, 3), np.float32)
    assert make_sample(hr, scale, False, config, np.random.default_rng(0)).scale == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("dropout", "real"), [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)])
def test_tags_follow_the_degradation_and_the_dropout(
    photo_set: PhotoSet, config: DataConfig, dropout: float, real: float
) -> None:
    dataset = CropDataset(photo_set, dataclasses.replace(config, tag_dropout=dropout, real_probability=real), 0)
    tags = [dataset[index].tags for index in range(12)]
    if dropout:
        assert tags == [()] * 12
    elif real:
        assert len(set(tags)) > 3
    else:
        assert tags == [("clean",)] * 12


def test_dropping_the_tags_changes_nothing_else(photo_set: PhotoSet, config: DataConfig) -> None:
    kept, dropped = (CropDataset(photo_set, dataclasses.replace(config, tag_dropout=p), 0)[5] for p in (0.0, 1.0))
    assert torch.equal(kept.lr_up, dropped.lr_up)
    assert kept.scale == dropped.scale


def test_a_subset_is_all_that_is_shown(photo_set: PhotoSet, config: DataConfig) -> None:
    dataset = CropDataset(photo_set, config, 0, subset=(1, 4))
    seen = {dataset.describe(index).split()[2].rstrip(",") for index in range(40)}
    assert seen == {photo_set.name(1), photo_set.name(4)}
    every = CropDataset(photo_set, config, 0, subset=tuple(range(6)))
    assert all(_equal(every[index], CropDataset(photo_set, config, 0)[index]) for index in range(8))
    for subset in ((), (1, 6), (-1,)):
        with pytest.raises(ConfigError, match="expected positions from 0 to 5"):
            CropDataset(photo_set, config, 0, subset=subset)


def test_content_tags_join_those_of_the_degradation(photo_set: PhotoSet, config: DataConfig) -> None:
    tagged = dataclasses.replace(config, content_tags=("facade", "night street", "water"), tag_dropout=0.4)
    plain = CropDataset(photo_set, dataclasses.replace(config, tag_dropout=0.4), 0)
    dataset = CropDataset(photo_set, tagged, 0, content=CONTENT)
    dropped = 0
    for index in range(60):
        sample, other = dataset[index], plain[index]
        name = dataset.describe(index).split()[2].rstrip(",")
        dropped += not other.tags
        assert sample.tags == ((*other.tags, *CONTENT.get(name, ())) if other.tags else ())
        assert torch.equal(sample.lr_up, other.lr_up)
    assert 12 <= dropped <= 36
    batch = next(batches(dataset, 60, 0, 1, 0))
    assert set(batch.tags.unique().tolist()) >= {0, 1, 8, 9, 10}
    assert torch.equal(
        batch.tags,
        pad_tag_ids([tag_ids(dataset[i].tags, closed_vocabulary(tagged.content_tags)) for i in range(60)])[0],
    )


def test_content_that_the_recipe_does_not_list_is_refused(photo_set: PhotoSet, config: DataConfig) -> None:
    with pytest.raises(ConfigError, match="unknown tag 'facade'"):
        CropDataset(photo_set, dataclasses.replace(config, content_tags=("water",)), 0, content={"a.png": ("facade",)})


def test_describe_says_where_a_sample_comes_from(photo_set: PhotoSet, config: DataConfig) -> None:
    dataset = CropDataset(photo_set, dataclasses.replace(config, real_probability=0.5), 0)
    names = [photo_set.name(index) for index in range(len(photo_set))]
    chains = set()
    for index in range(30):
        text = dataset.describe(index)
        assert text.startswith(f"sample {index}: ")
        name, place, row, *rest = text.removeprefix(f"sample {index}: ").split(", ")
        left, top = int(place.split()[-1]), int(row.split()[-1])
        crop = photo_set.pixels(names.index(name))[top : top + 32, left : left + 32]
        crop = np.rot90(crop, int(rest[0].split()[2]) // 90) if rest[0].startswith("turned") else crop
        crop = crop[:, ::-1] if "mirrored" in rest else crop
        np.testing.assert_array_equal(np.rint(dataset[index].hr.numpy().transpose(1, 2, 0) * 255), crop)
        scale = float(text.split(", scale ")[1].split(",")[0])
        assert dataset[index].scale == pytest.approx(scale, rel=0.08)
        chain = text.split(", ", text[: text.index("scale")].count(", ") + 1)[-1]
        stages = set(chain.removeprefix("real with ").split(", ")) if chain != "bicubic" else {"clean"}
        assert {tag.removesuffix(":weak") for tag in dataset[index].tags} <= stages | {"clean"}
        chains.add(chain)
    assert "bicubic" in chains and len(chains) > 3


def test_a_photograph_that_goes_away_is_replaced_and_named_once(
    photo_set: PhotoSet, lossy: PhotoSet, config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    whole, holey = CropDataset(photo_set, config, 0), CropDataset(lossy, config, 0)
    gone = ("roofs.png", "river.png")
    for index in range(40):
        name = whole.describe(index).split()[2].rstrip(",")
        if name in gone:
            assert _equal(holey[index], holey[index])
            assert holey.describe(index).split()[2].rstrip(",") not in gone
            assert holey[index].lost[0][0] == name
        else:
            assert _equal(holey[index], whole[index])
    with caplog.at_level(logging.WARNING):
        seen = list(batches(holey, 8, 0, 6, 0))
    assert len(seen) == 6 and all(torch.isfinite(batch.hr).all() for batch in seen)
    assert sorted(name for name, _ in lossy.skipped) == sorted(gone)
    assert sorted(record.getMessage().split("/")[-1] for record in caplog.records) == [
        "river.png is a text file, expected PNG, JPEG, WebP, TIFF, AVIF, BMP, PPM or HEIF",
        "roofs.png does not exist, expected a picture",
    ]


def test_a_loss_in_a_loader_process_is_told_to_the_training_process(lossy: PhotoSet, config: DataConfig) -> None:
    assert len(list(batches(CropDataset(lossy, config, 0), 8, 0, 4, 1))) == 4
    assert sorted(name for name, _ in lossy.skipped) == ["river.png", "roofs.png"]


def test_when_every_photograph_goes_away_training_ends(lossy: PhotoSet, config: DataConfig) -> None:
    for index in range(len(lossy)):
        lossy.path(index).unlink(missing_ok=True)
    with pytest.raises(TrainingError, match="6 photographs tried for sample 3 cannot be read any more"):
        CropDataset(lossy, config, 0)[3]


def test_collate_stacks_and_numbers_the_tags(photo_set: PhotoSet, config: DataConfig) -> None:
    samples = [CropDataset(photo_set, config, 0)[index] for index in range(4)]
    batch = collate(samples)
    assert torch.equal(batch.hr[2], samples[2].hr)
    assert torch.equal(batch.lr_up[3], samples[3].lr_up)
    assert batch.scale.tolist() == pytest.approx([sample.scale for sample in samples])
    ids, mask = pad_tag_ids([tag_ids(sample.tags) for sample in samples])
    assert torch.equal(batch.tags, ids)
    assert torch.equal(batch.tag_mask, mask)


def _steps(photo_set: PhotoSet, config: DataConfig, first: int, last: int, workers: int) -> list[Batch]:
    return list(batches(CropDataset(photo_set, config, 0), 4, first, last, workers))


def test_batches_are_equal_for_any_number_of_loader_processes(photo_set: PhotoSet, config: DataConfig) -> None:
    alone, loaded = _steps(photo_set, config, 0, 3, 0), _steps(photo_set, config, 0, 3, 1)
    assert len(alone) == len(loaded) == 3
    assert all(_equal(a, b) for a, b in zip(alone, loaded, strict=True))


def test_batches_from_a_later_step_go_on_where_the_earlier_ended(photo_set: PhotoSet, config: DataConfig) -> None:
    whole, rest = _steps(photo_set, config, 0, 4, 0), _steps(photo_set, config, 2, 4, 0)
    assert all(_equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    expected = collate([CropDataset(photo_set, config, 0)[index] for index in range(8, 12)])
    assert _equal(rest[0], expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_parts_of_all_processes_are_the_batch_of_one(
    photo_set: PhotoSet, config: DataConfig, world_size: int
) -> None:
    dataset = CropDataset(photo_set, config, 0)
    whole = list(batches(dataset, 8, 1, 4, 0))
    parts = [list(batches(dataset, 8, 1, 4, 0, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        for name in ("hr", "lr_up", "scale", "tags", "tag_mask"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batch, name))
        size = 8 // world_size
        assert [share.first_index for share in shares] == [8 * (step + 1) + size * rank for rank in range(world_size)]


@pytest.mark.parametrize(
    ("rank", "world_size", "message"),
    [
        (0, 3, "loop.batch_size is 8, expected a multiple of the number of processes, 3"),
        (2, 2, "rank is 2"),
        (0, 0, "rank is 0 of 0"),
    ],
)
def test_batches_refuses_parts_that_do_not_fit(
    photo_set: PhotoSet, config: DataConfig, rank: int, world_size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        batches(CropDataset(photo_set, config, 0), 8, 0, 1, 0, rank=rank, world_size=world_size)


def test_batches_leave_the_global_generator_of_the_network_alone(photo_set: PhotoSet, config: DataConfig) -> None:
    state = np.random.get_state()[1].copy()
    _steps(photo_set, config, 0, 1, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
