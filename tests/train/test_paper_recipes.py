"""Paper-scale recipes: they parse strictly, state what they are, and refuse parts that do not belong together."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from linearsr.config import from_dict, to_dict
from linearsr.errors import ConfigError
from linearsr.presets import PRESETS
from linearsr_train.config import TrainConfig, load_recipe, parse_recipe, read_toml
from linearsr_train.data.degradation_config import DegradationConfig
from linearsr_train.debug import HELD_BACK, PHOTOS, debug_recipe, debug_split
from linearsr_train.experts import plan_stages
from linearsr_train.state import check_unchanged, plain_config

PAPER = {"paper_pretrain": [], "paper_moe": ["init=x"], "paper_sft": ["init=x"]}


def _load(name: str, *more: str) -> TrainConfig:
    return load_recipe(name, [*PAPER[name], *more])


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_parses_and_is_the_preset(name: str) -> None:
    config, preset = _load(name), PRESETS["sana-0.6b"]
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config
    for section in ("model", "autoencoder", "flow", "tags"):
        assert getattr(config, section) == getattr(preset, section), section
    large = _load(name, "model.width=2240", "model.depth=20", "model.cross_attention_head_dim=112")
    assert large.model == PRESETS["sana-1.6b"].model
    assert config.experts.boundaries == preset.boundaries


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_has_the_published_training(name: str) -> None:
    config = _load(name)
    loss, optim, loop = config.loss, config.optim, config.loop
    assert (loss.t_logit_mean, loss.t_logit_std, loss.t_shift, loss.t_one_probability) == (0.0, 1.0, 3.0, 0.0)
    assert (optim.max_grad_norm, optim.weight_decay) == (0.1, 0.0)
    assert (loop.mixed_precision, loop.strategy, loop.gradient_checkpointing) == ("bf16", "fsdp", True)
    assert loop.batch_size % 8 == loop.batch_size % 6 == 0
    always = DegradationConfig(blur_stage_prob=1.0, noise_stage_prob=1.0, jpeg_stage_prob=1.0)
    assert (config.data.degradation, config.data.real_probability) == (always, 1.0)


def test_each_paper_recipe_is_one_stage_and_sft_learns_at_a_fifth() -> None:
    stages = {name: [stage.name for stage in plan_stages(_load(name))] for name in PAPER}
    assert stages == {
        "paper_pretrain": ["pretrain"],
        "paper_moe": [f"expert-{expert}" for expert in (3, 2, 1, 0)],
        "paper_sft": [f"sft-{expert}" for expert in (3, 2, 1, 0)],
    }
    moe, sft = _load("paper_moe").stages.experts, _load("paper_sft").stages.sft
    assert sft.learning_rate == pytest.approx(moe.learning_rate / 5)
    assert all(stage.warmup_steps >= 500 for stage in (moe, sft, _load("paper_pretrain").stages.pretrain))


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_says_what_it_needs_and_that_it_is_untried(name: str) -> None:
    text = (resources.files("linearsr_train") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    head = text[: text.index("name =")]
    assert "# Hardware: 8 GPUs of 80 GB" in head
    assert "It has not been run at full size" in head
    assert f"--recipe {name} --init " in head


def test_a_stage_without_a_start_says_what_to_start_from() -> None:
    with pytest.raises(ConfigError, match=r"stages.pretrain.max_steps is 0 and init is empty") as caught:
        load_recipe("paper_moe")
    assert "--init runs/before/export" in caught.value.hint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.fixed_scales={ 4 = 0.9 }", r"data.fixed_scales is {'4': 0.9} with model.lr_stem, expected {'4': 1.0}"),
        ("data.fixed_scales={ 4 = 0.5, 2 = 0.5 }", "data.fixed_scales is"),
        ("autoencoder.factor=16", r"autoencoder.factor is 16 with 3 convolutions in model.lr_stem, expected .* = 32"),
        ("model.lr_stem=[]", r"autoencoder.factor is 32 with 0 convolutions in model.lr_stem, expected .* = 4"),
        ("tags.kind=closed", "tags.kind is 'closed' with autoencoder.kind 'dcae', expected 'text'"),
        ("model.num_tags=7", "model.num_tags is 7"),
        ('data.content_tags=["sky"]', r"data.content_tags is \('sky',\) with autoencoder.kind 'dcae', expected none"),
        ("tagger.max_steps=10", "tagger.max_steps is 10 with autoencoder.kind 'dcae', expected 0"),
        ("experts.perceptual_weight=0.5", "experts.perceptual_weight is 0.5 with autoencoder.kind 'dcae', expected 0"),
        ("data.crop=520", "data.crop is 520 and loop.validation_crop 512, expected multiples of 32"),
        ("loss.t_shift=0", "loss.t_shift is 0, expected 0.01 to 100"),
        ("autoencoder.source=", "autoencoder.source is empty"),
        ("tags.encoder=./../x", "leaves the model's folder"),
        ("loop.gradient_checkpointing=1", "loop.gradient_checkpointing is 1, expected bool"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("paper_pretrain", [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.num_tags=0", "tags.kind=text", "tags.encoder=a/b"],
            "tags.kind is 'text' with autoencoder.kind 'pixel'",
        ),
        (
            ["tags.kind=closed", 'tags.vocabulary=["clean"]'],
            "tags.vocabulary is .* expected none, as data.content_tags lists",
        ),
    ],
)
def test_the_compact_family_refuses_the_other_ones_parts(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("compact_cpu", overrides)


def test_a_run_begun_before_a_setting_existed_goes_on() -> None:
    config = load_recipe("tiny_cpu")
    before = plain_config(config)
    del before["tags"], before["loss"]["t_shift"], before["loop"]["gradient_checkpointing"], before["model"]["lr_stem"]
    check_unchanged(before, config)
    with pytest.raises(Exception, match="loss.t_shift"):
        check_unchanged(before, load_recipe("tiny_cpu", ["loss.t_shift=3"]))


# ---- shortened recipes


def test_a_shortened_paper_recipe_is_tiny_and_keeps_what_it_is_about(tmp_path: Path) -> None:
    def short(name: str, init: str = "") -> TrainConfig:
        return parse_recipe(debug_recipe(read_toml(name), tmp_path, init))

    for name in PAPER:
        config = short(name)
        assert (config.model.depth, config.model.width, config.model.caption_channels) == (2, 64, 16)
        assert Path(config.tags.encoder).parent == Path(config.autoencoder.source).parent == tmp_path / "stand_ins"
        assert config.loss == _load(name).loss and config.optim == _load(name).optim
        assert config.loop.gradient_checkpointing and config.loop.strategy == "fsdp"
        assert sum(stage.settings.max_steps for stage in plan_stages(config)) <= 30
        assert all(stage.settings.learning_rate > 0 for stage in plan_stages(config))
    kinds = {name: {stage.kind for stage in plan_stages(short(name))} for name in PAPER}
    assert kinds == {
        "paper_pretrain": {"pretrain"}, "paper_moe": {"pretrain", "expert"}, "paper_sft": {"pretrain", "sft"}
    }  # fmt: skip


def test_a_debug_run_takes_four_photographs_and_two_to_validate_the_same_every_time(tmp_path: Path) -> None:
    tmp_path = tmp_path / "photos"
    tmp_path.mkdir()
    for index in range(9):
        (tmp_path / f"{index}.png").touch()
    training, held_back = debug_split(tmp_path)
    assert (len(training), len(held_back)) == (PHOTOS, HELD_BACK) == (4, 2)
    assert not set(training) & set(held_back)
    assert debug_split(tmp_path) == (training, held_back)
    for path in sorted(tmp_path.iterdir())[2:]:
        path.unlink()
    training, held_back = debug_split(tmp_path)
    assert (len(training), len(held_back)) == (1, 1)
    held_back[0].unlink()
    with pytest.raises(Exception, match="holds 1 photographs, expected at least two"):
        debug_split(tmp_path)
