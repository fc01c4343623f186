"""From SANA folders to LinearSR checkpoints: same numbers out, nothing half-written, plain refusals."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from linearsr.checkpoint import load_network, read_config
from linearsr.convert import CARD_NAME, convert_sana
from linearsr.errors import ConfigError, LinearSRError, WeightsError
from linearsr.model.conditioning import Conditioning
from linearsr.model.sana import from_diffusers, to_nvlabs
from linearsr.model.sana_config import model_config_from_diffusers
from linearsr.presets import PRESETS, get_preset
from linearsr_train.stand_ins.sana import CAPTION_CHANNELS, write_sana

diffusers = pytest.importorskip("diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def sana(tmp_path: Path) -> Path:
    return write_sana(tmp_path / "Sana_tiny")


@pytest.fixture
def tiny_preset(sana: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of the stand-in's size, as NVlabs files need one."""
    model = model_config_from_diffusers(json.loads((sana / "transformer/config.json").read_text()))
    base = get_preset("sana-0.6b")
    monkeypatch.setitem(
        PRESETS,
        "sana-tiny",
        replace(base, name="sana-tiny", model=replace(model, lr_stem=(64, 128, 32), cond_channels=32)),
    )
    return "sana-tiny"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / WEIGHTS)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def outputs(sana: Path, converted: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Of diffusers' network and of the loaded checkpoint, which also sees a picture."""
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(sana / "transformer").eval().requires_grad_(False)
    ours = load_network(converted, read_config(converted), 0).eval().requires_grad_(False)
    x_t, tags = torch.randn(2, 32, 5, 6), torch.randn(2, 4, CAPTION_CHANNELS)
    t, mask = torch.tensor([0.9, 0.2]), torch.tensor([[True] * 4, [True, True, False, False]])
    cond = Conditioning(lr=torch.randn(ours.config.lr_shape(tuple(x_t.shape))), tags=tags, tag_mask=mask)
    return theirs(x_t, tags, 1000 * t, encoder_attention_mask=mask.long()).sample, ours(x_t, t, cond)


@pytest.mark.parametrize("style", ["1.0", "1.5"])
def test_converted_folder_computes_what_diffusers_computes(tmp_path: Path, style: Any) -> None:
    sana = write_sana(tmp_path / "sana", style=style, seed=4)

    config = convert_sana(sana, tmp_path / "out")

    expected, out = outputs(sana, tmp_path / "out")
    assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert config.model.qk_norm == (style == "1.5")
    assert read_config(tmp_path / "out") == config


def test_converted_tensors_are_bit_exact_and_in_the_dtype_asked_for(sana: Path, tmp_path: Path) -> None:
    convert_sana(sana, tmp_path / "same")
    convert_sana(sana, tmp_path / "half", dtype=torch.bfloat16)
    expected = from_diffusers(tensors(sana))

    for name, dtype in (("same", torch.float32), ("half", torch.bfloat16)):
        state = load_file(tmp_path / name / "expert-0.safetensors")
        assert {value.dtype for value in state.values()} == {dtype}
        assert not state["patch_embed.proj.weight"][:, 32:].any()
        for key, value in expected.items():
            columns = state[key][:, :32] if key == "patch_embed.proj.weight" else state[key]
            assert torch.equal(columns, value.to(dtype))


def test_converted_config_says_all_there_is_to_say(sana: Path, tmp_path: Path) -> None:
    config = convert_sana(
        sana,
        tmp_path / "out",
        seed=9,
        autoencoder="me/light-ae",
        encoder="./encoder",
        licence="CC0-1.0",
        origin="me/sana@v1",
    )

    assert (config.family, config.licence) == ("sana", "CC0-1.0")
    assert (config.autoencoder.kind, config.autoencoder.source) == ("dcae", "me/light-ae")
    assert (config.autoencoder.factor, config.autoencoder.scaling_factor) == (32, 0.41407)
    assert (config.tags.kind, config.tags.encoder) == ("text", "./encoder")
    assert (config.flow.prediction, config.sampling.sampler, config.sampling.cfg_scale) == ("v", "dpmpp_2m", 4.5)
    assert (config.model.lr_stem, config.model.depth) == ((64, 128, 32), 2)
    assert config.training["converted"] == {"from": "me/sana@v1", "layout": "diffusers", "stem_seed": 9}
    card = (tmp_path / "out" / CARD_NAME).read_text()
    for words in ("`me/sana@v1`", "not\ntrained", "random by seed 9", "| Licence | CC0-1.0 |", "`me/light-ae`"):
        assert words in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "config.json").read_text()


