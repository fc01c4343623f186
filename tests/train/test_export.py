"""What leaves a run: the averaged weights of every expert, with everything a user's sampler needs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr import Upscaler, __version__
from linearsr.checkpoint import load_network, read_config
from linearsr.model.lora import load_lora
from linearsr.schedules import compact_grid
from linearsr.tags.compact import load_tagger
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.experts import boundaries_log_snr
from linearsr_train.export import PUBLISHED_STEPS, export_experts, export_run
from linearsr_train.weights import WeightBook

EXPERTS = [f"expert-{expert}.safetensors" for expert in range(4)]


def _picture(folder: Path, **settings: Any) -> torch.Tensor:
    upscaler = Upscaler.from_pretrained(folder, device="cpu", dtype="fp32")
    y, x = torch.meshgrid(torch.arange(13.0), torch.arange(10.0), indexing="ij")
    picture = torch.stack([0.5 + 0.4 * torch.sin(x * 0.9 + k + y * 0.4) for k in range(3)])
    return upscaler(picture, **{"scale": 3, "steps": 4, **settings})


def test_export_of_one_network_runs_in_the_upscaler(
    tmp_path: Path, tiny_recipe: Callable, tiny_network: Callable
) -> None:
    config = tiny_recipe()
    network = tiny_network(config.model)
    export_experts(config, [network.state_dict()], tmp_path, summary={}, licence="CC0-1.0")
    written = read_config(tmp_path)
    assert written.experts.boundaries_log_snr == ()
    weights = load_network(tmp_path, written, 0).state_dict()
    assert all(torch.equal(value, network.state_dict()[name].half().float()) for name, value in weights.items())
    Upscaler.from_pretrained(tmp_path, device="cpu", dtype="fp32").validate()
    out = _picture(tmp_path, scale=2.5, tags="clean")
    assert out.shape == (3, 32, 25)
    assert torch.isfinite(out).all()


def test_export_holds_the_average_of_each_experts_last_stage(finished: Any) -> None:
    config = read_config(finished.folder / "export")
    book = WeightBook(finished.config, finished.folder)
    assert list(config.experts.files) == EXPERTS
    for expert in range(4):
        weights = load_network(finished.folder / "export", config, expert).state_dict()
        best = book.best(expert)
        assert weights.keys() == best.keys()
        assert all(torch.equal(value, best[name].half().float()) for name, value in weights.items()), expert


def test_export_states_boundaries_grids_tags_and_where_it_came_from(finished: Any) -> None:
    config = read_config(finished.folder / "export")
    assert config.experts.boundaries_log_snr == boundaries_log_snr(finished.config.experts)
    assert (config.model, config.flow) == (finished.config.model, finished.config.flow)
    assert config.tags.vocabulary == COMPACT_VOCABULARY
    assert config.tags.tagger == "tagger.safetensors"
    assert set(config.sampling.t_grids) == {str(steps) for steps in PUBLISHED_STEPS}
    for steps in PUBLISHED_STEPS:
        assert config.sampling.t_grids[str(steps)] == tuple(compact_grid(steps).tolist())
    assert config.licence == "CC0-1.0"
    training = config.training
    assert training["linearsr"] == __version__
    assert training["recipe"]["loop"]["batch_size"] == 4
    assert training["photographs"] == 4
    assert training["perceptual"] == "gmsd"
    assert training["validation"] == finished.result.validation
    assert list(training["stages"]) == list(finished.result.stages)


def test_export_lists_every_file_with_its_hash_and_nothing_else_lies_there(finished: Any) -> None:
    folder = finished.folder / "export"
    config = read_config(folder)
    assert sorted(config.files) == [*EXPERTS, "tagger.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", *sorted(config.files)]
    for name, entry in config.files.items():
        data = (folder / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_export_ships_the_tagger_that_was_trained(finished: Any) -> None:
    path = finished.folder / "export" / "tagger.safetensors"
    trained = finished.folder / "stages" / "tagger" / "tagger.safetensors"
    assert path.read_bytes() == trained.read_bytes()
    probabilities = load_tagger(path).probabilities(torch.rand(3, 40, 40))
    assert probabilities.shape == (7,)
    upscaler = Upscaler.from_pretrained(finished.folder / "export", device="cpu", dtype="fp32")
    assert upscaler(torch.rand(3, 13, 10), scale=3, steps=1).shape == (3, 39, 30)


def test_export_uses_each_expert_for_its_steps(finished: Any, tmp_path: Path) -> None:
    """Spoil one expert: of four steps each makes one, so every result changes; one step is the noisiest one's alone."""
    four, one = _picture(finished.folder / "export", tags=""), _picture(finished.folder / "export", tags="", steps=1)
    networks = [WeightBook(finished.config, finished.folder).best(expert) for expert in range(4)]
    for expert in range(4):
        spoilt = [
            {name: value + 0.05 for name, value in weights.items()} if index == expert else weights
            for index, weights in enumerate(networks)
        ]
        folder = tmp_path / str(expert)
        export_experts(finished.config, spoilt, folder, summary={}, licence="CC0-1.0")
        assert float((_picture(folder, tags="") - four).abs().max()) > 1e-3, expert
        assert (float((_picture(folder, tags="", steps=1) - one).abs().max()) > 1e-3) == (expert == 3), expert


