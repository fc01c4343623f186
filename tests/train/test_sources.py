"""Finding, splitting and reading photographs; what cannot be used is left out by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr.errors import TrainingError
from linearsr_train.data.sources import PhotoSet, find_photos, is_validation, read_photo


def _save(path: Path, height: int = 40, width: int = 50, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def test_is_validation_depends_on_the_name_alone_and_never_changes() -> None:
    held_back = [index for index in range(40) if is_validation(f"photo-{index}.jpg", 0.1)]
    assert held_back == [6, 11, 15, 16, 25, 28, 36]


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 1.0])
def test_is_validation_holds_back_about_that_fraction(fraction: float) -> None:
    share = np.mean([is_validation(f"{i}.png", fraction) for i in range(4000)])
    assert share == pytest.approx(fraction, abs=0.025)


def test_a_larger_fraction_keeps_what_a_smaller_one_held_back() -> None:
    names = [f"{i}.png" for i in range(500)]
    small, large = ({name for name in names if is_validation(name, fraction)} for fraction in (0.05, 0.2))
    assert small < large


def test_find_photos_is_sorted_recursive_and_skips_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "street.webp", "a/deep/market.png"):
        _save(tmp_path / name)
    _save(tmp_path / ".thumbs" / "d.png")
    _save(tmp_path / ".e.png")
    (tmp_path / "notes.txt").write_text("no photograph")
    training, validation = find_photos(tmp_path, 0.3)
    found = sorted([*training, *validation])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a/c.JPG",
        "a/deep/market.png",
        "b.png",
        "street.webp",
    ]
    assert training == sorted(training)
    assert all(is_validation(path.name, 0.3) for path in validation)
    assert not any(is_validation(path.name, 0.3) for path in training)


@pytest.mark.parametrize("folder", ["../photos", ".hidden/photos", "./photos"])
def test_find_photos_minds_dots_below_the_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("bridge.png", "lamp.png"):
        _save(Path(folder) / name)
    training, validation = find_photos(Path(folder), 0.3)
    assert (len(training), len(validation)) == (1, 1)


def test_find_photos_refuses_a_missing_folder_and_an_empty_split(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        find_photos(tmp_path / "absent", 0.1)
    with pytest.raises(TrainingError, match="0 training and 0 validation"):
        find_photos(tmp_path, 0.1)
    _save(tmp_path / "bridge.png")
    with pytest.raises(TrainingError, match="1 training and 0 validation"):
        find_photos(tmp_path, 0.3)


def test_read_photo_is_rgb_and_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = (250, 120, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(np.full((40, 60, 3), 9, np.uint8)).save(tmp_path / "b.jpg", exif=exif)
    assert read_photo(tmp_path / "b.jpg").shape == (60, 40, 3)
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "gray.png"), np.full((4, 6, 3), 77))


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_read_photo_of_a_damaged_file_is_a_training_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(TrainingError, match="bad.png: cannot be decoded"):
        read_photo(tmp_path / "bad.png")


def test_photo_set_leaves_out_what_it_cannot_use_and_says_why(tmp_path: Path) -> None:
    good = _save(tmp_path / "good.png")
    small = _save(tmp_path / "small.png", 31, 90)
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    photos = PhotoSet([good, small, tmp_path / "empty.png", tmp_path / "folder.png", tmp_path / "gone.png"], 32, 1.0)
    assert len(photos) == 1
    assert photos.name(0) == "good.png"
    reasons = dict(photos.skipped)
    assert list(reasons) == ["small.png", "empty.png", "folder.png", "gone.png"]
    assert reasons["small.png"] == "90x31 is smaller than the 32-pixel crop"
    assert "cannot be decoded" in reasons["empty.png"]


def test_photo_set_of_nothing_usable_gives_an_example(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="no usable photograph among 1 files, for example small.png: 50x40 is smaller"
    ):
        PhotoSet([_save(tmp_path / "small.png")], 64, 1.0)


def test_photo_set_reads_again_beyond_its_budget(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{index}.png", value=index) for index in range(3)]
    photos = PhotoSet(paths, 32, 40 * 50 * 3 * 1.5 / 2**30)
    os.replace(_save(tmp_path / "other.png", value=200), paths[1])
    os.replace(_save(tmp_path / "another.png", value=201), paths[0])
    assert [int(photos.pixels(index)[0, 0, 0]) for index in range(3)] == [0, 200, 2]
    assert [photos.area(index) for index in range(3)] == [2000] * 3


def test_photo_set_in_memory_cannot_be_written_to(tmp_path: Path) -> None:
    photos = PhotoSet([_save(tmp_path / "a.png")], 32, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        photos.pixels(0)[0, 0] = 1


def test_photo_set_travels_to_other_processes_without_its_pixels(photos: Path) -> None:
    photo_set = PhotoSet(sorted(photos.iterdir()), 32, 1.0)
    data = pickle.dumps(photo_set)
    assert len(data) < 4000
    other = pickle.loads(data)
    for index in range(len(photo_set)):
        assert (other.pixels(index) == photo_set.pixels(index)).all()
