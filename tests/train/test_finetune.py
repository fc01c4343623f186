"""Finetuning: settings from the model, an honest split, and an export that differs from the model where it should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linearsr import Upscaler
from linearsr.checkpoint import load_network, read_config, save_checkpoint
from linearsr.config import CheckpointConfig, ExpertsConfig, TagsConfig
from linearsr.errors import ConfigError, TrainingError, WeightsError
from linearsr.model.lora import load_lora
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.data.split import PhotoSplit, split_photos
from linearsr_train.experts import boundaries_log_snr
from linearsr_train.finetune import FULL_OVERRIDES, FinetuneResult, finetune_config, run_finetune

BOUNDARIES = (2.4965, -3.891820, -5.46789123)
SMALL = (
    "data.crop=32", "loop.validation_crop=32", "data.num_workers=0", "loop.mixed_precision=no", "loop.batch_size=4",
    "loop.validation_photos=1", "loop.checkpoint_steps=4", "loop.log_steps=4", "stages.experts.max_steps=8",
    "stages.experts.validation_steps=4", "stages.experts.warmup_steps=1", "stages.experts.learning_rate=1e-2",
)  # fmt: skip
FULL = (*FULL_OVERRIDES, *SMALL)


@pytest.fixture
def four(tmp_path: Path, tiny_config: Callable, tiny_network: Callable) -> Path:
    """Folder of a tiny model with four different experts, settings of its own and a tagger file."""
    tagger = tmp_path / "its-tagger"
    tagger.write_bytes(b"whatever it is, it is copied")
    config: CheckpointConfig = tiny_config(
        experts=ExpertsConfig(boundaries_log_snr=BOUNDARIES, files=tuple(f"expert-{e}.safetensors" for e in range(4))),
        tags=TagsConfig(kind="closed", vocabulary=COMPACT_VOCABULARY, tagger="names.safetensors"),
    )
    config = replace(config, sampling=replace(config.sampling, steps=3, tile=72))
    networks = [tiny_network(config.model, seed).state_dict() for seed in range(4)]
    save_checkpoint(tmp_path / "four", config, networks, extra={"names.safetensors": tagger})
    return tmp_path / "four"


def adapt(model: Path, photos: Path, run: Path, overrides: tuple[str, ...] = SMALL, **settings) -> FinetuneResult:
    config, checkpoint = finetune_config(str(model), overrides)
    split = split_photos(photos, None, config)
    return run_finetune(config, checkpoint, split, run, device="cpu", **settings)


def weights(folder: Path, expert: int = 0) -> dict[str, torch.Tensor]:
    return dict(load_network(folder, read_config(folder), expert).state_dict())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo-{index}.png")
    return folder


def test_network_and_boundaries_are_those_of_the_model(four: Path) -> None:
    config, checkpoint = finetune_config(str(four))
    assert (config.model, config.autoencoder, config.flow) == (
        checkpoint.model,
        checkpoint.autoencoder,
        checkpoint.flow,
    )
    assert boundaries_log_snr(config.experts) == pytest.approx(BOUNDARIES, abs=1e-6)
    assert config.stages.pretrain.max_steps == config.tagger.max_steps == 0
    assert config.experts.mode == "lora"
    assert finetune_config(str(four), FULL_OVERRIDES)[0].experts.mode == "full"


def test_a_model_with_one_network_has_one_stage(tiny_checkpoint: Path) -> None:
    config, _ = finetune_config(str(tiny_checkpoint))
    assert config.experts.boundaries == ()


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("model.width=32", "model.width cannot be set"),
        ("experts.boundaries=[0.5]", "experts.boundaries cannot be set"),
        ("tagger.max_steps=5", "tagger.max_steps cannot be set"),
        ("experts.lora_rank=0", "experts.lora_rank is 0, expected 1 to 4096"),
        ("experts.lora_alpha=0", "LoRA alpha is 0, expected a number above 0"),
        ("stages.experts.max_step=3", "unknown setting 'stages.experts.max_step'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny_checkpoint: Path, assignment: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("[", r"\[")):
        finetune_config(str(tiny_checkpoint), [assignment])


def test_models_that_cannot_be_adapted_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match="is a pickle"):
        finetune_config(str(tmp_path / "model.pth"))
    with pytest.raises(WeightsError, match="is neither 'compact'") as caught:
        finetune_config(str(tmp_path / "nothing"))
    assert "--from compact" in str(caught.value.hint)
    path = tiny_checkpoint / "config.json"
    path.write_text(path.read_text().replace('"family": "compact"', '"family": "sana-0.6b"'))
    with pytest.raises(ConfigError, match="of the family 'sana-0.6b', expected 'compact'"):
        finetune_config(str(tiny_checkpoint))


@pytest.mark.parametrize(
    ("count", "training", "watched", "held_back"),
    [(2, 1, 1, 1), (3, 2, 1, 1), (6, 4, 1, 2), (10, 6, 1, 3), (20, 13, 2, 5), (40, 29, 3, 8)],
)
def test_every_part_of_the_split_has_photographs(
    tmp_path: Path, tiny_checkpoint: Path, count: int, training: int, watched: int, held_back: int
) -> None:
    config, _ = finetune_config(str(tiny_checkpoint), SMALL)
    split = split_photos(many(tmp_path / "photos", count), None, config)
    assert (len(split.training), len(split.watched), len(split.held_back)) == (training, watched, held_back)
    assert not set(split.held_back) & {*split.training, *split.watched}
    if count > 5:
        assert len({*split.training, *split.watched, *split.held_back}) == count


def test_split_follows_the_names_and_not_the_folder(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, _ = finetune_config(str(tiny_checkpoint), SMALL)
    one = split_photos(many(tmp_path / "one", 12), None, config)
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "deep")
    two = split_photos(tmp_path / "two", None, config)
    for part in ("training", "watched", "held_back"):
        assert [p.name for p in getattr(one, part)] == [p.name for p in getattr(two, part)]


def test_copies_small_and_damaged_files_are_left_out(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, _ = finetune_config(str(tiny_checkpoint), SMALL)
    folder = many(tmp_path / "photos", 4)
    shutil.copy(folder / "photo-1.png", folder / "zz-copy.png")
    Image.new("RGB", (40, 31)).save(folder / "small.png")
    (folder / "damaged.png").write_bytes(b"no picture")
    split = split_photos(folder, None, config)
    assert {p.name for p in (*split.training, *split.watched, *split.held_back)} == {f"photo-{i}.png" for i in range(4)}
    said = "\n".join(split.notes)
    assert "zz-copy.png: the same file as photo-1.png" in said
    assert "small.png: 40x31 is smaller than 32 pixels" in said
    assert "damaged.png" in said


def test_held_back_photographs_of_their_own_may_not_be_trained_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, _ = finetune_config(str(tiny_checkpoint), SMALL)
    data, other = many(tmp_path / "data", 8), tmp_path / "other"
    other.mkdir()
    for index in range(2):
        Image.effect_noise((32, 32), 50 + index).convert("RGB").save(other / f"new-{index}.png")
    split = split_photos(data, other, config)
    assert [p.name for p in split.held_back] == ["new-0.png", "new-1.png"]
    assert len(split.training) + len(split.watched) == 8
    shutil.copy(data / "photo-3.png", other / "renamed.png")
    with pytest.raises(TrainingError, match=r"1 of the held-back .* renamed\.png is photo-3\.png"):
        split_photos(data, other, config)


def test_folders_without_enough_photographs_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, _ = finetune_config(str(tiny_checkpoint), SMALL)
    with pytest.raises(TrainingError, match="does not exist"):
        split_photos(tmp_path / "nothing", None, config)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(TrainingError, match="no usable photograph among 0 picture files"):
        split_photos(tmp_path / "empty", None, config)
    with pytest.raises(TrainingError, match="1 usable photograph, expected at least 2"):
        split_photos(many(tmp_path / "one", 1), None, config)


def test_a_lora_run_changes_the_named_expert_alone(four: Path, photos: Path, tmp_path: Path) -> None:
    result = adapt(four, photos, tmp_path / "run", experts=(0,))
    assert result.has_changed
    assert result.lora is not None
    assert result.export is not None
    assert [equal(weights(four, e), weights(result.export, e)) for e in range(4)] == [False, True, True, True]
    info, parts = load_lora(result.lora)
    assert (info.experts, info.rank, tuple(parts)) == ((0,), 16, (0,))
    before, after = read_config(four), read_config(result.export)
    assert (after.sampling, after.tags, after.licence) == (before.sampling, before.tags, before.licence)
    assert after.experts.boundaries_log_snr == info.boundaries_log_snr == BOUNDARIES
    assert (result.export / "names.safetensors").read_bytes() == (four / "names.safetensors").read_bytes()
    assert after.training["finetuned_from"]["name"] == "four"


@pytest.mark.slow
def test_the_lora_on_the_model_is_the_export(four: Path, photos: Path, tmp_path: Path) -> None:
    result = adapt(four, photos, tmp_path / "run")
    assert result.lora is not None
    assert result.export is not None
    lr, settings = torch.rand(3, 12, 14), {"size": (56, 48), "steps": 4, "tags": ()}
    models = {
        "base": Upscaler.from_pretrained(four, device="cpu", dtype="fp32", tagger="none"),
        "merged": Upscaler.from_pretrained(result.export, device="cpu", dtype="fp32", tagger="none"),
        "lora": Upscaler.from_pretrained(four, device="cpu", dtype="fp32", tagger="none", loras=[(result.lora, 1.0)]),
    }
    sr = {name: model.upscale_tensor(lr, **settings) for name, model in models.items()}
    # The export is stored in float16, the LoRA in float32.
    assert (sr["lora"] - sr["merged"]).abs().max() < 1e-3
    assert (sr["lora"] - sr["base"]).abs().max() > 1e-2


def test_a_full_run_of_a_single_network_gives_a_model_and_no_lora(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    result = adapt(tiny_checkpoint, photos, tmp_path / "run", FULL, licence="CC-BY-4.0")
    assert result.has_changed
    assert result.lora is None
    assert result.export is not None
    config = read_config(result.export)
    assert (config.experts.files, config.licence) == (("expert-0.safetensors",), "CC-BY-4.0")
    assert not equal(weights(tiny_checkpoint), weights(result.export))


def test_held_back_photographs_are_read_by_nothing(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run must give the same weights whatever the held-back files hold."""
    config, checkpoint = finetune_config(str(tiny_checkpoint), FULL)
    split = split_photos(photos, None, config)
    gone = PhotoSplit(training=split.training, watched=split.watched, held_back=(tmp_path / "gone.png",), notes=())
    exports = []
    for name, chosen in (("with", split), ("without", gone)):
        exports.append(run_finetune(config, checkpoint, chosen, tmp_path / name, device="cpu").export)
    assert equal(weights(exports[0]), weights(exports[1]))


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(four: Path, photos: Path, tmp_path: Path) -> None:
    whole = adapt(four, photos, tmp_path / "whole", experts=(1, 0))
    stopped = adapt(four, photos, tmp_path / "parts", experts=(1, 0), max_hours=0.0)
    assert (stopped.run.finished, stopped.export, stopped.lora) == (False, None, None)
    resumed = adapt(four, photos, tmp_path / "parts", experts=(0, 1), resume="latest")
    again = adapt(four, photos, tmp_path / "parts", experts=(0, 1))
    for result in (resumed, again):
        assert result.lora.read_bytes() == whole.lora.read_bytes()
        for expert in range(4):
            assert equal(weights(result.export, expert), weights(whole.export, expert)), expert


