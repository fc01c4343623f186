"""Contact sheets, read back pixel by pixel, and the line on throughput."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFont
from torch import Tensor

from linearsr.errors import ConfigError, ImageError, ShapeError
from linearsr_train.report import FONT_PX, LINE_PX, MARGIN_PX, PAPER, contact_sheet, throughput_line


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture whose 8-bit values are known exactly."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)) / 255.0


def pixels(picture: Tensor) -> NDArray[np.uint8]:
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def cell(sheet: NDArray[np.uint8], top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
    """Part of a sheet by the top of its row and the left of its column."""
    top += 2 * LINE_PX
    return sheet[top : top + height, left : left + width]


def test_contact_sheet_shows_every_picture_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "step-000100.png"
    pictures = [noise(40, 60, seed) for seed in range(5)]
    rows = [("lamp", [("a", pictures[0]), ("b", pictures[1]), ("c", pictures[2])])]
    rows.append(("street", [("a", pictures[3]), ("b", pictures[4])]))
    assert contact_sheet(path, rows) == path
    sheet = read(path)
    step_down, step_right = 2 * LINE_PX + 40 + MARGIN_PX, 60 + MARGIN_PX
    assert sheet.shape == (MARGIN_PX + 2 * step_down, MARGIN_PX + 3 * step_right, 3)
    for index, picture in enumerate(pictures):
        top, left = MARGIN_PX + index // 3 * step_down, MARGIN_PX + index % 3 * step_right
        assert np.array_equal(cell(sheet, top, left, 40, 60), pixels(picture)), index
    assert (sheet[MARGIN_PX + step_down + 2 * LINE_PX :, MARGIN_PX + 2 * step_right :] == PAPER).all()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_contact_sheet_brings_a_row_to_one_height_by_repeating_pixels(tmp_path: Path) -> None:
    lr, hr = noise(16, 24, 1), noise(64, 96, 2)
    sheet = read(contact_sheet(tmp_path / "s.png", [("row", [("lr", lr), ("hr", hr)])], zoom=2))
    enlarged = pixels(lr).repeat(8, axis=0).repeat(8, axis=1)
    assert np.array_equal(cell(sheet, MARGIN_PX, MARGIN_PX, 128, 192), enlarged)
    left = MARGIN_PX + 192 + MARGIN_PX
    assert np.array_equal(cell(sheet, MARGIN_PX, left, 128, 192), pixels(hr).repeat(2, axis=0).repeat(2, axis=1))


def test_contact_sheet_has_room_for_labels_and_titles(tmp_path: Path) -> None:
    font = ImageFont.load_default(FONT_PX)
    long = "a label much wider than its picture, 27.31 dB"
    rows = [("short", [(long, noise(8, 8)), ("x", noise(8, 8, 1))])]
    sheet = read(contact_sheet(tmp_path / "s.png", rows))
    left = MARGIN_PX + math.ceil(font.getlength(long)) + MARGIN_PX
    assert np.array_equal(cell(sheet, MARGIN_PX, left, 8, 8), pixels(noise(8, 8, 1)))
    inked = (sheet[MARGIN_PX + LINE_PX : MARGIN_PX + 2 * LINE_PX] != PAPER).any(axis=(0, 2))
    assert inked[left - 2 * MARGIN_PX : left - MARGIN_PX].any()  # the label's last letter
    assert not inked[left - MARGIN_PX : left - 1].any()  # the next letter may lean one pixel over its left
    title = "a title that is far wider than the only picture of its row"
    sheet = read(contact_sheet(tmp_path / "t.png", [(title, [("x", noise(8, 8))])]))
    assert sheet.shape[1] == 2 * MARGIN_PX + math.ceil(font.getlength(title))


def test_contact_sheet_clips_and_marks_what_is_not_finite(tmp_path: Path) -> None:
    picture = torch.full((3, 4, 100), 0.5)
    picture[:, 0, 0], picture[:, 0, 1] = -3.0, 7.0
    picture[1, 2, 5], picture[0, 3, 6] = math.nan, math.inf
    sheet = read(contact_sheet(tmp_path / "s.png", [("", [("", picture)])]))
    shown = cell(sheet, MARGIN_PX, MARGIN_PX, 4, 100)
    assert shown[0, :3].tolist() == [[0] * 3, [255] * 3, [128] * 3]
    assert shown[2, 5].tolist() == shown[3, 6].tolist() == [255, 0, 255]
    assert (shown == 128).all(axis=-1).sum() == 400 - 4


def test_contact_sheet_takes_any_float_and_gradients(tmp_path: Path) -> None:
    picture = noise(8, 40)
    exact = read(contact_sheet(tmp_path / "a.png", [("r", [("x", picture.double().requires_grad_())])]))
    assert np.array_equal(cell(exact, MARGIN_PX, MARGIN_PX, 8, 40), pixels(picture))
    # bfloat16 is off by 255 / 2^9 at most, less than half a level.
    coarse = read(contact_sheet(tmp_path / "b.png", [("r", [("x", picture.bfloat16())])]))
    assert np.array_equal(coarse, exact)


def test_contact_sheet_of_nothing_is_a_picture(tmp_path: Path) -> None:
    assert (read(contact_sheet(tmp_path / "a.png", [])) == PAPER).all()
    assert read(contact_sheet(tmp_path / "b.png", [("empty", [])])).shape[0] == 2 * MARGIN_PX + 2 * LINE_PX


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8, 3), (1, 3, 8, 8), (3, 0, 8)])
def test_contact_sheet_refuses_other_shapes_and_leaves_the_old_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = contact_sheet(tmp_path / "s.png", [("r", [("x", noise(8, 8))])])
    before = path.read_bytes()
    with pytest.raises(ShapeError, match=r"picture 'bad' is \(.*\), expected \(3, H, W\)"):
        contact_sheet(path, [("r", [("bad", torch.zeros(shape))])])
    assert path.read_bytes() == before


def test_contact_sheet_refuses_a_zoom_below_one_and_a_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zoom is 0, expected 1 or more"):
        contact_sheet(tmp_path / "s.png", [], zoom=0)
    (tmp_path / "samples").write_text("a file in the way")
    with pytest.raises(ImageError, match="samples cannot be made"):
        contact_sheet(tmp_path / "samples" / "s.png", [])


# ---- throughput


@pytest.mark.parametrize(
    ("loader", "network", "line"),
    [
        (16 / 61, 16 / 38, "loader gives 61 crops/s, network takes 38: not starved"),
        (0.5, 0.5, "loader gives 32 crops/s, network takes 32: not starved"),
        (0.0, 8.0, "loader gives over 9999 crops/s, network takes 2: not starved"),
        (
            0.8,
            0.2,
            "loader gives 20 crops/s, network takes 80: starved, the network waits 75 % of the time; "
            "raise data.num_workers",
        ),
    ],
)
def test_throughput_line_says_who_waits(loader: float, network: float, line: str) -> None:
    assert throughput_line(loader, network, 16) == line
