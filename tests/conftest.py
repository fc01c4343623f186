"""Fixtures for all tests: seeds, a home of their own, no network, and tiny networks and photographs to work on."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# huggingface_hub reads these once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, min(2, (os.cpu_count() or 1) // WORKERS))
"""Of torch in every test: no more than there are cores, for threads that wait for one another take twice the time."""
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # for programs that tests start

KEPT_VARIABLES = ("LINEARSR_DATA", "LINEARSR_REQUIRE_BROWSER")
"""Folder of photographs and weights; whether tests in a browser must run."""

TINY_MODEL = {
    "in_channels": 48,
    "cond_channels": 48,
    "width": 16,
    "depth": 1,
    "head_dim": 8,
    "cross_attention_head_dim": 8,
    "caption_channels": 8,
    "mlp_ratio": 2.0,
    "patch_size": 2,
    "stem": "conv",
    "stem_width": 8,
    "stem_depth": 1,
    "head_depth": 1,
    "long_skip": True,
    "qk_norm": True,
    "state_gate": True,
    "scale_embedding": True,
    "num_tags": 7,
}
PATCH_STEM = {
    "stem": "patch",
    "stem_width": 0,
    "stem_depth": 0,
    "head_depth": 0,
    "long_skip": False,
    "qk_norm": False,
    "state_gate": False,
    "scale_embedding": False,
}


LONG = ("tests/cli/test_train.py", "tests/train/", "tests/contract/", "tests/cli/test_finetune.py")
"""Files of the longest tests: they start first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    items.sort(key=lambda item: next((i for i, place in enumerate(LONG) if item.nodeid.startswith(place)), len(LONG)))


def pytest_collection_finish() -> None:
    """Set the threads before any fixture: what is computed with other threads is not equal bit for bit."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(THREADS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how the tests in a browser went, so that a log shows whether they ran."""
    counts = {
        outcome: sum(str(getattr(report, "nodeid", "")).startswith("tests/browser/") for report in reports)
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed", "error", "skipped")
    }
    if any(counts.values()):
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()) if count)
        terminalreporter.write_line(f"tests in a browser: {said}")


def _leave_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Nothing of the user's own: home, caches, LINEARSR_* settings."""
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        patch.setenv(name, str(home))
    patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    patch.setenv("HF_HOME", str(home / ".cache" / "huggingface"))
    patch.setenv("HF_HUB_OFFLINE", "1")
    for name in list(os.environ):
        if name.startswith("LINEARSR_") and name not in KEPT_VARIABLES:
            patch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that several tests share: they are made before those of a test."""
    with pytest.MonkeyPatch.context() as patch:
        _leave_home(patch, tmp_path_factory.mktemp("session") / "home")
        yield


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Equal seeds for every test, and a home of its own."""
    _leave_home(monkeypatch, tmp_path / "home")
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")  # tests of the command line get by without it
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def tiny_model() -> Callable:
    """Config of a tiny `LinearDiT`: stem `conv`, or `patch` as SANA has it, with any field changed."""
    from linearsr.config import ModelConfig

    def make(stem: str = "conv", **changes):
        return ModelConfig(**{**TINY_MODEL, **(PATCH_STEM if stem == "patch" else {}), **changes})

    return make


