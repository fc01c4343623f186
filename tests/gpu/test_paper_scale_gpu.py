"""The paper-scale path on CUDA against the CPU, with every way to offload. Skipped without a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none"),
]


@pytest.fixture(scope="module")
def picture() -> Callable[..., Tensor]:
    """x4 of a small picture by the stand-in, for the settings of `Upscaler.from_pretrained`."""
    import tempfile

    from linearsr.pipeline import Upscaler
    from linearsr_train.stand_ins.checkpoint import write_checkpoint

    lr = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEARSR_CACHE", folder)
        patch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        write_checkpoint(Path(folder) / "model")

        def make(steps: int = 4, **settings: object) -> Tensor:
            up = Upscaler.from_pretrained(Path(folder) / "model", tagger="none", **settings)
            return up.upscale_tensor(lr, size=(224, 160), steps=steps, tags="cat, stone wall")

        yield make


def test_cuda_gives_the_pictures_of_the_cpu(picture: Callable[..., Tensor]) -> None:
    cpu, cuda = (picture(device=device, dtype="fp32") for device in ("cpu", "cuda"))
    assert float((cpu - cuda).abs().max()) <= 2e-3


@pytest.mark.parametrize("offload", ["expert", "sequential"])
def test_offload_on_cuda_changes_nothing(picture: Callable[..., Tensor], offload: str) -> None:
    plain = picture(device="cuda", dtype="fp32")
    assert float((picture(device="cuda", dtype="fp32", offload=offload) - plain).abs().max()) <= 1e-5


def test_bfloat16_and_compiled_networks_stay_close(picture: Callable[..., Tensor]) -> None:
    plain, half = (picture(device="cuda", dtype=dtype) for dtype in ("fp32", "bf16"))
    compiled = picture(device="cuda", dtype="fp32", compile=True)
    assert float((half - plain).abs().mean()) <= 0.02
    assert float((compiled - plain).abs().max()) <= 2e-3
