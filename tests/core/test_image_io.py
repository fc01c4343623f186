"""What is refused and in which words, edge sizes, rounding, format choice; kinds of files are in test_image_files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr.errors import ConfigError, ImageError, ShapeError
from linearsr.image_io import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    RAW_SUFFIXES,
    Picture,
    check_writable,
    choose_format,
    encode_picture,
    extension,
    format_of,
    probe,
    read,
    write,
)


def noise(height: int, width: int, channels: int = 3, bits: int = 8) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    out = rng.integers(0, 2**bits, (height, width, channels)).astype(np.uint8 if bits == 8 else np.uint16)
    return out[..., 0] if channels == 1 else out


def saved(kind: str, array: np.ndarray | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 60) if array is None else array).save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(path: Path) -> ImageError:
    """The error of `read`, after checking that `probe` has the same or, for damage behind the headers, none."""
    with pytest.raises(ImageError) as caught:
        read(path)
    error = caught.value
    assert str(path) in error.message and error.hint is not None
    assert "\n" not in error.message and not error.message.endswith(".")
    return error


FOREIGN = {
    "empty.png": (b"", "is empty"),
    "zeros.jpg": (bytes(5000), "only zero bytes"),
    "text.png": (b"this is no picture, but a text that somebody named so\n" * 40, "a text file"),
    "utf8.png": ("größe 大 " * 200).encode() and (("größe 大 " * 200).encode(), "a text file"),
    "drawing.svg": (b'<?xml version="1.0"?>\n<!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "paper.png": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "clip.png": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(900), "a video"),
    "clip.mov": (b"\0\0\0\x14ftypqt  \0\0\2\0qt  " + bytes(900), "a video"),
    "clip.webm": (b"\x1a\x45\xdf\xa3" + bytes(range(200)), "a video"),
    "clip.avi": (b"RIFF\0\0\1\0AVI LIST" + bytes(200), "a video"),
    "layers.psd": (b"8BPS\0\1" + bytes(range(100)), "a Photoshop file"),
    "next.jxl": (b"\xff\x0a" + bytes(range(1, 100)), "a JPEG XL file"),
    "pack.png": (b"PK\3\4" + bytes(range(100)), "a ZIP archive"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
    "noise.png": (bytes(range(255, 0, -1)) * 8, "of an unknown kind"),
    "canon.tif": (b"II*\0\x10\0\0\0CR\2\0" + bytes(200), "a camera raw file"),
    "fuji.png": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "a camera raw file"),
    "canon3.heic": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(900), "a camera raw file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_refused_by_what_they_are(name, tmp_path):
    data, words = FOREIGN[name]
    path = tmp_path / name
    path.write_bytes(data)
    error = refusal(path)
    assert words in error.message
    with pytest.raises(ImageError, match=words):
        probe(path)


@pytest.mark.parametrize("suffix", [".cr2", ".CR3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"])
def test_camera_raw_files_are_refused_by_name(suffix, tmp_path):
    path = tmp_path / f"IMG_1{suffix}"
    path.write_bytes(saved("TIFF"))
    assert suffix.lower() in RAW_SUFFIXES and suffix.lower() not in IMAGE_SUFFIXES
    error = refusal(path)
    assert "a camera raw file" in error.message and "raw converter" in error.hint


def test_dng_with_another_name_is_refused_too(tmp_path):
    tags = {50706: (1, 4, 0, 0)}
    (tmp_path / "a.tif").write_bytes(saved("TIFF", tiffinfo=tags))
    assert "a camera raw file" in refusal(tmp_path / "a.tif").message


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.png").message
    assert "is a folder" in refusal(tmp_path).message
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError):
            probe(path)


def test_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(saved("PNG"))

    def refuse(*_args, **_settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in refusal(path).message
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        probe(path)


def _png16() -> bytes:
    return encode_picture(Picture.from_array(noise(40, 60, bits=16)))[0]


def _tiff16() -> bytes:
    return encode_picture(Picture.from_array(noise(40, 60, bits=16)), format="tiff")[0]


WHOLE = {
    "png": lambda: saved("PNG"),
    "png-interlaced-palette": lambda: saved("PNG", noise(40, 60, 1), bits=8),
    "png16": _png16,
    "jpeg": lambda: saved("JPEG"),
    "jpeg-progressive": lambda: saved("JPEG", progressive=True),
    "webp": lambda: saved("WEBP"),
    "webp-lossless": lambda: saved("WEBP", lossless=True),
    "tiff": lambda: saved("TIFF"),
    "tiff-lzw": lambda: saved("TIFF", compression="tiff_lzw"),
    "tiff16": _tiff16,
    "avif": lambda: saved("AVIF"),
    "bmp": lambda: saved("BMP"),
    "ppm": lambda: saved("PPM"),
    "ppm16": lambda: encode_picture(Picture.from_array(noise(40, 60, bits=16)), format="ppm")[0],
    "gif": lambda: saved("GIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", WHOLE)
def test_file_cut_short_is_an_error_and_never_a_gray_rest(name, part, tmp_path):
    data = WHOLE[name]()
    read(io.BytesIO(data))
    path = tmp_path / f"cut.{name.split('-')[0].rstrip('16')}"
    path.write_bytes(data[: int(len(data) * part)])
    error = refusal(path)
    assert "damaged or cut short" in error.message or "needs" in error.message, error.message


def test_png_with_a_wrong_checksum_is_an_error(tmp_path):
    data = bytearray(saved("PNG"))
    data[20] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "a.png").message


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


HUGE = {
    "a.png": _png_header(20_000, 20_000),
    "a.ppm": b"P6\n20000 20000\n255\n",
    "a.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "a.gif": b"GIF89a" + struct.pack("<HHBBB", 20_000, 20_000, 0, 0, 0) + b",\0\0\0\0\x20\x4e\x20\x4e\0\x08\0;",
}


@pytest.mark.parametrize("name", HUGE)
def test_bomb_is_refused_from_its_header(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(HUGE[name])
    error = refusal(path)
    assert "20000x20000" in error.message and "400 megapixels" in error.message and "at most 300" in error.message
    with pytest.raises(ImageError, match="400 megapixels"):
        probe(path)


def test_pixel_limit_is_ours_and_pillows_stays_as_it_was(tmp_path):
    (tmp_path / "a.png").write_bytes(_png_header(20_000, 15_000))
    before = Image.MAX_IMAGE_PIXELS
    info = probe(tmp_path / "a.png")
    assert info.width * info.height == MAX_PIXELS > 2 * before
    assert before == Image.MAX_IMAGE_PIXELS
    (tmp_path / "b.png").write_bytes(_png_header(20_000, 15_001))
    with pytest.raises(ImageError, match="at most 300"):
        probe(tmp_path / "b.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animation_is_refused_with_its_number_of_frames(kind, tmp_path):
    frames = [Image.fromarray(noise(16, 16 + 0 * i) ^ np.uint8(17 * i)) for i in range(12)]
    path = tmp_path / f"a.{kind.lower()}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=50)
    error = refusal(path)
    assert "holds 12 frames" in error.message and "ffmpeg" in error.hint


def test_tiff_of_several_pages_uses_the_first_and_says_so(tmp_path):
    pages = [Image.fromarray(noise(10 + i, 12)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    picture = read(tmp_path / "a.tif")
    assert np.abs(picture.rgb * 255 - noise(10, 12)).max() < 1e-3
    assert picture.notes == ["the file holds 3 pages: only the first is used"]
    assert list(probe(tmp_path / "a.tif").notes) == picture.notes


def _mpo(xmp: bytes = b"") -> bytes:
    first, second = Image.fromarray(noise(24, 32)), Image.fromarray(255 - noise(24, 32))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second], quality=95, **({"xmp": xmp} if xmp else {}))
    return buffer.getvalue()


def test_phone_jpeg_of_two_pictures_uses_the_first_and_says_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(_mpo())
    picture = read(tmp_path / "a.jpg")
    assert picture.info.format == "JPEG"
    first = np.asarray(Image.open(tmp_path / "a.jpg"), dtype=np.float32)
    assert np.abs(picture.rgb * 255 - first).max() < 1e-3
    assert np.corrcoef(first.ravel(), noise(24, 32).ravel())[0, 1] > 0.5
    assert len(picture.notes) == 1 and "2 pictures" in picture.notes[0]


HDR = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"'
    b' xmlns:Container="http://ns.google.com/photos/1.0/container/" GCamera:MotionPhoto="1">'
    b"<Container:Directory><rdf:Seq/></Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("several", [False, True])
def test_gain_map_and_motion_video_are_said_to_be_lost(several, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(_mpo(HDR) if several else saved("JPEG", xmp=HDR))
    picture = read(path)
    assert sum("HDR gain map" in note for note in picture.notes) == 1
    assert sum("motion photo" in note for note in picture.notes) == 1
    write(picture, tmp_path / "b.jpg")
    after = Image.open(tmp_path / "b.jpg").info["xmp"]
    assert b"hdrgm:Version" not in after and b"Directory" not in after and b'MotionPhoto="0"' in after


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "PPM"])
@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (2, 3)])
def test_smallest_and_thinnest_pictures_work(kind, size, tmp_path):
    array = np.full((*size, 3), (200, 100, 50), dtype=np.uint8)
    path = tmp_path / f"a{extension(kind)}"
    Image.fromarray(array).save(path, kind)
    picture = read(path)
    assert picture.rgb.shape == (*size, 3)
    write(picture, tmp_path / f"b{extension(kind)}")
    after = np.asarray(Image.open(tmp_path / f"b{extension(kind)}")).astype(int)
    assert after.shape == (*size, 3) and np.abs(after - array).max() <= 4


SHAPES = [(1, 1, 3), (1, 5000, 1), (5000, 1, 4), (700, 3, 2)]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(kind, shape) for kind in ("png", "tiff", "ppm") for shape in SHAPES if kind != "ppm" or shape[2] in (1, 3)],
)
def test_smallest_and_thinnest_16_bit_pictures_work(kind, shape, tmp_path):
    array = noise(*shape[:2], shape[2], bits=16)
    gray, alpha = shape[2] < 3, shape[2] in (2, 4)
    color = array if shape[2] in (1, 3) else array[..., 0] if gray else array[..., :3]
    picture = Picture.from_array(color, array[..., -1] if alpha else None)
    write(picture, tmp_path / f"a.{kind}", format=kind)
    again = read(tmp_path / f"a.{kind}")
    assert again.info.bit_depth == 16
    assert np.abs(again.rgb - picture.rgb).max() < 1e-6
    assert again.digest() == picture.digest()


ODD_NAMES = [
    "Größe 大きい.png",
    "with space 'and' \"quotes\".PNG",
    "-dash.png",
    "new\nline.png",
    "no_suffix",
    "a.b.c.png",
    "emoji \U0001f9ca.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_work(name, tmp_path):
    for bits in (8, 16):
        picture = Picture.from_array(noise(9, 8, bits=bits))
        assert write(picture, tmp_path / name) == []
        assert probe(tmp_path / name).bit_depth == bits
        assert read(tmp_path / name).digest() == picture.digest()


def test_name_that_is_not_text_works(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    try:
        write(Picture.from_array(noise(4, 4)), path)
    except ImageError:
        pytest.skip("this file system takes only text")
    assert read(path).rgb.shape == (4, 4, 3)


def test_read_takes_a_stream_and_names_it_in_errors(tmp_path):
    assert read(io.BytesIO(saved("PNG"))).info.path is None
    with pytest.raises(ImageError, match="the input stream is empty"):
        read(io.BytesIO(b""))
    (tmp_path / "cut.jpg").write_bytes(saved("JPEG")[:300])
    with (tmp_path / "cut.jpg").open("rb") as stream, pytest.raises(ImageError, match=r"cut\.jpg is damaged"):
        read(stream)


def test_kind_is_found_by_content_and_not_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(saved("JPEG"))
    assert probe(tmp_path / "a.png").format == "JPEG"
    assert choose_format(probe(tmp_path / "a.png"), "auto") == "JPEG"


def test_digest_depends_on_pixels_and_size_only(tmp_path):
    array = noise(12, 20)
    picture = Picture.from_array(array)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif, dpi=(300, 300))
    Image.fromarray(array).save(tmp_path / "b.bmp")
    assert read(tmp_path / "a.png").digest() == read(tmp_path / "b.bmp").digest() == picture.digest()
    assert len(picture.digest()) == 64
    other = array.copy()
    other[11, 19, 2] ^= 1
    distinct = {
        picture.digest(),
        Picture.from_array(other).digest(),
        Picture.from_array(array.reshape(20, 12, 3)).digest(),
        Picture.from_array(array, np.full((12, 20), 255, np.uint8)).digest(),
    }
    assert len(distinct) == 4
    assert Picture.from_array(noise(600, 7)).digest() != Picture.from_array(noise(600, 7)[::-1].copy()).digest()


def test_digest_of_known_pixels_never_changes():
    """Noise is keyed by it: another value would change every result."""
    picture = Picture.from_array(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    assert picture.digest() == "c74714b93154d5551fc514d80d1991c7608f1a3ef28b06760325bdb9bf75f52c"


def test_from_array_takes_floats_and_whole_numbers():
    array = noise(5, 6)
    same = [Picture.from_array(a) for a in (array, array / 255.0, array.astype(np.uint16) * 257)]
    assert all(np.abs(p.rgb * 255 - array).max() < 1e-4 and p.rgb.dtype == np.float32 for p in same)
    assert [p.info.bit_depth for p in same] == [8, 8, 16]
    gray = Picture.from_array(array[..., 0], array[..., 1])
    assert gray.info.mode == "LA" and gray.info.is_gray and gray.info.has_alpha
    assert (gray.rgb[..., 0] == gray.rgb[..., 2]).all()
    for bad in (np.zeros((3, 8, 8)), np.zeros((8, 8, 4)), np.zeros((0, 8, 3)), np.zeros((8, 8, 3), np.int32)):
        with pytest.raises(ShapeError):
            Picture.from_array(bad)
    with pytest.raises(ShapeError, match=r"alpha is \(5, 5\)"):
        Picture.from_array(array, np.ones((5, 5)))


@pytest.mark.parametrize(("bits", "kind"), [("8", "png"), ("16", "png"), ("8", "tiff"), ("16", "ppm")])
def test_values_are_rounded_half_up_and_clamped(bits, kind, tmp_path):
    top = 2 ** int(bits) - 1
    values = np.array(
        [0.0, 0.49 / top, 0.5 / top, 1.49 / top, 1.51 / top, (top - 0.51) / top, (top - 0.49) / top, 1.0, -0.2, 1.7]
    )
    wanted = [0, 0, 1, 1, 2, top - 1, top, top, 0, top]
    picture = Picture.from_array(np.repeat(values[None, :, None], 3, axis=2))
    picture = replace(picture, rgb=np.repeat(values[None, :, None], 3, axis=2))  # float64: the halves are exact
    write(picture, tmp_path / "a", format=kind, bit_depth=bits)
    assert np.round(read(tmp_path / "a").rgb[0, :, 1] * top).astype(int).tolist() == wanted


def test_every_8_and_16_bit_value_comes_back(tmp_path):
    for bits in (8, 16):
        side = 2 ** (bits // 2)
        array = np.arange(2**bits).reshape(side, side).astype(np.uint8 if bits == 8 else np.uint16)
        write(Picture.from_array(array), tmp_path / "a.png")
        write(read(tmp_path / "a.png"), tmp_path / "b.png")
        assert (np.asarray(Image.open(tmp_path / "b.png")) == array).all()


@pytest.mark.parametrize("where", ["rgb", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_value_that_is_no_number_is_an_error_and_nothing_is_written(where, value, tmp_path):
    picture = Picture.from_array(noise(300, 9), noise(300, 9, 1))
    getattr(picture, where)[299, 8] = value
    with pytest.raises(ImageError, match="not numbers"):
        write(picture, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def _info(**changes):
    return replace(Picture.from_array(noise(4, 4)).info, **changes)


def test_choose_format_keeps_the_input_if_it_can_hold_it():
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "PPM", "HEIF"):
        assert choose_format(_info(format=kind), "auto") == kind
    assert choose_format(_info(format="GIF"), "auto") == "PNG"
    assert choose_format(_info(format="BMP", has_alpha=True), "auto") == "PNG"
    assert choose_format(_info(format="WEBP", has_alpha=True), "auto") == "WEBP"
    assert choose_format(_info(format="TIFF", bit_depth=16), "auto") == "TIFF"
    assert choose_format(_info(format="JPEG"), "webp") == "WEBP"
    assert choose_format(_info(), "jpg") == choose_format(_info(), "JPEG") == choose_format(_info(), ".jpeg") == "JPEG"
    assert choose_format(_info(), "tif") == "TIFF"
    for bad in ("gif", "docx", ""):
        with pytest.raises(ConfigError, match="expected auto, png, jpeg"):
            choose_format(_info(), bad)


def test_extensions_and_formats_fit_each_other():
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "PPM", "HEIF"):
        assert extension(kind) in IMAGE_SUFFIXES and format_of(Path("x" + extension(kind).upper())) == kind
    assert format_of(Path("a.txt")) is None


def test_check_writable_refuses_what_the_format_cannot_hold():
    for kind, limit in (("WEBP", 16_383), ("JPEG", 65_500)):
        check_writable(kind, limit, 1, False)
        with pytest.raises(ImageError, match=f"{limit + 1}x1, but {kind} holds at most {limit}") as caught:
            check_writable(kind, limit + 1, 1, False)
        assert "-f png" in caught.value.hint
        with pytest.raises(ImageError):
            check_writable(kind, 1, limit + 1, False)
    check_writable("PNG", 100_000, 1, True)
    for kind in ("JPEG", "BMP", "PPM"):
        with pytest.raises(ImageError, match="transparency") as caught:
            check_writable(kind, 10, 10, True)
        assert "--alpha drop" in caught.value.hint


@pytest.mark.parametrize(("kind", "limit"), [("WEBP", 16_383), ("JPEG", 65_500), ("AVIF", 32_768)])
def test_limits_of_check_writable_are_those_of_the_libraries(kind, limit, tmp_path):
    array = np.full((8, limit, 3), 90, dtype=np.uint8)
    write(Picture.from_array(array), tmp_path / "a", format=kind)
    assert read(tmp_path / "a").info.width == limit


def test_opaque_alpha_is_dropped_for_jpeg_and_other_alpha_refused(tmp_path):
    array = noise(8, 8)
    opaque = np.full((8, 8), 255, np.uint8)
    assert write(Picture.from_array(array, opaque), tmp_path / "a.jpg") == []
    assert Image.open(tmp_path / "a.jpg").mode == "RGB"
    opaque[0, 0] = 254
    with pytest.raises(ImageError, match="transparency, which JPEG"):
        write(Picture.from_array(array, opaque), tmp_path / "b.jpg")


def test_format_of_write_follows_the_name_unless_given(tmp_path):
    picture = read(io.BytesIO(saved("JPEG")))
    write(picture, tmp_path / "a.webp")
    write(picture, tmp_path / "b.webp", format="png")
    write(picture, tmp_path / "c")
    assert [probe(tmp_path / name).format for name in ("a.webp", "b.webp", "c")] == ["WEBP", "PNG", "JPEG"]
    with pytest.raises(ConfigError, match="'GIF'"):
        write(picture, tmp_path / "d.gif")


def test_depth_follows_the_request(tmp_path):
    deep, flat = Picture.from_array(noise(8, 8, bits=16)), Picture.from_array(noise(8, 8))
    assert write(deep, tmp_path / "a.png", bit_depth="8") == []
    assert probe(tmp_path / "a.png").bit_depth == 8
    write(flat, tmp_path / "b.png", bit_depth="16")
    assert probe(tmp_path / "b.png").bit_depth == 16
    assert write(deep, tmp_path / "c.jpg") == ["16 bits per channel were reduced to 8, which is what JPEG holds"]
    with pytest.raises(ImageError, match="JPEG cannot hold 16 bits"):
        write(flat, tmp_path / "d.jpg", bit_depth="16")
    with pytest.raises(ConfigError, match="'12'"):
        write(flat, tmp_path / "d.png", bit_depth="12")


def test_quality_and_lossless_act(tmp_path):
    picture = Picture.from_array(noise(64, 64))
    for suffix in (".jpg", ".webp", ".avif"):
        sizes = []
        for quality in (30, 95):
            write(picture, tmp_path / f"q{suffix}", quality=quality)
            sizes.append((tmp_path / f"q{suffix}").stat().st_size)
        assert sizes[0] < 0.8 * sizes[1], (suffix, sizes)
    write(picture, tmp_path / "a.webp", lossless=True)
    assert read(tmp_path / "a.webp").digest() == picture.digest()
    for name in ("a.jpg", "a.avif"):
        with pytest.raises(ImageError, match="without loss"):
            write(picture, tmp_path / name, lossless=True)
    for bits in ("8", "16"):
        flat = Picture.from_array(np.full((64, 64, 3), 7, np.uint8))
        sizes = [len(encode_picture(flat, png_level=level, bit_depth=bits)[0]) for level in (0, 9)]
        assert sizes[1] < 0.1 * sizes[0]
    for settings in ({"quality": 0}, {"quality": 101}, {"png_level": 10}, {"metadata": "some"}):
        with pytest.raises(ConfigError):
            encode_picture(picture, format="jpeg", **settings)


def test_16_bit_png_is_as_small_as_opencv_makes_it():
    import cv2

    y, x = np.mgrid[0:200, 0:300]
    smooth = (20_000 + 60 * x + 90 * y + 400 * np.sin(x / 9)).astype(np.uint16)
    array = np.stack([smooth, smooth // 2, smooth // 3], axis=-1)
    ours = len(encode_picture(Picture.from_array(array))[0])
    assert ours < 1.1 * len(cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1])


def test_same_picture_gives_the_same_bytes():
    picture = read(io.BytesIO(saved("JPEG", dpi=(300, 300))))
    for kind in ("png", "jpeg", "webp", "tiff", "avif", "bmp", "ppm"):
        assert encode_picture(picture, format=kind)[0] == encode_picture(picture, format=kind)[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("field", ["exif", "icc"])
def test_damaged_metadata_is_a_note_and_never_an_error(field, tmp_path):
    if field == "exif":
        data = saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20))
    else:
        data = saved("JPEG", icc_profile=b"\0" * 200)
    picture = read(io.BytesIO(data))
    assert len(picture.notes) == 1 and ("EXIF" in picture.notes[0] or "profile" in picture.notes[0])
    for kind in ("png", "jpeg", "tiff", "webp", "avif"):
        write(picture, tmp_path / "a", format=kind)
        assert read(tmp_path / "a").rgb.shape == picture.rgb.shape


def test_exif_too_long_for_jpeg_is_a_note(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "d" * 70_000
    picture = read(io.BytesIO(saved("PNG", exif=exif)))
    assert write(picture, tmp_path / "a.jpg") == ["EXIF data are too long for JPEG (over 64 KB) and were left out"]
    assert write(picture, tmp_path / "a.png") == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr("linearsr.atomic.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ImageError, match="disk is full"):
        write(Picture.from_array(noise(8, 8)), tmp_path / "a.png")
    assert not list(tmp_path.glob(".linearsr-*")) and (tmp_path / "a.png").read_bytes() == b"old"


def test_heif_without_its_extra_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # importing it now fails, installed or not
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    error = refusal(path)
    assert "needs pillow-heif" in error.message and 'pip install "linearsr[heif]"' in error.hint
    with pytest.raises(ImageError) as caught:
        write(Picture.from_array(noise(8, 8)), tmp_path / "b.heic")
    assert "linearsr[heif]" in caught.value.hint


def test_image_io_is_imported_without_torch():
    code = "import sys, linearsr.image_io; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