@pytest.fixture(scope="session")
def lpips_weights() -> dict:
    """Seeded random weights of LPIPS, of the real shapes."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    weights = {}
    for index, (number, (out, inner, side)) in enumerate(shapes.items()):
        std = (2 / (inner * side * side)) ** 0.5
        weights[f"features.{number}.weight"] = torch.randn(out, inner, side, side, generator=generator) * std
        weights[f"features.{number}.bias"] = torch.zeros(out)
        weights[f"lin{index}.weight"] = torch.rand(1, out, 1, 1, generator=generator)
    return weights


@pytest.fixture(scope="session")
def tiny_network() -> Callable:
    """A seeded network of a config, with noise on every tensor, so that no branch is silent."""
    import torch

    from linearsr.model.transformer import LinearDiT

    def make(config, seed: int = 0):
        torch.manual_seed(seed)
        network = LinearDiT(config).eval().requires_grad_(False)
        for name, value in network.state_dict().items():
            value += torch.randn(value.shape) * (0.02 if name.startswith("conv_out") else 0.1)
        return network

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_model) -> Callable:
    """Config of a checkpoint around the tiny network, with any section changed."""
    from linearsr.config import (
        AutoencoderConfig,
        CheckpointConfig,
        ExpertsConfig,
        FlowConfig,
        SamplingConfig,
        TagsConfig,
    )
    from linearsr.schedules import COMPACT_T_GRIDS
    from linearsr.tags.vocabulary import COMPACT_VOCABULARY

    def make(**changes):
        sections = {
            "schema_version": 1,
            "family": "compact",
            "model": tiny_model(),
            "autoencoder": AutoencoderConfig(kind="pixel", factor=4, residual_std={"1": 0.02, "2": 0.03, "4": 0.045}),
            "flow": FlowConfig(prediction="x0", preconditioned=True),
            "experts": ExpertsConfig(boundaries_log_snr=(), files=("expert-0.safetensors",)),
            "sampling": SamplingConfig(
                sampler="euler",
                steps=4,
                t_grids={str(steps): grid for steps, grid in COMPACT_T_GRIDS.items()},
                tile=64,
                tile_overlap=16,
                color_fix="none",
            ),
            "tags": TagsConfig(kind="closed", vocabulary=COMPACT_VOCABULARY),
            "licence": "CC0-1.0",
            "files": {},
        }
        return CheckpointConfig(**{**sections, **changes})

    return make


@pytest.fixture(scope="session")
def _stored_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config, tiny_network) -> Path:
    from linearsr.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "model"
    config = tiny_config()
    save_checkpoint(folder, config, [tiny_network(config.model).state_dict()])
    return folder


@pytest.fixture
def tiny_checkpoint(_stored_checkpoint: Path, tmp_path: Path) -> Path:
    """Folder of a tiny random checkpoint that visibly does something; the test may damage it."""
    return Path(shutil.copytree(_stored_checkpoint, tmp_path / "tiny-model"))


def _paint(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth colours, a few hard-edged discs and fine texture: (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    picture = np.stack(
        [0.5 + 0.3 * np.sin(x / rng.uniform(8, 40) + y / rng.uniform(8, 40) + rng.uniform(0, 6)) for _ in range(3)], -1
    )
    for _ in range(6):
        disc = (x - rng.uniform(0, width)) ** 2 + (y - rng.uniform(0, height)) ** 2 < rng.uniform(4, 20) ** 2
        picture[disc] = rng.random(3)
    picture += rng.normal(0, 0.03, picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six small painted photographs; at 0.3 `lamp` and `street` are held back for validation."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(7)
    sizes = {
        "bridge": (64, 80),
        "forest": (72, 64),
        "river": (64, 64),
        "roofs": (96, 64),
        "lamp": (64, 70),
        "street": (67, 91),
    }
    for name, (height, width) in sizes.items():
        Image.fromarray(_paint(rng, height, width)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable:
    """The packaged recipe shrunk to a network and to stages of a few seconds in all, with further overrides."""
    from linearsr_train.config import load_recipe

    changes = {
        **{f"model.{name}": TINY_MODEL[name] for name in ("width", "depth", "head_dim", "cross_attention_head_dim")},
        **{
            f"model.{name}": TINY_MODEL[name] for name in ("caption_channels", "stem_width", "stem_depth", "head_depth")
        },
        "data.crop": 32,
        "data.num_workers": 0,
        "data.validation_fraction": 0.3,
        "loop.batch_size": 4,
        "loop.mixed_precision": "no",
        "loop.checkpoint_steps": 10,
        "loop.validation_photos": 2,
        "loop.validation_crop": 32,
        "loop.log_steps": 4,
        "stages.pretrain.max_steps": 20,
        "stages.pretrain.warmup_steps": 3,
        "stages.pretrain.validation_steps": 10,
        "stages.experts.max_steps": 4,
        "stages.experts.warmup_steps": 1,
        "stages.experts.validation_steps": 2,
        "stages.sft.max_steps": 2,
        "stages.sft.warmup_steps": 1,
        "stages.sft.validation_steps": 2,
        "experts.lora_rank": 4,
        "tagger.max_steps": 4,
        "tagger.batch_size": 4,
        "tagger.warmup_steps": 1,
        "tagger.mixed_precision": "no",
        "tagger.crop": 32,
        "tagger.margin": 4,
        "tagger.widths": [4, 8],
        "tagger.hidden": 8,
        "tagger.num_samples": 8,
        "tagger.num_workers": 0,
        "tagger.checkpoint_steps": 2,
        "tagger.calibration_samples": 4,
        "tagger.report_samples": 4,
    }

    def make(**overrides):
        merged = {**changes, **{name.replace("__", "."): value for name, value in overrides.items()}}
        return load_recipe("compact_cpu", [f"{name}={value}" for name, value in merged.items()])

    return make