def test_a_run_is_not_gone_on_with_with_something_else(
    tiny_checkpoint: Path, four: Path, photos: Path, tmp_path: Path
) -> None:
    adapt(four, photos, tmp_path / "run", experts=(3,), max_hours=0.0)
    with pytest.raises(TrainingError, match="experts differ from the run to resume"):
        adapt(four, photos, tmp_path / "run", experts=(0,))
    with pytest.raises(TrainingError, match="training, watched, held_back differ"):
        adapt(four, many(tmp_path / "others", 9), tmp_path / "run", experts=(3,))
    with pytest.raises(TrainingError, match="weights"):
        adapt(tiny_checkpoint, photos, tmp_path / "run", experts=(0,))
    with pytest.raises(TrainingError, match="already holds a run"):
        adapt(four, photos, tmp_path / "run", experts=(3,), resume="never")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="not of a run"):
        adapt(four, photos, foreign, experts=(3,))
    assert not (foreign / "finetune.json").exists()


@pytest.mark.parametrize(
    ("experts", "text"), [((4,), "expert 4 is unknown, expected numbers from 0 to 3"), ((), "no expert is named")]
)
def test_experts_that_do_not_exist_are_refused(four: Path, photos: Path, tmp_path: Path, experts, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        adapt(four, photos, tmp_path / "run", experts=experts)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="in one process"):
        adapt(tiny_checkpoint, photos, tmp_path / "run")


def test_record_names_every_photograph(tiny_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    adapt(tiny_checkpoint, photos, tmp_path / "run", max_hours=0.0)
    record = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert {*record["training"], *record["held_back"]} == {p.name for p in photos.iterdir()}
    assert set(record["watched"]) <= set(record["training"])
