"""The bundled model held to its figures by `linearsr eval --fail-under`, as a project's own gate would do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, cat, coffee

from linearsr_cli.app import main

PLACES = {"astronaut": (astronaut, 0, 130), "cat": (cat, 50, 120), "coffee": (coffee, 120, 200)}
"""Photograph of scikit-image, and top and left corner of the 192 pixels of it that are taken."""
FLOOR = "psnr_y=29.6,ssim_y=0.826"
"""What one step reaches on these crops less 0.3 dB and 0.005, so that another processor's rounding passes."""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    folder = tmp_path / "clean"
    folder.mkdir()
    for name, (photo, top, left) in PLACES.items():
        Image.fromarray(np.ascontiguousarray(photo()[top : top + 192, left : left + 192])).save(folder / f"{name}.png")
    words = ["eval", "--model", "compact", "--steps", "1", "--tags", "clean", "--hr", str(folder), "--no-cache"]
    return [*words, "--protocol", "classical-x4", "--metrics", "psnr,ssim", "--bootstrap", "0", "-q", "--fail-under"]


def test_bundled_model_passes_its_gate(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, FLOOR]) == 0, capsys.readouterr().err


def test_a_gate_half_a_decibel_too_high_fails(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "psnr_y=30.4"]) == 3
    assert "PSNR-Y 29.9" in capsys.readouterr().err
