"""The tagger's protocol, and that the pipeline asks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.pipeline import Upscaler
from linearsr.tags.tagger import FixedTagger, Tagger


class Brightness:
    """Tags dark pictures as noisy."""

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        return ("noise",) if float(lr.mean()) < 0.5 else ()


def test_fixed_tagger_gives_every_picture_the_same_tags() -> None:
    tagger = FixedTagger(("jpeg",))
    assert isinstance(tagger, Tagger)
    assert tagger.tag(torch.zeros(3, 4, 4)) == tagger.tag(torch.ones(3, 9, 2)) == ("jpeg",)
    assert FixedTagger().tag(torch.zeros(3, 4, 4)) == ()


def test_upscaler_asks_its_tagger_only_when_no_tags_are_given(tiny_checkpoint: Path) -> None:
    plain = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")
    tagging = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32", tagger=Brightness())
    dark = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4

    def run(up: Upscaler, **settings: object) -> Tensor:
        return up.upscale_tensor(dark, size=(32, 32), steps=1, **settings)

    assert torch.equal(run(tagging), run(plain, tags=("noise",)))
    assert not torch.equal(run(tagging), run(plain))
    assert torch.equal(run(tagging, tags=()), run(plain))


def test_upscaler_refuses_tags_that_the_model_does_not_know(tiny_checkpoint: Path) -> None:
    up = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32", tagger=FixedTagger(("portrait",)))
    with pytest.raises(ConfigError, match="unknown tag 'portrait'"):
        up.upscale_tensor(torch.rand(3, 4, 4), size=(8, 8), steps=1)
