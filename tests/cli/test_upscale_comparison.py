from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_cli.upscale_comparison import GAP, comparison_path, side_by_side


def test_compare_shows_bicubic_and_the_result(linearsr, picture):
    source = picture("a.png", 40, 30)
    assert linearsr("upscale", "a.png", "--compare", "side.png").code == 0
    with Image.open("side.png") as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    with Image.open("a_x4.png") as image:
        result = np.asarray(image).astype(int)
    strip = seen.shape[0] - 120
    assert seen.shape[1] == 2 * 160 + GAP
    assert (seen[strip:, 160 + GAP :] == result).all()
    bicubic = np.asarray(Image.open(source).resize((160, 120), Image.Resampling.BICUBIC)).astype(int)
    # Pillow treats the border differently, and clips between its two passes.
    assert np.abs(seen[strip + 8 : -8, 8:152] - bicubic[8:-8, 8:152]).mean() < 0.5
    assert np.abs(seen[strip + 8 : -8, 8:152] - result[8:-8, 8:152]).mean() > 5
    label = seen[:strip]
    assert label.min() < 80  # there is text
    assert np.median(label) == 255


def test_compare_file_gets_the_first_picture_only(linearsr, picture, size_of):
    picture("a.png", 10, 10)
    picture("b.png", 20, 20)
    assert linearsr("upscale", "a.png", "b.png", "-o", "out", "--compare", "side.jpg").code == 0
    assert size_of("side.jpg")[0] == 80 + GAP


def test_compare_folder_gets_one_of_each(linearsr, picture):
    picture("in/a.png")
    picture("in/sub/a.jpg")
    assert linearsr("upscale", "in", "-r", "-o", "out", "--compare", "sides").code == 0
    made = sorted(path.relative_to("sides").as_posix() for path in Path("sides").rglob("*.png"))
    assert made == ["a.png.compare.png", "sub/a.jpg.compare.png"]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_compare_takes_gray_and_transparent_pictures(linearsr, picture, mode):
    picture("a.png", mode=mode)
    assert linearsr("upscale", "a.png", "--compare", "side.png").code == 0
    with Image.open("side.png") as image:
        assert "A" not in image.getbands()


def test_compare_of_16_bits_is_8_bits(linearsr, tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save("a.png")
    assert linearsr("upscale", "a.png", "--compare", "side.png").code == 0
    from linearsr.image_io import probe

    assert probe(Path("side.png")).bit_depth == 8


def test_side_by_side_puts_the_halves_where_they_belong():
    left, right = np.zeros((50, 60, 3), np.float32), np.full((50, 60, 3), 0.5, np.float32)
    canvas = side_by_side(left, right, ("left", "right"))
    assert canvas.shape[1] == 120 + GAP
    body = canvas[-50:]
    assert (body[:, :60] == 0).all()
    assert (body[:, 60 : 60 + GAP] == 1).all()
    assert (body[:, 60 + GAP :] == 0.5).all()


@pytest.mark.parametrize(
    ("wanted", "written", "expected"),
    [
        (None, False, None),
        ("side.png", False, "side.png"),
        ("side.png", True, None),
        ("sides", False, "sides/sub/a.jpg.compare.png"),
        ("sides", True, "sides/sub/a.jpg.compare.png"),
        ("there.png", True, "there.png/sub/a.jpg.compare.png"),
    ],
)
def test_comparison_path(wanted, written, expected):
    Path("there.png").mkdir()
    path = comparison_path(wanted, Path("sub/a.jpg"), written)
    assert (None if path is None else path.as_posix()) == expected


def test_compare_never_replaces_a_file_unasked(linearsr, picture, size_of):
    picture("a.png", 12, 8)
    picture("side.png", 3, 3)
    result = linearsr("upscale", "a.png", "--compare", "side.png")
    assert result.code == 2
    assert "compare is 'side.png', which exists already" in result.err
    assert size_of("side.png") == (3, 3)
    assert linearsr("upscale", "a.png", "--compare", "side.png", "--on-exists", "overwrite").code == 0
    assert size_of("side.png") != (3, 3)


def test_a_comparison_that_cannot_be_written_does_not_fail_the_result(linearsr, picture):
    picture("a.png", 12, 8)
    result = linearsr("upscale", "a.png", "--compare", "a.png/side.png", "--json")
    assert result.code == 0
    assert result.lines[0]["status"] == "done"
    assert "no comparison of a.png" in result.err
