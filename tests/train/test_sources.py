"""Finding, splitting and reading photographs; what cannot be used is left out by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

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
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(TrainingError, match="0 training and 0 validation photographs among 0 files"):
        find_photos(folder, 0.1)
    (folder / "notes.txt").write_text("no photograph")
    with pytest.raises(TrainingError, match="0 training and 0 validation photographs among 1 files"):
        find_photos(folder, 0.1)
    _save(folder / "bridge.png")
    with pytest.raises(TrainingError, match="1 training and 0 validation"):
        find_photos(folder, 0.3)


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


def test_read_photo_converts_colours_by_the_profile(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    # A profile whose red and blue are exchanged, made of sRGB's own tags: the exact answer is known.
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = icc.index(b"rXYZ"), icc.index(b"bXYZ")
    icc[red : red + 4], icc[blue : blue + 4] = b"bXYZ", b"rXYZ"
    Image.fromarray(pixels).save(tmp_path / "swapped.png", icc_profile=bytes(icc))
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "plain.png"), pixels)
    assert np.abs(read_photo(tmp_path / "swapped.png").astype(int) - pixels[:, :, ::-1]).max() <= 2


def test_read_photo_rounds_sixteen_bits_and_shows_transparency_over_white(tmp_path: Path) -> None:
    deep = np.arange(0, 65536, 257 * 5, dtype=np.uint16).reshape(1, 52).repeat(3, 0)
    cv2.imwrite(str(tmp_path / "deep.png"), np.stack([deep, deep + 100, deep], -1)[:, :51])
    expected = np.arange(0, 255, 5, dtype=np.uint8)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), np.stack([expected] * 3, -1)[None].repeat(3, 0))
    clear = np.full((2, 3, 4), (200, 100, 0, 255), np.uint8)
    clear[0, :, 3] = (0, 51, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_photo(tmp_path / "clear.png")[0].tolist() == [[255, 255, 255], [244, 224, 204], [200, 100, 0]]
    assert read_photo(tmp_path / "clear.png")[1].tolist() == [[200, 100, 0]] * 3


def test_read_photo_takes_the_first_picture_of_a_phone_file(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in (40, 200)]
    frames[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_photo(tmp_path / "phone.jpg"), np.full((16, 24, 3), 40))


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "is empty"), (b"not a picture", "is a text file"), (b"\x89PNG\r\n\x1a\n", "is damaged")]
)
def test_read_photo_of_a_damaged_file_is_a_training_error(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(TrainingError, match=f"bad.png {reason}"):
        read_photo(tmp_path / "bad.png")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_read_photo_of_a_file_cut_short_is_a_training_error(tmp_path: Path, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for suffix in ("jpg", "webp", "png"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(TrainingError, match=f"cut.{suffix} is damaged or cut short"):
            read_photo(path)


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
    assert reasons["empty.png"] == "is empty (0 bytes), expected a picture"
    assert reasons["folder.png"] == "is a folder, expected a picture"
    assert reasons["gone.png"] == "does not exist, expected a picture"


def test_photo_set_of_nothing_usable_gives_an_example(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    paths = [_save(tmp_path / "small.png"), _save(tmp_path / "tiny.png"), tmp_path / "empty.png"]
    with pytest.raises(TrainingError) as caught:
        PhotoSet(paths, 64, 1.0)
    assert str(caught.value) == (
        "no usable photograph among 3 files, for example small.png: 50x40 is smaller than the 64-pixel crop "
        "(2 too small for the 64-pixel crop, 1 unreadable)"
    )
    assert caught.value.hint is not None and "data.crop" in caught.value.hint


def test_photo_set_tells_when_a_file_is_gone_or_another_picture(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{index}.png") for index in range(2)]
    photos = PhotoSet(paths, 32, 0.0)
    assert photos.path(1) == paths[1]
    paths[0].unlink()
    _save(paths[1], 50, 40)
    with pytest.raises(TrainingError, match="0.png does not exist"):
        photos.pixels(0)
    with pytest.raises(TrainingError, match="1.png was replaced by another picture"):
        photos.pixels(1)


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