def test_loras_merged_and_kept_apart_make_the_same_picture(finished_lora: Any, tmp_path: Path) -> None:
    separate = finished_lora.folder / "export"
    config = read_config(separate)
    assert sorted(config.files) == ["base.safetensors", "lora-0.safetensors", "lora-1.safetensors"]
    assert sorted(path.name for path in separate.glob("*.safetensors")) == sorted(config.files), (
        "none of before is left"
    )
    assert config.experts.files == ("base.safetensors",) * 2
    for expert in range(2):
        info, additions = load_lora(separate / f"lora-{expert}.safetensors")
        assert (info.experts, list(additions)) == ((expert,), [expert])
        assert info.boundaries_log_snr == config.experts.boundaries_log_snr

    recipe, book = finished_lora.config, WeightBook(finished_lora.config, finished_lora.folder)
    merged = replace(recipe, experts=replace(recipe.experts, lora_export="merged"))
    export_run(merged, book, tmp_path / "merged", summary={}, licence="unstated", tagger=None)
    assert read_config(tmp_path / "merged").experts.loras == ()
    export_experts(recipe, [book.common_base()] * 2, tmp_path / "base", summary={}, licence="unstated")
    for steps in (1, 4):
        a, b, base = (_picture(folder, steps=steps) for folder in (separate, tmp_path / "merged", tmp_path / "base"))
        assert float((a - b).abs().max()) < 1e-3
        assert float((a - base).abs().max()) > 3 * float((a - b).abs().max())


def test_loras_of_experts_with_several_bases_are_merged(finished_lora: Any, tmp_path: Path) -> None:
    """One expert began again from the elbow: the base is not one any more, so each expert gets its own network."""
    run = Path(shutil.copytree(finished_lora.folder, tmp_path / "run"))
    (run / "stages" / "expert-1" / "start.json").write_text('{"elbow_file": "keep/step-00000000.safetensors"}')
    book = WeightBook(finished_lora.config, run)
    written = export_run(finished_lora.config, book, run / "export", summary={}, licence="unstated", tagger=None)
    assert written.experts.loras == ()
    assert sorted(path.name for path in (run / "export").glob("*.safetensors")) == EXPERTS[:2]


def test_export_of_a_run_without_weights_is_none(tmp_path: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe()
    book = WeightBook(config, tmp_path)
    assert export_run(config, book, tmp_path / "export", summary={}, licence="", tagger=None) is None
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("absolute", [True, False])
def test_export_names_its_start_without_this_machines_folders(
    tmp_path: Path, tiny_checkpoint: Path, tiny_recipe: Callable, tiny_network: Callable, absolute: bool
) -> None:
    config = tiny_recipe(init=str(tiny_checkpoint) if absolute else "compact")
    export_experts(config, [tiny_network(config.model).state_dict()], tmp_path / "e", summary={}, licence="")
    expected = "/".join(tiny_checkpoint.parts[-2:]) if absolute else "compact"
    assert read_config(tmp_path / "e").training["recipe"]["init"] == expected
