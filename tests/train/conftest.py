"""Fixtures of the training pipeline: a stage's state in memory, and one whole run that several files look at."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from linearsr_train.build import build_state
from linearsr_train.config import TrainConfig, parse_recipe, read_toml
from linearsr_train.debug import debug_recipe, write_stand_ins
from linearsr_train.distributed import build_accelerator
from linearsr_train.experts import plan_stages
from linearsr_train.run import RunResult, run_training
from linearsr_train.state import TrainState
from linearsr_train.weights import Weights


@pytest.fixture(scope="session")
def make_state(tiny_recipe: Callable) -> Callable[..., TrainState]:
    """A fresh state of one stage: of a config, or of the tiny recipe with overrides."""

    def make(
        stage: str = "pretrain",
        *,
        config: TrainConfig | None = None,
        start: Weights | None = None,
        lora: Weights | None = None,
        **overrides: Any,
    ) -> TrainState:
        config = tiny_recipe(**overrides) if config is None else config
        accelerator = build_accelerator(mixed_precision=config.loop.mixed_precision, device="cpu")
        planned = {entry.name: entry for entry in plan_stages(config)}[stage]
        return build_state(config, planned, accelerator, start, lora)

    return make


class Finished(NamedTuple):
    """A run that came to its end."""

    config: TrainConfig
    folder: Path
    result: RunResult
    said: list[str]
    steps: list[tuple[str, int, int]]
    starts: dict[str, tuple[Weights | None, Weights | None]]
    """What each stage was built from: weights, low-rank part."""


@pytest.fixture(scope="session")
def watched_run() -> Callable[..., Finished]:
    """Run a recipe to its end in this process and take down what happens."""

    def run(config: TrainConfig, photos: Path, folder: Path, **settings: Any) -> Finished:
        said: list[str] = []
        steps: list[tuple[str, int, int]] = []
        starts: dict[str, tuple[Weights | None, Weights | None]] = {}

        def build(config, stage, accelerator, start=None, lora=None):
            starts[stage.name] = (start, lora)
            return build_state(config, stage, accelerator, start, lora)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("linearsr_train.stage.build_state", build)
            result = run_training(
                config, photos, folder, device="cpu", report=said.append,
                progress=lambda stage, step, total, values: steps.append((stage, step, total)), **settings,
            )  # fmt: skip
        return Finished(config, folder, result, said, steps, starts)

    return run


@pytest.fixture(scope="session")
def finished(
    photos: Path, tiny_recipe: Callable, watched_run: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """All stages of the tiny recipe; the tests only look at it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return watched_run(tiny_recipe(loop__validation_photos=1), photos, folder, licence="CC0-1.0")


@pytest.fixture(scope="session")
def finished_lora(
    photos: Path,
    tiny_recipe: Callable,
    watched_run: Callable,
    _stored_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """Two LoRA experts, kept apart in the export; the tests only look at it.

    It starts from random weights that make noise of any picture, so that every stage has much to gain.
    """
    config = tiny_recipe(
        init=str(_stored_checkpoint),
        experts__mode="lora",
        experts__lora_export="separate",
        experts__boundaries=[0.6],
        stages__experts__learning_rate=3e-3,
        stages__pretrain__max_steps=2,
        stages__pretrain__validation_steps=2,
        loop__validation_photos=1,
        tagger__max_steps=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed; drawing takes seconds
        return watched_run(config, photos, tmp_path_factory.mktemp("lora") / "run")


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder with tiny random components in it: autoencoder and text encoder."""
    pytest.importorskip("diffusers", reason="needs the extra full")
    pytest.importorskip("transformers", reason="needs the extra full")
    folder = tmp_path_factory.mktemp("components")
    data = debug_recipe(read_toml("paper_pretrain"), folder)
    write_stand_ins(parse_recipe(data), folder)
    return folder


@pytest.fixture(scope="session")
def paper_recipe(stand_ins: Path) -> Callable[..., TrainConfig]:
    """The paper-scale recipe with a tiny network and tiny components, in float32, with further overrides."""

    def make(recipe: str = "paper_pretrain", **overrides: Any) -> TrainConfig:
        changes = {"loop.mixed_precision": "no", "loop.batch_size": 2, "loop.validation_photos": 1}
        changes |= {name.replace("__", "."): value for name, value in overrides.items()}
        data = debug_recipe(read_toml(recipe), stand_ins)
        return parse_recipe(data, [f"{name}={value}" for name, value in changes.items()])

    return make


@pytest.fixture(scope="session")
def told_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The painted photographs, three of them with a text file of tags; two of these say the same."""
    folder = tmp_path_factory.mktemp("told") / "photos"
    shutil.copytree(photos, folder)
    for name, text in {"bridge": "Stone bridge, river", "roofs": "red roofs", "lamp": "stone  bridge\nriver"}.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder
