"""Pictures for scoring: the 8-bit grid, crops, and what reading them changes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from linearsr.errors import ImageError
from linearsr.evaluation.pictures import (
    cropped_size,
    eight_bits,
    notes_of,
    pixels_digest,
    read_input,
    read_picture,
    save_picture,
)
from linearsr.image_io import probe
from linearsr.metrics import mod_crop


def pixels(height: int = 9, width: int = 13) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    x = torch.from_numpy(pixels()).permute(2, 0, 1).float() / 255

    save_picture(tmp_path / "in" / "x.png", x)

    assert torch.equal(read_picture(tmp_path / "in" / "x.png"), x)
    assert torch.equal(read_picture(tmp_path / "in" / "x.png", (12, 8)), x[:, :8, :12])
    with pytest.raises(ImageError, match="is 13x9, expected at least 14x9"):
        read_picture(tmp_path / "in" / "x.png", (14, 9))


def test_rounding_is_that_of_files(tmp_path: Path) -> None:
    x = (torch.arange(3 * 40 * 40).reshape(3, 40, 40) / 4799 * 1.2 - 0.1).float()
    x[0, 0, :4] = torch.tensor([0.5, 1.5, 2.5, 3.5]) / 255  # halves go up, not to even

    save_picture(tmp_path / "x.png", x)

    assert torch.equal(read_picture(tmp_path / "x.png"), eight_bits(x))
    assert (eight_bits(x)[0, 0, :4] * 255).round().tolist() == [1, 2, 3, 4]
    assert torch.equal(eight_bits(eight_bits(x)), eight_bits(x))


def test_sixteen_bits_gray_and_alpha_become_eight_bit_rgb(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    Image.fromarray(np.dstack([pixels(), np.full((9, 13), 7, np.uint8)])).save(tmp_path / "clear.png")

    read = (read_picture(tmp_path / "deep.png") * 255).round()

    assert read[:, 0].tolist() == [[0, 0, 1, 255]] * 3  # 128 / 257 = 0.498, 129 / 257 = 0.502
    assert torch.equal((read_picture(tmp_path / "clear.png") * 255).round(), torch.tensor(pixels()).permute(2, 0, 1))
    assert notes_of([probe(tmp_path / "deep.png"), probe(tmp_path / "clear.png")]) == [
        "16-bit pictures rounded to 8 bits",
        "gray pictures repeated to three channels",
        "alpha ignored",
    ]


def test_plain_pictures_give_no_notes(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "x.png")

    assert notes_of([probe(tmp_path / "x.png")]) == []


def test_inputs_say_whether_their_file_is_gray(tmp_path: Path) -> None:
    Image.fromarray(pixels()[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels()).save(tmp_path / "rgb.png")

    gray, is_gray = read_input(tmp_path / "gray.png")

    assert is_gray
    assert torch.equal((gray * 255).round(), torch.from_numpy(pixels()[..., 0].astype(np.float32)).expand(3, -1, -1))
    assert read_input(tmp_path / "rgb.png")[1] is False


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 8))
def test_crop_agrees_with_mod_crop(width: int, height: int, scale: int) -> None:
    size = cropped_size((width, height), float(scale))

    if min(size) >= 1:
        assert size == tuple(mod_crop(torch.zeros(3, height, width), scale).shape[:0:-1])
    else:
        assert min(width, height) < scale


def test_broken_scales_crop_nothing() -> None:
    assert cropped_size((13, 9), 2.5) == (13, 9)


def test_digest_knows_pixels_and_shape() -> None:
    x = torch.zeros(3, 4, 6)
    other = x.clone()
    other[2, 3, 5] = 1 / 255

    assert len({pixels_digest(t) for t in (x, other, torch.zeros(3, 6, 4))}) == 3
    assert pixels_digest(x) == pixels_digest(x.clone())