def test_four_experts_share_one_file(sana: Path, tmp_path: Path) -> None:
    config = convert_sana(sana, tmp_path / "out", experts=4)

    assert visible(tmp_path / "out") == {"base.safetensors", "config.json", CARD_NAME}
    assert config.sampling.expert_cfg_scales == (1.0, 4.5, 4.5, 4.5)
    first, last = (load_network(tmp_path / "out", config, index).state_dict() for index in (0, 3))
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_seed_decides_the_stem_alone(sana: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert_sana(sana, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "expert-0.safetensors") for name in "abc")

    assert a.read_bytes() == b.read_bytes()
    old, new = load_file(a), load_file(c)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"lr_stem.{index}.weight" for index in range(3)}


# ---- where the weights lie


def _shards(sana: Path) -> Path:
    """The stand-in again, in two files with an index."""
    folder = sana / "transformer"
    state = tensors(sana)
    names = sorted(state)
    parts = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()
    return folder


def test_every_place_gives_the_same_weights(sana: Path, tiny_preset: str, tmp_path: Path) -> None:
    nvlabs = tmp_path / "nvlabs" / "checkpoints"
    nvlabs.mkdir(parents=True)
    save_file(to_nvlabs(from_diffusers(tensors(sana))), nvlabs / "Sana_tiny.safetensors")
    convert_sana(sana, tmp_path / "pipeline")
    convert_sana(sana / "transformer", tmp_path / "transformer", preset=tiny_preset)
    convert_sana(nvlabs / "Sana_tiny.safetensors", tmp_path / "file")
    named = convert_sana(nvlabs.parent, tmp_path / "folder", preset=tiny_preset)
    _shards(sana)
    convert_sana(sana, tmp_path / "shards")

    made = [
        tmp_path / name / "expert-0.safetensors" for name in ("pipeline", "transformer", "file", "folder", "shards")
    ]

    assert len({path.read_bytes() for path in made}) == 1
    assert named.family == tiny_preset
    assert named.training["converted"]["from"] == "nvlabs/Sana_tiny.safetensors"


def test_the_most_precise_variant_is_taken(sana: Path, tmp_path: Path) -> None:
    folder, state = sana / "transformer", tensors(sana)
    save_file({name: value.half() for name, value in state.items()}, folder / WEIGHTS.replace(".saf", ".fp16.saf"))
    convert_sana(sana, tmp_path / "both")
    (folder / WEIGHTS).unlink()
    convert_sana(sana, tmp_path / "half")

    dtypes = [load_file(tmp_path / name / "expert-0.safetensors")["proj_out.bias"].dtype for name in ("both", "half")]
    assert dtypes == [torch.float32, torch.float16]


# ---- refusals


