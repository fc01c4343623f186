"""What a paper-style model loads, when, and how often: its text encoder is larger than the network it is for."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from linearsr_train.stand_ins.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("review") / "stand-in"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def model(plain: Path, tmp_path: Path) -> Path:
    """With a suffix, so that a pass without tags has a prompt of its own."""
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    text = (folder / "config.json").read_text()
    assert '"suffix": ""' in text
    (folder / "config.json").write_text(text.replace('"suffix": ""', '"suffix": "sharp"'))
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """One entry each time the text encoder is loaded; the cache is empty at first."""
    from linearsr.tags import encoder

    monkeypatch.setenv("LINEARSR_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    load = encoder.load_text_encoder
    monkeypatch.setattr(encoder, "load_text_encoder", lambda *a, **k: (told.append("load"), load(*a, **k))[1])
    yield told


def open_upscaler(model: Path):
    from linearsr.pipeline import Upscaler

    return Upscaler.from_pretrained(model, device="cpu", dtype="fp32", tagger="none")


def test_a_picture_with_new_tags_loads_the_text_encoder_once(model, loads):
    upscaler = open_upscaler(model)
    upscaler.upscale_tensor(torch.rand(3, 16, 16), size=(64, 64), steps=1, tags="stone", negative_tags="mud")
    assert loads == ["load"]


def test_after_prepare_no_pass_loads_the_text_encoder(model, loads):
    upscaler = open_upscaler(model)
    upscaler.prepare([("stone",)])
    assert loads == ["load"]
    upscaler.upscale_tensor(torch.rand(3, 16, 16), size=(96, 96), steps=1, tags=("stone",))  # x6: two passes
    assert loads == ["load"]


def test_prepare_holds_one_embedding_at_a_time(model, loads, monkeypatch):
    from linearsr.tags.encoder import TextEncoder

    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    encode = TextEncoder.encode

    def told(self, prompts):
        alive.append(sum(ref() is not None for ref in made))
        found = encode(self, prompts)
        made.extend(weakref.ref(value) for value in found)
        return found

    monkeypatch.setattr(TextEncoder, "encode", told)
    open_upscaler(model).prepare([(f"tag {index}",) for index in range(12)])
    assert len(alive) >= 12 and max(alive) <= 2


def test_one_expert_ahead_is_let_go_of_by_clear(model):
    from linearsr.hub import open_model
    from linearsr.runtime import make_bank, resolve_runtime
    from linearsr.schedules import time_grid

    opened = open_model(model)
    bank = make_bank(opened, resolve_runtime("cpu", "fp32", "expert"))
    ts = time_grid(20, opened.config.flow, {})
    bank.expect(ts)
    bank.at(float(ts[0]))
    bank.clear()
    assert bank.loaded == () and bank._next is None
