"""Recipes: every packaged one parses, overrides are typed, and what makes no sense is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from linearsr.config import from_dict, to_dict
from linearsr.errors import ConfigError
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.config import TrainConfig, load_recipe, parse_recipe, read_toml, recipe_names
from linearsr_train.experts import plan_stages

WHOLE = ["compact_cpu", "compact_gpu", "tiny_cpu"]
"""Packaged recipes that are complete; `finetune` takes the rest from the model it is given."""


@pytest.mark.parametrize("name", WHOLE)
def test_packaged_recipe_parses_and_survives_json(name: str) -> None:
    config = load_recipe(name)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert config.model.num_tags == len(COMPACT_VOCABULARY)
    assert config.model.in_channels == 3 * config.autoencoder.factor**2


def test_the_recipes_are_packaged() -> None:
    assert recipe_names() == [
        "compact_cpu", "compact_gpu", "finetune", "paper_moe", "paper_pretrain", "paper_sft", "tiny_cpu"
    ]  # fmt: skip
    assert "model" not in read_toml("finetune")


def test_the_small_recipes_train_every_stage() -> None:
    for name in WHOLE:
        config = load_recipe(name)
        assert len(plan_stages(config)) == 9
        assert config.tagger.max_steps > 0


def test_the_bundled_models_recipe_is_of_the_same_shape_on_a_gpu() -> None:
    cpu, gpu = load_recipe("compact_cpu"), load_recipe("compact_gpu")
    for section in ("model", "autoencoder", "flow", "loss", "experts"):
        assert getattr(cpu, section) == getattr(gpu, section), section


def test_recipe_from_a_file_equals_the_packaged_one(tmp_path: Path) -> None:
    from importlib import resources

    text = (resources.files("linearsr_train") / "recipes" / "compact_cpu.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(path) == load_recipe("compact_cpu") == load_recipe(str(path))


def test_overrides_are_typed_as_toml() -> None:
    config = load_recipe(
        "compact_cpu",
        [
            "loop.seed=3",
            "stages.pretrain.learning_rate = 1e-4",
            "loop.mixed_precision=no",
            'name="trial 1"',
            "model.qk_norm=false",
            "data.fixed_scales={ 4 = 0.5 }",
            "autoencoder.residual_std.2=0.04",
            "optim.betas=[0.9, 0.95]",
            "data.degradation.sinc_prob=0.2",
            "stages.experts.max_steps=100_000",
            "experts.boundaries=[0.5]",
            "experts.mode=lora",
            "sft.best_fraction=1",
            "esgf.patience=5",
            "tagger.max_steps=0",
            "init=compact",
        ],
    )
    assert config.loop.seed == 3
    assert config.stages.pretrain.learning_rate == 1e-4
    assert config.loop.mixed_precision == "no"
    assert config.name == "trial 1"
    assert config.model.qk_norm is False
    assert config.data.fixed_scales == {"4": 0.5}
    assert config.autoencoder.residual_std["2"] == 0.04
    assert config.optim.betas == (0.9, 0.95)
    assert config.data.degradation.sinc_prob == 0.2
    assert config.stages.experts.max_steps == 100_000
    assert config.experts.boundaries == (0.5,)
    assert config.experts.mode == "lora"
    assert config.sft.best_fraction == 1.0
    assert config.esgf.patience == 5
    assert config.tagger.max_steps == 0
    assert config.init == "compact"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.sede=3", "unknown setting 'loop.sede'"),
        ("loops.seed=3", "unknown setting 'loops'"),
        ("loop.seed=three", "loop.seed is 'three', expected int"),
        ("loop.seed=3.5", "loop.seed is 3.5, expected int"),
        ("loop.seed=true", "loop.seed is True, expected int"),
        ("loop.mixed_precision=fp8", "loop.mixed_precision is 'fp8', expected one of 'auto', 'no', 'bf16', 'fp16'"),
        ("model.qk_norm=no", "model.qk_norm is 'no', expected bool"),
        ("seed", "override is 'seed', expected section.field=value"),
        ("=3", "override is '=3'"),
        ("name.deeper=3", "'name' is no section"),
        ("data.crop=100", "data.crop is 100 and loop.validation_crop 256, expected multiples of 8"),
        ("data.crop=0", "data.crop is 0, expected at least 1"),
        ("data.fixed_scales.2=0.9", "data.fixed_scales sums to 1.64, expected at most 1"),
        ("data.fixed_scales={ 8 = 0.1 }", "data.fixed_scales.8 is 0.1, expected scales from 1 to 4"),
        ("data.fixed_scales={ half = 0.1 }", "data.fixed_scales.half is 0.1"),
        ("data.fixed_scales={ 2 = -0.1 }", "data.fixed_scales.2 is -0.1"),
        ("data.real_probability=1.5", "data.real_probability is 1.5, expected 0 to 1"),
        ("data.tag_dropout=nan", "data.tag_dropout is nan, expected 0 to 1"),
        ("loss.t_one_probability=2", "loss.t_one_probability is 2, expected 0 to 1"),
        ("optim.betas=[0.9]", r"optim.betas is \(0.9,\), expected two numbers"),
        ("stages.sft.learning_rate=-1", "learning_rate is -1, expected at least 0"),
        ("stages.experts.decay_fraction=1.5", "decay_fraction is 1.5, expected 0 to 1"),
        ("stages.pretrain.validation_steps=0", "validation_steps is 0, expected at least 1"),
        ("stages.pretrain.max_steps=0", "stages.pretrain.max_steps is 0 and init is empty"),
        ("loop.gradient_accumulation_steps=3", "loop.batch_size is 16, expected a multiple of .* = 3"),
        ("loop.strategy=deepspeed", "loop.strategy is 'deepspeed', expected one of 'auto', 'ddp', 'fsdp'"),
        ("optim.ema_decay=1.1", "optim.ema_decay is 1.1, expected 0 to 1"),
        ("optim.max_nonfinite_skips=-1", "optim.max_nonfinite_skips is -1, expected at least 0"),
        ("experts.boundaries=[0.9, 0.2]", r"experts.boundaries is \(0.9, 0.2\), expected rising times"),
        ("experts.boundaries=[0.2, 0.2]", "expected rising times between 0 and 1"),
        ("experts.boundaries=[0.2, 1.0]", "expected rising times between 0 and 1"),
        ("experts.widen=0.3", "experts.widen is 0.3, expected 0 to 0.2"),
        ("experts.lora_rank=0", "experts.lora_rank is 0, expected 1 to 4096"),
        ("experts.mode=moe", "experts.mode is 'moe', expected one of 'full', 'lora'"),
        ("sft.best_fraction=0", "sft.best_fraction is 0, expected 1e-06 to 1"),
        ("esgf.patience=1", "esgf.patience is 1, expected at least 3"),
        ('data.content_tags=["sky"]', "model.num_tags is 7, expected 8: 7 degradations and 1 content tags"),
        ("loop.batch_size=0", "loop.batch_size is 0, expected at least 1"),
        ("loop.log_steps=0", "loop.log_steps is 0, expected at least 1"),
        ("data.degradation.sinc_prob=2", "sinc_prob is 2.0, expected one number from 0 to 1"),
        ("data.degradation.blur_sigma=[0.1]", r"data.degradation.blur_sigma is \[0.1\], expected 2 values"),
        ("data.degradation.blur_sigma=[0.1, 2.0, 3.0]", "expected 2 values"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("compact_cpu", [override])


def test_a_misspelt_setting_gets_the_closest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("compact_cpu", ["stages.experts.learning_rat=1"])
    assert caught.value.hint == "did you mean 'stages.experts.learning_rate'?"


def test_a_recipe_that_is_nowhere_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match="recipe 'compact' is neither a file nor one of compact_cpu"):
        load_recipe("compact")


@pytest.mark.parametrize("data", [b"name = ", b"a = 1\na = 2", b"\xff\xfe\x00"])
def test_a_recipe_that_is_no_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="broken.toml' is not valid TOML"):
        load_recipe(path)


def test_a_recipe_must_be_complete(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('name = "short"\n')
    with pytest.raises(ConfigError, match="setting 'model' is missing"):
        load_recipe(path)


def test_a_run_without_any_steps_is_refused() -> None:
    none = [f"stages.{name}.max_steps=0" for name in ("pretrain", "experts", "sft")]
    with pytest.raises(ConfigError, match="every stage has max_steps 0"):
        load_recipe("tiny_cpu", [*none, "init=compact"])


def test_parse_recipe_leaves_its_data_as_they_were() -> None:
    data = read_toml("tiny_cpu")
    config = parse_recipe(data, ["loop.seed=7", "autoencoder.residual_std.4=0.5"])
    assert config.loop.seed == 7
    assert data == read_toml("tiny_cpu")


def test_content_tags_join_the_vocabulary() -> None:
    config = load_recipe("tiny_cpu", ['data.content_tags=["sky", "fur"]', "model.num_tags=9"])
    assert config.vocabulary == (*COMPACT_VOCABULARY, "sky", "fur")


def test_tiny_recipe_of_these_tests_differs_only_where_it_says(tiny_recipe: Callable) -> None:
    assert tiny_recipe().flow == load_recipe("compact_cpu").flow
    assert tiny_recipe(loop__seed=5).loop.seed == 5