def refused(source: Path, out: Path, kind: type[LinearSRError], match: str, **settings: Any) -> str:
    """Convert, expect an error, and nothing written; gives the hint."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} if out.is_dir() else {}
    beside = visible(out.parent)
    with pytest.raises(kind, match=match) as caught:
        convert_sana(source, out, **settings)
    assert visible(out.parent) == beside
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert caught.value.hint
    return caught.value.hint


def test_another_size_than_the_preset_is_refused(sana: Path, tmp_path: Path) -> None:
    hint = refused(
        sana,
        tmp_path / "out",
        WeightsError,
        r"'Sana_tiny' has 2 blocks of width 64 .*expected 28 blocks of width 1152 .*for preset 'sana-0\.6b'",
        preset="sana-0.6b",
    )

    assert hint == "leave the preset out"


def test_the_preset_that_fits_is_named(sana: Path, tmp_path: Path) -> None:
    path = sana / "transformer/config.json"
    data = json.loads(path.read_text()) | {
        "num_layers": 20,
        "num_attention_heads": 70,
        "num_cross_attention_heads": 20,
        "cross_attention_head_dim": 112,
        "cross_attention_dim": 2240,
        "caption_channels": 2304,
    }
    path.write_text(json.dumps(data))

    assert refused(sana, tmp_path / "out", WeightsError, "20 blocks", preset="sana-0.6b") == "use preset 'sana-1.6b'"
    refused(
        sana, tmp_path / "out", WeightsError, r"do not fit SANA: missing transformer_blocks\."
    )  # config, not weights


def test_an_unknown_preset_or_number_of_experts_is_refused_first(tmp_path: Path) -> None:
    refused(tmp_path / "absent", tmp_path / "out", ConfigError, "preset is 'sana-0.6'", preset="sana-0.6")
    refused(tmp_path / "absent", tmp_path / "out", ConfigError, "experts is 3", experts=3)


def test_an_nvlabs_file_of_an_unknown_size_is_refused(sana: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(to_nvlabs(from_diffusers(tensors(sana))), path)

    assert "diffusers" in refused(path, tmp_path / "out", WeightsError, "has 2 blocks of width 64")
    refused(path, tmp_path / "out", WeightsError, "preset 'sana-1.6b'", preset="sana-1.6b")


def test_pickles_are_refused_unopened(sana: Path, tmp_path: Path) -> None:
    pickle = tmp_path / "nvlabs" / "checkpoints" / "Sana.pth"
    pickle.parent.mkdir(parents=True)
    pickle.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    (sana / "transformer" / WEIGHTS).rename(sana / "transformer" / "diffusion_pytorch_model.bin")

    for source in (pickle, tmp_path / "nvlabs", sana):
        hint = refused(source, tmp_path / "out", WeightsError, "is a pickle, which can run code")
        assert "weights_only=True" in hint and "diffusers" in hint
    assert not Path("pwned").exists()


def test_missing_sources_are_refused(sana: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "absent", out, WeightsError, "does not exist")
    refused(tmp_path / "empty", out, WeightsError, "holds neither transformer/config.json nor a safetensors file")
    file = sana / "transformer" / WEIGHTS
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", out, WeightsError, "tensors are named a,")
    refused(file, out, WeightsError, "has no config.json beside it")
    file.unlink()
    refused(sana, out, WeightsError, "has no diffusion_pytorch_model.safetensors")
    (sana / "transformer/config.json").write_text("{")
    refused(sana, out, WeightsError, "is not valid JSON")
    (sana / "transformer/config.json").write_text("[]")
    refused(sana, out, WeightsError, "holds no settings, expected a JSON object")


def test_damaged_weights_are_refused(sana: Path, tmp_path: Path) -> None:
    path = sana / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])

    refused(sana, tmp_path / "out", WeightsError, "is not a safetensors file")


def test_incomplete_shards_are_refused(sana: Path, tmp_path: Path) -> None:
    folder = _shards(sana)
    index = folder / f"{WEIGHTS}.index.json"
    data = json.loads(index.read_text())

    index.write_text(json.dumps({"weight_map": data["weight_map"] | {"extra": "a-00001-of-00002.safetensors"}}))
    refused(sana, tmp_path / "out", WeightsError, "lists extra, which no file holds")
    index.write_text(json.dumps({"weight_map": data["weight_map"] | {"proj_out.bias": "../../secret.safetensors"}}))
    refused(sana, tmp_path / "out", WeightsError, "leaves the model's folder")
    index.write_text(json.dumps({"weight_map": {}}))
    refused(sana, tmp_path / "out", WeightsError, "has no weight_map")
    index.write_text(json.dumps(data))
    (folder / "a-00002-of-00002.safetensors").unlink()
    refused(sana, tmp_path / "out", WeightsError, "a-00002-of-00002.safetensors are missing")


def test_weights_that_a_precision_cannot_hold_are_refused(sana: Path, tmp_path: Path) -> None:
    state = tensors(sana)
    state["proj_out.weight"][0, 0] = 1e6
    save_file(state, sana / "transformer" / WEIGHTS)

    hint = refused(
        sana, tmp_path / "out", WeightsError, r"proj_out\.weight are not finite in torch\.float16", dtype=torch.float16
    )

    assert "bfloat16" in hint
    convert_sana(sana, tmp_path / "out", dtype=torch.bfloat16)


def test_a_linearsr_checkpoint_is_not_converted_again(sana: Path, tmp_path: Path) -> None:
    convert_sana(sana, tmp_path / "out")

    refused(tmp_path / "out", tmp_path / "again", WeightsError, "is a LinearSR checkpoint already")


def test_only_a_checkpoint_is_overwritten_and_only_on_request(sana: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    convert_sana(sana, out, experts=4)
    (out / "notes.txt").write_text("mine")

    assert "--overwrite" in refused(sana, out, ConfigError, "is not empty")
    convert_sana(sana, out, overwrite=True)
    assert visible(out) == {"expert-0.safetensors", "config.json", CARD_NAME, "notes.txt"}
    load_network(out, read_config(out), 0)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").write_bytes(b"x")
    refused(sana, other, ConfigError, "something else than a LinearSR checkpoint", overwrite=True)
    refused(sana, other / "a.png", ConfigError, "is a file, expected a folder")


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(sana: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(WeightsError, match="cannot be written"):
        convert_sana(sana, tmp_path / "file" / "out")


def test_converted_files_have_the_usual_permissions(sana: Path, tmp_path: Path) -> None:
    convert_sana(sana, tmp_path / "out")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").write_text("")

    assert os.stat(tmp_path / "out").st_mode == os.stat(plain).st_mode
    assert {os.stat(path).st_mode for path in (tmp_path / "out").iterdir()} == {os.stat(plain / "file").st_mode}
