"""Prompts beside the photographs, as samples, and their embeddings."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from linearsr.config import TagsConfig
from linearsr.errors import TrainingError
from linearsr.tags.encoder import make_embedder
from linearsr_train import prompt_table
from linearsr_train.config import DataConfig
from linearsr_train.data.batches import CropDataset, batches
from linearsr_train.data.degradation import degrade_bicubic
from linearsr_train.data.prompts import Prompts, read_prompts
from linearsr_train.data.samples import enlarge
from linearsr_train.data.sources import PhotoSet
from linearsr_train.prompt_table import PromptTable

TEXT = TagsConfig(kind="text", encoder="./text_encoder")


@pytest.fixture(scope="module")
def photo_set(told_photos: Path) -> PhotoSet:
    return PhotoSet(sorted(told_photos.glob("*.png")), 64, 1.0)


@pytest.fixture(scope="module")
def prompts(photo_set: PhotoSet) -> Prompts:
    return read_prompts([photo_set], TEXT)


@pytest.fixture
def config() -> DataConfig:
    return DataConfig(crop=64, real_probability=0.0, fixed_scales={"4": 1.0}, tag_dropout=0.0, num_workers=0)


def test_read_prompts_takes_any_words_in_their_order(prompts: Prompts) -> None:
    assert prompts.by_photo == {
        "bridge.png": "stone bridge, river", "lamp.png": "stone bridge, river", "roofs.png": "red roofs"
    }  # fmt: skip
    assert prompts.vocabulary == ("red roofs", "stone bridge, river")
    assert prompts.of("bridge.png") == ("stone bridge, river",)
    assert prompts.of("forest.png") == ()


def test_read_prompts_adds_the_models_suffix_to_every_photograph(photo_set: PhotoSet) -> None:
    found = read_prompts([photo_set], dataclasses.replace(TEXT, suffix="Sharp"))
    assert found.by_photo["roofs.png"] == "red roofs, sharp"
    assert found.by_photo["forest.png"] == "sharp"


def test_one_name_with_two_meanings_and_a_sidecar_that_is_no_list_are_errors(told_photos: Path, tmp_path: Path) -> None:
    for place, text in (("a", "roofs"), ("b", "river")):
        (tmp_path / place).mkdir()
        shutil.copy(told_photos / "roofs.png", tmp_path / place)
        (tmp_path / place / "roofs.txt").write_text(text)
    sets = [PhotoSet([tmp_path / place / "roofs.png"], 64, 1.0) for place in ("a", "b")]
    with pytest.raises(TrainingError, match="same name but different tags"):
        read_prompts(sets, TEXT)
    (tmp_path / "a" / "roofs.txt").write_text("x" * 101)
    with pytest.raises(TrainingError, match=r"roofs.txt: tag .* has 101 characters"):
        read_prompts(sets[:1], TEXT)


def test_samples_carry_prompt_and_native_pixels_and_are_otherwise_the_same(
    photo_set: PhotoSet, prompts: Prompts, config: DataConfig
) -> None:
    told = CropDataset(photo_set, config, 0, prompts=prompts, native=True)
    plain = CropDataset(photo_set, config, 0)
    seen = set()
    for index in range(24):
        sample, other = told[index], plain[index]
        name = told.describe(index).split()[2].rstrip(",")
        seen.add(name)
        assert sample.tags == prompts.of(name)
        assert torch.equal(sample.hr, other.hr) and torch.equal(sample.lr_up, other.lr_up)
        assert other.lr is None
        lr = degrade_bicubic(sample.hr.numpy().transpose(1, 2, 0).copy(), (16, 16)).lr
        assert torch.equal(sample.lr, torch.from_numpy(lr.transpose(2, 0, 1).copy()))
        assert torch.equal(enlarge(lr, (64, 64)), sample.lr_up)
    assert "bridge.png" in seen and seen - prompts.by_photo.keys(), "photographs with a prompt and without"


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_a_batch_numbers_the_prompts_and_dropped_ones_are_the_empty_one(
    photo_set: PhotoSet, prompts: Prompts, config: DataConfig, dropout: float
) -> None:
    dataset = CropDataset(photo_set, dataclasses.replace(config, tag_dropout=dropout), 0, prompts=prompts, native=True)
    batch = next(batches(dataset, 12, 0, 1, 0))
    names = [dataset.describe(index).split()[2].rstrip(",") for index in range(12)]
    numbers = [prompts.vocabulary.index(p) + 1 if (p := prompts.by_photo.get(n)) else 0 for n in names]
    assert len(set(numbers)) == 3
    assert batch.tags[:, 1].tolist() == ([0] * 12 if dropout else numbers)
    assert batch.lr.shape == (12, 3, 16, 16)


@pytest.mark.parametrize("kept", [prompt_table.KEPT_BYTES, 0])
def test_a_table_gives_the_encoders_embeddings_and_frees_it(
    stand_ins: Path, tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch, paper_recipe: Callable
) -> None:
    monkeypatch.setattr(prompt_table, "KEPT_BYTES", kept)
    tags, folder = paper_recipe().tags, stand_ins / "stand_ins" / "text_encoder"
    embedder = make_embedder(folder, tags, 16, cache_folder=tmp_path / "cache")
    prompts = ("", "red roofs", "stone bridge, river")
    expected = embedder.embed(prompts)
    embedder.free()
    table = PromptTable(embedder, prompts[1:])
    table.fill()
    assert embedder._encoder is None, "the text encoder takes more memory than the network"
    found = table([2, 0, 2, 1])
    assert all(torch.equal(a, expected[n]) for a, n in zip(found, (2, 0, 2, 1), strict=True))
    assert embedder._encoder is None
    assert not torch.equal(expected[1], expected[2][: len(expected[1])])
