"""Orientation and colour of what is read: turned once, converted through the profile, and back."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from linearsr.errors import ImageError
from linearsr.image_io import extension, read, write


def _load_helpers():
    spec = importlib.util.spec_from_file_location("picture_files", Path(__file__).with_name("picture_files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = _load_helpers()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_orientation_is_applied_as_pillow_does(orientation, kind, tmp_path):
    path = tmp_path / f"o{extension(kind)}"
    exif = Image.Exif()
    exif[274] = orientation
    options = {} if kind in ("PNG", "TIFF") else {"quality": 98}
    Image.fromarray(files.pixels(3)).save(path, kind, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)), dtype=np.float32) / 255
    picture = read(path)
    assert (picture.info.width, picture.info.height) == (wanted.shape[1], wanted.shape[0])
    assert np.abs(picture.rgb - wanted).max() < 1e-6
    write(picture, tmp_path / f"p{extension(kind)}")
    assert Image.open(tmp_path / f"p{extension(kind)}").getexif().get(274, 1) == 1


@pytest.mark.parametrize("reader", ["tifffile", "opencv"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bit_tiff_is_applied_once(orientation, reader, monkeypatch):
    array = files.pixels(3, 16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    halves = []
    for half in (array >> 8, array & 255):
        stored = io.BytesIO()
        Image.fromarray(half.astype(np.uint8)).save(stored, "PNG", exif=exif)
        halves.append(np.asarray(ImageOps.exif_transpose(Image.open(stored))).astype(np.int32))
    wanted = halves[0] * 256 + halves[1]
    if reader == "opencv":
        monkeypatch.setitem(sys.modules, "tifffile", None)
    got = read(io.BytesIO(buffer.getvalue()))
    assert got.info.bit_depth == 16 and (got.info.width, got.info.height) == (wanted.shape[1], wanted.shape[0])
    assert np.abs(got.rgb * 65535 - wanted).max() < 0.01


@pytest.mark.parametrize("reader", ["tifffile", "opencv"])
def test_premultiplied_alpha_of_16_bit_tiff_is_divided_out(reader, monkeypatch):
    array = files.pixels(4, 16)
    array[..., 3] = np.maximum(array[..., 3], 20000)
    stored = array.copy()
    stored[..., :3] = (array[..., :3].astype(np.float64) * array[..., 3:] / 65535).round()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, photometric="rgb", metadata=None, extrasamples=["assocalpha"])
    if reader == "opencv":
        monkeypatch.setitem(sys.modules, "tifffile", None)
    picture = read(io.BytesIO(buffer.getvalue()))
    assert np.abs(picture.rgb * 65535 - array[..., :3]).max() <= 4
    assert np.abs(picture.alpha * 65535 - array[..., 3]).max() < 0.01


def test_16_bit_tiff_in_planes_is_refused_without_tifffile(monkeypatch):
    data = files.by_tifffile(3, planarconfig="separate")()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match="without tifffile") as caught:
        read(io.BytesIO(data))
    assert "linearsr[formats]" in caught.value.hint


@pytest.mark.skipif(not files.HAS_HEIF, reason="pillow-heif is not installed")
def test_heif_keeps_profile_exif_and_xmp(tmp_path):
    __import__("pillow_heif").register_heif_opener()
    Image.fromarray(files.pixels(3)).save(
        tmp_path / "a.heic", exif=b"Exif\0\0" + files.make_exif(), icc_profile=files.P3, xmp=files.XMP
    )
    picture = read(tmp_path / "a.heic")
    assert (picture.info.width, picture.info.height) == (files.HEIGHT, files.WIDTH) and picture.notes == []
    assert write(picture, tmp_path / "b.heic") == []
    found = files.everything_of((tmp_path / "b.heic").read_bytes())
    assert found["maker"] == "Maker" and found["gps"] and found["icc"] and found["size"] == (files.HEIGHT, files.WIDTH)
    after = Image.open(tmp_path / "b.heic")
    assert after.size == (files.HEIGHT, files.WIDTH) and b"by hand" in after.info["xmp"]


def make_cmyk_profile() -> bytes:
    """A printer profile with two grid points per ink; black ink is a dark blue, so that its use shows."""
    grid = b""
    for corner in range(16):
        c, m, y, k = (corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        light = 40 if k else 255 - 45 * (c + m + y)
        grid += bytes((light, 128, 90 if k else 128 + 30 * (y - m)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + files.s15(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + grid + ramp * 3
    icc = bytearray(files.make_profile(b"CMYK", {b"desc": files.text("Test inks"), **files.COMMON, b"A2B0": table}))
    icc[8:12], icc[12:16], icc[20:24] = b"\x02\x40\0\0", b"prtr", b"Lab "
    return bytes(icc)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_through_its_profile(kind, tmp_path):
    icc = make_cmyk_profile()
    inks = np.zeros((16, 16, 4), dtype=np.uint8)
    inks[:, 8:, 3] = 255
    options = {"quality": 100} if kind == "JPEG" else {}
    Image.frombytes("CMYK", (16, 16), inks.tobytes()).save(tmp_path / "a", kind, icc_profile=icc, **options)
    picture = read(tmp_path / "a")
    paper, black = picture.rgb[4, 2] * 255, picture.rgb[4, 13] * 255
    assert paper.min() > 250
    assert black[2] - black[0] > 40, black  # without the profile it is (0, 0, 0)
    assert picture.notes == ["CMYK colours were converted to sRGB through the embedded profile (Test inks)"]
    write(picture, tmp_path / "b", format=kind)
    after = Image.open(tmp_path / "b")
    assert after.mode == "RGB" and "icc_profile" not in after.info


def test_wide_colors_reach_the_model_as_srgb():
    patch = np.full((8, 8, 3), (200, 120, 90), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, "PNG", icc_profile=files.P3)
    got = read(io.BytesIO(buffer.getvalue())).rgb[0, 0] * 255
    linear = np.where(patch[0, 0] / 255 > 0.04045, ((patch[0, 0] / 255 + 0.055) / 1.055) ** 2.4, 0)
    # Display files.P3 to sRGB, both D65: CSS Color 4, section 18.
    matrix = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    srgb = matrix @ linear
    wanted = (1.055 * srgb ** (1 / 2.4) - 0.055) * 255
    assert np.abs(got - wanted).max() < 1.5, (got, wanted)
    assert got[0] > 206


def test_colors_outside_srgb_are_said():
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "PNG", icc_profile=files.P3)
    assert read(io.BytesIO(buffer.getvalue())).notes == [
        "some colours of Test P3 lie outside sRGB and were moved to its edge"
    ]


def test_profile_that_the_output_cannot_hold_leaves_srgb_colors(tmp_path):
    picture = read(io.BytesIO(files.jpeg_with_everything()))
    notes = write(picture, tmp_path / "x.ppm")
    got = np.asarray(Image.open(tmp_path / "x.ppm"), dtype=np.float32) / 255
    assert np.abs(got - picture.rgb).max() <= 0.5 / 255 + 1e-6
    assert "PPM holds no colour profile: the colours were saved as sRGB" in notes


def test_profile_that_cannot_be_applied_at_16_bits_is_replaced_by_srgb(tmp_path):
    picture = read(io.BytesIO(files.jpeg_with_everything()))
    notes = write(picture, tmp_path / "x.png", bit_depth="16", metadata="strip")
    after = Image.open(tmp_path / "x.png")
    if files.HAS_CODECS:
        assert after.info["icc_profile"] == files.P3 and notes == []
        return
    assert after.info["icc_profile"][36:] == files.SRGB[36:]  # the bytes before hold the date
    assert len(notes) == 1 and "saved as sRGB" in notes[0] and "linearsr[formats]" in notes[0]
    got = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)[..., ::-1] / 65535
    assert np.abs(got - picture.rgb).max() < 1 / 65535
